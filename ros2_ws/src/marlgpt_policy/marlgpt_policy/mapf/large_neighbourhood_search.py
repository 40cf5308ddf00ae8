"""Rolling-horizon large-neighbourhood search: the strong POGEMA expert.

Every agent keeps a plan for the next W steps. Each step the plans are shifted by one, a wait is appended
(always feasible), and an anytime search improves them: pick a delayed agent and some agents that block it,
replan the group in random order with space-time A* inside the window, keep the result if the sum of costs is
not worse (large-neighbourhood search after Li et al. 2021, MAPF-LNS; rolling window after Li et al. 2021,
RHCR). The cost of a plan is the step at which the agent reaches its goal, or W plus the cost-to-go at the
window's end.

What is deterministic: two experts with the same seed and the same history of ``act`` calls plan the same, and A* breaks
ties between equal plans by a fixed move order, so that labels agree more often. What is not: a label is no function of
the state alone. The search improves the plans of the steps before with random groups and stops after a number of
rounds, so that a running expert and one that begins in the same state differ: in 3, 6 and 12 % of the labels of 16, 32
and 64 agents on random maps, 9 % of 32 in mazes (lifelong, four maps of 60 steps each).

One-shot episodes are planned to their end: LaCAM finds a solution, the search shortens it and keeps it a solution.
A rolling window would get stuck for ever where an agent at its goal blocks the way of others.
"""

from __future__ import annotations

import numba
import numpy as np
from marlgpt_policy.encoders.pogema import MOVES, UNREACHABLE
from marlgpt_policy.mapf.lacam import lacam, neighbour_table

from marlgpt_training.experts.pibt import pibt_actions

LIFELONG, ONE_SHOT = 0, 1
# A* expands the last pushed node of the lowest cost first, so the preferred move comes last: wait least.
PUSH_ORDER = np.array([0, 1, 3, 2, 4], dtype=np.int64)
MAX_GROUP = 6
NO_LIMIT = 2**40
SLACK = 4  # steps by which agents that went astray may prolong the plans
RETRY = 8  # steps before LaCAM tries again after it gave up


@numba.njit(cache=True, nogil=True)
def _step_cost(mode, field, from_cell, to_cell):
    """One-shot agents pay for every step except resting at the goal; lifelong ones for every step."""
    if mode == ONE_SHOT and field[from_cell] == 0 and field[to_cell] == 0:
        return 0
    return 1


@numba.njit(cache=True, nogil=True)
def _plan_cost(plan, field, mode):
    """Cost of ``plan`` int32[W + 1] (flat cells) under ``field`` int32[R * C]."""
    window = plan.shape[0] - 1
    if mode == LIFELONG:
        for t in range(window + 1):
            if field[plan[t]] == 0:
                return t
        return window + field[plan[window]]
    cost = 0
    for t in range(window):
        cost += _step_cost(mode, field, plan[t], plan[t + 1])
    return cost + field[plan[window]]


