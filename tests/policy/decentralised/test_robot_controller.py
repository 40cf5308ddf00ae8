"""Robots that decide for themselves on a simulated plant and a lossy network: nobody touches anything."""

from __future__ import annotations

import math
from dataclasses import replace

import fleet_sim
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.decentralised.peer_state import Rules, State
from marlgpt_policy.decentralised.robot_controller import ControllerConfig, RobotController
from marlgpt_policy.grid.distance_field import DistanceField
from marlgpt_policy.grid.goal_cell import GoalError
from marlgpt_policy.grid.nav_grid import build_grid
from marlgpt_policy.grid.occupancy_map import OccupancyMap
from marlgpt_policy.policy.onnx_policy import PolicyError
from marlgpt_policy.robots.robot_config import Drive, MotionLimits, RobotConfig, Status
from marlgpt_sim.world.fleet_world import FleetWorld
from marlgpt_sim.world.spawn import place_robots

RADIUS, PERIOD = 0.22, 0.05
LIMITS = MotionLimits(1.0, 2.5, 2.0, 5.0)


class Stub(fleet_sim.Stub):
    """The fleet tests' policy, less sure of itself, and one that can break."""

    sharpness = 10
    broken = False

    def __call__(self, values, valid, action_mask):
        if self.broken:
            raise PolicyError("broken")
        return super().__call__(values, valid, action_mask)


def hall(rows, cols):
    """An empty hall that holds rows x cols cells."""
    empty = np.zeros(((rows - 1) * 14 + 11, (cols - 1) * 14 + 11), dtype=bool)
    return OccupancyMap(empty, empty, 0.05, (0.0, 0.0, 0.0))


class Sim:
    """Robots of one fleet, their plant, and a network that loses messages and delivers the rest one tick later."""

    def __init__(self, map, poses, loss=0.0, drive=Drive.HOLONOMIC, policy=None, noise=0.0, seed=0):
        self.grid, self.map, n = build_grid(map, RADIUS), map, len(poses)
        self.names = tuple(f"r{i}" for i in range(n))
        self.rules = Rules(self.names, "hall", self.grid.cell_size / LIMITS.max_speed)
        self.policy, self.drive, self.seed = policy or Stub(), drive, seed
        self.robots = [self.robot(i, 1) for i in range(n)]
        self.world = FleetWorld(
            map, poses, RADIUS, int(drive), LIMITS.as_row(), seed, pose_noise_xy=noise, pose_noise_yaw=noise
        )
        self.loss, self.random = loss, np.random.default_rng(seed)
        self.mute, self.blind, self.dead = set(), set(), set()
        self.time, self.post, self.commands = 100.0, [], np.zeros((n, 3))

    def robot(self, i, incarnation):
        body = RobotConfig(self.names[i], RADIUS, self.drive, LIMITS)
        config = ControllerConfig(control_period=PERIOD, seed=self.seed + i)
        distances = DistanceField(self.map)
        return RobotController(body, self.grid, self.policy, self.rules, incarnation, config, distances)

    def go(self, i, cell):
        self.robots[i].set_goal(*self.grid.centre(np.array(cell)), self.time)

    def tick(self):
        measured = self.world.measured_poses()
        self.commands = np.zeros_like(self.commands)
        post, self.post = self.post, []
        for i, robot in enumerate(self.robots):
            if i in self.dead:
                continue
            for sender, state in post:
                if sender != i and self.random.random() >= self.loss:
                    robot.receive(state)
            if i not in self.blind:
                robot.update_pose(*measured[i], self.time)
            result = robot.tick(self.time)
            self.commands[i] = result.command
            if result.message is not None and i not in self.mute:
                self.post.append((i, result.message))
        assert np.isfinite(self.commands).all()
        self.check_cells()
        for _ in range(5):
            self.world.step(self.commands, PERIOD / 5)
        self.time += PERIOD

    def check_cells(self):
        taken = [cell for robot in self.robots if robot.peers.joined for cell in robot.peers.held]
        assert len(taken) == len(set(taken))

    def run(self, seconds, until=lambda: False):
        end = self.time + seconds
        while self.time < end and not until():
            self.tick()
        return self

    def keep_busy(self, seconds):
        cells = np.argwhere(self.grid.components == 0)

        def give_goals():
            for i, robot in enumerate(self.robots):
                if robot.choice.goal is None and i not in self.dead:
                    self.go(i, cells[self.random.integers(len(cells))])
            return False

        return self.run(seconds, give_goals)

    def assert_untouched(self):
        assert self.world.contacts == []
        assert self.world.min_separation > 0

    def status(self, i):
        return self.robots[i].status(self.time)[0]


