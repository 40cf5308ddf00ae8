"""The conflict shield: any joint proposal in, a joint action without vertex conflict or swap out.

Priority inheritance with backtracking (PIBT, Okumura et al. 2022, doi:10.1016/j.artint.2022.103752), with the
policy's own ranking of moves in place of the distance to the goal. Robots are served in order of priority;
a robot that wants an occupied cell asks its occupant to leave first, and takes its next choice if that fails.

The order decides who gives way, and the order of priorities is rarely the best for the fleet. So a local search tries
other orders and keeps the joint action that the policy finds most probable. The robot with the highest priority is
served first in all of them: whatever plain PIBT guarantees it, it still gets.

Symbols of the paper in ``_pibt``: Q_from[i] is ``cells[i]``, Q_to[i] the cell that ``chosen[i]`` leads to, undefined
while ``decided[i]`` is false; C are the candidates in ``ranking[i]``; j is the agent that stands on candidate u.
``tests/policy/mapf/reference_shield.py`` is the same algorithm in plain Python.
"""

from __future__ import annotations

import numba
import numpy as np

from marlgpt_policy.grid.moves import MOVE_OFFSETS as MOVES

ROUNDS = 64
"""Service orders that the search tries."""
LEAST_PROBABILITY = 0.01
"""Probabilities below count as this, so that one robot's hopeless move does not outweigh everybody else's."""


@numba.njit(cache=True, nogil=True)
def _pibt(cells, ranking, order, fixed, moves, reserved, occupant, chosen):
    """Plain PIBT, the recursion of the paper as a loop over a stack of robots.

    Args:
        cells: int64[n, 2] Q_from.
        ranking: int8[n, 5] candidates of each robot, best first, -1 for none.
        order: int64[n] robots by falling priority.
        fixed: bool[n] robots that stay.
        moves: bool[R, C, 5] edges.
        reserved: int64[R, C] robot whose Q_to is this cell, -1 for none, -2 for a cell that nobody may enter; changed.
        occupant: int64[R, C] robot whose Q_from is this cell; all -1 at first, filled.
        chosen: int8[n], filled with moves.

    Returns:
        ``chosen``.
    """
    n = cells.shape[0]
    decided = np.zeros(n, dtype=np.bool_)
    # The next candidate of each robot: after backtracking it goes on where it left off.
    pointer = np.zeros(n, dtype=np.int64)
    stack = np.empty(n + 1, dtype=np.int64)
    for i in range(n):
        occupant[cells[i, 0], cells[i, 1]] = i
        if fixed[i]:
            # Has decided before all others, so nobody can make it leave.
            decided[i] = True
            chosen[i] = 0
            reserved[cells[i, 0], cells[i, 1]] = i
    # Robots by falling priority; those that were pushed by an earlier one have decided already.
    for o in range(n):
        if decided[order[o]]:
            continue
        # The stack holds the chain of inheritance: each robot waits for the one above it to leave the cell it wants.
        stack[0] = order[o]
        decided[order[o]] = True
        depth = 1
        succeeded = False  # what the robot just popped from the stack reports to the one below it
        returning = False
        while depth > 0:
            i = stack[depth - 1]
            r, c = cells[i, 0], cells[i, 1]
            # Priority inheritance came back valid: the robot above found a cell, so this one keeps its candidate.
            if returning and succeeded:
                depth -= 1
                continue
            returning = False
            pushed = False
            while pointer[i] < 5:
                move = ranking[i, pointer[i]]
                pointer[i] += 1
                if move < 0 or not moves[r, c, move]:
                    continue
                rr, cc = r + MOVES[move, 0], c + MOVES[move, 1]
                if reserved[rr, cc] != -1:
                    continue  # vertex conflict: somebody's Q_to, or closed
                j = occupant[rr, cc]
                if j >= 0 and j != i and decided[j]:
                    if rr == cells[j, 0] and cells[j, 0] + MOVES[chosen[j], 0] == r:
                        if cells[j, 1] + MOVES[chosen[j], 1] == c:
                            continue  # swap conflict: Q_to[j] = Q_from[i], on the edge to Q_from[j]
                # Reserve the candidate before asking who stands there to leave, so that nobody takes it meanwhile.
                reserved[rr, cc] = i
                chosen[i] = move
                if j >= 0 and j != i and not decided[j]:
                    # Priority inheritance: j is served at once, as if it had this robot's priority.
                    decided[j] = True
                    stack[depth] = j
                    depth += 1
                    pushed = True
                else:
                    returning, succeeded = True, True  # empty, or left by a robot that has decided: valid
                    depth -= 1
                break
            else:
                # Backtracking: no candidate is left, so the robot stays. That takes the cell back from the one that
                # asked for it, which goes on with its next candidate. Nobody else can have reserved this cell: it would
                # have pushed this robot then.
                chosen[i] = 0
                reserved[r, c] = i
                returning, succeeded = True, False
                depth -= 1
            if pushed:
                returning = False
    return chosen


