"""The ONNX policy runtime: what it answers, and which files it refuses and why."""

import hashlib

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_policy.policy.onnx_policy import OnnxPolicy, PolicyError, choose
from onnx import TensorProto, helper

CPU = ("CPUExecutionProvider",)
METADATA = {
    "format_version": "1", "layout_name": "pogema-1", "layout_hash": POGEMA_LAYOUT.hash, "preset": "tiny",
    "reading": "entity", "training": "none", "metrics": "{}", "licence": "Apache-2.0",
}  # fmt: skip
BIAS = np.linspace(2.0, -2.0, 20, dtype=np.float32)[None]


def write(path, *, width=356, masks=20, actions=20, dtype=TensorProto.FLOAT, rows="robots", bias=BIAS,
          outputs=("logits", "q"), metadata=None, out_dtype=TensorProto.FLOAT, q_bias=None):  # fmt: skip
    """A policy file: logits = sum of the values + bias where allowed, q = sum of the values."""
    constants = {
        "bias": np.resize(bias, (1, actions)).astype(np.float32),
        "q_bias": np.resize(q_bias if q_bias is not None else np.zeros(1), (1, actions)).astype(np.float32),
        "forbidden": np.full((1, 1), -1e9, np.float32),
        "last": np.array([1], np.int64),
        "some": np.arange(actions, dtype=np.int64),
        "zero": np.zeros((1, 1), np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["values"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Where", ["valid", "floats", "zero"], ["known"]),
        helper.make_node("ReduceSum", ["known", "last"], ["sum"], keepdims=1),
        helper.make_node("Add", ["sum", "bias"], ["raw"]),
        helper.make_node("Gather", ["action_mask", "some"], ["allowed"], axis=1),
        helper.make_node("Where", ["allowed", "raw", "forbidden"], ["masked"]),
        helper.make_node("Cast", ["masked"], ["logits"], to=out_dtype),
        helper.make_node("Add", ["sum", "q_bias"], ["q"]),
    ]
    inputs = [
        helper.make_tensor_value_info("values", dtype, [rows, width]),
        helper.make_tensor_value_info("valid", TensorProto.BOOL, [rows, width]),
        helper.make_tensor_value_info("action_mask", TensorProto.BOOL, [rows, masks]),
    ]
    kinds = {"logits": out_dtype, "q": TensorProto.FLOAT}
    shown = [helper.make_tensor_value_info(name, kinds[name], [rows, actions]) for name in outputs]
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "policy", inputs, shown, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, METADATA if metadata is None else metadata)
    path.write_bytes(model.SerializeToString())
    return path


def load(path):
    return OnnxPolicy(path, POGEMA_LAYOUT, CPU, 1)


def batch(n, seed=0):
    random = np.random.default_rng(seed)
    values = random.normal(size=(n, 356)).astype(np.float32)
    mask = np.zeros((n, 20), dtype=bool)
    mask[:, :5] = random.random((n, 5)) < 0.7
    mask[:, 0] = True
    return values, random.random((n, 356)) < 0.8, mask


def test_a_good_file_answers_for_any_number_of_robots(tmp_path):
    policy = load(write(tmp_path / "good.onnx"))
    assert policy.provider == "CPUExecutionProvider"
    assert policy.name == "good.onnx"
    assert policy.layout is POGEMA_LAYOUT
    assert policy.metadata["preset"] == "tiny"
    for n in (1, 2, 17):
        values, valid, mask = batch(n)
        output = policy(values, valid, mask)
        total = (values * valid).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(output.logits, np.where(mask, total + BIAS, -1e9), rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(output.q, np.repeat(total, 20, axis=1), rtol=1e-5, atol=1e-4)
        expected = np.where(mask, np.exp(BIAS), 0)[:, :5]
        expected /= expected.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(output.probabilities, expected, atol=1e-5)
        assert {output.logits.dtype, output.q.dtype, output.probabilities.dtype} == {np.dtype(np.float32)}


def test_no_robots_need_no_inference(tmp_path):
    output = load(write(tmp_path / "good.onnx"))(*batch(0))
    assert (output.logits.shape, output.q.shape, output.probabilities.shape) == ((0, 20), (0, 20), (0, 5))


def test_providers_this_machine_lacks_are_left_out(tmp_path):
    path = write(tmp_path / "good.onnx")
    policy = OnnxPolicy(path, POGEMA_LAYOUT, ("NoSuchExecutionProvider", *CPU))
    assert policy.provider == "CPUExecutionProvider"


@pytest.mark.parametrize("providers", [(), ("NoSuchExecutionProvider",)])
def test_no_usable_provider_is_refused(tmp_path, providers):
    path = write(tmp_path / "good.onnx")
    with pytest.raises(PolicyError, match="provider") as caught:
        OnnxPolicy(path, POGEMA_LAYOUT, providers)
    assert "good.onnx" in str(caught.value)
    assert "CPUExecutionProvider" in str(caught.value)


def without(key):
    return {name: value for name, value in METADATA.items() if name != key}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"metadata": {**METADATA, "layout_hash": "0123abcd"}}, "token layout pogema-1 .0123abcd."),
        ({"metadata": without("layout_hash")}, "token layout"),
        ({"metadata": {**METADATA, "format_version": "2"}}, "format version 2, this runtime reads 1"),
        ({"metadata": {}}, "format version missing"),
        ({"width": 355}, r"'values' is tensor\(float\).*355.*expected .*356"),
        ({"masks": 21}, "'action_mask' is .*21.*expected .*20"),
        ({"actions": 5}, "output 'logits' is .*5.*expected .*20"),
        ({"dtype": TensorProto.DOUBLE}, r"'values' is tensor\(double\).*expected tensor\(float\)"),
        ({"out_dtype": TensorProto.DOUBLE}, r"output 'logits' .*tensor\(double\)"),
        ({"rows": 3}, "'values' takes exactly 3 robots"),
        ({"outputs": ("logits",)}, "output 'q' is missing"),
        ({"outputs": ("q",)}, "output 'logits' is missing"),
        ({"bias": np.array([np.nan, 1.0], np.float32)}, "non-finite logits"),
        ({"bias": np.array([np.inf, 1.0], np.float32)}, "non-finite logits"),
        ({"q_bias": np.array([np.nan], np.float32)}, "non-finite q"),
    ],
)
def test_unfit_models_are_refused_with_file_and_reason(tmp_path, changes, reason):
    path = write(tmp_path / "unfit.onnx", **changes)
    with pytest.raises(PolicyError, match=reason) as caught:
        load(path)
    assert "unfit.onnx" in str(caught.value)