@numba.njit(cache=True, nogil=True)
def _astar(start, field, mode, arrive, most, steps, exists, occ, counter, work, out):
    """Best plan of one agent around all plans in ``occ``; fills ``out`` and returns its cost, -1 if above ``most``.

    ``occ`` int32[W + 1, cells] holds the agent in each cell at each step (-1 nobody). Nodes are
    (step, cell, has visited the goal); open nodes lie in linked lists by cost above the cost-to-go at the
    start, which is exact because costs never fall along a plan. With ``arrive`` the plan has to end at the goal.
    ``counter`` int64[2] holds the generation of the marks in ``work`` and the number of expanded nodes.
    """
    stamp, best, parent, entry_node, entry_next, heads = work
    window = occ.shape[0] - 1
    cells = occ.shape[1]
    last = min(heads.shape[0] - 1, most - field[start])
    if last < 0:
        return -1
    heads[: last + 1] = -1
    counter[0] += 2
    generation = counter[0]
    node = start * 2
    if mode == LIFELONG and field[start] == 0:
        node += 1
    stamp[node], best[node], parent[node] = generation, 0, -1
    entry_node[0], entry_next[0], heads[0] = node, -1, 0
    size = 1
    bucket = 0
    while bucket <= last:
        entry = heads[bucket]
        if entry < 0:
            bucket += 1
            continue
        heads[bucket] = entry_next[entry]
        node = entry_node[entry]
        if stamp[node] == generation + 1 or best[node] < bucket:
            continue  # already expanded, or queued again at a lower cost
        stamp[node] = generation + 1
        counter[1] += 1
        t = node // (2 * cells)
        cell = (node - t * 2 * cells) // 2
        visited = node & 1
        if t == window:
            walk = node
            while walk >= 0:
                step = walk // (2 * cells)
                out[step] = (walk - step * 2 * cells) // 2
                walk = parent[walk]
            return field[start] + bucket
        for k in range(5):
            m = PUSH_ORDER[k]
            if not exists[cell, m]:
                continue
            to = cell + steps[m]
            if occ[t + 1, to] >= 0:
                continue
            if arrive and field[to] >= window - t:
                continue  # too late
            j = occ[t, to]
            if j >= 0 and occ[t + 1, cell] == j:
                continue  # swap
            seen = visited
            if mode == ONE_SHOT:
                extra = _step_cost(mode, field, cell, to) + field[to] - field[cell]
            elif visited:
                extra = 0
            else:
                extra = 1 + field[to] - field[cell]
                seen = 1 if field[to] == 0 else 0
            child = (t + 1) * 2 * cells + to * 2 + seen
            cost = bucket + extra
            if cost > last or stamp[child] == generation + 1:
                continue
            if stamp[child] == generation and best[child] <= cost:
                continue
            stamp[child], best[child], parent[child] = generation, cost, node
            entry_node[size], entry_next[size] = child, heads[cost]
            heads[cost] = size
            size += 1
    return -1


@numba.njit(cache=True, nogil=True)
def _group(i, plans, field, steps, exists, occ, group):
    """Fill ``group`` with ``i`` and up to 15 agents that stand in its way down the cost-to-go; its size."""
    window = plans.shape[1] - 1
    group[0] = i
    size = 1
    for t in range(window):
        cell = plans[i, t]
        if field[cell] == 0:
            break
        for m in range(1, 5):
            if not exists[cell, m]:
                continue
            to = cell + steps[m]
            if field[to] >= field[cell]:
                continue
            for j in (occ[t + 1, to], occ[t, to]):
                if j < 0 or j == i:
                    continue
                known = False
                for g in range(size):
                    if group[g] == j:
                        known = True
                if not known and size < group.shape[0]:
                    group[size] = j
                    size += 1
    return size


@numba.njit(cache=True, nogil=True)
def _mark(plans, occ, i, value):
    for t in range(plans.shape[1]):
        occ[t, plans[i, t]] = value


