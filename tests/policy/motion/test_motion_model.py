"""The motion rules, exhaustively: no interleaving of a few robots on a small grid brings two of them too close.

What is found of the model holds for the code: both take the same actions and must agree on claims, limits and edges.
"""

import copy
import itertools
from collections import Counter

import numpy as np
import pytest
from floors import floor
from marlgpt_policy.grid.nav_grid import NavGrid
from marlgpt_policy.motion.clear_way import free_ahead
from marlgpt_policy.motion.docking import Docking
from marlgpt_policy.motion.edge_coupling import STALLED_AFTER, Edges
from marlgpt_policy.motion.reservations import NOBODY, ReservationError, Reservations
from marlgpt_policy.robots.robot_config import RobotConfig
from marlgpt_policy.robots.robot_state import Robots
from motion_model import (
    ADVANCE,
    BACK,
    DECIDE,
    DOCK,
    DOCK_ON,
    DOCKING,
    DROP,
    GIVE_BACK,
    GRIDS,
    MODE,
    NAMES,
    NEW,
    NONE,
    ON,
    PUSH,
    ROTATE,
    RULES,
    SETTLE,
    SPOT,
    TURN_BACK,
    UNITS,
    Body,
    C,
    Model,
    P,
    T,
    X,
    _claim,
    _docks_on,
    _in_the_way,
    _leaving,
    _near_one_off_grid,
    _place,
    limit_of,
    successors,
)  # fmt: skip

KEEP = Body().keep - 1e-6


def search(grid, robots, rules="new", **more):
    options = {name: more.pop(name) for name in ("steps", "pushes", "off_grid") if name in more}
    return Model(GRIDS[grid], robots, RULES[rules], **{"steps": 3, **options}).search(**more)


# What the search shows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "robots"),
    [
        ("corridor", 3), ("tee", 3), ("dead-end", 3), ("crossing", 3), ("crossing", 4), ("ring4", 3), ("ring4", 4),
        ("long-tee", 4),
    ],
)  # fmt: skip
def test_no_interleaving_brings_two_robots_too_close_or_all_to_a_stop(grid, robots):
    found = search(grid, robots, stuck=True)
    assert found.complete and not found.trace, found.trace
    assert found.closest >= KEEP
    assert found.stuck == 0, found.stuck_trace
    assert all(found.actions[name] for name in ("advances", "settles", "decides", "turns back"))


@pytest.mark.parametrize("robots", [4, 5])
def test_larger_grids_up_to_a_bound(robots):
    for grid in ("branch", "ring-tail", "hall", "block")[robots == 5 :]:
        found = search(grid, robots, most=60_000)
        assert not found.trace, found.trace
        assert found.closest >= KEEP and found.states >= 100


@pytest.mark.parametrize(
    ("grid", "rules"), [("dead-end", "new"), ("crossing", "new"), ("dead-end", "let-go")]
)
def test_robots_moved_off_the_grid_at_any_moment_meet_nobody(grid, rules):
    found = search(grid, 3, rules, pushes=1, stuck=rules == "let-go")
    assert found.complete and not found.trace, found.trace
    assert found.closest >= KEEP
    assert found.actions["is moved off the grid"] and found.actions["begins to dock"]
    if rules == "let-go":  # with today's rules some wait for ever: docs/motion-model.md
        assert found.stuck == 0, found.stuck_trace


def test_a_robot_that_starts_off_the_grid_meets_nobody():
    found = search("hall", 3, off_grid=1, most=250_000)
    assert not found.trace, found.trace
    assert found.actions["begins to dock"] > 1000


def test_the_search_finds_the_contact_of_robots_that_are_coupled_to_the_last_claim_only():
    """A robot settled within its tolerance while it was limited; the ones behind it saw a free cell."""
    body = Body()
    found = search("branch", 4, "old", least=body.contact)
    assert found.trace and found.closest < body.contact
    assert "comes as close as" in found.trace[-1]
    assert len(found.trace) <= 12


@pytest.mark.parametrize(
    ("rules", "grid", "robots", "more"),
    [
        ("last-claim", "branch", 4, {}),
        ("settle-limited", "branch", 3, {}),
        ("turn-back-followed", "branch", 4, {}),
        ("begins-off-centre", "branch", 3, {}),
        ("docking-blind", "hall", 3, {"pushes": 2, "off_grid": 1, "most": 900_000}),
        ("others-blind", "ring4", 3, {"pushes": 1}),
    ],
)
def test_each_broken_rule_is_found(rules, grid, robots, more):
    found = search(grid, robots, rules, **more)
    assert found.trace, f"{found.states} states, closest {found.closest}"
    assert found.closest < KEEP


