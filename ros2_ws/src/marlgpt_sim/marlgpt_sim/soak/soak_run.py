"""One run of the soak: a drawn world, everything that goes wrong in it, and the books that say whether it went well."""

from __future__ import annotations

import tempfile
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_policy.grid.distance_field import DistanceField
from marlgpt_policy.grid.nav_grid import build_grid
from marlgpt_policy.policy.onnx_policy import OnnxPolicy, PolicyError
from marlgpt_policy.robots.robot_config import Drive, MotionLimits, RobotConfig

from marlgpt_sim.soak.adversary import Adversary
from marlgpt_sim.soak.drawn_maps import draw_map
from marlgpt_sim.soak.drivers import CentralDriver, LoneDriver, policy_of
from marlgpt_sim.soak.goal_ledger import GoalLedger
from marlgpt_sim.soak.independent_checker import WALL, IndependentChecker
from marlgpt_sim.soak.scenario import PERIOD, Event, Scenario, draw_events
from marlgpt_sim.soak.situations import Situations
from marlgpt_sim.world.fault_config import KINDS, FaultConfig
from marlgpt_sim.world.faults import Faults
from marlgpt_sim.world.fleet_world import FleetWorld
from marlgpt_sim.world.spawn import place_robots

PHYSICS_STEPS = 2
"""Steps of the world in one control period."""
LOOK_EVERY = 4
"""Periods between two looks for situations."""
GONE_AFTER = 5.0
"""s without a body after which the operator takes a robot out of the fleet."""
STARVED = 120.0
"""s without getting nearer to a goal, although nothing keeps the robot, that count as starved."""
UNKNOWN_PLACE = ("pose_dropout", "pose_delay", "pose_jump")
"""Faults in which the fleet does not know where a robot is: nobody moves it from outside meanwhile."""
MOVED_LATELY = 6.0
"""s after which the poses of a robot that was moved from outside may be lost or lie: longer than ``jump_settle``."""
LATE_POSES = ("pose_dropout", "pose_delay", "pose_reorder")
"""Faults in which commands of a longer time must explain where a robot is: no pose jumps until a while after them."""
QUIET_POSES = 1.0
"""s of that while."""
HAMPERED = (
    "stall", "slow", "slip", "push", "removal", "join", "pose_jump", "pose_dropout", "pose_delay", "pose_reorder",
    "cmd_loss", "cmd_reorder",
)  # fmt: skip
"""Faults of a robot that excuse it from getting on."""


@dataclass(frozen=True)
class Failure:
    """Why a run did not go well.

    Attributes:
        kind: "contact", "wall", "rule", "disagreement", "goal", "exception" or "refusal".
        tick: control period in which it was seen.
        what: in words.
    """

    kind: str
    tick: int
    what: str


