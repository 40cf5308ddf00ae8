"""Gazebo's world and bridge: walls, robots, systems, names; what they hold is read back from the files."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from marlgpt_policy.grid.occupancy_map import OccupancyMap, save_map_yaml
from marlgpt_policy.robots.robots_file import FleetFile, load_robots
from marlgpt_sim.commands import gazebo as command
from marlgpt_sim.gazebo.bridge import bridge_yaml
from marlgpt_sim.gazebo.files import write_files
from marlgpt_sim.gazebo.names import MAP_MODEL, links_of, names_of
from marlgpt_sim.gazebo.plan import BODY_LIMITS, make_plan, plan_from_files, robot_names
from marlgpt_sim.gazebo.robot import AREA_DENSITY, Shape
from marlgpt_sim.gazebo.walls import merge_pixels
from marlgpt_sim.gazebo.world import BORDER, WorldOptions, wall_boxes, world_sdf
from marlgpt_sim.nodes.simulator import PARAMETERS


def room(rows: int = 120, columns: int = 160, yaw: float = 0.0) -> OccupancyMap:
    """A room of 8 m x 6 m with a table in it."""
    occupied = np.zeros((rows, columns), bool)
    occupied[:2], occupied[-2:], occupied[:, :2], occupied[:, -2:] = True, True, True, True
    occupied[50:60, 70:100] = True
    return OccupancyMap(occupied, np.zeros_like(occupied), 0.05, (-3.0, 1.0, yaw))


def fleet_of(*names: str, **defaults: object) -> FleetFile:
    """Robots that are all alike."""
    return FleetFile.default(list(names), **defaults)


def read(text: str) -> dict[str, ET.Element]:
    """Models of a world by name."""
    world = ET.fromstring(text).find("world")
    return {model.get("name"): model for model in world.findall("model")}


@settings(deadline=None, max_examples=150)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14)))
def test_rectangles_cover_exactly_the_occupied_pixels_once(occupied):
    count = np.zeros(occupied.shape, int)
    for r0, c0, r1, c1 in merge_pixels(occupied):
        assert r0 < r1 and c0 < c1
        count[r0:r1, c0:c1] += 1
    np.testing.assert_array_equal(count, occupied.astype(int))


def test_rectangles_are_few():
    assert len(merge_pixels(room().occupied)) == 5
    rows = np.zeros((40, 40), bool)
    rows[:, ::2] = True
    assert len(merge_pixels(rows)) == len(merge_pixels(rows.T)) == 20
    assert merge_pixels(np.zeros((3, 4), bool)).shape == (0, 4)


@pytest.mark.parametrize("yaw", [0.0, 0.6])
def test_a_point_is_in_a_box_of_the_world_where_the_map_is_occupied(yaw):
    map_ = room(yaw=yaw)
    models = read(world_sdf(make_plan(map_, fleet_of("a"), 0)))
    model = models[MAP_MODEL]
    assert model.findtext("static") == "true"
    x, y, z, roll, pitch, turn = map(float, model.findtext("pose").split())
    assert (z, roll, pitch) == (0.0, 0.0, 0.0)
    boxes = []
    for part in model.findall("link[@name='walls']/collision"):
        centre = [float(v) for v in part.findtext("pose").split()]
        size = [float(v) for v in part.findtext("geometry/box/size").split()]
        assert centre[2] == pytest.approx(0.5 * size[2])  # they stand on the floor
        boxes.append((*centre[:2], *size[:2]))
    boxes = np.array(boxes)
    rng = np.random.default_rng(0)
    height, width = (pixels * map_.resolution for pixels in map_.shape)
    points = rng.uniform((-0.1, -0.1), (width + 0.1, height + 0.1), (4000, 2))  # in the map's own axes
    c, s = math.cos(map_.origin[2]), math.sin(map_.origin[2])
    world = points @ np.array([[c, s], [-s, c]]) + map_.origin[:2]
    c, s = math.cos(turn), math.sin(turn)
    local = (world - (x, y)) @ np.array([[c, -s], [s, c]])
    inside = (np.abs(local[:, None] - boxes[:, :2]) <= 0.5 * boxes[:, 2:]).all(2).any(1)
    cell = np.floor(points / map_.resolution).astype(int)
    off = (cell < 0).any(1) | (cell >= (map_.shape[1], map_.shape[0])).any(1)  # outside of the map is wall
    wall = off | map_.occupied[cell[:, 1].clip(0, map_.shape[0] - 1), cell[:, 0].clip(0, map_.shape[1] - 1)]
    np.testing.assert_array_equal(inside, wall)


def test_unknown_pixels_are_walls_only_if_wanted():
    unknown = np.zeros((10, 10), bool)
    unknown[4:6, 4:6] = True
    map_ = OccupancyMap(np.zeros_like(unknown), unknown, 0.1, (0.0, 0.0, 0.0))
    assert len(wall_boxes(map_)) == 4 and len(wall_boxes(map_, unknown_is_wall=True)) == 5
    np.testing.assert_allclose(wall_boxes(map_, unknown_is_wall=True)[0], (0.4, 0.4, 0.6, 0.6))
    assert (wall_boxes(map_)[:, :2].min(), wall_boxes(map_)[:, 2:].max()) == (-BORDER, 1.0 + BORDER)


def test_every_robot_is_in_the_world_at_its_start_and_fits_its_disc():
    plan = make_plan(room(), fleet_of("anna", "bob", "carl", radius=0.2, limits=BODY_LIMITS), seed=3)
    models = read(world_sdf(plan))
    assert set(models) == {MAP_MODEL, "anna", "bob", "carl"}
    for robot, pose in zip(plan.fleet.robots, plan.poses, strict=True):
        model = models[robot.name]
        got = np.array(model.findtext("pose").split(), float)
        np.testing.assert_allclose(got, (pose[0], pose[1], 0.0, 0.0, 0.0, pose[2]), atol=1e-7)
        drive = model.find("plugin[@filename='gz-sim-diff-drive-system']")
        assert float(drive.findtext("max_linear_velocity")) == 0.5
        assert float(drive.findtext("min_angular_acceleration")) == -6.0
        mass = sum(float(link.findtext("inertial/mass")) for link in model.findall("link"))
        assert mass == pytest.approx(AREA_DENSITY * 0.2**2)
        wheels = [link for link in model.findall("link") if link.get("name").endswith("_wheel")]
        assert [link.find("collision/geometry/sphere") is not None for link in wheels] == [True, True]
        for link in wheels:  # they stand on the floor
            height = float(link.findtext("pose").split()[2])
            assert height == pytest.approx(float(link.findtext("collision/geometry/sphere/radius")))


@given(st.floats(0.02, 3.0))
def test_wheels_and_casters_lie_within_the_disc_and_apart(radius):
    shape = Shape.of(radius)
    assert shape.wheel_offset + shape.wheel_radius < radius
    assert shape.caster_offset + shape.caster_radius < radius
    gap = math.hypot(shape.wheel_offset, shape.caster_offset) - shape.wheel_radius - shape.caster_radius
    assert gap > 0.0 and 0.0 < shape.clearance < 2.0 * shape.wheel_radius


def test_holonomic_robots_have_no_wheels_and_another_drive():
    model = read(world_sdf(make_plan(room(), fleet_of("a", drive="holonomic"), 0)))["a"]
    files = {plugin.get("filename"): plugin for plugin in model.findall("plugin")}
    assert set(files) == {"gz-sim-velocity-control-system", "gz-sim-odometry-publisher-system"}
    assert files["gz-sim-velocity-control-system"].findtext("topic") == "/model/a/cmd_vel"
    assert not model.findall("joint") and len(model.findall("link")) == 1


def test_starts_are_those_of_the_own_simulator_and_its_body_limits(tmp_path):
    from marlgpt_policy.grid.nav_grid import build_grid
    from marlgpt_sim.world.spawn import place_robots

    save_map_yaml(room(), tmp_path / "room.yaml")
    plan = plan_from_files(tmp_path / "room.yaml", robots=5, seed=7)
    grid = build_grid(plan.map, 0.22)
    np.testing.assert_array_equal(plan.poses, place_robots(grid, 5, 7))
    assert plan.fleet.names == robot_names(5) == [f"robot_0{i}" for i in range(5)]
    for name, value in vars(BODY_LIMITS).items():
        assert PARAMETERS[name].default == value


def test_bridge_carries_commands_and_poses_of_every_robot_and_the_clock():
    plan = make_plan(room(), fleet_of("a", "b"), 0)
    entries = yaml.safe_load(bridge_yaml(plan))
    assert entries[0]["ros_topic_name"] == entries[0]["gz_topic_name"] == "/clock"
    rows = {(e["ros_topic_name"], e["gz_topic_name"], e["direction"]) for e in entries[1:]}
    assert rows == {
        ("a/cmd_vel", "/model/a/cmd_vel", "ROS_TO_GZ"),
        ("a/odom", "/model/a/odometry", "GZ_TO_ROS"),
        ("b/cmd_vel", "/model/b/cmd_vel", "ROS_TO_GZ"),
        ("b/odom", "/model/b/odometry", "GZ_TO_ROS"),
    }
    types = {(e["ros_type_name"], e["gz_type_name"]) for e in entries}
    assert types == {
        ("rosgraph_msgs/msg/Clock", "gz.msgs.Clock"),
        ("geometry_msgs/msg/Twist", "gz.msgs.Twist"),
        ("nav_msgs/msg/Odometry", "gz.msgs.Odometry"),
    }
    more = yaml.safe_load(bridge_yaml(plan, contacts=True))
    assert len(more) == len(entries) + 2 and more[3]["ros_topic_name"] == "a/contacts"


ROBOTS = """
map_frame: site
robots:
  - {name: plain, initial_pose: [0.0, 3.0, 0.5]}
  - {name: stamped, radius: 0.15, stamped_cmd_vel: true, cmd_vel_topic: /s/cmd, pose_topic: s/where}
  - {name: localised, pose_source: pose}
  - {name: drifting, odom_through_tf: true, pose_topic: d/odom}
  - {name: transformed, pose_source: tf, base_frame: tr/base, limits: {max_speed: 0.3}}
