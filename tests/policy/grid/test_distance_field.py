"""The distance field never claims more room than there is, and not much less either."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from marlgpt_policy.grid.distance_field import DistanceField
from marlgpt_policy.grid.occupancy_map import OccupancyMap


@st.composite
def maps(draw):
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    kinds = draw(arrays(np.int8, shape, elements=st.sampled_from([0, 0, 0, 0, 0, 1, 2])))
    origin = draw(st.tuples(st.floats(-5, 5), st.floats(-5, 5), st.floats(-3.2, 3.2)))
    return OccupancyMap(kinds == 1, kinds == 2, draw(st.sampled_from([0.05, 0.1, 0.37])), origin)


def to_map(map, local):
    """Points in pixels from the map's lower left corner, float[..., 2] (x, y), in metres of the map frame."""
    c, s = np.cos(map.origin[2]), np.sin(map.origin[2])
    x, y = local[..., 0] * map.resolution, local[..., 1] * map.resolution
    return np.stack([map.origin[0] + c * x - s * y, map.origin[1] + s * x + c * y], axis=-1)


def true_distance(obstacle, local):
    """Distance in pixels from points to obstacle squares and to the outside, by trying every square."""
    rows, cols = obstacle.shape
    x, y = local[..., 0], local[..., 1]
    best = np.maximum(np.minimum.reduce([x, y, cols - x, rows - y]), 0.0)
    for r, c in np.argwhere(obstacle):
        dx = np.maximum(np.maximum(c - x, x - (c + 1)), 0.0)
        dy = np.maximum(np.maximum(r - y, y - (r + 1)), 0.0)
        best = np.minimum(best, np.hypot(dx, dy))
    return best


@settings(max_examples=200, deadline=None)
@given(map=maps(), seed=st.integers(0, 2**32 - 1), unknown_is_free=st.booleans())
def test_a_point_is_never_further_from_obstacles_than_it_says(map, seed, unknown_is_free):
    random = np.random.default_rng(seed)
    rows, cols = map.shape
    local = random.uniform(-2, np.array([cols, rows]) + 2, (60, 2))
    # The first 20 almost in the corners of pixels, where the bound is tight.
    local[:20] = np.floor(local[:20]) + 0.001 + 0.998 * random.integers(0, 2, (20, 2))
    obstacle = map.occupied if unknown_is_free else map.occupied | map.unknown
    claimed = DistanceField(map, unknown_is_free).at(to_map(map, local))
    true = true_distance(obstacle, local) * map.resolution
    assert claimed.shape == (60,)
    assert (claimed >= 0).all()
    assert (claimed <= true + 1e-9).all()
    assert (claimed >= true - 2 * np.sqrt(2) * map.resolution - 1e-9).all(), "needlessly pessimistic"


@settings(max_examples=200, deadline=None)
@given(map=maps(), seed=st.integers(0, 2**32 - 1))
def test_a_segment_is_never_clearer_than_it_says(map, seed):
    random = np.random.default_rng(seed)
    rows, cols = map.shape
    field = DistanceField(map)
    for start, end in random.uniform(0, (cols, rows), (6, 2, 2)):
        dense = start + np.linspace(0, 1, 400)[:, None] * (end - start)
        true = true_distance(map.occupied | map.unknown, dense).min() * map.resolution
        claimed = field.along(to_map(map, start), to_map(map, end))
        assert 0 <= claimed <= true + 1e-9
        assert claimed == pytest.approx(field.along(to_map(map, end), to_map(map, start)), abs=1e-9)


def test_a_segment_through_a_thin_wall_has_no_clearance():
    occupied = np.zeros((21, 41), dtype=bool)
    occupied[:, 20] = True
    map = OccupancyMap(occupied, np.zeros_like(occupied), 0.05, (0.0, 0.0, 0.0))
    field = DistanceField(map)
    a, b = np.array([0.5, 0.5]), np.array([1.55, 0.5])
    assert field.at(a) > 0.4
    assert field.at(b) > 0.4
    assert field.along(a, b) == 0.0
    assert field.along(a, a) == pytest.approx(float(field.at(a)))


def test_unknown_counts_as_asked_and_outside_is_zero():
    unknown = np.zeros((20, 20), dtype=bool)
    unknown[10, 10] = True
    map = OccupancyMap(np.zeros_like(unknown), unknown, 0.1, (0.0, 0.0, 0.0))
    there = np.array([1.05, 1.05])
    assert DistanceField(map).at(there) == 0.0
    assert DistanceField(map, unknown_is_free=True).at(there) > 0.7
    assert DistanceField(map).at(np.array([[-0.01, 1.0], [1.0, 2.01], [1e9, -1e9]])).tolist() == [0.0] * 3


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**6), yaw=st.floats(-3, 3))
def test_exact_clearance_is_what_dense_sampling_of_squares_finds(seed, yaw):
    random = np.random.default_rng(seed)
    occupied = random.random((12, 15)) < 0.1
    map_ = OccupancyMap(occupied, np.zeros_like(occupied), 0.1, (0.3, -0.2, yaw))
    field = DistanceField(map_)
    ends = random.uniform((0.05, 0.05), (1.45, 1.15), (2, 2))
    c, s = np.cos(yaw), np.sin(yaw)
    start, end = ends @ np.array([[c, s], [-s, c]]) + (0.3, -0.2)
    way = np.linspace(ends[0], ends[1], 400)
    low = np.argwhere(occupied)[:, ::-1] * 0.1
    off = np.maximum(np.maximum(low[:, None] - way, way - low[:, None] - 0.1), 0.0)
    nearest = np.hypot(off[..., 0], off[..., 1]).min(initial=np.inf)
    border = min(way.min(axis=0).min(), (np.array([1.5, 1.2]) - way).min())
    expected = min(nearest, border, 0.4)
    assert field.clearance(start, end, 0.4) == pytest.approx(expected, abs=0.003)
    assert field.clearance(start, end, 0.4) <= expected + 1e-9
