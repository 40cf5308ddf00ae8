"""Checkpoints: safetensors with the configuration in the metadata, written atomically."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from marlgpt_policy.encoders.token_layout import LayoutError, TokenLayout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from marlgpt_training.model.model import MarlGpt, ModelConfig

MARKS = (b'"layout_hash"', b'"config"')
"""What every checkpoint of this project holds."""
_KEYS = ("config", "layout", "layout_hash", "facts")
_AGAIN = "restore a copy or write it again with 'marlgpt train'"


class CheckpointError(ValueError):
    """A checkpoint is torn, foreign or does not fit the model; the message names the file and the fix."""


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Have ``write(temporary)`` make a file and put it in place of ``path``, whole and on the disk, or not at all.

    The data reaches the disk before the name does, so that a power cut leaves the old file or the new one, never an
    empty one.

    Raises:
        OSError: Naming ``path`` and the reason (a full disk, no permission...); the old file is as it was.
    """
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, SafetensorError) as error:  # safetensors wraps the system's error in its own
        number = getattr(error, "errno", None) or _errno(str(error))
        reason = getattr(error, "strerror", None) or str(error)
        kept = "the old file is as it was" if path.exists() else "nothing was written"
        raise OSError(number, f"cannot be written: {reason}; {kept}", str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _errno(message: str) -> int:
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS):
        if f"os error {number})" in message:
            return number
    return errno.EIO


def _listed(layouts: TokenLayout | Sequence[TokenLayout]) -> list[TokenLayout]:
    return [layouts] if isinstance(layouts, TokenLayout) else list(layouts)


def save_checkpoint(
    path: str | Path, model: MarlGpt, layouts: TokenLayout | Sequence[TokenLayout], facts: dict
) -> None:
    """Write weights, configuration and ``facts`` (steps, samples, metrics...) so that a crash leaves the old file.

    ``layouts`` are those it was trained on.

    Raises:
        OSError: Naming the file and the reason; the old checkpoint is as it was.
    """
    layouts = _listed(layouts)
    metadata = {
        "config": json.dumps(model.config.to_dict()),
        "layout": layouts[0].name,
        "layout_hash": layouts[0].hash,
        "layouts": json.dumps({layout.name: layout.hash for layout in layouts}),
        "facts": json.dumps(facts),
    }
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(Path(path), lambda temporary: save_file(weights, temporary, metadata))


