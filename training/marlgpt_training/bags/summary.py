"""What an import took from a bag and what it did not: the numbers of the report."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from marlgpt_policy.grid.moves import MOVE_OFFSETS as MOVES
from marlgpt_policy.grid.nav_grid import NavGrid
from marlgpt_policy.grid.occupancy_map import OccupancyMap

from marlgpt_training.bags.bag_reader import Topic
from marlgpt_training.store.fleet_episode import FleetEpisode

LONGEST_PATH = 4000
"""Cells of each robot's path that are kept to be drawn."""


@dataclass
class Summary:
    """One bag.

    Attributes:
        path: As it was named.
        name: Short name.
        error: Why nothing was imported; empty if it was.
        mode: ``decisions`` or ``poses``.
        topics: Topics of the bag.
        damage: What of its files could not be read.
        dropped: What was not taken, by reason [count].
        seen: Robot steps that the bag shows [count].
        taken: Those in episodes [count].
        labelled: Those to be imitated [count].
        poses: Poses read [count].
        mended: Cells that were filled in between two poses [count].
        rests: Goals inferred since robots rested there [count].
        turns: Goals inferred since the way stopped being the shortest [count].
        goals: Goals reached [count].
        seconds: From the first to the last decision, without gaps [s].
        step_time: s.
        actions: int64[5] moves among the labels.
        visits: int64[R, C] decisions taken in each cell; of the last grid only.
        crossings: int64[R, C, 5] moves made out of each cell.
        paths: Cells of each robot, with None where its path breaks; the beginning only.
        robots: Names.
        grid: The last grid.
        map: The map, if the grid was made from one.
        episodes: count.
        shards: count.
    """

    path: str
    name: str
    error: str = ""
    mode: str = ""
    topics: list[Topic] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    dropped: Counter = field(default_factory=Counter)
    seen: int = 0
    taken: int = 0
    labelled: int = 0
    poses: int = 0
    mended: int = 0
    rests: int = 0
    turns: int = 0
    goals: int = 0
    seconds: float = 0.0
    step_time: float = 0.0
    actions: np.ndarray = field(default_factory=lambda: np.zeros(5, np.int64))
    visits: np.ndarray | None = None
    crossings: np.ndarray | None = None
    paths: dict[str, list] = field(default_factory=dict)
    robots: set[str] = field(default_factory=set)
    grid: NavGrid | None = None
    map: OccupancyMap | None = None
    episodes: int = 0
    shards: int = 0

    def add(self, episode: FleetEpisode) -> None:
        """Count an episode."""
        members = episode.actions >= 0
        self.episodes += 1
        self.taken += int(members.sum())
        labels = episode.labels[episode.labels >= 0]
        self.labelled += len(labels)
        self.actions += np.bincount(labels, minlength=5)[:5]
        self.goals += int(episode.rewards.astype(np.float64).sum())
        self.seconds += float(episode.times[-1] - episode.times[0]) * 1e-9
        self.step_time = episode.step_time
        shape = episode.free.shape
        if self.visits is None or self.visits.shape != shape:
            self.visits, self.crossings = np.zeros(shape, np.int64), np.zeros((*shape, 5), np.int64)
            self.paths = {}
        cells, moves = episode.cells[members].astype(np.int64), episode.actions[members]
        np.add.at(self.visits, tuple(cells.T), 1)
        np.add.at(self.crossings, (*cells.T, moves), 1)
        names = episode.spec.get("robots", [])
        self.robots |= set(names)
        for i, name in enumerate(names):
            self._extend(self.paths.setdefault(name, []), episode, i)

    def _extend(self, path: list, episode: FleetEpisode, robot: int) -> None:
        for step in np.flatnonzero(episode.actions[:, robot] > 0):
            if len(path) >= LONGEST_PATH:
                return
            here = tuple(episode.cells[step, robot].tolist())
            offset = MOVES[episode.actions[step, robot]]
            if not path or path[-1] != here:
                path += [None, here]
            path.append((here[0] + int(offset[0]), here[1] + int(offset[1])))

    @property
    def coverage(self) -> float:
        """Share of the free cells that robots decided in, 0 to 1."""
        if self.visits is None or self.grid is None or self.grid.free.shape != self.visits.shape:
            return 0.0
        return float((self.visits > 0).sum() / max(1, self.grid.free.sum()))

    def reasons(self) -> str:
        """The most frequent reasons of what was not taken, in one line."""
        found = ", ".join(f"{reason} ({count})" for reason, count in self.dropped.most_common(3) if count)
        return found or "nothing in it that could be"

    def line(self) -> str:
        """One line for the terminal."""
        if self.error:
            return f"not imported: {self.error}"
        text = (
            f"{self.path}: {self.taken} robot steps in {self.episodes} episodes from {self.mode}, "
            f"{self.labelled} to imitate, {len(self.robots)} robots, {self.seconds:.0f} s"
        )
        if any(self.dropped.values()):
            text += f"; not taken: {self.reasons()}"
        if self.damage:
            text += f"; damage: {'; '.join(self.damage[:3])}"
        return text
