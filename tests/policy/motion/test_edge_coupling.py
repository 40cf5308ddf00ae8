"""Edges under way: any joint actions, any progress, any failures; no two robots ever come too close."""

import numpy as np
import pytest
from floors import floor
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.encoders.pogema import MOVES
from marlgpt_policy.grid.nav_grid import NavGrid
from marlgpt_policy.mapf.pibt_shield import resolve
from marlgpt_policy.motion.edge_coupling import STALLED_AFTER, Edges
from marlgpt_policy.motion.reservations import ReservationError
from marlgpt_policy.robots.robot_config import RobotConfig
from marlgpt_policy.robots.robot_state import Robots

BODY = 0.64  # of a cell: twice the radius and the reserve
TOLERANCE = 1e-6
SIZE = 4


def places(robots):
    """float[n, 2] where the robots are, in cells, from their edges and progress."""
    share = robots.progress[:, None] * (robots.cells != robots.targets).any(axis=1)[:, None]
    return robots.cells + share * (robots.targets - robots.cells)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 14), failing=st.sampled_from([0.0, 0.1, 0.4]))
def test_no_two_robots_come_close_whatever_they_do(seed, n, failing):
    """Robots advance by random amounts up to their limits; some stand still for long; followers turn back."""
    random = np.random.default_rng(seed)
    grid = NavGrid.from_cells(np.ones((SIZE, SIZE), bool))
    robots = Robots([RobotConfig(f"r{i}") for i in range(n)])
    edges = Edges(robots, floor(grid, BODY * grid.cell_size, TOLERANCE))
    reservations = edges.reservations
    start = np.argwhere(np.ones((SIZE, SIZE)))[random.permutation(SIZE * SIZE)[:n]]
    robots.cells[:], robots.targets[:] = start, start
    robots.docked[:] = True
    for i in range(n):
        reservations.acquire(start[i], i)
    fit = np.ones(n, bool)
    holder = reservations.holder
    for step in range(150):
        now = 0.5 * step
        robots.poses[:, :2] = grid.centre(places(robots))
        edges.settle(np.ones(n, bool), now)
        fit = random.random(n) >= failing if step % 20 == 0 else fit
        ends = robots.ends
        own = holder[ends[:, 0], ends[:, 1]] == np.arange(n)
        standing = ~robots.moving | ((robots.progress > 0.6) & ~robots.returning)
        ready = fit & own & (robots.next_targets[:, 0] < 0) & standing
        stuck = ~fit | edges.stalled(now) | robots.returning
        closed = np.isin(holder, np.flatnonzero(stuck))
        on = np.flatnonzero(own)
        ranking = np.array([random.permutation(5) for _ in on], dtype=np.int8).reshape(-1, 5)
        moves = resolve(ends[on], ranking, random.random(len(on)), grid.moves, ~ready[on], closed)
        members = ready[on]
        edges.start(on[members], moves[members], now)
        limit = np.minimum(edges.limits(), 1.0)
        drives = fit & robots.moving & (random.random(n) < 0.8)
        ahead = robots.progress + random.random(n) * 0.6
        robots.progress[drives] = np.maximum(robots.progress, np.minimum(limit, ahead))[drives]
        robots.poses[:, :2] = grid.centre(places(robots))
        edges.note_progress(now)
        edges.turn_back(fit, edges.limits() < np.minimum(1.0, robots.progress + 0.1), now)
        here = places(robots)
        apart = np.hypot(*np.moveaxis(here[:, None] - here[None], 2, 0)) + 9.0 * np.eye(n)
        assert apart.min() >= BODY - 1e-9, (step, np.argwhere(apart < BODY))
        for i in range(n):  # where a robot is or goes is held, by it or by one that goes there too
            for cell in (robots.cells[i], robots.targets[i]):
                other = reservations.of(cell)
                assert other >= 0
                there = [robots.cells[other], robots.targets[other], robots.next_targets[other]]
                assert any((cell == its).all() for its in there)


def test_a_robot_that_turns_round_before_it_arrives_keeps_the_cell_behind_it():
    grid = NavGrid.from_cells(np.ones((1, 3), bool))
    robots = Robots([RobotConfig("r")])
    edges = Edges(robots, floor(grid, BODY * grid.cell_size, TOLERANCE))
    reservations = edges.reservations
    robots.cells[0] = robots.targets[0] = (0, 0)
    robots.docked[0] = True
    reservations.acquire((0, 0), 0)
    one = np.array([0])
    edges.start(one, np.array([4], np.int8), 0.0)
    edges.start(one, np.array([3], np.int8), 0.1)
    assert robots.next_targets[0].tolist() == [0, 0]
    robots.poses[0, :2] = grid.centre(robots.targets[0])
    edges.settle(np.ones(1, bool), 0.2)
    assert reservations.holder.tolist() == [[0, 0, -1]]
    assert (robots.cells[0] + MOVES[robots.move[0]]).tolist() == robots.targets[0].tolist() == [0, 0]


def test_a_robot_that_does_not_obey_is_not_relied_on_for_longer_each_time():
    grid = NavGrid.from_cells(np.ones((1, 3), bool))
    robots = Robots([RobotConfig("r")])
    edges = Edges(robots, floor(grid, BODY * grid.cell_size, TOLERANCE))
    robots.cells[0], robots.targets[0] = (0, 0), (0, 1)
    robots.progress_time[0] = 0.0
    waits = []
    now = STALLED_AFTER + 0.1
    for _ in range(5):
        edges.note_failures(np.ones(1, bool), now)
        waits.append(robots.broken_until[0] - now)
        now = robots.broken_until[0] + 0.1
    np.testing.assert_allclose(waits, [10, 20, 40, 60, 60])


