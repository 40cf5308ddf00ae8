"""An exhaustive check of the motion rules: every interleaving of a few robots on a small grid, breadth first.

The model knows claims, coupling, settling, turning back, giving back and docking, as ``motion/edge_coupling.py``,
``motion/reservations.py`` and ``motion/docking.py`` have them; progress comes in steps. It has no clock: a robot may
rest at any time for any time, which covers stalls, emergency stops, slow robots and those that are unfit for a while,
and whatever the fleet does after a time (turning back) may happen at any time. It has no policy: a robot that is
ready may take any move that the reservations allow, and robots on a cycle may rotate. So the model can do whatever
the fleet can do, and more.

After each motion the distance between disc centres is checked along the whole step, not only at its end.

    python tests/policy/motion_model.py --grid branch --robots 4 --rules old     # finds the contact, prints the way
    python tests/policy/motion_model.py --grid all --robots 3 --steps 3          # every grid
    python tests/policy/motion_model.py --grid ring4 --robots 4 --displaced 1 --depth 12

Lengths are in cells, progress in ``UNITS`` of an edge. ``docs/motion-model.md`` says what was visited.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from dataclasses import dataclass, field
from typing import NamedTuple

import numba
import numpy as np

UNITS = 96
"""Steps of an edge in which progress is kept; limits are rounded down to them."""
DIRECTIONS = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])
"""Rows and columns, in the order of the fleet's moves 1 to 4."""
NONE = 15
"""No cell."""
DOCK_STEPS = 6
"""Steps of a way onto the grid."""
SAMPLES = 9
"""Points that stand for a way off the grid, as in ``motion/docking.py``."""

# What is kept of a robot: cells it leaves, drives to and drives to next; progress; whether it drives back; on the grid,
# off it or docking; direction and size of its offset from the centre of its cell; its places in the queues of its three
# cells; where it stands or began off the grid.
C, T, X, P, BACK, MODE, OFF_DIR, OFF, RC, RT, RX, SPOT = range(12)
FIELDS = 12
ON, AWAY, DOCKING = range(3)
_BITS = np.array((4, 4, 4, 7, 1, 2, 2, 3, 3, 3, 3, 6), dtype=np.int64)
"""Bits that each takes in a packed state."""

# Actions.
ADVANCE, SETTLE, DECIDE, ROTATE, DROP, GIVE_BACK, TURN_BACK, ROLL, PUSH, DOCK, DOCK_ON = range(11)
NAMES = (
    "advances", "settles", "decides", "rotates", "drops its next move", "gives its move back", "turns back",
    "rolls to the centre", "is moved off the grid", "begins to dock", "docks on",
)  # fmt: skip
MOST = 400
"""Successors of a state at most."""


class Rules(NamedTuple):
    """Motion rules; the defaults are the ones that hold, the others are older or broken.

    Attributes:
        every_claim: A robot is limited by all earlier claims on its next cell, not only by the one before its own.
        whole_way: By the distance to the ways they are on; if not, by their progress and a slack.
        settle_limited: An edge may end although its limit is below 1.
        turn_back_followed: A robot may turn back although its own cell has a later claim.
        docking_looks: A docking robot looks where the others are at each step.
        others_look: Robots on the grid look where those off the grid are.
        plan_from: Progress, in units, from which a robot may decide on its next edge.
        begins_at_centre: A robot that has not left its cell by more than the arrival tolerance limits others as if it
            stood at the centre, where it may yet roll back to.
        displaced_claims: A robot that was moved off the grid keeps its claims until it docks.
        back_once: A robot that drives back does not turn round once more.
    """

    every_claim: bool = True
    whole_way: bool = True
    settle_limited: bool = False
    turn_back_followed: bool = False
    docking_looks: bool = True
    others_look: bool = True
    plan_from: int = 0
    begins_at_centre: bool = True
    displaced_claims: bool = True
    back_once: bool = True


NEW = Rules()
OLD = Rules(every_claim=False, whole_way=False, settle_limited=True, docking_looks=False)
RULES = {
    "new": NEW,
    "old": OLD,
    "last-claim": NEW._replace(every_claim=False),
    "begins-off-centre": NEW._replace(begins_at_centre=False),
    "let-go": NEW._replace(displaced_claims=False, back_once=False),
    "settle-limited": NEW._replace(settle_limited=True),
    "turn-back-followed": NEW._replace(turn_back_followed=True),
    "docking-blind": NEW._replace(docking_looks=False),
    "others-blind": NEW._replace(others_look=False),
}


@dataclass(frozen=True)
class Body:
    """Sizes. ``radius`` and ``margin`` in m as in the configuration; what follows from them in cells."""

    radius: float = 0.22
    margin: float = 0.05
    tolerance: float = 0.03

    @property
    def cell(self) -> float:
        """Edge of a cell, m."""
        return 2 * math.sqrt(2) * self.radius + self.margin

    @property
    def contact(self) -> float:
        """Distance at which two discs touch, cells."""
        return 2 * self.radius / self.cell

    @property
    def keep(self) -> float:
        """Distance that the rules keep: half of what the cells leave between robots that turn is for errors."""
        return (self.contact + 1 / math.sqrt(2)) / 2

    @property
    def settles(self) -> int:
        """Units before the centre at which a robot counts as there."""
        return int(self.tolerance / self.cell * UNITS)


GRIDS = {
    "corridor": ("....",),
    "branch": ("....", "#.##"),
    "tee": ("...", "#.#"),
    "long-tee": ("...", "#.#", "#.#"),
    "crossing": ("#.#", "...", "#.#"),
    "ring4": ("..", ".."),
    "ring-tail": ("..#", "..."),
    "dead-end": ("..", ".#", ".#"),
    "hall": ("...", "..."),
    "block": (".....", "#.#.#"),
}
"""Every small grid that matters: "." is a cell."""


