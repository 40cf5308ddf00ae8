"""What a recorded bag says about how a fleet drove: poses, commands, goals, contacts; whichever simulator it was."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from marlgpt_policy.grid.geometry import yaw_of
from marlgpt_policy.grid.nav_grid import NavGrid
from marlgpt_policy.grid.occupancy_map import OccupancyMap, from_occupancy_grid
from marlgpt_policy.robots.robots_file import FleetFile
from rosbags.highlevel import AnyReader, AnyReaderError

from marlgpt_sim.bags.bag_types import load_types
from marlgpt_sim.gazebo.names import contacts_topic

CONTACT_PAUSE = 0.25
"""s of simulated time without a contact message after which the next one is another contact."""


@dataclass
class DriveLog:
    """One run; times are seconds of simulated time as the messages' own stamps give them.

    Attributes:
        names: Of the robots, in order; all lists below follow it.
        radii: float64[n], m.
        poses: Per robot float64[k, 4]: time, x, y, yaw.
        speeds: Per robot float64[k, 3]: time, measured forward speed (m/s) and yaw rate (rad/s).
        commands: Per robot float64[k, 3]: time received, commanded speed and yaw rate.
        edges: Per robot float64[k, 7]: time, pose x, y, then x, y of the cell it holds and of the one it drives to.
        goals: Per robot float64[k, 3]: time, x, y of each goal sent.
        reached: Per robot float64[k]: times at which its count of goals reached grew.
        contacts: float64[k] times at which contacts began, None if the bag does not say.
        map: None if the bag holds none.
        grid: None if the bag holds none.
    """

    names: list[str]
    radii: np.ndarray
    poses: list[np.ndarray]
    speeds: list[np.ndarray]
    commands: list[np.ndarray]
    edges: list[np.ndarray]
    goals: list[np.ndarray]
    reached: list[np.ndarray]
    contacts: np.ndarray | None
    map: OccupancyMap | None
    grid: NavGrid | None
    start: float = 0.0
    end: float = 0.0

    @property
    def seconds(self) -> float:
        """Simulated seconds from the first state in which a robot has a goal to the last."""
        return self.end - self.start


@dataclass
class _Rows:
    """What the messages fill."""

    poses: dict[str, list] = field(default_factory=lambda: defaultdict(list))
    speeds: dict[str, list] = field(default_factory=lambda: defaultdict(list))
    commands: dict[str, list] = field(default_factory=lambda: defaultdict(list))
    edges: dict[str, list] = field(default_factory=lambda: defaultdict(list))
    goals: dict[str, list] = field(default_factory=lambda: defaultdict(list))
    counts: dict[str, list] = field(default_factory=lambda: defaultdict(list))
    touches: dict[tuple[str, str], list] = field(default_factory=lambda: defaultdict(list))
    status: list = field(default_factory=list)
    states: list = field(default_factory=list)


def read_drive(bag: str | Path, fleet: FleetFile, namespace: str = "") -> DriveLog:
    """Read a bag with every robot's Odometry, ``fleet/state`` and, if there, the rest.

    Args:
        bag: Folder of the bag.
        fleet: The robots whose poses are Odometry.
        namespace: Of the recorded topics.

    Raises:
        ValueError: The bag cannot be read, or has no poses of a robot, or no ``fleet/state``.
    """
    bag = Path(bag)
    wanted = _topics(fleet, namespace)
    rows, map_, grid = _Rows(), None, None
    try:
        with AnyReader([bag], default_typestore=load_types(["marlgpt_msgs"])) as reader:
            recorded = {connection.topic for connection in reader.connections}
            heard = {wanted[topic][1] for topic in recorded & set(wanted) if wanted[topic][0] == "contacts"}
            for topic, stamp, message in _messages(reader, set(wanted)):
                kind, name = wanted[topic]
                if kind == "map":
                    map_ = from_occupancy_grid(message)
                elif kind == "grid":
                    grid = _grid(message)
                else:
                    _READERS[kind](rows, name, message, stamp, grid)
    except (AnyReaderError, OSError) as error:
        raise ValueError(f"{bag} cannot be read as a bag: {error}") from error
    log = _log(bag, fleet, rows, map_, grid)
    log.contacts = _contact_times(rows, measured=heard == set(fleet.names))
    return log


def _topics(fleet: FleetFile, namespace: str) -> dict[str, tuple[str, str]]:
    """Kind and robot of each topic that is read."""
    found = {"map": ("map", ""), "fleet/grid": ("grid", ""), "fleet/state": ("state", "")}
    found["sim/status"] = ("status", "")
    for robot in fleet.robots:
        found[robot.pose_topic or f"{robot.name}/odom"] = ("odom", robot.name)
        found[robot.cmd_vel_topic] = ("command", robot.name)
        found[robot.goal_topic] = ("goal", robot.name)
        found[contacts_topic(robot)] = ("contacts", robot.name)
    prefix = f"/{namespace.strip('/')}/".replace("//", "/")
    return {topic if topic.startswith("/") else prefix + topic: value for topic, value in found.items()}


def _messages(reader: AnyReader, topics: set[str]) -> Iterator[tuple[str, float, Any]]:
    """Topic, time of recording (s) and message, in the bag's order but the map and grid first."""
    chosen = [c for c in reader.connections if c.topic in topics]
    first = [c for c in chosen if c.topic.endswith(("/map", "/fleet/grid"))]
    rest = [c for c in chosen if c not in first]
    for group in (first, rest):
        for connection, stamp, data in reader.messages(group) if group else ():
            yield connection.topic, stamp * 1e-9, reader.deserialize(data, connection.msgtype)


