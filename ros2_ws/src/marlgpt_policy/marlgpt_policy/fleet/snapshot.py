"""What a decision rests on: the fleet at one moment, as planners see it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marlgpt_policy.deadlock.detours import Detours
from marlgpt_policy.encoders.token_layout import MAX_ACTIONS
from marlgpt_policy.grid.moves import MOVE_OFFSETS
from marlgpt_policy.motion.floor import Floor
from marlgpt_policy.robots.robot_state import Robots


@dataclass
class Snapshot:
    """The m robots on the grid, k of which decide now.

    Attributes:
        robots: int[m] their indices in the fleet.
        cells: int[m, 2] where they stand, or will once they have driven all that is decided; all different.
        goals: int[m, 2] their goals; their own cells where they have none.
        fields: int32[m, R, C] cost-to-go to these, around robots that do not drive.
        history: int8[m, HISTORY] their last moves, newest first.
        able: bool[m] robots that can drive.
        ready: bool[m] robots that decide now.
        which: int[k] the rows of those.
        moves: bool[R, C, 5] edges of the grid.
        closed: bool[R, C] cells that nobody may enter.
        mask: bool[k, MAX_ACTIONS] moves that robots which decide may choose.
        leave: bool[k] robots that should leave where they stand.
        temperatures: float64[k] at which their moves are sampled.
        now: s.
    """

    robots: np.ndarray
    cells: np.ndarray
    goals: np.ndarray
    fields: np.ndarray
    history: np.ndarray
    able: np.ndarray
    ready: np.ndarray
    which: np.ndarray
    moves: np.ndarray
    closed: np.ndarray
    mask: np.ndarray
    leave: np.ndarray
    temperatures: np.ndarray
    now: float

    @property
    def members(self) -> np.ndarray:
        """int[k] indices of the robots that decide."""
        return self.robots[self.which]

    @property
    def deciding_cells(self) -> np.ndarray:
        """int[k, 2] cells of the robots that decide."""
        return self.cells[self.which]

    def distances(self) -> np.ndarray:
        """int32[k] steps to their goals."""
        row, column = self.deciding_cells.T
        return self.fields[self.which, row, column]


def take(
    robots: Robots,
    floor: Floor,
    detours: Detours,
    ready: np.ndarray,
    fit: np.ndarray,
    closed: np.ndarray,
    now: float,
) -> Snapshot:
    """Look at the fleet.

    Args:
        robots: All of them.
        floor: Where they drive.
        detours: Ways around robots that do not drive.
        ready: bool[n] robots to decide for.
        fit: bool[n] robots that can drive.
        closed: bool[R, C] cells that nobody may enter.
        now: s.
    """
    ends = robots.ends
    # A robot whose cell a follower has taken over is where that follower will be.
    holds = floor.reservations.holder[ends[:, 0], ends[:, 1]] == np.arange(len(robots))
    on_grid = np.flatnonzero((robots.cells[:, 0] >= 0) & holds)
    cells = ends[on_grid]
    goals = np.where(robots.goals[on_grid, :1] >= 0, robots.goals[on_grid], cells)
    which = np.flatnonzero(ready[on_grid])
    moves, here = floor.grid.moves, cells[which]
    mask = np.zeros((len(which), MAX_ACTIONS), dtype=bool)
    mask[:, :5] = moves[here[:, 0], here[:, 1]]
    for move in range(1, 5):
        ahead = here + MOVE_OFFSETS[move]
        legal = mask[:, move]
        mask[legal, move] = ~closed[ahead[legal, 0], ahead[legal, 1]]
    return Snapshot(
        on_grid, cells, goals, detours.fields(goals, cells), robots.history[on_grid], fit[on_grid], ready[on_grid],
        which, moves, closed, mask, np.zeros(len(which), dtype=bool), np.zeros(len(which)), now,
    )  # fmt: skip
