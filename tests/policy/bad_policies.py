"""Policy files that harm whoever waits for them: endless to load, and endless or NaN for some observations only."""

import numpy as np
import onnx
from fleet_bench import write_policy
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

GOAL_ROW, GOAL_COLUMN = 121 + 2, 121 + 3
"""Where the observation has a robot's own goal, in twentieths of a cell relative to it."""


def _extended(path, nodes, tensors, output="q"):
    """The goal-seeking policy of ``fleet_bench`` whose ``output`` is its own plus ``harm``, float[robots or 1, 1]."""
    model = onnx.load(write_policy(path))
    graph = model.graph
    next(node for node in graph.node if node.output[0] == output).output[0] = "own"
    graph.node.extend([*nodes, helper.make_node("Add", ["own", "harm"], [output])])
    graph.initializer.extend(from_array(value, name) for name, value in tensors.items())
    path.write_bytes(model.SerializeToString())
    return path


def endless_load(path):
    """A file of 60 kB whose constants take hours to fold: ONNX Runtime multiplies large matrices when it loads it."""
    count = 2000
    first = from_array(np.array([1e-4], np.float32))
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["m0"], value=first)]
    nodes += [helper.make_node("MatMul", [f"m{k}", f"m{k}"], [f"m{k + 1}"]) for k in range(count)]
    nodes += [
        helper.make_node("ReduceSum", [f"m{count}"], ["sum"]),
        helper.make_node("Mul", ["sum", "nil"], ["harm"]),
    ]
    tensors = {"shape": np.array([2500, 2500], np.int64), "nil": np.zeros((1, 1), np.float32)}
    return _extended(path, nodes, tensors)


def _trigger(rows, columns):
    """Nodes that make ``wrong``, float[robots, 1]: 1 for robots whose goal lies so many cells away, else 0."""
    tensors = {
        "where": np.array([GOAL_ROW, GOAL_COLUMN], np.int64),
        "there": np.array([[rows, columns]], np.float32) / 20,
        "near": np.array([[0.01]], np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["values", "where"], ["goal"], axis=1),
        helper.make_node("Sub", ["goal", "there"], ["away"]),
        helper.make_node("ReduceL1", ["away"], ["distance"], axes=[1], keepdims=1),
        helper.make_node("Less", ["distance", "near"], ["hit"]),
        helper.make_node("Cast", ["hit"], ["wrong"], to=TensorProto.FLOAT),
    ]
    return nodes, tensors


def _endless_where(source, nodes, tensors, path, many=1e15):
    """A loop of ``many`` rounds per unit of the sum of ``source``."""
    go_in, go_out = (
        helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("go_in", "go_out")
    )
    state, sine = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in ("state", "sine")
    )
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_in"], ["go_out"]), helper.make_node("Sin", ["state"], ["sine"])],
        "body", [helper.make_tensor_value_info("round", TensorProto.INT64, []), go_in, state], [go_out, sine],
    )  # fmt: skip
    nodes = [
        *nodes,
        helper.make_node("ReduceL1", [source], ["total"], keepdims=0),
        helper.make_node("Mul", ["total", "many"], ["wanted"]),
        helper.make_node("Cast", ["wanted"], ["rounds"], to=TensorProto.INT64),
        helper.make_node("Loop", ["rounds", "", "nil"], ["spun"], body=body),
        helper.make_node("Mul", ["spun", "nil"], ["harm"]),
    ]
    tensors |= {"many": np.array(many, np.float32), "nil": np.zeros((1, 1), np.float32)}
    return _extended(path, nodes, tensors)


def endless_on_observations(path):
    """Answers for zeros, as the first inference is made with, and never returns for what a robot sees."""
    return _endless_where("values", [], {}, path)


def endless_towards(path, rows, columns, many=1e15):
    """Answers unless a robot's goal lies ``rows`` and ``columns`` away; then it never returns, or after many rounds."""
    return _endless_where("wrong", *_trigger(rows, columns), path, many)


def nan_towards(path, rows, columns):
    """Answers NaN where a robot's goal lies ``rows`` and ``columns`` away."""
    nodes, tensors = _trigger(rows, columns)
    nodes += [
        helper.make_node("Sub", ["nil", "wrong"], ["negative"]),
        helper.make_node("Sqrt", ["negative"], ["harm"]),
    ]
    return _extended(path, nodes, tensors | {"nil": np.zeros((1, 1), np.float32)}, "logits")
