"""The Foxglove layout and the RViz configuration against the topics and message definitions of this project."""

from __future__ import annotations

import importlib
import json
import re

import pytest
import yaml
from places import ROOT

pytest.importorskip("rclpy")
pytest.importorskip("marlgpt_msgs")

PACKAGE = ROOT / "ros2_ws" / "src" / "marlgpt_policy"
LAYOUT = json.loads((PACKAGE / "foxglove" / "fleet.json").read_text())
PANELS = {"3D", "Plot", "StateTransitions", "Table", "DiagnosticSummary", "Publish", "CallService"}
TOPICS = {  # what the nodes use, by the tables of docs/design.md
    "/map": "nav_msgs/msg/OccupancyGrid",
    "/fleet/markers": "visualization_msgs/msg/MarkerArray",
    "/fleet/state": "marlgpt_msgs/msg/FleetState",
    "/fleet/decisions": "marlgpt_msgs/msg/FleetDecision",
    "/fleet/emergency_stop": "std_msgs/msg/Bool",
    "/sim/status": "marlgpt_msgs/msg/SimStatus",
    "/diagnostics": "diagnostic_msgs/msg/DiagnosticArray",
    "/robot_00/goal_pose": "geometry_msgs/msg/PoseStamped",
    "/robot_00/odom": "nav_msgs/msg/Odometry",
    "/robot_01/odom": "nav_msgs/msg/Odometry",
}
SERVICES = {"/fleet/resume": "std_srvs/srv/Trigger"}
UNUSED = {"/clicked_point", "/initialpose"}
"""Topics of the 3D panel's other tools, which the layout does not choose."""


def message(kind):
    package, _, name = kind.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


def fill(found, values):
    """Set a message's fields; a field that is not there, or is of another type, is an error."""
    for name, value in values.items():
        assert name in found.get_fields_and_field_types(), name
        if isinstance(value, dict):
            fill(getattr(found, name), value)
        else:
            setattr(found, name, value)  # checked by the message


def check_path(path):
    """Resolve a message path such as /topic.list[:]{name=="x"}.field; ``ValueError`` if something is not there."""
    topic, _, rest = path.partition(".")
    kind = TOPICS.get(topic)
    if kind is None:
        raise ValueError(f"{path}: no topic {topic}")
    for part in filter(None, re.split(r"\.(?![^{]*})", rest)):
        name, index, condition = re.fullmatch(r"(\w+)(\[:\])?(?:\{(\w+)==.*\})?", part).groups()
        fields = message(kind).get_fields_and_field_types()
        if name not in fields:
            raise ValueError(f"{path}: {kind} has no field {name}")
        kind = fields[name]
        if index:
            kind = re.fullmatch(r"sequence<([\w/]+)>", kind)[1]
        if "/" in kind and "/msg/" not in kind:
            kind = kind.replace("/", "/msg/")
        if condition and condition not in message(kind).get_fields_and_field_types():
            raise ValueError(f"{path}: {kind} has no field {condition}")
    return kind


def leaves(layout):
    if isinstance(layout, str):
        return [layout]
    assert layout["direction"] in ("row", "column") and 0 < layout["splitPercentage"] < 100
    return leaves(layout["first"]) + leaves(layout["second"])


def panels(kind):
    return [config for name, config in LAYOUT["configById"].items() if name.split("!")[0] == kind]


def test_every_panel_is_shown_once_and_is_of_a_known_kind():
    assert set(LAYOUT) == {"configById", "globalVariables", "userNodes", "playbackConfig", "layout"}
    assert sorted(leaves(LAYOUT["layout"])) == sorted(LAYOUT["configById"])
    assert {name.split("!")[0] for name in LAYOUT["configById"]} == PANELS


def test_all_paths_exist_in_the_messages():
    drawn = panels("Plot") + panels("StateTransitions")
    paths = [path["value"] for panel in drawn for path in panel["paths"]]
    assert len(paths) >= 8
    numbers = {"double", "float", "boolean", "uint8", "uint32", "uint64", "int32"}
    assert {check_path(path) for path in paths} <= numbers
    for panel in panels("Table"):
        assert check_path(panel["topicPath"]) == "marlgpt_msgs/msg/RobotState"


@pytest.mark.parametrize(
    "path",
    [
        "/fleet/nothing.step",
        "/fleet/state.speed",
        "/fleet/state.robots[:]{nickname==1}.status",
        "/sim/status.gap",
    ],
)
def test_the_check_finds_what_is_not_there(path):
    with pytest.raises(ValueError, match=re.escape(path)):
        check_path(path)


def test_topics_and_services_of_the_other_panels_exist():
    (scene,) = panels("3D")
    assert set(scene["topics"]) <= set(TOPICS) and scene["publish"]["type"] == "pose"
    assert scene["publish"]["poseTopic"] in TOPICS
    assert {v for k, v in scene["publish"].items() if k.endswith("Topic")} <= set(TOPICS) | UNUSED
    (summary,) = panels("DiagnosticSummary")
    assert TOPICS[summary["topicToRender"]] == "diagnostic_msgs/msg/DiagnosticArray"
    (resume,) = panels("CallService")
    assert resume["serviceName"] in SERVICES and json.loads(resume["requestPayload"]) == {}


def test_what_the_publish_panels_send_are_messages_of_their_topics():
    for panel in panels("Publish"):
        assert TOPICS[panel["topicName"]] == panel["datatype"]
        fill(message(panel["datatype"])(), json.loads(panel["value"]))
    assert {"/fleet/emergency_stop", "/robot_00/goal_pose"} == {
        panel["topicName"] for panel in panels("Publish")
    }


def test_rviz_shows_topics_of_this_project():
    manager = yaml.safe_load((PACKAGE / "rviz" / "fleet.rviz").read_text())["Visualization Manager"]
    kinds = {
        "Map": "OccupancyGrid",
        "MarkerArray": "MarkerArray",
        "Odometry": "Odometry",
        "SetGoal": "PoseStamped",
    }
    shown = [part for part in manager["Displays"] + manager["Tools"] if "Topic" in part]
    assert len(shown) >= 4
    for part in shown:
        kind = kinds[part["Class"].split("/")[-1]]
        assert TOPICS[part["Topic"]["Value"]].endswith(f"/{kind}")


def test_the_table_of_topics_is_that_of_the_running_nodes():
    """The names and types above, as the sources create them."""
    files = [
        path
        for name in ("marlgpt_policy", "marlgpt_sim")
        for path in (PACKAGE.parent / name).rglob("nodes/*.py")
    ]
    sources = "".join(path.read_text() for path in files)
    for topic, kind in TOPICS.items():
        relative = re.sub(r"robot_\d\d/", "", topic[1:])
        name = kind.split("/")[-1]
        assert name in sources and relative in sources, topic
