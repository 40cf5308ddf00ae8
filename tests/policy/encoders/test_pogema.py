"""The POGEMA encoder against a slow reference written from docs/design.md section 3, and its refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from marlgpt_policy.encoders.pogema import encode
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_policy.grid.cost_to_go import UNREACHABLE, cost_to_go
from marlgpt_policy.grid.nav_grid import NavGrid

STEP = {0: (0, 0), 1: (-1, 0), 2: (1, 0), 3: (0, -1), 4: (0, 1)}


def reference(field_list, cells, goals, history, moves, which, field_of):
    """One dictionary of (attribute, agent, time) -> value per robot, as the design text says it."""
    rows, cols = moves.shape[:2]
    answer = []
    for i in which:
        r, c = cells[i]
        own = field_list[field_of[i]]
        seen = {}
        for k in range(121):
            rr, cc = r + k // 11 - 5, c + k % 11 - 5
            value = -2.0
            if 0 <= rr < rows and 0 <= cc < cols and own[rr][cc] < UNREACHABLE and own[r][c] < UNREACHABLE:
                relative = int(own[rr][cc]) - int(own[r][c])
                value = relative / 20 if abs(relative) <= 20 else 2.0
            seen[k, 0, 0] = value
        near = [
            (abs(rr - r) + abs(cc - c), rr - r, cc - c, j)
            for j, (rr, cc) in enumerate(cells)
            if abs(rr - r) <= 5 and abs(cc - c) <= 5
        ]
        for slot, (_, dr, dc, j) in enumerate(sorted(near)[:13]):
            seen[121, slot, 0], seen[122, slot, 0] = dr / 5, dc / 5
            seen[123, slot, 0] = max(-1.0, min(1.0, (goals[j][0] - r) / 20))
            seen[124, slot, 0] = max(-1.0, min(1.0, (goals[j][1] - c) / 20))
            for age in range(5):
                if history[j][age] >= 0:
                    row, column = STEP[int(history[j][age])]
                    seen[125, slot, age + 1], seen[126, slot, age + 1] = row, column
            theirs = field_list[field_of[j]]
            rr, cc = cells[j]
            for move in (1, 2, 3, 4):
                ahead = rr + STEP[move][0], cc + STEP[move][1]
                closer = moves[rr][cc][move] and theirs[ahead[0]][ahead[1]] < theirs[rr][cc]
                seen[127, slot, 5 + move] = float(closer)
        seen[128, 0, 0] = 2 / 4
        answer.append(seen)
    return answer


@st.composite
def scenes(draw):
    """A random grid with agents, goals, histories and any sharing of fields."""
    shape = draw(st.tuples(st.integers(1, 16), st.integers(1, 16)))
    free = draw(arrays(np.bool_, shape, elements=st.sampled_from([True, True, True, False])))
    free[draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))] = True
    moves = NavGrid.from_cells(free).moves
    spots = np.argwhere(free)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, min(len(spots), 24)))
    cells = spots[random.permutation(len(spots))[:n]]
    goals = spots[random.integers(0, len(spots), n)]
    used, field_of = np.unique(goals, axis=0, return_inverse=True)
    fields = np.stack([cost_to_go(moves, goal) for goal in used])
    history = draw(arrays(np.int8, (n, 5), elements=st.integers(-1, 4)))
    which = np.array(draw(st.lists(st.integers(0, n - 1), max_size=n)), dtype=np.int64)
    return fields, cells, goals, history, moves, which, field_of.ravel()


@settings(max_examples=150, deadline=None)
@given(scene=scenes())
def test_equals_the_reference(scene):
    fields, cells, goals, history, moves, which, field_of = scene
    values, valid, mask = encode(fields, cells, goals, history, moves, which, field_of)
    assert (values.shape, values.dtype) == ((len(which), 356), np.float32)
    assert (valid.dtype, mask.shape, mask.dtype) == (np.bool_, (len(which), 20), np.bool_)
    expected = reference(fields, cells.tolist(), goals.tolist(), history, moves, which, field_of)
    columns = (getattr(POGEMA_LAYOUT, name).tolist() for name in ("attr", "agent", "time"))
    ids = list(zip(*columns, strict=True))
    for row, (i, seen) in enumerate(zip(which, expected, strict=True)):
        assert valid[row].tolist() == [key in seen for key in ids]
        np.testing.assert_array_equal(values[row], np.array([seen.get(key, 0.0) for key in ids], np.float32))
        r, c = cells[i]
        assert mask[row].tolist() == [bool(moves[r, c, m]) if m < 5 else False for m in range(20)]
    plain = values[~np.isin(values, (-2.0, 2.0))]
    assert (np.abs(plain) <= 1.0).all()


@settings(max_examples=40, deadline=None)
@given(scene=scenes())
def test_defaults_mean_all_robots_with_a_field_each(scene):
    fields, cells, goals, history, moves, _, field_of = scene
    own = np.ascontiguousarray(fields[field_of])
    everyone = np.arange(len(cells))
    for a, b in zip(
        encode(own, cells, goals, history, moves),
        encode(fields, cells, goals, history, moves, everyone, field_of),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@settings(max_examples=60, deadline=None)
@given(scene=scenes(), top=st.integers(0, 7), left=st.integers(0, 7))
def test_shifting_everything_changes_nothing(scene, top, left):
    fields, cells, goals, history, moves, which, field_of = scene
    wide = ((top, 7 - top), (left, 7 - left))
    shifted = np.array([top, left])
    moved = encode(
        np.pad(fields, ((0, 0), *wide), constant_values=UNREACHABLE), cells + shifted, goals + shifted,
        history, np.pad(moves, (*wide, (0, 0))), which, field_of,
    )  # fmt: skip
    for a, b in zip(encode(fields, cells, goals, history, moves, which, field_of), moved, strict=True):
        np.testing.assert_array_equal(a, b)


def open_scene(n=3):
    moves = NavGrid.from_cells(np.ones((6, 7), dtype=bool)).moves
    cells = np.array([(0, 0), (2, 3), (5, 6)])[:n]
    goals = np.array([(5, 6), (0, 0), (2, 3)])[:n]
    fields = np.stack([cost_to_go(moves, goal) for goal in goals])
    return [fields, cells, goals, np.full((n, 5), -1, np.int8), moves]


def test_only_the_nearest_13_of_many_agents_are_seen():
    moves = NavGrid.from_cells(np.ones((5, 5), dtype=bool)).moves
    cells = np.argwhere(moves[..., 0])
    fields = cost_to_go(moves, (0, 0))[None]
    which, shared = np.array([12]), np.zeros(25, int)
    values, valid, _ = encode(fields, cells, cells, np.full((25, 5), -1), moves, which, shared)
    assert valid[0, 121:-1].reshape(13, 18)[:, 0].all()
    seen = np.rint(values[0, 121:-1].reshape(13, 18)[:, :2] * 5).astype(int)
    assert np.abs(seen).sum(axis=1).tolist() == [0] + [1] * 4 + [2] * 8


def test_a_goal_that_cannot_be_reached_blocks_the_whole_window_and_flags_no_move():
    free = np.ones((3, 5), dtype=bool)
    free[:, 2] = False
    moves = NavGrid.from_cells(free).moves
    fields = cost_to_go(moves, (1, 4))[None]
    values, valid, mask = encode(fields, np.array([[1, 0]]), np.array([[1, 4]]), np.full((1, 5), -1), moves)
    assert (values[0, :121] == -2.0).all()
    assert (values[0, 135:139] == 0.0).all() and valid[0, 135:139].all()
    assert mask[0, :5].tolist() == [True, True, True, False, True]


def test_no_robots_give_empty_arrays():
    fields, _, _, _, moves = open_scene()
    none = np.zeros((0, 2), int)
    values, valid, mask = encode(fields[:0], none, none, np.zeros((0, 5), np.int8), moves)
    assert (values.shape, valid.shape, mask.shape) == ((0, 356), (0, 356), (0, 20))


def broken(index, value):
    scene = open_scene()
    scene[index] = value
    return scene


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (broken(1, np.array([(0, 0), (6, 3), (5, 6)])), r"robot 1 is at cell .*6.*3.*outside the 6 x 7 grid"),
        (broken(1, np.array([(0, 0), (2, 3), (5, -1)])), r"robot 2 .*outside"),
        (broken(1, np.zeros((3, 3), int)), r"cells \(3, 3\)"),
        (broken(2, np.zeros((2, 2), int)), r"goals \(2, 2\)"),
        (broken(3, np.zeros((3, 4), np.int8)), r"history \(3, 4\)"),
        (broken(3, np.full((3, 5), 5, np.int8)), "history"),
        (broken(0, np.zeros((3, 6, 6), np.int32)), "do not match moves"),
        (broken(4, np.ones((6, 7, 4), bool)), "do not match moves"),
        (broken(0, np.zeros((2, 6, 7), np.int32)), "field_of must hold 3 indices into the 2 fields"),
        ([*open_scene(), None, np.array([0, 1])], "field_of must hold 3"),
        ([*open_scene(), None, np.array([0, 1, -1])], "field_of"),
        ([*open_scene(), np.array([0, 3])], "which"),
        ([*open_scene(), np.array([-1])], "which"),
    ],
)
def test_wrong_input_is_refused_by_name(args, complaint):
    with pytest.raises(ValueError, match=complaint):
        encode(*args)
