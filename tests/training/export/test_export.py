"""Export to ONNX: parity, metadata, lower precision, and that the runtime takes the file."""

import errno
import json
import os

import numpy as np
import onnx
import pytest
import torch
from marlgpt_policy.encoders.registry import layout_named
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_policy.policy.onnx_policy import FORMAT_VERSION, OnnxPolicy, PolicyError
from marlgpt_training import cli
from marlgpt_training.dataloader.samples import expand
from marlgpt_training.export import export
from marlgpt_training.export.export import PARITY, Args, main, observations, parity, to_onnx, to_proto
from marlgpt_training.export.quantisation import compare, convert
from marlgpt_training.model.checkpoint import CheckpointError, save_checkpoint
from marlgpt_training.store.frame_episode import FrameEpisode
from marlgpt_training.store.shards import write_shard

# What PyTorch says about its own exporter.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]
CPU = ("CPUExecutionProvider",)
FACTS = {"step": 12, "samples": 345, "score": 1.5}

OLD = "old layout_hash format_version"
"""Passes for a file of an earlier export."""


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
    assert found["reading"] == reading and found["precision"] == "fp32" and "quantisation" not in found
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
    (tmp_path / "a.onnx").write_text(OLD)
    assert main(Args(tmp_path / "a.safetensors", tmp_path / "a.onnx", shard.parent, 10)) == 1
    assert "a.onnx is not written" in (said := capsys.readouterr().out) and "do not ship this file" in said
    assert (tmp_path / "a.onnx").read_text() == OLD


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


@pytest.fixture(scope="module", params=["fp16", "int8"])
def lower(request, exported, tmp_path_factory):
    """(precision, fp32 path, path in lower precision)."""
    path = tmp_path_factory.mktemp("lower") / f"{request.param}.onnx"
    path.write_bytes(convert(onnx.load(exported[2]), request.param).SerializeToString())
    return request.param, exported[2], path


def load(path):
    return OnnxPolicy(path, POGEMA_LAYOUT, CPU, threads=1)


@pytest.mark.parametrize("robots", [1, 16, 64, 256])
def test_lower_precision_runs_in_the_runtime_for_any_fleet(lower, shard, robots):
    precision, exact, path = lower
    packed, masks = observations(shard.parent, robots)
    values, valid = expand(packed)
    mask = np.zeros((robots, 20), bool)
    mask[:, :5] = masks
    out, expected = load(path)(values, valid, mask), load(exact)(values, valid, mask)
    assert {out.logits.dtype, out.q.dtype, out.probabilities.dtype} == {np.dtype(np.float32)}
    assert (out.logits[~mask] == -1e9).all() and np.isfinite(out.logits).all() and np.isfinite(out.q).all()
    difference = np.abs(out.logits - expected.logits)[mask]
    assert difference.max() < (0.1 if precision == "fp16" else 1.0) and difference.max() > 0
    assert (out.probabilities[:, :5][~masks] == 0).all()


def test_no_robots_in_lower_precision(lower):
    empty = np.zeros((0, len(POGEMA_LAYOUT)), np.float32)
    assert load(lower[2])(empty, empty.astype(bool), np.zeros((0, 20), bool)).probabilities.shape == (0, 5)


def test_one_valid_token_does_not_overflow(lower):
    """All keys but the environment token at the attention bias."""
    values, valid = np.zeros((2, len(POGEMA_LAYOUT)), np.float32), np.zeros((2, len(POGEMA_LAYOUT)), bool)
    valid[:, -1] = True
    mask = np.zeros((2, 20), bool)
    mask[:, 0] = True
    one, two = load(lower[1])(values, valid, mask), load(lower[2])(values, valid, mask)
    assert np.isfinite(two.logits).all() and np.isfinite(two.q).all()
    assert np.abs(one.logits - two.logits)[mask].max() < 1.0


def test_lower_precision_keeps_the_metadata_and_shrinks_the_weights(lower):
    precision, exact, path = lower
    kept = load(exact).metadata
    assert load(path).metadata == {**kept, "precision": precision}
    kinds = {
        tensor.data_type for tensor in onnx.load(path).graph.initializer if np.prod(tensor.dims) >= 32 * 96
    }
    wanted = onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.UINT8
    assert wanted in kinds
    domains = {entry.domain for entry in onnx.load(path).opset_import}
    assert domains <= {"", "ai.onnx", "com.microsoft"}