class Tables(NamedTuple):
    """A board, as the kernels take it.

    Attributes:
        xy: float64[m, 2] cells.
        neighbours: int64[m, 4] cells beside each, -1 for none.
        edge: int64[m, m] number of the edge from one cell to another, -1 for none.
        limit: int64[e, e, UNITS + 1] how far a robot may be on the first edge while another one is at this progress of
            the second, so that its way keeps clear of the rest of the other's edge.
        slant: int64[e, e, 4, 8] the same for one that begins the second edge beside the centre of its cell.
        stand: int64[e, m, 4, 8] the same for one that stands at a cell with an offset.
        cycles: int64[k, 8] cells of cycles, in both directions, padded with -1.
        spots: float64[s, 2] places off the grid: the middles of edges and of four cells.
        directions: float64[4, 2] steps to the cells beside.
        keep, reserve: Distance that the rules keep between centres, and how much of it is for errors, cells.
        settles: Units before the centre at which a robot counts as there.
        turn_slack, straight_slack: Units that a follower may be ahead of its leader by the older rules.
    """

    xy: np.ndarray
    neighbours: np.ndarray
    edge: np.ndarray
    limit: np.ndarray
    slant: np.ndarray
    stand: np.ndarray
    cycles: np.ndarray
    spots: np.ndarray
    directions: np.ndarray
    keep: float
    reserve: float
    settles: int
    turn_slack: int
    straight_slack: int


class Board:
    """A grid of at most 14 cells with its distances in tables (:class:`Tables`).

    Attributes:
        cells: int[m, 2] rows and columns.
        symmetries: int64[g, 16], int64[g, s], int64[g, 4] the cells, spots and directions that take the place of each
            under the symmetries of the grid.
    """

    def __init__(self, rows: tuple[str, ...], body: Body) -> None:
        """Lay out ``rows`` of "." for discs of ``body``."""
        self.body = body
        self.cells = np.array([(r, c) for r, row in enumerate(rows) for c, x in enumerate(row) if x == "."])
        index = {tuple(cell): k for k, cell in enumerate(self.cells.tolist())}
        m = len(self.cells)
        assert m < NONE
        self.neighbours = np.full((m, 4), -1, dtype=np.int64)
        self.edge = np.full((m, m), -1, dtype=np.int64)
        edges = []
        for k, cell in enumerate(self.cells):
            for d, step in enumerate(DIRECTIONS):
                other = index.get(tuple((cell + step).tolist()))
                if other is not None:
                    self.neighbours[k, d] = other
                    self.edge[k, other] = len(edges)
                    edges.append((k, other))
        self.edges = edges
        self.xy = self.cells.astype(np.float64)
        self._tables()
        self.cycles = self._cycles()
        self.spots = self._spots(index)
        self._symmetries(index)

    def _tables(self) -> None:
        keep, e, m = self.body.keep, len(self.edges), len(self.cells)
        self.limit = np.empty((e, e, UNITS + 1), dtype=np.int64)
        self.slant = np.empty((e, e, 4, 8), dtype=np.int64)
        self.stand = np.empty((e, m, 4, 8), dtype=np.int64)
        for i, (a, x) in enumerate(self.edges):
            for j, (b, y) in enumerate(self.edges):
                for q in range(UNITS + 1):
                    start = self.xy[b] + (self.xy[y] - self.xy[b]) * (q / UNITS)
                    self.limit[i, j, q] = _reach(self.xy[a], self.xy[x], start, self.xy[y], keep)
                for d, off in itertools.product(range(4), range(8)):
                    point = self.xy[b] + DIRECTIONS[d] * (off / UNITS)
                    self.slant[i, j, d, off] = _reach(self.xy[a], self.xy[x], point, self.xy[y], keep)
            for b, d, off in itertools.product(range(m), range(4), range(8)):
                point = self.xy[b] + DIRECTIONS[d] * (off / UNITS)
                self.stand[i, b, d, off] = _reach(self.xy[a], self.xy[x], point, point, keep)

    def _cycles(self) -> np.ndarray:
        found = set()

        def grow(way: list[int]) -> None:
            for other in self.neighbours[way[-1]].tolist():
                if other == way[0] and len(way) >= 4:
                    found.add(tuple(way))
                elif other > way[0] and other not in way and len(way) < 8:
                    grow([*way, other])

        for k in range(len(self.cells)):
            grow([k])
        rows = np.full((len(found), 8), -1, dtype=np.int64)
        for k, way in enumerate(sorted(found)):
            rows[k, : len(way)] = way
        return rows

    def _spots(self, index: dict) -> np.ndarray:
        places = {tuple((self.xy[a] + self.xy[b]) / 2) for a, b in self.edges}
        for r, c in index:
            if all(cell in index for cell in ((r + 1, c), (r, c + 1), (r + 1, c + 1))):
                places.add((r + 0.5, c + 0.5))
        return np.array(sorted(places)).reshape(-1, 2)

    def _symmetries(self, index: dict) -> None:
        low, high = self.cells.min(axis=0), self.cells.max(axis=0)
        middle = (low + high) / 2
        cells, spots, turns = [], [], []
        for flip, transpose in itertools.product(itertools.product((1, -1), (1, -1)), (False, True)):
            matrix = np.diag(flip) @ (np.array([[0, 1], [1, 0]]) if transpose else np.eye(2, dtype=int))
            image = (self.xy - middle) @ matrix.T + middle
            where = [
                index.get(tuple(np.round(p).astype(int))) if np.allclose(p % 1, 0) else None for p in image
            ]
            if None in where:
                continue
            moved = (self.spots - middle) @ matrix.T + middle
            cells.append(where + [NONE] * (NONE + 1 - len(where)))
            spots.append([int(np.argmin(np.abs(self.spots - p).sum(axis=1))) for p in moved])
            turned = DIRECTIONS @ matrix.T
            turns.append([int(np.argmin(np.abs(DIRECTIONS - d).sum(axis=1))) for d in turned])
        self.symmetries = np.array(cells), np.array(spots).reshape(len(cells), -1), np.array(turns)

    def tables(self) -> Tables:
        """What the kernels take."""
        body = self.body
        return Tables(
            self.xy, self.neighbours, self.edge, self.limit, self.slant, self.stand, self.cycles, self.spots,
            DIRECTIONS.astype(np.float64), body.keep, (1 / math.sqrt(2) - body.contact) / 2, body.settles,
            int((1 - math.sqrt(2) * body.keep) * UNITS), int(min(0.5, 1 - body.keep) * UNITS),
        )  # fmt: skip


# Geometry ----------------------------------------------------------------------------------------------------


