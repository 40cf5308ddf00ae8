"""The READMEs of the ROS packages: parameters, topics, services and messages are those of the code."""

import os
import re
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from pages import ROOT
from tables import MARKED, renewed

SOURCES = ROOT / "ros2_ws/src"
NODES = {
    "marlgpt_policy": ("fleet_node", "robot_node", "watchdog_node"),
    "marlgpt_sim": ("simulator", "map_publisher", "task_source", "recorder_node", "view_node"),
}


@pytest.mark.parametrize("package", NODES)
def test_parameters_are_those_that_nodes_declare(package: str) -> None:
    pytest.importorskip("rclpy")
    text = (SOURCES / package / "README.md").read_text()
    assert len(MARKED.findall(text)) >= 3
    assert renewed(text) == text, "run .venv/bin/python tests/docs/tables.py"


@pytest.mark.parametrize("package", NODES)
def test_names_of_topics_and_services_are_in_the_readme(package: str) -> None:
    """Every literal name that a node publishes, hears or serves."""
    text = (SOURCES / package / "README.md").read_text()
    calls = re.compile(
        r"(?:create_publisher|create_subscription|create_service|listen|serve|ActionServer)\(\s*(?:self(?:\._node)?,\s*)?"
        r"\w+,\s*f?\"([^\"]+)\""
    )
    names = set()
    for path in (SOURCES / package / package / "nodes").glob("*.py"):
        if path.stem not in ("demo_monitor", "hot_swap_monitor", "run_node", "operator_calls"):
            names |= set(calls.findall(path.read_text()))
    names = {re.sub(r"\{[\w.]+\}", "<robot>", name) for name in names}
    assert len(names) >= 4
    names.discard("<robot>_static")  # beside any tf topic
    assert not [name for name in names if "<robot>" != name.split("/")[-1] and f"`{name}`" not in text]


@pytest.mark.parametrize("package", ["marlgpt_policy", "marlgpt_sim"])
def test_nodes_and_launch_files_are_in_the_readme(package: str) -> None:
    text = (SOURCES / package / "README.md").read_text()
    setup = (SOURCES / package / "setup.py").read_text()
    for node in NODES[package]:
        assert f"nodes/{node}.py" in text and node in setup
    for path in (SOURCES / package / "launch").glob("*.launch.py"):
        assert f"`{path.name}`" in text


def test_messages_are_in_the_readme() -> None:
    package = SOURCES / "marlgpt_msgs"
    text = (package / "README.md").read_text()
    files = [path for kind in ("msg", "srv", "action") for path in (package / kind).iterdir()]
    assert len(files) > 10
    assert not [path.name for path in files if f"`{path.stem}`" not in text]
