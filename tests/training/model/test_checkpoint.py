"""Checkpoints: what bad input is told, and that a failed save leaves the old file."""

import dataclasses
import errno
import json
import os
import subprocess
import sys

import pytest
import torch
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT, LayoutError, TokenLayout
from marlgpt_training.model import checkpoint
from marlgpt_training.model.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from safetensors import safe_open
from safetensors.torch import save_file


@pytest.fixture
def saved(tmp_path, small_model):
    """(path, weights, metadata) of a good checkpoint."""
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, small_model(), POGEMA_LAYOUT, {"step": 1})
    with safe_open(str(path), framework="pt") as file:
        return path, {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())


def refused(path, *parts, error=CheckpointError):
    """Loading ``path`` fails with one message that names the file and holds ``parts``."""
    with pytest.raises(error) as caught:
        load_checkpoint(path, POGEMA_LAYOUT)
    for part in (str(path), *parts):
        assert part in str(caught.value)


def test_another_layout_is_refused_with_both_names_and_the_fix(tmp_path, small_model):
    fields = {f.name: getattr(POGEMA_LAYOUT, f.name) for f in dataclasses.fields(TokenLayout)}
    save_checkpoint(tmp_path / "b.safetensors", small_model(), TokenLayout(**{**fields, "name": "old-1"}), {})
    refused(
        tmp_path / "b.safetensors", "old-1", POGEMA_LAYOUT.hash, "train on this layout", error=LayoutError
    )


@pytest.mark.parametrize("keep", [0, 7, 100, 5000, -1])
def test_a_torn_file_is_refused(saved, keep):
    saved[0].write_bytes(saved[0].read_bytes()[:keep])
    refused(saved[0], "not a readable checkpoint", "marlgpt train")


def test_no_file_a_folder_and_another_format_are_refused(tmp_path):
    refused(tmp_path / "none.safetensors", "no such file", "marlgpt train")
    refused(tmp_path, "not a readable checkpoint")
    torch.save({"model": {}}, tmp_path / "c.pt")
    refused(tmp_path / "c.pt", "not a readable checkpoint")


@pytest.mark.parametrize("key", ["config", "layout", "layout_hash", "facts"])
def test_foreign_safetensors_without_one_of_our_keys(saved, key):
    path, weights, metadata = saved
    save_file(weights, path, {name: value for name, value in metadata.items() if name != key})
    refused(path, "not a MARL-GPT checkpoint", f"'{key}'", "marlgpt import-checkpoint")


@pytest.mark.parametrize("key", ["config", "facts"])
@pytest.mark.parametrize("text", ["", "{", '{"width": 32', "\x00", "[1]", "null", "3"])
def test_corrupted_metadata(saved, key, text):
    path, weights, metadata = saved
    save_file(weights, path, {**metadata, key: text})
    refused(path, f"'{key}' in its metadata", "marlgpt train")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"depth": 3, "magic": 1}, "unknown in its configuration: depth, magic"),
        ({"width": "32"}, "'width' in its configuration is '32', not a whole number"),
        ({"width": 0}, "'width' in its configuration is 0"),
        ({"shared": 1.5}, "'shared' in its configuration is 1.5"),
        ({"heads": True}, "'heads' in its configuration is True"),
        ({"bins": None}, "'bins' in its configuration is None"),
        ({"bins": -20}, "'bins' in its configuration is -20"),
        ({"reading": 7}, "'reading' in its configuration is 7, not a text"),
        ({"value_range": 1.0}, "'value_range' in its configuration is 1.0, not two increasing numbers"),
        ({"value_range": [1, 0]}, "'value_range' in its configuration is [1, 0]"),
        ({"value_range": ["0", "1"]}, "'value_range' in its configuration"),
        ({"reading": "words"}, "its configuration makes no model (unknown reading 'words'"),
        ({"heads": 3}, "its configuration makes no model (width 32 is not a multiple of 3 heads"),
        ({"width": 2**40}, "its configuration makes no model"),
        ({"width": 64}, "weights do not fit its configuration"),
        ({"shared": 2}, "weights do not fit its configuration"),
    ],
)
def test_wrong_configurations(saved, change, said):
    path, weights, metadata = saved
    config = {**json.loads(metadata["config"]), **change}
    save_file(weights, path, {**metadata, "config": json.dumps(config)})
    refused(path, said)


def test_a_configuration_of_before_a_new_field_takes_its_default(saved):
    path, weights, metadata = saved
    config = json.loads(metadata["config"])
    del config["bins"], config["value_range"]
    save_file(weights, path, {**metadata, "config": json.dumps(config)})
    assert load_checkpoint(path, POGEMA_LAYOUT)[0].config.value_range == (0.0, 1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_diverged_weights_are_refused(saved, value):
    path, weights, metadata = saved
    weights["actor_head.weight"][3, 4] = value
    save_file(weights, path, metadata)
    refused(path, "'actor_head.weight' (1 of", "diverged", "earlier checkpoint")


def test_missing_and_unexpected_weights_are_named(saved):
    path, weights, metadata = saved
    weights["extra.weight"] = weights.pop("actor_head.weight").clone()
    save_file(weights, path, metadata)
    refused(path, "weights do not fit", "actor_head.weight", "extra.weight")


def untouched(path):
    return load_checkpoint(path, POGEMA_LAYOUT)[1] == {"step": 1} and os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("where", ["save_file", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_checkpoint(saved, small_model, monkeypatch, where):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint if where == "save_file" else os, where, full)
    with pytest.raises(
        OSError, match="No space left on device; the old file is as it was.*a.safetensors"
    ) as caught:
        save_checkpoint(saved[0], small_model(seed=1), POGEMA_LAYOUT, {"step": 2})
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert untouched(saved[0])


def test_a_really_failing_write_leaves_the_old_checkpoint(saved):
    """A file size limit makes the system refuse the write inside safetensors, as a full disk or quota does."""
    script = (
        "import resource, signal, sys, torch\n"
        "from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT as layout\n"
        "from marlgpt_training.model.checkpoint import save_checkpoint\n"
        "from marlgpt_training.model.model import MarlGpt, ModelConfig\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try:\n"
        "    save_checkpoint(sys.argv[1], MarlGpt(ModelConfig(32, 2, 1), layout), layout, {'step': 2})\n"
        "except OSError as error:\n"
        "    print(error.errno, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(saved[0])], capture_output=True, text=True, timeout=120
    )
    assert f"{errno.EFBIG} [Errno {errno.EFBIG}] cannot be written" in done.stdout, done.stderr
    assert "the old file is as it was" in done.stdout and str(saved[0]) in done.stdout
    assert untouched(saved[0])


def test_the_first_save_says_that_nothing_was_written(tmp_path, small_model):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="nothing was written"):
        save_checkpoint(tmp_path / "file" / "a.safetensors", small_model(), POGEMA_LAYOUT, {})


def test_the_data_reach_the_disk_before_the_name(saved, small_model, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, real=real: (done.append(name), real(*a))[1])
    save_checkpoint(saved[0], small_model(), POGEMA_LAYOUT, {"step": 2})
    assert done == ["fsync", "replace", "fsync"]