@numba.njit(cache=True, nogil=True)
def _search(cells, ranking, worth, order, fixed, moves, reserved, occupant, rounds, seed):
    """Joint action with the largest worth over ``rounds + 1`` service orders, the first being ``order``.

    A local search over orders; not part of PIBT. ``worth`` float64[n, 5] is log-probability, so the sum over robots is
    that of the joint action. Other arguments as for ``_pibt``; ``order`` becomes the best one found.

    Returns:
        int8[n] moves.
    """
    np.random.seed(seed)
    n = cells.shape[0]
    unreserved = reserved.copy()
    best = _pibt(cells, ranking, order, fixed, moves, reserved, occupant, np.zeros(n, dtype=np.int8))
    best_worth = 0.0
    for i in range(n):
        best_worth += worth[i, best[i]]
    giving_way = np.empty(n, dtype=np.int64)
    trial = np.empty(n, dtype=np.int64)
    for _ in range(rounds):
        # Who gave way: served earlier, it may get its first choice. Place 0 belongs to the first robot, whose way PIBT
        # guarantees, and before the robot at place 1 there is only that one.
        count = 0
        for place in range(2, n):
            i = order[place]
            if not fixed[i] and best[i] != ranking[i, 0]:
                giving_way[count] = place
                count += 1
        if count == 0:
            break
        place = giving_way[np.random.randint(count)]
        to = np.random.randint(1, place)  # serve this robot earlier, but never before the first
        trial[:] = order
        for k in range(place, to, -1):
            trial[k] = order[k - 1]
        trial[to] = order[place]
        for i in range(n):  # PIBT reserves nothing but these cells
            for move in range(5):
                rr, cc = cells[i, 0] + MOVES[move, 0], cells[i, 1] + MOVES[move, 1]
                if 0 <= rr < reserved.shape[0] and 0 <= cc < reserved.shape[1]:
                    reserved[rr, cc] = unreserved[rr, cc]
        chosen = _pibt(cells, ranking, trial, fixed, moves, reserved, occupant, np.zeros(n, dtype=np.int8))
        total = 0.0
        for i in range(n):
            total += worth[i, chosen[i]]
        if total >= best_worth:  # equal ones too: the search wanders over plateaus
            best, best_worth = chosen, total
            order[:] = trial
    return best


