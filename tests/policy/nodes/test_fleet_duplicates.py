"""Several fleet nodes for the same robots, and floods of requests: real processes over DDS."""

import signal
import subprocess
import sys
import textwrap
import time
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from fleet_bench import hall, open_bench, write_policy  # noqa: E402
from marlgpt_msgs.msg import Heartbeat, RobotState  # noqa: E402
from marlgpt_policy.nodes import presence  # noqa: E402
from marlgpt_policy.nodes.fleet_node import UNCONFIGURED  # noqa: E402
from rclpy.experimental import EventsExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.qos import QoSProfile  # noqa: E402
from rclpy.serialization import deserialize_message  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

PATIENCE = 90.0
"""Seconds for a node to start, kernels that have to be compiled included."""


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy") / "tiny.onnx")


@pytest.fixture
def bench(tmp_path_factory, policy):
    """An active node with a map and two robots on rows 0 and 1."""
    bench = open_bench(tmp_path_factory, policy)
    bench.twins = []
    try:
        bench.bring_up({"a": (0, 0), "b": (1, 4)})
        yield bench
    finally:
        for process in bench.twins:
            process.kill()
            process.wait()
        bench.close()


def twin(bench, **parameters):
    """A second fleet node that starts by itself; its process and its log."""
    process, log = bench.spawn("fleet_node", {**bench.parameters, "autostart": True, **parameters})
    bench.twins.append(process)
    return process, log


def wait_for(bench, log, text, seconds=PATIENCE):
    bench.until(lambda: text in log.read_text(), f"'{text}' in\n{log.read_text()}", seconds)


def drivers(bench, seconds=1.0):
    """Processes (by node and incarnation) that say that they drive."""
    bench.heartbeats.clear()
    bench.spin(seconds)
    return {(beat.node, beat.incarnation) for beat in bench.heartbeats if beat.phase == Heartbeat.DRIVING}


def idle(bench):
    bench.until(lambda: all(r.status == RobotState.IDLE for r in bench.fresh_state().robots), "idle robots")


# Two fleet nodes -----------------------------------------------------------------------------------------


def test_a_second_node_refuses_to_drive_and_says_who_does(bench):
    idle(bench)
    for robot in "ab":
        bench.commands[robot].clear()
    start = time.monotonic()
    second, log = twin(bench)
    bench.until(lambda: second.poll() is not None, "end of the second node", PATIENCE)
    assert second.returncode == UNCONFIGURED
    text = log.read_text()  # "cannot activate" or, where DDS took longer to find the other one, "deactivated"
    assert f": /fleet_node (process {bench.process.pid} on " in text, text
    assert "drives a, b already; end or deactivate it" in text
    print(f"refused {time.monotonic() - start:.2f} s after the start of its process")
    assert len(drivers(bench)) == 1
    bench.go("a", 0, 3)
    bench.until(lambda: bench.robot("a").goals_reached == 1, "arrival")
    assert max(len(bench.commands[r]) for r in "ab") < 25 * (time.monotonic() - start), (
        "one node's commands only"
    )


def test_robots_that_are_stopped_one_by_one_are_claimed_too(bench):
    for robot in "ab":
        assert bench.command("stop_robot", robot).success
    bench.until(lambda: bench.heartbeats and list(bench.heartbeats[-1].standing) == ["a", "b"], "heartbeat")
    assert list(bench.heartbeats[-1].robots) == []
    second, log = twin(bench)
    bench.until(lambda: second.poll() is not None, "end of the second node", PATIENCE)
    assert second.returncode == UNCONFIGURED and "drives a, b already" in log.read_text()


def test_other_robots_on_the_same_topics_are_no_hindrance(bench):
    second, log = twin(bench, robots="[c, d]")
    wait_for(bench, log, "map accepted")
    bench.until(lambda: len(drivers(bench, 0.5)) == 2, "second fleet", PATIENCE)
    assert "cannot activate" not in log.read_text()
    second.send_signal(signal.SIGINT)
    assert second.wait(10) == 0
    assert len(drivers(bench)) == 1


@pytest.mark.parametrize("attempt", range(2))
def test_of_two_that_start_at_once_exactly_one_drives(tmp_path_factory, policy, attempt):
    bench = open_bench(tmp_path_factory, policy, autostart=True)
    bench.twins = []
    second, log = twin(bench)
    processes, logs = [bench.process, second], [bench.log, log]
    bench.process = None  # either may be the one that ends
    try:
        bench.map.publish(hall())
        bench.until(lambda: any(p.poll() is not None for p in processes), "one that gives way", PATIENCE)
        loser = next(i for i, p in enumerate(processes) if p.poll() is not None)
        assert processes[loser].returncode == UNCONFIGURED
        assert f"process {processes[1 - loser].pid} on " in logs[loser].read_text()
        bench.log = logs[1 - loser]
        bench.until(lambda: bench.logged("map accepted"), "map")
        assert len(drivers(bench)) == 1 and processes[1 - loser].poll() is None
    finally:
        for process in processes:
            process.terminate()
            process.wait(10)
        bench.close()