@numba.njit(cache=True)
def _apart(px, py, ax, ay, bx, by):
    """Distance of a point from a segment."""
    ux, uy = bx - ax, by - ay
    length = ux * ux + uy * uy
    along = 0.0 if length < 1e-12 else min(max(((px - ax) * ux + (py - ay) * uy) / length, 0.0), 1.0)
    return math.hypot(px - ax - along * ux, py - ay - along * uy)


@numba.njit(cache=True)
def _reach(start, end, there, then, keep):
    """Units that one may go from ``start`` towards ``end`` and keep clear of the way from ``there`` to ``then``."""
    for p in range(UNITS + 1):
        x = start[0] + (end[0] - start[0]) * p / UNITS
        y = start[1] + (end[1] - start[1]) * p / UNITS
        if _apart(x, y, there[0], there[1], then[0], then[1]) < keep - 1e-9:
            return max(p - 1, 0)
    return UNITS


@numba.njit(cache=True)
def _place(r, xy, spots, directions):
    """Where a robot is."""
    if r[MODE] == AWAY:
        return spots[r[SPOT], 0], spots[r[SPOT], 1]
    if r[MODE] == DOCKING:
        share = r[P] / DOCK_STEPS
        sx, sy = spots[r[SPOT], 0], spots[r[SPOT], 1]
        return sx + (xy[r[C], 0] - sx) * share, sy + (xy[r[C], 1] - sy) * share
    share = r[P] / UNITS if r[T] != r[C] else 0.0
    off = r[OFF] / UNITS
    return (
        xy[r[C], 0] + (xy[r[T], 0] - xy[r[C], 0]) * share + directions[r[OFF_DIR], 0] * off,
        xy[r[C], 1] + (xy[r[T], 1] - xy[r[C], 1]) * share + directions[r[OFF_DIR], 1] * off,
    )


# Claims ------------------------------------------------------------------------------------------------------


@numba.njit(cache=True)
def _claim(r, slot):
    """Cell of a robot's claim 0 to 2, or ``NONE``, and its place in the queue."""
    if slot == 0:
        return r[C], r[RC]
    if slot == 1:
        return (r[T] if r[T] != r[C] else NONE), r[RT]
    return r[X], r[RX]


@numba.njit(cache=True)
def _length(s, cell):
    """Claims on a cell."""
    count = 0
    for i in range(len(s)):
        for slot in range(3):
            count += cell != NONE and _claim(s[i], slot)[0] == cell
    return count


@numba.njit(cache=True)
def _holder(s, cell):
    """The robot with the last claim on a cell, or -1."""
    best, rank = -1, -1
    for i in range(len(s)):
        for slot in range(3):
            where, place = _claim(s[i], slot)
            if where == cell and place > rank:
                best, rank = i, place
    return best


@numba.njit(cache=True)
def _end_claim(s, i, slot):
    """Take a claim out of its queue; the caller forgets the cell."""
    cell, rank = _claim(s[i], slot)
    for j in range(len(s)):
        for other in range(3):
            where, place = _claim(s[j], other)
            if where == cell and place > rank:
                s[j, RC + other] -= 1


@numba.njit(cache=True)
def _end_claims(s, i):
    """Take all claims of a robot out of their queues; the last one of a cell first."""
    r = s[i]
    if r[X] != NONE:
        _end_claim(s, i, 2)
        r[X], r[RX] = NONE, 0
    if r[T] != r[C]:
        _end_claim(s, i, 1)
        r[T], r[RT] = r[C], 0
    if r[C] != NONE:
        _end_claim(s, i, 0)
        r[C], r[T], r[RC] = NONE, NONE, 0


# The rules ---------------------------------------------------------------------------------------------------


@numba.njit(cache=True)
def limit_of(s, i, board, rules):
    """How far robot ``i`` may be on its edge, in units."""
    xy, edge = board.xy, board.edge
    cell, mine = s[i, T], s[i, RT]
    own = edge[s[i, C], cell]
    best = UNITS
    for j in range(len(s)):
        if j == i:
            continue
        leads = False
        for slot in range(3):
            where, rank = _claim(s[j], slot)
            if where == cell and (rank < mine if rules.every_claim else rank == mine - 1):
                leads = True
        if not leads:
            continue
        r = s[j]
        if r[MODE] != ON:
            return 0
        if r[C] != cell and r[T] != cell:
            return 0
        if not rules.whole_way:
            if r[C] != cell:
                return 0
            ahead = r[P] if r[T] != r[C] else 0
            straight = r[T] != r[C] and xy[r[T], 0] - xy[r[C], 0] == xy[cell, 0] - xy[s[i, C], 0]
            straight = straight and xy[r[T], 1] - xy[r[C], 1] == xy[cell, 1] - xy[s[i, C], 1]
            best = min(best, ahead + (board.straight_slack if straight else board.turn_slack))
            continue
        if r[T] == r[C]:
            best = min(best, board.stand[own, cell, r[OFF_DIR], r[OFF]])
            if rules.begins_at_centre:
                best = min(best, board.stand[own, cell, 0, 0])
        else:
            away = r[P] if r[C] != cell or not rules.begins_at_centre or r[P] > board.settles else 0
            best = min(best, board.limit[own, edge[r[C], r[T]], away])
            if r[OFF] > 0:
                best = min(best, board.slant[own, edge[r[C], r[T]], r[OFF_DIR], r[OFF]])
            if r[C] != cell and r[X] != NONE:
                best = min(best, board.limit[own, edge[r[T], r[X]], 0])
        if s[i, OFF] > 0:
            best = min(best, _beside(s, i, j, board, rules))
    return best


@numba.njit(cache=True)
def _beside(s, i, j, board, rules):
    """The limit that robot ``j`` is to ``i``, who begins its edge beside it, along the line that ``i`` is on."""
    xy, keep, directions = board.xy, board.keep, board.directions
    aside = directions[s[i, OFF_DIR]] * (s[i, OFF] / UNITS)
    along = xy[s[i, T]] - xy[s[i, C]]
    if abs(along[0] * aside[0] + along[1] * aside[1]) > 0.0:
        return UNITS
    start, goal, r = xy[s[i, C]] + aside, xy[s[i, T]] + aside, s[j]
    here = np.empty(2)
    here[0], here[1] = _place(r, xy, board.spots, directions)
    best = _reach(start, goal, here, xy[r[T]], keep)
    nearest = xy[r[C]] + (xy[r[T]] - xy[r[C]]) * (r[P] / UNITS if r[T] != r[C] else 0.0)
    if rules.begins_at_centre and r[C] == s[i, T] and (r[T] == r[C] or r[P] <= board.settles):
        nearest = xy[r[C]]
    best = min(best, _reach(start, goal, nearest, xy[r[T]], keep))
    if r[C] != s[i, T] and r[X] != NONE:
        best = min(best, _reach(start, goal, xy[r[T]], xy[r[X]], keep))
    return best


