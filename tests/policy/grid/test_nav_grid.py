"""The navigation grid: true clearance by brute force, the contract of its arrays, and the real maps."""

import math
import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from marlgpt_policy.grid import distance_field as clearance_module
from marlgpt_policy.grid import nav_grid as grid_module
from marlgpt_policy.grid.geometry import rotate
from marlgpt_policy.grid.grid_picture import draw_grid
from marlgpt_policy.grid.nav_grid import (
    ROUNDING,
    NavGrid,
    _clear_run,
    build_grid,
    clear_points,
    lattice_clearance,
    smallest_cell_size,
)
from marlgpt_policy.grid.occupancy_map import MapError, OccupancyMap, load_map_yaml
from PIL import Image
from places import ROOT

MAPS = ROOT.parent / "shared/maps"

origins = st.tuples(st.floats(-50, 50), st.floats(-50, 50), st.floats(-math.pi, math.pi))


def open_map(height=60, width=80, resolution=0.05, origin=(0.0, 0.0, 0.0)):
    """A map without obstacles."""
    no = np.zeros((height, width), dtype=bool)
    return OccupancyMap(no, no, resolution, origin)


def clearance_at(points: np.ndarray, occupancy_map: OccupancyMap, obstacle: np.ndarray) -> np.ndarray:
    """Distance of map-frame points to the nearest obstacle square or the image border, one by one."""
    local = rotate(points - occupancy_map.origin[:2], -occupancy_map.origin[2])
    size = occupancy_map.resolution
    height, width = obstacle.shape
    low = np.argwhere(obstacle)[:, ::-1] * size
    outside = np.stack([local[:, 0], local[:, 1], width * size - local[:, 0], height * size - local[:, 1]])
    distance = outside.min(axis=0)
    for corner in low:
        gap = np.maximum(0.0, np.maximum(corner - local, local - (corner + size)))
        distance = np.minimum(distance, np.hypot(gap[:, 0], gap[:, 1]))
    return distance


@st.composite
def maps(draw):
    """Random small maps, free on average, with unknown parts and any origin."""
    shape = draw(st.tuples(st.integers(8, 30), st.integers(8, 30)))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = generator.random(shape)
    share = draw(st.sampled_from([0.0, 0.01, 0.05]))
    return OccupancyMap(kind < share, kind > 1 - share / 2, draw(st.sampled_from([0.05, 0.1])), draw(origins))


@settings(max_examples=60, deadline=None)
@given(
    occupancy_map=maps(),
    radius=st.floats(0.03, 0.25),
    margin=st.floats(0.0, 0.1),
    steps=st.integers(0, 12),
    unknown_is_free=st.booleans(),
)
def test_every_edge_has_true_clearance_and_no_more_could_be_had(
    occupancy_map, radius, margin, steps, unknown_is_free
):
    smallest = smallest_cell_size(radius, margin)
    division = steps % 3 + 1
    fine = occupancy_map.resolution / division
    cell_size = None if steps == 0 else (math.ceil(smallest / fine) + steps // 3) * fine
    try:
        grid = build_grid(occupancy_map, radius, margin, cell_size, unknown_is_free)
    except MapError as error:
        assert "no cell is free" in str(error)
        assume(False)
    assert grid.cell_size >= smallest - 1e-9
    needed = radius + margin / 2
    obstacle = occupancy_map.occupied | (occupancy_map.unknown & (not unknown_is_free))
    along = np.linspace(0.0, 1.0, 41)[:, None]
    rows, columns = grid.shape
    for r, c in np.ndindex(rows, columns):
        middle = grid.centre(np.array([r, c]))
        alone = clearance_at(middle[None], occupancy_map, obstacle)[0]
        assert grid.free[r, c] == (alone >= needed - 1e-9) or abs(alone - needed) < 1e-7
        for move, (dr, dc) in ((2, (1, 0)), (4, (0, 1))):
            far = grid.centre(np.array([r + dr, c + dc]))
            least = clearance_at(middle + along * (far - middle), occupancy_map, obstacle).min()
            if grid.moves[r, c, move]:
                assert least >= needed - 1e-7
            elif r + dr < rows and c + dc < columns:
                # Not too careful either: the missing edge truly touches, up to the sampling of this check.
                assert least < needed + grid.cell_size / 80 + 1e-7


@settings(max_examples=40, deadline=None)
@given(free=arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))), origin=origins, data=st.data())
def test_moves_are_symmetric_and_round_trips_hold(free, origin, data):
    plain = NavGrid.from_cells(free)
    grid = NavGrid(plain.free, plain.moves, data.draw(st.floats(0.1, 5.0)), origin)
    for r, c, m in np.argwhere(grid.moves):
        dr, dc = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))[m]
        assert grid.moves[r + dr, c + dc, (0, 2, 1, 4, 3)[m]]
    np.testing.assert_array_equal(grid.moves[..., 0], grid.free)
    cells = data.draw(arrays(np.int64, (3, 4, 2), elements=st.integers(-30, 30)))
    np.testing.assert_array_equal(grid.cell_of(grid.centre(cells)), cells)
    off = data.draw(arrays(np.float64, (3, 4, 2), elements=st.floats(-0.49, 0.49))) * grid.cell_size
    np.testing.assert_array_equal(grid.cell_of(grid.centre(cells) + rotate(off, origin[2])), cells)


