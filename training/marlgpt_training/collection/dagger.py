"""Data aggregation beside the trainer: roll out the newest student, label with the expert, add shards.

DAgger (Ross et al. 2011, arXiv 1011.0686). Runs as a process of its own; the trainer reads the growing store.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from marlgpt_policy.encoders.registry import layout_of
from marlgpt_policy.encoders.token_layout import TokenLayout
from marlgpt_sim.runs.worker_processes import start

from marlgpt_training.collection import game_rollouts as games
from marlgpt_training.collection.pogema_rollouts import collect_shard
from marlgpt_training.dataloader.mixture import dagger_folder
from marlgpt_training.model.checkpoint import load_checkpoint, torch_forward
from marlgpt_training.seeds import HELD_OUT
from marlgpt_training.store.shards import shards, write_shard

TEMPERATURES = [0.2, 0.5, 1.0]
"""Temperatures at which the student plays games, one of them per episode."""
STUDENT = "student.safetensors"
"""Checkpoint in a run's folder that the workers drive."""
STEPS = 128
"""Step limit of POGEMA's lifelong episodes."""
ENDING = 5.0
"""Seconds that a worker may take to end before it is killed."""
RESTARTS = 3
"""How often a worker that dies without having made a shard is started again."""


class WorkerError(ChildProcessError):
    """Data aggregation has stopped: a worker keeps dying."""


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
            ValueError: Of another form, or an unknown game, scenario or expert.
        """
        game, _, name = text.partition(":")
        if game != "pogema":
            games.split(game)
            if not name:
                raise ValueError(f"--dagger-games {text}: name the expert that labels, as in smax/5v5:ppo")
        task = Task(game, name or expert)
        task.layout  # noqa: B018 (refuses what it does not know)
        if task.expert not in games.experts_of(game):
            choices = " or ".join(games.experts_of(game))
            raise ValueError(f"--dagger-games {text}: {game} has no expert '{task.expert}'; choose {choices}")
        return task


def label(task: Task, path: Path, seed: int, episodes: int, steps: int, forward) -> None:
    """Write a shard of ``episodes`` episodes that the student ``forward`` drove."""
    if task.game == "pogema":
        collect_shard(path, seed, episodes, steps, task.expert, forward)
        return
    teacher = games.expert(task.game.split("/")[0], task.expert, seed)
    seeds = [(seed + k) % HELD_OUT for k in range(episodes)]
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
    made: Callable[[], None] = lambda: None,
) -> None:
    """Collect shards until the parent dies, the tasks in turn; beyond ``keep`` shards a task's oldest are dropped.

    Calls ``made`` after each shard.
    """
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
        made()


def _work(report: Connection, shards_made, *arguments, **options) -> None:
    """:func:`run` in a process of its own; what ends it is told to the trainer in a sentence."""

    def made() -> None:
        shards_made.value += 1

    try:
        run(*arguments, made=made, **options)
    except Exception as error:
        if not isinstance(error, ValueError | OSError | ImportError):  # those say what to do, others are bugs
            traceback.print_exc()
        report.send(f"{type(error).__name__}: {error}")
        sys.exit(1)


@dataclass
class _Worker:
    """One process, what it says when it fails, and the shards that it has made."""

    process: multiprocessing.process.BaseProcess
    report: Connection
    shards_made: object

    def reason(self) -> str:
        """Why the dead process ended."""
        if self.report.poll():
            try:
                return self.report.recv()
            except EOFError:
                pass
        code = self.process.exitcode
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


class Workers:
    """The DAgger processes of a run. One that dies is started again, but not for ever.

    Attributes:
        gave_up: Why there is no data aggregation any more; empty while there is.
    """

    def __init__(
        self,
        count: int,
        tasks: list[Task],
        out: Path,
        seed: int,
        episodes: int,
        keep: int,
        device: str,
        say: Callable[[str], None] = print,
    ) -> None:
        """Start ``count`` processes (none without ``tasks``); ``say`` prints what happens to them."""
        self.gave_up = ""
        self._arguments = (out, out / STUDENT, seed)
        self._options = {"tasks": tasks, "episodes": episodes, "steps": STEPS, "keep": keep, "device": device}
        self._say = say
        self._workers = [self._start(k) for k in range(count if tasks else 0)]
        self._restarts = [0] * len(self._workers)

    def _start(self, number: int) -> _Worker:
        context = multiprocessing.get_context("spawn")
        report, theirs = context.Pipe(duplex=False)
        shards_made = context.Value("l", 0)
        process = start(_work, theirs, shards_made, *self._arguments, number, **self._options)
        theirs.close()
        return _Worker(process, report, shards_made)

    def keep_alive(self) -> bool:
        """Start dead workers again; False, with ``gave_up`` set, if one has died too often without a shard between."""
        for k, worker in enumerate(self._workers):
            if worker.process.is_alive():
                continue
            if worker.shards_made.value:
                self._restarts[k] = 0
            reason = f"DAgger worker {k} died ({worker.reason()})"
            if self._restarts[k] >= RESTARTS:
                self.gave_up = f"{reason}, {RESTARTS + 1} times in a row without having made a shard"
                return False
            self._restarts[k] += 1
            self._say(f"{reason}; started again")
            worker.report.close()
            self._workers[k] = self._start(k)
        return True

    def stop(self) -> None:
        """End the processes; none writes any more when this returns."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(ENDING)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
