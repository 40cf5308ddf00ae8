"""Nodes whose policy file harms them, over DDS: they go on, obey stops at once, and end when they are told to."""

import signal
import time
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from bad_policies import endless_load, endless_on_observations, endless_towards  # noqa: E402
from fleet_bench import Pulse, centre, hall, open_bench, write_policy  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from marlgpt_msgs.msg import RobotState  # noqa: E402
from marlgpt_msgs.srv import GetGrid, LoadPolicy  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

PERIOD = 0.05
SILENCE = 0.4
"""Seconds without a heartbeat that fail a test; the watchdog stops all robots after 0.5."""
TOWARDS = (0, -4)
"""Rows and columns to the goal for which the bad policies never return: from one end of the hall to the other."""


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy") / "good.onnx")


@pytest.fixture(scope="module")
def driving(tmp_path_factory, good):
    """An active node with a good policy and two robots at the right end of their rows."""
    bench = open_bench(tmp_path_factory, good, policy_load_timeout=3.0, decision_timeout=0.6)
    try:
        bench.bring_up({"a": (0, 4), "b": (1, 4)})
        bench.until(lambda: idle(bench), "robots on the grid")
        yield bench
    finally:
        bench.close()


@pytest.fixture
def stuck(tmp_path_factory):
    """As ``driving``, but the policy it was started with gets stuck at its first decision; it is not given up soon."""
    bad = endless_towards(tmp_path_factory.mktemp("policy") / "stuck.onnx", *TOWARDS)
    bench = open_bench(tmp_path_factory, bad, decision_timeout=3.0)
    try:
        bench.bring_up({"a": (0, 4), "b": (1, 4)})
        bench.until(lambda: idle(bench), "robots on the grid")
        yield bench
    finally:
        bench.close()


def idle(bench):
    return bench.states and all(robot.status == RobotState.IDLE for robot in bench.states[-1].robots)


def send_away(bench):
    """Give all robots goals at the left end."""
    for row, robot in enumerate("ab"):
        bench.go(robot, row, 0)
    bench.until(lambda: all(bench.moving(robot) for robot in "ab"), "motion")


def ask_stop(bench, name="fleet/stop"):
    """Seconds until a stop service has answered."""
    client = bench.node.create_client(Trigger, name)
    bench.until(client.service_is_ready, f"service {name}")
    bench.spin(0.2)
    begun = time.monotonic()
    future = client.call_async(Trigger.Request())
    while not future.done() and time.monotonic() < begun + 10:
        bench.executor.spin_once(timeout_sec=0.01)
    assert future.done() and future.result().success, bench.log.read_text()
    return time.monotonic() - begun


