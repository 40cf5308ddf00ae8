"""Football's experts as players of single games, as recording and evaluation take them."""

from __future__ import annotations

import numpy as np

from marlgpt_training.environments.base import Environment, Observation
from marlgpt_training.experts.grf_script import GrfScript
from marlgpt_training.experts.grf_search import GrfSearch


class GrfPlayer:
    """The script or the search, set up for the scenario of the game that it is shown."""

    def __init__(self, kind: type[GrfScript] | type[GrfSearch]) -> None:
        """``kind`` makes an expert from a scenario's name."""
        self._kind = kind
        self._experts: dict[str, GrfScript | GrfSearch] = {}

    def act(self, env: Environment, observation: Observation) -> np.ndarray:
        """int[n] moves in the game as it is now."""
        if env.scenario not in self._experts:
            self._experts[env.scenario] = self._kind(scenario=env.scenario)
        return self._experts[env.scenario].act(env)


def player(name: str) -> GrfPlayer:
    """The player called ``name``: ``script`` or ``search``."""
    return GrfPlayer({"script": GrfScript, "search": GrfSearch}[name])
