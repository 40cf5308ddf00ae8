"""The checks refuse what Gazebo would pass over: every mutation of a good world or bridge is reported."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest
import yaml
from marlgpt_policy.grid.occupancy_map import OccupancyMap
from marlgpt_policy.robots.robots_file import FleetFile
from marlgpt_sim.gazebo.bridge import bridge_yaml
from marlgpt_sim.gazebo.check import WorldError, bridge_problems, check_files, world_problems
from marlgpt_sim.gazebo.files import write_files
from marlgpt_sim.gazebo.plan import make_plan
from marlgpt_sim.gazebo.world import world_sdf

OCCUPIED = np.pad(np.zeros((80, 80), bool), 2, constant_values=True)
MAP = OccupancyMap(OCCUPIED, np.zeros_like(OCCUPIED), 0.05, (0.0, 0.0, 0.0))
PLAN = make_plan(MAP, FleetFile.default(["a", "b"]), 0)
WORLD, BRIDGE = world_sdf(PLAN), bridge_yaml(PLAN)


def test_what_is_written_passes():
    assert world_problems(WORLD, PLAN.fleet) == []
    assert bridge_problems(BRIDGE, PLAN.fleet) == []
    for options in ({"drive": "holonomic"}, {"pose_source": "tf"}, {"stamped_cmd_vel": True, "radius": 0.1}):
        plan = make_plan(MAP, FleetFile.default(["a"], **options), 1)
        assert world_problems(world_sdf(plan), plan.fleet) == []
        assert bridge_problems(bridge_yaml(plan, contacts=True), plan.fleet) == []


REPLACEMENTS = [
    ("<max_step_size>", "<max_stepsize>", "max_stepsize"),
    ('version="1.9"', 'version="1.6"', "version"),
    ("gz-sim-physics-system", "gz-sim-phyics-system", "gz-sim-phyics-system"),
    ("gz-sim-physics-system", "ignition-gazebo-physics-system", "ignition"),
    ("gz::sim::systems::Contact", "gz::sim::systems::Contacts", "gz::sim::systems::Contacts"),
    ("gz::sim::systems::DiffDrive", "ignition::gazebo::systems::DiffDrive", "DiffDrive"),
    ("/model/a/cmd_vel", "/model/x/cmd_vel", "/model/x/cmd_vel"),
    ("/model/a/odometry", "model/a/odometry", "absolute topic"),
    ("<odom_frame>map<", "<odom_frame>world<", "odom_frame"),
    ("<robot_base_frame>b/base_link<", "<robot_base_frame>b/base<", "robot_base_frame"),
    ("<left_joint>left_wheel_joint<", "<left_joint>wheel_joint<", "wheel_joint"),
    ("<child>left_wheel<", "<child>wheel<", "wheel"),
    ("<static>true<", "<static>false<", "static"),
    ("<collision>body<", "<collision>boddy<", "not measured"),
    ("<contact>", "<contacts>", "<contacts> is unknown"),
    ('<model name="b">', '<model name="c">', "'b' has no model"),
    ('<model name="b">', '<model name="a">', "named 'a'"),
    ('<visual name="body_visual">', '<visual name="body">', "named 'body'"),
    ("<wheel_separation>0.264", "<wheel_separation>0.3", "wheel_separation"),
    ("<max_linear_velocity>0.5", "<max_linear_velocity>1.5", "max_linear_velocity"),
    ("<radius>0.22<", "<radius>0.3<", "radius"),
    ("<radius>0.22<", "<radius>-0.22<", "above zero"),
    ("<radius>0.22<", "<radius>nan<", "finite"),
    ("<iyz>0</iyz>", "", "<iyz> is missing"),
    ("</world>", "<model/></world>", "attribute 'name' is missing"),
    ("</sdf>", "", "not XML"),
]


@pytest.mark.parametrize(
    ("old", "new", "expected"), REPLACEMENTS, ids=[f"{o}-{n}" for o, n, _ in REPLACEMENTS]
)
def test_a_wrong_world_is_refused(old, new, expected):
    assert old in WORLD
    text = WORLD.replace(old, new, 1)
    if old.startswith("<") and "</" not in old and new and new.split(">")[0] != old.split(">")[0]:
        tag, other = old.split(">")[0][1:], new.split(">")[0][1:]
        text = text.replace(f"</{tag}>", f"</{other}>", 1)
    found = world_problems(text, PLAN.fleet)
    assert found and any(expected in problem for problem in found), found


def test_unknown_elements_are_errors_everywhere():
    root = ET.fromstring(WORLD)
    places = list(root.iter())
    assert len(places) > 300
    for place in places:
        extra = ET.SubElement(place, "frobnicate")
        found = world_problems(ET.tostring(root, encoding="unicode"), PLAN.fleet)
        assert found, f"<frobnicate> in <{place.tag}> is passed over"
        place.remove(extra)
    assert world_problems(ET.tostring(root, encoding="unicode"), PLAN.fleet) == []


def test_every_element_of_a_robot_is_needed():
    root = ET.fromstring(WORLD)
    model = root.find("world/model[@name='a']")
    decoration = {
        "visual",
        "tf_topic",
        "frame_id",
        "child_frame_id",
        "odom_publish_frequency",
        "surface",
        "pose",
    }
    for place in list(model.iter()):
        for child in list(place):
            if child.tag in decoration or place.tag in ("visual", "collision"):
                continue
            if child.tag == "collision" and child.get("name") in ("caster_front", "caster_back"):
                continue
            at = list(place).index(child)
            place.remove(child)
            assert world_problems(ET.tostring(root, encoding="unicode"), PLAN.fleet), (place.tag, child.tag)
            place.insert(at, child)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda e: e[1].pop("direction"), "'direction' is missing"),
        (lambda e: e[1].update(topic_name="x"), "'topic_name' is unknown"),
        (lambda e: e[1].update(direction="ROS_TO_IGN"), "ROS_TO_IGN"),
        (lambda e: e[1].update(direction="GZ_TO_ROS"), "nobody needs"),
        (lambda e: e[1].update(gz_type_name="ignition.msgs.Twist"), "ignition.msgs.Twist"),
        (lambda e: e[1].update(ros_type_name="geometry_msgs/Twist"), "none of ours"),
        (lambda e: e[1].update(gz_topic_name="model/a/cmd_vel"), "not absolute"),
        (lambda e: e[1].update(ros_topic_name="a/cmdvel"), "does not carry a/cmd_vel"),
        (lambda e: e.append(dict(e[1])), "2 times"),
        (lambda e: e.pop(0), "does not carry /clock"),
        (lambda e: e.append("clock"), "not a mapping"),
    ],
)
def test_a_wrong_bridge_is_refused(change, expected):
    entries = yaml.safe_load(BRIDGE)
    change(entries)
    found = bridge_problems(yaml.safe_dump(entries), PLAN.fleet)
    assert any(expected in problem for problem in found), found


def test_a_bridge_that_is_no_list_is_refused():
    assert bridge_problems("a: [", PLAN.fleet) and bridge_problems("a: 1", PLAN.fleet)


def test_files_for_other_robots_are_refused(tmp_path):
    files = write_files(PLAN, tmp_path)
    check_files(files.world, files.bridge, PLAN.fleet)
    other = make_plan(MAP, FleetFile.default(["a", "c"]), 0)
    with pytest.raises(WorldError, match="'c' has no model"):
        check_files(files.world, files.bridge, other.fleet)
    frames = make_plan(MAP, FleetFile.default(["a", "b"], map_frame="site"), 0)
    with pytest.raises(WorldError, match="odom_frame"):
        check_files(files.world, files.bridge, frames.fleet)
