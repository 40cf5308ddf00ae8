"""Policy files in lower precision, and what that costs in quality.

``fp16`` computes in half precision: half the file, meant for GPUs. ``int8`` stores the weights of every matrix product
in eight bits and quantises its inputs at run time: a third of the file, meant for CPUs. Inputs and outputs stay as
they are (design 5), so the runtime takes these files like any other.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from marlgpt_policy.encoders.token_layout import MAX_ACTIONS
from marlgpt_policy.policy.onnx_policy import OnnxPolicy
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16

from marlgpt_training.dataloader.samples import expand
from marlgpt_training.train.validation import throughput

PRECISIONS = ("fp32", "fp16", "int8")
MAX_AGREEMENT_LOSS = 0.01
"""Largest share of observations whose best action may change; int8 stays at about a third of it (docs/training.md)."""
ROLLOUTS = (("random", 32), ("maze", 32))
"""Map family and agents of the rollouts that compare throughput."""
ROLLOUT_STEPS = 128
_ATTENTION_MASKED = 1e4


def convert(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """``model`` in ``precision``, metadata kept.

    Raises:
        ValueError: Unknown precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision '{precision}'; choose one of {', '.join(PRECISIONS)}")
    if precision == "fp32":
        return model
    with tempfile.TemporaryDirectory() as folder:
        simple = _folded(model, Path(folder) / "folded.onnx")
        converted = _fp16(simple) if precision == "fp16" else _int8(simple, Path(folder) / "int8.onnx")
    used = {node.domain for node in converted.graph.node}
    opsets = [entry for entry in converted.opset_import if entry.domain in used]
    del converted.opset_import[:]
    converted.opset_import.extend(opsets)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(converted, {**metadata, "precision": precision})
    return converted


def _folded(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """``model`` with constant parts computed, so that all weights are plain tensors that can be converted."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(str(path))


def _fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Half precision, except for the node that masks the logits: -1e9 is beyond float16, which ends at 65,504.

    The attention bias of -1e9 becomes -1e4, which the softmax turns into the same exact zero without overflowing
    when a score is added to it.
    """
    graph = model.graph
    mask = next(node for node in graph.node if "logits" in node.output)
    forbidden = next(tensor for tensor in graph.initializer if tensor.name in mask.input)
    raw = next(name for name in mask.input[1:] if name != forbidden.name)
    constant, node = onnx.TensorProto(), onnx.NodeProto()
    constant.CopyFrom(forbidden)
    node.CopyFrom(mask)
    constant.name = "forbidden_logit"  # its own copy: the attention bias may share the other one
    node.input[list(node.input).index(forbidden.name)] = constant.name
    graph.node.remove(mask)
    next(output for output in graph.output if output.name == "logits").name = raw
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the biases it clips
        converted = convert_float_to_float16(model, max_finite_val=_ATTENTION_MASKED, keep_io_types=True)
    converted.graph.node.append(node)
    converted.graph.initializer.append(constant)
    next(output for output in converted.graph.output if output.name == raw).name = "logits"
    return converted


def _int8(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Matrix products with weights in eight bits, one scale per output channel.

    Unsigned weights: on CPUs without VNNI instructions, products of unsigned inputs and signed weights saturate in 16
    bits. Input scales are computed at run time, which keeps more quality than calibrated ones (docs/training.md) and
    needs no data. The embedding stays in float: its inputs are few and coarse, it is small, and its error would
    reach everything behind it.
    """
    onnx.helper.set_model_props(
        model, {"onnx.quant.pre_process": "onnxruntime.quant"}
    )  # done: no warning about it
    embedding = [node.name for node in model.graph.node if "embedding" in node.name]
    quantize_dynamic(
        model,
        path,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QUInt8,
        nodes_to_exclude=embedding,
    )
    return onnx.load(str(path))


def compare(
    reference: OnnxPolicy, other: OnnxPolicy, packed: np.ndarray, masks: np.ndarray
) -> dict[str, float]:
    """What ``other`` answers differently from ``reference``.

    Args:
        reference: The fp32 policy.
        other: The converted policy.
        packed: int8[n, L] compressed observations (:func:`marlgpt_training.dataloader.samples.compress`).
        masks: bool[n, 5] allowed moves.

    Returns:
        ``logit_max`` and ``logit_mean``, absolute differences of the logits of allowed actions; ``q_max``, of any q;
        ``agreement``, share of observations with the same best action; ``kl``, mean of KL(reference || other) of the
        action probabilities, in nats; ``observations``.
    """
    worst = worst_q = total = divergence = 0.0
    same = 0
    for start in range(0, len(packed), 500):
        values, valid = expand(packed[start : start + 500])
        mask = np.zeros((len(values), MAX_ACTIONS), dtype=bool)
        mask[:, : masks.shape[1]] = masks[start : start + 500]
        one, two = (policy(values, valid, mask) for policy in (reference, other))
        difference = np.abs(one.logits - two.logits)[mask]
        worst, total = max(worst, float(difference.max())), total + float(difference.sum())
        worst_q = max(worst_q, float(np.abs(one.q - two.q).max()))
        same += int((one.logits.argmax(axis=1) == two.logits.argmax(axis=1)).sum())
        p, q = (_log_softmax(answer.logits) for answer in (one, two))
        divergence += float(np.where(mask, np.exp(p) * (p - q), 0).sum())
    return {
        "logit_max": worst,
        "logit_mean": total / float(masks.sum()),
        "q_max": worst_q,
        "agreement": same / len(packed),
        "kl": divergence / len(packed),
        "observations": len(packed),
    }


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def rollouts(policy: OnnxPolicy, episodes: int, steps: int = ROLLOUT_STEPS) -> dict[str, float]:
    """Goals per step on held-out maps with the shield, by family and agents, e.g. ``random32``."""

    def forward(values, valid, mask):
        return policy(values, valid, mask).logits

    return {
        f"{family}{agents}": throughput(forward, family, agents, episodes, steps, shield=True)
        for family, agents in ROLLOUTS
    }
