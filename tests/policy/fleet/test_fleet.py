"""The fleet step on a simulated plant: nobody touches anything, whatever fails, and the rest keeps going."""

import numpy as np
import pytest
from fleet_sim import PERIOD, RADIUS, Sim, Stub, arena, at_cells, hall
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.fleet.fleet import Fleet
from marlgpt_policy.fleet.fleet_config import FleetConfig
from marlgpt_policy.grid.goal_cell import GoalError
from marlgpt_policy.grid.nav_grid import build_grid
from marlgpt_policy.grid.occupancy_map import OccupancyMap
from marlgpt_policy.robots.robot_config import Drive, RobotConfig, Status
from marlgpt_sim.world.fleet_world import FleetWorld
from marlgpt_sim.world.spawn import place_robots


def boxes(seed):
    """A hall with random boxes, 5 m x 5 m, turned by a random yaw."""
    random = np.random.default_rng(seed)
    occupied = np.zeros((100, 100), dtype=bool)
    for _ in range(random.integers(2, 7)):
        (r, c), (h, w) = random.integers(0, 95, 2), random.integers(2, 22, 2)
        occupied[r : r + h, c : c + w] = True
    origin = (*random.normal(size=2), random.uniform(-3, 3))
    return OccupancyMap(occupied, np.zeros_like(occupied), 0.05, origin)


# Nobody touches anything ---------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    drive=st.sampled_from(["differential", "holonomic", "mixed"]),
    noise=st.sampled_from([0.0, 0.003]),
    aimless=st.booleans(),
    share=st.sampled_from([0.15, 0.4, 0.7]),
)
def test_nobody_touches_anything_on_random_maps(seed, drive, noise, aimless, share):
    map = boxes(seed)
    grid = build_grid(map, RADIUS)
    main = np.argwhere(grid.components == 0)
    n = max(1, round(share * len(main)))
    random = np.random.default_rng(seed)
    kinds = {"differential": np.zeros(n, int), "holonomic": np.ones(n, int), "mixed": np.arange(n) % 2}[drive]
    policy = Stub(seed if aimless else None)
    sim = Sim(map, place_robots(grid, n, seed), policy, kinds, noise, seed, temperature=0.7)

    def new_goals(result):
        for i in result.reached:
            sim.go(i, main[random.integers(len(main))])

    for i in range(n):
        sim.go(i, main[random.integers(len(main))])
    sim.run(30.0, new_goals)
    sim.assert_untouched()
    assert sim.fleet.steps > 5, "nothing was decided"


def test_a_fleet_with_a_goal_seeking_policy_keeps_arriving():
    sim = hall(*((r, c) for r in (0, 4) for c in range(5)), size=(5, 5), noise=0.003, temperature=0.5)
    random = np.random.default_rng(0)

    def new_goals(result):
        for i in result.reached:
            sim.go(i, random.integers(0, 5, 2))

    for i in range(10):
        sim.go(i, random.integers(0, 5, 2))
    sim.run(90.0, new_goals)
    sim.assert_untouched()
    reached = sim.fleet.goals_reached
    assert reached.min() >= 1 and reached.sum() >= 35, reached


@pytest.mark.parametrize("drive", list(Drive))
def test_a_chain_follows_at_once_and_without_contact(drive):
    sim = hall((0, 0), (0, 1), (0, 2), size=(1, 7), drive=drive)
    for i in range(3):
        sim.go(i, (0, 4 + i))
    together = 0

    def count(result):
        nonlocal together
        together += int((np.abs(result.commands[:, 0]) > 0.3).all())

    sim.run(15.0, count)
    sim.assert_untouched()
    assert sim.fleet.goals_reached.tolist() == [1, 1, 1]
    assert together > 20, "followers waited for their leaders to arrive"