def convoy(*cells, size=(1, 4), tolerance=TOLERANCE):
    """Docked robots at the centres of `cells`, each of which it holds; grid, robots, reservations, edges."""
    grid = NavGrid.from_cells(np.ones(size, bool))
    robots = Robots([RobotConfig(f"r{i}") for i in range(len(cells))])
    edges = Edges(robots, floor(grid, BODY * grid.cell_size, tolerance))
    reservations = edges.reservations
    robots.cells[:] = robots.targets[:] = cells
    robots.docked[:] = True
    for i, cell in enumerate(robots.cells):
        reservations.acquire(cell, i)
    robots.poses[:, :2] = grid.centre(robots.cells)
    return grid, robots, reservations, edges


def drive(grid, robots, robot, share, aside=0.0):
    """Put a robot at a share of its edge, `aside` cells to its left."""
    here = robots.cells[robot] + share * (robots.targets[robot] - robots.cells[robot])
    row, column = robots.targets[robot] - robots.cells[robot]
    robots.poses[robot, :2] = grid.centre(here + aside * np.array([-column, row]))
    robots.progress[robot] = share


def test_a_follower_keeps_clear_of_where_its_leader_is_measured():
    grid, robots, _, edges = convoy((0, 1), (0, 0))
    edges.start(np.array([0, 1]), np.array([4, 4], np.int8), 0.0)
    drive(grid, robots, 0, 0.2)
    np.testing.assert_allclose(edges.limits()[1], 1.2 - BODY)
    drive(grid, robots, 0, 0.2, aside=0.3)  # pushed off its way, it comes back to it
    np.testing.assert_allclose(edges.limits()[1], 1.2 - BODY)
    drive(grid, robots, 1, 0.1, aside=0.3)  # both beside their ways, on the same side
    np.testing.assert_allclose(edges.limits()[1], 1.2 - BODY)
    robots.docked[0] = False
    assert edges.limits()[1] == 0.0


def test_a_follower_of_one_that_turns_leaves_room_for_all_of_its_way():
    grid, robots, _, edges = convoy((1, 1), (1, 0), size=(3, 3))
    edges.start(np.array([0, 1]), np.array([1, 4], np.int8), 0.0)
    for share in (0.0, 0.2, 0.4, 0.6):
        drive(grid, robots, 0, share)
        np.testing.assert_allclose(edges.limits()[1], 1 - np.sqrt(BODY**2 - share**2))
    assert not edges.may_settle()[1]
    drive(grid, robots, 0, BODY + 1e-6)
    assert edges.may_settle()[1] and edges.limits()[1] == 1.0


def test_whoever_comes_third_is_limited_by_all_ahead_and_not_only_by_the_last():
    """A robot stalls on its way out of a cell; the one behind it turns off there; a third comes from a branch."""
    grid, robots, reservations, edges = convoy((1, 1), (1, 0), (2, 1), size=(3, 3), tolerance=0.05)
    every = np.ones(3, bool)
    edges.start(np.array([0]), np.array([4], np.int8), 0.0)
    edges.start(np.array([1]), np.array([4], np.int8), 0.0)
    edges.start(np.array([1]), np.array([1], np.int8), 0.0)  # up, away from the branch
    edges.start(np.array([2]), np.array([1], np.int8), 0.0)  # from the branch below into the same cell
    drive(grid, robots, 0, BODY - 0.02)
    drive(grid, robots, 1, 0.99)
    edges.settle(every, 0.0)
    assert robots.targets[1].tolist() == [1, 1], "it is within the tolerance, but limited"
    assert reservations.queue((1, 1)) == [0, 1, 2]
    drive(grid, robots, 0, BODY + 0.01)
    edges.settle(every, 0.0)
    assert robots.targets[1].tolist() == [0, 1]
    drive(grid, robots, 1, 0.9)
    assert edges.limits()[2] == 1.0
    drive(grid, robots, 0, 0.5)  # pushed back: the one behind it is far away, the third must not rely on that
    np.testing.assert_allclose(edges.limits()[2], 1 - np.sqrt(BODY**2 - 0.5**2))


def test_a_leader_that_has_hardly_left_may_go_back_and_counts_as_still_there():
    """It may give its next cell back and be pulled onto the centre: what it was ahead is not there for others."""
    grid, robots, _, edges = convoy((0, 1), (0, 0), tolerance=0.05)
    edges.start(np.array([0, 1]), np.array([4, 4], np.int8), 0.0)
    for share in (0.0, 0.03, 0.049):
        drive(grid, robots, 0, share)
        np.testing.assert_allclose(edges.limits()[1], 1.0 - BODY)
    drive(grid, robots, 0, 0.06)
    np.testing.assert_allclose(edges.limits()[1], 1.06 - BODY)
    drive(grid, robots, 0, 0.03)
    robots.targets[0] = robots.cells[0]  # gave it back
    np.testing.assert_allclose(edges.limits()[1], 1.0 - BODY)
    robots.poses[0, :2] = grid.centre(np.array((0, 0.97)))
    np.testing.assert_allclose(edges.limits()[1], 0.97 - BODY)


def test_nobody_follows_a_robot_that_comes_back_into_the_cell_that_it_leaves():
    grid, robots, reservations, edges = convoy((0, 1), (0, 0))
    edges.start(np.array([0]), np.array([4], np.int8), 0.0)
    edges.start(np.array([0]), np.array([3], np.int8), 0.0)
    with pytest.raises(ReservationError, match="not leaving"):
        edges.start(np.array([1]), np.array([4], np.int8), 0.0)
