"""The joint decision: observe, ask the policy, propose, apply remedies, and let the shield dispose."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np

from marlgpt_policy.deadlock.detours import Detours
from marlgpt_policy.deadlock.remedies import NONE, REMEDY_NAMES, rungs, shortest
from marlgpt_policy.deadlock.right_of_way import PLANNED, RightOfWay
from marlgpt_policy.deadlock.rolling_horizon_plan import compile_plans
from marlgpt_policy.deadlock.stagnation import Patience
from marlgpt_policy.encoders import pogema
from marlgpt_policy.fleet.decision_record import Decision
from marlgpt_policy.grid.cost_to_go import CostToGo
from marlgpt_policy.grid.nav_grid import NavGrid
from marlgpt_policy.mapf.pibt_shield import move_worth, rank_moves, resolve
from marlgpt_policy.motion.reservations import Reservations
from marlgpt_policy.policy.onnx_policy import OnnxPolicy, PolicyOutput, choose
from marlgpt_policy.robots.robot_state import Robots

PACE = 2.0
"""A robot counts this many steps in the time it takes for one: people watch it stand."""
LONGEST_STEP = 3.0
"""Most steps that one decision counts as waited, however long ago the robot's last one was."""


class Decider:
    """Decides for ``robots`` on ``grid``; knows who is stuck and what is tried against it.

    Attributes:
        policy: The policy in use.
        steps: Joint decisions so far.
        decisions: Decisions of single robots so far.
        remedies: Decisions so far in which each remedy was used.
    """

    def __init__(
        self,
        robots: Robots,
        grid: NavGrid,
        costs: CostToGo,
        reservations: Reservations,
        policy: OnnxPolicy,
        temperature: float,
        random: np.random.Generator,
        step_time: float,
    ) -> None:
        """``step_time`` is the s that a robot takes for a cell; None of the robots has waited yet."""
        self.robots, self.grid, self.costs, self.reservations = robots, grid, costs, reservations
        self.policy, self.temperature, self.random = policy, temperature, random
        self.step_time = step_time
        self.steps = 0
        self.decisions = 0
        self.remedies: Counter[str] = Counter()
        self.patience = Patience(len(robots))
        self.detours = Detours(costs)
        self.right_of_way = RightOfWay(robots, self.patience, costs, self.detours)
        compile_plans()

    def grow(self, count: int) -> None:
        """Robots were appended to the fleet."""
        self.patience.grow(count)

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
            The decision, int[m] the robots decided for, and int8[m] their moves.
        """
        robots = self.robots
        started = time.perf_counter()
        self.right_of_way.choose(fit, now)
        ends = robots.ends
        # A robot whose cell a follower has taken over is where that follower will be.
        holds = self.reservations.holder[ends[:, 0], ends[:, 1]] == np.arange(len(robots))
        on_grid = np.flatnonzero((robots.cells[:, 0] >= 0) & holds)
        anchors = ends[on_grid]
        goals = np.where(robots.goals[on_grid, :1] >= 0, robots.goals[on_grid], anchors)
        fields = self.detours.fields(goals, anchors)
        which = np.flatnonzero(ready[on_grid])
        members = on_grid[which]
        values, valid, mask = pogema.encode(
            fields, anchors, goals, robots.history[on_grid], self.grid.moves, which
        )
        for move in range(1, 5):
            ahead = anchors[which] + pogema.MOVES[move]
            legal = mask[:, move]
            mask[legal, move] = ~closed[ahead[legal, 0], ahead[legal, 1]]
        leave = self.right_of_way.clear(members, anchors[which], mask) | make_way[members]
        encoded = time.perf_counter()
        output = self.policy(values, valid, mask)
        inferred = time.perf_counter()
        steps = self._steps_since(members, now)
        row, column = anchors[which].T
        self.patience.update(members, fields[which, row, column], goals[which], steps)
        planned = self.right_of_way.plans.propose(
            list(self.right_of_way.firsts), on_grid, anchors, goals, fields, fit[on_grid], ready[on_grid],
            closed, now,
        )[which]  # fmt: skip
        proposed, logits, added, remedy = self._propose(
            members, output, mask, planned, leave, fields[which], anchors[which]
        )
        waited = robots.waited[on_grid]
        priority = np.where(robots.goals[on_grid, 0] >= 0, waited, waited % 1.0)
        priority[which] += added
        ranking = np.full((len(on_grid), 5), -1, dtype=np.int8)
        ranking[which] = rank_moves(logits, proposed, mask)
        worth = np.zeros((len(on_grid), 5))
        worth[which] = move_worth(logits, proposed, mask)
        seed = int(self.random.integers(2**32))
        fixed = ~ready[on_grid]
        executed = resolve(anchors, ranking, priority, self.grid.moves, fixed, closed, worth, seed)[which]
        shielded = time.perf_counter()
        seen = self._seen(on_grid, members, mask)
        decision = Decision(
            **seen,
            **self._record(members, anchors[which], proposed, executed, output, remedy, steps, now, timed),
            encode_ms=(encoded - started) * 1e3,
            infer_ms=(inferred - encoded) * 1e3,
            shield_ms=(shielded - inferred) * 1e3,
        )
        return decision, members, executed

    def _propose(
        self, members, output: PolicyOutput, mask, planned, leave, fields, anchors
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What robots want: the policy's moves, or those of a remedy.

        Args:
            members: int[m] robots.
            output: Of the policy, for them.
            mask: bool[m, >= 5] their moves.
            planned: int8[m] moves of the joint plan, -1 for robots in none.
            leave: bool[m] robots that should leave where they stand.
            fields: int32[m, R, C] cost-to-go.
            anchors: int[m, 2] where they stand or will.

        Returns:
            int8[m] the moves proposed, float[m, >= 5] logits that rank the others, float[m] what is added to their
            priorities, int8[m] remedies.
        """
        temperatures = self.patience.temperatures(members, self.temperature)
        proposed = choose(output.probabilities, temperatures, self.random)
        precedence = self.right_of_way.precedence(members)
        first = (precedence > 0) & (planned < 0)
        remedy = rungs(self.patience.idle[members], planned >= 0, first, self.temperature)
        added = np.select([precedence > 0, planned >= 0], [precedence, PLANNED], 0.0)
        proposed = np.where(planned >= 0, planned, proposed)
        if first.any():
            proposed[first] = shortest(fields[first], anchors[first], mask[first])
        logits = output.logits.copy()
        logits[(planned >= 0) | first, 0] = 1e6  # who cannot go on waits instead of wandering off
        # Planned ones that stand in the way of a robot off the grid leave, too: nobody may wait in a closed cell.
        leave = leave & mask[:, 1:5].any(axis=1) & (planned < 0)
        logits[leave, 0] = -1e9
        proposed[leave] = np.where(mask[leave, :5], logits[leave, :5], -np.inf)[:, 1:].argmax(axis=1) + 1
        added[leave] += PLANNED
        self.remedies["made_way"] += int(leave.sum())
        return proposed.astype(np.int8), logits, added, remedy

    def _steps_since(self, members: np.ndarray, now: float) -> np.ndarray:
        """float[m] steps since each robot's last decision."""
        since = (now - self.robots.decided[members]) / (self.step_time / PACE)
        return np.clip(np.where(np.isfinite(since), since, 1.0), 0.0, LONGEST_STEP)

    def _seen(self, on_grid: np.ndarray, members: np.ndarray, mask: np.ndarray) -> dict:
        """What, beside cells and goals, the observations rest on: recorded, they can be encoded anew."""
        n = len(self.robots)
        present, allowed = np.zeros(n, dtype=bool), np.zeros((n, 5), dtype=bool)
        present[on_grid] = True
        allowed[members] = mask[:, :5]
        history = self.robots.history.copy()
        return {"present": present, "history": history, "mask": allowed, "detours": self.detours.closed}

    def _record(
        self, members, anchors, proposed, executed, output: PolicyOutput, remedy, steps, now, timed
    ) -> dict:
        robots = self.robots
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
        full["probabilities"][members] = output.probabilities
        full["value"][members] = output.q[np.arange(len(members)), executed]
        full["cells"][members] = anchors
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
