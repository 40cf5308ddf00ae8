"""Jobs over processes and over Ray: same results, failures named, the others go on."""

import importlib.util
import math
import operator
import os
import sys
from functools import partial
from pathlib import Path

import pytest
from marlgpt_training.collection import collect
from marlgpt_training.collection import job_pool as pool

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'marlgpt-ros2[ray]'"
)
BACKENDS = ["processes", pytest.param("ray", marks=[pytest.mark.slow, needs_ray])]


def outcomes(jobs, backend, workers=2):
    """Results of calling the jobs, in their order; exceptions as their type's name."""
    found = dict(pool.run(operator.call, jobs, workers, backend))
    return [type(r).__name__ if isinstance(r := found[job], Exception) else r for job in jobs]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_job_that_fails_or_kills_its_process_does_not_stop_the_others(backend):
    jobs = [partial(math.sqrt, k) for k in (4, -1, 9, 16)]
    jobs.insert(2, partial(os._exit, 3))
    assert outcomes(jobs, backend) == [2, "ValueError", "RuntimeError", 3, 4]


def listening():
    """Local addresses of this machine's listening TCP sockets, as in /proc."""
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    return {line.split()[1] for table in tables for line in table if line.split()[3] == "0A"}


@pytest.mark.slow
@needs_ray
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc")
def test_a_ray_of_its_own_is_not_reachable_from_the_network():
    """Ray knows no passwords."""
    before = listening()
    jobs = pool.run(operator.call, [partial(math.sqrt, 4), partial(math.sqrt, 9)], 1, "ray")
    assert next(jobs)[1] == 2
    opened = listening() - before
    jobs.close()
    assert opened
    assert all(address.split(":")[0].endswith("0100007F") for address in opened), opened


def test_more_workers_than_jobs_and_no_jobs():
    assert outcomes([partial(math.sqrt, 4)], "processes", 4) == [2]
    assert list(pool.run(math.sqrt, [], 2)) == []


@pytest.mark.slow
@needs_ray
def test_ray_collects_the_same_bytes(tmp_path):
    """A real Ray, started on this machine by the command."""
    args = collect.Args(out=tmp_path / "here", shards=3, episodes=2, steps=8, seed=5, workers=2)
    assert collect.main(args) == 0
    args.out, args.backend = tmp_path / "ray", "ray"
    assert collect.main(args) == 0
    names = sorted(path.name for path in args.out.glob("*.parquet"))
    assert names == [f"lns-5-{k:05d}.parquet" for k in range(3)]
    assert all((args.out / n).read_bytes() == (tmp_path / "here" / n).read_bytes() for n in names)


def test_a_single_worker_is_the_caller_itself():
    """In the order of the jobs, with what was changed in this process; only Ctrl-C ends it."""
    jobs = [os.getpid, partial(math.sqrt, -1), partial(math.sqrt, 9)]
    found = list(pool.run(operator.call, jobs, 1))
    assert [job for job, _ in found] == jobs
    assert found[0][1] == os.getpid() and isinstance(found[1][1], ValueError) and found[2][1] == 3

    def stopped():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(pool.run(operator.call, [stopped], 1))


@pytest.mark.parametrize("options, message", [
    (("smoke",), "--backend smoke: choose processes or ray"),
    (("processes", 0), "--workers 0: at least 1 is needed"),
])  # fmt: skip
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        pool.check(options[0], *(options[1:] or (1,)))


def test_without_ray_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'marlgpt-ros2\[ray\]'"):
        pool.check("ray", 1)


def test_collect_names_failed_shards_and_keeps_the_others(tmp_path, monkeypatch, capsys):
    def run(function, jobs, *_):
        for job in jobs:
            yield job, MemoryError("too big") if job.name.endswith("1.parquet") else function(job)

    monkeypatch.setattr(pool, "run", run)
    args = collect.Args(out=tmp_path, shards=3, episodes=1, steps=4, expert="pibt")
    assert collect.main(args) == 1
    said = capsys.readouterr()
    assert "pibt-0-00001.parquet (seed 1) failed: MemoryError('too big')" in said.err
    assert "1 shards failed" in said.err and "2 shards" in said.out
    monkeypatch.undo()
    assert collect.main(args) == 0
    assert len(list(tmp_path.glob("*.parquet"))) == 3
