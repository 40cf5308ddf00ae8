"""SMAX's experts as players of single games, as recording and evaluation take them."""

from __future__ import annotations

import numpy as np

from marlgpt_training.environments.base import Environment, Observation
from marlgpt_training.experts.smax_expert import smax_expert


class SmaxPlayer:
    """An expert that decides in one game of SMAX; nothing is remembered from call to call."""

    def __init__(self, kind: str) -> None:
        """``ppo`` or ``focus``."""
        self._expert = smax_expert(kind)

    def act(self, env: Environment, observation: Observation) -> np.ndarray:
        """int[n] moves in the game as it is now."""
        return self._expert(env)


def player(name: str) -> SmaxPlayer:
    """The player called ``name``."""
    return SmaxPlayer(name)
