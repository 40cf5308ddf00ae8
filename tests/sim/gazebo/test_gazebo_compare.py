"""The comparison of simulators, on bags whose robots drive known paths."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from marlgpt_policy.robots.robots_file import FleetFile
from marlgpt_sim.gazebo.compare import at_times, compare, min_separation, path_deviation, summary
from marlgpt_sim.gazebo.drive_log import read_drive
from places import ROOT

rclpy_serialization = pytest.importorskip("rclpy.serialization")
pytest.importorskip("marlgpt_msgs.msg")

from geometry_msgs.msg import PoseStamped, Twist  # noqa: E402
from marlgpt_msgs.msg import FleetState, Grid, RobotState, SimStatus  # noqa: E402
from marlgpt_policy.grid.occupancy_map import OccupancyMap  # noqa: E402
from marlgpt_sim.bags.bag_writer import BagWriter  # noqa: E402
from marlgpt_sim.nodes.map_publisher import to_message  # noqa: E402
from nav_msgs.msg import Odometry  # noqa: E402

SCRIPT = ROOT / "benchmarks" / "compare_simulators.py"
FLEET = FleetFile.default(["a", "b"], radius=0.2)
CELL, SPEED, START = 1.0, 0.5, 10.0


def write(path: Path, offset: float, late: float = 0.0, contacts: int = 0, namespace: str = "") -> Path:
    """A bag in which a drives along x = 0..4 at y = 2 + offset, and b stands at (2, 0)."""
    types = {
        "map": "nav_msgs/msg/OccupancyGrid",
        "fleet/grid": "marlgpt_msgs/msg/Grid",
        "fleet/state": "marlgpt_msgs/msg/FleetState",
        "sim/status": "marlgpt_msgs/msg/SimStatus",
        "a/goal_pose": "geometry_msgs/msg/PoseStamped",
        "a/cmd_vel": "geometry_msgs/msg/Twist",
        "b/cmd_vel": "geometry_msgs/msg/Twist",
        "a/odom": "nav_msgs/msg/Odometry",
        "b/odom": "nav_msgs/msg/Odometry",
    }
    with BagWriter(path, ["marlgpt_msgs"]) as bag:

        def put(topic, message, time):
            full = f"{namespace}/{topic}"
            bag.add_topic(full, types[topic], [])
            bag.write(full, types[topic], rclpy_serialization.serialize_message(message), round(time * 1e9))

        def stamp(message, time):
            message.header.stamp.sec, part = int(time), time % 1
            message.header.stamp.nanosec = round(part * 1e9)
            return message

        for step in range(0, 241):
            time = START + step / 20
            x = np.clip(SPEED * (time - START - late), 0.0, 4.0)
            moving = 0.0 < x < 4.0
            for name, xy, speed in (("a", (x, 2.0 + offset), SPEED * moving), ("b", (2.0, 0.0), 0.0)):
                odom = stamp(Odometry(), time)
                odom.pose.pose.position.x, odom.pose.pose.position.y = map(float, xy)
                odom.twist.twist.linear.x = float(speed)
                put(f"{name}/odom", odom, time)
                twist = Twist()
                twist.linear.x = SPEED * moving
                put(f"{name}/cmd_vel", twist if name == "a" else Twist(), time)
            if step % 4 == 0:
                state = stamp(FleetState(), time)
                cell = int(min(x, 3.999) / CELL)
                a = RobotState(
                    name="a", row=2, col=cell, target_row=2, target_col=cell + 1, goal_row=2, goal_col=4
                )
                a.pose.position.x, a.pose.position.y = float(x), 2.0 + offset
                a.goals_reached = int(x >= 4.0)
                state.robots = [a, RobotState(name="b", row=-1, goal_row=-1)]
                put("fleet/state", state, time)
        status = stamp(SimStatus(), START)
        put("sim/status", status, START)
        status = stamp(SimStatus(robot_contacts=contacts), START + 2.0)
        put("sim/status", status, START + 2.0)
        goal = stamp(PoseStamped(), START)
        goal.pose.position.x, goal.pose.position.y = 4.0, 2.0
        for _ in range(2):  # the second one is sent again, not a new one
            put("a/goal_pose", goal, START)
        grid = Grid(rows=5, cols=5, cell_size=CELL, frame_id="map")
        grid.free, grid.moves = [True] * 25, [1] * 25
        grid.origin.position.y = 4.0
        put("fleet/grid", grid, START + 5.0)
        occupied = np.zeros((60, 60), bool)
        occupied[0] = True  # the pixels' upper edge is y = -0.9
        put("map", to_message(OccupancyMap(occupied, np.zeros_like(occupied), 0.1, (-1.0, -1.0, 0.0))), START)
    return path


def test_a_bag_gives_poses_commands_edges_goals_and_contacts(tmp_path):
    log = read_drive(write(tmp_path / "bag", 0.1, contacts=3, namespace="/yard"), FLEET, "yard")
    assert log.names == ["a", "b"] and log.start == 10.0 and log.seconds == pytest.approx(12.0)
    np.testing.assert_allclose(at_times(log.poses[0], np.array([13.0]))[0], (1.5, 2.1))
    assert len(log.goals[0]) == 1 and not len(log.goals[1])
    assert log.reached[0] == pytest.approx([18.0]) and not len(log.reached[1])
    assert len(log.contacts) == 3
    found = summary(log)
    assert found["goals"] == 1 and found["goals_per_minute"] == pytest.approx(5.0)
    assert found["contacts"] == 3
    assert found["min_separation"] == pytest.approx(2.1 - 0.4, abs=1e-3)  # a passes b at x = 2
    assert found["min_wall_gap"] == pytest.approx(0.9 - 0.2, abs=2e-3)
    assert found["deviation_mean"] == pytest.approx(0.1, abs=1e-3)
    assert found["deviation_max"] == pytest.approx(0.1, abs=1e-3)
    assert found["speed_error"] == pytest.approx(0.0, abs=1e-6)


def test_separation_counts_the_closest_approach_between_samples(tmp_path):
    log = read_drive(write(tmp_path / "bag", 0.0), FLEET)
    log.poses = [  # they cross within a twentieth of a second
        np.array([[10.0, 0.0, 0.0, 0.0], [11.0, 40.0, 0.0, 0.0]]),
        np.array([[10.0, 20.9, 0.0, 0.0], [11.0, 20.9, 0.0, 0.0]]),
    ]
    log.end = 11.0
    assert min_separation(log) == pytest.approx(-0.4)


def test_two_runs_are_compared_by_path_and_by_time(tmp_path):
    own = read_drive(write(tmp_path / "own", 0.0), FLEET)
    other = read_drive(write(tmp_path / "other", 0.05, late=0.5), FLEET)
    both = compare(own, other)
    assert both["same_first_goals"] == 1
    assert both["same_route"] == 1
    assert both["same_route_mean"] == pytest.approx(0.05, abs=5e-3)
    assert both["arrival_difference_mean"] == pytest.approx(0.5, abs=0.21)  # states come five times a second
    far = compare(own, read_drive(write(tmp_path / "far", 0.0, late=3.0), FLEET))
    assert far["same_route_mean"] == pytest.approx(0.0, abs=1e-3)
    assert far["together_median"] < own.seconds
    with pytest.raises(ValueError, match="other robots"):
        compare(own, read_drive(tmp_path / "own", FleetFile.default(["b", "a"])))


def test_deviation_of_a_detour():
    times = np.arange(0.0, 4.01, 0.05)
    straight = np.stack([times, times, 0.0 * times], 1)
    bent = np.stack([times, times, np.where((times > 1) & (times < 2), 0.3, 0.0)], 1)
    assert path_deviation(straight, straight).max() == pytest.approx(0.0, abs=1e-9)
    assert path_deviation(straight, bent).max() == pytest.approx(0.3, abs=0.02)


def test_unusable_bags_are_named(tmp_path):
    path = write(tmp_path / "bag", 0.0)
    with pytest.raises(ValueError, match="no Odometry of c"):
        read_drive(path, FleetFile.default(["a", "c"]))
    with pytest.raises(ValueError, match="nowhere"):
        read_drive(tmp_path / "nowhere", FLEET)
    (path / "metadata.yaml").unlink()
    with pytest.raises(ValueError, match="bag"):
        read_drive(path, FLEET)


def test_the_script_prints_figures_and_draws(tmp_path):
    own, gazebo = write(tmp_path / "own", 0.0), write(tmp_path / "gazebo", 0.02)
    FLEET.dump(tmp_path / "robots.yaml")
    command = [sys.executable, str(SCRIPT), "--own", str(own), "--gazebo", str(gazebo)]
    command += ["--robots", str(tmp_path / "robots.yaml"), "--picture", str(tmp_path / "ways.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "goals_per_minute" in done.stdout and (tmp_path / "ways.png").stat().st_size > 5000
    command[3] = str(tmp_path / "missing")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "missing" in done.stderr
