"""Protective stops: robots that turn up in somebody's way, whatever they should be doing there."""

import numpy as np
import pytest
from fleet_sim import PERIOD, RADIUS, Sim, arena, at_cells, hall
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.motion.clear_way import APPROACH, free_ahead, until_near
from marlgpt_policy.motion.docking import DOCKING_SPEED
from marlgpt_policy.robots.robot_config import Drive, Status

COORDINATE = st.floats(-3, 3)


@settings(max_examples=200, deadline=None)
@given(st.tuples(*[COORDINATE] * 6), st.floats(0, 2 * np.pi), st.floats(0.05, 1.0), st.booleans())
def test_until_near_is_where_a_fine_walk_first_comes_too_close(numbers, angle, reach, point):
    start, a, b = np.array(numbers[:2]), np.array(numbers[2:4]), np.array(numbers[4:])
    b = a if point else b
    ahead = np.array([np.cos(angle), np.sin(angle)])
    walked = np.linspace(0, 12, 6001)
    places = start + walked[:, None] * ahead
    span = b - a
    along = np.clip((places - a) @ span / max(span @ span, 1e-12), 0, 1)
    gaps = np.hypot(*(places - a - along[:, None] * span).T)
    near = np.flatnonzero(gaps < reach)
    found = until_near(*start, *ahead, *a, *b, reach)
    if len(near):
        assert found <= walked[near[0]] + 1e-9
    if np.isfinite(found):  # it neither stops too early, nor where it would only graze
        k = min(round(found / 0.002), 6000)
        assert gaps[max(k - 1, 0) : k + 2].min() <= reach + 0.002


def test_free_ahead_lets_robots_part_that_are_too_close_already():
    here, ends = np.array([[0.0, 0.0], [0.3, 0.0]]), np.array([[-1.0, 0.0], [1.0, 0.0]])
    both, reach = np.ones(2, bool), np.full(2, 0.5)
    assert np.isinf(free_ahead(here, ends, both, here, np.arange(2), reach)).all()
    assert (free_ahead(here, -ends, both, here, np.arange(2), reach) == 0).all()
    beside = ends + [[1.0, APPROACH / 2]] * 2  # hardly nearer: no approach
    assert np.isinf(free_ahead(here, beside, np.array([False, True]), here, np.arange(2), reach)).all()


def docking(distance, drive=Drive.DIFFERENTIAL, **options):
    """Robot 0 docks from `distance` m beside a cell's centre, robot 1 stands far off; the sim, when 0 drives."""
    map = arena(5, 5)
    poses = at_cells(map, (2, 2), (4, 0))
    poses[0, 0] -= distance
    sim = Sim(map, poses, drive=drive, **options)
    sim.run(5.0, lambda _: sim.status(0) == Status.DOCKING and np.hypot(*sim.world.velocities[0, :2]) > 0.1)
    assert sim.status(0) == Status.DOCKING
    return sim


def set_down(sim, robot, xy):
    sim.world.poses[robot, :2] = xy
    sim.world.velocities[robot] = 0.0


@pytest.mark.parametrize("drive", list(Drive))
@pytest.mark.parametrize("gap", [0.15, 0.2, 0.25])
@pytest.mark.parametrize("aside", [-0.3, 0.0, 0.2])
def test_a_docking_robot_stops_for_one_that_is_set_down_ahead_of_it(gap, aside, drive):
    sim = docking(0.33, drive)
    ahead = 2 * RADIUS + gap
    set_down(sim, 1, sim.world.poses[0, :2] + (np.sqrt(ahead**2 - aside**2), aside))
    sim.run(12.0)
    sim.assert_untouched()


@pytest.mark.parametrize("latency", [0.05, 0.2])
@pytest.mark.parametrize("beside", [-1, 1])
@pytest.mark.parametrize("stop", [0.35, 0.42, 0.5])
def test_a_docking_robot_stops_for_one_that_is_pushed_beside_its_way_and_stands(stop, beside, latency):
    """Pushed at 0.4 m/s towards the way until it stands at `stop` m from it; the fleet sees all of that."""
    sim = docking(0.33, latency=latency)
    way = sim.grid.centre(np.array([2, 2]))
    set_down(sim, 1, way + (0.05, beside * 0.9))
    sim.deaf = {1}
    nearest = np.inf
    for _ in range(round(8.0 / PERIOD)):
        away = abs(sim.world.poses[1, 1] - way[1])
        gap = np.hypot(*(sim.world.poses[0, :2] - sim.world.poses[1, :2])) - 2 * RADIUS
        nearest = min(nearest, gap)
        if gap > 0.12:  # who pushes does not push it against the other one
            sim.world.poses[1, 1] -= beside * min(0.4 * PERIOD, max(away - stop, 0.0))
        sim.tick()
    sim.assert_untouched()
    assert nearest < 0.3, "it never came near"


