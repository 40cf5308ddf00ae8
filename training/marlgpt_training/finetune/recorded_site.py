"""The place where imported episodes were recorded: its edges, where goals lie, and episodes simulated on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from marlgpt_policy.encoders.pogema import MOVES
from marlgpt_policy.fleet.fleet_config import SHARP
from marlgpt_policy.grid.cost_to_go import CostToGo
from marlgpt_policy.policy.onnx_policy import OnnxPolicy

from marlgpt_training.environments.grid_env import GridEnv, edges
from marlgpt_training.evaluation.players import Contestant, Player
from marlgpt_training.store.grid_episode import Episode
from marlgpt_training.store.shards import StoreError, read_shard, shards

LEAST = 2
"""Times that robots must have made a move for it to count as one of the site's."""


@dataclass(frozen=True)
class Site:
    """Where imported episodes come from.

    Attributes:
        moves: bool[R, C, 5] edges of the grid.
        places: int[k, 2] cells that were goals.
        agents: Most robots in one episode.
        made: int64[R, C, 5] how often robots made each move.
    """

    moves: np.ndarray
    places: np.ndarray
    agents: int
    made: np.ndarray

    @property
    def free(self) -> np.ndarray:
        """bool[R, C] free cells."""
        return self.moves[..., 0]

    def kept(self) -> np.ndarray:
        """bool[R, C, 5] the edges that the recorded robots used: the rules that they kept, one-way aisles among them.

        All edges if these alone do not lead from every place to every other one.
        """
        moves = self.moves & (self.made >= LEAST)
        moves[..., 0] = self.free
        costs = CostToGo(moves, capacity=len(self.places))
        rows, cols = self.places.T
        reached = [(costs.field(place)[rows, cols] < 2**29).all() for place in self.places]
        return moves if all(reached) else self.moves


def sites_of(folders: Sequence[str | Path]) -> list[Site]:
    """The sites of all readable POGEMA episodes in ``folders``, the one with most decisions first.

    Raises:
        StoreError: There is none.
    """
    found: dict[bytes, list] = {}
    reasons = []
    for path in (path for folder in folders for path in shards(folder)):
        try:
            episodes = read_shard(path)
        except StoreError as error:
            reasons.append(str(error))
            continue
        for episode in episodes:
            if episode.kind != "frames":
                moves = edges(episode.free) if isinstance(episode, Episode) else episode.moves
                found.setdefault(np.packbits(moves).tobytes() + bytes(moves.shape[:2]), []).append(episode)
    if not found:
        where = ", ".join(map(str, folders))
        raise StoreError(
            f"{where}: no readable episode of robots on a grid. {'; '.join(reasons) or 'Run marlgpt import-bag first.'}"
        )
    return sorted(map(_site, found.values()), key=lambda site: -site.made.sum())


def _site(episodes: list) -> Site:
    """The site of ``episodes``, all on the same edges."""
    first = episodes[0]
    moves = edges(first.free) if isinstance(first, Episode) else first.moves
    goals, made = [], np.zeros(moves.shape, np.int64)
    for episode in episodes:
        if isinstance(episode, Episode):
            goals.append(episode.goal_events[:, 2:])
            walked = np.cumsum(MOVES[episode.actions], axis=0)
            cells = np.concatenate([episode.starts[None], episode.starts + walked])[:-1]
        else:
            goals.append(episode.goals.reshape(-1, 2))
            cells = episode.cells
        acted = (episode.actions >= 0) & (cells[..., 0] >= 0)
        np.add.at(made, (*cells[acted].T.astype(np.int64), episode.actions[acted].astype(np.int64)), 1)
    places = np.unique(np.concatenate(goals).astype(np.int64), axis=0)
    places = places[(places >= 0).all(axis=1)]
    return Site(moves, places, max(episode.actions.shape[1] for episode in episodes), made)


class SiteEnv(GridEnv):
    """A lifelong episode on a site: starts and goals among its places."""

    def __init__(self, site: Site, agents: int, seed: int) -> None:
        """Begin with at most ``agents`` agents, as many as there are places for."""
        rng = np.random.default_rng([seed, 4])
        agents = min(agents, max(1, len(site.places) - 1))
        starts = site.places[rng.permutation(len(site.places))[:agents]]
        goals = site.places[rng.integers(len(site.places), size=agents)]
        super().__init__(site.free, starts, goals, True, seed)
        self.moves, self.costs, self.open = site.moves, CostToGo(site.moves, capacity=4096), site.places
        self.fields = self.costs.fields(self.goals).copy()


def throughput(policy: OnnxPolicy | None, site: Site, seed: int, steps: int) -> float:
    """Goals per step on ``site`` with shield and rescue, as many agents as were recorded.

    ``policy`` None is the large-neighbourhood search, which knows none of the site's rules.
    """
    env = SiteEnv(site, site.agents, seed)
    who = Contestant("lns" if policy is None else str(policy.path), True, True, SHARP)
    player = Player(who, policy, env.moves, len(env.cells), True, 20, seed)
    for _ in range(steps):
        env.step(player.act(env.cells, env.goals))
    return float(env.reached.sum() / steps)
