"""Parameters that a node does not use are refused, by processes started as users start them."""

import os
import subprocess
import sys

import domains
import pytest
from places import ROOT

pytest.importorskip("rclpy")
pytest.importorskip("marlgpt_msgs")

from fleet_bench import write_policy  # noqa: E402

START = {
    "fleet_node": ["robots:=[a]"],
    "robot_node": ["robots:=[a]", "name:=a"],
    "watchdog_node": ["robots:=[a]"],
}
UNUSED = {
    "jump_distance": "0.2", "jump_settle": "3.0", "first_settle": "3.0", "execution": "synchronous",
    "trigger": "poses", "step_timeout": "0.7", "goal_grace": "0.2", "autostart": "true", "require_policy_hash": "true",
}  # fmt: skip


def end_of(node, folder, *settings):
    """Exit status and output of a node that is to end by itself."""
    command = [sys.executable, "-m", f"marlgpt_policy.nodes.{node}", "--ros-args"]
    for setting in (*START[node], *settings):
        command += ["-p", setting]
    source = str(ROOT / "ros2_ws" / "src" / "marlgpt_policy")
    environment = {
        **os.environ, "ROS_DOMAIN_ID": str(domains.take()), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_LOG_DIR": str(folder), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("node", START)
def test_an_unknown_parameter_is_refused(node, tmp_path):
    code, text = end_of(node, tmp_path, "max_robotz:=3")
    assert code in (1, 2)
    assert (
        f"parameter 'max_robotz' is given, but {node} has none of this name; did you mean 'max_robots'?"
        in text
    )


@pytest.mark.parametrize("name", UNUSED)
def test_a_robot_node_refuses_what_only_the_fleet_node_uses(name, tmp_path):
    code, text = end_of("robot_node", tmp_path, f"{name}:={UNUSED[name]}")
    assert code == 1 and f"parameter '{name}'" in text and "robot_node does not use it" in text


def test_a_robot_node_checks_the_hash_of_its_policy(tmp_path):
    policy = write_policy(tmp_path / "tiny.onnx")
    code, text = end_of("robot_node", tmp_path, f"policy:={policy}", "policy_sha256:='" + "0" * 64 + "'")
    assert code == 1 and "SHA-256" in text and "not the one that was meant" in text
