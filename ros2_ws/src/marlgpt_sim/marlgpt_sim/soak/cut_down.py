"""Cuts a failing run down to a small one that still fails: shorter, with fewer events and fewer robots."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from marlgpt_sim.soak.scenario import PERIOD, Event, Scenario

AFTER = 1.0
"""s of a shortened run after the failure that was seen."""

Item = TypeVar("Item")
Fails = Callable[[Scenario], tuple[int, Sequence[Event]] | None]
"""Runs a scenario; the period in which it fails and the events that took place until then, or None if it does not."""


class Budget:
    """CPU seconds and trials that cutting down may take."""

    def __init__(self, seconds: float, trials: int = 100_000) -> None:
        """Begin now."""
        self.end, self.trials = time.process_time() + seconds, trials

    def left(self) -> bool:
        """Whether there is time for one more trial; counts it."""
        self.trials -= 1
        return self.trials >= 0 and time.process_time() < self.end


def fewest(items: Sequence[Item], fails: Callable[[list[Item]], bool], budget: Budget) -> list[Item]:
    """Delta debugging (Zeller and Hildebrandt 2002, doi:10.1109/32.988498): leave out as many items as possible.

    Args:
        items: a list with which ``fails`` is true.
        fails: whether it still fails with some of them, in order.
        budget: when to be content with what there is.

    Returns:
        A list that fails; within the budget, none of its items can be left out alone.
    """
    items, parts = list(items), 2
    if items and budget.left() and fails([]):
        return []
    while len(items) >= 2:
        size = -(-len(items) // parts)
        chunks = [items[k : k + size] for k in range(0, len(items), size)]
        for k in range(len(chunks)):
            rest = [item for m, chunk in enumerate(chunks) if m != k for item in chunk]
            if not budget.left():
                return items
            if fails(rest):
                items, parts = rest, max(parts - 1, 2)
                break
        else:
            if size == 1:
                return items
            parts = min(2 * parts, len(items))
    return items


def cut_down(scenario: Scenario, fails: Fails, budget: Budget) -> Scenario:
    """The smallest scenario found that fails; ``scenario`` itself, written down, if nothing can be left out.

    Args:
        scenario: one that fails.
        fails: how it is tried.
        budget: seconds and trials.

    Raises:
        ValueError: it does not fail.
    """
    found = fails(scenario)
    if found is None:
        raise ValueError(f"the run of seed {scenario.seed} does not fail when it is repeated")
    best = _written_down(scenario, *found)
    if fails(best) is None:
        return scenario  # what happened cannot be repeated from its events alone
    tried = {"best": best}

    def attempt(candidate: Scenario) -> bool:
        found = fails(candidate)
        if found is None:
            return False
        shorter = _written_down(candidate, *found)
        tried["best"] = shorter if shorter.ticks < candidate.ticks else candidate
        return True

    def without_robots(robots: Iterable[int]) -> bool:
        kept = tuple(robots)
        if not kept:
            return False
        s = tried["best"]
        events = tuple(
            e for e in s.events if e.robot in kept or e.kind in ("fleet_stopped", "process_killed")
        )
        waiting = tuple(robot for robot in s.waiting if robot in kept)
        return attempt(s.replace(robots=kept, events=events, waiting=waiting))

    def with_events(events: list[Event]) -> bool:
        return attempt(tried["best"].replace(events=tuple(events)))

    size = None
    while size != (size := (len(tried["best"].robots), len(tried["best"].events), tried["best"].ticks)):
        fewest(tried["best"].robots, without_robots, budget)
        fewest(tried["best"].events, with_events, budget)
        if not budget.left():
            break
    return tried["best"]


def _written_down(scenario: Scenario, tick: int, events: Sequence[Event]) -> Scenario:
    """The scenario with the events that took place, ending soon after its failure."""
    ticks = min(scenario.ticks, tick + round(AFTER / PERIOD))
    return scenario.replace(ticks=ticks, events=tuple(e for e in events if e.tick <= tick))
