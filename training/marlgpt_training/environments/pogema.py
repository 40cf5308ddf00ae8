"""POGEMA as one of the games: the real ``pogema`` package on generated maps, behind the interface that all games share.

Scenarios are FAMILY_AGENTS, such as ``random_32`` or ``maze_16`` (lifelong: a new goal on every arrival), and
FAMILY_AGENTS_oneshot (one goal each, where agents stay).

Rewards are those of ``UnrolledEpisode.rewards`` (``dataloader/episode_unrolling.py``). Lifelong: 1 on reaching a
goal; a return is discounted, and within 0..2 where an agent takes 14 steps or more from goal to goal. One-shot: 1 -
gamma for every step at the goal, and when everybody is there, which ends the episode, what staying for ever would
have added: 1 in all.

An observation is the POGEMA encoder's own: its history lies within, so that one frame is all. It is for playing;
episodes for training are kept as maps and moves, which ``marlgpt collect --game pogema`` records.
"""

from __future__ import annotations

import re

import numpy as np
from marlgpt_policy.encoders import pogema
from marlgpt_policy.encoders.frames import FrameEncoder
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT, WINDOW_RADIUS
from marlgpt_policy.grid.cost_to_go import CostToGo
from marlgpt_policy.grid.moves import HISTORY

from marlgpt_training.environments import map_families as maps
from marlgpt_training.environments.base import Environment, MissingExtra, Observation, Step
from marlgpt_training.environments.grid_env import edges
from marlgpt_training.environments.pogema_package import import_pogema
from marlgpt_training.seeds import HELD_OUT

ENCODER = FrameEncoder.of_values(POGEMA_LAYOUT)
"""Takes what ``marlgpt_policy.encoders.pogema.encode`` made and gives it back, value for value."""
DRAWS = 200
"""Maps drawn in search of one with enough room."""


def parse(scenario: str) -> tuple[str, int, bool]:
    """(map family, agents, lifelong) of a scenario's name.

    Raises:
        ValueError: Not of that form.
    """
    found = re.fullmatch(rf"({'|'.join(maps.FAMILIES)})_([1-9]\d*)(_oneshot)?", scenario)
    if not found:
        raise ValueError(
            f"unknown POGEMA scenario '{scenario}'; write FAMILY_AGENTS or FAMILY_AGENTS_oneshot, as in random_32, "
            f"with a family out of {', '.join(maps.FAMILIES)}"
        )
    return found[1], int(found[2]), not found[3]


def free_cells(family: str, agents: int, seed: int) -> np.ndarray:
    """bool[R, C] a map of ``family`` with two free cells for each agent, the same one for the same seed.

    Raises:
        ValueError: The family's maps are too small.
    """
    block = seed // HELD_OUT * HELD_OUT
    for draw in range(DRAWS):
        free = maps.generate(family, block + (seed - block + 7919 * draw) % HELD_OUT)
        if free.sum() >= 2 * agents:
            return free
    raise ValueError(f"none of {DRAWS} generated '{family}' maps has room for {agents} agents; use fewer")


