"""Map files and messages: what each pixel means, and that every bad input is refused with its name."""

import array
import math
from types import SimpleNamespace as Fields

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from marlgpt_policy.grid import occupancy_map as occupancy
from marlgpt_policy.grid.geometry import quaternion_of
from marlgpt_policy.grid.occupancy_map import (
    MapError,
    OccupancyMap,
    from_occupancy_grid,
    load_map_yaml,
    save_map_yaml,
    to_occupancy_data,
)
from PIL import Image

GOOD = {
    "image": "map.pgm",
    "resolution": 0.05,
    "origin": [1.0, -2.0, 0.5],
    "negate": 0,
    "occupied_thresh": 0.65,
    "free_thresh": 0.196,
}


def write(folder, pixels=((0, 254), (205, 254)), name="map.pgm", **changes):
    """Write a map; a change to None removes the key."""
    Image.fromarray(np.array(pixels, dtype=np.uint8)).save(folder / name)
    chosen = {**GOOD, "image": name, **changes}
    path = folder / "map.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in chosen.items() if value is not None}))
    return path


def message(data, width, height, resolution=0.1, position=(0.0, 0.0), quaternion=(0, 0, 0, 1), frame="map"):
    """An object with the fields of nav_msgs/OccupancyGrid."""
    pose = Fields(
        position=Fields(x=position[0], y=position[1], z=0.0),
        orientation=Fields(**dict(zip("xyzw", quaternion, strict=True))),
    )
    info = Fields(width=width, height=height, resolution=resolution, origin=pose)
    return Fields(header=Fields(frame_id=frame), info=info, data=data)


def values(occupancy_map):
    """Grid values with row 0 at the bottom."""
    return to_occupancy_data(occupancy_map).reshape(occupancy_map.shape).tolist()


def test_trinary_pgm_has_row_zero_at_the_bottom(tmp_path):
    loaded = load_map_yaml(write(tmp_path))
    assert values(loaded) == [[-1, 0], [100, 0]]
    assert loaded.resolution == 0.05
    assert loaded.origin == (1.0, -2.0, 0.5)
    assert loaded.frame_id == "map"


def test_map_savers_usual_free_threshold_reads_grey_205_as_free_like_map_server(tmp_path):
    assert values(load_map_yaml(write(tmp_path, free_thresh=0.25))) == [[0, 0], [100, 0]]


def test_plain_pgm_with_comment_and_own_maximum(tmp_path):
    path = write(tmp_path)
    (tmp_path / "map.pgm").write_text("P2\n# a comment\n3 1\n15\n0 15 12\n")
    assert values(load_map_yaml(path)) == [[100, 0, -1]]


def test_binary_pgm_with_16_bit(tmp_path):
    path = write(tmp_path)
    pixels = np.array([0, 65535, 52685], dtype=">u2").tobytes()
    (tmp_path / "map.pgm").write_bytes(b"P5\n3 1\n65535\n" + pixels)
    assert values(load_map_yaml(path)) == [[100, 0, -1]]


def test_negate_swaps_dark_and_bright(tmp_path):
    assert values(load_map_yaml(write(tmp_path, negate=1))) == [[100, 100], [0, 100]]


def test_scale_keeps_the_middle_unknown(tmp_path):
    shades = [[255 - round(255 * occupancy) for occupancy in (0.1, 0.25, 0.42, 0.6, 0.9)]]
    assert values(load_map_yaml(write(tmp_path, shades, mode="scale"))) == [[0, 0, -1, 100, 100]]


def test_raw_takes_values_as_they_are(tmp_path):
    path = write(tmp_path, [[0, 25, 26, 64, 65, 100, 101, 255]])
    path.write_text(path.read_text() + "mode: raw\n")
    assert values(load_map_yaml(path)) == [[0, 0, -1, -1, 100, 100, -1, -1]]


