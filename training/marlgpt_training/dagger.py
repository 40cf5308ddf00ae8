"""Data aggregation beside the trainer: roll out the newest student, label with the expert, add shards.

DAgger (Ross et al. 2011, arXiv 1011.0686). Runs as a process of its own; the trainer reads the growing store.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from marlgpt_policy.encoders.registry import layout_of
from marlgpt_policy.layout import TokenLayout

from marlgpt_training import games
from marlgpt_training.checkpoint import load_checkpoint, torch_forward
from marlgpt_training.collect import collect_shard
from marlgpt_training.mixture import dagger_folder
from marlgpt_training.store import shards, write_shard

TEMPERATURES = [0.2, 0.5, 1.0]
"""Temperatures at which the student plays games, one of them per episode."""


@dataclass(frozen=True)
class Task:
    """One game whose student episodes are labelled."""

    game: str
    """pogema, or GAME/SCENARIO."""
    expert: str
    """Who labels."""

    @property
    def layout(self) -> TokenLayout:
        """Token layout of the game."""
        return layout_of(self.game)

    @staticmethod
    def parse(text: str, expert: str) -> Task:
        """``pogema`` (labelled by ``expert``) or ``GAME/SCENARIO:EXPERT``.

        Raises:
            ValueError: Of another form, or an unknown game or scenario.
        """
        game, _, name = text.partition(":")
        if game != "pogema":
            games.split(game)
            if not name:
                raise ValueError(f"--dagger-games {text}: name the expert that labels, as in smax/5v5:ppo")
        task = Task(game, name or expert)
        task.layout  # noqa: B018 (refuses what it does not know)
        return task


def label(task: Task, path: Path, seed: int, episodes: int, steps: int, forward) -> None:
    """Write a shard of ``episodes`` episodes that the student ``forward`` drove."""
    if task.game == "pogema":
        collect_shard(path, seed, episodes, steps, task.expert, forward)
        return
    teacher = games.expert(task.game.split("/")[0], task.expert, seed)
    seeds = [(seed + k) % games.HELD_OUT for k in range(episodes)]
    write_shard(path, games.play(task.game, seeds, teacher, forward, TEMPERATURES))


def run(
    out: Path,
    student: Path,
    seed: int,
    worker: int,
    tasks: list[Task],
    episodes: int,
    steps: int,
    keep: int,
    device: str = "cpu",
) -> None:
    """Collect shards until the parent dies, the tasks in turn; beyond ``keep`` shards a task's oldest are dropped."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the trainer ends its workers itself
    torch.set_num_threads(1)
    os.nice(5)
    prefix, parent, turn = f"dagger-{worker}-", os.getppid(), worker
    while os.getppid() == parent:
        if not student.exists():
            time.sleep(1)
            continue
        task = tasks[turn % len(tasks)]
        turn += 1
        store = dagger_folder(out, task.layout.name)
        mine = [path for path in shards(store) if path.name.startswith(prefix)]
        count = int(mine[-1].stem.rsplit("-", 1)[1]) + 1 if mine else 0
        model, _ = load_checkpoint(student, task.layout)
        forward = torch_forward(model, device, task.layout.name)
        path = store / f"{prefix}{count:06d}.parquet"
        label(task, path, hash((seed, worker, count)) % 2**31, episodes, steps, forward)
        for old in mine[: max(0, len(mine) + 1 - keep)]:
            old.unlink(missing_ok=True)