def test_centre_follows_the_contract():
    grid = NavGrid(
        np.ones((2, 3), dtype=bool), NavGrid.from_cells(np.ones((2, 3), dtype=bool)).moves, 0.5, (1, 2, 0)
    )
    np.testing.assert_allclose(grid.centre(np.array([1, 2])), [2.0, 1.5])
    turned = NavGrid(grid.free, grid.moves, 0.5, (1, 2, math.pi / 2))
    np.testing.assert_allclose(turned.centre(np.array([1, 2])), [1.5, 3.0])
    assert grid.inside(np.array([[0, 0], [1, 2], [2, 0], [0, -1]])).tolist() == [True, True, False, False]


def test_cell_of_refuses_nan_and_bounds_far_positions():
    grid = NavGrid.from_cells(np.ones((2, 2), dtype=bool))
    with pytest.raises(ValueError, match="finite"):
        grid.cell_of(np.array([[0.0, 0.0], [math.nan, 0.0]]))
    assert not grid.inside(grid.cell_of(np.array([1e300, -1e300])))


def test_from_cells_is_the_plain_grid_world():
    free = np.array([[1, 1, 0], [0, 1, 1]], dtype=bool)
    grid = NavGrid.from_cells(free)
    assert grid.cell_size == 1.0
    assert grid.moves[0, 1].tolist() == [True, False, True, True, False]
    assert grid.moves[0, 2].tolist() == [False] * 5
    np.testing.assert_allclose(grid.centre(np.array([1, 2])), [2, -1])


def test_components_are_ordered_by_size_and_follow_edges_only():
    free = np.array([[1, 0, 1, 1], [1, 0, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0]], dtype=bool)
    grid = NavGrid.from_cells(free)
    assert grid.components.tolist() == [[1, -1, 0, 0], [1, -1, 0, 0], [-1] * 4, [2, -1, 3, -1]]
    assert grid.components is grid.components
    moves = grid.moves.copy()
    moves[:, 2, 4] = moves[:, 3, 3] = False
    cut = NavGrid(free, moves, 1.0, (0, 0, 0))
    assert cut.components.tolist() == [[0, -1, 1, 2], [0, -1, 1, 2], [-1] * 4, [3, -1, 4, -1]]
    assert (NavGrid.from_cells(np.zeros((2, 2), dtype=bool)).components == -1).all()


def test_nearest_free():
    grid = NavGrid.from_cells(np.array([[1, 0, 1, 1]], dtype=bool))
    assert grid.nearest_free([0.9, 0.0], 2.0) == (0, 0)
    assert grid.nearest_free([0.9, 0.0], 2.0, component=0) == (0, 2)
    assert grid.nearest_free([0.9, 0.0], 0.5) is None
    assert grid.nearest_free([0.9, 0.0], 9.0, component=7) is None
    with pytest.raises(ValueError, match="finite"):
        grid.nearest_free([math.nan, 0.0], 1.0)
    with pytest.raises(ValueError, match="max_distance"):
        grid.nearest_free([0.0, 0.0], -1.0)


def test_grid_refuses_arrays_that_disagree():
    good = NavGrid.from_cells(np.ones((2, 2), dtype=bool))
    for place, words in (((0, 0, 0), "equal free"), ((0, 0, 2), "symmetric"), ((0, 1, 3), "symmetric")):
        moves = good.moves.copy()
        moves[place] = False
        with pytest.raises(ValueError, match=words):
            NavGrid(good.free, moves, 1.0, (0, 0, 0))
    moves = good.moves.copy()
    moves[0, 0, 1] = True
    with pytest.raises(ValueError, match="out of the grid"):
        NavGrid(good.free, moves, 1.0, (0, 0, 0))
    with pytest.raises(ValueError, match="cell_size"):
        NavGrid(good.free, good.moves, 0.0, (0, 0, 0))
    with pytest.raises(ValueError, match="origin"):
        NavGrid(good.free, good.moves, 1.0, (0, math.nan, 0))
    with pytest.raises(ValueError, match=r"bool\[R, C\]"):
        NavGrid.from_cells(np.ones((2, 2)))
    with pytest.raises(ValueError, match="read-only"):
        good.free[0, 0] = False


