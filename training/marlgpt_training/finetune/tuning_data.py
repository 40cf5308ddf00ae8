"""Episodes that fine-tuning adds to imported ones: of the original map families, and of the site itself (DAgger)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from marlgpt_policy.encoders import pogema
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_policy.fleet.fleet_config import SHARP
from marlgpt_policy.mapf.pibt_shield import shielded
from marlgpt_policy.policy.onnx_policy import choose_from_logits
from marlgpt_sim.runs.worker_processes import worker_pool
from tqdm import tqdm

from marlgpt_training.collection.pogema_rollouts import Rollout
from marlgpt_training.experts.lns import LnsExpert
from marlgpt_training.finetune.recorded_site import Site, SiteEnv
from marlgpt_training.model.checkpoint import load_checkpoint, torch_forward
from marlgpt_training.store.grid_episode import Episode
from marlgpt_training.store.shards import shards, write_shard

MOST_AGENTS = 64
"""Most agents of an episode of the original families."""


def original_episode(
    rng: np.random.Generator, forward: Callable | None, steps: int, most: int = MOST_AGENTS
) -> Episode:
    """An episode as ``marlgpt collect`` draws them, but of at most ``most`` agents: large ones take minutes."""
    while True:
        driver = "expert" if forward is None else str(rng.choice(["student", "shielded"], p=[1 / 3, 2 / 3]))
        rollout = Rollout(rng, driver, "lns", steps)
        if len(rollout.starts) <= most:
            break
    over = False
    while not over:
        logits = mask = None
        if forward is not None:
            values, valid, mask = rollout.observe()
            logits = forward(values, valid, mask)
        over = rollout.advance(logits, mask)
    return rollout.episode()


def original_shard(job: tuple[Path, int, int, int, Path | None]) -> int:
    """Write one shard of the original families; labelled agent steps. ``job``: path, seed, episodes, steps, driver."""
    import torch

    path, seed, episodes, steps, checkpoint = job
    torch.set_num_threads(1)
    forward = None
    if checkpoint is not None:
        forward = torch_forward(load_checkpoint(checkpoint, POGEMA_LAYOUT)[0])
    made = [original_episode(np.random.default_rng([seed, k]), forward, steps) for k in range(episodes)]
    write_shard(path, made)
    return sum(episode.actions.size for episode in made)


def make_original(
    folder: Path,
    checkpoint: Path,
    count: int,
    episodes: int,
    steps: int,
    seed: int,
    workers: int,
    quiet: float,
) -> Path:
    """Fill ``folder`` up to ``count`` shards of the original map families and expert; what is there stays.

    Maps, starts and goals are drawn as ``marlgpt collect`` draws them; never from a benchmark's own maps.
    """
    jobs = []
    for k in range(count):
        path = folder / f"original-{seed}-{k:05d}.parquet"
        driver = checkpoint if k % 3 else None  # two of three shards, as in its training
        if not path.exists():
            jobs.append((path, 7_000_003 + 1009 * seed + k, episodes, steps, driver))
    if not jobs:
        return folder
    with tqdm(total=len(jobs), unit="shard", desc="original data", mininterval=quiet) as bar:
        if workers == 1:
            for job in jobs:
                original_shard(job)
                bar.update()
            return folder
        with worker_pool(workers) as pool:
            for _ in pool.map(original_shard, jobs):
                bar.update()
    return folder


def site_episode(site: Site, forward: Callable, agents: int, steps: int, seed: int) -> Episode:
    """One episode that the policy drives with the shield, labelled by the search on the moves that robots made there.

    Args:
        site: Where; its :meth:`~marlgpt_training.finetune.recorded_site.Site.kept` moves are those of the expert.
        forward: (values, valid, mask) -> logits [n, 20].
        agents: Robots.
        steps: Steps.
        seed: Of starts, goals, sampling and search.
    """
    env = SiteEnv(site, agents, seed)
    n, rng, kept = len(env.cells), np.random.default_rng([seed, 5]), site.kept()
    expert = LnsExpert(kept, n, window=20, seed=seed)
    everywhere = LnsExpert(env.moves, n, window=20, seed=seed)
    ruled = type(env.costs)(kept, capacity=4096)
    starts, events = env.cells.copy(), [(0, i, *env.goals[i]) for i in range(n)]
    actions, labels, rewards, waited, own = [], [], [], rng.random(n), np.arange(n)
    for step in range(1, steps + 1):
        fields = ruled.fields(env.goals)
        lost = (fields[own, env.cells[:, 0], env.cells[:, 1]] >= 2**29).any()
        who, towards = (everywhere, env.costs.fields(env.goals)) if lost else (expert, fields)
        labels.append(who.act(env.cells, env.goals, towards, own))
        values, valid, mask = pogema.encode(env.fields, env.cells, env.goals, env.history, env.moves)
        logits = forward(values, valid, mask)
        action = choose_from_logits(logits[:, :5], SHARP, rng)
        action = shielded(logits, action, mask, env.cells, waited, env.moves, int(rng.integers(2**32)))
        before = env.goals
        actions.append(env.step(action))
        rewards.append(env.arrived)
        waited = np.where(env.arrived, rng.random(n), waited + 1)
        events += [(step, i, *env.goals[i]) for i in np.flatnonzero((env.goals != before).any(axis=1))]
    return Episode(
        site.free, starts.astype(np.int16), np.array(events, np.int16), np.array(actions), np.array(labels),
        np.array(rewards, np.float16), False, "student+lns", "site", seed, {"lifelong": True},
    )  # fmt: skip


def add_site_shard(folder: Path, site: Site, forward: Callable, episodes: int, steps: int, seed: int) -> None:
    """Append a shard of episodes on ``site``, driven by the policy as it is now."""
    agents = np.random.default_rng([seed, 6]).integers(max(2, site.agents // 2), site.agents + 1, episodes)
    made = [site_episode(site, forward, int(n), steps, 1000 * seed + k) for k, n in enumerate(agents)]
    write_shard(folder / f"site-{len(shards(folder)):05d}.parquet", made)
