"""Two processes for one robot of a decentralised fleet, over DDS: exactly one drives it."""

import signal
import time

import domains
import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from fleet_bench import Bench, centre, hall, write_policy  # noqa: E402
from marlgpt_msgs.msg import RobotState  # noqa: E402
from marlgpt_msgs.srv import GetGrid  # noqa: E402
from marlgpt_policy.nodes.robot_node import NOT_ALONE  # noqa: E402

PATIENCE = 90.0
"""Seconds for a node to start, kernels that have to be compiled included."""


class LoneBench(Bench):
    """One robot node instead of a fleet node."""

    def start(self, **parameters):
        self.process, self.log = self.spawn("robot_node", {**self.parameters, **parameters})

    def bring_up_lone(self):
        self.told = []
        self.node.create_subscription(RobotState, "a/state", self.told.append, 10)
        self.map.publish(hall())
        self.until(lambda: self.logged("map accepted"), "map", PATIENCE)
        self.grid = self.call(GetGrid, "a/get_grid", GetGrid.Request())
        self.poses["a"] = centre(self.grid, 0, 0)
        self.until_idle()

    def until_idle(self):
        self.told.clear()
        self.until(lambda: self.told and self.told[-1].status == RobotState.IDLE, "idle robot", PATIENCE)

    def visit(self, col):
        """Send the robot to row 0; count commands heard per second meanwhile."""
        self.until_idle()
        self.commands["a"].clear()
        start, goal = time.monotonic(), centre(self.grid, 0, col)
        self.go("a", 0, col)
        self.until(lambda: np.hypot(*(self.poses["a"] - goal)) < 0.05, "arrival")
        return len(self.commands["a"]) / (time.monotonic() - start)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    policy = write_policy(tmp_path / "tiny.onnx")
    bench = LoneBench(tmp_path, domains.take(), policy, ["a"], name="a")
    bench.others = []
    try:
        bench.bring_up_lone()
        yield bench
    finally:
        for process in bench.others:
            process.kill()
            process.wait()
        bench.close()


def another(bench):
    process, log = bench.spawn("robot_node", bench.parameters)
    bench.others.append(process)
    return process, log


def test_a_second_process_ends_and_disturbs_nobody(bench):
    second, log = another(bench)
    columns = [3, 0]
    while second.poll() is None:
        rate = bench.visit(columns[0])
        columns.reverse()
        assert rate < 30, "commands of one node, 20 per second"
    assert second.returncode == NOT_ALONE
    assert "another process drives 'a'; end one of the two" in log.read_text()
    bench.visit(columns[0])


def test_a_killed_process_is_followed_at_once(bench):
    bench.kill()
    start = time.monotonic()
    bench.start()
    bench.until(lambda: bench.logged("map accepted"), "map", PATIENCE)
    bench.until_idle()
    print(f"drives again {time.monotonic() - start:.2f} s after the start of its process")
    bench.visit(2)


def test_a_frozen_process_ends_when_it_finds_its_place_taken(bench):
    frozen, log = bench.process, bench.log
    frozen.send_signal(signal.SIGSTOP)
    bench.start()
    bench.until(lambda: bench.logged("map accepted"), "map", PATIENCE)
    bench.visit(2)
    frozen.send_signal(signal.SIGCONT)
    bench.until(lambda: frozen.poll() is not None, "end of the process that was frozen")
    assert frozen.returncode == NOT_ALONE and "another process drives 'a'" in log.read_text()
    assert bench.visit(0) < 30


def test_of_two_that_start_at_once_exactly_one_drives(bench):
    bench.kill()
    bench.start()
    second, log = another(bench)
    processes, logs = [bench.process, second], [bench.log, log]
    bench.process = None
    bench.until(lambda: any(p.poll() is not None for p in processes), "one that ends", PATIENCE)
    loser = next(i for i, p in enumerate(processes) if p.poll() is not None)
    assert processes[loser].returncode == NOT_ALONE, logs[loser].read_text()
    bench.process, bench.log = processes[1 - loser], logs[1 - loser]
    assert bench.visit(3) < 30
    if bench.process is second:
        bench.others.remove(second)
