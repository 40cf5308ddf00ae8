"""Episodes of games whose observation is a vector (StarCraft, football): kind ``frames`` of the trajectory store."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pyarrow as pa
from marlgpt_policy.layout import MAX_ACTIONS

from marlgpt_training.store import StoreError

_SCHEMA = pa.schema(
    [
        ("environment", pa.string()),
        ("scenario", pa.string()),
        ("layout", pa.string()),
        ("spec", pa.string()),
        ("seed", pa.int64()),
        ("source", pa.string()),
        ("agents", pa.int32()),
        ("steps", pa.int32()),
        ("actions", pa.binary()),
        ("labels", pa.binary()),
        ("rewards", pa.binary()),
        ("ended", pa.bool_()),
        ("features", pa.int32()),
        ("frames", pa.binary()),
        ("visible", pa.binary()),
        ("masks", pa.binary()),
        ("active", pa.binary()),
    ]
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
        steps, agents = self.actions.shape
        return {
            "environment": self.environment,
            "scenario": self.scenario,
            "layout": self.layout,
            "spec": json.dumps(self.spec),
            "seed": self.seed,
            "source": self.source,
            "agents": agents,
            "steps": steps,
            "actions": self.actions.astype("i1").tobytes(),
            "labels": self.labels.astype("i1").tobytes(),
            "rewards": self.rewards.astype("<f2").tobytes(),
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
        agents, steps, features = row["agents"], row["steps"], row["features"]

        def bits(name: str, *shape: int) -> np.ndarray:
            count = int(np.prod(shape))
            if len(row[name]) != -(-count // 8):
                raise ValueError(f"{len(row[name])} bytes of {name} for {count} bits")
            return np.unpackbits(np.frombuffer(row[name], np.uint8), count=count).reshape(shape).astype(bool)

        try:
            if min(agents, steps, features) < 0:
                raise ValueError("a size is negative")
            episode = FrameEpisode(
                environment=row["environment"],
                scenario=row["scenario"],
                layout=row["layout"],
                frames=np.frombuffer(row["frames"], "<f2").reshape(steps + 1, agents, features),
                visible=bits("visible", steps + 1, agents, features),
                masks=bits("masks", steps + 1, agents, MAX_ACTIONS),
                active=bits("active", steps + 1, agents),
                actions=np.frombuffer(row["actions"], "i1").reshape(steps, agents),
                labels=np.frombuffer(row["labels"], "i1").reshape(steps, agents),
                rewards=np.frombuffer(row["rewards"], "<f2").reshape(steps, agents),
                ended=row["ended"],
                source=row["source"],
                seed=row["seed"],
                spec=json.loads(row["spec"]),
            )
            episode.check()
        except (TypeError, ValueError, RecursionError) as error:
            raise StoreError(f"an episode's fields contradict each other: {error}") from error
        return episode

    def check(self) -> None:
        """``ValueError`` if a move is not allowed where it was made, or a number is not finite."""
        if not isinstance(self.spec, dict):
            raise ValueError(f"spec is a {type(self.spec).__name__}, not an object")
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
