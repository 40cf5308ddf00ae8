"""Who plays: policies of ours (sampled or greedy, with or without the shield), experts and naive baselines."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from marlgpt_policy.deadlock.right_of_way import PLANNED
from marlgpt_policy.deadlock.stagnation import Stagnation
from marlgpt_policy.encoders import pogema as encoder
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_policy.fleet.fleet_config import SHARP
from marlgpt_policy.grid.cost_to_go import CostToGo
from marlgpt_policy.grid.moves import HISTORY
from marlgpt_policy.mapf.pibt_shield import shielded
from marlgpt_policy.policy.onnx_policy import OnnxPolicy, choose

from marlgpt_training.evaluation.lockstep_recovery import Rescue
from marlgpt_training.experts.lns import LIFELONG, ONE_SHOT, LnsExpert
from marlgpt_training.experts.pibt import Pibt

LOOSE = 0.5
"""Temperature without the shield: agents that block each other need some chance to get free.

On 12 held-out random maps with 64 agents: 1 gave 2.77 goals per step, 0.7 3.10, 0.5 3.21, 0.35 3.10, 0.2 3.20.
"""
BASELINES = ("pibt", "lns", "random", "greedy-path")
SWITCHES = {
    "on": (True,),
    "off": (False,),
    "on,off": (True, False),
    "off,on": (True, False),
    "both": (True, False),
}


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A policy with its way of acting.

    Attributes:
        name: ONNX file or one of ``BASELINES``; the other fields mean nothing for a baseline.
        shield: Joint actions go through the conflict shield.
        sample: Moves are drawn from the policy's distribution, else the most likely one is taken.
        temperature: Of the distribution that is drawn from. With the shield it rises to 1 for agents that get no
            nearer to their goals, as on robots (``marlgpt_policy.deadlock.stagnation``).
    """

    name: str
    shield: bool = False
    sample: bool = True
    temperature: float = 1.0

    @property
    def label(self) -> str:
        """As shown in tables."""
        if self.name in BASELINES:
            return self.name
        how = f"sampled T={self.temperature:g}" if self.sample else "greedy"
        return f"{Path(self.name).stem} {how}{' + shield' if self.shield else ''}"


def load(path: str) -> OnnxPolicy:
    """The policy file, for one CPU thread: episodes run side by side in processes.

    Raises:
        PolicyError: (a ValueError) Missing or unusable file.
    """
    return OnnxPolicy(path, POGEMA_LAYOUT, ("CPUExecutionProvider",), 1)


def contestants(policies: list[str], shield: str, sample: str, temperature: float | None) -> list[Contestant]:
    """Everyone who plays, in the order of ``policies``; files are loaded once, to fail before any work.

    A ``temperature`` of None is ``SHARP`` with the shield, as on robots, and ``LOOSE`` without.

    Raises:
        ValueError: Unknown switch, a name that is neither a baseline nor a policy file, two equal labels.
    """
    for option, value in (("shield", shield), ("sample", sample)):
        if value not in SWITCHES:
            raise ValueError(f"--{option} {value}: choose on, off or both")
    found = []
    for name in policies:
        if name in BASELINES:
            found.append(Contestant(name))
            continue
        if not Path(name).is_file():
            raise ValueError(
                f"--policy {name}: no such file; name a .onnx made by 'marlgpt export' or one of "
                f"{', '.join(BASELINES)}"
            )
        load(name)
        for sampled in SWITCHES[sample]:
            for safe in SWITCHES[shield]:
                usual = SHARP if safe else LOOSE
                found.append(Contestant(name, safe, sampled, usual if temperature is None else temperature))
    labels = [who.label for who in found]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"two policies would both be called '{twice[0]}'; rename one of the files")
    return found