@numba.njit(cache=True)
def _leaving(s, j, cell):
    """Whether robot ``j``, who holds ``cell``, has an edge out of it decided and does not come back to it."""
    r = s[j]
    if (r[X] if r[X] != NONE else r[T]) == cell:
        return False
    if r[C] == cell and r[T] != r[C]:
        return True
    return r[T] == cell and r[X] != NONE


@numba.njit(cache=True)
def _shut(s, cell):
    """Whether a robot that is off the grid or drives back has a claim on a cell: then nobody claims it after that."""
    for j in range(len(s)):
        for slot in range(3):
            if _claim(s[j], slot)[0] == cell and (s[j, MODE] != ON or s[j, BACK]):
                return True
    return False


@numba.njit(cache=True)
def _ready(s, i, rules):
    r = s[i]
    if r[MODE] != ON or r[X] != NONE or r[BACK] or (r[T] != r[C] and r[P] < rules.plan_from):
        return False
    return _holder(s, r[T]) == i


@numba.njit(cache=True)
def _near_one_off_grid(s, i, cell, board):
    """Whether a cell is closed to robot ``i`` because one off the grid stands or docks near it."""
    xy, spots, keep = board.xy, board.spots, board.keep
    reach = math.hypot(keep, 0.5)
    for j in range(len(s)):
        if j != i and s[j, MODE] != ON:
            x, y = _place(s[j], xy, spots, board.directions)
            ex, ey = (xy[s[j, C], 0], xy[s[j, C], 1]) if s[j, MODE] == DOCKING else (x, y)
            if _apart(xy[cell, 0], xy[cell, 1], x, y, ex, ey) < reach:
                return True
    return False


@numba.njit(cache=True)
def _in_the_way(s, i, board):
    """Whether robot ``i`` on its edge has to wait for one off the grid, as ``motion/docking.py`` has it."""
    xy, spots, keep, directions = board.xy, board.spots, board.keep, board.directions
    x, y = _place(s[i], xy, spots, directions)
    ex, ey = xy[s[i, T], 0], xy[s[i, T], 1]
    for j in range(len(s)):
        if j == i or s[j, MODE] == ON:
            continue
        ox, oy = _place(s[j], xy, spots, directions)
        tx, ty = (xy[s[j, C], 0], xy[s[j, C], 1]) if s[j, MODE] == DOCKING else (ox, oy)
        for k in range(SAMPLES):
            px, py = ox + (tx - ox) * k / (SAMPLES - 1), oy + (ty - oy) * k / (SAMPLES - 1)
            gap = _apart(px, py, x, y, ex, ey)
            if gap < keep - 1e-9 and gap < math.hypot(px - x, py - y) - 1e-3:
                return True
    return False


@numba.njit(cache=True)
def _may_dock(s, i, cell, board):
    """Whether the way of robot ``i`` off the grid to ``cell`` is clear, as ``Docking._too_close`` has it."""
    xy, spots, directions = board.xy, board.spots, board.directions
    keep, reserve = board.keep, board.reserve
    for j in range(len(s)):
        for slot in range(3):
            if j != i and _claim(s[j], slot)[0] == cell:
                return False
    ax, ay = spots[s[i, SPOT], 0], spots[s[i, SPOT], 1]
    bx, by = xy[cell, 0], xy[cell, 1]
    if math.hypot(bx - ax, by - ay) > 1.0 + 1e-9:
        return False
    for j in range(len(s)):
        if j == i:
            continue
        x, y = _place(s[j], xy, spots, directions)
        stands = s[j, T] == s[j, C] if s[j, MODE] == ON else s[j, MODE] == AWAY
        if stands and _apart(x, y, ax, ay, bx, by) >= math.hypot(x - ax, y - ay) - 1e-3:
            continue
        mx, my = (x, y) if s[j, C] == NONE else (xy[s[j, T], 0], xy[s[j, T], 1])
        last = s[j, X] if s[j, X] != NONE else s[j, T]
        lx, ly = (x, y) if s[j, C] == NONE else (xy[last, 0], xy[last, 1])
        for k in range(SAMPLES):
            px, py = ax + (bx - ax) * k / (SAMPLES - 1), ay + (by - ay) * k / (SAMPLES - 1)
            if _apart(px, py, x, y, mx, my) < keep or _apart(px, py, mx, my, lx, ly) < keep:
                return False
            if s[j, MODE] != ON:
                tx, ty = (mx, my) if s[j, MODE] == DOCKING else (x, y)
                if _apart(px, py, x, y, tx, ty) < keep + reserve:
                    return False
    return True


@numba.njit(cache=True)
def _docks_on(s, i, board):
    """Whether a docking robot's way is clear of where the others are, those left out from which it drives away."""
    xy, spots, keep, directions = board.xy, board.spots, board.keep, board.directions
    x, y = _place(s[i], xy, spots, directions)
    for j in range(len(s)):
        if j != i:
            px, py = _place(s[j], xy, spots, directions)
            gap = _apart(px, py, x, y, xy[s[i, C], 0], xy[s[i, C], 1])
            if gap < keep - 1e-9 and gap < math.hypot(px - x, py - y) - 1e-3:
                return False
    return True


# Successors --------------------------------------------------------------------------------------------------


@numba.njit(cache=True)
def _swept(s, t, i, board):
    """Least distance of robot ``i``, on its way from where it is in ``s`` to where it is in ``t``, from the others."""
    xy, spots, directions = board.xy, board.spots, board.directions
    ax, ay = _place(s[i], xy, spots, directions)
    bx, by = _place(t[i], xy, spots, directions)
    least = np.inf
    for j in range(len(s)):
        if j != i:
            x, y = _place(s[j], xy, spots, directions)
            least = min(least, _apart(x, y, ax, ay, bx, by))
    return least