@numba.njit(cache=True, nogil=True)
def improve(
    plans, fields, field_of, mode, arrive, steps, exists, occ, rounds, nodes, seed, counter, work, fresh
):
    """Improve feasible ``plans`` int32[n, W + 1] in place by large-neighbourhood search; the sum of costs.

    ``fresh`` bool[n] marks agents with a new goal, replanned on their own first. ``arrive`` says that all plans
    end at their goals and shall go on doing so. The search ends after ``rounds`` or when A* has expanded ``nodes``.
    ``counter`` int64[2] belongs to A* and lives as long as ``work``.
    """
    np.random.seed(seed)
    counter[1] = 0
    n = plans.shape[0]
    window = plans.shape[1] - 1
    cost = np.empty(n, dtype=np.int64)
    best = np.empty(n, dtype=np.int64)
    for i in range(n):
        _mark(plans, occ, i, i)
    out = np.empty(window + 1, dtype=np.int32)
    for i in range(n):
        field = fields[field_of[i]]
        best[i] = field[plans[i, 0]]
        if fresh[i]:
            _mark(plans, occ, i, -1)
            if (
                _astar(plans[i, 0], field, mode, arrive, NO_LIMIT, steps, exists, occ, counter, work, out)
                >= 0
            ):
                plans[i] = out
            _mark(plans, occ, i, i)
        cost[i] = _plan_cost(plans[i], field, mode)
    blockers = np.empty(16, dtype=np.int64)
    saved = np.empty((MAX_GROUP, window + 1), dtype=np.int32)
    delayed = np.empty(n, dtype=np.int64)
    for _ in range(rounds):
        count = 0
        for i in range(n):
            if cost[i] > best[i]:
                delayed[count] = i
                count += 1
        if count == 0 or counter[1] > nodes:
            break
        i = delayed[np.random.randint(count)]
        found = _group(i, plans, fields[field_of[i]], steps, exists, occ, blockers)
        size = min(found, 2 + np.random.randint(MAX_GROUP - 1))
        for g in range(1, size):  # a random choice of the blockers, then a random order of all
            k = g + np.random.randint(found - g)
            blockers[g], blockers[k] = blockers[k], blockers[g]
        for g in range(size - 1, 0, -1):
            k = np.random.randint(g + 1)
            blockers[g], blockers[k] = blockers[k], blockers[g]
        spare = 0  # what the group may cost above the ways to go of its agents that are not replanned yet
        for g in range(size):
            a = blockers[g]
            saved[g] = plans[a]
            spare += cost[a] - best[a]
            _mark(plans, occ, a, -1)
        done = 0
        for g in range(size):
            a = blockers[g]
            most = spare + best[a]
            field = fields[field_of[a]]
            result = _astar(saved[g, 0], field, mode, arrive, most, steps, exists, occ, counter, work, out)
            if result < 0:
                break
            spare = most - result
            plans[a] = out
            _mark(plans, occ, a, a)
            done += 1
        if done == size:
            for g in range(size):
                cost[blockers[g]] = _plan_cost(plans[blockers[g]], fields[field_of[blockers[g]]], mode)
        else:
            for g in range(done):
                _mark(plans, occ, blockers[g], -1)
            for g in range(size):
                plans[blockers[g]] = saved[g]
                _mark(plans, occ, blockers[g], blockers[g])
    total = 0
    for i in range(n):
        total += cost[i]
        _mark(plans, occ, i, -1)
    return total


@numba.njit(cache=True, nogil=True)
def repair(plans, cells, fields, field_of, steps, exists, occ, counter, work):
    """Replan the agents that are not where one-shot ``plans`` int32[n, W + 1] want them, one after the other.

    ``cells`` int64[n] is where they are. True if all arrive by the end of the plans without touching the others'.
    """
    n = cells.shape[0]
    astray = plans[:, 0] != cells
    for i in range(n):
        if not astray[i]:
            _mark(plans, occ, i, i)
    out = np.empty(plans.shape[1], dtype=np.int32)
    repaired = True
    for i in range(n):
        if not astray[i]:
            continue
        field = fields[field_of[i]]
        if _astar(cells[i], field, ONE_SHOT, True, NO_LIMIT, steps, exists, occ, counter, work, out) < 0:
            repaired = False
            break
        plans[i] = out
        astray[i] = False
        _mark(plans, occ, i, i)
    for i in range(n):
        if not astray[i]:
            _mark(plans, occ, i, -1)
    return repaired


