"""Episodes of POGEMA that an expert drives and labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from marlgpt_policy.encoders import pogema
from marlgpt_policy.fleet.fleet_config import SHARP
from marlgpt_policy.mapf.pibt_shield import shielded
from marlgpt_policy.policy.onnx_policy import choose_from_logits

from marlgpt_training.environments import map_families as maps
from marlgpt_training.environments.grid_env import GridEnv
from marlgpt_training.experts.lns import LIFELONG, ONE_SHOT, LnsExpert, window_of
from marlgpt_training.experts.pibt import Pibt
from marlgpt_training.seeds import HELD_OUT
from marlgpt_training.store.grid_episode import Episode
from marlgpt_training.store.shards import write_shard

# How often each map family is drawn; random maps are what most fleets' free space looks like.
FAMILY_WEIGHTS = {"random": 0.45, "maze": 0.2, "warehouse": 0.2, "rooms": 0.15}


def draw_scenario(rng: np.random.Generator) -> tuple[str, np.ndarray, int, bool]:
    """(family, free cells, agents, lifelong) of one training episode, at most 256 agents.

    One episode in ten is large, on about 32 to 64 cells a side: it costs as much as several of the others.
    """
    family = str(rng.choice(list(FAMILY_WEIGHTS), p=list(FAMILY_WEIGHTS.values())))
    large = rng.random() < 0.1
    options: dict[str, int] = {}
    if large and family == "warehouse":
        options = {"scale": 2}
    elif large:
        low = int(rng.integers(32, 61))
        options = {"low": low, "high": low + 4}
    elif family == "random" and rng.random() < 0.4:  # other sizes than the benchmark family's
        low = int(rng.integers(9, 33))
        options = {"low": low, "high": low + 4}
    free = maps.generate(family, int(rng.integers(HELD_OUT)), **options)
    space = int(free.sum())
    densest = 0.4 if family == "random" else 0.3
    if large:
        agents = int(min(2 ** rng.uniform(6, 8.01), 256, densest * space))
    else:
        agents = int(np.clip(rng.uniform(0.01, densest) * space, 4, 96))
    return family, free, min(agents, space // 2), bool(rng.random() < 0.7)


class Rollout:
    """One running episode whose states are labelled by the expert."""

    def __init__(self, rng: np.random.Generator, driver: str, expert: str, steps: int) -> None:
        """Draw a scenario; ``driver`` is ``expert``, ``student`` or ``shielded``."""
        self.family, free, agents, lifelong = draw_scenario(rng)
        self.seed = int(rng.integers(2**31))
        self.rng = rng
        self.driver, self.expert_name = driver, expert
        self.env = GridEnv.sample(free, agents, lifelong, self.seed)
        self.limit = steps if lifelong else min(steps, 96)
        mode = LIFELONG if lifelong else ONE_SHOT
        window = window_of(self.family)
        self.expert = (
            LnsExpert(self.env.moves, agents, mode, window, seed=self.seed)
            if expert == "lns"
            else Pibt(self.env.moves, agents, self.seed)
        )
        self.temperature = float(rng.choice([SHARP, 0.5, 1.0] if driver == "shielded" else [0.5, 1.0]))
        self.waited = rng.random(agents)
        self.starts = self.env.cells.copy()
        self.events = [(0, i, *self.env.goals[i]) for i in range(agents)]
        self.actions, self.labels, self.rewards = [], [], []

    def label(self) -> np.ndarray:
        """The expert's joint move in the current state, int8[n]."""
        env = self.env
        if self.expert_name == "lns":
            return self.expert.act(env.cells, env.goals, env.fields, env.field_of)
        return self.expert.act(env.cells, env.fields, env.field_of, env.arrived)

    def observe(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Encoded observations of all agents."""
        env = self.env
        return pogema.encode(env.fields, env.cells, env.goals, env.history, env.moves)

    def advance(self, logits: np.ndarray | None, mask: np.ndarray | None) -> bool:
        """Label, drive one step and record; True when the episode is over."""
        env, label = self.env, self.label()
        action = label
        if self.driver != "expert":
            action = choose_from_logits(logits[:, :5], self.temperature, self.rng)
            if self.driver == "shielded":
                seed = int(self.rng.integers(2**32))
                action = shielded(logits, action, mask, env.cells, self.waited, env.moves, seed)
        before = env.goals
        done = env.step(action)
        self.waited = np.where(env.arrived, self.rng.random(len(done)), self.waited + 1)
        step = len(self.actions) + 1
        self.events += [(step, i, *env.goals[i]) for i in np.flatnonzero((env.goals != before).any(axis=1))]
        self.actions.append(done)
        self.labels.append(label)
        self.rewards.append(env.arrived)
        return step >= self.limit or (not env.lifelong and bool(env.arrived.all()))

    def episode(self) -> Episode:
        """What happened so far."""
        return Episode(
            free=self.env.free,
            starts=self.starts,
            goal_events=np.array(self.events),
            actions=np.array(self.actions),
            labels=np.array(self.labels),
            rewards=np.array(self.rewards),
            ended=not self.env.lifelong and bool(self.env.arrived.all()),
            source=self.expert_name if self.driver == "expert" else f"{self.driver}+{self.expert_name}",
            scenario=self.family,
            seed=self.seed,
            spec={"lifelong": self.env.lifelong},
        )


def roll_out(seed: int, episodes: int, steps: int, expert: str, forward=None) -> list[Episode]:
    """``episodes`` finished episodes, rolled out side by side.

    Args:
        seed: Seed of everything in them.
        episodes: Number of episodes.
        steps: Step limit of an episode.
        expert: ``lns`` or ``pibt``.
        forward: Student, a function (values, valid, mask) -> logits [n, 20]; None for expert episodes.
    """
    rng = np.random.default_rng(seed)
    if forward is None:
        drivers = ["expert"] * episodes
    else:  # mostly as on robots
        drivers = list(rng.choice(["student", "shielded"], episodes, p=[1 / 3, 2 / 3]))
    running = [Rollout(np.random.default_rng([seed, k]), drivers[k], expert, steps) for k in range(episodes)]
    finished = []
    while running:
        logits_of = [None] * len(running)
        masks = [None] * len(running)
        if forward is not None:
            observed = [rollout.observe() for rollout in running]
            logits = forward(*(np.concatenate(parts) for parts in zip(*observed, strict=True)))
            cuts = np.cumsum([len(o[0]) for o in observed])[:-1]
            logits_of = np.split(logits, cuts)
            masks = [o[2] for o in observed]
        still = []
        for k, rollout in enumerate(running):
            (finished if rollout.advance(logits_of[k], masks[k]) else still).append(rollout)
        running = still
    return [rollout.episode() for rollout in finished]


def collect_shard(path: Path, seed: int, episodes: int, steps: int, expert: str, forward=None) -> int:
    """Write the episodes of :func:`roll_out` as the shard ``path``; labelled agent steps."""
    done = roll_out(seed, episodes, steps, expert, forward)
    write_shard(path, done)
    return sum(episode.actions.size for episode in done)
