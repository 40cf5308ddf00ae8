"""The joint decision: observe, ask the policy, propose, apply remedies, and let the shield dispose."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import numpy as np

from marlgpt_policy.cost_to_go import UNREACHABLE, CostToGo
from marlgpt_policy.encoders import pogema
from marlgpt_policy.grid import NavGrid
from marlgpt_policy.patience import Patience
from marlgpt_policy.policy import OnnxPolicy, PolicyOutput, choose
from marlgpt_policy.remedies import (
    FIRST,
    NONE,
    PIBT,
    PIBT_AFTER,
    WAY,
    Detours,
    First,
    rungs,
    shortest,
)
from marlgpt_policy.rescue import PLANNED, Rescue, compile_search
from marlgpt_policy.reservations import Reservations
from marlgpt_policy.robots import Robots
from marlgpt_policy.shield import move_worth, rank_moves, resolve

PACE = 2.0
"""A robot counts this many steps in the time it takes for one: people watch it stand."""
REMEDY_NAMES = {1: "sampling", 2: "pibt", 3: "plan"}
LONGEST_STEP = 3.0
"""Most steps that one decision counts as waited, however long ago the robot's last one was."""


@dataclass(frozen=True)
class Decision:
    """One joint decision; arrays over all n robots.

    Attributes:
        step: Number of the decision, from 1.
        cells: int[n, 2] cells decided from (-1 for robots without one).
        goals: int[n, 2] goal cells, -1 for none.
        proposed: int8[n] the moves proposed: the policy's, or a remedy's.
        executed: int8[n] the shield's moves.
        probabilities: float32[n, 5] of the policy.
        value: float32[n] the critic's value of the executed move.
        held: bool[n] took no part (on its way, stale, stopped, lost).
        remedy: int8[n] what was done against getting stuck, see ``remedies.py``.
        present: bool[n] robots that the others' observations showed.
        history: int8[n, 5] moves before this decision, newest first, -1 for none.
        mask: bool[n, 5] moves that the policy might choose; none for those held.
        detours: int[k, 2] cells that the ways of all led around.
        encode_ms: Time to encode, in ms.
        infer_ms: Time of ONNX Runtime, in ms.
        shield_ms: Time of the shield, in ms.
    """

    step: int
    cells: np.ndarray
    goals: np.ndarray
    proposed: np.ndarray
    executed: np.ndarray
    probabilities: np.ndarray
    value: np.ndarray
    held: np.ndarray
    remedy: np.ndarray
    present: np.ndarray
    history: np.ndarray
    mask: np.ndarray
    detours: np.ndarray
    encode_ms: float
    infer_ms: float
    shield_ms: float


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
        self.rescue = Rescue(costs, len(robots))
        self.detours = Detours(costs)
        self._closed = self.detours.closed
        self.firsts: dict[int, First] = {}
        compile_search()

    def grow(self, count: int) -> None:
        """Robots were appended to the fleet."""
        self.patience.grow(count)
        self.rescue.grow(count)

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
        self._choose_firsts(fit, now)
        if self.detours.closed is not self._closed:
            # A way that a robot was given alone may have become a tour.
            self.rescue.plans = [plan for plan in self.rescue.plans if len(plan.robots) > 1]
            self._closed = self.detours.closed
        ready = ready & ~self._held_by_plans(ready, fit)
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
        in_the_way = self._clear_way(members, anchors[which], mask)
        encoded = time.perf_counter()
        output = self.policy(values, valid, mask)
        steps = self._steps_since(members, now)
        row, column = anchors[which].T
        self.patience.update(members, fields[which, row, column], goals[which], steps)
        proposed = choose(
            output.probabilities, self.patience.temperatures(members, self.temperature), self.random
        )
        inferred = time.perf_counter()
        fixed = ~ready[on_grid]
        planned = self.rescue.propose(
            on_grid, anchors, goals, fields, self.patience.idle[on_grid], closed, self._held, ~fixed
        )[which]
        first = np.isin(members, list(self.firsts)) & (planned < 0)
        remedy = rungs(self.patience.idle[members], planned >= 0, first, self.temperature)
        priority = np.where(
            robots.goals[on_grid, 0] >= 0, robots.waited[on_grid], robots.waited[on_grid] % 1.0
        )
        priority[which] += np.select([first, planned >= 0], [FIRST, PLANNED], 0.0)
        proposed = np.where(planned >= 0, planned, proposed)
        direct = remedy == PIBT
        if direct.any():
            proposed[direct] = shortest(fields[which[direct]], anchors[which[direct]], mask[direct])
        logits = output.logits
        leave = (make_way[members] | in_the_way) & mask[:, 1:5].any(axis=1) & (planned < 0)
        if leave.any():
            logits = logits.copy()
            logits[leave, 0] = -1e9
            proposed[leave] = np.where(mask[leave, :5], logits[leave, :5], -np.inf)[:, 1:].argmax(axis=1) + 1
            priority[which[leave]] += PLANNED
            self.remedies["made_way"] += int(leave.sum())
        proposed = proposed.astype(np.int8)
        ranking = np.full((len(on_grid), 5), -1, dtype=np.int8)
        ranking[which] = rank_moves(logits, proposed, mask)
        worth = np.zeros((len(on_grid), 5))
        worth[which] = move_worth(logits, proposed, mask)
        seed = int(self.random.integers(2**32))
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

    def _held_by_plans(self, ready: np.ndarray, fit: np.ndarray) -> np.ndarray:
        """bool[n] robots that wait for others of their joint plan: its steps are taken by all at once."""
        hold = np.zeros(len(self.robots), dtype=bool)
        self._held: set[int] = set()
        for plan in self.rescue.plans:
            if fit[plan.robots].all() and not ready[plan.robots].all():
                plan.waited += 1
                if plan.waited <= plan.MOST_WAITED:
                    hold[plan.robots] = True
                    self._held |= set(plan.robots.tolist())
            else:
                plan.waited = 0
        return hold

    def _choose_firsts(self, fit: np.ndarray, now: float) -> None:
        """Robots that everybody makes way for, from when they are stuck until they are at their goals.

        If they lost that as soon as they get on, the next one would push them back. They are far from each other.
        """
        robots = self.robots
        for i, first in list(self.firsts.items()):
            same = tuple(robots.goals[i].tolist()) == first.goal
            if not (fit[i] and same) or first.in_vain(self._left(i), now):
                del self.firsts[i]
                self.patience.idle[i] = 0.0
        stuck = np.where(fit & (robots.goals[:, 0] >= 0), self.patience.idle, 0.0)
        for i in np.argsort(-(stuck * 1e3 + robots.waited), kind="stable").tolist():
            if stuck[i] < PIBT_AFTER:
                break
            apart = (
                self._steps_from(i)[list(self.firsts)].min(initial=UNREACHABLE)
                if self.firsts
                else UNREACHABLE
            )
            if i not in self.firsts and apart > 2 * WAY:
                self.firsts[i] = First(tuple(robots.goals[i].tolist()), now, self._left(i), now)
                self.remedies["firsts"] += 1

    def _left(self, robot: int) -> int:
        """Steps from where a robot will stand to its goal."""
        end = self.robots.ends[robot]
        return int(self.costs.field(self.robots.goals[robot])[tuple(end)]) if end[0] >= 0 else UNREACHABLE

    def _steps_from(self, robot: int) -> np.ndarray:
        """int[n] steps from where a robot will stand to where each of the others will."""
        ends = self.robots.ends
        if ends[robot, 0] < 0:
            return np.full(len(ends), UNREACHABLE)
        steps = self.costs.field(ends[robot])[ends[:, 0], ends[:, 1]]
        return np.where(ends[:, 0] >= 0, steps, UNREACHABLE)

    def _clear_way(self, members: np.ndarray, anchors: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Keep the ways of robots that go first clear: others leave them, and enter them nowhere.

        A robot on such a way may still drive along it, ahead of the one it is kept clear for.

        Args:
            members: int[m] robots to decide for.
            anchors: int[m, 2] their cells.
            mask: bool[m, >= 5] their moves; those into ways are taken out, in place.

        Returns:
            bool[m] robots that stand in the way.
        """
        leave = np.zeros(len(members), dtype=bool)
        planned = {robot for plan in self.rescue.plans for robot in plan.robots.tolist()}
        for first in [first for first in self.firsts if first not in planned]:
            place = np.full(self.grid.free.shape, -1)
            for k, cell in enumerate(self._way(first)):
                place[tuple(cell)] = k
            here = place[anchors[:, 0], anchors[:, 1]]
            others = ~np.isin(members, [*self.firsts, *planned])
            leave |= others & (here >= 0)
            for move in range(1, 5):
                legal = np.flatnonzero(mask[:, move] & others)
                ahead = anchors[legal] + pogema.MOVES[move]
                there = place[ahead[:, 0], ahead[:, 1]]
                mask[legal, move] = (there < 0) | ((here[legal] >= 0) & (there > here[legal]))
        return leave

    def _way(self, first: int) -> list[np.ndarray]:
        """int[2] cells that a robot will drive through next, from where it will stand, at most ``WAY`` of them."""
        robots = self.robots
        cell, goal = robots.ends[first].copy(), robots.goals[first]
        field = self.detours.fields(goal[None], cell[None])[0]
        way = [cell]
        while len(way) <= WAY and field[tuple(cell)] > 0:
            move = shortest(field[None], cell[None], self.grid.moves[tuple(cell)][None])[0]
            if move == 0:
                break
            cell = cell + pogema.MOVES[move]
            way.append(cell)
        return way

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
