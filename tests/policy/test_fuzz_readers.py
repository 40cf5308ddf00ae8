"""Fuzzed files: whatever is in a map, an image or a policy, the reader returns something sound or its own error."""

import io
import math
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from fleet_bench import write_policy
from fuzzing import damaged, fuzz  # noqa: E402
from hypothesis import given
from hypothesis import strategies as st
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_policy.grid.nav_grid import build_grid
from marlgpt_policy.grid.occupancy_map import (
    MapError,
    OccupancyMap,
    from_occupancy_grid,
    load_map_yaml,
    save_map_yaml,
)
from marlgpt_policy.policy.onnx_policy import OnnxPolicy, PolicyError
from onnx import TensorProto, helper
from PIL import Image

CPU = ("CPUExecutionProvider",)
FLOATS = st.floats(width=32) | st.sampled_from([0.0, -0.0, 1e-38, 3e38, math.nan, math.inf, -math.inf])


# Maps ----------------------------------------------------------------------------------------------------


def chart():
    occupied = np.zeros((24, 31), bool)
    occupied[4, :9] = True
    return OccupancyMap(occupied, np.zeros_like(occupied), 0.05, (-1.0, 2.0, 0.3))


def images():
    """The same small picture in every format and mode that maps come in."""
    pixels = Image.fromarray(np.where(chart().occupied, 0, 254).astype(np.uint8))
    found = []
    for mode, format in (
        ("L", "PPM"), ("L", "PNG"), ("LA", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("1", "PNG"), ("RGB", "BMP"),
        ("I;16", "PNG"), ("1", "PPM"),
    ):  # fmt: skip
        stream = io.BytesIO()
        pixels.convert(mode).save(stream, format=format)
        found.append(stream.getvalue())
    return [*found, b"P2\n3 2\n255\n0 1 2\n3 4 255\n"]


def read_map(path):
    """A sound map or ``MapError``; a map can be turned into a grid, or that is refused too."""
    try:
        found = load_map_yaml(path)
    except MapError as error:
        assert len(str(error)) < 5000 + 2 * len(str(path))
        return None
    assert found.occupied.size and not (found.occupied & found.unknown).any()
    assert found.resolution > 0 and all(map(math.isfinite, (found.resolution, *found.origin)))
    return found


@pytest.fixture
def map_file(tmp_path):
    path = tmp_path / "room.yaml"
    save_map_yaml(chart(), path)
    return path


@fuzz(120)
@given(data=st.data())
def test_map_yaml_as_bytes(map_file, data):
    good = b"image: room.pgm\nmode: scale\nresolution: 0.05\norigin: [1, 2, 0]\nnegate: 0\n"
    good += b"occupied_thresh: 0.65\nfree_thresh: 0.25\n"
    map_file.write_bytes(data.draw(damaged(good) | st.binary(max_size=300)))
    read_map(map_file)


SCALARS = (
    st.none() | st.booleans() | st.integers() | FLOATS.map(repr) | st.text("0123456789.:-_eE+xob", max_size=12)
    | st.sampled_from([".inf", ".nan", "1e999", "2001-99-99", "2001-01-01 99:99:99", "9" * 5000, "0b", "!!int x",
                       "!!float y", "!!timestamp z", "? [a]", "'\\0'", "trinary", "raw", "scale", "room.pgm",
                       "x" * 400, ".", "..", "/", "0x", "1:2:99", "<<", "*a", "&a [1, *a]", "[0, 0, 0]",
                       "[[[0]]]", "{a: b}", "[.nan, 1, 2]", "[1e308, -1e308, 1e308]", "!!python/none x", "="])
)  # fmt: skip


@fuzz(250)
@given(
    changes=st.dictionaries(
        st.sampled_from(
            ["image", "mode", "resolution", "origin", "negate", "occupied_thresh", "free_thresh", "more"]
        ),
        SCALARS, min_size=1, max_size=3,
    ),
)  # fmt: skip
def test_map_yaml_values(map_file, changes):
    values = {"image": "room.pgm", "mode": "trinary", "resolution": 0.05, "origin": "[0, 0, 0]", "negate": 0}
    values |= {"occupied_thresh": 0.65, "free_thresh": 0.25, **changes}
    map_file.write_text("".join(f"{key}: {value}\n" for key, value in values.items()))
    read_map(map_file)


@pytest.mark.parametrize(
    "text",
    [
        "resolution: " + "[" * 100_000,
        "{" * 3000,
        # Nine levels of nine references: a billion values, if anything looks at all of them.
        "".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}' if i else '0'] * 9)}]\n" for i in range(10))
        + "image: *k9\n",
        "k0: &k0 {a: 1}\n"
        + "".join(f"k{i}: &k{i} {{<<: [{', '.join([f'*k{i - 1}'] * 9)}]}}\n" for i in range(1, 10)),
        "a: &a [*a]\nimage: *a\n",
    ],
)
def test_nested_yaml_is_refused(map_file, text):
    map_file.write_text(text)
    assert read_map(map_file) is None