@pytest.mark.parametrize("drive", list(Drive))
@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_four_robots_rotate_on_a_two_by_two_ring(drive, noise):
    sim = hall((0, 0), (0, 1), (1, 1), (1, 0), size=(2, 2), drive=drive, noise=noise)
    ring = [(0, 1), (1, 1), (1, 0), (0, 0)]
    for lap in range(3):
        for i in range(4):
            sim.go(i, ring[(i + lap) % 4])
        sim.run(12.0, lambda _, lap=lap: (sim.fleet.goals_reached == lap + 1).all())
        assert sim.fleet.goals_reached.tolist() == [lap + 1] * 4
    assert sim.fleet.vetoes.sum() == 0, "a rotation needs no veto"
    sim.assert_untouched()


# Robots that fail ----------------------------------------------------------------------------------------


def shuttle(sim, robots, ends):
    """Send robots back and forth between two cells each."""

    def again(result):
        for i in result.reached:
            if i in robots:
                sim.go(i, ends[i][sim.fleet.goals_reached[i] % 2])

    for i in robots:
        sim.go(i, ends[i][0])
    return again


def test_a_robot_that_does_not_obey_keeps_its_cells_and_the_others_go_on():
    sim = hall((0, 0), (1, 0), (2, 0), step_timeout=1.0)
    sim.deaf = {0}
    sim.go(0, (0, 4))
    again = shuttle(sim, (1, 2), {1: ((1, 4), (1, 0)), 2: ((2, 4), (2, 0))})
    sim.run(40.0, again)
    assert sim.fleet.cells[0].tolist() == [0, 0]
    for cell in (sim.fleet.cells[0], sim.fleet.targets[0]):
        assert sim.fleet.reservations.holder[tuple(cell)] == 0
    assert sim.fleet.goals_reached[0] == 0
    assert (sim.fleet.goals_reached[1:] >= 2).all()
    sim.assert_untouched()


def test_a_stale_robot_is_stopped_at_once_and_the_others_go_on():
    sim = hall((0, 0), (1, 0), (2, 0), step_timeout=1.0)
    again = shuttle(sim, (0, 1, 2), {i: ((i, 4), (i, 0)) for i in range(3)})
    sim.run(10.0, lambda r: again(r) or abs(r.commands[0, 0]) > 0.5)
    assert sim.fleet.commands[0, 0] > 0.5
    sim.silent = {0}
    timeout = round(sim.fleet.config.pose_timeout / PERIOD)
    late = sim.run(3.0, again)[timeout + 1 :]
    assert all((tick.commands[0] == 0).all() for tick in late)
    assert sim.status(0) == Status.STALE
    held = {tuple(sim.fleet.cells[0]), tuple(sim.fleet.targets[0])}
    before = sim.fleet.goals_reached.copy()
    sim.run(30.0, again)
    assert (sim.fleet.goals_reached - before)[0] == 0
    assert (sim.fleet.goals_reached - before)[1:].min() >= 2
    assert all(sim.fleet.reservations.holder[cell] == 0 for cell in held)
    sim.assert_untouched()
    sim.silent = set()
    sim.run(15.0, again)
    assert sim.fleet.goals_reached[0] > before[0], "it goes on when its poses come back"
    sim.assert_untouched()


def test_the_command_is_zero_in_the_very_period_in_which_a_pose_gets_too_old():
    sim = hall((1, 0), pose_timeout=0.5)
    sim.go(0, (1, 4))
    sim.run(10.0, lambda r: r.commands[0, 0] > 0.5)
    newest = sim.fleet.pose_time[0]
    assert sim.fleet.tick(newest + 0.2).commands[0, 0] > 0
    sim.fleet.tick(newest + 0.49)
    assert sim.fleet.status(0, newest + 0.49)[0] != Status.STALE
    assert (sim.fleet.tick(newest + 0.51).commands[0] == 0).all()
    assert sim.fleet.status(0, newest + 0.51)[0] == Status.STALE


@pytest.mark.parametrize("bad", [(np.nan, 0, 0), (0, np.inf, 0), (0, 0, -np.inf)])
def test_a_pose_that_is_not_finite_is_refused_and_the_robot_stops(bad):
    sim = hall((0, 0), (2, 0))
    sim.go(0, (0, 4))
    sim.run(10.0, lambda r: r.commands[0, 0] > 0.5)
    good = sim.fleet.poses[0].copy()
    sim.silent = {0}
    for _ in range(12):
        with pytest.raises(ValueError, match="'r0' is not finite"):
            sim.fleet.update_pose(0, *bad, sim.time)
        result = sim.tick()
    np.testing.assert_array_equal(sim.fleet.poses[0], good)
    assert (result.commands[0] == 0).all()
    assert sim.status(0) == Status.STALE