def test_alpha_is_averaged_in_trinary_and_means_unknown_in_scale(tmp_path):
    pixels = [[[255, 255, 255, 255], [255, 255, 255, 0], [0, 0, 0, 255], [0, 0, 0, 0]]]
    path = write(tmp_path, pixels, name="map.png")
    # (255 * 3 + 0) / 4 is an occupancy of 0.25, (0 + 255) / 4 one of 0.75
    assert values(load_map_yaml(path)) == [[0, -1, 100, 100]]
    path.write_text(path.read_text() + "mode: scale\n")
    assert values(load_map_yaml(path)) == [[0, -1, 100, -1]]


def test_palette_and_one_bit_images(tmp_path):
    path = write(tmp_path, name="map.png")
    grey = Image.fromarray(np.array([[0, 255]], dtype=np.uint8))
    grey.convert("P").save(tmp_path / "map.png")
    assert values(load_map_yaml(path)) == [[100, 0]]
    grey.convert("1").save(tmp_path / "map.png")
    assert values(load_map_yaml(path)) == [[100, 0]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image": None}, "'image' must name"),
        ({"image": "none.pgm"}, "none.pgm, which does not exist"),
        ({"resolution": None}, "'resolution' is missing"),
        ({"resolution": 0}, "'resolution' must be 0.001 to 10 m"),
        ({"resolution": -0.05}, "'resolution' must be 0.001 to 10 m"),
        ({"resolution": math.nan}, "'resolution' must be a finite number"),
        ({"resolution": True}, "'resolution' must be a finite number"),
        ({"resolution": "coarse"}, "'resolution' must be a finite number.*coarse"),
        ({"occupied_thresh": None}, "'occupied_thresh' is missing"),
        ({"free_thresh": None}, "'free_thresh' is missing"),
        ({"free_thresh": math.nan}, "'free_thresh' must be a finite"),
        ({"occupied_thresh": 65}, "'occupied_thresh' must lie between 0 and 1.*65"),
        ({"free_thresh": -0.1}, "'free_thresh' must lie between"),
        ({"free_thresh": 0.65}, "'free_thresh' .0.65. must be below 'occupied_thresh'"),
        ({"mode": "binary"}, "'mode' must be one of trinary, scale, raw, got 'binary'"),
        ({"negate": None}, "'negate' is missing"),
        ({"negate": 2}, "'negate' must be 0 or 1"),
        ({"origin": None}, "'origin' must be three"),
        ({"origin": [0, 0]}, "'origin' must be three"),
        ({"origin": [0, 0, math.inf]}, "'origin' must be three"),
        ({"origin": "here"}, "'origin' must be three"),
    ],
)
def test_every_bad_key_is_named_with_its_file(tmp_path, changes, words):
    path = write(tmp_path)
    chosen = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(chosen))
    with pytest.raises(MapError, match=words) as caught:
        load_map_yaml(path)
    assert "map.yaml" in str(caught.value)


def test_exponent_without_a_point_is_a_number(tmp_path):
    path = write(tmp_path, resolution=None)
    path.write_text(path.read_text() + "resolution: 5e-2\n")
    assert load_map_yaml(path).resolution == 0.05


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "image: [unclosed", "plain words"])
def test_files_that_hold_no_settings(tmp_path, text):
    path = tmp_path / "map.yaml"
    path.write_text(text)
    with pytest.raises(MapError, match="map.yaml"):
        load_map_yaml(path)


def test_missing_yaml_folder_and_binary(tmp_path):
    with pytest.raises(MapError, match="no such map file"):
        load_map_yaml(tmp_path / "none.yaml")
    for path in (tmp_path, "/dev/zero"):  # the latter never ends
        with pytest.raises(MapError, match="is no file"):
            load_map_yaml(path)
    (tmp_path / "long.yaml").write_bytes(b"#" * (occupancy.LARGEST_SETTINGS + 1))
    with pytest.raises(MapError, match="has more than 65536 bytes"):
        load_map_yaml(tmp_path / "long.yaml")
    (tmp_path / "image.pgm").write_bytes(b"P5 1 1 255 \xff\xfe")
    with pytest.raises(MapError, match="not the image"):
        load_map_yaml(tmp_path / "image.pgm")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"P5\n4 4\n255\n\x00\x00",
        b"P2\n4 4\n255\n0 0 0\n",
        b"P2\n2 1\n255\n0 x\n",
        b"P5\n0 4\n255\n",
        b"\x89PNG\r\n\x1a\n\x00\x00",
    ],
)
def test_damaged_images_are_named(tmp_path, content):
    path = write(tmp_path)
    (tmp_path / "map.pgm").write_bytes(content)
    with pytest.raises(MapError, match="map.pgm: cannot be decoded"):
        load_map_yaml(path)


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_truncated_png_is_refused(tmp_path, kept):
    noise = np.random.default_rng(0).integers(0, 255, (40, 40))
    path = write(tmp_path, noise, name="map.png")
    content = (tmp_path / "map.png").read_bytes()
    (tmp_path / "map.png").write_bytes(content[: int(kept * len(content))])
    with pytest.raises(MapError, match="cannot be decoded"):
        load_map_yaml(path)


