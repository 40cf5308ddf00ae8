"""One run of the soak: a fleet with every fault mixed in, watched for contacts, starvation and lost goals."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from marlgpt_policy.clearance import DistanceField
from marlgpt_policy.fleet import Fleet, FleetConfig, GoalError, RobotConfig
from marlgpt_policy.grid import build_grid
from marlgpt_policy.layout import POGEMA_LAYOUT
from marlgpt_policy.occupancy import OccupancyMap
from marlgpt_policy.policy import OnnxPolicy, PolicyError
from marlgpt_policy.robots import Status

from marlgpt_sim.fault_config import KINDS, FaultConfig
from marlgpt_sim.faults import Faults
from marlgpt_sim.spawn import place_robots
from marlgpt_sim.world import FleetWorld

MARGIN = 0.14
"""m; gives pose errors of 25 mm of each of two robots room (docs/safety.md)."""
LATENCY = 0.2
"""s; at least the bases' command timeout, so that a lost command cannot carry a robot too far."""
FIRST_SETTLE = 4.0
"""s; longer than any pose jump of the faults: a robot that starts with a wrong pose does not drive by it."""
PHYSICS_STEPS = 2
ROBOT_EVENTS = {"goal_replaced": 6.0, "goal_cancelled": 3.0, "robot_stopped": 3.0}
"""What operators do, per robot and hour."""
FLEET_EVENTS = {"fleet_stopped": 6.0, "process_killed": 6.0, "map_replaced": 6.0, "corrupt_model": 6.0}
"""What operators and processes do, per fleet and hour."""
DOWN_TIME = (0.5, 3.0)
"""s between the death of the fleet's process and its successor's first period."""
STOP_TIME = (2.0, 20.0)
"""s until a stopped robot or fleet is resumed."""
GONE_AFTER = 5.0
"""s without a body after which the operator takes a robot out of the fleet."""


def all_faults(rate: float) -> FaultConfig:
    """Every kind of fault, ``rate`` times per robot and hour each; the clock ``rate`` times per hour."""
    return FaultConfig(**{f"{kind}_rate": rate for kind in KINDS})


