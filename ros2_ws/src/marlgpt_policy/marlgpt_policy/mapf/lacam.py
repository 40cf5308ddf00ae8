"""LaCAM: a depth-first search over joint configurations that finds one-shot solutions where others get stuck.

After Okumura 2023 (arXiv 2211.13432). A node is a joint configuration (the cell of every agent). Its successors
come one at a time from PIBT, each time under one more constraint "agent i goes to cell u" from a lazily grown
breadth-first constraint tree, so that the first descent is as fast as PIBT and the search is complete all the
same. PIBT includes the swap of two agents in a narrow corridor (Okumura 2024, arXiv 2308.04292): the
agent that has to give way moves away from its goal and pulls the other one along, until there is a place to pass.

Symbols of the paper: Q a configuration, S the first one, G that of all goals; N a high-level node with N.config,
N.order, N.parent and N.tree, a queue of low-level constraints C = (who, where, parent); Open the stack of nodes,
Explored the table from Q to N. PIBT is the configuration generator: Q_from is ``config``, Q_to is ``then``.

The result depends on the arguments only: ties go to a fixed move order, in retries to a seeded one.
"""

from __future__ import annotations

import numba
import numpy as np

from marlgpt_policy.grid.moves import MOVE_OFFSETS as MOVES

TIE_ORDER = np.array([4, 2, 3, 1, 0], dtype=np.int64)
"""Moves of equal cost in the order in which they are tried. Fixed, so that a plan is a function of the state."""
NOBODY = -1
"""Index of an agent where there is none."""
SUCCEEDED, FAILED, FRESH = 1, 0, -1
"""What the agent above on PIBT's stack reported: it left its cell, it stays, or it was not asked yet."""


def neighbour_table(moves: np.ndarray) -> np.ndarray:
    """int32[R * C, 5] flat cell that each move of ``moves`` bool[R, C, 5] leads to, -1 where there is none."""
    rows, cols = moves.shape[:2]
    here = np.arange(rows * cols)[:, None]
    to = here + (MOVES[:, 0] * cols + MOVES[:, 1])[None, :]
    return np.where(moves.reshape(-1, 5), to, -1).astype(np.int32)


