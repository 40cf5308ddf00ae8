"""What errors may eat is added up, and cells that leave too little are refused."""

import math

import pytest
from fleet_sim import Sim, Stub, arena, at_cells
from hypothesis import assume, given
from hypothesis import strategies as st
from marlgpt_policy.fleet.fleet import Fleet
from marlgpt_policy.fleet.fleet_config import FleetConfig
from marlgpt_policy.grid.nav_grid import build_grid
from marlgpt_policy.motion.safety_margins import PASSING, TRACKING_ERROR, SafetyMargins, smallest_margin
from marlgpt_policy.robots.robot_config import RobotConfig

RADII, ERRORS = st.floats(0.05, 1.0), st.floats(0.0, 0.1)


@given(RADII, ERRORS, st.floats(0.0, 0.2))
def test_the_reserve_holds_all_errors_and_a_ring_can_still_turn(radius, pose_error, more):
    cell = 2 * math.sqrt(2) * radius + smallest_margin(pose_error) + more
    margins = SafetyMargins.of(cell, radius, pose_error)
    assert margins.reserve == pytest.approx(2 * pose_error + TRACKING_ERROR)
    assert margins.pose_error == pytest.approx(pose_error)
    body = margins.body / cell
    # Robots in a ring, all at share p: each keeps `body` from the one ahead, which has turned, with room to get on.
    for k in range(101):
        p = k / 100
        limit = 1 - math.sqrt(max(body**2 - p**2, 0.0))
        assert min(limit, 1.0) * cell >= p * cell + min(0.9 * PASSING, (1 - p) * cell) - 1e-9
    assert SafetyMargins.of(cell, radius).reserve == pytest.approx(margins.spare / 2)


@given(RADII, ERRORS, st.floats(0.001, 0.99))
def test_cells_that_do_not_leave_room_are_refused(radius, pose_error, share):
    margin = smallest_margin(pose_error) * share
    assume(margin < smallest_margin(pose_error) - 1e-6)
    with pytest.raises(ValueError, match="make margin or cell_size larger"):
        SafetyMargins.of(2 * math.sqrt(2) * radius + margin, radius, pose_error)


@given(RADII, st.floats(0.03, 0.3))
def test_without_a_bound_given_it_says_which_one_fits(radius, margin):
    cell = 2 * math.sqrt(2) * radius + margin
    fits = SafetyMargins.of(cell, radius).pose_error
    assert fits >= -1e-9
    SafetyMargins.of(cell, radius, max(fits, 0.0))


def test_a_fleet_refuses_poses_worse_than_its_cells_allow():
    map = arena(3, 3)
    grid = build_grid(map, 0.22, 0.05)
    robots = [RobotConfig("r")]
    fleet = Fleet(grid, Stub(), robots, FleetConfig(pose_error=0.003))
    assert fleet.margins.reserve == pytest.approx(0.016)
    with pytest.raises(
        ValueError, match=r"0.03 m off need cells of at least 0.7\d\d m \(a margin of 0.113 m\)"
    ):
        Fleet(grid, Stub(), robots, FleetConfig(pose_error=0.03))
    with pytest.raises(ValueError, match="pose_error"):
        FleetConfig(pose_error=-0.1)


def test_a_new_map_that_leaves_too_little_is_refused_and_nothing_changes():
    sim = Sim(arena(3, 3), at_cells(arena(3, 3), (1, 1)), pose_error=0.01)
    sim.run(0.5)
    before = sim.fleet.grid
    with pytest.raises(ValueError, match="margin"):
        sim.fleet.replace_map(build_grid(arena(3, 3), 0.22, 0.0, 0.65), None)
    assert sim.fleet.grid is before
