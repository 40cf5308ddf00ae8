"""The published checkpoint's loader, on files in the published format made from our own model.

The names are those that the loader assumes; the file itself was not available (see the module's docstring).
"""

import json
import os
import pickle

import pytest
import torch
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_training import cli
from marlgpt_training.model.checkpoint import CheckpointError, load_checkpoint
from marlgpt_training.model.model import MarlGpt, preset
from marlgpt_training.published.checkpoint import LAYOUT_NOTE, NAMES, PARAMETERS, load_published
from safetensors import safe_open

ARGUMENTS = {
    "block_size": 700, "vocab_size": 20, "n_layer": 8, "n_head": 8, "n_embd": 256, "history_len": 10, "n_team": 3,
    "n_agents": 20, "n_attr": 129, "action_size": 20, "dropout": 0.0, "bias": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    """Our model of the published size with random weights, far from zero so that errors show."""
    torch.manual_seed(0)
    model = MarlGpt(preset("paper", "scalar"), POGEMA_LAYOUT).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return model


@pytest.fixture
def state(model):
    """Its weights under the published names."""
    return {"_orig_mod." + NAMES[ours][0]: tensor for ours, tensor in model.state_dict().items()}


def write(path, state, arguments=None, **more):
    torch.save({"model": state, "model_args": arguments or ARGUMENTS, "iter_num": 7, **more}, path)
    return path


def misfit(path):
    with pytest.raises(CheckpointError) as caught:
        load_published(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def inputs(n=2):
    generator = torch.Generator().manual_seed(1)
    length = len(POGEMA_LAYOUT)
    valid = torch.rand(n, length, generator=generator) < 0.3
    valid[:, -1] = True
    return torch.rand(n, length, generator=generator) * 2 - 1, valid, torch.ones(n, 20, dtype=torch.bool)


def test_round_trip_gives_equal_outputs(tmp_path, model, state):
    path = write(
        tmp_path / "marl-gpt-main.pt", state, best_val_loss=torch.tensor(1.0), optimizer={"state": {}}
    )
    arguments, weights = load_published(path)
    assert arguments == ARGUMENTS and sum(w.numel() for w in weights.values()) == PARAMETERS
    loaded = MarlGpt(preset("paper", "scalar"), POGEMA_LAYOUT).eval()
    loaded.load_state_dict(weights)
    with torch.inference_mode():
        for one, two in zip(model(*inputs()), loaded(*inputs()), strict=True):
            assert torch.equal(one, two)


def test_the_command_writes_a_checkpoint_and_says_what_it_is_good_for(tmp_path, model, state, capsys):
    path, out = write(tmp_path / "marl-gpt-main.pt", state), tmp_path / "deep" / "p.safetensors"
    assert cli.main(["import-checkpoint", "--published", str(path), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "7,232,256 parameters" in said and LAYOUT_NOTE in said and "by its shape" not in said
    loaded, facts = load_checkpoint(out, POGEMA_LAYOUT)
    assert facts["layout_note"] == LAYOUT_NOTE and facts["model_arguments"] == ARGUMENTS
    assert (
        len(facts["sha256"]) == 64 and facts["source"] == "marl-gpt-main.pt" and facts["taken_by_shape"] == {}
    )
    assert loaded.config.reading == "scalar" and loaded.config.value_range == (-5.0, 5.0)
    with torch.inference_mode():
        assert torch.equal(model(*inputs())[0], loaded.eval()(*inputs())[0])
    with safe_open(str(out), framework="pt") as file:
        assert json.loads(file.metadata()["facts"]) == facts


def test_the_prefix_may_be_missing(tmp_path, state):
    path = write(
        tmp_path / "a.pt", {name.removeprefix("_orig_mod."): tensor for name, tensor in state.items()}
    )
    load_published(path)


def test_half_precision_weights_become_float32(tmp_path, state):
    _, weights = load_published(write(tmp_path / "a.pt", {name: t.half() for name, t in state.items()}))
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_unknown_names_of_the_embedding_are_taken_by_shape(tmp_path, model, state, capsys):
    tables = [ours for ours in NAMES if ours.startswith("embedding.")]
    for k, ours in enumerate(tables):
        state[f"_orig_mod.some.table_{k}"] = state.pop("_orig_mod." + NAMES[ours][0])
    path, out = write(tmp_path / "a.pt", state), tmp_path / "p.safetensors"
    assert cli.main(["import-checkpoint", "--published", str(path), "--out", str(out)]) == 0
    assert "embedding.team.weight is some.table_3, by its shape" in capsys.readouterr().out
    loaded, facts = load_checkpoint(out, POGEMA_LAYOUT)
    assert facts["taken_by_shape"] == {ours: f"some.table_{k}" for k, ours in enumerate(tables)}
    assert all(torch.equal(loaded.state_dict()[ours], model.state_dict()[ours]) for ours in tables)


def test_missing_unexpected_and_misshapen_are_all_reported_at_once(tmp_path, state, capsys):
    del state["_orig_mod.transformer.h.3.attn.c_attn.weight"]
    state["_orig_mod.transformer.h.9.ln_1.weight"] = torch.zeros(256)
    state["_orig_mod.lm_head_actor.weight"] = torch.zeros(19, 256)
    path, out = write(tmp_path / "a.pt", state), tmp_path / "p.safetensors"
    said = misfit(path)
    assert "missing transformer.h.3.attn.c_attn.weight [768, 256] (our trunk.3.qkv.weight)" in said
    assert "unexpected transformer.h.9.ln_1.weight [256]" in said
    assert "wrong shape of lm_head_actor.weight: expected [20, 256], found [19, 256]" in said
    assert f"wrong parameter count: expected {PARAMETERS:,}, found {PARAMETERS - 768 * 256:,}" in said
    assert cli.main(["import-checkpoint", "--published", str(path), "--out", str(out)]) == 1
    assert "unexpected transformer.h.9" in capsys.readouterr().err and not out.exists()


def test_a_linear_layer_stored_the_other_way_round_is_seen(tmp_path, state):
    name = "_orig_mod.transformer.act_layers.mlp.c_fc.weight"
    state[name] = state[name].T.contiguous()
    said = misfit(write(tmp_path / "a.pt", state))
    assert (
        "wrong shape of transformer.act_layers.mlp.c_fc.weight: expected [1024, 256], found [256, 1024]"
        in said
    )
    assert "parameter count" not in said


def test_a_buffer_can_be_left_out(tmp_path, state):
    state["_orig_mod.bins"] = torch.linspace(-5, 5, 20)
    path = write(tmp_path / "a.pt", state)
    assert "unexpected bins [20]" in misfit(path)
    load_published(path, ("bins",))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_embd": 128}, "wrong model argument n_embd: expected 256, found 128"),
        ({"n_layer": 7}, "wrong model argument n_layer: expected 8, found 7"),
        ({"n_head": None}, "wrong model argument n_head: expected 8, found None"),
        ({"n_attr": 64}, "wrong model argument n_attr: expected 129, found 64"),
        ({"action_size": 5}, "wrong model argument action_size: expected 20, found 5"),
        ({"history_len": 6}, "wrong model argument history_len: expected 10, found 6"),
        ({"bias": True}, "wrong model argument bias: expected False, found True"),
        ({"n_team": 2, "n_agents": 21}, "n_team, n_agents: expected (3, 20), found (2, 21)"),
    ],
)
def test_wrong_model_arguments(tmp_path, state, change, said):
    assert said in misfit(write(tmp_path / "a.pt", state, {**ARGUMENTS, **change}))


def test_missing_model_arguments(tmp_path, state):
    few = {"n_layer": 8, "n_embd": 256}
    assert "missing model argument n_head: expected 8" in misfit(write(tmp_path / "a.pt", state, few))


def test_values_that_are_not_finite_numbers(tmp_path, state):
    state["_orig_mod.lm_head_actor.weight"] = torch.full((20, 256), float("nan"))
    state["_orig_mod.transformer.ln_actor_f.weight"] = torch.ones(256, dtype=torch.int64)
    said = misfit(write(tmp_path / "a.pt", state))
    assert "wrong values in lm_head_actor.weight" in said
    assert "wrong values in transformer.ln_actor_f.weight: torch.int64" in said


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_the_file_is_refused_and_not_run(tmp_path, state):
    path = write(tmp_path / "a.pt", state, config=Bomb(tmp_path / "bang"))
    assert "needs pickled code, which is not run" in misfit(path)
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Bomb(tmp_path / "bang")))
    assert "not run" in misfit(tmp_path / "b.pt")
    assert not (tmp_path / "bang").exists()


def test_files_of_another_kind(tmp_path, state):
    assert "no such file" in misfit(tmp_path / "none.pt")
    for name, data in (("empty.pt", b""), ("noise.pt", bytes(range(256)) * 9)):
        (tmp_path / name).write_bytes(data)
        assert "not a " in misfit(tmp_path / name)
    whole = write(tmp_path / "whole.pt", state).read_bytes()
    (tmp_path / "torn.pt").write_bytes(whole[: len(whole) // 2])
    assert "not a " in misfit(tmp_path / "torn.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    assert "holds a list" in misfit(tmp_path / "list.pt")
    torch.save({"model": {}, "epoch": 1}, tmp_path / "half.pt")
    assert "no 'model_args' dict in it, only model, epoch" in misfit(tmp_path / "half.pt")
    assert "'x' in its 'model' is not a tensor" in misfit(write(tmp_path / "c.pt", {"x": 3}))
    assert "both with and without" in misfit(
        write(tmp_path / "d.pt", {"_orig_mod.x": torch.zeros(1), "x": torch.ones(1)})
    )