def without(near: np.ndarray, shut: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The table ``near`` without ways into cells ``shut`` bool[cells]; standing in cells ``start`` stays possible."""
    left = near.copy()
    left[(left >= 0) & shut[left]] = -1
    left[start, 0] = start
    return left


@numba.njit(cache=True, nogil=True)
def _corridor_ahead(behind, here, near, fields, field_of, at):
    """The only way on from ``here`` when one comes from ``behind``: -1 for a dead end, -2 for a place to pass.

    A place to pass has two ways on (degree 3 or more), so that two agents can change their order there. A dead end of
    one cell whose agent is at its goal does not count: it is taken for good.
    """
    ahead = -1
    for m in range(1, 5):
        u = near[here, m]
        if u < 0 or u == behind:
            continue
        a = at[u]
        if a >= 0 and fields[field_of[a], u] == 0:
            ways = 0
            for k in range(1, 5):
                ways += near[u, k] >= 0
            if ways == 1:
                continue
        if ahead >= 0:
            return -2
        ahead = u
    return ahead


@numba.njit(cache=True, nogil=True)
def _swap_required(i, j, cell_i, cell_j, near, fields, field_of, at):
    """Whether ``i``, pushing ``j`` ahead of it down its own cost-to-go, ends where they block each other."""
    goal_i, goal_j = fields[field_of[i]], fields[field_of[j]]
    # i pushes j cell by cell: i takes j's cell, j the only one ahead. With a place to pass on the way no swap is
    # needed; a dead end, or i no longer getting nearer, ends the push.
    while goal_i[cell_j] < goal_i[cell_i]:
        ahead = _corridor_ahead(cell_i, cell_j, near, fields, field_of, at)
        if ahead == -2:
            return False
        if ahead == -1:
            break
        cell_i, cell_j = cell_j, ahead
    # Blocked: j wants back over i's cell, and i is at its goal or wants on over j's.
    return goal_j[cell_i] < goal_j[cell_j] and (goal_i[cell_i] == 0 or goal_i[cell_j] < goal_i[cell_i])


@numba.njit(cache=True, nogil=True)
def _swap_possible(behind, first, near, fields, field_of, at):
    """Whether an agent that retreats from ``behind`` over ``first`` finds a place to pass."""
    # Walk the corridor in which i retreats, with j behind it, up to a place to pass (possible), a dead end (not
    # possible) or round to where it began (a ring: not possible).
    origin, here = behind, first
    while here != origin:
        ahead = _corridor_ahead(behind, here, near, fields, field_of, at)
        if ahead < 0:
            return ahead == -2
        behind, here = here, ahead
    return False


@numba.njit(cache=True, nogil=True)
def _swap_partner(i, best, config, then, near, fields, field_of, at):
    """The agent that ``i``, whose best next cell is ``best``, should let pass by retreating; -1 if none."""
    here = config[i]
    # i and the agent on its best next cell are in each other's way: i goes away from its goal, j follows (pull).
    j = at[best]
    if j >= 0 and j != i and then[j] < 0:
        if _swap_required(i, j, here, best, near, fields, field_of, at):
            if _swap_possible(best, here, near, fields, field_of, at):
                return j
    for m in range(1, 5):  # make room for one that needs this agent's cell to pass
        u = near[here, m]
        if u < 0 or u == best or best == here:
            continue
        k = at[u]
        if k >= 0 and _swap_required(k, i, here, best, near, fields, field_of, at):
            if _swap_possible(best, here, near, fields, field_of, at):
                return k
    return NOBODY


@numba.njit(cache=True, nogil=True)
def _choices(i, config, near, fields, field_of, tie, row):
    """Fill ``row`` int32[5] with next cells of agent ``i`` by cost-to-go, ties as in ``tie`` int64[5]; their number."""
    field = fields[field_of[i]]
    # Insertion sort, stable: equal costs keep the order of `tie`.
    size = 0
    for k in range(5):
        u = near[config[i], tie[k]]
        if u < 0:
            continue
        slot = size
        while slot > 0 and field[row[slot - 1]] > field[u]:
            row[slot] = row[slot - 1]
            slot -= 1
        row[slot] = u
        size += 1
    return size


@numba.njit(cache=True, nogil=True)
def _successor(config, order, near, fields, field_of, ties, shift, at, taken, then, work):
    """PIBT with swaps: complete ``then`` int32[n], where constrained agents already have a cell; False if impossible.

    ``at`` and ``taken`` int32[cells] hold who is where now and who will be (-1 nobody). Agent i breaks ties in the
    order of row i + ``shift`` (modulo n) of ``ties`` int64[n, 5].
    """
    n = config.shape[0]
    choice, count, pointer, partner, stack = work
    # Agents by priority; those with a constraint, or moved by an earlier one, have their cell in Q_to already.
    for o in range(order.shape[0]):
        if then[order[o]] >= 0:
            continue
        stack[0] = order[o]
        depth = 1
        entering = True
        state = FRESH
        while depth > 0:
            i = stack[depth - 1]
            here = config[i]
            if entering:
                # First visit of this agent: candidates by cost-to-go, reversed if it has to let somebody pass.
                count[i] = _choices(i, config, near, fields, field_of, ties[(i + shift) % n], choice[i])
                pointer[i] = 0
                partner[i] = _swap_partner(i, choice[i, 0], config, then, near, fields, field_of, at)
                if partner[i] >= 0:
                    for k in range(count[i] // 2):
                        other = count[i] - 1 - k
                        choice[i, k], choice[i, other] = choice[i, other], choice[i, k]
                entering = False
                state = FRESH
            while state != SUCCEEDED and pointer[i] < count[i]:
                u = choice[i, pointer[i]]
                pointer[i] += 1
                if taken[u] >= 0:
                    continue  # vertex conflict
                j = at[u]
                if j >= 0 and j != i and then[j] == here:
                    continue  # swap conflict
                taken[u] = i
                then[i] = u
                if j < 0 or j == i or then[j] >= 0:
                    state = SUCCEEDED
                else:
                    # Priority inheritance: whoever stands there and has no cell yet is served next.
                    stack[depth] = j
                    depth += 1
                    entering = True
                    break
            if entering:
                continue
            if state == SUCCEEDED:
                k = partner[i]
                if k >= 0 and pointer[i] == 1 and then[k] < 0 and taken[here] < 0:
                    then[k] = here  # pull the other one along
                    taken[here] = k
            else:
                if taken[here] >= 0 and depth == 1:
                    return False  # a constraint gave this cell away and there is no way out
                then[i] = here  # takes the cell back from whoever asked for it
                taken[here] = i
                state = FAILED
            depth -= 1
    return True


@numba.njit(cache=True, nogil=True)
def _hash(config):
    """Hash int64 >= 0 of a configuration int32[n]: FNV-1a over cells, with a shift that mixes high bits down."""
    value = np.uint64(1469598103934665603)
    for i in range(config.shape[0]):
        value = (value ^ np.uint64(config[i])) * np.uint64(1099511628211)
        value ^= value >> np.uint64(29)
    return np.int64(value >> np.uint64(2))


@numba.njit(cache=True, nogil=True)
def _sort_by_priority(order, priority):
    """Stable insertion sort in place, largest first; ``order`` comes from the parent and is nearly sorted."""
    for k in range(1, order.shape[0]):
        a = order[k]
        slot = k
        while slot > 0 and priority[order[slot - 1]] < priority[a]:
            order[slot] = order[slot - 1]
            slot -= 1
        order[slot] = a


@numba.njit(cache=True, nogil=True)
def _search(start, fields, field_of, near, limit, ties, urgency):
    """One LaCAM search of at most ``limit`` generated successors.

    Agents with a larger ``urgency`` float64[n] in [0, 1) are served first; ``ties`` as in ``_successor``, with another
    shift for every successor.

    Returns:
        (plan int32[T + 1, n], exhausted): the plan is empty without a solution; ``exhausted`` says that the whole
        space was searched, so that there is none.
    """
    # All of a search's memory at once: node k of at most limit + 1 lies in row k of these arrays.
    n, cells = start.shape[0], near.shape[0]
    configs = np.empty((limit + 1, n), dtype=np.int32)
    orders = np.empty((limit + 1, n), dtype=np.int32)
    priorities = np.empty((limit + 1, n), dtype=np.float64)
    parent = np.empty(limit + 1, dtype=np.int64)
    # Nodes point to the first and last constraint of their queue N.tree.
    first, last = np.empty(limit + 1, dtype=np.int64), np.empty(limit + 1, dtype=np.int64)
    # Constraint "agent goes to cell" with the constraint above it in the tree and the next one in the queue.
    pool = 6 * limit + 6
    who, where = np.empty(pool, dtype=np.int32), np.empty(pool, dtype=np.int32)
    above, depth = np.empty(pool, dtype=np.int64), np.empty(pool, dtype=np.int32)
    following = np.empty(pool, dtype=np.int64)
    # Explored: hash table with open addressing, twice as many slots as nodes, so that chains stay short.
    slots = 64
    while slots < 2 * limit + 2:
        slots *= 2
    table = np.full(slots, -1, dtype=np.int64)
    opened = np.empty(2 * limit + 2, dtype=np.int64)
    at, taken = np.full(cells, NOBODY, dtype=np.int32), np.full(cells, NOBODY, dtype=np.int32)
    then = np.empty(n, dtype=np.int32)
    work = (
        np.empty((n, 5), dtype=np.int32),
        np.empty(n, dtype=np.int64),
        np.empty(n, dtype=np.int64),
        np.empty(n, dtype=np.int64),
        np.empty(n, dtype=np.int64),
    )
    # N_init = (config S, order by urgency, no parent, tree with the empty constraint C_init).
    configs[0] = start
    for i in range(n):
        orders[0, i] = i
        priorities[0, i] = urgency[i]
    _sort_by_priority(orders[0], priorities[0])
    table[_hash(configs[0]) & (slots - 1)] = 0
    parent[0], first[0], last[0], depth[0], following[0] = -1, 0, 0, 0, -1
    nodes, constraints = 1, 1
    opened[0] = 0
    top = 1
    generated = 0
    while top > 0:
        # Top of Open. It stays in Open until its tree is empty: successors are made one at a time (lazily).
        node = opened[top - 1]
        config, order = configs[node], orders[node]
        solved = True
        for i in range(n):
            if fields[field_of[i], config[i]] != 0:
                solved = False
                break
        if solved:  # N.config = G: the plan along N.parent, from the end
            length = 0
            walk = node
            while walk >= 0:
                length += 1
                walk = parent[walk]
            plan = np.empty((length, n), dtype=np.int32)
            walk = node
            while walk >= 0:
                length -= 1
                plan[length] = configs[walk]
                walk = parent[walk]
            return plan, False
        # C <- N.tree.pop(); with an empty tree, all successors of N have been made.
        constraint = first[node]
        if constraint < 0:
            top -= 1
            continue
        if generated == limit:
            return np.empty((0, n), dtype=np.int32), False
        generated += 1
        shift = generated * 31 % n
        first[node] = following[constraint]
        # Grow the tree below C: for the next agent i in N.order one child per cell u that it can reach. Breadth first:
        # few constraints come before many, and with n of them every successor is reached, hence completeness.
        if depth[constraint] < n:
            i = order[depth[constraint]]
            for k in range(5):
                u = near[config[i], ties[(i + shift) % n, k]]
                if u < 0:
                    continue
                who[constraints], where[constraints], above[constraints] = i, u, constraint
                depth[constraints], following[constraints] = depth[constraint] + 1, -1
                if first[node] < 0:
                    first[node] = constraints
                else:
                    following[last[node]] = constraints
                last[node] = constraints
                constraints += 1
        # Q_new: first what C and the constraints above it demand, then PIBT for all others.
        for i in range(n):
            at[config[i]] = i
            then[i] = -1
        feasible = True
        walk = constraint
        while depth[walk] > 0:
            i, u = who[walk], where[walk]
            j = at[u]
            if taken[u] >= 0 or (j >= 0 and j != i and then[j] == config[i]):  # the constraints collide
                feasible = False
                break
            then[i] = u
            taken[u] = i
            walk = above[walk]
        if feasible:
            feasible = _successor(config, order, near, fields, field_of, ties, shift, at, taken, then, work)
        for i in range(n):
            at[config[i]] = NOBODY
            taken[config[i]] = NOBODY  # a cell taken back and given away again may hold a mark as well
            if then[i] >= 0:
                taken[then[i]] = NOBODY
        if not feasible:
            continue
        # Explored[Q_new]: linear probing from the slot of its hash.
        slot = _hash(then) & (slots - 1)
        known = -1
        while table[slot] >= 0:
            if (configs[table[slot]] == then).all():
                known = table[slot]
                break
            slot = (slot + 1) & (slots - 1)
        if known >= 0:
            opened[top] = known  # back to the top of the stack: depth first
        else:
            child = nodes
            nodes += 1
            table[slot] = child
            configs[child] = then
            orders[child] = order
            # Priorities as in PIBT: one more a step away from the goal, at the goal only the fraction (the urgency).
            for i in range(n):
                if fields[field_of[i], then[i]] != 0:
                    priorities[child, i] = priorities[node, i] + 1.0
                else:
                    priorities[child, i] = priorities[node, i] - np.floor(priorities[node, i])
            _sort_by_priority(orders[child], priorities[child])
            parent[child] = node
            first[child] = last[child] = constraints
            depth[constraints], following[constraints] = 0, -1
            constraints += 1
            opened[top] = child
        top += 1
    # Open is empty: every configuration that can be reached was expanded, so there is no solution.
    return np.empty((0, n), dtype=np.int32), True


def lacam(
    start: np.ndarray,
    fields: np.ndarray,
    field_of: np.ndarray,
    near: np.ndarray,
    limits: tuple[int, ...] | None = None,
) -> tuple[np.ndarray, bool]:
    """Find a one-shot solution: every agent from its start to its goal, all there at once in the end.

    The first search breaks ties in the fixed order of the PIBT expert, the further ones in a new order at every
    step: a search that does not end soon is stuck in one place, and a fresh start is cheaper than its way out.

    Args:
        start: int[n] flat cells of the agents, all different.
        fields: int32[f, R * C] cost-to-go, 0 at the goal; all starts can reach their goals.
        field_of: int64[n] each agent's field.
        near: int32[R * C, 5] from :func:`neighbour_table`.
        limits: Most successors generated in each search; the default grows with the longest way to go.

    Returns:
        (plan, impossible): plan int32[T + 1, n] of flat cells without vertex or swap conflicts, of length 0 if none
        was found; ``impossible`` is True if there is none at all.
    """
    n = len(start)
    start = np.ascontiguousarray(start, dtype=np.int32)
    field_of = np.ascontiguousarray(field_of, dtype=np.int64)
    away = fields[field_of, start]
    if limits is None:
        once = 200 + 4 * int(away.max(initial=0))
        limits = (once, once, once, once, 4 * once, 16 * once)
    ties = np.tile(TIE_ORDER, (n, 1))
    urgency = away / (2.0 * len(near))  # far ones first; below 1, what a step away from the goal counts
    plan, impossible = np.empty((0, n), dtype=np.int32), False
    for attempt, limit in enumerate(limits):
        if attempt:
            rng = np.random.default_rng([attempt, n])
            ties = np.ascontiguousarray(rng.permuted(ties, axis=1))
        plan, impossible = _search(start, fields, field_of, near, limit, ties, urgency)
        if len(plan) or impossible:
            break
    return plan, impossible
