"""Export a checkpoint to the ONNX policy file that the runtime loads, and check parity with PyTorch."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import onnx
import torch
from marlgpt_policy.layout import MAX_ACTIONS, POGEMA_LAYOUT, TokenLayout
from marlgpt_policy.policy import FORMAT_VERSION, OnnxPolicy

from marlgpt_training.checkpoint import load_checkpoint
from marlgpt_training.data import SampleStream, expand
from marlgpt_training.model import MarlGpt

PARITY = 1e-3
"""Largest allowed difference of an allowed action's logit."""


@dataclasses.dataclass
class Args:
    """Export a checkpoint to ONNX."""

    checkpoint: Path = Path("out/train/best.safetensors")
    """Checkpoint to export."""
    out: Path = Path("out/policy.onnx")
    """ONNX file to write."""
    store: Path = Path("out/store")
    """Store whose observations the parity check uses; random ones where it does not exist."""
    observations: int = 10_000
    """Observations compared between PyTorch and ONNX Runtime."""
    training: str = ""
    """Sentence on the training data, kept in the file."""


def to_onnx(model: MarlGpt, layout: TokenLayout, path: Path, facts: dict, training: str) -> None:
    """Write ``model`` with its metadata (design 5), robots as the dynamic axis, atomically."""
    model.eval()
    values = torch.zeros(2, len(layout))
    mask = torch.zeros(2, MAX_ACTIONS, dtype=torch.bool)
    mask[:, : layout.actions] = True
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp.onnx")
    names = ["values", "valid", "action_mask"]
    torch.onnx.export(
        model,
        (values, torch.ones(2, len(layout), dtype=torch.bool), mask),
        str(temporary),
        input_names=names,
        output_names=["logits", "q"],
        dynamic_axes={name: {0: "robots"} for name in [*names, "logits", "q"]},
        opset_version=17,
        dynamo=False,
    )
    exported = onnx.load(str(temporary))
    metadata = {
        "format_version": FORMAT_VERSION,
        "layout_name": layout.name,
        "layout_hash": layout.hash,
        "preset": json.dumps(model.config.to_dict()),
        "reading": model.config.reading,
        "training": training or json.dumps({k: facts[k] for k in ("step", "samples") if k in facts}),
        "metrics": json.dumps(facts),
        "licence": "Apache-2.0",
    }
    onnx.helper.set_model_props(exported, metadata)
    onnx.save(exported, str(temporary))
    os.replace(temporary, path)


def parity(model: MarlGpt, policy: OnnxPolicy, packed: np.ndarray, masks: np.ndarray) -> float:
    """Largest difference of an allowed action's logit or of any q between PyTorch and ONNX Runtime."""
    worst = 0.0
    for start in range(0, len(packed), 1000):
        values, valid = expand(packed[start : start + 1000])
        mask = np.zeros((len(values), MAX_ACTIONS), dtype=bool)
        mask[:, :5] = masks[start : start + 1000]
        with torch.inference_mode():
            expected, expected_q = model(*(torch.from_numpy(a) for a in (values, valid, mask)))
        found = policy(values, valid, mask)
        logits = np.abs(expected.numpy() - found.logits)[mask].max()
        worst = max(worst, float(logits), float(np.abs(expected_q.numpy() - found.q).max()))
    return worst


def observations(store: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """``count`` packed observations and masks from ``store``, random ones where there is none."""
    if store.is_dir() and any(store.glob("*.parquet")):
        packed, _, masks = next(SampleStream(store, 0, buffer=max(count, 1000)).batches(count))
        return packed, masks
    rng = np.random.default_rng(0)
    masks = rng.random((count, 5)) < 0.8
    masks[:, 0] = True
    return rng.integers(-20, 21, size=(count, len(POGEMA_LAYOUT))).astype(np.int8), masks


def main(args: Args) -> int:
    """Export, load it back as the runtime does, compare; 1 if they differ."""
    model, facts = load_checkpoint(args.checkpoint, POGEMA_LAYOUT)
    to_onnx(model, POGEMA_LAYOUT, args.out, facts, args.training)
    policy = OnnxPolicy(args.out, POGEMA_LAYOUT, ("CPUExecutionProvider",))
    worst = parity(model, policy, *observations(args.store, args.observations))
    size = args.out.stat().st_size / 1e6
    print(
        f"{args.out}: {size:.1f} MB, largest difference {worst:.1e} over {args.observations:,} observations"
    )
    if worst > PARITY:
        print(f"the difference is above {PARITY}: do not ship this file")
        return 1
    return 0