def load_checkpoint(
    path: str | Path, layouts: TokenLayout | Sequence[TokenLayout], unseen: bool = False
) -> tuple[MarlGpt, dict]:
    """The model, built for ``layouts``, and the facts saved with it.

    Args:
        path: File written by :func:`save_checkpoint`.
        layouts: What the model has to read.
        unseen: Whether they may be layouts that it was not trained on (zero-shot evaluation, a new game).

    Raises:
        CheckpointError: Naming the file, what is wrong with it and what to do.
        LayoutError: The checkpoint was trained on other token layouts.
    """
    layouts = _listed(layouts)
    weights, metadata = _read(path)
    trained = {metadata["layout"]: metadata["layout_hash"]}
    if "layouts" in metadata:
        trained = _object(path, "layouts", metadata["layouts"])
    for layout in layouts:
        if trained.get(layout.name) != layout.hash and not (unseen and layout.name not in trained):
            known = ", ".join(f"{name} ({digest})" for name, digest in trained.items())
            raise LayoutError(
                f"{path}: trained on layout {known}, this code encodes {layout.name} ({layout.hash}); train on this "
                "layout, or use the version of this project that made the checkpoint"
            )
    config, facts = _config(path, metadata["config"]), _object(path, "facts", metadata["facts"])
    _check_sizes(path, config, weights)
    try:
        model = MarlGpt(config, layouts)
    except (ValueError, RuntimeError, MemoryError) as error:
        raise CheckpointError(f"{path}: its configuration makes no model ({error}); {_AGAIN}") from error
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: weights do not fit its configuration: {error}; {_AGAIN}") from error
    broken = [name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(
            f"{path}: '{broken[0]}' ({len(broken)} of {len(weights)} tensors) holds NaN or infinity: the training "
            "diverged; use an earlier checkpoint"
        )
    return model, facts


def _read(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Weights and metadata of a checkpoint; ``CheckpointError`` if it is none."""
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: not a readable checkpoint: there is no such file; give one made by 'marlgpt train'"
        ) from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: not a readable checkpoint ({error}); torn or of another format: {_AGAIN}"
        ) from error
    missing = [key for key in _KEYS if key not in metadata]
    if missing:
        raise CheckpointError(
            f"{path}: not a MARL-GPT checkpoint (no '{missing[0]}' in its metadata); give a file made by "
            "'marlgpt train', or convert the published one with 'marlgpt import-checkpoint'"
        )
    return weights, metadata


def _object(path: str | Path, key: str, text: str) -> dict:
    """The JSON object under ``key`` of the metadata; ``CheckpointError`` for anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: '{key}' in its metadata is corrupted ({error}); {_AGAIN}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: '{key}' in its metadata is not an object but {text[:40]!r}; {_AGAIN}")
    return found


def _config(path: str | Path, text: str) -> ModelConfig:
    """The configuration in the metadata, names and types checked; ``CheckpointError`` otherwise."""
    found = _object(path, "config", text)
    known = [field.name for field in dataclasses.fields(ModelConfig)]
    unknown = sorted(found.keys() - set(known))
    if unknown:
        raise CheckpointError(
            f"{path}: unknown in its configuration: {', '.join(unknown)}; this version knows {', '.join(known)}: "
            "use the version of this project that made the checkpoint"
        )
    kinds = {"reading": "a text", "value_range": "two increasing numbers"}
    for name, value in found.items():
        if name == "reading":
            good = isinstance(value, str)
        elif name == "value_range":
            good = isinstance(value, list) and len(value) == 2 and all(map(_number, value))
            good = good and value[0] < value[1]
        else:
            good = isinstance(value, int) and not isinstance(value, bool) and value > 0
        if not good:
            kind = kinds.get(name, "a whole number above 0")
            raise CheckpointError(f"{path}: '{name}' in its configuration is {value!r}, not {kind}; {_AGAIN}")
    if "value_range" in found:
        found["value_range"] = tuple(found["value_range"])
    return ModelConfig(**found)


def _check_sizes(path: str | Path, config: ModelConfig, weights: dict[str, torch.Tensor]) -> None:
    """``CheckpointError`` if the weights are smaller than the configuration says, before a model is allocated.

    Every block has weights of its own, and there is a weight as long as each of the other sizes.
    """
    longest = max((max(tensor.shape, default=0) for tensor in weights.values()), default=0)
    if config.shared > len(weights) or max(config.width, config.bins, config.tables) > longest:
        raise CheckpointError(
            f"{path}: its configuration makes no model of its weights: {config.shared} shared blocks of width "
            f"{config.width}, {config.bins} bins and {config.tables} tables, but {len(weights)} tensors, none longer "
            f"than {longest}; {_AGAIN}"
        )


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def trained_layouts(path: str | Path) -> list[str]:
    """Names of the layouts that a checkpoint was trained on; ``CheckpointError`` if it is none."""
    metadata = _read(path)[1]
    return (
        list(_object(path, "layouts", metadata["layouts"])) if "layouts" in metadata else [metadata["layout"]]
    )


def torch_forward(model: MarlGpt, device: str = "cpu", layout: str | None = None):
    """The model as a NumPy function (values, valid, mask) of ``layout`` -> logits float32[n, 20]."""
    model.to(device).eval()

    def forward(values, valid, mask):
        with torch.inference_mode():
            values, valid, mask = (torch.from_numpy(a).to(device) for a in (values, valid, mask))
            x, bias = model.trunk_forward(values, valid, layout)
            return model.actor(x, bias, mask).cpu().numpy()

    return forward
