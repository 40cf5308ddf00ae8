"""Export a checkpoint to the ONNX policy file that the runtime loads, and measure what it answers differently.

The file is checked before it gets its name: fp32 against PyTorch, lower precision (``export/quantisation.py``)
against fp32.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from marlgpt_policy.encoders.registry import layout_named
from marlgpt_policy.encoders.token_layout import MAX_ACTIONS, POGEMA_LAYOUT, TokenLayout
from marlgpt_policy.policy.onnx_policy import FORMAT_VERSION, OnnxPolicy
from marlgpt_sim.runs.output_folder import check_output_file

from marlgpt_training.dataloader.sample_stream import SampleStream
from marlgpt_training.dataloader.samples import Samples, compress, expand
from marlgpt_training.dataloader.sampling import SamplingConfig
from marlgpt_training.export.quantisation import (
    MAX_AGREEMENT_LOSS,
    PRECISIONS,
    ROLLOUT_STEPS,
    compare,
    convert,
    rollouts,
)
from marlgpt_training.model.checkpoint import load_checkpoint, write_atomically
from marlgpt_training.model.model import MarlGpt
from marlgpt_training.store.sample_shards import shard_layout
from marlgpt_training.store.shards import StoreError, shards

PARITY = 1e-3
"""Largest allowed difference of an allowed action's logit between PyTorch and the fp32 file."""
CPU = ("CPUExecutionProvider",)


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
    precision: str = "fp32"
    """fp32, fp16 (half the size, for GPUs) or int8 (a third of the size, for CPUs)."""
    max_agreement_loss: float = MAX_AGREEMENT_LOSS
    """Largest share of observations whose best action may differ from fp32; above it nothing is written."""
    rollout_episodes: int = 4
    """Episodes per map family that compare the throughput of fp16 or int8 with fp32 (POGEMA only); 0 leaves them
    out."""
    layout: str = POGEMA_LAYOUT.name
    """Token layout, and with it the game, that the file is for; a joint model makes one file per layout."""


def to_onnx(model: MarlGpt, layout: TokenLayout, path: Path, facts: dict, training: str) -> None:
    """Write ``model`` in fp32 with its metadata (design 5), robots as the dynamic axis, atomically.

    Raises:
        OSError: Naming ``path`` and the reason; an older file is as it was.
    """
    exported = to_proto(model, layout, facts, training)
    write_atomically(path, lambda temporary: temporary.write_bytes(exported.SerializeToString()))


class _Reading(torch.nn.Module):
    """A model that reads one layout."""

    def __init__(self, model: MarlGpt, layout: str) -> None:
        super().__init__()
        self.model, self.layout = model, layout

    def forward(self, values, valid, action_mask):
        return self.model(values, valid, action_mask, self.layout)


def to_proto(model: MarlGpt, layout: TokenLayout, facts: dict, training: str) -> onnx.ModelProto:
    """``model`` in fp32 as ONNX, with its metadata."""
    model.eval()
    values = torch.zeros(2, len(layout))
    mask = torch.zeros(2, MAX_ACTIONS, dtype=torch.bool)
    mask[:, : layout.actions] = True
    names = ["values", "valid", "action_mask"]
    with tempfile.TemporaryDirectory() as folder:
        torch.onnx.export(
            _Reading(model, layout.name),
            (values, torch.ones(2, len(layout), dtype=torch.bool), mask),
            f"{folder}/policy.onnx",
            input_names=names,
            output_names=["logits", "q"],
            dynamic_axes={name: {0: "robots"} for name in [*names, "logits", "q"]},
            opset_version=17,
            dynamo=False,
        )
        exported = onnx.load(f"{folder}/policy.onnx")
    metadata = {
        "format_version": FORMAT_VERSION,
        "layout_name": layout.name,
        "layout_hash": layout.hash,
        "preset": json.dumps(model.config.to_dict()),
        "reading": model.config.reading,
        "precision": "fp32",
        "training": training or json.dumps({k: facts[k] for k in ("step", "samples") if k in facts}),
        "metrics": json.dumps(facts),
        "licence": "Apache-2.0",
    }
    onnx.helper.set_model_props(exported, metadata)
    return exported


def parity(model: MarlGpt, policy: OnnxPolicy, packed: np.ndarray, masks: np.ndarray) -> float:
    """Largest difference of an allowed action's logit or of any q between PyTorch and ONNX Runtime."""
    worst = 0.0
    for start in range(0, len(packed), 1000):
        values, valid = expand(packed[start : start + 1000])
        mask = np.zeros((len(values), MAX_ACTIONS), dtype=bool)
        part = masks[start : start + 1000]
        mask[:, : part.shape[1]] = part
        with torch.inference_mode():
            inputs = (torch.from_numpy(a) for a in (values, valid, mask))
            expected, expected_q = model(*inputs, policy.layout.name)
        found = policy(values, valid, mask)
        logits = np.abs(expected.numpy() - found.logits)[mask].max()
        worst = max(worst, float(logits), float(np.abs(expected_q.numpy() - found.q).max()))
    return worst


