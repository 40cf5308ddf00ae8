"""Checkpoints: safetensors with the configuration in the metadata, written atomically."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from marlgpt_policy.layout import LayoutError, TokenLayout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from marlgpt_training.model import MarlGpt, ModelConfig


class CheckpointError(ValueError):
    """A checkpoint is torn, foreign or does not fit the model."""


def save_checkpoint(path: str | Path, model: MarlGpt, layout: TokenLayout, facts: dict) -> None:
    """Write weights, configuration and ``facts`` (steps, samples, metrics...) so that a crash leaves the old file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    metadata = {
        "config": json.dumps(model.config.to_dict()),
        "layout": layout.name,
        "layout_hash": layout.hash,
        "facts": json.dumps(facts),
    }
    try:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, temporary, metadata)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: str | Path, layout: TokenLayout) -> tuple[MarlGpt, dict]:
    """The model and the facts saved with it.

    Raises:
        CheckpointError: Naming the file and what is wrong with it.
        LayoutError: The checkpoint was trained on another token layout.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint ({error})") from error
    if "config" not in metadata:
        raise CheckpointError(f"{path}: not a MARL-GPT checkpoint (no 'config' in its metadata)")
    if metadata["layout_hash"] != layout.hash:
        raise LayoutError(
            f"{path}: trained on layout {metadata['layout']} ({metadata['layout_hash']}), "
            f"this code encodes {layout.name} ({layout.hash})"
        )
    config = json.loads(metadata["config"])
    config["value_range"] = tuple(config["value_range"])
    model = MarlGpt(ModelConfig(**config), layout)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: weights do not fit its configuration: {error}") from error
    return model, json.loads(metadata["facts"])


def torch_forward(model: MarlGpt):
    """The model as a NumPy function (values, valid, mask) -> logits float32[n, 20]."""
    model.eval()

    def forward(values, valid, mask):
        with torch.inference_mode():
            tensors = (torch.from_numpy(a) for a in (values, valid, mask))
            values, valid, mask = tensors
            x, bias = model.trunk_forward(values, valid)
            return model.actor(x, bias, mask).numpy()

    return forward
