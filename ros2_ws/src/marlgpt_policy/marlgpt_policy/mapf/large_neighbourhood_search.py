"""Anytime planning of all agents by large-neighbourhood search: replan a few agents at a time, keep what is no worse.

After Li et al. 2021 (MAPF-LNS, "Anytime Multi-Agent Path Finding via Large Neighborhood Search", IJCAI 2021) within a
rolling window of time as in Li et al. 2021 (RHCR, arXiv 2005.07371). In the words of the papers: agent a_i stands at
s_i, has goal g_i and path p_i; d(v, g_i) is the cost-to-go; delay(a_i) = cost(p_i) - d(s_i, g_i). One round takes a
neighbourhood of agents that are in each other's way, removes their paths P-, replans them one by one around the rest,
which gives P+, and keeps P+ if its sum of costs is not larger.

Paths are free of conflicts after every round, so the search may end at any time. (MAPF-LNS2, Li et al. 2022, begins
with paths that collide and repairs them. Here the first paths come from PIBT or LaCAM and do not collide.)

- Lifelong (``LIFELONG``): paths of ``window`` steps. From one step to the next they are shifted, and a wait is
  appended, which is always possible. The first ones come from PIBT.
- One-shot (``ONE_SHOT``): paths that end with all agents at their goals at once. LaCAM finds a solution, the search
  shortens it and keeps it a solution. A window would get stuck for ever where an agent that rests at its goal blocks
  the way of others.

The result depends on the seed and on the calls so far, and on nothing else.
"""

from __future__ import annotations

import numba
import numpy as np

from marlgpt_policy.grid.cost_to_go import UNREACHABLE
from marlgpt_policy.grid.moves import MOVE_OFFSETS as MOVES
from marlgpt_policy.mapf.lacam import lacam, neighbour_table
from marlgpt_policy.mapf.pibt import pibt_actions

LIFELONG, ONE_SHOT = 0, 1
PUSH_ORDER = np.array([0, 1, 3, 2, 4], dtype=np.int64)
"""Moves as A* pushes them. It pops the last one first, so the preferred move comes last: wait least."""
MAX_GROUP = 6
"""Agents of a neighbourhood, at most; each round draws 2 to this many."""
MAX_BLOCKERS = 16
"""Candidates for a neighbourhood, the delayed agent included."""
NO_LIMIT = 2**40
SLACK = 4
"""Steps by which agents that left their paths may prolong a one-shot solution."""
RETRY = 8
"""Calls before LaCAM tries again after it gave up."""


@numba.njit(cache=True, nogil=True)
def _step_cost(mode, field, from_cell, to_cell):
    """One-shot agents pay for every step except resting at the goal; lifelong ones for every step."""
    # The papers count all steps until the last arrival at the goal. Here a rest at the goal is free at any time: an
    # agent that leaves it to let somebody pass pays for the steps away and back only.
    if mode == ONE_SHOT and field[from_cell] == 0 and field[to_cell] == 0:
        return 0
    return 1


@numba.njit(cache=True, nogil=True)
def _plan_cost(plan, field, mode):
    """cost(p_i) in steps of ``plan`` int32[W + 1] (flat cells) under ``field`` int32[R * C], the cost-to-go."""
    window = plan.shape[0] - 1
    if mode == LIFELONG:
        # The step of the first visit counts; what follows is on the way to a goal that nobody knows yet.
        for t in range(window + 1):
            if field[plan[t]] == 0:
                return t
        return window + field[plan[window]]
    cost = 0
    for t in range(window):
        cost += _step_cost(mode, field, plan[t], plan[t + 1])
    return cost + field[plan[window]]  # beyond the window: the shortest way, as if nobody were on it