def test_a_full_ring_turns_without_anybody_driving_back():
    """The room that the reserve leaves is enough for four robots that follow each other round four corners."""
    model = Model(GRIDS["ring4"], 4, NEW, steps=3)
    s = model.starts()[0]
    out, acts, gaps = model.buffers()
    taken = []
    for _ in range(100):
        k = successors(s, 0, model.lattice, model.tables, model.rules, out, acts, gaps)
        wanted = [a for a in range(k) if acts[a, 0] in ((ADVANCE, SETTLE) if taken else (ROTATE,))]
        if not wanted:
            break
        best = max(wanted, key=lambda a: (acts[a, 0] == SETTLE, -s[acts[a, 1], P]))
        assert gaps[best] >= KEEP
        taken.append(int(acts[best, 0]))
        s = out[best].copy()
    assert (s[:, T] == s[:, C]).all() and taken.count(SETTLE) == 4


# The code does what the model does -----------------------------------------------------------------------------


class Everywhere:
    """Distances of a map without walls."""

    def along(self, start, end):
        return np.inf

    def at(self, position):
        return np.inf


def move_between(start, end) -> int:
    return [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)].index(tuple((end - start).tolist()))


class Twin:
    """The fleet's own edges, reservations and docking in the state of a model."""

    def __init__(self, model: Model, s: np.ndarray) -> None:
        board, n = model.board, len(s)
        self.model, self.now = model, 0.0
        free = np.zeros(board.cells.max(axis=0) + 1, dtype=bool)
        free[tuple(board.cells.T)] = True
        self.grid = NavGrid.from_cells(free)
        size = self.grid.cell_size
        self.robots = Robots([RobotConfig(f"r{i}", radius=0.01) for i in range(n)])
        body, contact = board.body.keep * size, board.body.contact * size
        # A little more than the model's, whose distances are multiples of a unit.
        tolerance = (board.body.settles + 0.01) / UNITS * size
        ground = floor(self.grid, body, tolerance, Everywhere(), contact / 2)
        self.reservations = ground.reservations
        self.edges = Edges(self.robots, ground)
        self.docking = Docking(self.robots, ground, self.edges)
        self.index = {tuple(cell): k for k, cell in enumerate(board.cells.tolist())}
        robots = self.robots
        robots.pose_time[:] = 0.0
        for i, r in enumerate(s):
            robots.docked[i], robots.docking[i] = r[MODE] == ON, r[MODE] == DOCKING
            robots.returning[i] = r[BACK]
            if r[C] != NONE:
                robots.cells[i], robots.targets[i] = board.cells[r[C]], board.cells[r[T]]
                robots.move[i] = move_between(board.cells[r[C]], board.cells[r[T]])
            if r[X] != NONE:
                robots.next_targets[i] = board.cells[r[X]]
                robots.next_move[i] = move_between(board.cells[r[T]], board.cells[r[X]])
            if r[MODE] == DOCKING:
                robots.dock_from[i] = self.grid.centre(board.spots[r[SPOT]])
        for cell, queue in zip(board.cells, expected_queues(s, len(board.cells)), strict=True):
            for i in queue:
                holder = self.reservations.of(cell)
                if holder in (NOBODY, i):
                    self.reservations.acquire(cell, i)
                else:
                    self.reservations.follow(cell, holder, i)
        self.place(s)

    def place(self, s: np.ndarray) -> None:
        """Put the robots where the model has them, as measured."""
        model, robots = self.model, self.robots
        where = np.array([_place(r, model.board.xy, model.board.spots, model.tables.directions) for r in s])
        robots.poses[:, :2] = self.grid.centre(where)
        robots.poses[:, 2] = 0.0
        moving = robots.docked & robots.moving
        robots.progress[moving] = s[moving, P] / UNITS

    def cell(self, row) -> int:
        return self.index.get(tuple(row.tolist()), NONE)

    def state(self) -> list[tuple]:
        """Of each robot: its cells, whether it drives back, is on the grid, docks."""
        robots = self.robots
        return [
            (
                self.cell(robots.cells[i]), self.cell(robots.targets[i]), self.cell(robots.next_targets[i]),
                bool(robots.returning[i] and robots.docked[i]), bool(robots.docked[i]), bool(robots.docking[i]),
            )
            for i in range(len(robots))
        ]  # fmt: skip

    def queues(self) -> list[list[int]]:
        return [self.reservations.queue(cell) for cell in self.model.board.cells]

    def act(self, act, s: np.ndarray, then: np.ndarray) -> None:
        """Let the code do what the model did from state ``s`` to ``then``."""
        action, i, _ = act
        robots, n = self.robots, len(s)
        self.now += 1.0
        robots.progress_time[:] = self.now
        only = np.arange(n) == i
        if action in (DECIDE, ROTATE):
            members = [k for k in range(n) if (s[k] != then[k]).any()]
            moves = [self._move(s[k], then[k]) for k in members]
            self.edges.start(np.array(members), np.array(moves, dtype=np.int8), self.now)
        elif action == SETTLE:
            self.edges.settle(only, self.now)
        elif action in (DROP, GIVE_BACK, TURN_BACK):
            robots.progress_time[i] = self.now - STALLED_AFTER - 1.0
            robots.broken_until[i] = self.now + 1.0 if action == GIVE_BACK else -np.inf
            self.edges.turn_back(only & (action == TURN_BACK), only, self.now)
        elif action == PUSH:
            self.place(then)
            self.docking.watch_displaced(only)
        elif action == DOCK:
            self.docking.update(only, 0.0, self.now)
        elif action == DOCK_ON:
            self.place(then)
            self.docking.update(only, 0.0, self.now)
        self.place(then)

    def _move(self, before, after) -> int:
        cells = self.model.board.cells
        there = after[X] if after[X] != NONE else after[T]
        return move_between(cells[before[T]], cells[there])