def test_a_robot_that_never_sends_a_pose_stands_and_the_others_work():
    sim = hall((0, 0), (2, 0))
    sim.silent = {0}
    sim.go(0, (0, 4))
    sim.go(1, (2, 4))
    ticks = sim.run(15.0)
    assert all((tick.commands[0] == 0).all() for tick in ticks)
    assert sim.fleet.goals_reached.tolist() == [0, 1]
    assert sim.fleet.status(0, sim.time) == (Status.NO_POSE, "no pose received yet")


def test_a_pose_outside_the_map_is_off_grid():
    sim = hall((0, 0), (2, 0))
    fleet = sim.fleet
    fleet.update_pose(0, 40.0, -30.0, 0.0, 0.0)
    fleet.update_pose(1, *sim.world.poses[1], 0.0)
    assert (fleet.tick(0.0).commands == 0).all()
    status, detail = fleet.status(0, 0.0)
    assert status == Status.OFF_GRID
    assert "outside the map" in detail
    assert fleet.status(1, 0.0)[0] == Status.IDLE
    sim.go(1, (2, 4))
    sim.silent = {0}
    for _ in range(300):
        fleet.update_pose(0, 40.0, -30.0, 0.0, sim.time)
        assert (sim.tick().commands[0] == 0).all()
    assert fleet.goals_reached[1] == 1


def test_a_running_robot_whose_pose_jumps_out_of_the_map_stops():
    sim = hall((0, 0), (2, 0))
    sim.go(0, (0, 4))
    sim.run(10.0, lambda r: r.commands[0, 0] > 0.5)
    sim.silent = {0}
    held = np.argwhere(sim.fleet.reservations.holder == 0)
    sim.fleet.update_pose(0, 40.0, 0.0, 0.0, sim.time)
    assert (sim.tick().commands[0] == 0).all()
    assert sim.status(0) == Status.JUMPED
    for _ in range(round(sim.fleet.config.jump_settle / PERIOD) + 1):
        sim.fleet.update_pose(0, 40.0, 0.0, 0.0, sim.time)
        assert (sim.tick().commands[0] == 0).all()
    assert sim.status(0) == Status.OFF_GRID, "it stays there, so it is believed"
    assert (sim.fleet.reservations.holder[tuple(held.T)] == 0).all(), "where it may be stays reserved"


# Goals and configuration ---------------------------------------------------------------------------------


