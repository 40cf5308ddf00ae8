"""One stored episode unrolled: the observations, labels and transitions of every step."""

from __future__ import annotations

import numpy as np
from marlgpt_policy.deadlock.detours import Detours
from marlgpt_policy.encoders import pogema
from marlgpt_policy.encoders.registry import frame_encoder
from marlgpt_policy.encoders.token_layout import LayoutError
from marlgpt_policy.grid.cost_to_go import CostToGo
from marlgpt_policy.grid.moves import HISTORY

from marlgpt_training.environments.grid_env import edges
from marlgpt_training.store.fleet_episode import FleetEpisode
from marlgpt_training.store.frame_episode import FrameEpisode
from marlgpt_training.store.grid_episode import Episode
from marlgpt_training.store.shards import StoreError


def unroll(episode: Episode | FrameEpisode | FleetEpisode) -> UnrolledEpisode | FrameReplay | FleetReplay:
    """The replay of an episode of any kind; ``StoreError`` if it cannot have happened."""
    if isinstance(episode, FleetEpisode):
        return FleetReplay(episode)
    return UnrolledEpisode(episode) if isinstance(episode, Episode) else FrameReplay(episode)


def transition(
    episode: Episode | FrameEpisode,
    rewards: np.ndarray,
    step: int,
    which: np.ndarray,
    ahead: int,
    gamma: float,
) -> tuple[np.ndarray, float, int]:
    """n-step transition from move ``step``: discounted rewards float32[n], bootstrap factor, next step.

    The bootstrap factor is gamma^n, or 0 where the episode ended by itself before; an episode that was cut
    by its step limit goes on in the target network's estimate.
    """
    steps = len(rewards)
    last = min(step + ahead, steps)
    discounts = gamma ** np.arange(last - step, dtype=np.float32)
    total = (discounts[:, None] * rewards[step:last, which]).sum(axis=0).astype(np.float32)
    over = episode.ended and last == steps
    return total, 0.0 if over else float(gamma ** (last - step)), last