@fuzz(200)
@given(data=st.data(), mode=st.sampled_from(["trinary", "scale", "raw"]))
def test_damaged_images(map_file, data, mode):
    map_file.write_text(map_file.read_text().replace("trinary", mode))
    content = data.draw(st.sampled_from(images()).flatmap(damaged) | st.binary(max_size=200))
    map_file.with_suffix(".pgm").write_bytes(content)
    read_map(map_file)


@pytest.mark.parametrize("size", ["99999 99999", "9999999999 1", "1 64000001", "0 5", "-3 4", "7999 7999"])
@pytest.mark.parametrize("kind", ["P2", "P5", "P6", "P1", "Pf", "P7"])
def test_absurd_image_sizes_are_refused(map_file, kind, size):
    map_file.with_suffix(".pgm").write_bytes(f"{kind}\n{size}\n255\n".encode() + bytes(64))
    assert read_map(map_file) is None


def grid_message(width, height, data, resolution, position, orientation, frame="map"):
    """A ``nav_msgs/OccupancyGrid`` without ROS."""
    return SimpleNamespace(
        header=SimpleNamespace(frame_id=frame),
        info=SimpleNamespace(
            width=width, height=height, resolution=resolution,
            origin=SimpleNamespace(
                position=SimpleNamespace(**dict(zip("xyz", position, strict=True))),
                orientation=SimpleNamespace(**dict(zip("xyzw", orientation, strict=True))),
            ),
        ),
        data=data,
    )  # fmt: skip


@fuzz(250)
@given(
    width=st.integers(0, 12) | st.integers(0, 2**32 - 1),
    height=st.integers(0, 12) | st.integers(0, 2**32 - 1),
    data=st.lists(st.integers(-128, 127), max_size=30) | st.none(),
    resolution=st.just(0.25) | FLOATS,
    position=st.tuples(*[st.floats()] * 3),
    orientation=st.just((0.0, 0.0, 0.0, 1.0)) | st.tuples(*[st.floats()] * 4),
    frame=st.text(max_size=9),
)
def test_map_messages(width, height, data, resolution, position, orientation, frame):
    if data is None:  # as many pixels as the sizes say, all free
        data = np.zeros(min(width * height, 10_000), np.int8)
    message = grid_message(width, height, np.array(data, np.int8), resolution, position, orientation, frame)
    try:
        found = from_occupancy_grid(message)
        assert found.shape == (height, width)
        grid = build_grid(found, 0.22)
        assert grid.free.any()
    except MapError:
        pass


@pytest.mark.parametrize("resolution", [1e-38, 1e-6, 1e3, 1e7, 3e38])
def test_absurd_resolutions_make_a_grid_or_none(resolution):
    try:
        grid = build_grid(from_occupancy_grid(
            grid_message(40, 30, np.zeros(1200, np.int8), resolution, (0, 0, 0), (0, 0, 0, 1))
        ), 0.22)  # fmt: skip
    except MapError:
        return
    assert grid.cell_size >= 0.22 * 2 and grid.free.any()


def test_what_is_not_damaged_is_read(map_file, policy_file):
    assert (read_map(map_file).occupied == chart().occupied).all()
    assert read_policy(policy_file).name == "tiny.onnx"


# Policies ------------------------------------------------------------------------------------------------


@pytest.fixture
def policy_file(tmp_path):
    return write_policy(tmp_path / "tiny.onnx")