@numba.njit(cache=True, nogil=True)
def _astar(start, field, mode, arrive, most, steps, exists, occ, counter, work, out):
    """Space-time A* (Silver 2005): cheapest path of one agent around all paths marked in ``occ``.

    A node is (step t, cell, has visited the goal). f = g + h with h = d(cell, g_i), which is consistent: no step lowers
    f, so the first node popped at step W is the end of a cheapest path.

    Args:
        start: Flat cell s_i.
        field: int32[cells] cost-to-go d(., g_i).
        mode: ``LIFELONG`` or ``ONE_SHOT``.
        arrive: Whether the path has to end at the goal.
        most: Paths that cost more are of no use.
        steps: int64[5] what each move adds to a flat cell.
        exists: bool[cells, 5] moves that exist.
        occ: int32[W + 1, cells] agent in each cell at each step, -1 for none.
        counter: int64[2] generation of the marks in ``work``, and nodes expanded, which is added to.
        work: Arrays of ``LargeNeighbourhoodSearch._allocate``.
        out: int32[W + 1], filled with the path.

    Returns:
        The cost of the path; -1 if there is none of at most ``most``.
    """
    stamp, best, parent, entry_node, entry_next, heads = work
    window = occ.shape[0] - 1
    cells = occ.shape[1]
    last = min(heads.shape[0] - 1, most - field[start])
    if last < 0:
        return -1
    # Open list: costs are small whole numbers, so a bucket for each f above f(start), each a linked list.
    heads[: last + 1] = -1
    # Marks of earlier calls are older than this generation: nothing has to be wiped. `generation` marks a node that is
    # open, `generation + 1` one that is closed.
    counter[0] += 2
    generation = counter[0]
    node = start * 2
    if mode == LIFELONG and field[start] == 0:
        node += 1  # odd: has visited the goal
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
        if t == window:  # the path, from its end along the parents
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
                continue  # vertex conflict
            if arrive and field[to] >= window - t:
                continue  # the goal is out of reach within the steps left
            j = occ[t, to]
            if j >= 0 and occ[t + 1, cell] == j:
                continue  # swap conflict
            # f(child) - f(node) = cost of the step + d(to) - d(cell), 0 along a shortest way, 2 for a step back.
            seen = visited
            if mode == ONE_SHOT:
                extra = _step_cost(mode, field, cell, to) + field[to] - field[cell]
            elif visited:
                extra = 0  # lifelong, after the goal: free, until it is known where to go next
            else:
                extra = 1 + field[to] - field[cell]
                seen = 1 if field[to] == 0 else 0
            child = (t + 1) * 2 * cells + to * 2 + seen
            cost = bucket + extra
            # Skip what costs more than `most`, is closed, or is open at no higher cost. A node that got cheaper is
            # pushed again; its old entry is skipped when it is popped.
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
    """Fill ``group`` int64[``MAX_BLOCKERS``] with agent ``i`` and agents that keep it from its goal; their number.

    The agent-based neighbourhood of MAPF-LNS: whoever occupies a cell that would bring a_i nearer to its goal. The
    paper finds them by a random walk that leaves the path. Here every step of the path is looked at in order of time,
    so that the same path gives the same candidates; what is random is the choice among them.
    """
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
            # Who is there then (vertex conflict), and who comes from there (a swap conflict, if it comes here).
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
    """Enter path ``i`` of ``plans`` int32[n, W + 1] in ``occ``: ``value`` is the agent, or -1 to take it out."""
    for t in range(plans.shape[1]):
        occ[t, plans[i, t]] = value


