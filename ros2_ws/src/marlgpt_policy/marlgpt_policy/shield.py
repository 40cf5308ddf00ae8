"""The conflict shield: any joint proposal in, a joint action without vertex conflict or swap out.

Priority inheritance with backtracking (PIBT, Okumura et al. 2022, doi:10.1016/j.artint.2022.103752), with the
policy's own ranking of moves in place of the distance to the goal. Robots are served in order of priority;
a robot that wants an occupied cell asks its occupant to leave first, and takes its next choice if that fails.
"""

from __future__ import annotations

import numba
import numpy as np

from marlgpt_policy.encoders.pogema import MOVES


@numba.njit(cache=True, nogil=True)
def _pibt(cells, ranking, order, fixed, moves, reserved, occupant, chosen):
    """Serve robots in ``order``; fills ``chosen`` (move per robot). ``reserved`` holds -1 (free), -2 or a robot."""
    n = cells.shape[0]
    decided = np.zeros(n, dtype=np.bool_)
    pointer = np.zeros(n, dtype=np.int64)
    stack = np.empty(n + 1, dtype=np.int64)
    for i in range(n):
        occupant[cells[i, 0], cells[i, 1]] = i
        if fixed[i]:
            decided[i] = True
            chosen[i] = 0
            reserved[cells[i, 0], cells[i, 1]] = i
    for o in range(n):
        if decided[order[o]]:
            continue
        stack[0] = order[o]
        decided[order[o]] = True
        depth = 1
        succeeded = False  # what the robot just popped from the stack reports to the one below it
        returning = False
        while depth > 0:
            i = stack[depth - 1]
            r, c = cells[i, 0], cells[i, 1]
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
                    continue
                j = occupant[rr, cc]
                if j >= 0 and j != i and decided[j]:
                    if rr == cells[j, 0] and cells[j, 0] + MOVES[chosen[j], 0] == r:
                        if cells[j, 1] + MOVES[chosen[j], 1] == c:
                            continue  # they would swap cells
                reserved[rr, cc] = i
                chosen[i] = move
                if j >= 0 and j != i and not decided[j]:
                    decided[j] = True
                    stack[depth] = j
                    depth += 1
                    pushed = True
                else:
                    returning, succeeded = True, True
                    depth -= 1
                break
            else:
                chosen[i] = 0  # nothing left: stay, which takes the cell back from whoever asked for it
                reserved[r, c] = i
                returning, succeeded = True, False
                depth -= 1
            if pushed:
                returning = False
    return chosen


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
) -> np.ndarray:
    """Turn ranked proposals into a joint action without conflicts.

    Args:
        cells: int[n, 2] distinct cells (row, column).
        ranking: int8[n, 5] moves of each robot, best first, -1 where there are fewer (see :func:`rank_moves`).
        priority: float[n], larger is served first; ties go to the smaller index.
        moves: bool[R, C, 5] edges of the grid.
        fixed: bool[n] robots that must stay where they are (late, stopped, lost).
        blocked: bool[R, C] cells nobody may enter (reserved by something else).

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
    chosen = np.zeros(n, dtype=np.int8)
    order = np.argsort(-np.asarray(priority, dtype=np.float64), kind="stable")
    fixed = np.zeros(n, dtype=np.bool_) if fixed is None else np.ascontiguousarray(fixed, dtype=np.bool_)
    occupant = np.full((rows, cols), -1, dtype=np.int64)
    return _pibt(
        cells,
        np.ascontiguousarray(ranking, dtype=np.int8),
        order,
        fixed,
        np.ascontiguousarray(moves, dtype=np.bool_),
        reserved,
        occupant,
        chosen,
    )
