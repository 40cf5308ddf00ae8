"""What a stop from a browser is worth: who has to confirm it, over real DDS."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time

import domains
import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("marlgpt_msgs")

from marlgpt_sim.nodes import operator_calls as orders  # noqa: E402
from marlgpt_sim.nodes.operator_calls import Orders  # noqa: E402
from marlgpt_sim.view.picture import Picture  # noqa: E402
from marlgpt_sim.view.protocol import Command  # noqa: E402
from std_msgs.msg import Bool  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

STOP = Command(id=1, kind="stop")
SIDE_PROCESS = """
import rclpy
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
rclpy.init()
node = rclpy.create_node("side")
node.create_subscription(Bool, "fleet/emergency_stop", lambda _: None, 10)
if {serves}:
    node.create_service(Trigger, "fleet/stop", lambda _, response: response)
rclpy.spin(node)
"""


@pytest.fixture
def node():
    domain = domains.take()
    rclpy.init(domain_id=domain)
    node = rclpy.create_node("view")
    node.domain = domain
    executor = rclpy.executors.SingleThreadedExecutor()
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    yield node
    executor.shutdown()
    thread.join()
    node.destroy_node()
    rclpy.shutdown()


@pytest.fixture
def operator(node, monkeypatch):
    monkeypatch.setattr(orders, "ANSWER_TIMEOUT", 1.0)
    return Orders(node, Picture(time.monotonic), None)


def wait(condition):
    end = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def stop(operator):
    return asyncio.run(operator.execute(STOP))


def listeners(node):
    return node.count_subscribers("fleet/emergency_stop")


def killed(node, serves):
    """A process that listens, killed so that it cannot say goodbye: others still count it for a while."""
    environment = os.environ | {"ROS_DOMAIN_ID": str(node.domain)}
    process = subprocess.Popen([sys.executable, "-c", SIDE_PROCESS.format(serves=serves)], env=environment)
    wait(lambda: listeners(node) == 1 and (not serves or operator_sees(node)))
    process.kill()
    process.wait()


def operator_sees(node):
    return any(name.endswith("fleet/stop") for name, _ in node.get_service_names_and_types())


def test_a_stop_that_nobody_hears_is_not_confirmed(operator):
    ok, text = stop(operator)
    assert not ok and "nobody serves fleet/stop" in text


def test_the_answer_of_the_fleet_node_confirms(node, operator):
    heard = []
    node.create_subscription(Bool, "fleet/emergency_stop", lambda m: heard.append(m.data), 10)
    answer = Trigger.Response(success=True, message="stopped")
    node.create_service(Trigger, "fleet/stop", lambda _, response: answer)
    wait(lambda: listeners(node) == 1 and operator._all["stop"].service_is_ready())
    assert stop(operator) == (True, "stopped")
    wait(lambda: heard == [True])


def test_where_nobody_serves_a_stop_receipt_by_all_listeners_confirms(node, operator):
    node.create_subscription(Bool, "fleet/emergency_stop", lambda _: None, 10)
    wait(lambda: operator._emergency.get_subscription_count() == 1)
    ok, text = stop(operator)
    assert ok and "received by 1 listeners" in text


@pytest.mark.parametrize("serves", [False, True])
def test_a_listener_that_has_died_confirms_nothing(node, operator, serves):
    killed(node, serves)
    ok, text = stop(operator)
    assert not ok
    # Whether the dead service had been matched with the operator's client before it died is chance.
    told = (
        ("did not answer", "nobody serves fleet/stop") if serves else ("not received by all of 1 listeners",)
    )
    assert any(words in text for words in told), text