def move_worth(logits: np.ndarray, proposed: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What each move is worth to each robot: its log-probability, and 0 for the proposed one.

    Args:
        logits: float[n, >= 5] policy logits.
        proposed: int[n] the sampled or greedy move.
        mask: bool[n, >= 5] moves that exist from the robot's cell.

    Returns:
        float64[n, 5], between log(``LEAST_PROBABILITY``) and 0.
    """
    score = np.where(mask[:, :5], logits[:, :5].astype(np.float64), -np.inf)
    score = np.exp(score - score.max(axis=1, keepdims=True, initial=-1e300))
    probability = score / score.sum(axis=1, keepdims=True)
    worth = np.log(np.maximum(probability, LEAST_PROBABILITY))
    worth[np.arange(len(worth)), proposed] = 0.0
    return worth


def rank_moves(logits: np.ndarray, proposed: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Order each robot's moves: the proposed one first, then by falling logit; -1 for moves that do not exist.

    Args:
        logits: float[n, >= 5] policy logits.
        proposed: int[n] the sampled or greedy move.
        mask: bool[n, >= 5] moves that exist from the robot's cell.

    Returns:
        int8[n, 5].
    """
    score = np.where(mask[:, :5], logits[:, :5].astype(np.float64), -np.inf)
    score[np.arange(len(score)), proposed] = np.inf
    ranking = np.argsort(-score, axis=1, kind="stable").astype(np.int8)
    exists = np.take_along_axis(mask[:, :5], ranking.astype(np.int64), axis=1)
    return np.where(exists, ranking, -1).astype(np.int8)


def resolve(
    cells: np.ndarray,
    ranking: np.ndarray,
    priority: np.ndarray,
    moves: np.ndarray,
    fixed: np.ndarray | None = None,
    blocked: np.ndarray | None = None,
    worth: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Turn ranked proposals into a joint action without conflicts.

    Args:
        cells: int[n, 2] distinct cells (row, column).
        ranking: int8[n, 5] moves of each robot, best first, -1 where there are fewer (see :func:`rank_moves`).
        priority: float[n], larger is served first; ties go to the smaller index.
        moves: bool[R, C, 5] edges of the grid.
        fixed: bool[n] robots that must stay where they are (late, stopped, lost).
        blocked: bool[R, C] cells nobody may enter (reserved by something else).
        worth: float[n, 5] what each move is worth to each robot (see :func:`move_worth`), to search for the joint
            action with the largest sum; None: serve robots in order of priority, and that is it.
        seed: Of the search, 0 to 2**32 - 1.

    Returns:
        int8[n] moves: next cells are distinct, nobody swaps, fixed robots wait.

    Raises:
        ValueError: Two robots share a cell, or one stands outside the grid.
    """
    cells = np.ascontiguousarray(cells, dtype=np.int64)
    n = len(cells)
    rows, cols = moves.shape[:2]
    if n and ((cells < 0).any() or (cells >= (rows, cols)).any()):
        raise ValueError(f"a robot stands outside the {rows} x {cols} grid: {cells.tolist()}")
    if len(np.unique(cells[:, 0] * cols + cells[:, 1])) != n:
        raise ValueError("two robots share a cell; the shield needs distinct cells")
    reserved = np.full((rows, cols), -1, dtype=np.int64)
    if blocked is not None:
        reserved[blocked] = -2
    fixed = np.zeros(n, dtype=np.bool_) if fixed is None else np.ascontiguousarray(fixed, dtype=np.bool_)
    # Fixed robots keep their cells anyway; at the end of the order they do not stand before the first one served.
    order = np.argsort(np.where(fixed, np.inf, -np.asarray(priority, dtype=np.float64)), kind="stable")
    occupant = np.full((rows, cols), -1, dtype=np.int64)
    return _search(
        cells,
        np.ascontiguousarray(ranking, dtype=np.int8),
        np.zeros((n, 5)) if worth is None else np.ascontiguousarray(worth, dtype=np.float64),
        order,
        fixed,
        np.ascontiguousarray(moves, dtype=np.bool_),
        reserved,
        occupant,
        0 if worth is None else ROUNDS,
        seed,
    )


def shielded(
    logits: np.ndarray,
    proposed: np.ndarray,
    mask: np.ndarray,
    cells: np.ndarray,
    priority: np.ndarray,
    moves: np.ndarray,
    seed: int,
) -> np.ndarray:
    """int8[n] what n robots on a grid of their own do after proposing ``proposed``; arguments as above."""
    ranking = rank_moves(logits, proposed, mask)
    return resolve(cells, ranking, priority, moves, worth=move_worth(logits, proposed, mask), seed=seed)