def test_compare_against_itself_and_against_known_changes(exported, shard):
    policy = load(exported[2])
    packed, masks = observations(shard.parent, 700)
    same = compare(policy, policy, packed, masks)
    assert same == {"logit_max": 0, "logit_mean": 0, "q_max": 0, "agreement": 1, "kl": 0, "observations": 700}

    def shifted(values, valid, mask):  # the first action becomes better by 2 wherever it is allowed
        out = policy(values, valid, mask)
        logits = out.logits.copy()
        logits[:, 0] += np.where(mask[:, 0], 2.0, 0.0).astype(np.float32)
        return type(out)(logits, out.q + np.float32(0.25), out.probabilities)

    found = compare(policy, shifted, packed, masks)
    assert found["logit_max"] == pytest.approx(2, abs=1e-4) and found["q_max"] == pytest.approx(
        0.25, abs=1e-4
    )
    assert found["logit_mean"] == pytest.approx(2 * masks[:, 0].sum() / masks.sum(), rel=1e-4)
    values, valid = expand(packed)
    mask = np.zeros((700, 20), bool)
    mask[:, :5] = masks
    p, q = (f(values, valid, mask).logits[:, :5].astype(float) for f in (policy, shifted))
    assert found["agreement"] == pytest.approx((p.argmax(1) == q.argmax(1)).mean()) and found["agreement"] < 1
    p, q = (np.exp(x - x.max(1, keepdims=True)) for x in (p, q))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    kl = np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / np.where(q > 0, q, 1)), 0).sum(1).mean()
    assert found["kl"] == pytest.approx(kl, rel=1e-6) and kl > 0


@pytest.fixture
def saved(tmp_path, small_model):
    """A saved checkpoint."""
    save_checkpoint(tmp_path / "a.safetensors", small_model(), POGEMA_LAYOUT, FACTS)
    return tmp_path / "a.safetensors"


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_export_measures_the_loss_and_writes_it_down(saved, shard, precision, capsys, monkeypatch):
    monkeypatch.setattr(export, "rollouts", lambda policy, episodes: {"random32": 1.5 + 0.1 * episodes})
    out = saved.parent / "p.onnx"
    args = Args(saved, out, shard.parent, 300, "", precision, max_agreement_loss=1.0, rollout_episodes=2)
    assert main(args) == 0
    found = load(out).metadata
    assert found["precision"] == precision and json.loads(found["metrics"]) == FACTS
    loss = json.loads(found["quantisation"])
    assert 0 < loss["logit_mean"] < loss["logit_max"] and 0.5 < loss["agreement"] <= 1 and loss["kl"] > 0
    assert loss["observations"] == 300 and loss["rollout"]["fp32"] == {"random32": 1.7}
    assert loss["rollout"][precision] == {"random32": 1.7} and loss["rollout"]["episodes"] == 2
    said = capsys.readouterr().out
    assert f"{precision} against fp32: best action the same in" in said and "random32: 1.700" in said


def test_export_really_drives_both_policies(saved, shard, monkeypatch):
    monkeypatch.setattr(export.rollouts, "__defaults__", (3,))
    args = Args(saved, saved.parent / "p.onnx", shard.parent, 50, "", "int8", 1.0, rollout_episodes=1)
    assert main(args) == 0
    loss = json.loads(load(args.out).metadata["quantisation"])
    assert set(loss["rollout"]["fp32"]) == set(loss["rollout"]["int8"]) == {"random32", "maze32"}


def test_too_much_loss_is_refused_and_the_old_file_stays(saved, shard, monkeypatch, capsys):
    out = saved.parent / "p.onnx"
    out.write_text(OLD)
    command = ["export", "--checkpoint", str(saved), "--out", str(out), "--store", str(shard.parent)]
    command += ["--observations", "40", "--rollout-episodes", "0", "--precision", "int8"]
    loss = {"agreement": 0.97, "logit_mean": 0.1, "logit_max": 0.2, "kl": 0.01, "q_max": 0.1}
    monkeypatch.setattr(export, "compare", lambda *_: dict(loss))
    assert cli.main(command) == 1
    said = capsys.readouterr().out
    assert "p.onnx is not written: the best action of 3.00% of the observations changed" in said
    assert "--max-agreement-loss allows 1.00%" in said and out.read_text() == OLD
    assert cli.main([*command, "--max-agreement-loss", "0.04"]) == 0
    assert "rollout" not in json.loads(load(out).metadata["quantisation"])
    assert sorted(p.name for p in saved.parent.iterdir()) == ["a.safetensors", "p.onnx"]


def test_unknown_precision(saved, capsys):
    command = [
        "export",
        "--checkpoint",
        str(saved),
        "--out",
        str(saved.parent / "p.onnx"),
        "--precision",
        "int4",
    ]
    assert cli.main(command) == 1
    assert "--precision int4: choose one of fp32, fp16, int8" in capsys.readouterr().err
    with pytest.raises(ValueError, match="unknown precision 'int4'"):
        convert(onnx.ModelProto(), "int4")


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_policy(saved, shard, monkeypatch, where, capsys):
    out = saved.parent / "p.onnx"
    out.write_text(OLD)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, where, full)
    command = ["export", "--checkpoint", str(saved), "--out", str(out), "--store", str(shard.parent)]
    assert cli.main([*command, "--observations", "20"]) == 1
    monkeypatch.undo()
    said = capsys.readouterr().err
    assert "No space left on device; the old file is as it was" in said and "p.onnx" in said
    assert out.read_text() == OLD
    assert sorted(p.name for p in saved.parent.iterdir()) == ["a.safetensors", "p.onnx"]


