"""Which robot may be in which cell: a robot enters a cell only while it holds its reservation."""

from __future__ import annotations

import numpy as np

NOBODY = -1


class ReservationError(RuntimeError):
    """Two robots would hold one cell; this is a bug in the caller and must never be ignored."""


class Reservations:
    """Exclusive holders of grid cells."""

    def __init__(self, shape: tuple[int, int]) -> None:
        """Start with no cell of the ``shape`` (rows, columns) grid held."""
        self.holder = np.full(shape, NOBODY, dtype=np.int32)

    def of(self, cell: np.ndarray) -> int:
        """The robot that holds ``cell`` (row, column), or ``NOBODY``."""
        return int(self.holder[cell[0], cell[1]])

    def acquire(self, cell: np.ndarray, robot: int) -> None:
        """Give ``cell`` (row, column) to ``robot``; ``ReservationError`` if another one holds it."""
        holder = self.holder[cell[0], cell[1]]
        if holder not in (NOBODY, robot):
            raise ReservationError(
                f"cell {tuple(cell)} is held by robot {holder}, robot {robot} cannot take it"
            )
        self.holder[cell[0], cell[1]] = robot

    def release(self, cell: np.ndarray, robot: int) -> None:
        """Take ``cell`` back from ``robot``; ``ReservationError`` if it did not hold it."""
        if self.holder[cell[0], cell[1]] != robot:
            raise ReservationError(f"robot {robot} does not hold cell {tuple(cell)}")
        self.holder[cell[0], cell[1]] = NOBODY

    def hand_over(self, cell: np.ndarray, giver: int, taker: int) -> None:
        """Move the hold on ``cell`` from one robot to another, such as from a leader to its follower."""
        self.release(cell, giver)
        self.acquire(cell, taker)

    def release_all(self, robot: int) -> None:
        """Take back every cell that ``robot`` holds."""
        self.holder[self.holder == robot] = NOBODY