def read_policy(path):
    """A policy that answers for any number of robots, or ``PolicyError``."""
    try:
        policy = OnnxPolicy(path, POGEMA_LAYOUT, CPU, 1)
        for n in (0, 1, 3):
            answer = policy(
                np.zeros((n, 356), np.float32), np.ones((n, 356), dtype=bool), np.ones((n, 20), dtype=bool)
            )
            assert answer.logits.shape == answer.q.shape == (n, 20) and answer.probabilities.shape == (n, 5)
            assert np.isfinite(answer.logits).all()
    except PolicyError as error:
        assert str(path) in str(error)
        return None
    return policy


@fuzz(300)
@given(data=st.data())
def test_damaged_policies(policy_file, data):
    good = write_policy(policy_file).read_bytes()
    policy_file.write_bytes(data.draw(damaged(good) | st.binary(max_size=400)))
    read_policy(policy_file)


def test_every_byte_of_the_text_in_a_policy_may_be_broken(policy_file):
    """Names and metadata are texts in any coding, as far as protobuf is concerned."""
    good = policy_file.read_bytes()
    for word in (b"format_version", b"pogema-1", b"values", b"logits", b"layout_hash"):
        at = good.rindex(word)
        policy_file.write_bytes(good[:at] + b"\xff" + good[at + 1 :])
        assert read_policy(policy_file) is None or word == b"pogema-1"


def model(nodes, tensors=(), shape=("robots", 20)):
    """A model with a policy's inputs, outputs and metadata, and anything in between."""
    kinds = {"values": (TensorProto.FLOAT, 356), "valid": (TensorProto.BOOL, 356)}
    kinds["action_mask"] = (TensorProto.BOOL, 20)
    inputs = [helper.make_tensor_value_info(k, kind, ["robots", n]) for k, (kind, n) in kinds.items()]
    outputs = [helper.make_tensor_value_info(k, TensorProto.FLOAT, shape) for k in ("logits", "q")]
    used = [helper.make_node("Identity", [name], [f"{name}_used"]) for name in kinds]
    graph = helper.make_graph([*used, *nodes], "foreign", inputs, outputs, list(tensors))
    found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(found, {"format_version": "1", "layout_hash": POGEMA_LAYOUT.hash})
    return found.SerializeToString()


def both(name):
    return [helper.make_node("Identity", [name], [out]) for out in ("logits", "q")]


def claimed(dims, raw=b""):
    return TensorProto(name="big", data_type=TensorProto.FLOAT, dims=dims, raw_data=raw)


def number(name, values):
    return onnx.numpy_helper.from_array(np.array(values, np.int64), name)


@pytest.mark.parametrize(
    "content",
    [
        model([], shape=("robots", 20)),
        model(both("big"), [claimed([2**40])]),
        model(both("big"), [claimed([2**62, 4])]),
        model(both("big"), [claimed([-1, 20], bytes(80))]),
        model(both("big"), [claimed([1, 20], bytes(80))], ("robots", 20)),
        model(
            [helper.make_node("ConstantOfShape", ["size"], ["big"]), *both("big")],
            [number("size", [2**45, 20])],
        ),
        model(
            [helper.make_node("Reshape", ["values", "size"], ["big"]), *both("big")],
            [number("size", [-1, 20])],
        ),
        model([helper.make_node("Loop", ["", ""], ["logits", "q"])]),
        model(
            [helper.make_node("Slice", ["values", "zero", "end", "one"], ["big"]), *both("big")],
            [number("zero", [0]), number("end", [7]), number("one", [1])],
        ),
    ],
    ids=["nothing", "huge", "overflow", "negative", "one_row", "allocates", "foreign_rows", "loop", "width"],
)
def test_foreign_models_are_refused(tmp_path, content):
    path = tmp_path / "foreign.onnx"
    path.write_bytes(content)
    assert read_policy(path) is None


@fuzz(60)
@given(name=st.text(max_size=40) | st.sampled_from([".", "..", "/", "\0", "x" * 300, "a/" * 3000]))
def test_paths_of_policies_and_maps(tmp_path, name):
    assert read_policy(tmp_path / name) is None
    assert read_map(tmp_path / name) is None