@numba.njit(cache=True, nogil=True)
def improve(
    plans, fields, field_of, mode, arrive, steps, exists, occ, rounds, nodes, seed, counter, work, fresh
):
    """Improve paths without conflicts by large-neighbourhood search.

    Args:
        plans: int32[n, W + 1] flat cells, improved in place.
        fields: int32[f, cells] cost-to-go.
        field_of: int64[n] each agent's field.
        mode: ``LIFELONG`` or ``ONE_SHOT``.
        arrive: Whether all paths end at their goals and shall go on doing so.
        steps: int64[5] what each move adds to a flat cell.
        exists: bool[cells, 5] moves that exist.
        occ: int32[W + 1, cells], -1 everywhere, before and after.
        rounds: The search ends after so many.
        nodes: It also ends when A* has expanded so many.
        seed: Of the neighbourhoods.
        counter: int64[2] of ``_astar``; lives as long as ``work``.
        work: Memory of ``_astar``.
        fresh: bool[n] agents with a new goal: they are replanned on their own first.

    Returns:
        The sum of costs in steps.
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
        best[i] = field[plans[i, 0]]  # d(s_i, g_i)
        if fresh[i]:
            _mark(plans, occ, i, -1)
            if (
                _astar(plans[i, 0], field, mode, arrive, NO_LIMIT, steps, exists, occ, counter, work, out)
                >= 0
            ):
                plans[i] = out
            _mark(plans, occ, i, i)
        cost[i] = _plan_cost(plans[i], field, mode)
    blockers = np.empty(MAX_BLOCKERS, dtype=np.int64)
    saved = np.empty((MAX_GROUP, window + 1), dtype=np.int32)
    delayed = np.empty(n, dtype=np.int64)
    for _ in range(rounds):
        # 1. A seed of the neighbourhood: one of the agents with delay(a_i) > 0, all equally likely.
        count = 0
        for i in range(n):
            if cost[i] > best[i]:
                delayed[count] = i
                count += 1
        if count == 0 or counter[1] > nodes:
            break
        i = delayed[np.random.randint(count)]
        # 2. The neighbourhood: this agent and some of those in its way, in random order. The order is the priority
        #    when they are planned anew, and what was wrong may have been the order.
        found = _group(i, plans, fields[field_of[i]], steps, exists, occ, blockers)
        size = min(found, 2 + np.random.randint(MAX_GROUP - 1))
        for g in range(1, size):  # a random choice of the blockers, then a random order of all
            k = g + np.random.randint(found - g)
            blockers[g], blockers[k] = blockers[k], blockers[g]
        for g in range(size - 1, 0, -1):
            k = np.random.randint(g + 1)
            blockers[g], blockers[k] = blockers[k], blockers[g]
        # 3. Destroy: take P- out. `spare` is what the agents not yet replanned may cost above their d(s, g) in total
        #    without the sum of P+ exceeding that of P-.
        spare = 0
        for g in range(size):
            a = blockers[g]
            saved[g] = plans[a]
            spare += cost[a] - best[a]
            _mark(plans, occ, a, -1)
        # 4. Repair: prioritised planning. Each one gets its own d(s, g) and all that is spare, and gives back what it
        #    does not use. So A* stops as soon as P+ would be the dearer one.
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
        # 5. Keep P+, also at equal costs: the search wanders over plateaus. Otherwise put P- back.
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
    """Replan agents that are not where a one-shot solution wants them, one after the other around all others' paths.

    Args:
        plans: int32[n, W + 1] the solution, flat cells; changed in place.
        cells: int64[n] flat cells where the agents are.
        fields: int32[f, cells] cost-to-go.
        field_of: int64[n] each agent's field.
        steps: int64[5] what each move adds to a flat cell.
        exists: bool[cells, 5] moves that exist.
        occ: int32[W + 1, cells], -1 everywhere, before and after.
        counter: int64[2] of ``_astar``; lives as long as ``work``.
        work: Memory of ``_astar``.

    Returns:
        Whether all arrive within the W steps. If not, some of ``plans`` do not begin at ``cells``.
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
    """Fill ``plans`` int32[n, W + 1] with paths without conflicts: what PIBT does in W steps.

    ``cells`` int64[n, 2], ``fields`` int32[f, cells] and ``field_of`` as above, ``moves`` bool[R, C, 5], ``priority``
    float64[n] in [0, 1), changed.
    """
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
            # Priorities as in the paper: they grow until the goal is reached and then fall below all others'. The
            # scaled rest keeps them different from each other.
            if grid_fields[field_of[i], at[i, 0], at[i, 1]] == 0:
                priority[i] = -1.0 + priority[i] * 1e-6
            else:
                priority[i] += 1.0