def rooms():
    """Two rooms without a door between them."""
    occupied = np.zeros((60, 100), dtype=bool)
    occupied[:, 48:60] = True
    return OccupancyMap(occupied, np.zeros_like(occupied), 0.05, (0.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("goal", "reason"),
    [
        ((2.7, 1.5), "in a wall"),
        ((4.3, 1.5), "cannot be reached"),
        ((-3.0, 1.5), "outside the map"),
        ((1e9, 1e9), "outside the map"),
        ((np.nan, 1.5), "not finite"),
        ((1.0, -np.inf), "not finite"),
    ],
)
def test_impossible_goals_are_refused_with_the_robots_name(goal, reason):
    map = rooms()
    sim = Sim(map, place_robots(build_grid(map, RADIUS), 2, 0)[:1])
    sim.tick()
    sim.go(0, sim.fleet.cells[0])
    kept = sim.fleet.goals[0].copy()
    with pytest.raises(GoalError, match=reason) as caught:
        sim.fleet.set_goal(0, *goal)
    assert "'r0'" in str(caught.value)
    np.testing.assert_array_equal(sim.fleet.goals[0], kept)


def test_a_goal_given_before_the_first_pose_is_dropped_with_a_reason_if_it_cannot_be_reached():
    map = rooms()
    grid = build_grid(map, RADIUS)
    here, there = (np.argwhere(grid.components == k)[0] for k in (0, 1))
    sim = Sim(map, at_cells(map, here))
    sim.go(0, there)
    ticks = sim.run(2.0)
    assert all((tick.commands == 0).all() for tick in ticks)
    assert sim.fleet.goals[0].tolist() == [-1, -1]
    status, detail = sim.fleet.status(0, sim.time)
    assert status == Status.IDLE and "cannot be reached" in detail


def test_a_goal_beside_a_cell_centre_is_snapped_to_the_cell():
    sim = hall((0, 0))
    x, y = sim.grid.centre(np.array([2, 3]))
    assert sim.fleet.set_goal(0, x + 0.2, y - 0.2).tolist() == [2, 3]


def test_duplicate_names_no_robots_and_too_large_robots_are_refused():
    grid = build_grid(arena(2, 2), RADIUS)
    with pytest.raises(ValueError, match="used twice: a"):
        Fleet(grid, Stub(), [RobotConfig("a"), RobotConfig("b"), RobotConfig("a")])
    with pytest.raises(ValueError, match="no robots"):
        Fleet(grid, Stub(), [])
    with pytest.raises(ValueError, match="radius 0.4 m need cells"):
        Fleet(grid, Stub(), [RobotConfig("a", radius=0.4)])
    with pytest.raises(ValueError, match="pose_timeout"):
        FleetConfig(pose_timeout=float("nan"))


# Stop ----------------------------------------------------------------------------------------------------


def test_stop_zeroes_every_command_on_that_tick_and_resume_goes_on():
    sim = hall((0, 0), (1, 0), (2, 0), noise=0.002)
    for i in range(3):
        sim.go(i, (i, 4))
    sim.run(10.0, lambda r: (r.commands[:, 0] > 0.5).all())
    assert (sim.fleet.commands[:, 0] > 0.5).all()
    sim.fleet.stop()
    ticks = sim.run(5.0)
    assert all((tick.commands == 0).all() and tick.decision is None for tick in ticks)
    assert {sim.status(i) for i in range(3)} == {Status.STOPPED}
    sim.fleet.resume()
    sim.run(15.0)
    assert sim.fleet.goals_reached.tolist() == [1, 1, 1]
    sim.assert_untouched()


def test_a_cancelled_goal_lets_the_robot_finish_its_cell_and_stay():
    sim = hall((0, 0))
    sim.go(0, (0, 4))
    sim.run(10.0, lambda r: r.commands[0, 0] > 0.5)
    sim.fleet.cancel_goal(0)
    sim.run(5.0)
    assert sim.status(0) == Status.IDLE
    assert sim.fleet.goals_reached[0] == 0
    away = np.hypot(*(sim.world.poses[0, :2] - sim.grid.centre(sim.fleet.cells[0])))
    assert away < 0.05


# Docking -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("drive", list(Drive))
def test_a_robot_pushed_sideways_docks_again_and_arrives(side, drive):
    sim = hall((2, 0), (0, 0), size=(5, 6), drive=drive)
    sim.go(0, (2, 5))
    sim.go(1, (0, 5))
    sim.run(10.0, lambda r: sim.fleet.cells[0, 1] >= 2 and 0.3 < sim.fleet.progress[0] < 0.7)
    sim.world.poses[0, 1] += side * 0.45 * sim.grid.cell_size
    assert (sim.tick().commands[0] == 0).all()
    seen = set()
    sim.run(25.0, lambda _: seen.add(sim.status(0)))
    assert {Status.JUMPED, Status.DOCKING} <= seen
    assert sim.fleet.goals_reached.tolist() == [1, 1]
    sim.assert_untouched()


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), noise=st.sampled_from([0.0, 0.003]))
def test_robots_that_start_off_centre_dock_without_contact(seed, noise):
    map = boxes(seed)
    grid = build_grid(map, RADIUS)
    random = np.random.default_rng(seed)
    poses = np.zeros((0, 3))
    centres = grid.centre(np.argwhere(grid.free))
    low, high = centres.min(axis=0) - 0.3, centres.max(axis=0) + 0.3
    for _ in range(60):  # robots anywhere, as long as they touch nothing
        candidate = np.vstack([poses, [*random.uniform(low, high), random.uniform(-3, 3)]])
        try:
            world = FleetWorld(map, candidate, RADIUS)
        except ValueError:
            continue
        if world.separation > 0.02 and world.wall_gaps().min() > 0.02 and len(poses) < 5:
            poses = candidate
    sim = Sim(map, poses, noise=noise, seed=seed)
    sim.run(30.0)
    sim.assert_untouched()
    for i in range(len(poses)):
        if sim.status(i) == Status.IDLE:
            away = np.hypot(*(sim.world.poses[i, :2] - grid.centre(sim.fleet.cells[i])))
            assert away < 0.06
        else:
            assert sim.status(i) == Status.OFF_GRID
            assert sim.fleet.detail[i] != ""