def test_other_inputs_are_refused(tmp_path):
    path = write(tmp_path / "other.onnx")
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("extra", TensorProto.FLOAT, [1]))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(PolicyError, match=r"other.onnx: inputs are .*extra.*expected"):
        load(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(PolicyError, match="no such file") as caught:
            load(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(tmp_path, share):
    data = write(tmp_path / "good.onnx").read_bytes()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(data[: int(share * len(data))])
    with pytest.raises(PolicyError, match="cut.onnx"):
        load(cut)


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes_are_refused(tmp_path, seed):
    path = tmp_path / "noise.onnx"
    path.write_bytes(np.random.default_rng(seed).bytes(4000))
    with pytest.raises(PolicyError, match="noise.onnx"):
        load(path)


def test_a_file_is_known_by_its_hash_and_refused_by_another(tmp_path):
    path = write(tmp_path / "policy.onnx")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load(path).sha256 == digest
    assert OnnxPolicy(path, POGEMA_LAYOUT, CPU, 1, digest.upper()).sha256 == digest
    with pytest.raises(PolicyError, match=f"policy.onnx: its SHA-256 is {digest}, not {'0' * 64}"):
        OnnxPolicy(path, POGEMA_LAYOUT, CPU, 1, "0" * 64)
    for wrong in ("abc", "g" * 64, digest + "0"):
        with pytest.raises(PolicyError, match="is no SHA-256; give 64 hexadecimal digits"):
            OnnxPolicy(path, POGEMA_LAYOUT, CPU, 1, wrong)


def test_weights_outside_the_file_are_refused(tmp_path, monkeypatch):
    """The hash would say nothing about them."""
    path = write(tmp_path / "whole.onnx")
    onnx.save_model(
        onnx.load(path), tmp_path / "split.onnx", save_as_external_data=True, location="weights.bin",
        size_threshold=60,
    )  # fmt: skip
    assert (tmp_path / "weights.bin").is_file()
    monkeypatch.chdir(tmp_path)  # where ONNX Runtime looks by default for the weights of a model in memory
    with pytest.raises(PolicyError, match=r"split\.onnx: ONNX Runtime cannot load it"):
        load(tmp_path / "split.onnx")


def test_a_file_too_large_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = write(tmp_path / "policy.onnx")
    monkeypatch.setattr("marlgpt_policy.policy.onnx_policy.LARGEST_FILE", 100)
    with pytest.raises(PolicyError, match=r"bytes; the limit is 100"):
        load(path)


def test_logits_that_become_nan_later_are_refused(tmp_path):
    policy = load(write(tmp_path / "later.onnx"))
    values, valid, mask = batch(3)
    values[1, 7], valid[1, 7], mask[:, :5] = np.nan, True, True
    with pytest.raises(PolicyError, match="later.onnx: non-finite logits"):
        policy(values, valid, mask)


def test_greedy_choice_is_the_most_probable_one():
    probabilities = np.array([[0.1, 0.2, 0.4, 0.2, 0.1], [0.5, 0.5, 0, 0, 0], [0, 0, 0, 0, 1]], np.float32)
    for temperature in (0.0, -1.0):
        chosen = choose(probabilities, temperature, np.random.default_rng(0))
        assert chosen.dtype == np.int8
        assert chosen.tolist() == [2, 0, 4]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sampled_choices_follow_the_tempered_probabilities(temperature):
    p = np.array([0.5, 0.25, 0.15, 0.1, 0.0])
    n = 40_000
    chosen = choose(np.tile(p, (n, 1)).astype(np.float32), temperature, np.random.default_rng(1))
    expected = p ** (1 / temperature)
    expected /= expected.sum()
    share = np.bincount(chosen, minlength=5) / n
    assert share[4] == 0
    # Five standard deviations of a share.
    assert (np.abs(share - expected) <= 5 * np.sqrt(expected * (1 - expected) / n)).all()


@settings(max_examples=100, deadline=None)
@given(
    weights=arrays(np.float64, (6, 5), elements=st.sampled_from([0.0, 0.001, 0.5, 1.0])),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 3.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_choice_never_has_probability_zero_and_repeats_with_its_seed(weights, temperature, seed):
    weights[:, 3] += 0.1
    probabilities = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    chosen = choose(probabilities, temperature, np.random.default_rng(seed))
    assert (probabilities[np.arange(6), chosen] > 0).all()
    again = choose(probabilities, temperature, np.random.default_rng(seed))
    np.testing.assert_array_equal(chosen, again)