class LargeNeighbourhoodSearch:
    """Paths of n agents, kept from call to call and improved in each.

    Attributes:
        plans: int32[n, T + 1] flat cells; the paths of the last call.
        solved: Whether these bring all agents to their goals at once; only in ``ONE_SHOT``.
        steps: int64[5] what each move adds to a flat cell.
    """

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
        """Prepare for agents on a grid.

        Args:
            moves: bool[R, C, 5] edges of the grid; each can be driven in both directions.
            agents: Number of agents n.
            mode: ``LIFELONG`` (after a goal comes another one) or ``ONE_SHOT`` (agents stay at their goals).
            window: Planned steps W. One-shot paths last until all agents are at their goals, and W steps only where
                LaCAM found no solution.
            rounds: (a, b): a + b * n search rounds per call.
            seed: Seed of the search.
            nodes: (a, b): the rounds of a call also end after a + b * n A* nodes; only for one-shot solutions, which
                can be long.
        """
        rows, cols = moves.shape[:2]
        self.moves = np.ascontiguousarray(moves)
        self.mode, self.window, self.rounds = mode, window, rounds[0] + rounds[1] * agents
        self.nodes = nodes[0] + nodes[1] * agents
        self.exists = self.moves.reshape(rows * cols, 5)
        self.near = neighbour_table(self.moves)
        self.steps = (MOVES[:, 0] * cols + MOVES[:, 1]).astype(np.int64)
        self.plans = np.zeros((agents, window + 1), dtype=np.int32)
        self.solved = False
        self._goals = np.full(agents, -1, dtype=np.int64)
        self._planned = False  # whether there was a call
        self._wait = 0  # calls until LaCAM may try again after a failure
        self._random = np.random.default_rng(seed)
        self._counter = np.zeros(2, dtype=np.int64)
        self._allocate(window)

    def plan(
        self, cells: np.ndarray, goals: np.ndarray, fields: np.ndarray, field_of: np.ndarray
    ) -> np.ndarray:
        """Plan from a snapshot of the agents.

        If the agents did not follow the last paths, lifelong ones start from a PIBT rollout, and one-shot ones are
        repaired or start from LaCAM.

        Args:
            cells: int[n, 2] row and column of each agent, all different.
            goals: int[n, 2] row and column of each agent's goal.
            fields: int32[f, R, C] cost-to-go in steps.
            field_of: int[n] each agent's field.

        Returns:
            int32[T + 1, n] flat cells without vertex or swap conflicts, those of ``cells`` first; T is the window, or
            for a one-shot solution the steps until all rest, at least 1.

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
        flat_goals = goals[:, 0].astype(np.int64) * cols + goals[:, 1]
        flat_fields = fields.reshape(len(fields), -1)
        fresh = self._first_paths(cells, flat, flat_goals, flat_fields, field_of)
        self._goals = flat_goals
        self._improve(flat_fields, field_of, fresh)
        self._planned = True
        return np.ascontiguousarray(self.plans.T)

    def _first_paths(
        self,
        cells: np.ndarray,
        flat: np.ndarray,
        goals: np.ndarray,
        fields: np.ndarray,
        field_of: np.ndarray,
    ) -> np.ndarray:
        """Let ``plans`` begin at the agents; bool[n] whose path leads to an old goal."""
        followed = self._planned and bool((self.plans[:, 1] == flat).all())
        fresh = np.zeros(len(flat), dtype=np.bool_)
        if self.mode == ONE_SHOT:
            self.solved = self._solve(flat, goals, fields, field_of, followed)
        if self.solved:
            return fresh
        if followed and self.plans.shape[1] == self.window + 1:
            # One step on: the window moves along, and all wait in its last step, where nobody is in anybody's way.
            self.plans[:, :-1] = self.plans[:, 1:].copy()
            return goals != self._goals
        self.plans = np.zeros((len(flat), self.window + 1), dtype=np.int32)
        priority = self._random.random(len(flat))
        _initial_plans(cells, fields, field_of, self.moves, priority, self.plans)
        return fresh

    def _improve(self, fields: np.ndarray, field_of: np.ndarray, fresh: np.ndarray) -> None:
        """Search from ``plans`` on, as long as a call may."""
        occ, work = self._memory()
        seed = int(self._random.integers(2**31))
        improve(
            self.plans,
            fields,
            field_of,
            self.mode,
            self.solved,
            self.steps,
            self.exists,
            occ,
            self.rounds,
            self.nodes if self.solved else NO_LIMIT,
            seed,
            self._counter,
            work,
            fresh,
        )

    def _solve(
        self, flat: np.ndarray, goals: np.ndarray, fields: np.ndarray, field_of: np.ndarray, followed: bool
    ) -> bool:
        """Make the paths a one-shot solution; False if that failed and they have to come from elsewhere.

        The rest of the last solution, with those agents replanned that did not follow it, or a new one from LaCAM.
        Following solutions ends: the search keeps them solutions, and every step lowers the sum of costs left.
        """
        same = self._planned and bool((goals == self._goals).all())
        if same and self.solved:
            self.plans = _trimmed(self.plans[:, 1:], 0 if followed else SLACK)
            if followed:
                return True
            occ, work = self._memory()
            search = (fields, field_of, self.steps, self.exists)
            if repair(self.plans, flat, *search, occ, self._counter, work):
                return True
        self._wait = self._wait - 1 if same else 0
        if self._wait > 0 or len(np.unique(goals)) < len(goals):
            return False  # two agents cannot rest at one goal
        plan, impossible = lacam(flat, fields, field_of, self.near)
        if len(plan):
            self.plans = _trimmed(plan.T, 0)
        else:  # moves can be undone, so what is impossible now stays so
            self._wait = 2**31 if impossible else RETRY
        return len(plan) > 0

    def _allocate(self, window: int) -> None:
        """Working memory for paths of ``window`` steps; zeros are untouched pages until they are used."""
        size = (window + 1) * len(self.exists) * 2  # nodes (step, cell, has visited the goal)
        self._occ = np.full((window + 1, len(self.exists)), -1, dtype=np.int32)
        self._counter[:] = 0
        self._work = (
            np.zeros(size, dtype=np.int64),  # stamp: generation of the node's marks
            np.zeros(size, dtype=np.int32),  # best: its f above that of the start
            np.zeros(size, dtype=np.int32),  # parent
            np.zeros(5 * size, dtype=np.int32),  # entries of the open list: the node ...
            np.zeros(5 * size, dtype=np.int32),  # ... and the next entry of the same bucket
            np.zeros(2 * window + 3, dtype=np.int64),  # first entry of each bucket: no step adds more than 2
        )

    def _memory(self) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Occupancy and working memory of A* for paths as long as they are now."""
        window = self.plans.shape[1] - 1
        if window >= len(self._occ):
            self._allocate(window + window // 2)
        return self._occ[: window + 1], self._work[:-1] + (self._work[-1][: 2 * window + 3],)


def _trimmed(plans: np.ndarray, rest: int) -> np.ndarray:
    """``plans`` int32[n, T] of agents that rest in the end, cut or continued to ``rest`` steps of it."""
    changes = np.flatnonzero((plans[:, 1:] != plans[:, :-1]).any(axis=0))
    steps = max(1, (changes[-1] + 1 if len(changes) else 0) + rest)
    return np.ascontiguousarray(np.pad(plans, ((0, 0), (0, steps)), mode="edge")[:, : steps + 1])