def at(map, *cells):
    grid = build_grid(map, RADIUS)
    return np.array([[*grid.centre(np.array(cell)), 0.0] for cell in cells])


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    loss=st.sampled_from([0.0, 0.3, 0.6]),
    drive=st.sampled_from(list(Drive)),
    noise=st.sampled_from([0.0, 0.003]),
    aimless=st.booleans(),
    faults=st.booleans(),
)
def test_nobody_touches_anything(seed, loss, drive, noise, aimless, faults):
    map = hall(4, 5)
    sim = Sim(
        map,
        place_robots(build_grid(map, RADIUS), 7, seed),
        loss,
        drive,
        Stub(seed if aimless else None),
        noise,
        seed,
    )
    sim.keep_busy(12.0)
    if faults:
        sim.mute, sim.blind, sim.dead = {seed % 7}, {(seed + 1) % 7}, {(seed + 2) % 7}
        sim.keep_busy(8.0)
        sim.robots[(seed + 2) % 7] = sim.robot((seed + 2) % 7, 2)
        sim.mute, sim.blind, sim.dead = set(), set(), set()
    sim.keep_busy(12.0)
    sim.assert_untouched()


@pytest.mark.parametrize("loss", [0.0, 0.2, 0.5])
def test_goals_are_reached_whatever_is_lost(loss):
    map = hall(3, 5)
    sim = Sim(map, at(map, (0, 0), (0, 4), (2, 0), (2, 4)), loss)
    for i, cell in enumerate([(2, 4), (2, 0), (0, 4), (0, 0)]):
        sim.go(i, cell)
    sim.run(90.0, lambda: all(robot.goals_reached for robot in sim.robots))
    assert [robot.goals_reached for robot in sim.robots] == [1, 1, 1, 1]
    sim.assert_untouched()


def test_a_standing_robot_makes_way():
    map = hall(2, 5)
    sim = Sim(map, at(map, (0, 0), (0, 2), (1, 0)))
    sim.go(0, (0, 2))  # where r1 stands, without a goal
    sim.run(30.0, lambda: sim.robots[0].goals_reached)
    assert sim.robots[0].goals_reached == 1
    sim.assert_untouched()


def test_a_robot_that_nobody_hears_stays_and_the_others_go_on():
    map = hall(5, 9)
    sim = Sim(map, at(map, (0, 0), (4, 4), (4, 8), (0, 8)))
    sim.run(3.0)
    sim.mute = {0}
    sim.run(2.0)
    for i, cell in enumerate([(0, 3), (0, 7), (1, 8), (4, 5)]):
        sim.go(i, cell)
    sim.run(40.0)
    assert [robot.goals_reached for robot in sim.robots] == [0, 1, 1, 1]
    assert sim.robots[0].path == [(0, 0)]
    assert "too few robots hear" in sim.robots[0].status(sim.time)[1]
    sim.mute = set()
    sim.run(20.0, lambda: sim.robots[0].goals_reached)
    assert sim.robots[0].goals_reached == 1
    sim.assert_untouched()


def test_a_robot_between_cells_drives_to_the_nearest_once_everybody_agrees():
    map = hall(2, 4)
    poses = at(map, (0, 0), (1, 3))
    poses[0, 0] += 0.3
    sim = Sim(map, poses)
    sim.run(0.8)
    assert set(sim.robots[0].peers.held) == {(0, 0), (0, 1)}
    sim.run(10.0)
    assert sim.robots[0].peers.held == [(0, 0)] and sim.status(0) == Status.IDLE
    sim.assert_untouched()