def test_a_robot_beside_a_centre_docks_and_takes_part():
    map = arena(3, 5)
    poses = at_cells(map, (1, 1))
    poses[0, :2] += (0.2, -0.15)
    sim = Sim(map, poses)
    sim.tick()
    assert sim.status(0) == Status.DOCKING
    sim.run(6.0)
    assert sim.status(0) == Status.IDLE
    sim.go(0, (0, 4))
    sim.run(12.0)
    assert sim.fleet.goals_reached[0] == 1
    sim.assert_untouched()


@pytest.mark.parametrize("elsewhere", [(2.6, 1.0), (50.0, 50.0)])
def test_a_robot_moved_while_docking_stops_and_starts_anew(elsewhere):
    map = arena(3, 5)
    poses = at_cells(map, (1, 1), (1, 3))
    poses[0, :2] += (0.25, -0.15)
    sim = Sim(map, poses)
    sim.run(0.5)
    assert sim.status(0) == Status.DOCKING
    cell = sim.fleet.cells[0].copy()
    sim.silent.add(0)
    for _ in range(100):  # the localiser jumps: past the other robot, or off the map
        sim.fleet.update_pose(0, *elsewhere, 0.0, sim.time)
        result = sim.tick()
        assert (result.commands[0] == 0).all() or sim.fleet.cells[0].tolist() != cell.tolist()
    if elsewhere[0] > 10:
        assert sim.status(0) == Status.OFF_GRID


def test_a_clock_set_back_makes_every_pose_stale_until_new_ones_come():
    map = arena(1, 6)
    sim = Sim(map, at_cells(map, (0, 0)))
    sim.run(0.2)
    sim.go(0, (0, 5))
    sim.run(1.0)
    sim.silent.add(0)
    sim.time -= 60.0
    ticks = sim.run(1.0)
    assert all((tick.commands == 0).all() for tick in ticks)
    assert sim.status(0) == Status.STALE
    sim.silent.clear()
    sim.run(12.0)
    assert sim.fleet.goals_reached[0] == 1
    sim.assert_untouched()


def test_two_robots_nearest_to_one_cell_end_on_two():
    map = arena(3, 5)
    poses = at_cells(map, (1, 2), (1, 2))
    poses[:, 0] += (-0.28, 0.28)
    sim = Sim(map, poses, noise=0.002)
    sim.run(15.0)
    sim.assert_untouched()
    assert [sim.status(i) for i in range(2)] == [Status.IDLE] * 2
    assert sim.fleet.cells[0].tolist() != sim.fleet.cells[1].tolist()


def test_without_a_distance_field_a_robot_between_cells_stands():
    sim = hall((1, 1))
    sim.fleet.docking_places.distances = None
    sim.world.poses[0, 0] += 0.2
    assert all((tick.commands == 0).all() for tick in sim.run(2.0))
    assert sim.status(0) == Status.OFF_GRID