def _seconds(stamp: Any) -> float:
    return stamp.sec + stamp.nanosec * 1e-9


def _odom(rows: _Rows, name: str, message: Any, stamp: float, grid: NavGrid | None) -> None:
    time, pose, twist = _seconds(message.header.stamp), message.pose.pose, message.twist.twist
    q = pose.orientation
    rows.poses[name].append((time, pose.position.x, pose.position.y, yaw_of((q.x, q.y, q.z, q.w))))
    rows.speeds[name].append((time, twist.linear.x, twist.angular.z))


def _command(rows: _Rows, name: str, message: Any, stamp: float, grid: NavGrid | None) -> None:
    twist = message.twist if hasattr(message, "twist") else message
    rows.commands[name].append((stamp, twist.linear.x, twist.angular.z))


def _goal(rows: _Rows, name: str, message: Any, stamp: float, grid: NavGrid | None) -> None:
    goal = (_seconds(message.header.stamp), message.pose.position.x, message.pose.position.y)
    if not rows.goals[name] or rows.goals[name][-1][1:] != goal[1:]:  # the same one may be sent again
        rows.goals[name].append(goal)


def _contacts(rows: _Rows, name: str, message: Any, stamp: float, grid: NavGrid | None) -> None:
    time = _seconds(message.header.stamp)
    for contact in message.contacts:
        pair = sorted((contact.collision1.name, contact.collision2.name))
        rows.touches[pair[0], pair[1]].append(time)


def _status(rows: _Rows, name: str, message: Any, stamp: float, grid: NavGrid | None) -> None:
    rows.status.append((_seconds(message.header.stamp), message.robot_contacts + message.wall_contacts))


def _state(rows: _Rows, name: str, message: Any, stamp: float, grid: NavGrid | None) -> None:
    time = _seconds(message.header.stamp)
    rows.states.append((time, any(robot.goal_row >= 0 for robot in message.robots)))
    for robot in message.robots:
        rows.counts[robot.name].append((time, robot.goals_reached))
        if grid is not None and robot.row >= 0 and robot.target_row >= 0:
            cells = np.array([(robot.row, robot.col), (robot.target_row, robot.target_col)])
            place = robot.pose.position
            rows.edges[robot.name].append((time, place.x, place.y, *grid.centre(cells).ravel().tolist()))


_READERS = {
    "odom": _odom,
    "command": _command,
    "goal": _goal,
    "contacts": _contacts,
    "status": _status,
    "state": _state,
}


def _grid(message: Any) -> NavGrid:
    """The grid of a recorded marlgpt_msgs/Grid."""
    shape = message.rows, message.cols
    bits = np.asarray(message.moves, np.uint8).reshape(shape)
    moves = ((bits[..., None] >> np.arange(5)) & 1).astype(bool)
    position, q = message.origin.position, message.origin.orientation
    origin = (position.x, position.y, yaw_of((q.x, q.y, q.z, q.w)))
    free = np.asarray(message.free, bool).reshape(shape)
    return NavGrid(free, moves, message.cell_size, origin, message.frame_id)


def _log(
    bag: Path, fleet: FleetFile, rows: _Rows, map_: OccupancyMap | None, grid: NavGrid | None
) -> DriveLog:
    """Arrays from what was read."""
    missing = [name for name in fleet.names if not rows.poses[name]]
    if missing:
        raise ValueError(f"{bag}: no Odometry of {', '.join(missing)}; were its poses recorded?")
    started = [time for time, busy in rows.states if busy]
    if not started:
        raise ValueError(f"{bag}: no fleet/state in which a robot has a goal")

    def table(values: dict[str, list], columns: int) -> list[np.ndarray]:
        return [np.array(values[name], float).reshape(-1, columns) for name in fleet.names]

    reached = []
    for counts in table(rows.counts, 2):
        grew = np.repeat(counts[1:, 0], np.maximum(np.diff(counts[:, 1]), 0).astype(int))
        reached.append(grew)
    return DriveLog(
        names=fleet.names,
        radii=np.array([robot.radius for robot in fleet.robots]),
        poses=table(rows.poses, 4),
        speeds=table(rows.speeds, 3),
        commands=table(rows.commands, 3),
        edges=table(rows.edges, 7),
        goals=table(rows.goals, 3),
        reached=reached,
        contacts=None,
        map=map_,
        grid=grid,
        start=started[0],
        end=rows.states[-1][0],
    )


def _contact_times(rows: _Rows, measured: bool) -> np.ndarray | None:
    """When contacts began: by the own simulator's count, or by pauses between Gazebo's messages.

    Silence is what no contact sounds like, and counts only where the topics of all robots were recorded.
    """
    if rows.status:
        status = np.array(rows.status, float)
        return np.repeat(status[1:, 0], np.maximum(np.diff(status[:, 1]), 0).astype(int))
    if not measured and not rows.touches:
        return None
    begun: list[float] = []
    for times in rows.touches.values():
        ordered = np.unique(times)  # both robots of a pair report it
        begun += ordered[np.r_[True, np.diff(ordered) > CONTACT_PAUSE]].tolist()
    return np.sort(np.array(begun, float))