@numba.njit(cache=True)
def _begin(s, i, cell, board):
    """Robot ``i`` claims ``cell`` and begins the edge to it, or appends it to the one it is on."""
    directions, xy = board.directions, board.xy
    place = _length(s, cell)
    r = s[i]
    if r[T] != r[C]:
        r[X], r[RX] = cell, place
        return
    r[T], r[RT], r[P] = cell, place, 0
    _along(r, xy, directions)


@numba.njit(cache=True)
def _along(r, xy, directions):
    """An offset in the direction of the new edge is progress."""
    d = r[OFF_DIR]
    if r[OFF] > 0 and xy[r[T], 0] - xy[r[C], 0] == directions[d, 0]:
        if xy[r[T], 1] - xy[r[C], 1] == directions[d, 1]:
            r[P], r[OFF], r[OFF_DIR] = r[OFF], 0, 0


@numba.njit(cache=True)
def _settle(s, i, board):
    """The edge of robot ``i`` ends."""
    xy, neighbours, directions = board.xy, board.neighbours, board.directions
    r = s[i]
    off = UNITS - r[P]
    back = 0
    for d in range(4):
        if neighbours[r[T], d] == r[C]:
            back = d
    _end_claim(s, i, 0)
    r[C], r[RC], r[BACK], r[P] = r[T], r[RT], 0, 0
    r[OFF], r[OFF_DIR] = off, (back if off else 0)
    r[RT] = 0
    if r[X] != NONE:
        r[T], r[RT], r[X], r[RX] = r[X], r[RX], NONE, 0
        _along(r, xy, directions)


@numba.njit(cache=True)
def successors(s, pushes, lattice, board, rules, out, acts, gaps):
    """Every action that is possible in a state.

    Args:
        s: int64[n, FIELDS] the state.
        pushes: How often robots may still be set down off the grid.
        lattice: int64[k] progress at which robots may stop, units.
        board: :class:`Tables`.
        rules: :class:`Rules`.
        out: int64[MOST, n, FIELDS] for the states that follow.
        acts: int64[MOST, 3] for (action, robot, cell).
        gaps: float64[MOST] for the least distance to another robot on the way; inf where nobody moves.

    Returns:
        Their number.
    """
    k = 0
    for i in range(len(s)):
        r = s[i]
        if r[MODE] == ON:
            k = _on_the_grid(s, i, lattice, board, rules, out, acts, gaps, k)
        elif r[MODE] == AWAY:
            k = _dock(s, i, board, out, acts, gaps, k)
        elif not rules.docking_looks or _docks_on(s, i, board):
            _copy(s, out, k)
            out[k, i, P] += 1
            gap = _swept(s, out[k], i, board)
            if out[k, i, P] == DOCK_STEPS:
                out[k, i, P], out[k, i, MODE], out[k, i, SPOT] = 0, ON, 0
            k = _note(k, DOCK_ON, i, r[C], gap, acts, gaps)
        if pushes > 0 and r[MODE] != AWAY:
            k = _pushed(s, i, board, rules, out, acts, gaps, k)
    for c in range(len(board.cycles)):
        k = _rotate(s, board.cycles[c], board, rules, out, acts, gaps, k)
    return k


@numba.njit(cache=True)
def _copy(s, out, k):
    """``out[k] = s``; in one place, because numba takes seconds for each."""
    for i in range(len(s)):
        for f in range(FIELDS):
            out[k, i, f] = s[i, f]


@numba.njit(cache=True)
def _note(k, action, robot, cell, gap, acts, gaps):
    """Write down what leads to successor ``k``; the number of the next one."""
    acts[k, 0], acts[k, 1], acts[k, 2], gaps[k] = action, robot, cell, gap
    return k + 1


@numba.njit(cache=True)
def _on_the_grid(s, i, lattice, board, rules, out, acts, gaps, k):
    """What a robot on the grid may do by itself."""
    r = s[i]
    moving = r[T] != r[C]
    held = rules.others_look and moving and _in_the_way(s, i, board)
    most = limit_of(s, i, board, rules) if moving else UNITS
    if moving and not held:
        k = _advance(s, i, most, lattice, board, out, acts, gaps, k)
    if moving and r[P] >= UNITS - board.settles and (most >= UNITS or rules.settle_limited):
        _copy(s, out, k)
        _settle(out[k], i, board)
        k = _note(k, SETTLE, i, r[T], np.inf, acts, gaps)
    if not moving and r[OFF] > 0:
        _copy(s, out, k)
        out[k, i, OFF], out[k, i, OFF_DIR] = 0, 0
        k = _note(k, ROLL, i, r[C], _swept(s, out[k], i, board), acts, gaps)
    if _ready(s, i, rules):
        k = _decide(s, i, board, rules, out, acts, gaps, k)
    if moving and not (r[BACK] and rules.back_once):
        k = _back_out(s, i, most < UNITS or held, board, rules, out, acts, gaps, k)
    return k


@numba.njit(cache=True)
def _advance(s, i, most, lattice, board, out, acts, gaps, k):
    """A robot drives to the next place at which it may stop, or to its limit."""
    r = s[i]
    if most <= r[P]:
        return k
    stop = UNITS
    for point in lattice:
        if point > r[P]:
            stop = min(stop, point)
    if r[OFF] > 0:  # first onto its line
        stop, most = min(stop, board.settles), min(most, board.settles)
    for p in (min(stop, most), most):
        _copy(s, out, k)
        out[k, i, P], out[k, i, OFF], out[k, i, OFF_DIR] = p, 0, 0
        k = _note(k, ADVANCE, i, r[T], _swept(s, out[k], i, board), acts, gaps)
        if most <= stop:
            break
    return k


@numba.njit(cache=True)
def _decide(s, i, board, rules, out, acts, gaps, k):
    """A robot that is ready claims a cell beside the one where it will be."""
    for d in range(4):
        cell = board.neighbours[s[i, T], d]
        if cell < 0:
            continue
        j = _holder(s, cell)
        if j >= 0 and j != i and (not _leaving(s, j, cell) or _shut(s, cell)):
            continue
        if rules.others_look and _near_one_off_grid(s, i, cell, board):
            continue
        _copy(s, out, k)
        _begin(out[k], i, cell, board)
        k = _note(k, DECIDE, i, cell, np.inf, acts, gaps)
    return k