class FrameReplay:
    """Histories of frames of every step of one episode of a game with vector observations."""

    def __init__(self, episode: FrameEpisode) -> None:
        """Unroll ``episode``; ``StoreError`` if its frames are not those of its layout."""
        self.episode = episode
        try:
            self.encoder = frame_encoder(episode.layout)
        except LayoutError as error:
            raise StoreError(str(error)) from error
        if episode.frames.shape[2] != self.encoder.features:
            raise StoreError(
                f"an episode has {episode.frames.shape[2]} features, {episode.layout} has {self.encoder.features}"
            )

    def encode(self, step: int, which: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Observations of agents ``which`` before move ``step`` (``step`` = T: after the last one)."""
        which = np.arange(self.episode.actions.shape[1]) if which is None else which
        shape = (len(which), self.encoder.frames, self.encoder.features)
        frames, visible = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
        known = min(self.encoder.frames, step + 1)
        past = np.arange(step, step - known, -1)
        frames[:, :known] = self.episode.frames[past][:, which].transpose(1, 0, 2)
        visible[:, :known] = self.episode.visible[past][:, which].transpose(1, 0, 2)
        return *self.encoder.encode(frames, visible), self.episode.masks[step, which]

    def acting(self, step: int) -> np.ndarray:
        """bool[n] agents that act in move ``step``."""
        return self.episode.active[step]

    def rewards(self, gamma: float) -> np.ndarray:
        """float32[T, n] rewards, as the game's environment documents them."""
        return self.episode.rewards.astype(np.float32)


class UnrolledEpisode:
    """Positions, goals and histories of every step of one POGEMA episode."""

    def __init__(self, episode: Episode) -> None:
        """Unroll ``episode``; ``StoreError`` if its moves or goals lie outside the free cells."""
        steps, agents = episode.actions.shape
        self.episode = episode
        self.moves = edges(episode.free)
        walked = np.cumsum(pogema.MOVES[episode.actions], axis=0)
        self.cells = np.concatenate([episode.starts[None].astype(np.int64), episode.starts + walked])
        rows, cols = episode.free.shape
        inside = (self.cells >= 0).all() and (self.cells < (rows, cols)).all()
        if not inside or not episode.free[self.cells[..., 0], self.cells[..., 1]].all():
            raise StoreError("an episode's moves leave its free cells")
        if not episode.free[episode.goal_events[:, 2], episode.goal_events[:, 3]].all():
            raise StoreError("an episode has a goal in a wall")
        self.goals = np.zeros((steps + 1, agents, 2), dtype=np.int64)
        for step, agent, row, col in episode.goal_events:
            self.goals[step:, agent] = (row, col)
        padded = np.concatenate([np.full((HISTORY, agents), -1, np.int8), episode.actions])
        self.history = np.stack(
            [padded[HISTORY - 1 - k : HISTORY - 1 - k + steps + 1] for k in range(HISTORY)], axis=2
        )
        self.costs = CostToGo(self.moves, capacity=4096)

    def encode(self, step: int, which: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Observations of agents ``which`` before move ``step`` (``step`` = T: after the last one)."""
        goals = self.goals[step]
        return pogema.encode(
            self.costs.fields(goals), self.cells[step], goals, self.history[step], self.moves, which
        )

    def acting(self, step: int) -> np.ndarray:
        """bool[n]: all agents act in every move."""
        return np.ones(len(self.episode.starts), dtype=np.bool_)

    def rewards(self, gamma: float) -> np.ndarray:
        """float32[T, n] rewards of the episode's kind of task.

        Lifelong: 1 on reaching a goal. One-shot: 1 - ``gamma`` for every step at the goal, so that resting there
        for ever is worth 1; an episode that ended with everybody at the goal gets the rest of that sum at its end.
        """
        found = self.episode.rewards.astype(np.float32)
        if self.episode.spec.get("lifelong", True):
            return found
        found = (1 - gamma) * found
        if self.episode.ended:
            found[-1] += gamma
        return found


class FleetReplay:
    """What the robots of a driving fleet saw at each of their decisions, as the fleet node encoded it."""

    def __init__(self, episode: FleetEpisode) -> None:
        """Unroll ``episode``; ``StoreError`` if a robot stands or has to go outside the free cells."""
        self.episode = episode
        free = episode.free
        for name, cells, shown in (
            ("robot stands", episode.cells, episode.present),
            ("goal lies", episode.goals, episode.goals[..., 0] >= 0),
        ):
            rows, cols = cells[shown].T
            if not free[rows, cols].all():
                raise StoreError(f"a {name} in a wall")
        self.costs = CostToGo(episode.moves, capacity=4096)
        self.detours = Detours(self.costs)
        robots, steps = np.nonzero((episode.actions >= 0).T)
        self._decisions = [steps[robots == robot] for robot in range(episode.actions.shape[1])]

    def encode(self, step: int, which: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Observations of robots ``which`` (by default all that decided) at decision ``step``.

        Returns:
            values float32[m, 356], valid bool[m, 356], action_mask bool[m, 20].

        Raises:
            ValueError: One of them was not present.
        """
        episode = self.episode
        which = np.flatnonzero(episode.actions[step] >= 0) if which is None else np.asarray(which)
        present = np.flatnonzero(episode.present[step])
        if not episode.present[step, which].all():
            raise ValueError(f"robots {which.tolist()} were not all present at decision {step}")
        cells = episode.cells[step, present].astype(np.int64)
        goals = episode.goals[step, present].astype(np.int64)
        goals = np.where(goals[:, :1] >= 0, goals, cells)
        self.detours.close(episode.detours_at(step))
        values, valid, mask = pogema.encode(
            self.detours.fields(goals, cells), cells, goals, episode.history[step, present], episode.moves,
            np.searchsorted(present, which),
        )  # fmt: skip
        mask[:, :5] = episode.masks[step, which]
        return values, valid, mask

    def labelled(self, step: int) -> np.ndarray:
        """int[m] robots with a move to imitate at decision ``step``."""
        return np.flatnonzero(self.episode.labels[step] >= 0)

    def transition(self, step: int, robot: int, ahead: int, gamma: float) -> tuple[float, float, int] | None:
        """From a robot's decision to its ``ahead``-th after that: discounted rewards, bootstrap factor, next decision.

        Time is counted in steps, as for other episodes, however often the robot decided. None at the episode's end.
        """
        mine = self._decisions[robot]
        last = int(np.searchsorted(mine, step)) + ahead
        if last >= len(mine):
            return None
        last = int(mine[last])
        times = self.episode.times
        steps = np.maximum(times[step : last + 1] - times[step], 0) / (self.episode.step_time * 1e9)
        rewards = self.episode.rewards[step:last, robot].astype(np.float32)
        return float(gamma ** steps[:-1] @ rewards), float(gamma ** steps[-1]), last