def test_a_docking_robot_that_is_kept_from_its_cell_takes_another_way_or_waits_and_says_so():
    sim = docking(0.33)
    sim.deaf = {1}
    set_down(sim, 1, sim.grid.centre(np.array([2, 2])) + (0.3, 0.0))
    details = set()
    sim.run(20.0, lambda _: details.add(sim.fleet.detail[0]))
    sim.assert_untouched()
    assert "another robot came into its way while docking" in details
    at = np.hypot(*(sim.world.poses[0, :2] - sim.grid.centre(np.array([2, 1])))) < 0.05
    assert at or "waits for robot 'r1'" in sim.fleet.detail[0]


def test_a_robot_on_the_grid_stops_for_one_that_slid_along_its_own_edge():
    """Claims know nothing of it: it was moved ahead on its edge, where another one passes first."""
    sim = hall((1, 0), (0, 2), size=(3, 5))
    sim.deaf = {1}
    sim.go(0, (1, 4))
    sim.run(3.0, lambda _: sim.world.poses[0, 0] > sim.grid.centre(np.array([1, 1]))[0] - 0.2)
    set_down(sim, 1, sim.grid.centre(np.array([0.75, 2.0])))  # 0.25 of a cell: it still counts as in its cell
    sim.run(3.0)
    assert sim.fleet.docked[1] or sim.status(1) == Status.JUMPED
    sim.assert_untouched()


def test_nobody_docks_faster_than_it_can_stop():
    sim = docking(0.33)
    fastest = 0.0
    for _ in range(60):
        sim.tick()
        fastest = max(fastest, float(np.hypot(*sim.world.velocities[0, :2])))
    assert 0.1 < fastest <= DOCKING_SPEED + 1e-9


@pytest.mark.parametrize("pause", [1.0, 10.0])
def test_after_the_process_froze_robots_that_stand_start_from_a_standstill(pause):
    """The bases stopped by themselves meanwhile: the first commands may not go on where the last ones were."""
    sim = hall((1, 0), size=(3, 12), latency=0.2)
    sim.go(0, (1, 11))
    sim.run(6.0, lambda r: r.commands[0, 0] > 0.7)
    assert sim.fleet.commands[0, 0] > 0.7
    sim.world.velocities[:] = 0.0
    sim.time += pause
    first = sim.tick().commands[0, 0]
    assert first <= sim.fleet.limits[0, 2] * PERIOD + 1e-9
    sim.run(20.0, lambda r: 0 in r.reached)
    assert sim.fleet.goals_reached[0] == 1


@pytest.mark.parametrize("drive", list(Drive))
def test_a_robot_docks_only_once_it_has_come_to_rest(drive):
    """After a new map it is off the grid while it still rolls: who turned then would drive a curve into a wall."""
    sim = hall((1, 0), size=(3, 12), latency=0.2, drive=drive)
    sim.go(0, (1, 11))
    sim.run(6.0, lambda r: np.hypot(*r.commands[0, :2]) > 0.7)
    sim.fleet.replace_map(sim.fleet.grid, sim.fleet.distances)
    rolled = 0.0
    for _ in range(60):
        sim.tick()
        speed = float(np.hypot(*sim.world.velocities[0, :2]))
        if sim.status(0) == Status.DOCKING:
            break
        assert (sim.fleet.commands[0] == 0).all()
        rolled = max(rolled, speed)
    assert sim.status(0) == Status.DOCKING and rolled > 0.4
    assert speed <= DOCKING_SPEED
    sim.run(30.0, lambda r: 0 in r.reached)
    assert sim.fleet.goals_reached[0] == 1
    sim.assert_untouched()


@pytest.mark.parametrize("wait", [1, 2, 4, 8])
def test_a_follower_that_is_stopped_and_resumed_while_it_rolls_keeps_its_distance(wait):
    """Commands are zero at once, the robot is not: what it may still have counts when it drives on."""
    sim = hall((1, 1), (1, 0), size=(3, 12), latency=0.2)
    sim.world.limits[:] = sim.fleet.limits[:] = [1.0, 2.5, 0.7, 5.0]
    sim.go(0, (1, 11))
    sim.go(1, (1, 10))
    sim.run(20.0, lambda _: sim.world.velocities[1, 0] > 0.6)
    assert sim.world.velocities[1, 0] > 0.6
    sim.deaf = {0}
    for _ in range(20):
        sim.fleet.stop()
        for _ in range(wait):
            sim.tick()
        sim.fleet.resume()
        for _ in range(3):
            sim.tick()
    sim.assert_untouched()
    assert sim.world.min_separation > sim.fleet.margins.reserve - 0.01