def test_who_was_killed_is_followed_at_once(bench):
    idle(bench)
    bench.kill()
    start = time.monotonic()
    bench.start(autostart=True)
    new = f"(process {bench.process.pid} on "
    bench.until(lambda: any(new in b.node for b in bench.heartbeats), "a sign of the new node", PATIENCE)
    awake = time.monotonic()
    bench.until(
        lambda: any(new in b.node and b.phase == Heartbeat.DRIVING for b in bench.heartbeats), "heartbeats"
    )
    listened = time.monotonic() - awake
    print(f"killed, it drives {time.monotonic() - start:.2f} s after the start of its process")
    assert listened < 5.0, "what it waits for is discovery, and the map"
    assert "cannot activate" not in bench.log.read_text()


def test_a_frozen_node_gives_way_to_the_one_that_took_over_and_commands_nobody(bench):
    idle(bench)
    frozen, frozen_log = bench.process, bench.log
    bench.twins.append(frozen)
    frozen.send_signal(signal.SIGSTOP)
    bench.spin(0.7)
    bench.start(autostart=True)
    bench.until(lambda: bench.logged("map accepted"), "map", PATIENCE)
    bench.until(lambda: len(drivers(bench, 0.3)) == 1, "takeover", PATIENCE)
    (driver,) = drivers(bench)
    frozen.send_signal(signal.SIGCONT)
    wait_for(bench, frozen_log, "deactivated: /fleet_node (process")
    assert f"process {bench.process.pid} on " in frozen_log.read_text()
    assert drivers(bench) == {driver}
    frozen.kill()
    frozen.wait()
    bench.go("a", 0, 2)
    bench.until(lambda: bench.robot("a") and bench.robot("a").goals_reached == 1, "arrival", 30.0)


class Quiet:
    """A node, its publisher and its subscription, without ROS; keeps what is published."""

    def __init__(self):
        self.fleet, self.names, self.said = None, ["a"], []
        self.settings = SimpleNamespace(map_frame="map")
        self.handle = nullcontext()
        self.handle.take_message = lambda *_: None
        self.msg_type, self.raw = Heartbeat, True

    def create_publisher(self, *_):
        return self

    def listen(self, *_, **__):
        return self

    def publish(self, data):
        self.said.append(deserialize_message(data, Heartbeat))

    def get_fully_qualified_name(self):
        return "/quiet"

    def now(self):
        return 0.0


def test_who_is_frozen_within_a_control_period_does_not_go_on_as_if_nothing_had_happened(monkeypatch):
    """Between the check at its beginning and the commands at its end another node may have taken over."""
    clock = [100.0]
    times = SimpleNamespace(
        monotonic=lambda: clock[0], time_ns=lambda: int(clock[0] * 1e9),
        sleep=lambda seconds: clock.__setitem__(0, clock[0] + seconds),
    )  # fmt: skip
    monkeypatch.setattr(presence, "time", times)
    node = Quiet()
    one = presence.Presence(node, 0.05)
    assert one.claim() == "" and clock[0] >= 101.0
    for _ in range(3):
        clock[0] += 0.05
        assert one.may_drive() == (True, "") and one.doubt() == ""
        one.beat(0.0)
    before = node.said[-1]
    assert before.phase == Heartbeat.WAITING and before.incarnation
    clock[0] += 0.05
    assert one.may_drive() == (True, "")
    clock[0] += 3.0  # frozen here
    assert "frozen" in one.doubt()
    one.beat(0.0)
    assert node.said[-1].phase == Heartbeat.CANDIDATE and node.said[-1].incarnation > before.incarnation
    clock[0] += 0.05
    assert one.may_drive() == (False, "")
    clock[0] += 0.3
    assert one.may_drive() == (True, "")