def expected(s: np.ndarray) -> list[tuple]:
    return [
        (
            int(r[C]), int(r[T]), int(r[X]), bool(r[BACK] and r[MODE] == ON), r[MODE] == ON, r[MODE] == DOCKING,
        )
        for r in s
    ]  # fmt: skip


def expected_queues(s: np.ndarray, cells: int) -> list[list[int]]:
    found: list[list[tuple[int, int]]] = [[] for _ in range(cells)]
    for i, r in enumerate(s):
        for slot in range(3):
            cell, rank = _claim(r, slot)
            if cell != NONE:
                found[cell].append((int(rank), i))
    return [[i for _, i in sorted(queue)] for queue in found]


def check_same(model: Model, twin: Twin, s: np.ndarray, done: list[str]) -> None:
    """Claims, edges, limits and what stands in whose way agree."""
    assert twin.state() == expected(s), done
    assert twin.queues() == expected_queues(s, len(model.board.cells)), done
    limits = np.minimum(twin.edges.limits(), 1.0) * UNITS
    rules = model.rules
    ends = twin.grid.centre(np.where(s[:, :1] == NONE, 0, twin.robots.targets))
    waits = twin.docking.in_the_way(ends)
    free = free_ahead(
        twin.robots.poses[:, :2], ends, np.ones(len(s), bool), twin.robots.poses[:, :2], np.arange(len(s)),
        np.full(len(s), model.board.body.keep * twin.grid.cell_size - 1e-9),
    )  # fmt: skip
    blocked = twin.docking.blocked()
    settles = twin.edges.may_settle()
    for i, r in enumerate(s):
        if r[MODE] == ON and r[T] != r[C]:
            limit = limit_of(s, i, model.tables, rules)
            assert abs(limits[i] - limit) < 1.01, (i, limits[i], limit, done)
            assert settles[i] == (limit == UNITS), (i, done)
            assert waits[i] == _in_the_way(s, i, model.tables), (i, done)
        if r[MODE] == DOCKING:
            assert np.isinf(free[i]) == _docks_on(s, i, model.tables), (i, free, done)
        if r[MODE] == ON:
            for k, cell in enumerate(model.board.cells):
                assert blocked[tuple(cell)] == _near_one_off_grid(s, i, k, model.tables), (i, k, done)


def check_closed(model: Model, twin: Twin, s: np.ndarray, done: list[str]) -> None:
    """A cell whose holder is not leaving it cannot be claimed."""
    for i, r in enumerate(s):
        if r[MODE] != ON or r[X] != NONE:
            continue
        for d, cell in enumerate(model.board.neighbours[r[T]].tolist()):
            if cell < 0:
                continue
            j = twin.reservations.of(model.board.cells[cell])
            if j < 0 or j == i or s[j, MODE] != ON:
                continue
            edges = copy.deepcopy(twin.edges)
            try:
                edges.start(np.array([i]), np.array([d + 1], dtype=np.int8), 0.0)
                claimed = True
            except ReservationError:
                claimed = False
            assert claimed == _leaving(s, j, cell), (i, cell, done)


