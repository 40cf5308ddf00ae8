"""Football expert by search: from an exact snapshot, try variations of the script until one scores.

The script as it is comes first, so that labels change from it only where it fails. A search knows how the game's
dice will fall from here on (they are part of the snapshot); what it finds is one way that works, not the best on
average, and its labels are the less learnable the more luck they needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from marlgpt_training.environments.base import Observation, Step
from marlgpt_training.environments.grf import BOTTOM_LEFT, Grf
from marlgpt_training.experts.grf_script import GrfScript, Style

SIGNED = {"gain", "aim"}
"""Numbers of a style that may be negative."""


def vary(style: Style, rng: np.random.Generator, amount: float) -> Style:
    """``style`` with every number changed at random: by a factor exp(N(0, amount)) and a shift of up to a metre or so.

    Switches flip with probability ``amount`` / 4.
    """
    changed = {}
    for name, value in dataclasses.asdict(style).items():
        if isinstance(value, bool):
            changed[name] = bool(value ^ (rng.random() < amount / 4))
        else:
            moved = value * np.exp(amount * rng.normal()) + amount * rng.normal()
            changed[name] = float(moved if name in SIGNED else max(0.0, moved))
    return Style(**changed)


def roll_out(
    env: Grf, script: GrfScript, horizon: int, noise: float = 0.0, rng: np.random.Generator | None = None
) -> tuple[list[np.ndarray], bool, list[bytes]]:
    """Play ``script`` from the current state.

    Args:
        env: The running game.
        script: Who plays.
        horizon: Steps at most.
        noise: Probability that an agent runs in a random direction (or goes on as before) instead.
        rng: Draws the noise; needed if there is any.

    Returns:
        The executed joint moves int[n], whether they led to a goal, and the :func:`fingerprint` before each of them.
    """
    before = env.metrics()["goals"]
    played, states = [], []
    for _ in range(horizon):
        actions = script.act(env)
        if noise > 0:
            slips = (rng.random(env.agents) < noise) & env.active()
            actions = np.where(slips, rng.integers(BOTTOM_LEFT + 1, size=env.agents), actions)
        played.append(actions)
        states.append(fingerprint(env))
        _, step = env.step(actions)
        if env.metrics()["goals"] > before:
            return played, True, states
        if step.over:
            break
    return played, False, states


def fingerprint(env: Grf) -> bytes:
    """Tells states apart, those of other episodes, too."""
    places = [env.raw[name].tobytes() for name in ("ball", "left_team", "right_team")]
    return b"%d %d " % (env.seed, env.steps) + b"".join(places)


class GrfSearch:
    """Plans by trying scripts; searches again where a state is not on the last plan."""

    def __init__(
        self,
        style: Style | None = None,
        scenario: str = "pass_and_shoot",
        tries: int = 16,
        horizon: int = 120,
        amount: float = 0.3,
        pause: int = 8,
        seed: int = 0,
    ) -> None:
        """A searcher.

        Args:
            style: What to vary, if not what was tuned for ``scenario``.
            scenario: The scenario's short name.
            tries: Roll-outs of one search at most; the first is the script itself.
            horizon: Steps of a roll-out at most.
            amount: How much a variation changes; see :func:`vary`.
            pause: After a search that found nothing :meth:`act` leaves this many steps to the script.
            seed: Seed of the variations. Equal seeds and states give equal plans.

        Raises:
            ValueError: ``tries``, ``horizon`` or ``pause`` below 1.
        """
        if min(tries, horizon, pause) < 1:
            raise ValueError(f"tries {tries}, horizon {horizon}, pause {pause}: each must be at least 1")
        self.script = GrfScript(style, scenario)
        self.tries, self.horizon, self.amount, self.pause = tries, horizon, amount, pause
        self.seed = seed
        self._planned: dict[bytes, np.ndarray] = {}
        self._paused = range(0)

    def plan(self, env: Grf) -> list[np.ndarray] | None:
        """Joint moves int[n] that lead to a goal from the current state; None if none is found.

        The state is left as it was.
        """
        start = env.snapshot()
        rng = np.random.default_rng([self.seed, env.steps])
        try:
            for k in range(self.tries):
                script = self.script
                if k > 0:
                    env.restore(start)
                    script = GrfScript(vary(script.style, rng, self.amount))
                played, scored, states = roll_out(env, script, self.horizon)
                if scored:
                    self._planned = dict(zip(states, played, strict=True))
                    return played
        finally:
            env.restore(start)
        return None

    def act(self, env: Grf) -> np.ndarray:
        """Labels int[n] for the current state, whoever led there: a plan's moves, or the script's if there is none."""
        here = fingerprint(env)
        if here not in self._planned and env.steps not in self._paused:
            self._paused = range(0)
            if self.plan(env) is None:
                self._paused = range(env.steps, env.steps + self.pause)
        return self._planned[here] if here in self._planned else self.script.act(env)


@dataclasses.dataclass
class Played:
    """One step of an episode.

    Attributes:
        observation: What the agents saw.
        actions: int[n] what they did.
        labels: int[n] what the expert says they should do.
        step: What it led to.
    """

    observation: Observation
    actions: np.ndarray
    labels: np.ndarray
    step: Step


def winning_episode(env: Grf, seed: int, expert: GrfScript | GrfSearch) -> Iterator[Played]:
    """The episode ``seed`` as ``expert`` wins it, step by step; nothing if it does not.

    A script plays once, a search as often as it may; the winner is then played again, which gives the same episode.
    """
    observation = env.reset(seed)
    search = expert
    if isinstance(expert, GrfScript):
        search = GrfSearch(expert.style, tries=1, horizon=10_000)
    for actions in search.plan(env) or []:
        following, step = env.step(actions)
        yield Played(observation, actions, actions.copy(), step)
        observation = following