class Player:
    """Plays one episode for a contestant: sees pogema's global state, answers with moves."""

    def __init__(
        self,
        contestant: Contestant,
        policy: OnnxPolicy | None,
        moves: np.ndarray,
        agents: int,
        lifelong: bool,
        window: int,
        seed: int,
    ) -> None:
        """Begin an episode.

        Args:
            contestant: Who plays.
            policy: Its loaded file; None for a baseline.
            moves: bool[R, C, 5] edges of the map.
            agents: Number of agents.
            lifelong: New goals for ever, else one goal each.
            window: Planning window of the expert, in steps.
            seed: Of sampling, ties and search.
        """
        self.contestant, self.policy, self.moves = contestant, policy, moves
        self.costs = CostToGo(moves, capacity=4096)
        self.random = np.random.default_rng([seed, 2])
        self.history = np.full((agents, HISTORY), -1, dtype=np.int8)
        self.previous: np.ndarray | None = None
        self.goals: np.ndarray | None = None
        self.waited = self.random.random(agents)
        self.patience = Stagnation(agents)
        self.rescue = Rescue(self.costs, agents)
        self.planned = 0  # moves that came from its plans, of all agents
        self.nothing_closed = np.zeros(moves.shape[:2], dtype=np.bool_)
        self.pibt = Pibt(moves, agents, seed)
        mode = LIFELONG if lifelong else ONE_SHOT
        self.lns = LnsExpert(moves, agents, mode, window, seed=seed) if contestant.name == "lns" else None

    def act(self, cells: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """int8[n] moves for agents at ``cells`` with ``goals``, both int[n, 2]."""
        if self.previous is not None:
            moved = (cells - self.previous)[:, None] == encoder.MOVES[None]
            done = np.argmax(moved.all(axis=2), axis=1).astype(np.int8)
            self.history = np.concatenate([done[:, None], self.history[:, :-1]], axis=1)
        arrived = np.zeros(len(cells), bool) if self.goals is None else (goals != self.goals).any(axis=1)
        self.previous, self.goals = cells.copy(), goals.copy()
        fields = self.costs.fields(goals)
        own = np.arange(len(cells))
        name = self.contestant.name
        if name == "pibt":
            return self.pibt.act(cells, fields, own, arrived)
        if name == "lns":
            return self.lns.act(cells, goals, fields, own)
        if name == "random":
            return self.random.integers(0, 5, size=len(cells)).astype(np.int8)
        if name == "greedy-path":
            return self._greedy_path(cells, fields)
        return self._policy(cells, goals, fields, arrived)

    def _greedy_path(self, cells: np.ndarray, fields: np.ndarray) -> np.ndarray:
        """Everyone steps along a shortest path as if alone."""
        ahead = cells[:, None] + encoder.MOVES[None]
        inside = np.clip(ahead, 0, np.array(self.moves.shape[:2]) - 1)
        cost = fields[np.arange(len(cells))[:, None], inside[..., 0], inside[..., 1]]
        allowed = self.moves[cells[:, 0], cells[:, 1]]
        return np.where(allowed, cost, 2**30).argmin(axis=1).astype(np.int8)

    def _policy(self, cells, goals, fields, arrived) -> np.ndarray:
        values, valid, mask = encoder.encode(fields, cells, goals, self.history, self.moves)
        output = self.policy(values, valid, mask)
        own = np.arange(len(cells))
        temperature = self.contestant.temperature if self.contestant.sample else 0.0
        if self.contestant.shield:
            self.patience.update(own, fields[own, cells[:, 0], cells[:, 1]], goals)
            temperature = self.patience.temperatures(own, temperature)
        action = choose(output.probabilities, temperature, self.random)
        if not self.contestant.shield:
            return action
        planned = self.rescue.propose(own, cells, goals, fields, self.patience.idle, self.nothing_closed)
        self.planned += int((planned >= 0).sum())
        action = np.where(planned >= 0, planned, action)
        # Agents at their goal (one-shot) let the others pass.
        at_goal = (cells == goals).all(axis=1)
        self.waited = np.where(arrived | at_goal, self.random.random(len(cells)), self.waited + 1)
        priority = np.where(planned >= 0, self.waited + PLANNED, self.waited)
        seed = int(self.random.integers(2**32))
        return shielded(output.logits, action, mask, cells, priority, self.moves, seed)
