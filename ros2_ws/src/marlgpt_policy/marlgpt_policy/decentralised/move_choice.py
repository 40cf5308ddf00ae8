"""What one robot of a decentralised fleet wants to do next, from its own policy and its neighbours' states."""

from __future__ import annotations

import numpy as np

from marlgpt_policy.deadlock.stagnation import Stagnation
from marlgpt_policy.decentralised.cell_protocol import Known, Peers
from marlgpt_policy.encoders import pogema
from marlgpt_policy.encoders.token_layout import WINDOW_RADIUS
from marlgpt_policy.grid.cost_to_go import UNREACHABLE, CostToGo
from marlgpt_policy.grid.moves import HISTORY
from marlgpt_policy.grid.nav_grid import Cell, NavGrid
from marlgpt_policy.mapf.pibt_shield import rank_moves
from marlgpt_policy.policy.onnx_policy import OnnxPolicy, choose

STAY = 0


class MoveChoice:
    """Ranks one robot's moves and picks the one to ask for.

    A robot asks for a cell that another one holds only if that one is about to leave it or has to make way: of two
    robots the one that has longer got no nearer to its goal goes first. So a robot on whose cell such a one insists
    takes any other move before staying. That is priority inheritance without the inheritance: each robot decides
    alone, and what it decides on is at worst a wish that is not granted.

    Attributes:
        goal: Goal cell, or None.
        waited: Seconds in which the robot got no nearer to its goal.
        history: int8[HISTORY] last moves, newest first.
    """

    def __init__(
        self, peers: Peers, grid: NavGrid, policy: OnnxPolicy, costs: CostToGo, temperature: float, seed: int
    ) -> None:
        """Decide on ``grid`` with ``policy``, sampling at ``temperature`` (see ``deadlock/stagnation.py``)."""
        self.peers, self.grid, self.policy, self.costs = peers, grid, policy, costs
        self.temperature = temperature
        self.random = np.random.default_rng(seed)
        self.patience = Stagnation(1)
        self.history = np.full(HISTORY, pogema.NO_ACTION, dtype=np.int8)
        self.goal: Cell | None = None
        self._nearest = np.inf
        self._nearer_at = -np.inf

    def set_goal(self, goal: Cell | None, now: float) -> None:
        """Go for ``goal`` from ``now`` s on."""
        self.goal, self._nearest, self._nearer_at = goal, np.inf, now

    def waited(self, now: float) -> float:
        """Seconds in which the robot has got no nearer to its goal; 0 without one."""
        return 0.0 if self.goal is None else max(0.0, now - self._nearer_at)

    def remember(self, move: int) -> None:
        """Put an executed move into the history."""
        self.history = np.concatenate([[move], self.history[:-1]]).astype(np.int8)

    def must_leave(self, cell: Cell, now: float) -> bool:
        """Whether a robot that goes first wants this robot's ``cell``."""
        return any(
            known.state.request == cell and not self._goes_first(known, now) and not known.state.joining
            for known in self._others().values()
        )

    def pick(self, cell: Cell, now: float) -> Cell | None:
        """The neighbour of ``cell``, where the robot is or will be next, to ask for now; None to stay.

        Raises:
            PolicyError: The policy failed.
        """
        others = {name: known for name, known in self._others().items() if self._near(known, cell)}
        goal = cell if self.goal is None else self.goal
        cells, goals, histories = self._observed(others, cell)
        fields = self.costs.fields(np.array([goal, *goals]))
        values, valid, mask = pogema.encode(
            fields, np.array([cell, *cells]), np.array([goal, *goals]),
            np.array([self.history, *histories], dtype=np.int8), self.grid.moves, np.array([0]),
        )  # fmt: skip
        ahead = [(int(cell[0] + r), int(cell[1] + c)) for r, c in pogema.MOVES]
        for move in range(1, 5):
            if mask[0, move] and (ahead[move] in self.peers.held or self._closed(others, ahead[move], now)):
                mask[0, move] = False
        output = self.policy(values, valid, mask)
        distance = int(fields[0, cell[0], cell[1]])
        if distance < self._nearest:
            self._nearest, self._nearer_at = distance, now
        self.patience.update(np.array([0]), np.array([distance]), np.array([goal]))
        temperature = self.patience.temperatures(np.array([0]), self.temperature)
        proposed = choose(output.probabilities, temperature, self.random)
        ranking = [int(move) for move in rank_moves(output.logits, proposed, mask)[0] if move >= 0]
        if self.must_leave(cell, now):
            ranking = [move for move in ranking if move != STAY] + [STAY]
        for move in ranking:
            if move == STAY:
                return None
            if self._worth_asking(others, ahead[move], now):
                return ahead[move]
        return None

    def _others(self) -> dict[str, Known]:
        return {k: known for k, known in self.peers.known.items() if k not in self.peers.absent}

    @staticmethod
    def _near(known: Known, cell: Cell) -> bool:
        """Whether the robot may be seen or may matter from ``cell``: twice the window, for those lost for a while."""
        return known.distance(cell) <= 4 * WINDOW_RADIUS

    def _observed(self, others: dict[str, Known], own: Cell) -> tuple[list, list, list]:
        """Cells, goals and histories of the robots in the window, one robot per cell."""
        seen: dict[Cell, Known] = {}
        for known in others.values():
            state = known.state
            if known.foreign:
                continue
            here = tuple(int(v) for v in self.grid.cell_of(np.array(state.shown.pose[:2])))
            cell = here if here in state.held else state.held[0]
            if cell == own or max(abs(cell[0] - own[0]), abs(cell[1] - own[1])) > WINDOW_RADIUS:
                continue
            if not (self.grid.inside(np.array(cell)) and self.grid.free[cell]):
                continue
            # A state that is out of date may show a robot in a cell that another one has taken since.
            if cell not in seen or seen[cell].since < known.since:
                seen[cell] = known
        goals, histories = [], []
        for cell, known in seen.items():
            goal = known.state.shown.goal
            valid = goal is not None and self.grid.inside(np.array(goal)) and self.grid.free[goal]
            goals.append(goal if valid else cell)
            moves = [*known.state.shown.history, *[pogema.NO_ACTION] * HISTORY][:HISTORY]
            histories.append([move if 0 <= move < 5 else pogema.NO_ACTION for move in moves])
        return list(seen), goals, histories

    def _closed(self, others: dict[str, Known], cell: Cell, now: float) -> bool:
        """Whether a robot that cannot be asked to make way holds ``cell`` or possibly does."""
        for name, known in others.items():
            lost = known.foreign or now - known.since > self.peers.rules.quorum_age
            if lost and self.peers.may_hold(name, cell, now):
                return True
            if cell in known.state.held and (known.state.shown.stopped or known.state.joining):
                return True
        return False

    def _worth_asking(self, others: dict[str, Known], cell: Cell, now: float) -> bool:
        if cell == self.peers.request:
            return True
        for known in others.values():
            state = known.state
            if cell in state.held and cell == state.held[-1] and not self._goes_first(known, now):
                return False
            if cell == state.request and cell not in state.held:
                return False
        return True

    def _goes_first(self, known: Known, now: float) -> bool:
        """Whether this robot goes before another one."""
        shown = known.state.shown
        theirs = (shown.goal is None, -shown.waited, known.state.name)
        return (self.goal is None, -self.waited(now), self.peers.name) < theirs

    def reachable(self, cell: Cell) -> bool:
        """Whether the goal can be reached from ``cell``."""
        return self.goal is None or self.costs.field(np.array(self.goal))[cell] < UNREACHABLE
