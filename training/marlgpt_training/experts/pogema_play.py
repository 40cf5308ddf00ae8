"""POGEMA's experts as players of single games, as evaluation takes them."""

from __future__ import annotations

import weakref

import numpy as np

from marlgpt_training.environments.base import Environment, Observation
from marlgpt_training.experts.lns import LIFELONG, ONE_SHOT, LnsExpert, window_of
from marlgpt_training.experts.pibt import Pibt


class PogemaPlayer:
    """Large-neighbourhood search or PIBT, one for each episode that it is shown."""

    def __init__(self, name: str, seed: int = 0) -> None:
        """``lns`` or ``pibt``; ``seed`` is that of search and ties."""
        self._name, self._seed = name, seed
        self._running = weakref.WeakKeyDictionary()  # environment -> (its map, that episode's expert)

    def act(self, env: Environment, observation: Observation) -> np.ndarray:
        """int8[n] moves in the game as it is now."""
        known, expert = self._running.get(env, (None, None))
        if known is not env.moves:  # every episode has edges of its own
            expert = self._begin(env)
            self._running[env] = env.moves, expert
        own = np.arange(env.agents)
        if self._name == "lns":
            return expert.act(env.cells, env.goals, env.fields, own)
        return expert.act(env.cells, env.fields, own, env.arrived)

    def _begin(self, env: Environment) -> LnsExpert | Pibt:
        if self._name == "pibt":
            return Pibt(env.moves, env.agents, self._seed)
        mode = LIFELONG if env.lifelong else ONE_SHOT
        return LnsExpert(env.moves, env.agents, mode, window_of(env.family), seed=self._seed)


def player(name: str) -> PogemaPlayer:
    """The player called ``name``."""
    return PogemaPlayer(name)
