"""The conflict shield in plain Python: PIBT (Okumura et al. 2022, Algorithm 1) over ranked moves.

It is slow and easy to read; tests hold ``pibt_shield.resolve`` against it. Without ``worth`` (no search for a better
order) the fast one is this algorithm, so that both give the same joint action. With ``worth`` it tries other orders
behind the first robot: robots of lower priority may then move differently, and the priorities among them may be
broken. What still has to be the same: no conflicts, only ranked moves that exist, and the first robot's move.
"""

from marlgpt_policy.grid.moves import MOVE_OFFSETS


def reference_shield(cells, ranking, priority, moves, fixed, closed):
    """Moves of all robots without conflicts; arguments as of ``pibt_shield.resolve``, here lists and arrays alike."""
    n = len(cells)
    now = [tuple(map(int, cell)) for cell in cells]  # Q_from
    then = [
        now[i] if fixed[i] else None for i in range(n)
    ]  # Q_to; fixed robots have decided before all others
    chosen = [0] * n

    def pibt(i):
        """Give robot i a cell; whether it could leave its own to whoever asked for it."""
        for move in map(int, ranking[i]):  # C, the candidates, best first
            if move < 0 or not moves[now[i]][move]:
                continue  # no such edge
            u = (now[i][0] + int(MOVE_OFFSETS[move][0]), now[i][1] + int(MOVE_OFFSETS[move][1]))
            if u in then or closed[u]:
                continue  # vertex conflict, or a cell that nobody may enter
            j = now.index(u) if u in now and u != now[i] else None  # who stands there
            if j is not None and then[j] == now[i]:
                continue  # swap conflict
            then[i], chosen[i] = u, move
            if j is not None and then[j] is None and not pibt(j):  # priority inheritance: j moves first
                continue  # backtracking: j stays, so this cell is not free
            return True
        then[i], chosen[i] = now[i], 0  # nothing left: stay, whoever asked has to take another cell
        return False

    for i in sorted(range(n), key=lambda i: -priority[i]):  # stable: equal priorities by index
        if then[i] is None:
            pibt(i)
    return chosen