@pytest.mark.parametrize("drive", list(Drive))
def test_a_robot_whose_poses_end_on_the_way_does_not_run_past_its_cell(drive):
    """Between the last pose and the timeout it drives on, which must not take it into the wall."""
    for progress in (0.1, 0.3, 0.5, 0.7, 0.9):
        sim = hall((0, 0), drive=drive, pose_timeout=2.0)
        sim.go(0, (0, 4))
        sim.run(10.0, lambda _, p=progress, s=sim: s.fleet.targets[0, 1] == 4 and s.fleet.progress[0] > p)
        assert sim.fleet.targets[0].tolist() == [0, 4]
        sim.silent = {0}
        sim.run(4.0)
        sim.assert_untouched()
        assert sim.world.poses[0, 0] < sim.grid.centre(np.array([0, 4]))[0] + 0.02
        sim.silent = set()
        sim.run(4.0)
        assert sim.fleet.goals_reached[0] == 1


def test_who_slips_while_its_poses_are_late_slows_down():
    """It may turn unnoticed at 0.3 rad/s: with half a second old poses it drives no faster than that allows."""
    speeds = []
    for late in (0.0, 0.4):
        sim = hall((1, 0), size=(3, 12), latency=0.2)
        sim.go(0, (1, 11))
        measured = []
        for period in range(120):
            measured.append((sim.time, sim.world.poses[0].copy()))
            time, pose = measured[max(period - round(late / PERIOD), 0)]
            sim.fleet.update_pose(0, *pose, time)
            command = sim.fleet.tick(sim.time).commands
            sim.world.step(command, PERIOD)
            sim.time += PERIOD
            speeds.append(command[0, 0])
    fresh, old = max(speeds[:120]), np.mean(speeds[160:])
    assert fresh > 0.9 and 0.05 < old < 0.35


@pytest.mark.parametrize("first", np.arange(0.0, 2.4, 0.1).round(1).tolist())
def test_who_does_not_know_how_far_it_has_turned_does_not_drive_off_beside_its_way(first):
    """Commands act 0.2 s late, and from some moment of a turn on poses are half a second old."""
    sim = hall((2, 0), latency=0.4)
    sim.world.poses[0, 2] = -np.pi / 2  # its goal lies behind it: a whole turn, then the way
    sim.go(0, (0, 0))
    line = sim.grid.centre(np.array([2, 0]))[0]
    measured, pending, aside = [], [np.zeros((1, 3))] * 4, 0.0
    for period in range(120):
        measured.append((sim.time, sim.world.poses[0].copy()))
        late = 0.5 if first <= sim.time < first + 2.0 else 0.0
        time, pose = max(
            (m for m in measured if m[0] <= sim.time - late + 1e-9), key=lambda m: m[0], default=measured[0]
        )
        if time >= sim.fleet.pose_time[0]:
            sim.fleet.update_pose(0, *pose, time)
        pending.append(sim.fleet.tick(sim.time).commands)
        for _ in range(5):
            sim.world.step(pending[period], PERIOD / 5)
        sim.time += PERIOD
        aside = max(aside, abs(sim.world.poses[0, 0] - line))
    assert aside < 0.02
    assert sim.world.poses[0, 1] > sim.grid.centre(np.array([1, 0]))[1], "it drives all the same"


def test_a_clock_that_jumps_ahead_makes_no_pose_believed_and_nobody_rested_sooner():
    sim = hall((1, 0), jump_settle=4.0, first_settle=2.0)
    sim.run(0.5)
    assert sim.status(0) == Status.OFF_GRID, "its first poses have not agreed for 2 s"
    sim.time += 3.0
    sim.run(1.0)
    assert sim.status(0) == Status.OFF_GRID
    sim.run(1.0)
    assert sim.status(0) == Status.IDLE
    sim.go(0, (1, 4))
    sim.run(2.0, lambda r: r.commands[0, 0] > 0.8)
    x, y, yaw = sim.world.poses[0]
    for _ in range(20):
        sim.fleet.update_pose(0, x, y, yaw + 1.5, sim.time)
        sim.fleet.tick(sim.time)
        sim.time += PERIOD
    sim.time += 3.5
    for _ in range(50):
        sim.fleet.update_pose(0, x, y, yaw + 1.5, sim.time)
        sim.fleet.tick(sim.time)
        assert sim.status(0) == Status.JUMPED
        sim.time += PERIOD
