"""Token values of games whose observation is a vector: the last frames, newest first, one token value per feature.

A game describes its features once, as :class:`Slot` rows; layout and encoder follow from them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marlgpt_policy.encoders.token_layout import ENVIRONMENT_ATTRIBUTE, TIMES, LayoutError, TokenLayout

MAX_TOKENS = 700
"""Longest sequence of the published model."""


@dataclass(frozen=True)
class Slot:
    """Meaning of one feature of a frame.

    Attributes:
        attr: Attribute id, 0..127.
        team: 0 nobody, 1 own team, 2 opponents.
        agent: Slot of the agent in the observation, 0..19; 0 of the own team is the observer.
        entity: Entity id; features of one entity form one token in the ``entity`` reading. Not decreasing.
    """

    attr: int
    team: int
    agent: int
    entity: int


class FrameEncoder:
    """Layout and encoder of one game's observations: F features in each of up to H frames.

    Attributes:
        layout: The token layout; L = F * H + 1. Values of one entity stand together: feature by feature, each
            newest first; the environment token is last, an entity of its own.
        features: F, features of a frame.
        frames: H, frames of history.
    """

    def __init__(self, name: str, environment: int, actions: int, slots: list[Slot], frames: int) -> None:
        """Describe a game.

        Raises:
            LayoutError: More than 700 values or 10 frames, ids out of range, entities not sorted.
        """
        if not 1 <= frames <= TIMES:
            raise LayoutError(f"layout {name}: {frames} frames; choose 1 to {TIMES}")
        if len(slots) * frames + 1 > MAX_TOKENS:
            raise LayoutError(
                f"layout {name}: {len(slots)} features x {frames} frames do not fit into {MAX_TOKENS} values; "
                f"use at most {(MAX_TOKENS - 1) // max(1, len(slots))} frames"
            )
        self.features, self.frames = len(slots), frames
        rows = [(s.attr, s.team, s.agent, t, s.entity) for s in slots for t in range(frames)]
        rows.append((ENVIRONMENT_ATTRIBUTE, 0, 0, 0, slots[-1].entity + 1))
        attr, team, agent, time, entity = np.array(rows).T
        self.layout = TokenLayout(name, environment, actions, attr, team, agent, time, entity)

    @classmethod
    def of_values(cls, layout: TokenLayout) -> FrameEncoder:
        """For a layout whose values another encoder makes, history included: one frame of all but the last of them."""
        encoder = cls.__new__(cls)
        encoder.layout, encoder.features, encoder.frames = layout, len(layout) - 1, 1
        return encoder

    def encode(self, frames: np.ndarray, visible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Token values of n observers.

        Args:
            frames: float32[n, H, F] features, newest frame first.
            visible: bool[n, H, F] features that mean something; False for frames before the episode began.

        Returns:
            values float32[n, L] (0 where not valid), valid bool[n, L].

        Raises:
            ValueError: Other shapes, or a visible feature that is not finite.
        """
        n = len(frames)
        shape = (n, self.frames, self.features)
        if frames.shape != shape or visible.shape != shape:
            raise ValueError(
                f"{self.layout.name}: frames {frames.shape} and visible {visible.shape}, expected {shape}"
            )
        if not np.isfinite(frames[visible]).all():
            raise ValueError(f"{self.layout.name}: a visible feature is not finite")
        values = np.zeros((n, len(self.layout)), dtype=np.float32)
        valid = np.ones(values.shape, dtype=np.bool_)
        valid[:, :-1] = visible.transpose(0, 2, 1).reshape(n, -1)
        values[:, :-1] = np.where(valid[:, :-1], frames.transpose(0, 2, 1).reshape(n, -1), 0.0)
        values[:, -1] = self.layout.environment_value
        return values, valid