def test_a_really_full_device_leaves_the_old_policy(tmp_path, small_model):
    """/dev/full answers every write with ENOSPC."""
    out = tmp_path / "p.onnx"
    out.write_text(OLD)
    (tmp_path / f"p.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device; the old file is as it was"):
        to_onnx(small_model(), POGEMA_LAYOUT, out, FACTS, "")
    assert out.read_text() == OLD and [p.name for p in tmp_path.iterdir()] == ["p.onnx"]


def test_the_paper_reading_converts_too(small_model, tmp_path):
    exact = to_proto(small_model("scalar"), POGEMA_LAYOUT, FACTS, "")
    for precision in ("fp32", "fp16", "int8"):
        (tmp_path / f"{precision}.onnx").write_bytes(convert(exact, precision).SerializeToString())
    packed, masks = observations(tmp_path / "none", 60)
    loss = compare(load(tmp_path / "fp32.onnx"), load(tmp_path / "fp16.onnx"), packed, masks)
    assert loss["logit_max"] < 0.1


JOINT = (POGEMA_LAYOUT, layout_named("grf-1"))


@pytest.fixture(scope="module")
def joint(tmp_path_factory, small_model):
    """(folder, model) of a checkpoint that reads POGEMA and football."""
    folder = tmp_path_factory.mktemp("joint")
    model = small_model(layout=list(JOINT))
    save_checkpoint(folder / "joint.safetensors", model, JOINT, FACTS)
    return folder, model


@pytest.mark.parametrize("layout", JOINT, ids=lambda layout: layout.name)
@pytest.mark.parametrize("precision", ["fp32", "int8", "fp16"])
def test_a_joint_model_makes_a_file_for_each_layout(joint, layout, precision, tmp_path, monkeypatch, capsys):
    """POGEMA alone is driven; the other games' success rates are measured by evaluations."""
    driven = []
    monkeypatch.setattr(export, "rollouts", lambda *_: driven.append(1) or {"random32": 1.0})
    folder, model = joint
    args = Args(folder / "joint.safetensors", tmp_path / "p.onnx", tmp_path / "none", 60, "", precision, 1.0)
    args.layout = layout.name
    assert main(args) == 0
    policy = OnnxPolicy(args.out, layout, CPU)
    assert policy.metadata["layout_name"] == layout.name and policy.metadata["layout_hash"] == layout.hash
    assert policy.metadata["precision"] == precision
    packed, masks = observations(tmp_path / "none", 60, layout)
    worst = parity(model, policy, packed, masks)
    assert worst < PARITY if precision == "fp32" else worst < 1
    assert bool(driven) == (precision != "fp32" and layout is POGEMA_LAYOUT)
    assert f"holds no observations of {layout.name}: random ones" in capsys.readouterr().out
    wrong = JOINT[layout is POGEMA_LAYOUT]
    with pytest.raises(PolicyError, match=f"made for token layout {layout.name}"):
        OnnxPolicy(args.out, wrong, CPU)


def test_other_games_are_compared_on_stored_observations(joint, shard, tmp_path, capsys):
    """In a store of several games, those of the wanted one: masks of 20 columns, values that are not multiples."""
    grf, (folder, model) = JOINT[1], joint
    rng = np.random.default_rng(0)
    features = len(grf) // 6
    masks = rng.random((5, 2, 20)) < 0.5
    masks[..., 0], masks[..., 19] = True, False
    episode = FrameEpisode(
        "grf", "pass_and_shoot", grf.name, rng.normal(size=(5, 2, features)).astype(np.float16),
        np.ones((5, 2, features), bool), masks, np.ones((5, 2), bool), np.zeros((4, 2), np.int8),
        np.zeros((4, 2), np.int8), np.zeros((4, 2), np.float16), True, "expert", 1,
    )  # fmt: skip
    write_shard(tmp_path / "store" / "grf-00000.parquet", [episode])
    (tmp_path / "store" / shard.name).write_bytes(shard.read_bytes())
    (tmp_path / "store" / "torn.parquet").write_bytes(b"PAR1")
    packed, found = observations(tmp_path / "store", 30, grf)
    assert packed.shape == (30, len(grf)) and packed.dtype == np.float16 and found.shape == (30, 20)
    assert {tuple(row) for row in found} <= {tuple(row) for row in masks.reshape(-1, 20)}
    assert observations(tmp_path / "store", 30)[0].shape == (30, len(POGEMA_LAYOUT))
    args = Args(folder / "joint.safetensors", tmp_path / "p.onnx", tmp_path / "store", 30, layout=grf.name)
    assert main(args) == 0
    assert "holds no observations" not in capsys.readouterr().out
    assert parity(model, OnnxPolicy(args.out, grf, CPU), packed, found) < PARITY


def test_a_layout_that_is_unknown_or_not_in_the_checkpoint(joint, saved, capsys):
    command = ["export", "--checkpoint", str(joint[0] / "joint.safetensors"), "--layout", "chess-1"]
    assert cli.main(command) == 1
    assert "unknown token layout 'chess-1'" in capsys.readouterr().err
    assert cli.main(["export", "--checkpoint", str(saved), "--layout", "grf-1"]) == 1
    assert "trained on layout pogema-1" in capsys.readouterr().err
