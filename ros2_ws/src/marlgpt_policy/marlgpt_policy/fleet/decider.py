"""The joint decision in four steps: look, let the planner propose, resolve conflicts, record."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np

from marlgpt_policy.deadlock.detours import Detours
from marlgpt_policy.deadlock.remedies import NONE, REMEDY_NAMES, rungs, shortest
from marlgpt_policy.deadlock.right_of_way import PLANNED, RightOfWay
from marlgpt_policy.deadlock.rolling_horizon_plan import compile_plans
from marlgpt_policy.deadlock.stagnation import Stagnation
from marlgpt_policy.fleet.decision_record import Decision
from marlgpt_policy.fleet.planners.planner import Planner, Proposal
from marlgpt_policy.fleet.snapshot import Snapshot, take
from marlgpt_policy.grid.moves import NO_ACTION
from marlgpt_policy.mapf.pibt_shield import move_worth, rank_moves, resolve
from marlgpt_policy.motion.floor import Floor
from marlgpt_policy.robots.robot_state import Robots

PACE = 2.0
"""Waiting is counted twice as fast as robots drive: in half steps, so that stuck robots are helped early."""
LONGEST_STEP = 3.0
"""Most steps that one decision counts as waited, however long ago the robot's last one was."""


class Decider:
    """Decides for ``robots`` on ``floor``, and is the only one that writes what decisions leave behind.

    It knows who is stuck and what is tried against it.

    Attributes:
        planner: What proposes moves.
        steps: Joint decisions so far.
        decisions: Decisions of single robots so far.
        remedies: Decisions so far in which each remedy was used.
        stagnation: Who has got no nearer to its goal, and for how long.
        detours: Ways around robots that do not drive.
        right_of_way: Who goes first.
    """

    def __init__(
        self,
        robots: Robots,
        floor: Floor,
        planner: Planner,
        temperature: float,
        random: np.random.Generator,
        step_time: float,
    ) -> None:
        """``step_time`` is the s that a robot takes for a cell; none of the robots has waited yet."""
        self.robots, self.floor, self.planner = robots, floor, planner
        self.temperature, self.random, self.step_time = temperature, random, step_time
        self.steps = 0
        self.decisions = 0
        self.remedies: Counter[str] = Counter()
        self.stagnation = Stagnation(len(robots))
        self.detours = Detours(floor.costs)
        self.right_of_way = RightOfWay(robots, self.stagnation, floor.costs, self.detours)
        compile_plans()

    def take_over(self, before: Decider) -> None:
        """Go on counting where ``before``, which was for another map, ends."""
        self.steps, self.decisions, self.remedies = before.steps, before.decisions, before.remedies
        self.right_of_way.take_over(before.right_of_way)

    def grow(self, count: int) -> None:
        """Robots were appended to the fleet."""
        self.stagnation.grow(count)
        self.robots.waited[-count:] = self.random.random(count)

    def start(self) -> None:
        """All robots are new: who waits equally long is told apart by chance."""
        self.robots.waited[:] = self.random.random(len(self.robots))

    def goal_reached(self, i: int) -> None:
        """A robot is done with its goal: it has not waited yet for the next one."""
        self.robots.waited[i] = self.random.random()

    def begin_anew(self, i: int) -> None:
        """A robot has come onto the grid: its earlier moves led elsewhere."""
        self.robots.history[i] = NO_ACTION

    def clock_set_back(self) -> None:
        """No decision has a time any more."""
        self.robots.decided[:] = self.robots.recorded[:] = -np.inf

    def decide(
        self,
        ready: np.ndarray,
        fit: np.ndarray,
        closed: np.ndarray,
        make_way: np.ndarray,
        now: float,
        timed: bool,
    ) -> tuple[Decision, np.ndarray, np.ndarray]:
        """Decide for robots that have finished their cells or are about to.

        Args:
            ready: bool[n] robots to decide for.
            fit: bool[n] robots that can drive.
            closed: bool[R, C] cells that nobody may enter.
            make_way: bool[n] robots that should leave where they stand, for one that is off the grid.
            now: s.
            timed: Robots decide many times in one step (asynchronous): their history grows by the clock.

        Returns:
            The decision, int[k] the robots decided for, and int8[k] their moves.
        """
        began = time.perf_counter()
        snapshot, steps = self._look(ready, fit, closed, make_way, now)
        looked = time.perf_counter()
        proposal = self.planner.propose(snapshot, self.random)
        planned = time.perf_counter()
        proposed, executed, remedy = self._resolve(snapshot, proposal)
        resolved = time.perf_counter()
        decision = Decision(
            **self._seen(snapshot),
            **self._record(snapshot, proposal, proposed, executed, remedy, steps, timed),
            encode_ms=1e3 * (looked - began) + proposal.prepare_ms,
            infer_ms=proposal.plan_ms,
            shield_ms=1e3 * (resolved - planned),
        )
        return decision, snapshot.members, executed

    def _look(self, ready, fit, closed, make_way, now: float) -> tuple[Snapshot, np.ndarray]:
        """The snapshot, with the moves that right of way leaves, and float[k] steps since the last decisions."""
        if self.planner.resolves_deadlocks:
            self.stagnation.idle[:] = 0.0
        self.right_of_way.choose(fit, now)
        snapshot = take(self.robots, self.floor, self.detours, ready, fit, closed, now)
        members = snapshot.members
        snapshot.leave = self.right_of_way.clear(members, snapshot.deciding_cells, snapshot.mask)
        snapshot.leave |= make_way[members]
        steps = self._steps_since(members, now)
        self.stagnation.update(members, snapshot.distances(), snapshot.goals[snapshot.which], steps)
        snapshot.temperatures = self.stagnation.temperatures(members, self.temperature)
        return snapshot, steps

    def _resolve(self, snapshot: Snapshot, proposal: Proposal) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """int8[k] moves proposed, remedies included, int8[k] moves without conflicts, int8[k] remedies used."""
        which, mask = snapshot.which, snapshot.mask
        proposed, logits, added, remedy = self._remedy(snapshot, proposal)
        waited = self.robots.waited[snapshot.robots]
        priority = np.where(self.robots.goals[snapshot.robots, 0] >= 0, waited, waited % 1.0)
        priority[which] += added
        ranking = np.full((len(snapshot.robots), 5), -1, dtype=np.int8)
        ranking[which] = rank_moves(logits, proposed, mask)
        worth = np.zeros((len(snapshot.robots), 5))
        worth[which] = move_worth(logits, proposed, mask)
        seed = int(self.random.integers(2**32))
        executed = resolve(
            snapshot.cells, ranking, priority, snapshot.moves, ~snapshot.ready, snapshot.closed, worth, seed
        )
        return proposed, executed[which], remedy

    def _remedy(
        self, snapshot: Snapshot, proposal: Proposal
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Put remedies in the place of the planner's moves where robots are stuck or stand in the way.

        Returns:
            int8[k] the moves proposed, float[k, >= 5] logits that rank the others, float[k] what is added to their
            priorities, int8[k] remedies.
        """
        members, mask, cells = snapshot.members, snapshot.mask, snapshot.deciding_cells
        planned = self.right_of_way.plans.propose(
            list(self.right_of_way.firsts), snapshot.robots, snapshot.cells, snapshot.goals, snapshot.fields,
            snapshot.able, snapshot.ready, snapshot.closed, snapshot.now,
        )[snapshot.which]  # fmt: skip
        precedence = self.right_of_way.precedence(members)
        first = (precedence > 0) & (planned < 0)
        remedy = rungs(self.stagnation.idle[members], planned >= 0, first, self.temperature)
        added = np.select([precedence > 0, planned >= 0], [precedence, PLANNED], 0.0)
        proposed = np.where(planned >= 0, planned, proposal.moves)
        if first.any():
            proposed[first] = shortest(snapshot.fields[snapshot.which][first], cells[first], mask[first])
        logits = proposal.logits.copy()
        logits[(planned >= 0) | first, 0] = 1e6  # who cannot go on waits instead of wandering off
        # Planned ones that stand in the way of a robot off the grid leave, too: nobody may wait in a closed cell.
        leave = snapshot.leave & mask[:, 1:5].any(axis=1) & (planned < 0)
        logits[leave, 0] = -1e9
        proposed[leave] = np.where(mask[leave, :5], logits[leave, :5], -np.inf)[:, 1:].argmax(axis=1) + 1
        added[leave] += PLANNED
        self.remedies["made_way"] += int(leave.sum())
        return proposed.astype(np.int8), logits, added, remedy

    def _steps_since(self, members: np.ndarray, now: float) -> np.ndarray:
        """float[k] steps since each robot's last decision."""
        since = (now - self.robots.decided[members]) / (self.step_time / PACE)
        return np.clip(np.where(np.isfinite(since), since, 1.0), 0.0, LONGEST_STEP)

    def _seen(self, snapshot: Snapshot) -> dict:
        """What, beside cells and goals, the observations rest on: recorded, they can be encoded anew."""
        n = len(self.robots)
        present, allowed = np.zeros(n, dtype=bool), np.zeros((n, 5), dtype=bool)
        present[snapshot.robots] = True
        allowed[snapshot.members] = snapshot.mask[:, :5]
        return {
            "present": present, "history": self.robots.history.copy(), "mask": allowed,
            "detours": self.detours.closed,
        }  # fmt: skip

    def _record(
        self,
        snapshot: Snapshot,
        proposal: Proposal,
        proposed,
        executed,
        remedy,
        steps: np.ndarray,
        timed: bool,
    ) -> dict:
        """Note what was decided; the rest of the decision's fields."""
        robots, members, now = self.robots, snapshot.members, snapshot.now
        n = len(robots)
        self.steps += 1
        self.decisions += len(members)
        for value, name in REMEDY_NAMES.items():
            self.remedies[name] += int((remedy == value).sum())
        full = {
            "proposed": np.zeros(n, np.int8), "executed": np.zeros(n, np.int8), "remedy": np.full(n, NONE, np.int8),
            "probabilities": np.zeros((n, 5), np.float32), "value": np.zeros(n, np.float32),
            "cells": robots.ends.copy(),
        }  # fmt: skip
        full["proposed"][members] = proposed
        full["executed"][members] = executed
        full["remedy"][members] = remedy
        full["probabilities"][members] = proposal.probabilities
        full["value"][members] = proposal.values[np.arange(len(members)), executed]
        full["cells"][members] = snapshot.deciding_cells
        held = np.ones(n, dtype=bool)
        held[members] = False
        robots.vetoes[members] += proposed != executed
        robots.waited[members] += steps
        robots.decided[members] = now
        # By the clock, a robot that waits decides many times in one step; its history has one entry for each step.
        due = executed > 0
        due |= ~robots.moving[members] & (not timed or now - robots.recorded[members] >= self.step_time)
        kept = members[due]
        robots.recorded[kept] = now
        robots.history[kept] = np.concatenate([executed[due, None], robots.history[kept, :-1]], axis=1)
        return {"step": self.steps, "goals": robots.goals.copy(), "held": held, **full}