def test_large_images_are_refused_before_decoding(tmp_path, monkeypatch):
    path = write(tmp_path)
    for size in (b"8001 8000", b"60000 60000"):
        (tmp_path / "map.pgm").write_bytes(b"P5\n" + size + b"\n255\n")
        with pytest.raises(MapError, match="limit is 64000000"):
            load_map_yaml(path)
    monkeypatch.setattr(occupancy, "LARGEST_IMAGE", 3)
    write(tmp_path)
    with pytest.raises(MapError, match="2 x 2 pixels; the limit is 3"):
        load_map_yaml(path)


@settings(max_examples=50, deadline=None)
@given(
    data=arrays(
        np.int8, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.sampled_from([-1, 0, 100])
    ),
    origin=st.tuples(st.floats(-100, 100), st.floats(-100, 100), st.floats(-3, 3)),
    resolution=st.floats(0.001, 2.0),
)
def test_file_and_message_round_trips(tmp_path_factory, data, origin, resolution):
    original = OccupancyMap(data == 100, data == -1, resolution, origin)
    path = tmp_path_factory.mktemp("map") / "saved.yaml"
    assert save_map_yaml(original, path).name == "saved.pgm"
    loaded = load_map_yaml(path)
    assert values(loaded) == data.tolist()
    assert (loaded.resolution, loaded.origin) == (original.resolution, original.origin)
    sent = message(to_occupancy_data(original), data.shape[1], data.shape[0], resolution, origin[:2])
    sent.info.origin.orientation = Fields(**dict(zip("xyzw", quaternion_of(origin[2]), strict=True)))
    received = from_occupancy_grid(sent)
    assert values(received) == data.tolist()
    np.testing.assert_allclose(received.origin, origin, atol=1e-9)


def test_message_values_frame_and_container_types():
    data = [0, 25, 26, 64, 65, 100, -1, 0]
    for container in (data, array.array("b", data), np.array(data, dtype=np.int8)):
        received = from_occupancy_grid(message(container, 4, 2, frame="floor"))
        assert values(received) == [[0, 0, -1, -1], [100, 100, -1, 0]]
        assert received.frame_id == "floor"
    assert from_occupancy_grid(message(data, 4, 2, frame="")).frame_id == "map"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 3}, "data holds 4 values.*3 . 2 = 6"),
        ({"width": 0}, "0 x 2 pixels"),
        ({"resolution": 0.0}, "info.resolution"),
        ({"resolution": math.nan}, "info.resolution"),
        ({"position": (math.inf, 0.0)}, "info.origin.position"),
        ({"quaternion": (0, 0, 0, 0)}, "info.origin.orientation.*no direction"),
        ({"quaternion": (0, 0, math.nan, 1)}, "info.origin.orientation.*not finite"),
        ({"quaternion": (0.1, 0, 0, 1)}, "tilts the map by 11.4 degrees"),
        ({"data": [0, 0, 101, 0]}, r"data\[2\] is 101"),
        ({"data": [0, -2, 0, 0]}, r"data\[1\] is -2"),
    ],
)
def test_bad_messages_name_the_field(changes, words):
    with pytest.raises(MapError, match=words):
        from_occupancy_grid(message(**{"data": [0, 0, 0, 0], "width": 2, "height": 2, **changes}))