@given(obstacle=arrays(np.bool_, st.tuples(st.integers(1, 7), st.integers(1, 7))), division=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_lattice_clearance_is_exact(obstacle, division):
    plain = OccupancyMap(obstacle, np.zeros_like(obstacle), 0.3, (0, 0, 0))
    clearance = lattice_clearance(obstacle, 0.3, division)
    points = np.argwhere(np.ones_like(clearance, dtype=bool))[:, ::-1] * 0.3 / division
    expected = clearance_at(points, plain, obstacle).reshape(clearance.shape)
    np.testing.assert_allclose(clearance, np.maximum(expected, 0), atol=1e-9)


def test_row_zero_is_the_upper_edge_of_the_map():
    blocked = np.zeros((60, 80), dtype=bool)
    blocked[30:, 40:] = True  # the upper right quarter
    grid = build_grid(OccupancyMap(blocked, np.zeros_like(blocked), 0.05, (0, 0, 0)), 0.15)
    assert grid.free[0, 0] and grid.free[-1, -1]
    assert not grid.free[0, -1]
    assert grid.centre(np.array([0, 0]))[1] > grid.centre(np.array([grid.shape[0] - 1, 0]))[1]


def test_a_wall_between_two_free_cells_removes_the_edge():
    occupied = np.zeros((40, 80), dtype=bool)
    occupied[:, 40] = True
    grid = build_grid(OccupancyMap(occupied, np.zeros_like(occupied), 0.05, (0, 0, 0)), 0.2)
    at = grid.centre(np.argwhere(grid.components == 0))[:, 0]
    assert grid.components.max() == 1
    assert (at < 2.0).all() or (at > 2.05).all()


def test_the_offset_is_chosen_for_the_largest_component():
    # A corridor 0.55 m wide: a robot of radius 0.2 needs its centre within a few centimetres of the middle.
    occupied = np.ones((60, 100), dtype=bool)
    occupied[23:34, 2:98] = False
    grid = build_grid(OccupancyMap(occupied, np.zeros_like(occupied), 0.05, (0, 0, 0)), 0.2)
    assert grid.shape == (1, 7)
    assert grid.centre(np.array([0, 0]))[1] == pytest.approx(28.5 * 0.05, abs=0.051)


def test_building_is_deterministic_and_rotation_only_moves_the_frame():
    generator = np.random.default_rng(3)
    occupied = generator.random((50, 70)) < 0.01
    unknown = np.zeros_like(occupied)
    first = build_grid(OccupancyMap(occupied, unknown, 0.05, (0, 0, 0)), 0.12)
    again = build_grid(OccupancyMap(occupied, unknown, 0.05, (3, -1, 0.7), "odom"), 0.12)
    np.testing.assert_array_equal(first.moves, again.moves)
    cell = np.array([2, 3])
    np.testing.assert_allclose(again.centre(cell), rotate(first.centre(cell), 0.7) + [3, -1])
    assert again.frame_id == "odom"


def test_unknown_is_an_obstacle_unless_told():
    unknown = np.zeros((60, 60), dtype=bool)
    unknown[:, 30:] = True
    half = OccupancyMap(np.zeros_like(unknown), unknown, 0.05, (0, 0, 0))
    assert build_grid(half, 0.2).free.sum() < build_grid(half, 0.2, unknown_is_free=True).free.sum()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"radius": 0.2, "cell_size": 0.6}, r"cell_size 0.6 m is too small.* = 0.6157 m"),
        ({"radius": 0.2, "cell_size": math.nan}, "cell_size nan m is too small"),
        ({"radius": 0.2, "cell_size": 0.7123}, r"no multiple of a pixel .* use 0.7200 m"),
        (
            {"radius": 2.0},
            r"no cell is free for radius 2.0 .* widest place .* 1.500 m; a radius up to 1.475 m",
        ),
        ({"radius": 0.5, "margin": 4.0}, "no radius would fit"),
        ({"radius": 0.0}, "radius must be"),
        ({"radius": math.nan}, "radius must be"),
        ({"radius": 0.2, "margin": -0.1}, "margin must be"),
    ],
)
def test_refusals_carry_the_numbers(arguments, words):
    with pytest.raises(MapError, match=words):
        build_grid(open_map(), **arguments)