def workers(process):
    """Processes that a node has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    states = {pid: Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] for pid in children}
    return [pid for pid, state in states.items() if state != "Z"]


# Loading -------------------------------------------------------------------------------------------------


def test_a_load_that_never_ends_is_refused_and_the_next_one_works(driving, good, tmp_path):
    bench = driving
    client = bench.node.create_client(LoadPolicy, "fleet/load_policy")
    bench.until(client.service_is_ready, "service")
    bench.spin(0.2)
    begun = time.monotonic()
    with Pulse(bench) as pulse:
        endless = client.call_async(LoadPolicy.Request(path=str(endless_load(tmp_path / "endless.onnx"))))
        bench.spin(0.5)
        second = bench.load(good)
        assert not second.success and "another file is being loaded" in second.message
        bench.until(endless.done, "answer about the endless file")
    answer, took = endless.result(), time.monotonic() - begun
    print(f"refused after {took:.1f} s of 3 s allowed; longest silence {pulse.longest:.3f} s")
    assert not answer.success and "took longer than 3 s" in answer.message and answer.policy == "good.onnx"
    assert 2.5 < took < 8 and pulse.longest < SILENCE
    other = write_policy(tmp_path / "other.onnx")
    answer = bench.load(other)
    assert answer.success and answer.policy == "other.onnx"
    bench.until(lambda: len(workers(bench.process)) == 2, "end of the process that loaded")


def test_what_answers_zeros_only_is_refused_while_loading(driving, tmp_path):
    before = driving.fresh_state().policy
    answer = driving.load(endless_on_observations(tmp_path / "sly.onnx"))
    assert not answer.success and "trying it out on observations took longer" in answer.message
    assert answer.policy == before


def test_configure_fails_for_a_file_whose_load_never_ends(tmp_path_factory, good, tmp_path):
    bench = open_bench(tmp_path_factory, endless_load(tmp_path / "endless.onnx"), policy_load_timeout=1.5)
    try:
        assert not bench.change_state(Transition.TRANSITION_CONFIGURE)
        assert bench.logged("cannot configure: policy") and bench.logged(
            "took longer than 1.5 s and was ended"
        )
        assert workers(bench.process) == []
        bench.set(policy=str(good))
        assert bench.change_state(Transition.TRANSITION_CONFIGURE)
    finally:
        bench.close()


# Deciding ------------------------------------------------------------------------------------------------


def test_a_policy_that_gets_stuck_while_driving_is_taken_back_and_nobody_stops(driving, tmp_path):
    bench = driving
    bench.until(lambda: idle(bench), "robots that stand")
    before, reached = bench.fresh_state().policy, bench.states[-1].goals_reached
    answer = bench.load(endless_towards(tmp_path / "stuck.onnx", *TOWARDS))
    assert answer.success and answer.policy == "stuck.onnx", answer.message
    with Pulse(bench) as pulse:
        send_away(bench)
        bench.until(lambda: bench.states[-1].goals_reached == reached + 2, "arrival")
        bench.until(lambda: bench.states[-1].policy == before, "policy before")
    print(f"longest silence of the heartbeat with a stuck policy: {pulse.longest:.3f} s")
    assert pulse.longest < SILENCE and not bench.states[-1].stopped
    assert bench.logged("event=policy_rolled_back") and bench.logged("no answer")
    bench.until(lambda: len(workers(bench.process)) == 1, "end of the stuck process")
    bench.until(lambda: bench.logged("event=policy_late"), "word about late decisions")


def test_stops_are_obeyed_at_once_while_the_only_policy_is_stuck_and_another_one_drives_on(stuck, good):
    bench = stuck
    send_away(bench)
    took = ask_stop(bench)
    bench.spin(0.2)
    print(f"fleet/stop answered {1e3 * took:.1f} ms after the call")
    assert (
        took < 5 * PERIOD and bench.fresh_state().stopped
    )  # a period, and the way through two busy processes
    for robot in "ab":
        bench.commands[robot].clear()
    bench.spin(0.3)
    assert not any(np.abs(bench.commands[robot]).max() for robot in "ab")
    with Pulse(bench) as pulse:
        bench.until(
            lambda: not workers(bench.process), "end of the stuck policy"
        )  # also while nobody asks it
        assert bench.trigger("resume").success
        bench.until(lambda: bench.logged("event=fault"), "decision without a policy")
        bench.until(lambda: bench.states[-1].stopped, "stopped fleet")
    assert pulse.longest < SILENCE
    assert bench.logged("no answer within 3 s, its process was ended")
    assert bench.load(good).success and bench.trigger("resume").success
    bench.until(lambda: bench.states[-1].goals_reached == 2, "arrival with the new policy")


def test_an_interrupt_ends_the_node_while_its_policy_is_stuck(stuck):
    bench = stuck
    send_away(bench)
    bench.until(lambda: bench.logged("event=policy_late"), "late decision")
    running = workers(bench.process)
    assert len(running) == 1
    bench.process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    assert bench.process.wait(10) == 0
    print(f"ended {time.monotonic() - begun:.2f} s after the interrupt")
    assert time.monotonic() - begun < 3
    bench.process = None
    bench.spin(0.3)
    assert not any(np.abs(bench.commands[robot][-1]).max() for robot in "ab"), "the last word is a standstill"
    assert not any(Path(f"/proc/{pid}").exists() for pid in running)


def test_a_robot_on_its_own_stops_at_once_and_ends_while_its_policy_is_stuck(
    tmp_path_factory, good, tmp_path
):
    bench = open_bench(tmp_path_factory, good, ("a",))
    bad = endless_towards(tmp_path / "stuck.onnx", *TOWARDS)
    parameters = {**bench.parameters, "policy": bad, "name": "a", "decision_timeout": 3.0}
    node, log = bench.spawn("robot_node", parameters)
    try:
        bench.map.publish(hall())
        bench.node.create_subscription(RobotState, "a/state", bench.states.append, 10)
        bench.grid = bench.call(GetGrid, "a/get_grid", GetGrid.Request())
        deadline = time.monotonic() + 20
        while not bench.grid.success and time.monotonic() < deadline:
            bench.grid = bench.call(GetGrid, "a/get_grid", GetGrid.Request())
        bench.poses["a"] = centre(bench.grid, 0, 4)
        bench.until(lambda: bench.states and bench.states[-1].status == RobotState.IDLE, log.read_text())
        bench.go("a", 0, 0)
        bench.until(lambda: bench.moving("a"), "motion by shortest ways")
        took = ask_stop(bench, "a/stop")
        bench.commands["a"].clear()
        bench.spin(0.3)
        assert took < 5 * PERIOD and not np.abs(bench.commands["a"]).max()
        bench.until(lambda: not workers(node), "end of the stuck policy")
        assert bench.call(Trigger, "a/resume", Trigger.Request()).success
        bench.until(lambda: "the policy failed" in log.read_text(), "decision without a policy")
        node.send_signal(signal.SIGINT)
        assert node.wait(5) == 0
    finally:
        node.kill()
        node.wait()
        bench.close()