@numba.njit(cache=True, nogil=True)
def _initial_plans(cells, fields, field_of, moves, priority, plans):
    """Feasible plans from scratch: a PIBT rollout over the window."""
    rows, cols = moves.shape[0], moves.shape[1]
    grid_fields = fields.reshape((fields.shape[0], rows, cols))
    at = cells.copy()
    for i in range(at.shape[0]):
        plans[i, 0] = at[i, 0] * cols + at[i, 1]
    for t in range(1, plans.shape[1]):
        actions = pibt_actions(at, grid_fields, field_of, moves, priority)
        for i in range(at.shape[0]):
            at[i, 0] += MOVES[actions[i], 0]
            at[i, 1] += MOVES[actions[i], 1]
            plans[i, t] = at[i, 0] * cols + at[i, 1]
            if grid_fields[field_of[i], at[i, 0], at[i, 1]] == 0:
                priority[i] = -1.0 + priority[i] * 1e-6
            else:
                priority[i] += 1.0


class LnsExpert:
    """The expert over an episode. It also labels states that somebody else drove into (DAgger)."""

    def __init__(
        self,
        moves: np.ndarray,
        agents: int,
        mode: int = LIFELONG,
        window: int = 12,
        rounds: tuple[int, int] = (60, 4),
        seed: int = 0,
        nodes: tuple[int, int] = (20_000, 2_000),
    ) -> None:
        """Prepare an episode.

        Args:
            moves: bool[R, C, 5] edges of the grid.
            agents: Number of agents n.
            mode: ``LIFELONG`` or ``ONE_SHOT`` (agents stay at their goals).
            window: Planned steps W; one-shot plans last until all agents are at their goals, and W steps only
                where LaCAM found no solution.
            rounds: (a, b): a + b * n search rounds per step.
            seed: Seed of the search.
            nodes: (a, b): the rounds of a step also end after a + b * n A* nodes; one-shot only, where plans are
                long.
        """
        rows, cols = moves.shape[:2]
        self.moves = np.ascontiguousarray(moves)
        self.mode, self.window, self.rounds = mode, window, rounds[0] + rounds[1] * agents
        self.nodes = nodes[0] + nodes[1] * agents
        self.exists = self.moves.reshape(rows * cols, 5)
        self.near = neighbour_table(self.moves)
        self.steps = (MOVES[:, 0] * cols + MOVES[:, 1]).astype(np.int64)
        self.plans = np.zeros((agents, window + 1), dtype=np.int32)
        self.goals = np.full(agents, -1, dtype=np.int64)
        self.counter = np.zeros(2, dtype=np.int64)
        self._allocate(window)
        self.random = np.random.default_rng(seed)
        self.ready = False
        self.solved = False  # whether the plans bring all agents to their goals at once
        self.patience = 0  # steps until LaCAM may try again after a failure

    def _allocate(self, window: int) -> None:
        """Working memory for plans of ``window`` steps; zeros are untouched pages until they are used."""
        size = (window + 1) * len(self.exists) * 2
        self.occ = np.full((window + 1, len(self.exists)), -1, dtype=np.int32)
        self.counter[:] = 0
        self.work = (
            np.zeros(size, dtype=np.int64),
            np.zeros(size, dtype=np.int32),
            np.zeros(size, dtype=np.int32),
            np.zeros(5 * size, dtype=np.int32),
            np.zeros(5 * size, dtype=np.int32),
            np.zeros(2 * window + 3, dtype=np.int64),
        )

    def _memory(self) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Occupancy and working memory of A* for plans as long as they are now."""
        window = self.plans.shape[1] - 1
        if window >= len(self.occ):
            self._allocate(window + window // 2)
        return self.occ[: window + 1], self.work[:-1] + (self.work[-1][: 2 * window + 3],)

    def act(
        self, cells: np.ndarray, goals: np.ndarray, fields: np.ndarray, field_of: np.ndarray
    ) -> np.ndarray:
        """int8[n] best moves found for agents at ``cells`` int[n, 2] with ``goals`` int[n, 2].

        ``fields`` int32[f, R, C] are cost-to-go fields, ``field_of`` int[n] each agent's field. If the agents
        did not follow the last plan, lifelong plans start from a PIBT rollout, and one-shot plans are repaired
        or start from LaCAM.

        Raises:
            ValueError: Two agents share a cell, or an agent cannot reach its goal.
        """
        cols = self.moves.shape[1]
        cells = cells.astype(np.int64)
        flat = cells[:, 0] * cols + cells[:, 1]
        field_of = field_of.astype(np.int64)
        if len(np.unique(flat)) != len(flat):
            raise ValueError("two agents share a cell")
        if (fields[field_of, cells[:, 0], cells[:, 1]] >= UNREACHABLE).any():
            raise ValueError("an agent cannot reach its goal")
        goal_cells = goals[:, 0].astype(np.int64) * cols + goals[:, 1]
        flat_fields = fields.reshape(len(fields), -1)
        followed = self.ready and bool((self.plans[:, 1] == flat).all())
        fresh = np.zeros(len(flat), dtype=np.bool_)
        if self.mode == ONE_SHOT:
            self.solved = self._solve(flat, goal_cells, flat_fields, field_of, followed)
        if not self.solved and followed and self.plans.shape[1] == self.window + 1:
            self.plans[:, :-1] = self.plans[:, 1:].copy()
            fresh = goal_cells != self.goals
        elif not self.solved:
            self.plans = np.zeros((len(flat), self.window + 1), dtype=np.int32)
            priority = self.random.random(len(flat))
            _initial_plans(cells, flat_fields, field_of, self.moves, priority, self.plans)
        self.goals = goal_cells
        occ, work = self._memory()
        seed = int(self.random.integers(2**31))
        improve(
            self.plans,
            flat_fields,
            field_of,
            self.mode,
            self.solved,
            self.steps,
            self.exists,
            occ,
            self.rounds,
            self.nodes if self.solved else NO_LIMIT,
            seed,
            self.counter,
            work,
            fresh,
        )
        self.ready = True
        delta = self.plans[:, 1].astype(np.int64) - self.plans[:, 0]
        return np.argmax(delta[:, None] == self.steps[None, :], axis=1).astype(np.int8)

    def _solve(
        self, flat: np.ndarray, goals: np.ndarray, fields: np.ndarray, field_of: np.ndarray, followed: bool
    ) -> bool:
        """Make the plans a one-shot solution; False if that failed and they have to come from elsewhere.

        The rest of the last solution, with those agents replanned that did not follow it, or a new one from LaCAM.
        Following solutions ends: the search keeps them solutions, and every step lowers the sum of costs left.
        """
        same = self.ready and bool((goals == self.goals).all())
        if same and self.solved:
            self.plans = _trimmed(self.plans[:, 1:], 0 if followed else SLACK)
            if followed:
                return True
            search = (fields, field_of, self.steps, self.exists)
            occ, work = self._memory()
            if repair(self.plans, flat, *search, occ, self.counter, work):
                return True
        self.patience = self.patience - 1 if same else 0
        if self.patience > 0 or len(np.unique(goals)) < len(goals):
            return False
        plan, impossible = lacam(flat, fields, field_of, self.near)
        if len(plan):
            self.plans = _trimmed(plan.T, 0)
        else:  # moves can be undone, so what is impossible now stays so
            self.patience = 2**31 if impossible else RETRY
        return len(plan) > 0


def _trimmed(plans: np.ndarray, rest: int) -> np.ndarray:
    """``plans`` int32[n, T] of agents that rest in the end, cut or continued to ``rest`` steps of it."""
    changes = np.flatnonzero((plans[:, 1:] != plans[:, :-1]).any(axis=0))
    steps = max(1, (changes[-1] + 1 if len(changes) else 0) + rest)
    return np.ascontiguousarray(np.pad(plans, ((0, 0), (0, steps)), mode="edge")[:, : steps + 1])


def window_of(family: str) -> int:
    """Planning window of the expert in steps: longer where corridors are long.

    Measured at 64 agents, 32 random maps (16 mazes): 12 steps 4.29 goals per step, 14 4.34, 16 4.33 (20 3.45, 28 3.58).
    """
    return {"random": 14, "maze": 28}.get(family, 20)