def test_map_checks_itself():
    no = np.zeros((2, 2), dtype=bool)
    with pytest.raises(MapError, match="at once"):
        OccupancyMap(~no, ~no, 0.1, (0, 0, 0))
    with pytest.raises(MapError, match=r"bool\[H, W\]"):
        OccupancyMap(no.astype(int), no, 0.1, (0, 0, 0))
    with pytest.raises(MapError, match=r"bool\[H, W\]"):
        OccupancyMap(no[:0], no[:0], 0.1, (0, 0, 0))
    with pytest.raises(MapError, match="pixels"):
        OccupancyMap(no, no[:1], 0.1, (0, 0, 0))
    with pytest.raises(MapError, match="resolution"):
        OccupancyMap(no, no, math.nan, (0, 0, 0))
    with pytest.raises(MapError, match="origin"):
        OccupancyMap(no, no, 0.1, (0, 0, math.nan))
    built = OccupancyMap(no, no, 0.1, (0, 0, 0))
    no[0, 0] = True
    assert not built.occupied[0, 0]
    with pytest.raises(ValueError, match="read-only"):
        built.occupied[0, 0] = True


def test_saving_needs_a_folder_and_a_yaml_name(tmp_path):
    built = OccupancyMap(np.zeros((1, 1), dtype=bool), np.zeros((1, 1), dtype=bool), 0.1, (0, 0, 0))
    with pytest.raises(MapError, match="create it first"):
        save_map_yaml(built, tmp_path / "none" / "map.yaml")
    with pytest.raises(MapError, match="ends in .yaml"):
        save_map_yaml(built, tmp_path / "map.pgm")


@pytest.mark.parametrize("resolution", [1e300, 1e-300, -0.05, math.inf, math.nan, 10.1, 0.0009])
def test_a_resolution_that_no_map_has_is_refused_everywhere(tmp_path, resolution):
    empty = np.zeros((2, 2), dtype=bool)
    with pytest.raises(MapError, match="resolution must be 0.001 to 10 m per pixel"):
        OccupancyMap(empty, empty, resolution, (0.0, 0.0, 0.0))
    with pytest.raises(MapError, match="info.resolution must be 0.001 to 10"):
        from_occupancy_grid(message([0] * 4, 2, 2, resolution))
    save_map_yaml(OccupancyMap(empty, empty, 0.05, (0.0, 0.0, 0.0)), tmp_path / "map.yaml")
    text = (tmp_path / "map.yaml").read_text().replace("0.05", str(resolution))
    (tmp_path / "map.yaml").write_text(text)
    with pytest.raises(MapError, match="'resolution' must be"):
        load_map_yaml(tmp_path / "map.yaml")


@pytest.mark.parametrize("origin", [(1e300, 0, 0), (0, -2e6, 0), (0, 0, 1e9)])
def test_an_origin_beyond_the_earth_is_refused(origin):
    empty = np.zeros((2, 2), dtype=bool)
    with pytest.raises(MapError, match="origin must be within 1000000 m"):
        OccupancyMap(empty, empty, 0.05, origin)


@pytest.mark.parametrize("mode", ["trinary", "scale", "raw"])
@pytest.mark.parametrize("kind", ["L", "LA", "RGB", "RGBA", "P", "1", "I;16"])
def test_images_are_read_alike_in_bands_of_any_height(tmp_path, monkeypatch, mode, kind):
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (13, 7, 4), dtype=np.uint8), "RGBA")
    if kind == "I;16":
        image = Image.fromarray(random.integers(0, 65536, (13, 7), dtype=np.uint16))
    elif kind != "RGBA":
        image = image.convert("RGB").convert(kind) if kind in ("P", "1") else image.convert(kind)
    image.save(tmp_path / "map.png")
    settings = {**GOOD, "image": "map.png", "mode": mode}
    (tmp_path / "map.yaml").write_text(yaml.safe_dump(settings))
    whole = load_map_yaml(tmp_path / "map.yaml")
    monkeypatch.setattr(occupancy, "BAND", 14)
    parts = load_map_yaml(tmp_path / "map.yaml")
    assert (whole.occupied == parts.occupied).all() and (whole.unknown == parts.unknown).all()
