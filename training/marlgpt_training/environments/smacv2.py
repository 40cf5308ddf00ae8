"""SMACv2: StarCraft II micromanagement through the unmodified ``smacv2`` package, against the game's built-in AI.

Teams are drawn anew each episode (weights .45, .45 and .1 for the rare unit), and start surrounded or mirrored with
equal chance, as in the package's own example configurations (Ellis et al. 2023, arXiv 2212.07489).

Reward, the same for all agents of the team and in the package's own proportions: damage to the enemies' health and
shields, 10 for each kill and 200 for the win. The package divides by the largest sum that its first episode allows, so
that later and stronger enemies, or enemies that heal, pay more than its nominal 20. Here the largest sum is that of the
episode at hand, damage to healed health pays nothing beyond it, and the whole is scaled to 2: returns lie within 0..2,
and a won episode returns exactly what it would without healing.

The observation is the package's own with a habit of it (commit 577ab5a): as long as the team has not seen an enemy, an
agent does not see those of lower numbers either, and the agents are asked in random order. The action mask tells of
all enemies in range.

Needs StarCraft II itself; :mod:`marlgpt_training.environments.smacv2_package` says where it is looked for.
"""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Iterator

import numpy as np
from marlgpt_policy.encoders.smacv2 import UNIT_TYPES, smacv2_encoder
from marlgpt_policy.encoders.token_layout import MAX_ACTIONS

from marlgpt_training.environments.base import Environment, Observation, Step
from marlgpt_training.environments.smacv2_package import find_game, import_smacv2, missing_game

SCENARIOS = tuple(f"{race}_{sides}" for race in UNIT_TYPES for sides in ("5v5", "5v6", "10v10"))
"""What results are reported on; any other RACE_AvB within the encoder's limits can be played as well."""
TEAMS = {
    "protoss": {"unit_types": ["stalker", "zealot", "colossus"], "weights": [0.45, 0.45, 0.1]},
    "terran": {
        "unit_types": ["marine", "marauder", "medivac"],
        "weights": [0.45, 0.45, 0.1],
        "exception_unit_types": ["medivac"],
    },
    "zerg": {
        "unit_types": ["zergling", "baneling", "hydralisk"],
        "weights": [0.45, 0.1, 0.45],
        "exception_unit_types": ["baneling"],
    },
}
"""Units that a race's teams are drawn from; a team is never of exception types alone."""
KILL, WIN = 10.0, 200.0
"""The package's rewards, next to 1 per point of damage."""
RETURN = 2.0
"""Largest return."""


def parse(scenario: str) -> tuple[str, int, int]:
    """(race, allies, enemies) of ``RACE_AvB``; ``ValueError`` if it is not of that form."""
    found = re.fullmatch(rf"({'|'.join(UNIT_TYPES)})_(\d+)v(\d+)", scenario)
    if not found:
        raise ValueError(
            f"unknown SMACv2 scenario '{scenario}'; choose {', '.join(SCENARIOS)} or another RACE_AvB"
        )
    return found[1], int(found[2]), int(found[3])


def options(race: str, allies: int, enemies: int) -> dict:
    """Arguments of the package's wrapper, as in its example configuration of ``race``, rewards unscaled."""
    return {
        "map_name": f"10gen_{race}",
        "capability_config": {
            "n_units": allies,
            "n_enemies": enemies,
            "team_gen": {"dist_type": "weighted_teams", "observe": True, **TEAMS[race]},
            "start_positions": {"dist_type": "surrounded_and_reflect", "p": 0.5, "map_x": 32, "map_y": 32},
        },
        "conic_fov": False,
        "obs_own_pos": True,
        "use_unit_ranges": True,
        "min_attack_range": 2,
        "reward_only_positive": True,
        "reward_scale": False,
        "reward_death_value": KILL,
        "reward_win": WIN,
        "reward_defeat": 0,
    }