class SoakRun:
    """A fleet, its world, its faults, its operator, and the books.

    Attributes:
        scenario: what was drawn. recorded: all events that took place, with which the run can be repeated.
        failure: the first thing that went wrong, None so far.
        world, faults, driver, checker, ledger, situations: the parts.
        hours: robot-hours so far.
    """

    def __init__(self, scenario: Scenario, policy: Path) -> None:
        """Place the robots and give each a goal; ``policy`` is the ONNX file of the shipped policy."""
        self.scenario, self.policy_file = scenario, policy
        s = scenario
        self.map = draw_map(s.family, s.cells, s.map_seed, s.radius, s.margin, s.tight, s.origin)
        self.grid = build_grid(self.map, s.radius, s.margin)
        self.cells = np.argwhere(self.grid.components == 0)
        placed = min(s.placed, len(self.cells))
        numbers = [robot for robot in s.robots if robot < placed]
        self.numbers, self.row = numbers, {robot: row for row, robot in enumerate(numbers)}
        self.bodies = [
            RobotConfig(f"robot_{k}", s.radius, Drive(int(s.is_holonomic(k))), MotionLimits(*s.row(k)))
            for k in numbers
        ]
        self._build(place_robots(self.grid, placed, s.seed)[numbers])
        self.random = {k: np.random.default_rng((s.seed, 23, k)) for k in numbers}
        self.fill = placed / len(self.cells)
        self.counts: Counter[str] = Counter()
        self.recorded: list[Event] = []
        self.failure: Failure | None = None
        self.tick_count, self.hours, self.alive_from = 0, 0.0, 0.0
        self._later: list[tuple[float, str, int]] = []
        self._due = list(
            reversed(draw_events(s) if s.events is None else sorted(s.events, key=lambda e: e.tick))
        )
        self._adversary = Adversary(s, numbers) if s.events is None else None
        self._seen_contacts = self._born = 0
        n = len(numbers)
        self._late_until = np.full(n, -np.inf)
        self._moved_at, self._gone_since = np.full(n, -np.inf), np.full(n, np.nan)
        self._pushed_at = np.full(n, -np.inf)
        self._was_there = self.world.present.copy()

    def _build(self, poses: np.ndarray) -> None:
        s = self.scenario
        limits = np.array([body.limits.as_row() for body in self.bodies])
        holonomic = np.array([body.drive == Drive.HOLONOMIC for body in self.bodies])
        present = np.array([k not in s.waiting for k in self.numbers])
        fastest = float(limits[:, 0].max())
        reaction = max(0.0, s.latency + 2 * PERIOD - 0.3)
        # What a push leaves to others: their way until they have stopped is known to the world for 0.3 s only.
        push_margin = 0.05 + 2 * s.pose_error + fastest * reaction
        self.world = FleetWorld(
            self.map, poses, s.radius, holonomic.astype(int), limits, s.seed % 2**31,
            names=[body.name for body in self.bodies], present=present, push_margin=push_margin,
        )  # fmt: skip
        self._stopping = fastest * (s.latency + 3 * PERIOD) + fastest**2 / (2 * limits[:, 2].min())
        gap = self._stopping + 2 * s.pose_error + 0.05
        self.faults = Faults(
            self.world, FaultConfig(place_gap=gap, place_wall=s.margin / 2), s.seed % 2**31, s.cmd_timeout,
            self.grid.centre(self.cells), s.cmd_delay, self.numbers,
        )  # fmt: skip
        self.checker = IndependentChecker(
            self.map.occupied, self.map.resolution, self.map.origin, self.world.poses, s.radius, holonomic, limits,
            present,
        )  # fmt: skip
        kind = LoneDriver if s.mode == "decentralised" else CentralDriver
        distances = DistanceField(self.map)
        self.driver = kind(s, self.grid, policy_of(s, self.policy_file), self.bodies, distances)
        self.ledger = GoalLedger(self.grid, len(self.bodies), s.pose_error)
        self.situations = Situations(s.radius)
        for i in np.flatnonzero(~present).tolist():
            self.driver.remove_robot(i)
        if s.noise:
            for i in np.flatnonzero(present).tolist():
                self.faults.inject("pose_noise", i, np.inf, xy=s.noise, yaw=0.0)

    # The operator ---------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """True s since the start."""
        return self.faults.time

    @property
    def down(self) -> bool:
        """Whether the fleet's process is dead (centralised)."""
        return self.alive_from > self.now

    def _give_goal(self, i: int) -> None:
        """Send a robot to a random cell; one that it had counts as taken back."""
        cell = self.cells[self.random[self.numbers[i]].integers(len(self.cells))]
        if self.driver.set_goal(i, self.grid.centre(cell), self.faults.clock):
            self.ledger.give(i, (int(cell[0]), int(cell[1])), self.now)
        else:
            self.ledger.take_back(i)

    def _send_goals_again(self) -> None:
        """A process that has just started knows no goals; the operator does."""
        for i, goal in self.ledger.open.items():
            listed = tuple(self.driver.listed[i].tolist())
            if listed != goal.cell:
                self.driver.set_goal(i, self.grid.centre(np.array(goal.cell)), self.faults.clock)

    def _apply(self, event: Event) -> None:
        """Let an event take place, unless no fleet could stand it here and now, and note that it did."""
        row = self.row.get(event.robot, None if event.robot not in self.scenario.robots else 0)
        if row is None or not self._fair(event, row):
            return
        self.counts[event.kind] += 1
        if event.aim:
            self.counts[f"aim_{event.aim}"] += 1
        self.recorded.append(event)
        if event.kind in KINDS:
            self.faults.inject(event.kind, row, event.duration, **event.size)
            if event.kind in LATE_POSES:
                self._late_until[row] = max(self._late_until[row], self.now + event.duration + QUIET_POSES)
            if event.kind in ("push", "removal", "join"):
                self._moved_at[row] = self.now + event.duration
        else:
            getattr(self, f"_{event.kind}")(row, event)

    def _fair(self, event: Event, row: int) -> bool:
        kind, there = event.kind, bool(self.world.present[row])
        if kind in KINDS and kind != "clock_jump" and there == (kind == "join"):
            return False
        if kind == "clock_jump":  # clocks begin at 0
            return self.faults.clock + event.size["seconds"] > 0.0
        unknown = any(self.faults.active(fault)[row] for fault in UNKNOWN_PLACE)
        if kind in ("push", "set_down"):
            return there and not unknown and not self.down and (kind == "push" or self._fits(event, row))
        if kind in UNKNOWN_PLACE:
            lately = self.now - self._moved_at[row] < MOVED_LATELY
            starting = self.down or self.now - self._born < self.scenario.first_settle + PERIOD
            late = kind == "pose_jump" and self.now < self._late_until[row]
            return not lately and not starting and not late
        return kind != "pose_noise" or not self.scenario.noise

    def _fits(self, event: Event, row: int) -> bool:
        """Whether a robot can be set down: clear of walls, and everybody can still stop."""
        s, world = self.scenario, self.world
        xy = np.array([event.size["x"], event.size["y"]])
        wall, _ = world.clearance(row, xy)
        if wall < s.margin / 2:
            return False
        speed = np.hypot(world.velocities[:, 0], world.velocities[:, 1])
        room = speed * (s.latency + 3 * PERIOD) + speed**2 / (2 * world.limits[:, 2])
        room += 2 * s.radius + 2 * s.pose_error + 0.03
        away = np.hypot(*(world.poses[:, :2] - xy).T)
        others = world.present.copy()
        others[row] = False
        return bool((away > room)[others].all())

    def _set_down(self, row: int, event: Event) -> None:
        pose = np.array([event.size["x"], event.size["y"], event.size["yaw"]])
        self.faults.set_down(row, pose)
        self.checker.trust(row, self.world.poses[row])
        self._moved_at[row] = self.now

    def _goal_replaced(self, row: int, event: Event) -> None:
        if not self.driver.removed[row] and not self.down:
            self._give_goal(row)

    def _goal_cancelled(self, row: int, event: Event) -> None:
        if not self.down:
            self.ledger.take_back(row)
            self.driver.cancel_goal(row)

    def _robot_stopped(self, row: int, event: Event) -> None:
        self.driver.stop(row)
        self._later.append((self.now + event.duration, "robot", row))

    def _fleet_stopped(self, row: int, event: Event) -> None:
        self.driver.stop(None)
        self._later.append((self.now + event.duration, "fleet", row))

    def _process_killed(self, row: int, event: Event) -> None:
        if self.scenario.mode == "decentralised":
            self.driver.restart()
            self._send_goals_again()
        else:
            self.alive_from = self.now + event.duration

    def _map_replaced(self, row: int, event: Event) -> None:
        if not self.down:
            for dropped in self.driver.replace_map():
                self._fail("refusal", f"the same map again, and {dropped}")

    def _corrupt_model(self, row: int, event: Event) -> None:
        data = self.policy_file.read_bytes()
        cut = int(event.size["cut"] * (len(data) - 1))
        with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
            file.write(data[:cut])
            file.flush()
            try:
                OnnxPolicy(file.name, POGEMA_LAYOUT)
            except PolicyError:
                return
        self._fail("refusal", f"a model cut after {cut} bytes was accepted")

    def _operate(self) -> None:
        """What operators do in any case: resume, take out who is gone, take in who came back, give goals."""
        now, present = self.now, self.world.present
        for entry in [entry for entry in self._later if entry[0] <= now]:
            self._later.remove(entry)
            self.driver.resume(entry[2] if entry[1] == "robot" else None)
        if self.scenario.mode == "centralised":
            self._gone_since[present] = np.nan
            self._gone_since[~present & np.isnan(self._gone_since)] = now
            gone = ~present & (now - self._gone_since > GONE_AFTER) & ~self.driver.removed
            for i in np.flatnonzero(gone).tolist():
                self.ledger.take_back(i)
                self.driver.remove_robot(i)
            for i in np.flatnonzero(present & self.driver.removed).tolist():
                self.driver.add_robot(i)
        for i in range(len(self.bodies)):
            if i not in self.ledger.open and not self.driver.removed[i]:
                self._give_goal(i)

    # One control period ---------------------------------------------------------------------------------

    def tick(self) -> None:
        """Events, poses, decisions, commands, motion, and judgement."""
        while self._due and self._due[-1].tick <= self.tick_count:
            self._apply(self._due.pop())
        if self._adversary is not None and not self.down and self._adversary.waits(self.tick_count):
            self._let_adversary_act()
        poses = self.faults.poses()
        if not self.down:
            if self.alive_from:
                self.driver.restart()
                self.alive_from, self._born = 0.0, self.now
                self._restore()
            commands = self.driver.tick(poses, self.faults.clock)
            if not np.isfinite(commands).all():
                raise ValueError(f"commands are not finite: {commands.tolist()}")
            for breach in self.driver.breaches:
                self._fail("rule", breach)
            self.faults.send(commands)
            self._judge_goals()
            self._operate()
            if self.tick_count % LOOK_EVERY == 0:
                self._look()
        for _ in range(PHYSICS_STEPS):
            self._step(PERIOD / PHYSICS_STEPS)
        self.hours += self.world.present.sum() * PERIOD / 3600.0
        self.tick_count += 1

    def _restore(self) -> None:
        """Tell a new process which robots are gone, and all goals."""
        for i in np.flatnonzero(~self.world.present).tolist():
            self.ledger.take_back(i)
            self.driver.remove_robot(i)
        self._send_goals_again()

    def _let_adversary_act(self) -> None:
        world = self.world
        there = world.present & ~self.faults.active("push")
        for kind in UNKNOWN_PLACE:
            there &= ~self.faults.active(kind)
        for event in self._adversary.act(
            self.tick_count, self.driver.view(), world.poses, self._map_velocities(), there
        ):
            self._apply(event)

    def _map_velocities(self) -> np.ndarray:
        """float[n, 2] true velocities in the map frame, m/s."""
        v, yaw = self.world.velocities, self.world.poses[:, 2]
        return np.stack(
            [v[:, 0] * np.cos(yaw) - v[:, 1] * np.sin(yaw), v[:, 0] * np.sin(yaw) + v[:, 1] * np.cos(yaw)],
            axis=1,
        )

    def _judge_goals(self) -> None:
        able = self.world.present & ~self.driver.stopped
        for kind in HAMPERED:
            able &= ~self.faults.active(kind)
        lost = len(self.ledger.lost)
        refusals = self.driver.refusals if len(self.ledger.open) else set()
        self.ledger.watch(self.now, PERIOD, self.world.poses, self.driver.listed, able, refusals)
        if len(self.ledger.lost) > lost:
            self._fail("goal", self.ledger.lost[-1])

    def _look(self) -> None:
        speed = np.hypot(self.world.velocities[:, 0], self.world.velocities[:, 1])
        self.situations.look(
            self.driver.view(), self.world.poses, speed, self.faults.active("stall"), self.driver.stopped,
            self.world.present, self.driver.longest_queue(),
        )  # fmt: skip

    def _step(self, dt: float) -> None:
        """Move, and let both judge: the simulator's own counter and the independent checker."""
        world, checker = self.world, self.checker
        before = len(world.contacts)
        touches, disagreements = len(checker.touches), len(checker.disagreements)
        self.faults.step(dt)
        came = world.present & ~self._was_there
        if came.any():
            self._moved_at[came] = self.now
        self._was_there = world.present.copy()
        index = {name: k for k, name in enumerate(world.names)} if len(world.contacts) > before else {}
        pairs = [(index[c.a], index.get(c.b, WALL)) for c in world.contacts[before:]]
        checker.step(
            self.faults.obeyed, dt, self.faults.pushed, world.poses, world.velocities, world.present, pairs
        )
        self._pushed_at[self.faults.active("push")] = self.now
        for contact in world.contacts[before:]:
            kind = "wall" if contact.b == "wall" else "contact"
            if kind == "wall" and self._pushed_there(index[contact.a]):
                self.counts["walls_by_push"] += 1
                continue
            self._fail(kind, f"t = {contact.time:.2f} s: {contact.a} touched {contact.b} at {contact.xy}")
        for touch in checker.touches[touches:]:
            kind = "wall" if touch.b == WALL else "contact"
            if kind == "wall" and self._pushed_there(touch.a):
                continue
            self._fail(
                kind, f"t = {touch.time:.2f} s: {touch.a} touched {touch.b}, {1e3 * touch.depth:.2f} mm"
            )
        for sentence in checker.disagreements[disagreements:]:
            self._fail("disagreement", sentence)

    def _pushed_there(self, row: int) -> bool:
        """Whether a hand pushed a robot so lately that it could not have stopped before a wall since."""
        s = self.scenario
        speed, _, acceleration, _ = s.row(self.numbers[row])
        return self.now - self._pushed_at[row] <= s.latency + 3 * PERIOD + speed / acceleration

    def _fail(self, kind: str, what: str) -> None:
        if self.failure is None:
            self.failure = Failure(kind, self.tick_count, what)

    def run(self) -> dict[str, Any]:
        """Simulate until the end or the first failure; the results."""
        try:
            while self.tick_count < self.scenario.ticks and self.failure is None:
                self.tick()
        except Exception as error:  # whatever it is, the run has failed
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            self._fail("exception", f"t = {self.now:.2f} s: {type(error).__name__}: {error} ({place})")
        missing = self.ledger.forgotten_at_the_end()
        if self.failure is None and missing:
            self._fail("goal", f"{missing} open goals are missing from the fleet at the end")
        return self.results()

    def results(self) -> dict[str, Any]:
        """Counts and extremes so far."""
        s, ledger = self.scenario, self.ledger
        remedies = self.driver.counts()
        self.situations.counts["remedy_firsts"] = remedies["firsts"]
        self.situations.counts["remedy_plans"] = remedies["plans"]
        self.situations.counts["closer_than_5_cm"] = int(self.checker.least_gap < 0.05)
        gap = min(self.checker.least_gap, self.world.min_separation)
        return {
            "seed": s.seed, "family": s.family, "mode": s.mode, "execution": s.execution, "policy": s.policy,
            "robots": len(self.bodies), "cells": len(self.cells), "fill": round(self.fill, 3),
            "cell_size_m": self.grid.cell_size, "radius_m": s.radius, "margin_m": s.margin,
            "pose_error_m": s.pose_error, "holonomic": s.holonomic, "kinds_of_robots": len(s.limits),
            "latency_s": s.latency,
            "robot_hours": self.hours, "simulated_s": self.now,
            "robot_contacts": self.world.robot_contacts, "wall_contacts": self.world.wall_contacts,
            "touches": len(self.checker.touches), "disagreements": self.checker.disagreements[:5],
            "least_gap_m": gap if np.isfinite(gap) else None,
            "goals": {
                "given": ledger.given, "reached": ledger.reached, "taken_back": ledger.taken_back,
                "refused": ledger.refused, "open": len(ledger.open), "lost": len(ledger.lost),
            },
            "starved_robots": int((ledger.longest > STARVED).sum()),
            "unserved_robots": int((ledger.served == 0).sum()),
            "longest_starved_s": float(ledger.longest.max(initial=0.0)),
            "events": dict(self.counts), "situations": dict(self.situations.counts), "remedies": dict(remedies),
            "failure": None if self.failure is None else vars(self.failure),
        }  # fmt: skip