def test_nobody_joins_before_everybody_was_heard_and_the_operator_may_vouch():
    map = hall(2, 4)
    sim = Sim(map, at(map, (0, 0), (0, 2), (1, 3)))
    sim.dead = {2}
    sim.go(0, (1, 0))
    sim.run(5.0)
    assert sim.status(0) == Status.OFF_GRID
    assert "'r2' not heard yet" in sim.robots[0].status(sim.time)[1]
    for robot in sim.robots[:2]:
        robot.peers.absent = {"r2"}
    sim.run(10.0)
    assert sim.robots[0].goals_reached == 1


@pytest.mark.parametrize("why", ["stale", "stopped", "usurped"])
def test_a_robot_stops_within_one_period(why):
    map = hall(2, 6)
    sim = Sim(map, at(map, (0, 0), (1, 5)))
    sim.go(0, (0, 5))
    sim.run(20.0, lambda: sim.commands[0].any())
    robot = sim.robots[0]
    if why == "stale":
        sim.blind = {0}
        sim.run(robot.config.pose_timeout + PERIOD)
    elif why == "stopped":
        robot.stop()
    else:
        robot.receive(State("r0", 99, 1, 0.0, 1, sim.rules.key, ((0, 0),)))
    sim.tick()
    assert (sim.commands[0] == 0).all()
    assert sim.status(0) == (Status.STALE if why == "stale" else Status.STOPPED)
    if why != "usurped":
        sim.blind = set()
        robot.resume()
        sim.run(20.0, lambda: robot.goals_reached)
        assert robot.goals_reached == 1


def test_a_robot_that_was_pushed_off_its_way_joins_again():
    map = hall(3, 4)
    sim = Sim(map, at(map, (0, 0), (2, 3)))
    sim.run(3.0)
    sim.world.poses[0, :2] = sim.grid.centre(np.array([2, 0]))
    sim.tick()
    assert not sim.robots[0].peers.joined
    sim.go(0, (2, 1))
    sim.run(10.0)
    assert sim.robots[0].goals_reached == 1 and sim.robots[0].path == [(2, 1)]


def test_a_robot_on_another_map_takes_space_and_shares_none():
    map = hall(2, 6)
    sim = Sim(map, at(map, (0, 0), (0, 1)))
    sim.run(3.0)
    mine = sim.robots[0].peers
    foreign = replace(mine.known["r1"].state, key="other", sequence=10**6, held=((0, 1), (1, 1)))
    sim.mute = {1}
    sim.robots[0].receive(foreign)
    sim.go(0, (0, 5))
    sim.run(5.0)
    assert (0, 1) not in sim.robots[0].path and (1, 1) not in sim.robots[0].path


def test_what_cannot_be_used_is_refused():
    map = hall(2, 4)
    sim = Sim(map, at(map, (0, 0), (1, 3)))
    robot = sim.robots[0]
    for x, y in ((math.nan, 0.0), (100.0, 0.0)):
        with pytest.raises(GoalError):
            robot.set_goal(x, y, 0.0)
    with pytest.raises(ValueError, match="not finite"):
        robot.update_pose(math.nan, 0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="holds no cell"):
        robot.receive(State("r1", 1, 1, 0.0, 1, "k", ()))
    with pytest.raises(ValueError, match="not among the robots"):
        RobotController(RobotConfig("x", RADIUS), sim.grid, Stub(), sim.rules, 1)
    with pytest.raises(ValueError, match="need cells"):
        RobotController(RobotConfig("r0", 0.5), sim.grid, Stub(), sim.rules, 1)


def test_a_broken_policy_is_reported():
    map = hall(2, 4)
    sim = Sim(map, at(map, (0, 0), (1, 3)))
    sim.run(3.0)
    sim.policy.broken = True
    sim.go(0, (0, 3))
    with pytest.raises(PolicyError):
        sim.run(3.0)
