"""Which robot may be in which cell: a robot enters a cell only while it holds its reservation.

A cell that a robot is leaving can be claimed by one that follows it. So each cell has a queue of claims in the order in
which their robots pass through. The last one is its holder; whoever wants the cell next is coupled to all of them.
"""

from __future__ import annotations

import numpy as np

NOBODY = -1


class ReservationError(RuntimeError):
    """Two robots would hold one cell; this is a bug in the caller and must never be ignored."""


class Reservations:
    """Claims on grid cells.

    Attributes:
        holder: int32[R, C] the last robot in each cell's queue, or ``NOBODY``; do not change it.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        """Start with no cell of the ``shape`` (rows, columns) grid held."""
        self.holder = np.full(shape, NOBODY, dtype=np.int32)
        self._queues: dict[tuple[int, int], list[int]] = {}
        self._pairs: np.ndarray | None = None

    def of(self, cell: np.ndarray) -> int:
        """The robot that holds ``cell`` (row, column), or ``NOBODY``."""
        return int(self.holder[cell[0], cell[1]])

    def queue(self, cell: np.ndarray) -> list[int]:
        """Robots that have a claim on ``cell``, in the order in which they pass through."""
        return list(self._queues.get((int(cell[0]), int(cell[1])), ()))

    def queued(self, robots: np.ndarray) -> np.ndarray:
        """bool[R, C] cells on which one of ``robots`` int[m] has a claim."""
        wanted = set(robots.tolist())
        cells = np.zeros(self.holder.shape, dtype=bool)
        for cell, queue in self._queues.items():
            cells[cell] = not wanted.isdisjoint(queue)
        return cells

    def pairs(self) -> np.ndarray:
        """int64[k, 4] rows (robot, other, row, column): a claim of ``robot`` on the cell comes after one of ``other``.

        Whoever drives into the cell is limited by all that are ahead of it, not by the last one only.
        """
        if self._pairs is None:
            rows = []
            for cell, queue in self._queues.items():
                for m in range(1, len(queue)):
                    rows += [
                        (queue[m], other, *cell) for other in dict.fromkeys(queue[:m]) if other != queue[m]
                    ]
            self._pairs = np.array(rows, dtype=np.int64).reshape(-1, 4)
        return self._pairs

    def acquire(self, cell: np.ndarray, robot: int) -> None:
        """Give a free ``cell`` (row, column) to ``robot``; ``ReservationError`` if another one holds it.

        A robot that holds the cell gets a second claim: it leaves and comes back.
        """
        holder = self.of(cell)
        if holder not in (NOBODY, robot):
            raise ReservationError(
                f"cell {tuple(cell)} is held by robot {holder}, robot {robot} cannot take it"
            )
        self._append(cell, robot)

    def follow(self, cell: np.ndarray, leader: int, robot: int) -> None:
        """Let ``robot`` hold ``cell`` after its holder ``leader``, who is leaving; ``ReservationError`` otherwise."""
        if leader == NOBODY or self.of(cell) != leader:
            raise ReservationError(f"robot {leader} does not hold cell {tuple(cell)}")
        self._append(cell, robot)

    def leave(self, cell: np.ndarray, robot: int) -> None:
        """End the oldest claim of ``robot``, who has left ``cell``; ``ReservationError`` if it had none."""
        queue = self._queues.get((int(cell[0]), int(cell[1])), [])
        if robot not in queue:
            raise ReservationError(f"robot {robot} has no claim on cell {tuple(cell)}")
        queue.remove(robot)
        self._update(cell, queue)

    def give_back(self, cell: np.ndarray, robot: int) -> None:
        """End the newest claim of ``robot``, who holds ``cell`` and will not use it; ``ReservationError`` otherwise."""
        if robot == NOBODY or self.of(cell) != robot:
            raise ReservationError(f"robot {robot} does not hold cell {tuple(cell)}")
        queue = self._queues[int(cell[0]), int(cell[1])]
        queue.pop()
        self._update(cell, queue)

    def release_all(self, robot: int) -> None:
        """End every claim of ``robot``."""
        for cell, queue in list(self._queues.items()):
            if robot in queue:
                self._update(cell, [other for other in queue if other != robot])

    def _append(self, cell: np.ndarray, robot: int) -> None:
        queue = self._queues.setdefault((int(cell[0]), int(cell[1])), [])
        queue.append(robot)
        self._update(cell, queue)

    def _update(self, cell: np.ndarray, queue: list[int]) -> None:
        self._pairs = None
        key = int(cell[0]), int(cell[1])
        self.holder[key] = queue[-1] if queue else NOBODY
        if queue:
            self._queues[key] = queue
        else:
            self._queues.pop(key, None)