"""


@pytest.fixture
def mixed(tmp_path):
    save_map_yaml(room(), tmp_path / "room.yaml")
    (tmp_path / "robots.yaml").write_text(ROBOTS)
    return plan_from_files(tmp_path / "room.yaml", tmp_path / "robots.yaml")


def test_a_robots_file_gives_bodies_topics_frames_and_starts(mixed, tmp_path):
    files = write_files(mixed, tmp_path / "out")
    models = read(files.world.read_text())
    assert float(models["stamped"].findtext("link/collision/geometry/cylinder/radius")) == 0.15
    odometry = models["transformed"].find("plugin[@filename='gz-sim-odometry-publisher-system']")
    assert odometry.findtext("odom_frame") == "site" and odometry.findtext("robot_base_frame") == "tr/base"
    drive = models["transformed"].find("plugin[@filename='gz-sim-diff-drive-system']")
    assert drive.findtext("max_linear_velocity") == "0.3"
    assert [float(v) for v in models["plain"].findtext("pose").split()] == [0.0, 3.0, 0.0, 0.0, 0.0, 0.5]
    rows = {e["gz_topic_name"]: e for e in yaml.safe_load(files.bridge.read_text())}
    assert rows["/model/stamped/cmd_vel"]["ros_topic_name"] == "/s/cmd"
    assert rows["/model/stamped/cmd_vel"]["ros_type_name"] == "geometry_msgs/msg/TwistStamped"
    assert rows["/model/stamped/odometry"]["ros_topic_name"] == "s/where"
    assert rows["/model/transformed/pose"]["ros_topic_name"] == "/tf"
    assert "/model/transformed/odometry" not in rows


def test_robots_that_need_a_localisation_get_true_odometry_and_a_sentence(mixed, tmp_path):
    assert [sentence.split("'")[1] for sentence in mixed.changes] == ["localised", "drifting"]
    again = load_robots(write_files(mixed, tmp_path / "out").robots)
    assert again["localised"].pose_source == "odom" and again["localised"].pose_topic == "localised/odom"
    assert again["drifting"].pose_topic == "d/odom" and not again["drifting"].odom_through_tf
    assert again["transformed"].pose_source == "tf"
    assert all(robot.initial_pose is not None for robot in again.robots)
    with pytest.raises(ValueError, match="localised"):
        links_of(FleetFile.default(["localised"], pose_source="pose").robots[0])


def test_errors_name_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match=MAP_MODEL):
        make_plan(room(), fleet_of(MAP_MODEL), 0)
    with pytest.raises(ValueError, match="cannot place 900 robots"):
        make_plan(room(), fleet_of(*robot_names(900)), 0)
    for wrong in ({"step": 0.5}, {"real_time_factor": -1.0}, {"wall_height": math.nan}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            WorldOptions(**wrong)
    with pytest.raises(ValueError, match="0 robots"):
        plan_from_files(command.MAPS / "warehouse.yaml", robots=0)


def test_the_command_writes_checked_files(tmp_path, capsys):
    args = command.Args(out=tmp_path / "gz", robots=3, contacts=True, step=0.01, real_time_factor=0.0)
    assert command.main(args) == 0
    assert sorted(path.name for path in (tmp_path / "gz").iterdir()) == [
        ".marlgpt",
        "bridge.yaml",
        "robots.yaml",
        "world.sdf",
    ]
    physics = ET.parse(tmp_path / "gz" / "world.sdf").find("world/physics")
    assert (physics.findtext("max_step_size"), physics.findtext("real_time_factor")) == ("0.01", "0")
    assert "3 robots" in capsys.readouterr().out
    assert names_of(load_robots(tmp_path / "gz" / "robots.yaml").robots[2]).model == "robot_02"
