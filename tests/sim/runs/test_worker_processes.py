"""Workers end with the process that started them."""

import os
import signal
import subprocess
import sys
import time

import pytest
from marlgpt_sim.runs.worker_processes import worker_pool

STARTS = """
import os, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from marlgpt_sim.runs.worker_processes import end_with_parent

if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=end_with_parent)
    print(pool.submit(os.getpid).result(), flush=True)
    pool.submit(time.sleep, 600)
    time.sleep(600)
"""


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


def test_a_worker_ends_with_a_killed_parent(tmp_path):
    script = tmp_path / "starts.py"
    script.write_text(STARTS)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    assert alive(worker)
    parent.send_signal(signal.SIGKILL)
    parent.wait(20)
    gone(worker, 60)


# A worker that has a lot to import --------------------------------------------------------------------------

SLOW = """
import time
with open(__file__ + ".begun", "w"):
    pass
{wait}

def work(path, connection):
    connection.send("here")
    while True:
        with open(path, "a") as file:
            file.write("x")
        time.sleep(0.02)
"""
"""A module whose import takes long, and a worker that writes."""
HOLDS_ON = """
end = time.monotonic() + 20
while time.monotonic() < end:
    time.sleep(0.01)
"""
HOLDS_THE_INTERPRETER = """
import ctypes
ctypes.PyDLL(None).usleep(20_000_000)  # as a compiler or a library that is being loaded: no thread runs meanwhile
"""
TRAINER = """
import multiprocessing, os, signal, sys, time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    from marlgpt_sim.runs import worker_processes as workers
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    sys.modules["slow"] = type(sys)("slow")  # not imported here
    def work(): pass
    work.__module__, work.__qualname__ = "slow", "work"
    sys.modules["slow"].work = work
    process = workers.start(work, Path(sys.argv[1]) / "written", theirs)
    print(process.pid, flush=True)
    time.sleep(600)
"""


def gone(pid, seconds):
    deadline = time.monotonic() + seconds
    while alive(pid):
        assert time.monotonic() < deadline, f"the worker outlived its parent by {seconds} s"
        time.sleep(0.02)


@pytest.mark.parametrize("wait", [HOLDS_ON, HOLDS_THE_INTERPRETER, ""])
def test_a_worker_that_still_imports_ends_with_its_parent_and_writes_nothing(tmp_path, wait):
    (tmp_path / "slow.py").write_text(SLOW.format(wait=wait))
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    worker = int(parent.stdout.readline())
    written, begun = tmp_path / "written", tmp_path / "slow.py.begun"
    deadline = time.monotonic() + 30
    while not (begun if wait else written).exists():
        assert time.monotonic() < deadline and alive(worker)
        time.sleep(0.01)
    parent.send_signal(signal.SIGKILL)
    parent.wait(20)
    gone(worker, 2.0)
    size = written.stat().st_size if written.exists() else 0
    time.sleep(0.2)
    assert (written.stat().st_size if written.exists() else 0) == size and bool(size) == (not wait)


def test_a_worker_whose_parent_is_gone_already_does_nothing(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from marlgpt_sim.runs.worker_processes import end_with_parent; end_with_parent(1); print('works')",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and not done.stdout


def test_a_pool_does_its_work():
    with worker_pool(2) as pool:
        assert list(pool.map(abs, [-1, 2])) == [1, 2]
