"""Many independent jobs over the processes of one machine, or over a cluster with Ray.

Both ways run the same function on the same jobs and give the same results in another order of arrival. A job that
fails does not stop the others. A single process is this one: nothing is started, and the order is that of the jobs.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from marlgpt_sim.runs.worker_processes import worker_pool

BACKENDS = ("processes", "ray")


def check(backend: str, workers: int) -> None:
    """Refuse what cannot work, before any work.

    Raises:
        ValueError: Unknown backend, no workers, or Ray is not installed.
    """
    if backend not in BACKENDS:
        raise ValueError(f"--backend {backend}: choose {' or '.join(BACKENDS)}")
    if workers < 1:
        raise ValueError(f"--workers {workers}: at least 1 is needed")
    if backend == "ray" and importlib.util.find_spec("ray") is None:
        raise ValueError("--backend ray needs Ray: pip install 'marlgpt-ros2[ray]'")


def run(
    function: Callable[[Any], Any],
    jobs: Iterable[Any],
    workers: int,
    backend: str = "processes",
    address: str | None = None,
) -> Iterator[tuple[Any, Any]]:
    """(job, its result) of every job as it finishes; the result is an Exception where the job failed.

    Args:
        function: A function of a module, called with one job; both must be picklable, and so must its result.
        jobs: What it is called with.
        workers: Processes (1: the caller's own, which a job can then kill), or with Ray the jobs at work at the same
            time, each on one CPU of the cluster.
        backend: ``processes`` or ``ray``.
        address: Of a Ray cluster (``auto``: the one this machine belongs to); None starts Ray on this machine.

    Raises:
        ValueError: As :func:`check`.
        ConnectionError: No Ray cluster at ``address``.
    """
    check(backend, workers)
    if backend == "ray":
        return _over_cluster(function, iter(jobs), workers, address)
    if workers == 1:
        return _in_turn(function, jobs)
    return _over_processes(function, iter(jobs), workers)


def _in_turn(function, jobs) -> Iterator[tuple[Any, Any]]:
    for job in jobs:
        try:
            result = function(job)
        except Exception as error:
            result = error
        yield job, result


def _over_processes(function, jobs, workers) -> Iterator[tuple[Any, Any]]:
    suspects: list[Any] = []  # at work when a process was killed
    pool = worker_pool(workers)
    running: dict[Future, tuple[Any, bool]] = {}
    try:
        while True:
            if suspects and not running:  # alone, so that only a job that kills its process pays for it
                job = suspects.pop(0)
                running[pool.submit(function, job)] = job, True
            elif (
                not suspects
            ):  # no more than can run at once: what waits in a pool that breaks is lost with it
                for job in itertools.islice(jobs, workers - len(running)):
                    running[pool.submit(function, job)] = job, False
            if not running:
                return
            broken = []
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job, alone = running.pop(future)
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    broken.append((job, alone))
                else:
                    yield job, future.result() if error is None else error
            if broken:  # one process was killed, which takes the others with it
                broken += [running.pop(future) for future in list(running)]
                pool.shutdown(wait=True, cancel_futures=True)
                pool = worker_pool(workers)
                suspects += [job for job, alone in broken if not alone]
                for job, alone in broken:
                    if alone:
                        yield job, RuntimeError("its process was killed twice, perhaps for lack of memory")
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _call(function, job):
    return function(job)


def _over_cluster(function, jobs, workers, address) -> Iterator[tuple[Any, Any]]:
    if not address:
        # Ray asks for no password: on a machine of its own it must not listen to the network. Despite its name, this
        # is the switch for it on every system; it is read when ray is imported.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    mine = not ray.is_initialized()
    if mine:
        local = {} if address else {"num_cpus": workers, "include_dashboard": False}
        ray.init(address=address or "local", log_to_driver=False, logging_level="warning", **local)
    try:
        remote = ray.remote(num_cpus=1, max_retries=1)(_call)
        running = {remote.remote(function, job): job for job in itertools.islice(jobs, workers)}
        while running:
            done, _ = ray.wait(list(running))
            for reference in done:
                job = running.pop(reference)
                try:
                    result = ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    result = error.cause
                except ray.exceptions.RayError as error:
                    result = RuntimeError(f"lost on the cluster ({error})")
                for following in itertools.islice(jobs, 1):
                    running[remote.remote(function, following)] = following
                yield job, result
    finally:
        if mine:
            ray.shutdown()