@numba.njit(cache=True)
def _dock(s, i, board, out, acts, gaps, k):
    """A robot off the grid sets out for a cell."""
    for cell in range(len(board.xy)):
        if _may_dock(s, i, cell, board):
            _copy(s, out, k)
            t = out[k]
            _end_claims(t, i)
            t[i, RC] = _length(t, cell)
            t[i, C], t[i, T] = cell, cell
            t[i, P], t[i, BACK], t[i, MODE] = 0, 0, DOCKING
            k = _note(k, DOCK, i, cell, np.inf, acts, gaps)
    return k


@numba.njit(cache=True)
def _rotate(s, cycle, board, rules, out, acts, gaps, k):
    """All robots that end on a cycle decide at once to go on along it, if there is one on each of its cells."""
    size = 0
    while size < 8 and cycle[size] >= 0:
        size += 1
    if size > len(s):
        return k
    for a in range(size):
        j = _holder(s, cycle[a])
        if j < 0 or s[j, T] != cycle[a] or not _ready(s, j, rules):
            return k
        if rules.others_look and _near_one_off_grid(s, j, cycle[(a + 1) % size], board):
            return k
    _copy(s, out, k)
    for a in range(size):
        _begin(out[k], _holder(s, cycle[a]), cycle[(a + 1) % size], board)
    return _note(k, ROTATE, _holder(s, cycle[0]), cycle[1], np.inf, acts, gaps)


@numba.njit(cache=True)
def _back_out(s, i, limited, board, rules, out, acts, gaps, k):
    """What a robot that does not get on does: it drops its next move, then gives back its move or turns back."""
    t = s.copy()
    r = t[i]
    if r[X] != NONE and _holder(t, r[T]) == i:
        _end_claim(t, i, 2)
        r[X], r[RX] = NONE, 0
        _copy(t, out, k)
        k = _note(k, DROP, i, r[T], np.inf, acts, gaps)
    if r[X] != NONE or _holder(t, r[T]) != i:
        return k
    followed = _holder(t, r[C]) != i
    if (
        r[P] <= board.settles and not r[BACK]
    ):  # whether it is followed or not: one that does not obey gives back, too
        _copy(t, out, k)
        u = out[k]
        _end_claim(u, i, 1)
        if u[i, P] > 0:
            for d in range(4):
                if board.neighbours[u[i, C], d] == u[i, T]:
                    u[i, OFF_DIR] = d
            u[i, OFF] = u[i, P]
        u[i, T], u[i, RT], u[i, P] = u[i, C], 0, 0
        k = _note(k, GIVE_BACK, i, r[T], np.inf, acts, gaps)
    if limited and (not followed or rules.turn_back_followed):
        _copy(t, out, k)
        u = out[k, i]
        u[C], u[T], u[RC], u[RT] = u[T], u[C], u[RT], u[RC]
        u[P], u[BACK] = UNITS - u[P], 1 - u[BACK]
        gap = _swept(s, out[k], i, board)
        u[OFF], u[OFF_DIR] = 0, 0
        k = _note(k, TURN_BACK, i, u[T], gap, acts, gaps)
    return k


@numba.njit(cache=True)
def _pushed(s, i, board, rules, out, acts, gaps, k):
    """Somebody sets robot ``i`` down at a place off the grid, clear of the others."""
    xy, spots, keep, directions = board.xy, board.spots, board.keep, board.directions
    for spot in range(len(spots)):
        clear = True
        for j in range(len(s)):
            if j != i:
                x, y = _place(s[j], xy, spots, directions)
                clear &= math.hypot(x - spots[spot, 0], y - spots[spot, 1]) >= keep
        if clear:
            _copy(s, out, k)
            if not rules.displaced_claims:
                _end_claims(out[k], i)
            u = out[k, i]
            u[MODE], u[SPOT], u[P], u[OFF], u[OFF_DIR], u[BACK] = AWAY, spot, 0, 0, 0, 0
            k = _note(k, PUSH, i, spot, np.inf, acts, gaps)
    return k


# States ------------------------------------------------------------------------------------------------------


@numba.njit(cache=True)
def _pack(s, pushes, cells, spots, turns, words):
    """Write the smallest of all pictures of a state under the grid's symmetries, robots in order, into ``words``."""
    n = len(s)
    trial = np.empty(n + 1, dtype=np.uint64)
    trial[n] = np.uint64(pushes)
    for g in range(len(cells)):
        for i in range(n):
            r = s[i]
            word, shift = np.uint64(0), np.uint64(0)
            for f in range(FIELDS):
                value = r[f]
                if f <= X:
                    value = cells[g, value]
                elif f == OFF_DIR and r[OFF] > 0:
                    value = turns[g, value]
                elif f == SPOT and r[MODE] != ON:
                    value = spots[g, value]
                word |= np.uint64(value) << shift
                shift += np.uint64(_BITS[f])
            k = i
            while k > 0 and trial[k - 1] > word:
                trial[k] = trial[k - 1]
                k -= 1
            trial[k] = word
        less = g == 0
        if not less:
            for i in range(n):
                if trial[i] != words[i]:
                    less = trial[i] < words[i]
                    break
        if less:
            for i in range(n + 1):
                words[i] = trial[i]
    return words


@numba.njit(cache=True)
def _unpack(words, s):
    """The inverse, up to symmetry; the pushes left."""
    for i in range(len(s)):
        word = words[i]
        for f in range(FIELDS):
            mask = (np.uint64(1) << np.uint64(_BITS[f])) - np.uint64(1)
            s[i, f] = np.int64(word & mask)
            word = word >> np.uint64(_BITS[f])
    return np.int64(words[len(s)])


@numba.njit(cache=True)
def _slot(words, states, table):
    """The place of a state in the hash table: where it is, or where it belongs."""
    key = np.uint64(0x9E3779B97F4A7C15)
    for word in words:
        key = (key ^ word) * np.uint64(0xBF58476D1CE4E5B9)
        key ^= key >> np.uint64(29)
    mask = np.uint64(len(table) - 1)
    at = key & mask
    while table[at] >= 0:
        same = True
        for k in range(len(words)):
            same &= states[table[at], k] == words[k]
        if same:
            break
        at = (at + np.uint64(1)) & mask
    return at


@numba.njit(cache=True)
def _insert(words, parent, states, parents, table, count):
    """Add a state unless it is known; how many there are."""
    at = _slot(words, states, table)
    if table[at] < 0:
        for k in range(len(words)):
            states[count, k] = words[k]
        parents[count] = parent
        table[at] = count
        count += 1
    return count


