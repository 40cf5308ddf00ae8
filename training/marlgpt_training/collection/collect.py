"""Collect labelled episodes: an expert drives, or a student drives and the expert labels (DAgger)."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from pathlib import Path

from marlgpt_policy.encoders.registry import layout_of
from marlgpt_sim.runs.output_folder import output_folder
from tqdm import tqdm

from marlgpt_training.collection import game_rollouts as games
from marlgpt_training.collection import job_pool as pool
from marlgpt_training.collection.pogema_rollouts import roll_out
from marlgpt_training.seeds import HELD_OUT
from marlgpt_training.store.data_card import write_card
from marlgpt_training.store.shards import STORE, encode_shard, is_store, shards, write_shard


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
        span = HELD_OUT // 100  # of seeds, one after the other: no two shards play the same episode
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