def observations(
    store: Path, count: int, layout: TokenLayout = POGEMA_LAYOUT
) -> tuple[np.ndarray, np.ndarray]:
    """``count`` packed observations and masks of ``layout`` from ``store``, random ones where it has none.

    Raises:
        StoreError: No shard of this layout is readable.
    """
    if holds(store, layout):
        stream, found = SampleStream(store, 0, drawing=SamplingConfig(layout=layout.name)), []
        while sum(map(len, found)) < count:
            found.append(stream.next(min(1000, count)))
        together = Samples.concatenate(found)
        return together.packed[:count], together.masks[:count]
    rng = np.random.default_rng(0)
    masks = rng.random((count, layout.actions)) < 0.8
    masks[:, 0] = True
    if layout.name != POGEMA_LAYOUT.name:
        values = rng.uniform(-1, 1, size=(count, len(layout))).astype(np.float32)
        valid = rng.random(values.shape) < 0.8
        values[:, -1], valid[:, -1] = layout.environment_value, True
        return compress(values, valid, layout.name), masks
    return rng.integers(-20, 21, size=(count, len(POGEMA_LAYOUT))).astype(np.int8), masks


def holds(store: Path, layout: TokenLayout) -> bool:
    """Whether ``store`` has a shard of ``layout``; what cannot be read does not count."""
    for path in shards(store):
        try:
            if layout.name == shard_layout(path):
                return True
        except StoreError:
            continue
    return False


def main(args: Args) -> int:
    """Export, load it back as the runtime does, compare; 1 and no file if it answers too differently.

    Raises:
        ValueError: Unknown precision or layout, unusable checkpoint or store.
        OSError: The file cannot be written; an older one is as it was.
    """
    if args.precision not in PRECISIONS:
        raise ValueError(f"--precision {args.precision}: choose one of {', '.join(PRECISIONS)}")
    check_output_file(args.out, b"layout_hash", b"format_version")
    layout = layout_named(args.layout)
    model, facts = load_checkpoint(args.checkpoint, layout)
    packed, masks = observations(args.store, args.observations, layout)
    if not holds(args.store, layout):
        print(f"{args.store} holds no observations of {layout.name}: random ones are compared")
    with tempfile.TemporaryDirectory() as folder:
        exported = to_proto(model, layout, facts, args.training)
        exact = _load(exported, Path(folder) / "fp32.onnx", layout)
        worst = parity(model, exact, packed, masks)
        print(f"fp32: largest difference from PyTorch {worst:.1e} over {len(packed):,} observations")
        if worst > PARITY:
            print(f"{args.out} is not written: the difference is above {PARITY}, do not ship this file")
            return 1
        if args.precision != "fp32":
            exported = convert(exported, args.precision)
            converted = _load(exported, Path(folder) / "converted.onnx", layout)
            loss = measure(exact, converted, packed, masks, args)
            if 1 - loss["agreement"] > args.max_agreement_loss:
                print(
                    f"{args.out} is not written: the best action of {1 - loss['agreement']:.2%} of the observations "
                    f"changed, --max-agreement-loss allows {args.max_agreement_loss:.2%}; ship fp32"
                )
                return 1
            onnx.helper.set_model_props(
                exported, {**_metadata(exported), "quantisation": json.dumps(loss, allow_nan=False)}
            )
    write_atomically(args.out, lambda temporary: temporary.write_bytes(exported.SerializeToString()))
    print(f"{args.out}: {args.precision}, {args.out.stat().st_size / 1e6:.1f} MB")
    return 0


def measure(
    exact: OnnxPolicy, converted: OnnxPolicy, packed: np.ndarray, masks: np.ndarray, args: Args
) -> dict:
    """Loss of quality of ``converted``, printed and returned as the file's ``quantisation`` entry."""
    loss = compare(exact, converted, packed, masks)
    print(
        f"{args.precision} against fp32: best action the same in {loss['agreement']:.2%}, logits differ by "
        f"{loss['logit_mean']:.1e} (at most {loss['logit_max']:.1e}), KL {loss['kl']:.1e} nats, "
        f"q by at most {loss['q_max']:.1e}"
    )
    if args.rollout_episodes > 0 and exact.layout.name == POGEMA_LAYOUT.name:
        print(f"  driving both for {args.rollout_episodes} episodes per map family ...", flush=True)
        loss["rollout"] = {
            "fp32": rollouts(exact, args.rollout_episodes),
            args.precision: rollouts(converted, args.rollout_episodes),
            "episodes": args.rollout_episodes,
            "steps": ROLLOUT_STEPS,
        }
        for name, goals in loss["rollout"]["fp32"].items():
            found = loss["rollout"][args.precision][name]
            print(
                f"  {name}: {found:.3f} goals per step, fp32 {goals:.3f} ({args.rollout_episodes} episodes)"
            )
    return loss


def _metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _load(model: onnx.ModelProto, path: Path, layout: TokenLayout) -> OnnxPolicy:
    """``model`` as the runtime loads it, by way of a temporary file."""
    path.write_bytes(model.SerializeToString())
    return OnnxPolicy(path, layout, CPU)
