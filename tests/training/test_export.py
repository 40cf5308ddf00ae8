"""Export to ONNX: parity, metadata, and that the runtime takes the file."""

import json

import numpy as np
import pytest
import torch
from marlgpt_policy.layout import POGEMA_LAYOUT
from marlgpt_policy.policy import FORMAT_VERSION, OnnxPolicy, PolicyError
from marlgpt_training import export
from marlgpt_training.checkpoint import CheckpointError, save_checkpoint
from marlgpt_training.export import PARITY, Args, main, observations, parity

# What PyTorch says about its own exporter.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]
CPU = ("CPUExecutionProvider",)
FACTS = {"step": 12, "samples": 345, "score": 1.5}


@pytest.fixture(scope="module", params=["entity", "scalar"])
def exported(request, tmp_path_factory, small_model, shard):
    """(reading, model, path) of a checkpoint exported by the real command."""
    folder = tmp_path_factory.mktemp("export")
    model = small_model(request.param)
    save_checkpoint(folder / "a.safetensors", model, POGEMA_LAYOUT, FACTS)
    args = Args(folder / "a.safetensors", folder / "deep" / "policy.onnx", shard.parent, observations=400)
    assert main(args) == 0
    assert [p.name for p in args.out.parent.iterdir()] == ["policy.onnx"]
    return request.param, model, args.out


def test_metadata(exported):
    reading, model, path = exported
    found = OnnxPolicy(path, POGEMA_LAYOUT, CPU).metadata
    assert found["format_version"] == FORMAT_VERSION and found["licence"] == "Apache-2.0"
    assert found["layout_name"] == POGEMA_LAYOUT.name and found["layout_hash"] == POGEMA_LAYOUT.hash
    assert found["reading"] == reading
    preset = json.loads(found["preset"])
    assert {**preset, "value_range": tuple(preset["value_range"])} == model.config.to_dict()
    assert json.loads(found["metrics"]) == FACTS
    assert json.loads(found["training"]) == {"step": 12, "samples": 345}


@pytest.mark.parametrize("robots", [1, 2, 7, 300])
def test_any_number_of_robots(exported, robots):
    _, model, path = exported
    rng = np.random.default_rng(robots)
    values = rng.choice(np.array([-2, -0.5, 0, 0.05, 1, 2], np.float32), size=(robots, len(POGEMA_LAYOUT)))
    valid = rng.random(values.shape) < 0.8
    valid[:, -1] = True
    mask = np.zeros((robots, 20), bool)
    mask[:, :5] = True
    out = OnnxPolicy(path, POGEMA_LAYOUT, CPU, threads=1)(values, valid, mask)
    with torch.inference_mode():
        logits, q = (t.numpy() for t in model(*(torch.from_numpy(a) for a in (values, valid, mask))))
    assert out.logits.shape == out.q.shape == (robots, 20) and out.probabilities.shape == (robots, 5)
    assert np.abs(out.logits - logits)[mask].max() < PARITY and (out.logits[~mask] == -1e9).all()
    assert np.abs(out.q - q).max() < PARITY
    np.testing.assert_allclose(out.probabilities.sum(axis=1), 1, atol=1e-5)


def test_parity_on_real_observations(exported, shard):
    _, model, path = exported
    packed, masks = observations(shard.parent, 300)
    assert parity(model, OnnxPolicy(path, POGEMA_LAYOUT, CPU), packed, masks) < PARITY


def test_parity_sees_another_model(exported, small_model):
    reading, _, path = exported
    other = small_model(reading, seed=1)
    assert (
        parity(other, OnnxPolicy(path, POGEMA_LAYOUT, CPU), *observations(path.parent / "none", 50)) > PARITY
    )


def test_a_difference_is_reported_and_fails(exported, shard, tmp_path, small_model, monkeypatch, capsys):
    save_checkpoint(tmp_path / "a.safetensors", small_model(exported[0]), POGEMA_LAYOUT, FACTS)
    monkeypatch.setattr(export, "parity", lambda *_: 0.5)
    assert main(Args(tmp_path / "a.safetensors", tmp_path / "a.onnx", shard.parent, 10)) == 1
    assert "do not ship this file" in capsys.readouterr().out


def test_training_sentence_is_kept(tmp_path, small_model):
    save_checkpoint(tmp_path / "a.safetensors", small_model(), POGEMA_LAYOUT, FACTS)
    assert main(Args(tmp_path / "a.safetensors", tmp_path / "a.onnx", tmp_path / "none", 20, "By hand.")) == 0
    assert OnnxPolicy(tmp_path / "a.onnx", POGEMA_LAYOUT, CPU).metadata["training"] == "By hand."


def test_random_observations_where_there_is_no_store(tmp_path):
    packed, masks = observations(tmp_path / "none", 30)
    assert packed.shape == (30, len(POGEMA_LAYOUT)) and masks.shape == (30, 5) and masks[:, 0].all()
    np.testing.assert_array_equal(packed, observations(tmp_path, 30)[0])


def test_missing_checkpoint_and_truncated_policy(exported, tmp_path):
    with pytest.raises(CheckpointError, match="none.safetensors: not a readable checkpoint"):
        main(Args(tmp_path / "none.safetensors", tmp_path / "a.onnx"))
    assert not (tmp_path / "a.onnx").exists()
    data = exported[2].read_bytes()
    (tmp_path / "b.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(PolicyError, match="truncated or not a model"):
        OnnxPolicy(tmp_path / "b.onnx", POGEMA_LAYOUT, CPU)