def test_foreign_heartbeats_do_not_keep_the_watchdog_silent_when_the_node_is_killed(bench):
    """Of another fleet all the time, and, once the node is dead, of one that says it drives a and b and does not."""
    watchdog, log = bench.spawn("watchdog_node", {"robots": "[a, b]"})
    bench.twins.append(watchdog)
    publisher = bench.node.create_publisher(Heartbeat, "fleet/heartbeat", 10)
    fleets = {"other": ["c", "d"]}
    sequence = iter(range(1, 10**6))

    def beat():
        for name, robots in fleets.items():
            message = Heartbeat(sequence=next(sequence), robots=robots, node=name, incarnation=5)
            publisher.publish(message)

    bench.node.create_timer(0.05, beat)
    bench.watched()
    idle(bench)
    bench.go("a", 0, 4)
    bench.go("b", 1, 0)
    bench.until(lambda: bench.moving("a") and bench.moving("b"), "motion")
    killed = time.monotonic()
    bench.kill()
    fleets["liar"] = ["a", "b"]
    for robot in "ab":
        bench.commands[robot].clear()
        bench.heard[robot].clear()
    zero = (0.0, 0.0, 0.0)
    bench.until(lambda: all(zero in bench.commands[robot] for robot in "ab"), "zeros")
    late = max(bench.heard[robot][bench.commands[robot].index(zero)] for robot in "ab") - killed
    print(f"foreign heartbeats: zero velocity {late:.3f} s after SIGKILL")
    assert late < 0.5 + 0.25, "a quarter of a second for the scheduler of a busy machine"
    bench.spin(1.5)
    for robot in "ab":
        bench.commands[robot].clear()
    bench.spin(0.5)
    assert all(len(bench.commands[robot]) > 5 and not np.any(bench.commands[robot]) for robot in "ab")
    assert "no commands for a, b though heartbeats come" in log.read_text()


# Floods --------------------------------------------------------------------------------------------------


FLOOD = """
    import sys, time
    import rclpy
    from marlgpt_msgs.srv import RobotCommand
    from rclpy.experimental import EventsExecutor
    from rclpy.node import Node
    from rclpy.qos import QoSProfile
    from std_srvs.srv import Trigger

    name, number, at_once = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    rclpy.init()
    node = Node("flood")
    if name in ("stop", "resume"):
        kind, request = Trigger, Trigger.Request()
    else:
        kind, request = RobotCommand, RobotCommand.Request(robot="a")
    # All answers of a service reach every client: a queue of the usual 10 would lose some of its own.
    deep = QoSProfile(depth=10_000)
    clients = [node.create_client(kind, f"fleet/{name}", qos_profile=deep) for _ in range(8)]
    for client in clients:
        assert client.wait_for_service(20.0)
    time.sleep(0.5)
    executor = EventsExecutor()
    executor.add_node(node)
    sent, answers = 0, []

    def send(client):
        global sent
        if sent < number:
            sent += 1
            future = client.call_async(request)
            future.add_done_callback(lambda done: (answers.append(done.result()), send(client)))

    for client in clients:
        for _ in range(at_once):
            send(client)
    end = time.monotonic() + 60.0
    while len(answers) < number and time.monotonic() < end:
        executor.spin_once(0.1)
    print(len(answers), sum("busy" in answer.message for answer in answers))
"""


@pytest.mark.parametrize(("service", "some_busy"), [("resume_robot", True), ("stop", False)])
def test_ten_thousand_requests_neither_silence_the_heartbeat_nor_delay_a_stop(
    tmp_path_factory, policy, service, some_busy
):
    robots = ["a", "b", *(f"r{i}" for i in range(46))]
    bench = open_bench(tmp_path_factory, policy, robots)
    try:
        bench.bring_up({"a": (0, 0), "b": (1, 4)})
        beats = []
        observer = Node("observer", context=bench.context)
        executor = EventsExecutor(context=bench.context)  # nothing else delays what it hears
        executor.add_node(observer)
        observer.create_subscription(
            Heartbeat, "fleet/heartbeat", lambda m: beats.append((time.monotonic(), m.stopped)), 1000
        )
        stop = observer.create_client(Trigger, "fleet/stop", qos_profile=QoSProfile(depth=10_000))
        bench.until(stop.service_is_ready, "service")
        bench.spin(1.0)
        script = bench.folder / "flood.py"
        script.write_text(textwrap.dedent(FLOOD))
        flood = subprocess.Popen(
            [sys.executable, str(script), service, "10000", "16"], env=bench.environment,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        beats.clear()
        waited, asked, future = [], 0.0, None
        while flood.poll() is None or future is not None:
            executor.spin_once(0.002)
            now = time.monotonic()
            if service != "stop" and future is None and now - asked > 0.2 and flood.poll() is None:
                asked, future = now, stop.call_async(Trigger.Request())
            elif future is not None and future.done():
                waited.append(now - asked)
                future = None
            assert future is None or now - asked < 20.0, "a stop was not answered"
        answered, busy = map(int, flood.stdout.read().split())
        gap = np.diff([when for when, _ in beats]).max()
        slowest = max(waited, default=0.0)
        print(f"{service}: longest gap {gap:.3f} s, stop answered in {slowest:.3f} s at most, {busy} busy")
        assert answered == 10_000 and (busy > 0) == some_busy
        assert gap < 0.25, "a period and what a busy machine takes"
        assert slowest < 0.25
        assert beats[-1][1], "stopped"
        executor.shutdown()
        observer.destroy_node()
    finally:
        bench.close()
