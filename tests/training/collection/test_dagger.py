"""Data aggregation: shards of the student, and what happens to workers that die."""

import multiprocessing
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_training.collection import dagger
from marlgpt_training.collection.dagger import RESTARTS, Task, Workers
from marlgpt_training.model.checkpoint import save_checkpoint
from marlgpt_training.store.shards import read_shard

POGEMA = Task("pogema", "pibt")


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("pogema", Task("pogema", "lns")),
        ("pogema:pibt", Task("pogema", "pibt")),
        ("smax/5v5:ppo", Task("smax/5v5", "ppo")),
        ("grf/corner:random", Task("grf/corner", "random")),
    ],
)
def test_tasks_name_a_game_and_its_expert(text, task):
    assert Task.parse(text, "lns") == task


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("smax:ppo", "write GAME/SCENARIO"),
        ("smax/5v5", "name the expert that labels"),
        ("smax/5v5:lns", "smax/5v5 has no expert 'lns'; choose"),
        ("pogema:ppo", "pogema has no expert 'ppo'; choose lns or pibt"),
        ("chess/blitz:me", "unknown game 'chess'"),
    ],
)
def test_impossible_tasks_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Task.parse(text, "lns")


def test_dagger_adds_shards_of_the_student_and_drops_old_ones(tmp_path, small_model, monkeypatch):
    student = tmp_path / "student.safetensors"
    counted = []
    save_checkpoint(student, small_model(), POGEMA_LAYOUT, {})

    def rounds(count):
        made = lambda: counted.append(1)  # noqa: E731
        left = iter([7] * (count + 1) + [1])  # the parent lives for that many rounds
        monkeypatch.setattr(dagger.os, "getppid", lambda: next(left))
        monkeypatch.setattr(dagger.os, "nice", lambda _: 0)
        dagger.run(tmp_path, student, 0, 3, [POGEMA], episodes=1, steps=4, keep=2, made=made)
        return sorted(p.name for p in (tmp_path / "dagger").glob("*.parquet"))

    assert rounds(3) == ["dagger-3-000001.parquet", "dagger-3-000002.parquet"]
    first = (tmp_path / "dagger" / "dagger-3-000002.parquet").read_bytes()
    assert rounds(1) == ["dagger-3-000002.parquet", "dagger-3-000003.parquet"]  # numbering goes on
    assert (tmp_path / "dagger" / "dagger-3-000002.parquet").read_bytes() == first
    assert read_shard(tmp_path / "dagger" / "dagger-3-000003.parquet")[0].source in (
        "student+pibt",
        "shielded+pibt",
    )
    assert len(counted) == 4


class Fake:
    """A worker process whose life the test decides."""

    def __init__(self, exitcode=None, shards=0, reason=None):
        self.process = SimpleNamespace(is_alive=lambda: exitcode is None, exitcode=exitcode)
        self.shards_made, self.report = SimpleNamespace(value=shards), SimpleNamespace(close=lambda: None)
        self.reason = lambda: reason


def supervised(monkeypatch, lives, count=1):
    """Workers that live the given lives one after the other, and what is said of them."""
    lives, said = iter(lives), []
    monkeypatch.setattr(Workers, "_start", lambda self, number: next(lives))
    return Workers(count, [POGEMA], Path("run"), 0, 1, 1, "cpu", said.append), said


def test_a_dead_worker_is_started_again_a_few_times(monkeypatch):
    dead = [Fake(1, reason="OSError: No space left on device") for _ in range(RESTARTS + 1)]
    workers, said = supervised(monkeypatch, [Fake(), *dead], count=2)
    assert all(workers.keep_alive() for _ in range(RESTARTS))
    assert said == ["DAgger worker 1 died (OSError: No space left on device); started again"] * RESTARTS
    assert not workers.keep_alive()
    assert workers.gave_up.startswith(
        "DAgger worker 1 died (OSError: No space left on device), 4 times in a row"
    )


def test_deaths_between_which_shards_were_made_do_not_add_up(monkeypatch):
    workers, said = supervised(monkeypatch, [Fake(-9, shards=1) for _ in range(20)])
    assert all(workers.keep_alive() for _ in range(15)) and len(said) == 15


def test_without_games_nobody_works(monkeypatch):
    workers = Workers(3, [], Path("run"), 0, 1, 1, "cpu")
    assert workers.keep_alive() and not multiprocessing.active_children()
    workers.stop()


def wait(condition, seconds=60):
    deadline = time.time() + seconds
    while not condition() and time.time() < deadline:
        time.sleep(0.05)
    assert condition()


def test_a_real_worker_says_why_it_failed(tmp_path):
    """A student that cannot be read, in a process of its own."""
    (tmp_path / dagger.STUDENT).write_bytes(b"torn")
    said = []
    workers = Workers(1, [POGEMA], tmp_path, 0, 1, 1, "cpu", said.append)
    try:
        wait(lambda: not workers._workers[0].process.is_alive())
        assert workers.keep_alive()
        (line,) = said
        assert line.startswith("DAgger worker 0 died (CheckpointError: ") and line.endswith("; started again")
        assert "student.safetensors: not a readable checkpoint" in line
    finally:
        workers.stop()
    wait(lambda: not multiprocessing.active_children(), 20)


def test_a_real_worker_makes_shards_and_counts_them(tmp_path, small_model):
    save_checkpoint(tmp_path / dagger.STUDENT, small_model(), POGEMA_LAYOUT, {})
    workers = Workers(1, [POGEMA], tmp_path, 0, 1, 2, "cpu")
    try:
        wait(lambda: workers._workers[0].shards_made.value > 0)
        assert workers.keep_alive() and list((tmp_path / "dagger").glob("dagger-0-*.parquet"))
    finally:
        workers.stop()


TRAINER = """
import sys, time

if __name__ == "__main__":  # light for the worker, as the marlgpt command is
    from pathlib import Path
    from marlgpt_training.collection.dagger import Task, Workers
    workers = Workers(1, [Task("pogema", "pibt")], Path(sys.argv[1]), 0, 1, 100, "cpu")
    print(workers._workers[0].process.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("stage", ["imports", "works"])
def test_a_worker_of_a_killed_trainer_ends_at_once_and_writes_nothing_more(tmp_path, small_model, stage):
    """Killed while its worker still imports PyTorch, or later."""
    save_checkpoint(tmp_path / dagger.STUDENT, small_model(), POGEMA_LAYOUT, {})
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER)
    trainer = subprocess.Popen([sys.executable, script, tmp_path], stdout=subprocess.PIPE, text=True)
    worker = int(trainer.stdout.readline())
    made = lambda: sorted(p.name for p in (tmp_path / "dagger").glob("*"))  # noqa: E731
    if stage == "works":
        wait(made, 120)
    trainer.kill()
    trainer.wait(20)
    wait(lambda: not alive(worker), 2.0)
    before = made()
    time.sleep(1.0)
    assert made() == before and bool(before) == (stage == "works")


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
