"""Goals of the task source may be kept to rectangles of the map."""

import numpy as np
import pytest

pytest.importorskip("rclpy")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from marlgpt_policy.grid.nav_grid import NavGrid, build_grid  # noqa: E402
from marlgpt_sim.maps import two_halls
from marlgpt_sim.nodes.task_source import GoalStream  # noqa: E402

corner = st.floats(-1.0, 6.0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(corner, corner, corner, corner), min_size=1, max_size=3), st.integers(0, 1000))
def test_every_goal_lies_in_an_area(areas, seed):
    grid = NavGrid.from_cells(np.ones((5, 6), bool), 1.0)
    centres = grid.centre(np.argwhere(grid.free))
    inside = {
        tuple(cell)
        for cell, (x, y) in zip(np.argwhere(grid.free).tolist(), centres.tolist(), strict=True)
        if any(left <= x <= right and bottom <= y <= top for left, bottom, right, top in areas)
    }
    if not inside:
        with pytest.raises(ValueError, match="no cell lies within parameter 'areas'"):
            GoalStream(grid, seed, 2, np.array(areas))
        return
    stream = GoalStream(grid, seed, 2, np.array(areas))
    assert {stream.draw(k % 2, set()) for k in range(20)} <= inside


def test_the_halls_are_the_areas_of_the_site():
    grid = build_grid(two_halls.two_halls_map(), two_halls.RADIUS)
    stream = GoalStream(grid, 0, 1, np.array(two_halls.goal_areas()))
    assert (stream._cells == two_halls.goal_cells()).all()