@numba.njit(cache=True)
def _explore(first, count, until, states, parents, table, lattice, board, symmetries, rules, least, closest):
    """Expand states ``first`` to ``until``; next one, number of states, index of one that leads too close or -1."""
    n = states.shape[1] - 1
    s = np.empty((n, FIELDS), dtype=np.int64)
    out = np.empty((MOST, n, FIELDS), dtype=np.int64)
    acts, gaps = np.empty((MOST, 3), dtype=np.int64), np.empty(MOST)
    words = np.empty(n + 1, dtype=np.uint64)
    cells, spots, turns = symmetries
    at = first
    while at < until and count + MOST < len(states):
        pushes = _unpack(states[at], s)
        k = successors(s, pushes, lattice, board, rules, out, acts, gaps)
        for a in range(k):
            closest[0] = min(closest[0], gaps[a])
            closest[1 + acts[a, 0]] += 1
            if gaps[a] < least:
                return at, count, at
            _pack(out[a], pushes - (acts[a, 0] == PUSH), cells, spots, turns, words)
            count = _insert(words, at, states, parents, table, count)
        at += 1
    return at, count, -1


@numba.njit(cache=True)
def _get_home(count, expanded, states, table, lattice, board, symmetries, rules, good):
    """Mark states from which all robots can come to stand on cells with no more faults; how many are new."""
    n = states.shape[1] - 1
    s = np.empty((n, FIELDS), dtype=np.int64)
    out = np.empty((MOST, n, FIELDS), dtype=np.int64)
    acts, gaps = np.empty((MOST, 3), dtype=np.int64), np.empty(MOST)
    words = np.empty(n + 1, dtype=np.uint64)
    cells, spots, turns = symmetries
    new = 0
    for at in range(count - 1, -1, -1):
        if good[at]:
            continue
        pushes = _unpack(states[at], s)
        stands = at >= expanded
        if not stands:
            stands = True
            for i in range(n):
                stands &= s[i, MODE] == ON and s[i, T] == s[i, C]
        if not stands:
            k = successors(s, 0, lattice, board, rules, out, acts, gaps)
            for a in range(k):
                _pack(out[a], pushes, cells, spots, turns, words)
                where = table[_slot(words, states, table)]
                if where >= 0 and good[where]:
                    stands = True
                    break
        if stands:
            good[at] = True
            new += 1
    return new