class Smacv2(Environment):
    """One game of StarCraft II, started with the first episode.

    Attributes:
        wrapper: The package's environment.
        exact: Whether every episode starts StarCraft II anew.
    """

    game = "smacv2"

    def __init__(self, scenario: str, difficulty: str = "7", exact: bool = False) -> None:
        """Set up ``scenario``, e.g. ``protoss_5v5`` or ``zerg_10v11``.

        Args:
            scenario: RACE_AvB.
            difficulty: Of the built-in AI, 1 (very easy) to 9 and A; results are reported on 7.
            exact: Start StarCraft II anew for every episode (seconds each), so that equal seeds give equal episodes for
                equal moves. Otherwise the seed decides on teams and places, but the game's own chance runs on from
                episode to episode.

        Raises:
            ValueError: Unknown scenario or difficulty, or unit numbers that the encoder refuses.
            MissingExtra: The package or StarCraft II is missing.
        """
        race, self.agents, self.enemies = parse(scenario)
        self.encoder = smacv2_encoder(race, self.agents, self.enemies)
        self.scenario, self.exact = scenario, exact
        if len(difficulty) != 1 or difficulty not in "123456789A":
            raise ValueError(f"unknown difficulty '{difficulty}'; choose 1 to 9 or A")
        wrapper = import_smacv2()
        find_game()
        self.wrapper = wrapper(difficulty=difficulty, **options(race, self.agents, self.enemies))
        self._started = False
        self._mask: np.ndarray | None = None  # of the agents' next move; None between episodes

    def reset(self, seed: int) -> Observation:
        """Begin the episode of ``seed``; see ``exact``.

        Raises:
            MissingExtra: StarCraft II does not start.
        """
        self._begin(seed)
        inner = self.wrapper.env
        full = sum(unit.health_max + unit.shield_max for unit in inner.enemies.values())
        self._left = full + KILL * self.enemies
        self._scale = RETURN / (self._left + WIN)
        self._metrics = {"success": 0.0, "dead_allies": 0.0, "dead_enemies": 0.0, "steps": 0.0}
        return self._observe()

    def step(self, actions: np.ndarray) -> tuple[Observation, Step]:
        """Move all agents; a dead agent's move is ignored.

        Raises:
            ValueError: A move outside the mask, or the episode is over.
            ConnectionError: StarCraft II stopped answering; it was started anew, so reset.
        """
        raw, terminated, info = self.wrapper.step(self._legal(np.asarray(actions)))
        if not info:
            self._mask = None
            raise ConnectionError(
                "StarCraft II stopped answering and was started anew; reset the environment"
            )
        won = bool(info["battle_won"])
        battle = min(raw - WIN * won, self._left)
        self._left -= battle
        reward = self._scale * (battle + WIN * won)
        self._metrics = {
            "success": float(won),
            "dead_allies": float(info["dead_allies"]),
            "dead_enemies": float(info["dead_enemies"]),
            "steps": self._metrics["steps"] + 1,
        }
        # A draw counts neither as won nor as lost; it is the only other end than the step limit.
        drawn = info["dead_allies"] == self.agents and info["dead_enemies"] == self.enemies
        ended = bool(terminated and (won or drawn or self.wrapper.env.defeat_counted))
        seen = self._observe()
        if terminated:
            self._mask = None
        return seen, Step(
            np.full(self.agents, reward, dtype=np.float32), ended, bool(terminated and not ended)
        )

    def _begin(self, seed: int) -> None:
        """Let the package begin an episode, all its random choices drawn from ``seed``."""
        from pysc2.lib.sc_process import SC2LaunchError

        inner = self.wrapper.env
        for number, generator in enumerate(_generators(self.wrapper.env_key_to_distribution_map)):
            generator.rng = np.random.default_rng([seed, number])
        self._random = random.Random(seed).getstate()
        try:
            with self._global_random():
                if not self._started or self.exact:
                    inner._seed = seed % 2**31
                if self._started and self.exact:
                    inner.full_restart()
                self.wrapper.reset()
        except SC2LaunchError as error:
            raise missing_game(error) from error
        self._started = True
        # The package launches another game as long as it has finished no episode; one that was broken off counts too.
        inner._episode_count = max(1, inner._episode_count)

    def metrics(self) -> dict[str, float]:
        """Success (1: won), dead_allies, dead_enemies, steps."""
        return dict(self._metrics)

    def close(self) -> None:
        """End StarCraft II; another episode starts it again."""
        self.wrapper.close()
        self.wrapper.env._episode_count = 0
        self._started, self._mask = False, None

    @contextlib.contextmanager
    def _global_random(self) -> Iterator[None]:
        """Let the package's use of the global generator (order of teams and of observers) follow the episode's seed."""
        kept = random.getstate()
        random.setstate(self._random)
        try:
            yield
        finally:
            self._random = random.getstate()
            random.setstate(kept)

    def _observe(self) -> Observation:
        with self._global_random():
            observations = self.wrapper.get_obs()
        features, visible = self.encoder.frame(np.stack(observations))
        allowed = np.array(self.wrapper.get_avail_actions(), dtype=np.bool_)
        self._mask = np.zeros((self.agents, MAX_ACTIONS), dtype=np.bool_)
        self._mask[:, : allowed.shape[1]] = allowed
        return Observation(features, visible, self._mask.copy(), ~self._mask[:, 0])

    def _legal(self, actions: np.ndarray) -> list[int]:
        """The moves with those of the dead replaced by the only one they have."""
        if self._mask is None:
            raise ValueError("no episode is running; reset the environment")
        if actions.shape != (self.agents,):
            raise ValueError(f"actions {actions.shape}, expected ({self.agents},)")
        actions = np.where(self._mask[:, 0], 0, actions)
        for agent, action in enumerate(actions):
            if not (0 <= action < MAX_ACTIONS and self._mask[agent, action]):
                allowed = np.flatnonzero(self._mask[agent]).tolist()
                raise ValueError(f"agent {agent} may not move {action}; allowed: {allowed}")
        return actions.tolist()


def _generators(owner: object) -> Iterator[object]:
    """The package's random generators of teams and places, and those within them, in a fixed order."""
    for generator in (owner if isinstance(owner, dict) else vars(owner)).values():
        if hasattr(generator, "generate"):
            if hasattr(generator, "rng"):
                yield generator
            yield from _generators(generator)