class SoakRun:
    """A fleet, its world, its faults and its operator.

    Args:
        map: Where it drives.
        robots: How many.
        policy: ONNX policy file.
        rate: Faults of each kind per robot and hour; at 6, operators do what is in ``ROBOT_EVENTS`` and
            ``FLEET_EVENTS``, otherwise in proportion.
        seed: Of everything random.
        execution: As in ``FleetConfig``.
    """

    def __init__(
        self, map: OccupancyMap, robots: int, policy: Path, rate: float, seed: int, execution: str
    ) -> None:
        """Place the robots and give each a goal."""
        self.map, self.policy_file, self.rate, self.seed = map, policy, rate, seed
        self.policy = OnnxPolicy(policy, POGEMA_LAYOUT, threads=1)
        self.config = FleetConfig(execution=execution, latency=LATENCY, seed=seed, first_settle=FIRST_SETTLE)
        self.random = np.random.default_rng((seed, 1))
        self.grid = build_grid(map, RobotConfig("any").radius, MARGIN)
        self.bodies = [RobotConfig(f"robot_{i}") for i in range(robots)]
        self.cells = np.argwhere(self.grid.components == 0)
        absent = np.arange(robots) < robots - max(1, robots // 16)  # some join later
        self.world = FleetWorld(
            map, place_robots(self.grid, robots, seed), self.bodies[0].radius, 0,
            self.bodies[0].limits.as_row(), seed, names=[body.name for body in self.bodies], present=absent,
        )  # fmt: skip
        self.faults = Faults(self.world, all_faults(rate), seed, LATENCY, self.grid.centre(self.cells))
        self.counts: Counter[str] = Counter()
        self.remedies: Counter[str] = Counter()
        self.survived: Counter[str] = Counter()
        self.given = self.reached = self.taken_back = 0
        self.goals: dict[int, tuple[float, float]] = {}
        self.problems: list[str] = []
        self.starved = np.zeros(robots)
        self.longest = 0.0
        self.longest_of = ""
        self._nearest = np.full(robots, np.inf)
        self._goal_then = np.full((robots, 2), -1)
        self._later: list[tuple[float, str, int]] = []
        self._alive_from = 0.0
        self._gone_since = np.full(robots, np.nan)
        self.fleet = self._new_fleet()

    # The operator ---------------------------------------------------------------------------------------

    def _new_fleet(self) -> Fleet:
        """A fleet that knows nothing yet, as after a start of the process, with the goals of before sent again."""
        fleet = Fleet(self.grid, self.policy, self.bodies, self.config, DistanceField(self.map))
        for i in range(len(self.bodies)):
            if not self.world.present[i]:
                fleet.remove_robot(i)
            elif i in self.goals:
                fleet.set_goal(i, *self.goals[i])
        return fleet

    def _give_goal(self, robot: int) -> None:
        """Send a robot to a random place; one it had counts as taken back."""
        self.taken_back += self.goals.pop(robot, None) is not None
        x, y = self.grid.centre(self.cells[self.random.integers(len(self.cells))])
        try:
            self.fleet.set_goal(robot, x, y)
        except GoalError:
            return  # it stands where this cannot be reached from; it gets another one later
        self.given += 1
        self.goals[robot] = (float(x), float(y))

    def _operate(self, dt: float) -> None:
        """Begin what operators and processes do in ``dt`` s, and end what is to end."""
        now = self.faults.time
        for event in [event for event in self._later if event[0] <= now]:
            self._later.remove(event)
            _, kind, robot = event
            self.fleet.resume(robot if kind == "robot_stopped" else None)
            self.survived[kind] += 1
        share = self.rate / 6.0 * dt / 3600.0
        each = {kind: rate * len(self.bodies) for kind, rate in ROBOT_EVENTS.items()} | FLEET_EVENTS
        for kind, rate in each.items():
            if self.random.random() < rate * share:
                self.counts[kind] += 1
                getattr(self, f"_{kind}")(int(self.random.integers(len(self.bodies))), now)
        present = self.world.present
        self._gone_since[present] = np.nan
        self._gone_since[~present & np.isnan(self._gone_since)] = now
        for i in np.flatnonzero(~present & (now - self._gone_since > GONE_AFTER) & ~self.fleet.removed):
            self.taken_back += self.goals.pop(int(i), None) is not None
            self.fleet.remove_robot(int(i))
        for i in np.flatnonzero(present & self.fleet.removed):
            self.fleet.add_robot(self.bodies[i])
        for i in range(len(self.bodies)):
            if i not in self.goals and not self.fleet.removed[i]:
                self._give_goal(i)

    def _goal_replaced(self, robot: int, now: float) -> None:
        if not self.fleet.removed[robot]:
            self._give_goal(robot)
        self.survived["goal_replaced"] += 1

    def _goal_cancelled(self, robot: int, now: float) -> None:
        self.taken_back += self.goals.pop(robot, None) is not None
        self.fleet.cancel_goal(robot)
        self.survived["goal_cancelled"] += 1

    def _robot_stopped(self, robot: int, now: float) -> None:
        self.fleet.stop(robot)
        self._later.append((now + self.random.uniform(*STOP_TIME), "robot_stopped", robot))

    def _fleet_stopped(self, robot: int, now: float) -> None:
        self.fleet.stop()
        self._later.append((now + self.random.uniform(*STOP_TIME), "fleet_stopped", robot))

    def _process_killed(self, robot: int, now: float) -> None:
        self._alive_from = now + self.random.uniform(*DOWN_TIME)

    def _map_replaced(self, robot: int, now: float) -> None:
        dropped = self.fleet.replace_map(self.grid, DistanceField(self.map))
        self.problems += dropped
        self.survived["map_replaced"] += 1

    def _corrupt_model(self, robot: int, now: float) -> None:
        data = bytearray(self.policy_file.read_bytes())
        cut = int(self.random.integers(len(data)))
        with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
            file.write(data[:cut])
            file.flush()
            try:
                self.fleet.replace_policy(OnnxPolicy(file.name, POGEMA_LAYOUT))
                self.problems.append(f"a model cut after {cut} bytes was accepted")
            except PolicyError:
                self.survived["corrupt_model"] += 1

    # One control period ---------------------------------------------------------------------------------

    def tick(self) -> None:
        """Poses, decisions, commands, motion; and what the operator does."""
        faults, period = self.faults, self.config.control_period
        if self._alive_from > faults.time:
            faults.poses()
        else:
            if self._alive_from:
                halted = self.fleet.halted.copy()
                stopped = self.fleet.stopped
                self.remedies.update(self.fleet.remedies)
                self.fleet = self._new_fleet()
                self.fleet.halted[:], self.fleet.stopped = halted, stopped
                self._alive_from = 0.0
                self.survived["process_killed"] += 1
            for pose in faults.poses():
                if pose.stamp >= self.fleet.pose_time[pose.robot]:  # as the node: older ones are dropped
                    self.fleet.update_pose(pose.robot, pose.x, pose.y, pose.yaw, pose.stamp)
            result = self.fleet.tick(faults.clock)
            faults.send(result.commands)
            for i in result.reached:
                self.reached += 1
                self.goals.pop(i, None)
                self._nearest[i] = np.inf
            self._operate(period)
            self._watch(period)
        for _ in range(PHYSICS_STEPS):
            faults.step(period / PHYSICS_STEPS)

    def _watch(self, dt: float) -> None:
        """Count how long each robot that could has got no nearer to its goal."""
        fleet = self.fleet
        fit = fleet.docked & ~fleet.halted & ~fleet.removed & (not fleet.stopped) & self.world.present
        for kind in ("stall", "slow", "slip", "push", "removal", "pose_jump", "pose_dropout", "cmd_loss"):
            fit &= ~self.faults.active(kind)
        has_goal = fit & (fleet.goals[:, 0] >= 0)
        self.starved[fleet.goals[:, 0] < 0] = 0.0
        for i in np.flatnonzero(has_goal):
            detours = fleet.decider.detours
            cell, goal = fleet.cells[i], fleet.goals[i]
            if len(detours.closed) and not detours.reachable(goal, cell):
                continue
            left = float(fleet.costs.field(goal)[tuple(cell)])
            if (goal != self._goal_then[i]).any():
                self._goal_then[i], self._nearest[i] = goal, np.inf
            if left < self._nearest[i]:
                self._nearest[i], self.starved[i] = left, 0.0
                continue
            self.starved[i] += dt
            if self.starved[i] > self.longest:
                self.longest = float(self.starved[i])
                way = f"at {tuple(cell.tolist())}, goal {tuple(goal.tolist())}"
                self.longest_of = f"robot_{i} {way}, t = {self.faults.time:.0f} s"

    def run(self, minutes: float, each: Any = None) -> dict[str, Any]:
        """Simulate; the results."""
        ticks = round(60.0 * minutes / self.config.control_period)
        hours = 0.0
        for k in range(ticks):
            self.tick()
            hours += self.world.present.sum() * self.config.control_period / 3600.0
            if each is not None and k % 200 == 199:
                each(200 * self.config.control_period * len(self.bodies) / 3600.0)
        return self.results(hours)

    def results(self, hours: float) -> dict[str, Any]:
        """Counts and extremes so far."""
        faults = {}
        for kind, (begun, active) in self.faults.counts.items():
            faults[kind] = {"injected": begun, "survived": begun - active}
        for kind in (*ROBOT_EVENTS, *FLEET_EVENTS):
            faults[kind] = {"injected": self.counts[kind], "survived": self.survived[kind]}
        open_goals = len(self.goals)
        lost = self.given - self.reached - self.taken_back - open_goals
        states = Counter(
            Status(self.fleet.status(i, self.faults.clock)[0]).name for i in range(len(self.bodies))
        )
        contacts = self.world.contacts
        return {
            "robot_hours": hours,
            "robots": len(self.bodies),
            "seed": self.seed,
            "execution": self.config.execution,
            "robot_contacts": self.world.robot_contacts,
            "wall_contacts": self.world.wall_contacts,
            "contacts": [
                {"time": c.time, "a": c.a, "b": c.b, "xy": list(c.xy), "pushed": c.pushed} for c in contacts
            ],
            "min_separation_m": float(self.world.min_separation),
            "longest_starved_s": self.longest,
            "longest_starved": self.longest_of,
            "goals": {
                "given": self.given, "reached": self.reached, "taken_back": self.taken_back,
                "open": open_goals, "lost": lost,
            },
            "problems": self.problems,
            "remedies": dict(self.remedies + Counter(self.fleet.remedies)),
            "states_at_the_end": dict(states),
            "faults": faults,
        }  # fmt: skip
