"""Episodes of games whose observation is a vector (StarCraft, football): kind ``frames`` of the trajectory store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pyarrow as pa
from marlgpt_policy.encoders.token_layout import MAX_ACTIONS

from marlgpt_training.store.episode_row import RowReader, common_row, contradictions, schema_of

_SCHEMA = schema_of(
    layout=pa.string(),
    ended=pa.bool_(),
    features=pa.int32(),
    frames=pa.binary(),
    visible=pa.binary(),
    masks=pa.binary(),
    active=pa.binary(),
)


@dataclass
class FrameEpisode:
    """One episode of T steps of n agents, with the T + 1 observations around them.

    Attributes:
        environment: Game.
        scenario: Scenario of the game.
        layout: Name of the token layout of its observations.
        frames: float16[T + 1, n, F] newest frame of every observation.
        visible: bool[T + 1, n, F] features that mean something.
        masks: bool[T + 1, n, 20] moves that the game allowed.
        active: bool[T + 1, n] agents that act.
        actions: int8[T, n] executed moves.
        labels: int8[T, n] the expert's moves in the same states, -1 where it was not asked.
        rewards: float16[T, n].
        ended: Whether the game ended by its rules rather than by its step limit.
        source: Who drove and who labelled.
        seed: Seed of the episode.
        spec: Free JSON-serialisable description, with the episode's metrics.
    """

    environment: str
    scenario: str
    layout: str
    frames: np.ndarray
    visible: np.ndarray
    masks: np.ndarray
    active: np.ndarray
    actions: np.ndarray
    labels: np.ndarray
    rewards: np.ndarray
    ended: bool
    source: str
    seed: int
    spec: dict = field(default_factory=dict)

    kind: ClassVar[str] = "frames"
    schema: ClassVar[pa.Schema] = _SCHEMA

    def row(self) -> dict:
        """The Parquet row."""
        return common_row(self) | {
            "layout": self.layout,
            "ended": self.ended,
            "features": self.frames.shape[2],
            "frames": self.frames.astype("<f2").tobytes(),
            "visible": np.packbits(self.visible).tobytes(),
            "masks": np.packbits(self.masks).tobytes(),
            "active": np.packbits(self.active).tobytes(),
        }

    @staticmethod
    def from_row(row: dict) -> FrameEpisode:
        """Decode a Parquet row; ``StoreError`` if its fields contradict each other."""
        with contradictions():
            read = RowReader(row, "features")
            shape = read.steps + 1, read.agents
            episode = FrameEpisode(
                layout=row["layout"],
                frames=read.numbers("frames", "<f2", *shape, row["features"]),
                visible=read.bits("visible", *shape, row["features"]),
                masks=read.bits("masks", *shape, MAX_ACTIONS),
                active=read.bits("active", *shape),
                ended=row["ended"],
                **read.common(),
            )
            episode.check()
        return episode

    def check(self) -> None:
        """``ValueError`` if a move is not allowed where it was made, or a number is not finite."""
        active, masks = self.active[:-1], self.masks[:-1]
        for name, moves, asked in (
            ("action", self.actions, active),
            ("label", self.labels, active & (self.labels >= 0)),
        ):
            known = np.clip(moves, 0, MAX_ACTIONS - 1).astype(np.int64)
            allowed = np.take_along_axis(masks, known[..., None], axis=2)[..., 0] & (moves == known)
            if not allowed[asked].all():
                step, agent = np.argwhere(asked & ~allowed)[0]
                raise ValueError(
                    f"{name} {moves[step, agent]} of agent {agent} at step {step} is not allowed"
                )
        if not np.isfinite(self.rewards).all() or not np.isfinite(self.frames[self.visible]).all():
            raise ValueError("a reward or a visible feature is not finite")