class Pogema(Environment):
    """One scenario on a map per seed; see the module for rewards.

    Attributes:
        family: Map family.
        lifelong: New goals for ever, else one goal each.
        free: bool[R, C] free cells of the episode's map.
        moves: bool[R, C, 5] its edges.
        cells: int[n, 2] where the agents are.
        goals: int[n, 2] where they want to go.
        fields: int32[n, R, C] cost-to-go towards the goals.
        arrived: bool[n] reached a goal in the last move (lifelong), or are at theirs.
    """

    game = "pogema"
    encoder = ENCODER
    experts = ("lns", "pibt")

    def __init__(self, scenario: str, steps: int = 256, gamma: float = 0.95) -> None:
        """Set up ``scenario``, cut after ``steps`` steps; ``gamma`` is the discount of one-shot rewards.

        Raises:
            ValueError: Unknown scenario, a limit below 1, or more agents than the family's maps hold.
            MissingExtra: ``pogema`` is not installed.
        """
        self.family, self.agents, self.lifelong = parse(scenario)
        if steps < 1:
            raise ValueError(f"steps {steps}: at least 1 is needed")
        try:
            self._pogema = import_pogema()
        except ImportError as error:
            raise MissingExtra(str(error)) from error
        self.scenario, self.limit, self.gamma = scenario, steps, gamma
        self.reset(0)

    def reset(self, seed: int) -> Observation:
        """Begin the episode of ``seed``, which decides map, starts and goals."""
        seed = int(seed)
        self.free = free_cells(self.family, self.agents, seed)
        self.moves = edges(self.free)
        self._costs = CostToGo(self.moves, capacity=4096)
        config = self._pogema.GridConfig(
            map=(~self.free).astype(int).tolist(), num_agents=self.agents, seed=seed,
            max_episode_steps=self.limit, obs_radius=WINDOW_RADIUS, collision_system="soft",
            on_target="restart" if self.lifelong else "nothing", observation_type="MAPF",
        )  # fmt: skip
        self._env = self._pogema.pogema_v0(config)
        self.steps, self._over = 0, False
        self.history = np.full((self.agents, HISTORY), pogema.NO_ACTION, dtype=np.int8)
        self._see(self._env.reset()[0])
        self.arrived = self._there() & (not self.lifelong)
        self.reached = self.arrived.astype(np.int64)
        return self._observation()

    def _see(self, observed: list[dict]) -> None:
        """Note cells and goals, without pogema's border."""
        self.cells = np.array([o["global_xy"] for o in observed]) - WINDOW_RADIUS
        self.goals = np.array([o["global_target_xy"] for o in observed]) - WINDOW_RADIUS
        self.fields = self._costs.fields(self.goals)

    def _there(self) -> np.ndarray:
        return (self.cells == self.goals).all(axis=1)

    def _observation(self) -> Observation:
        encoded = pogema.encode(self.fields, self.cells, self.goals, self.history, self.moves)
        values, valid, self._mask = encoded
        return Observation(values[:, :-1], valid[:, :-1], self._mask, np.ones(self.agents, dtype=np.bool_))

    def step(self, actions: np.ndarray) -> tuple[Observation, Step]:
        """Move all agents at once; moves that collide become waits, as POGEMA's ``soft`` rules have it.

        Raises:
            ValueError: A move outside the mask, or the episode is over.
        """
        if self._over:
            raise ValueError("the episode is over; reset the environment")
        actions = np.asarray(actions, dtype=np.int64)
        if actions.shape != (self.agents,) or not ((actions >= 0) & (actions < len(pogema.MOVES))).all():
            raise ValueError(f"actions {actions.tolist()}: {self.agents} numbers in 0..4 are needed")
        allowed = self._mask[np.arange(self.agents), actions]
        if not allowed.all():
            agent = int(np.argmin(allowed))
            raise ValueError(f"agent {agent}: move {actions[agent]} is not in its action mask")
        before = self.cells
        observed, rewards, _, truncated, _ = self._env.step(actions.tolist())
        self.steps += 1
        self._see(observed)
        done = ((self.cells - before)[:, None] == pogema.MOVES[None]).all(axis=2).argmax(axis=1)
        self.history = np.concatenate([done[:, None].astype(np.int8), self.history[:, :-1]], axis=1)
        self.arrived = np.array(rewards) > 0 if self.lifelong else self._there()
        self.reached += self.arrived
        ended = not self.lifelong and bool(self.arrived.all())
        cut = not ended and bool(all(truncated))
        self._over = ended or cut
        return self._observation(), Step(self._rewards(ended), ended, cut)

    def _rewards(self, ended: bool) -> np.ndarray:
        if self.lifelong:
            return self.arrived.astype(np.float32)
        return ((1 - self.gamma) * self.arrived + self.gamma * ended).astype(np.float32)

    def metrics(self) -> dict[str, float]:
        """Of the episode so far.

        Returns:
            ISR: share of the agents at their goal (lifelong: that have reached one), success: 1 if all of them,
            steps, and lifelong also throughput, goals per step.
        """
        good = self.reached > 0 if self.lifelong else self.arrived
        found = {"success": float(good.all()), "ISR": float(good.mean()), "steps": float(self.steps)}
        if self.lifelong:
            found["throughput"] = float(self.reached.sum() / max(1, self.steps))
        return found