def test_given_cell_sizes_are_kept_exactly_and_the_suggestion_works():
    for cell_size in (0.65, 0.7, 0.66, 0.7125, 0.72, 1.0):
        assert build_grid(open_map(), 0.2, cell_size=cell_size).cell_size == pytest.approx(cell_size)


def test_the_radius_named_in_the_refusal_fits():
    assert build_grid(open_map(), 1.475).free.sum() == 1


def real_map(name):
    """A map of the shared folder, or skip."""
    if not (MAPS / f"{name}.yaml").exists():
        pytest.skip(f"{name} is not in the shared map folder")
    return load_map_yaml(MAPS / f"{name}.yaml")


@pytest.mark.parametrize(("name", "least"), [("depot", 900), ("tb3_sandbox", 28)])
def test_real_maps_give_one_big_component(name, least):
    occupancy_map = real_map(name)
    build_grid(occupancy_map, 0.2)  # compile
    start = time.perf_counter()
    grid = build_grid(occupancy_map, 0.2)
    assert time.perf_counter() - start < 3.0
    main = np.count_nonzero(grid.components == 0)
    assert main >= least
    assert main >= 0.95 * np.count_nonzero(grid.free)
    assert grid.cell_size == pytest.approx(0.65)


def test_picture_shows_cells_robots_and_goals(tmp_path):
    occupied = np.zeros((60, 80), dtype=bool)
    occupied[:, 40] = True
    origin = (5.0, -3.0, 0.4)
    occupancy_map = OccupancyMap(occupied, np.zeros_like(occupied), 0.05, origin)
    grid = build_grid(occupancy_map, 0.2)
    robots = np.column_stack([grid.centre(np.array([[0, 0], [1, 1]])), [0.0, 2.0]])
    draw_grid(occupancy_map, grid, tmp_path / "plain.png")
    draw_grid(occupancy_map, grid, tmp_path / "full.png", robots, grid.centre(np.array([[2, 0]])))
    plain, full = (
        np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")) for name in ("plain", "full")
    )
    enlarge = 10
    at = rotate(robots[0, :2] - origin[:2], -origin[2]) / 0.05
    x, y = int(at[0] * enlarge), int((60 - at[1]) * enlarge)
    assert tuple(plain[y, x]) in ((31, 119, 180), (235, 120, 30))
    assert tuple(full[y + 30, x]) == (26, 152, 80)
    with pytest.raises(ValueError, match=r"goals must be float\[n, 2\]"):
        draw_grid(occupancy_map, grid, tmp_path / "no.png", goals=np.zeros(2))


@given(
    obstacle=arrays(np.bool_, st.tuples(st.integers(1, 30), st.integers(1, 9))),
    division=st.integers(1, 3),
    needed=st.floats(0.01, 2.0),
    band=st.integers(1, 60),
)
@settings(max_examples=150, deadline=None)
def test_clear_points_are_the_same_in_bands_of_any_height(obstacle, division, needed, band):
    whole = lattice_clearance(obstacle, 0.1, division)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid_module, "BAND", band)
        patch.setattr(clearance_module, "BAND", band)
        clear, widest = clear_points(obstacle, 0.1, division, needed)
    assert (clear == (whole >= needed - ROUNDING)).all()
    assert widest == whole.max() or (clear.any() and widest >= needed - ROUNDING)


@given(
    clear=arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))),
    steps=st.integers(1, 6),
    axis=st.integers(0, 1),
)
@settings(max_examples=60, deadline=None)
def test_runs_are_where_all_points_ahead_are_clear(clear, steps, axis):
    runs = _clear_run(clear, steps, axis)
    for i, j in np.ndindex(clear.shape):
        ahead = clear[i, j : j + steps + 1] if axis else clear[i : i + steps + 1, j]
        assert runs[i, j] == (len(ahead) == steps + 1 and ahead.all())


def test_centres_are_made_once_and_cannot_be_changed():
    grid = NavGrid.from_cells(np.ones((3, 4), dtype=bool), 0.7)
    assert grid.centres() is grid.centres() and grid.centres().shape == (3, 4, 2)
    cells = np.argwhere(grid.free)
    assert (grid.centres()[cells[:, 0], cells[:, 1]] == grid.centre(cells)).all()
    with pytest.raises(ValueError, match="read-only"):
        grid.centres()[0, 0] = 1.0