def compare(grid: str, robots: int, pushes: int, most: int, count: int) -> Counter:
    """Take each action possible in ``count`` of the states that can be reached; how often each was taken."""
    random = np.random.default_rng(len(grid) + robots)
    model = Model(GRIDS[grid], robots, NEW, steps=3, pushes=pushes)
    packed = model.search(most).packed
    out, acts, gaps = model.buffers()
    taken: Counter = Counter()
    # Queues of three are rare in a random choice: half of the states have one.
    long = [k for k in random.permutation(len(packed))[:20_000] if longest_queue(model, packed[k]) > 2]
    for at in [0, *random.integers(len(packed), size=count // 2), *long[: count // 2]]:
        s, left = model.state(packed[at])
        words = [model._words(s)]
        check_same(model, Twin(model, s), s, words)
        check_closed(model, Twin(model, s), s, words)
        k = successors(s, left, model.lattice, model.tables, model.rules, out, acts, gaps)
        for a in range(k):
            twin = Twin(model, s)
            if _code_can(acts, a, k, s, twin) and (acts[a, 0] != PUSH or random.random() < 0.1):
                twin.act(acts[a].tolist(), s, out[a])
                check_same(model, twin, out[a], [*words, model._name(acts[a]), model._words(out[a])])
                taken[int(acts[a, 0])] += 1
    return taken


def longest_queue(model: Model, packed: np.ndarray) -> int:
    return max(map(len, expected_queues(model.state(packed)[0], len(model.board.cells))))


CASES = (
    ("ring4", 3, 1, 40_000, 100),
    ("branch", 4, 0, 60_000, 120),
    ("ring4", 4, 0, 40_000, 40),
    ("hall", 3, 1, 40_000, 60),
)
"""Grid, robots, how often one is set down off the grid, states searched, states compared."""


def test_the_code_does_what_the_model_does():
    taken = sum((compare(*case) for case in CASES), Counter())
    assert set(taken) == set(range(len(NAMES))), {NAMES[k]: v for k, v in taken.items()}


def last_claim_only(reservations):
    rows = []
    for cell in np.argwhere(reservations.holder >= 0):
        queue = reservations.queue(cell)
        rows += [(i, j, *cell) for j, i in itertools.pairwise(queue) if i != j]
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [
        (Reservations, "pairs", last_claim_only),
        (Edges, "may_settle", lambda edges: np.ones(len(edges.robots), dtype=bool)),
        (Edges, "_leaving", lambda edges, cell, i: edges.reservations.of(cell)),
        (Docking, "in_the_way", lambda docking, ends: np.zeros(len(ends), dtype=bool)),
    ],
)
def test_the_comparison_notices_code_that_breaks_a_rule(monkeypatch, owner, name, broken):
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises((AssertionError, ReservationError)):
        for case in CASES:
            compare(*case)


def _code_can(acts, a: int, count: int, s: np.ndarray, twin: Twin) -> bool:
    """Whether the code may take this action of the model, which can do more than the code."""
    action, i, cell = acts[a].tolist()
    mine = [int(acts[b, 0]) for b in range(count) if acts[b, 1] == i]
    queue = twin.reservations.queue(twin.model.board.cells[s[i, C]]) if s[i, C] != NONE else []
    if s[i, X] == s[i, C] and queue[-1:] == [i]:  # the claim that it drops first
        queue.pop()
    followed = queue[-1:] != [i]
    if action == DROP:  # one that can do more than that does more than that
        return not (GIVE_BACK in mine and followed)
    if action == TURN_BACK:
        return not (GIVE_BACK in mine and followed)
    if action == DOCK:  # the code takes the nearest of those that are possible
        board = twin.model.board
        ways = [int(acts[b, 2]) for b in range(count) if acts[b, 0] == DOCK and acts[b, 1] == i]
        apart = [np.hypot(*(board.xy[w] - board.spots[s[i, SPOT]])) for w in ways]
        at = ways.index(cell)
        return apart[at] <= min(apart) + 1e-9 and sum(d <= min(apart) + 1e-9 for d in apart) == 1
    if action == PUSH:  # far enough from its edge, by which the code knows
        board = twin.model.board
        start, end = board.xy[s[i, C]], board.xy[s[i, T]]
        return s[i, MODE] == ON and _aside(board.spots[cell], start, end) > 0.26
    return True


def _aside(point, start, end) -> float:
    span = end - start
    share = np.clip((point - start) @ span / max(span @ span, 1e-12), 0.0, 1.0)
    return float(np.hypot(*(point - start - share * span)))
