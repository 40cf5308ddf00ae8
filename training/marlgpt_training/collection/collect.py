"""Collect labelled episodes: an expert drives, or a student drives and the expert labels (DAgger)."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from pathlib import Path

import numpy as np
from marlgpt_policy.encoders import pogema
from marlgpt_policy.encoders.registry import layout_of
from marlgpt_policy.mapf.pibt_shield import shielded
from marlgpt_policy.policy.onnx_policy import choose_from_logits
from marlgpt_sim.runs.output_folder import output_folder
from tqdm import tqdm

from marlgpt_training.collection import game_rollouts as games
from marlgpt_training.collection import job_pool as pool
from marlgpt_training.environments import map_families as maps
from marlgpt_training.environments.grid_env import GridEnv
from marlgpt_training.experts.lns import LIFELONG, ONE_SHOT, LnsExpert
from marlgpt_training.experts.pibt import Pibt
from marlgpt_training.store.data_card import write_card
from marlgpt_training.store.shards import STORE, Episode, encode_shard, is_store, shards, write_shard

# How often each map family is drawn; random maps are what most fleets' free space looks like.
FAMILY_WEIGHTS = {"random": 0.45, "maze": 0.2, "warehouse": 0.2, "rooms": 0.15}
SHARP = 0.2
"""Temperature at which robots sample (the fleet's default) when the shield resolves conflicts."""
HELD_OUT = 1_000_000
"""Map seeds from here on are kept for validation; training draws smaller ones."""


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


def window_of(family: str) -> int:
    """Planning window of the expert in steps: longer where corridors are long.

    Measured at 64 agents, 32 random maps (16 mazes): 12 steps 4.29 goals per step, 14 4.34, 16 4.33 (20 3.45, 28 3.58).
    """
    return {"random": 14, "maze": 28}.get(family, 20)


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


@dataclasses.dataclass
class Args:
    """Collect expert episodes into a trajectory store."""

    out: Path = Path("out/store")
    """Folder of the store; existing shards are kept and numbering goes on, so a stopped run resumes."""
    game: str = "pogema"
    """pogema, or GAME/SCENARIO such as smax/5v5 or grf/pass_and_shoot (make envs installs them)."""
    shards: int = 16
    """Number of shards the store should hold in the end."""
    episodes: int = 24
    """Episodes played for one shard."""
    steps: int = 128
    """Step limit of a lifelong episode of POGEMA; other games have their own."""
    expert: str | None = None
    """Who drives and labels. POGEMA: lns (large-neighbourhood search, the default) or pibt; SMAX: ppo (default) or
    focus; GRF: script (default) or search."""
    winners: bool = False
    """Keep won episodes only (games other than pogema)."""
    seed: int = 0
    """Seed of maps, starts, goals and search."""
    workers: int = max(1, (os.cpu_count() or 2) - 1)
    """Processes to use; with Ray, shards at work at the same time, each on one CPU of the cluster."""
    backend: str = "processes"
    """processes (of this machine) or ray (needs the extra 'ray'; see docs/training.md)."""
    ray_address: str | None = None
    """Ray cluster to use, e.g. auto or ray://head:10001; if not given, Ray is started on this machine."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One shard to collect, wherever that happens."""

    name: str
    game: str
    seed: int
    episodes: int
    steps: int
    expert: str
    winners: bool = False


def work(job: Job) -> tuple[bytes, int, int]:
    """The shard's bytes, its labelled agent steps and its episodes; the caller writes: a cluster shares no folder."""
    if job.game == "pogema":
        done = roll_out(job.seed, job.episodes, job.steps, job.expert)
    else:
        teacher = games.expert(job.game.split("/")[0], job.expert, job.seed)
        seeds = [job.seed + k for k in range(job.episodes)]
        done = games.play(job.game, seeds, teacher, keep=games.won if job.winners else None)
        if not done:
            raise ValueError(f"none of {job.episodes} episodes was won; ask for more --episodes in a shard")
    return encode_shard(done), sum(int((episode.labels >= 0).sum()) for episode in done), len(done)


def jobs_of(args: Args) -> list[Job]:
    """One job per shard that the store does not have yet.

    Raises:
        ValueError: Naming the option that cannot be.
    """
    if args.game.startswith("pogema/"):
        raise ValueError(
            f"--game {args.game}: write pogema; its maps and numbers of agents are drawn anew for every episode"
        )
    expert = args.expert or games.default_expert(args.game)
    if expert not in games.experts_of(args.game):
        choices = " or ".join(games.experts_of(args.game))
        raise ValueError(f"--expert {expert}: choose {choices} for {args.game}")
    for name in ("shards", "episodes", "steps"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} {getattr(args, name)}: at least 1 is needed")
    if args.winners and args.game == "pogema":
        raise ValueError("--winners: episodes of pogema are not won; leave it out")
    pool.check(args.backend, args.workers)
    if args.game != "pogema":
        layout_of(args.game)
        span = games.HELD_OUT // 100  # of seeds, one after the other: no two shards play the same episode
        if args.shards * args.episodes > span or not 0 <= args.seed < 100:
            raise ValueError(
                f"--shards x --episodes above {span} or --seed outside 0..99: episode seeds would reach into those "
                "of evaluations or of another --seed"
            )
    label = expert if args.game == "pogema" else f"{args.game.replace('/', '-')}-{expert}"
    first = args.seed * (100_003 if args.game == "pogema" else span)
    stride = 1 if args.game == "pogema" else args.episodes
    present = {path.name for path in shards(args.out)}
    names = [f"{label}-{args.seed}-{k:05d}.parquet" for k in range(args.shards)]
    return [
        Job(name, args.game, first + k * stride, args.episodes, args.steps, expert, args.winners)
        for k, name in enumerate(names)
        if name not in present
    ]


def main(args: Args) -> int:
    """Collect what is missing; prints the number of labelled agent steps and writes the data card.

    1 if a shard failed.
    """
    jobs = jobs_of(args)
    with output_folder(args.out, STORE, is_store):
        return _collect(args, jobs)


def _collect(args: Args, jobs: list[Job]) -> int:
    """Do the jobs and write the card; the exit status."""
    started, total, failed, kept = time.time(), 0, 0, 0
    with tqdm(total=len(jobs), unit="shard") as bar:
        for job, result in pool.run(work, jobs, args.workers, args.backend, args.ray_address):
            bar.update()
            if isinstance(result, Exception):
                failed += 1
                bar.write(f"{job.name} (seed {job.seed}) failed: {result!r}", file=sys.stderr)
                continue
            write_shard(args.out / job.name, result[0])
            total, kept = total + result[1], kept + result[2]
            bar.set_postfix_str(f"{total / (time.time() - started):,.0f} labels/s")
    size = sum(path.stat().st_size for path in shards(args.out))
    print(
        f"{args.out}: {len(shards(args.out))} shards, {size / 1e6:.1f} MB, {total:,} new labelled agent steps"
    )
    played = args.episodes * (len(jobs) - failed)
    if args.winners and played:
        print(f"kept the {kept} won episodes of {played} ({kept / played:.0%})")
    print(f"data card: {write_card(args.out)}")
    if failed:
        print(f"{failed} shards failed, see above; the same command tries them again", file=sys.stderr)
    return 1 if failed else 0
