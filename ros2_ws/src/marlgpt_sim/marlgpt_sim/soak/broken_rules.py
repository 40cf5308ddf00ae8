"""Rules broken on purpose: a soak that does not find them within hours would not find the next hole either."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from marlgpt_policy.fleet import driving as driving_module
from marlgpt_policy.fleet.fleet import Fleet
from marlgpt_policy.motion.edge_coupling import Edges
from marlgpt_policy.motion.reservations import Reservations

from marlgpt_sim.soak.rule_watch import SettlingWatch

FORGETS_EVERY = 600
"""Control periods between two goals that a forgetful fleet loses: one in half a minute."""


def _last_claim_only(original: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Couple each robot to the last claim before its own, not to all of them."""

    def pairs(self: Reservations) -> np.ndarray:
        rows = original(self)
        last = {(robot, row, column): k for k, (robot, _, row, column) in enumerate(rows.tolist())}
        return rows[sorted(last.values())]

    return pairs


def _never_obstructed(original: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Whoever drives looks at nobody."""

    def free_ways(robots: Any, ends: np.ndarray, active: np.ndarray, reach: np.ndarray) -> np.ndarray:
        return np.full(len(ends), np.inf)

    return free_ways


def _only_docking_looks(original: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Robots on the grid rely on their claims: protective stops would cover for a broken one."""

    def free_ways(robots: Any, ends: np.ndarray, active: np.ndarray, reach: np.ndarray) -> np.ndarray:
        return original(robots, ends, active & robots.docking, reach)

    return free_ways


def _always_settles(original: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """An edge ends near its cell's centre though somebody ahead limits the robot."""

    def may_settle(self: Edges) -> np.ndarray:
        return np.ones(len(self.robots), bool)

    return may_settle


def _watches_nothing(original: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """The soak itself looks at contacts only."""

    def look(self: SettlingWatch) -> list[str]:
        return []

    return look


def _forgets_goals(original: Callable[..., Any]) -> Callable[..., Any]:
    """The fleet loses a goal now and then."""

    def tick(self: Fleet, now: float) -> Any:
        result = original(self, now)
        self.periods_until_lost = getattr(self, "periods_until_lost", FORGETS_EVERY) - 1
        has = np.flatnonzero(self.goals[:, 0] >= 0)
        if self.periods_until_lost <= 0 and len(has):
            self.goals[has[self.steps % len(has)]] = -1
            self.periods_until_lost = FORGETS_EVERY
        return result

    return tick


RULES: dict[str, tuple[tuple[Any, str, Callable[..., Any]], ...]] = {
    "coupling": (
        (Reservations, "pairs", _last_claim_only),
        (Edges, "may_settle", _always_settles),
        (driving_module, "free_ways", _only_docking_looks),
        (SettlingWatch, "look", _watches_nothing),
    ),
    "docking": ((driving_module, "free_ways", _never_obstructed),),
    "settling": ((Edges, "may_settle", _always_settles),),
    "goals": ((Fleet, "tick", _forgets_goals),),
}
"""By name: what holds a rule, its name there, what makes a broken one of it; and the rules that would cover for it.

While limited robots do not settle, the last claim alone stands for all of them in nearly every case: so that rule is
broken with it, and must then be found by a contact.
"""


@contextmanager
def broken(rule: str | None) -> Iterator[None]:
    """Break a rule for a while; None breaks none.

    Raises:
        ValueError: there is no such rule.
    """
    if rule is None:
        yield
        return
    if rule not in RULES:
        raise ValueError(f"no rule {rule!r} to break; there are {', '.join(RULES)}")
    originals = [(holder, name, getattr(holder, name)) for holder, name, _ in RULES[rule]]
    try:
        for (holder, name, original), (_, _, breaks) in zip(originals, RULES[rule], strict=True):
            setattr(holder, name, breaks(original))
        yield
    finally:
        for holder, name, original in originals:
            setattr(holder, name, original)