# The search --------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What a search found.

    Attributes:
        states: Number of different states, symmetric ones counted once.
        transitions: Number of transitions taken.
        depth: Actions to the deepest state.
        complete: Every state that can be reached was visited.
        closest: Least distance of two centres met, cells.
        trace: Lines that lead to a distance that is too small; empty if there is none.
        stuck: Number of states from which the robots cannot all come to stand on cells; -1 if not asked for.
        stuck_trace: Lines that lead to the first of them.
        actions: How often each action was taken.
        seconds: Time it took.
        packed: uint64[states, n + 1] all of them; see :meth:`Model.state`.
    """

    states: int = 0
    transitions: int = 0
    depth: int = 0
    complete: bool = False
    closest: float = math.inf
    trace: list[str] = field(default_factory=list)
    stuck: int = -1
    stuck_trace: list[str] = field(default_factory=list)
    actions: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    packed: np.ndarray = field(default_factory=lambda: np.empty((0, 0), dtype=np.uint64))


class Model:
    """``robots`` robots on the grid ``rows`` under ``rules``."""

    def __init__(
        self,
        rows: tuple[str, ...],
        robots: int,
        rules: Rules = NEW,
        steps: int = 4,
        body: Body | None = None,
        pushes: int = 0,
        off_grid: int = 0,
    ) -> None:
        """Progress stops at ``steps`` places of an edge, at limits, and where a robot counts as arrived.

        ``pushes``: how often robots may be set down off the grid; ``off_grid``: robots that start there.
        """
        self.board, self.robots, self.rules = Board(rows, body or Body()), robots, rules
        self.pushes, self.off_grid = pushes, off_grid
        points = {round(UNITS * k / steps) for k in range(1, steps + 1)} | {UNITS - self.board.body.settles}
        self.lattice = np.array(sorted(points), dtype=np.int64)
        self.tables = self.board.tables()

    def starts(self) -> list[np.ndarray]:
        """int64[n, FIELDS] all states in which the robots stand."""
        board, found = self.board, []
        on = self.robots - self.off_grid
        for cells in itertools.combinations(range(len(board.cells)), on):
            for spots in itertools.combinations(range(len(board.spots)), self.off_grid):
                s = np.zeros((self.robots, FIELDS), dtype=np.int64)
                s[:, X] = NONE
                s[:on, C] = s[:on, T] = cells
                s[on:, C] = s[on:, T] = NONE
                s[on:, MODE], s[on:, SPOT] = AWAY, spots
                places = np.array([_place(r, board.xy, board.spots, self.tables.directions) for r in s])
                apart = np.hypot(*np.moveaxis(places[:, None] - places[None], 2, 0)) + 9 * np.eye(len(s))
                if apart.min() >= board.body.keep:
                    found.append(s)
        return found

    def search(
        self,
        most: int = 2_000_000,
        depth: int | None = None,
        least: float | None = None,
        stuck: bool = False,
        starts: list[np.ndarray] | None = None,
        report=None,
    ) -> Result:
        """Visit states breadth first, ``most`` of them or ``depth`` actions deep at most.

        A distance below ``least`` cells (what the rules keep, by default) ends it. ``stuck`` asks whether there are
        states out of which the robots do not get.
        """
        began = time.perf_counter()
        least = (self.board.body.keep if least is None else least) - 1e-6
        states = np.empty((most + MOST, self.robots + 1), dtype=np.uint64)
        parents = np.empty(most + MOST, dtype=np.int32)
        table = np.full(1 << (2 * (most + MOST)).bit_length(), -1, dtype=np.int32)
        closest = np.zeros(1 + len(NAMES))
        closest[0] = np.inf
        words = np.empty(self.robots + 1, dtype=np.uint64)
        rules, count = self.rules, 0
        for s in self.starts() if starts is None else starts:
            _pack(s, self.pushes, *self.board.symmetries, words)
            count = _insert(words, -1, states, parents, table, count)
        result, at = Result(), 0
        while at < count and (depth is None or result.depth < depth):
            level = count
            at, count, bad = _explore(
                at, count, level, states, parents, table, self.lattice, self.tables, self.board.symmetries, rules,
                least, closest,
            )  # fmt: skip
            if bad >= 0:
                result.trace = self._trace(bad, states, parents, least)
                break
            if at < level:
                break
            result.depth += 1
            if report is not None:
                report(result.depth, count, time.perf_counter() - began)
        result.states, result.closest, result.packed = count, float(closest[0]), states[:count]
        result.complete = at == count
        result.actions = {name: int(v) for name, v in zip(NAMES, closest[1:], strict=True)}
        result.transitions = sum(result.actions.values())
        if stuck and not result.trace:
            self._stuck(result, at, states, parents, table, rules)
        result.seconds = time.perf_counter() - began
        return result

    def state(self, packed: np.ndarray) -> tuple[np.ndarray, int]:
        """int64[n, FIELDS] of a packed state, and how often robots may still be set down off the grid."""
        s = np.zeros((self.robots, FIELDS), dtype=np.int64)
        return s, int(_unpack(packed, s))

    def _stuck(self, result, expanded, states, parents, table, rules) -> None:
        good = np.zeros(result.states, dtype=np.bool_)
        while _get_home(
            result.states,
            expanded,
            states,
            table,
            self.lattice,
            self.tables,
            self.board.symmetries,
            rules,
            good,
        ):
            pass
        bad = np.flatnonzero(~good)
        result.stuck = len(bad)
        if len(bad):
            result.stuck_trace = self._trace(int(bad[0]), states, parents, -1.0)

    def _trace(self, at: int, states, parents, least: float) -> list[str]:
        """Actions, in words, from a start to state ``at`` and on to a distance below ``least``."""
        chain = [at]
        while parents[chain[-1]] >= 0:
            chain.append(int(parents[chain[-1]]))
        chain.reverse()
        n = self.robots
        s, pushes = self.state(states[chain[0]])
        out, acts, gaps = self.buffers()
        lines = [self._words(s)]
        words = np.empty(n + 1, dtype=np.uint64)
        for then in chain[1:]:
            k = successors(s, pushes, self.lattice, self.tables, self.rules, out, acts, gaps)
            for a in range(k):
                left = pushes - int(acts[a, 0] == PUSH)
                _pack(out[a], left, *self.board.symmetries, words)
                if (words == states[then]).all():
                    s, pushes = out[a].copy(), left
                    lines.append(f"{self._name(acts[a]):34} {self._words(s)}")
                    break
        k = successors(s, pushes, self.lattice, self.tables, self.rules, out, acts, gaps)
        for a in range(k):
            if gaps[a] < least:
                lines.append(
                    f"{self._name(acts[a]):34} {self._words(out[a])}  comes as close as {gaps[a]:.3f}"
                )
                break
        return lines

    def buffers(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What :func:`successors` fills."""
        shape = (MOST, self.robots, FIELDS)
        return np.empty(shape, dtype=np.int64), np.empty((MOST, 3), dtype=np.int64), np.empty(MOST)

    def _name(self, act: np.ndarray) -> str:
        return f"{act[1]} {NAMES[act[0]]} ({act[2]})"

    def _words(self, s: np.ndarray) -> str:
        parts = []
        for i, r in enumerate(s.tolist()):
            text = f"{r[C]}" if r[C] != NONE else "-"
            if r[T] != r[C]:
                text += f">{r[T]}@{r[P] / UNITS:.2f}"
            if r[X] != NONE:
                text += f">{r[X]}"
            if r[OFF]:
                text += f" off {'NSWE'[r[OFF_DIR]]}{r[OFF] / UNITS:.2f}"
            text += {ON: "", AWAY: f" away at spot {r[SPOT]}", DOCKING: f" docks {r[P]}/{DOCK_STEPS}"}[
                r[MODE]
            ]
            parts.append(f"{i}: {text}{' back' if r[BACK] else ''}")
        return "[" + ", ".join(parts) + "]"


def main() -> int:
    """Search from the command line; exit status 1 if anything came too close."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grid", default="all", choices=["all", *GRIDS])
    parser.add_argument("--robots", type=int, default=3)
    parser.add_argument("--rules", default="new", choices=list(RULES))
    parser.add_argument("--steps", type=int, default=4, help="places of an edge at which robots may stop")
    parser.add_argument("--states", type=int, default=5_000_000, help="at most")
    parser.add_argument("--depth", type=int, help="actions, at most")
    parser.add_argument("--displaced", type=int, default=0, help="how often robots are set down off the grid")
    parser.add_argument("--off-grid", type=int, default=0, help="robots that start off the grid")
    parser.add_argument(
        "--contact", action="store_true", help="stop at contacts only, not where the reserve is used"
    )
    parser.add_argument("--stuck", action="store_true", help="look for states out of which robots do not get")
    args = parser.parse_args()
    bad = 0
    for name in GRIDS if args.grid == "all" else [args.grid]:
        if GRIDS[name] and sum(row.count(".") for row in GRIDS[name]) < args.robots - args.off_grid:
            continue
        model = Model(
            GRIDS[name],
            args.robots,
            RULES[args.rules],
            args.steps,
            pushes=args.displaced,
            off_grid=args.off_grid,
        )

        def report(depth, count, seconds, name=name):
            if sys.stderr.isatty():
                print(
                    f"\r{name}: {count} states, {depth} deep, {seconds:.0f} s ",
                    end="",
                    file=sys.stderr,
                    flush=True,
                )

        least = model.board.body.contact if args.contact else None
        result = model.search(args.states, args.depth, least, args.stuck, report=report)
        what = "all" if result.complete else "not all"
        print(
            f"{name}: {args.robots} robots, {result.states} states ({what}), {result.transitions} transitions, "
            f"{result.depth} deep, closest {result.closest:.4f} cells, stuck {result.stuck}, {result.seconds:.1f} s",
            flush=True,
        )
        for line in result.trace + result.stuck_trace:
            print("   ", line)
        bad += bool(result.trace)
    return int(bad > 0)


if __name__ == "__main__":
    import motion_model  # by its name: what numba has compiled for a __main__ is compiled anew in each run

    sys.exit(motion_model.main())
