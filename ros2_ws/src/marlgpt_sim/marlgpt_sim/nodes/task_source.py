"""Node `task_source`: gives every robot of a fleet something to do.

Takes the drivable grid from the service ``fleet/get_grid``, follows ``fleet/state`` and publishes
``<robot>/goal_pose`` (PoseStamped). `PARAMETERS` lists the parameters.

The k-th random goal of a robot depends on seed, robot and k alone, except that goals which another robot has
at that moment are passed over.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped
from marlgpt_msgs.msg import FleetState, RobotState
from marlgpt_msgs.srv import GetGrid
from marlgpt_policy.grid.geometry import yaw_of
from marlgpt_policy.grid.nav_grid import NavGrid
from marlgpt_policy.nodes.parameters import STRINGS, Spec, declare
from marlgpt_policy.robots.robots_file import load_robots
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy

from marlgpt_sim.nodes.run_node import run

MODES = ("lifelong", "once")
CONTROLS = ("centralised", "decentralised")
RESEND_AFTER = 2.0  # s of the fleet's time that a robot may show no goal before its goal is sent again
GRID_PERIOD = 0.5  # s of wall time between two requests for the grid
RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)

PARAMETERS: dict[str, Spec] = {
    "robots": Spec(STRINGS, "Names of the robots that get goals."),
    "robots_file": Spec("", "YAML file that names the robots and their goal topics, instead of robots."),
    "mode": Spec("lifelong", "lifelong: a new goal for each reached; once: one each."),
    "control": Spec(
        "centralised", "Who drives: centralised (a fleet node) or decentralised (a node on each robot)."
    ),
    "goals": Spec(Parameter.Type.DOUBLE_ARRAY, "First goal x, y (m), yaw (rad) per robot; unset: random."),
    "areas": Spec(
        Parameter.Type.DOUBLE_ARRAY,
        "Rectangles x, y, x, y (m, lower left and upper right corner) that random goals lie in; unset: everywhere.",
    ),
    "seed": Spec(0, "Seed of the random goals.", 0, 2**31 - 1),
}


def grid_of(response: GetGrid.Response) -> NavGrid:
    """Return the grid of a successful response; ``ValueError`` if its fields contradict each other."""
    shape = response.rows, response.cols
    bits = np.array(response.moves, np.uint8).reshape(shape)
    moves = (bits[..., None] >> np.arange(5)) & 1
    position, q = response.origin.position, response.origin.orientation
    origin = (position.x, position.y, yaw_of((q.x, q.y, q.z, q.w)))
    free = np.array(response.free, bool).reshape(shape)
    return NavGrid(free, moves.astype(bool), response.cell_size, origin, response.frame_id)


class GoalStream:
    """Seeded random goals on the main component of a grid.

    Args:
        grid: the drivable cells.
        seed: of all robots' goals.
        robots: number of robots.
        areas: float[k, 4] rectangles (x, y of the lower left, x, y of the upper right corner, m) that goals lie in;
            everywhere if none is given.

    Raises:
        ValueError: if no cell lies within `areas`.
    """

    def __init__(self, grid: NavGrid, seed: int, robots: int, areas: np.ndarray | None = None) -> None:
        self._cells = np.argwhere(grid.components == 0)
        if areas is not None and len(areas):
            x, y = grid.centre(self._cells).T[..., None]
            left, bottom, right, top = np.asarray(areas, float).T
            self._cells = self._cells[((x >= left) & (x <= right) & (y >= bottom) & (y <= top)).any(axis=1)]
            if not len(self._cells):
                raise ValueError("no cell lies within parameter 'areas'; give x, y of two corners each, in m")
        self._random = [np.random.default_rng((seed, robot)) for robot in range(robots)]

    def draw(self, robot: int, taken: set[tuple[int, int]]) -> tuple[int, int]:
        """Return the robot's next goal cell (row, column) that is not in `taken`.

        Raises:
            ValueError: if every cell is taken.
        """
        if len(taken) >= len(self._cells) and all(tuple(cell) in taken for cell in self._cells.tolist()):
            raise ValueError(f"no cell is left for a goal: the grid has {len(self._cells)}, all are taken")
        while True:
            row, column = self._cells[self._random[robot].integers(len(self._cells))].tolist()
            if (row, column) not in taken:
                return row, column


@dataclass
class _Task:
    """What one robot is doing."""

    reached: int = 0  # goals reached by the fleet's count
    goal: PoseStamped | None = None
    cell: tuple[int, int] | None = None
    sent: float = field(default=-math.inf)  # s of the fleet's time at which the goal was sent or last seen
    done: bool = False


class TaskSource(Node):
    """Sends goals and watches them being reached."""

    def __init__(self, **options: object) -> None:
        """Read the parameters and connect.

        Raises:
            ValueError: naming the parameter that is wrong.
        """
        super().__init__("task_source", **options)
        declare(self, PARAMETERS, read_only=True)
        self._read()
        self._index = {name: i for i, name in enumerate(self.robots)}
        self._tasks = [_Task() for _ in self.robots]
        self._grid: NavGrid | None = None
        self._stream: GoalStream | None = None
        self._pending = None
        self._publishers_by_robot = [
            self.create_publisher(PoseStamped, topic, RELIABLE) for topic in self._goal_topics
        ]
        self._source = "fleet/get_grid" if self.control == "centralised" else f"{self.robots[0]}/get_grid"
        self._client = self.create_client(GetGrid, self._source)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = self.create_timer(GRID_PERIOD, self._ask_grid, clock=steady)
        if self.control == "centralised":
            self.create_subscription(FleetState, "fleet/state", self._on_state, RELIABLE)
        else:
            for name in self.robots:
                self.create_subscription(RobotState, f"{name}/state", self._on_robot_state, RELIABLE)

    def _read(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: naming the parameter that is wrong.
        """
        parameter = self.get_parameter_or("robots", None)
        self.robots = list(parameter.value or []) if parameter else []
        self._goal_topics = [f"{name}/goal_pose" for name in self.robots]
        file = self.get_parameter("robots_file").value
        if file:
            fleet = load_robots(file)
            self.robots, self._goal_topics = fleet.names, [robot.goal_topic for robot in fleet.robots]
        if not self.robots:
            raise ValueError("parameter 'robots' is not set; give the names of the robots, or a robots_file")
        if len(set(self.robots)) != len(self.robots):
            twice = next(name for name in self.robots if self.robots.count(name) > 1)
            raise ValueError(f"parameter 'robots' names '{twice}' twice")
        self.mode = self.get_parameter("mode").value
        if self.mode not in MODES:
            raise ValueError(f"parameter 'mode' is '{self.mode}'; it must be one of {', '.join(MODES)}")
        self.control = self.get_parameter("control").value
        if self.control not in CONTROLS:
            raise ValueError(
                f"parameter 'control' is '{self.control}'; it must be one of {', '.join(CONTROLS)}"
            )
        parameter = self.get_parameter_or("goals", None)
        values = list(parameter.value or []) if parameter else []
        if values and len(values) != 3 * len(self.robots):
            raise ValueError(
                f"parameter 'goals' has {len(values)} numbers; {len(self.robots)} robots need "
                f"{3 * len(self.robots)} (x, y, yaw of each)"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"parameter 'goals' holds numbers that are not finite: {values}")
        self._first = np.reshape(values, (-1, 3))
        parameter = self.get_parameter_or("areas", None)
        values = list(parameter.value or []) if parameter else []
        if len(values) % 4 or not np.isfinite(values).all():
            raise ValueError(f"parameter 'areas' is {values}; each area is 4 finite numbers (x, y, x, y)")
        self.areas = np.reshape(values, (-1, 4))
        self.seed = self.get_parameter("seed").value

    def _ask_grid(self) -> None:
        """Ask for the grid until there is one."""
        if self._pending is not None:
            return
        if not self._client.service_is_ready():
            self.get_logger().info(f"waiting for the service {self._source}", throttle_duration_sec=10.0)
            return
        self._pending = self._client.call_async(GetGrid.Request())
        self._pending.add_done_callback(self._on_grid)

    def _on_grid(self, future: rclpy.Future) -> None:
        """Take the grid, or ask again."""
        self._pending = None
        response = future.result()
        if response is None or not response.success:
            reason = "the call failed" if response is None else response.message
            self.get_logger().info(f"no grid yet: {reason}", throttle_duration_sec=10.0)
            return
        try:
            self._grid = grid_of(response)
        except ValueError as error:
            text = f"the grid of {self._source} is refused: {error}"
            self.get_logger().warning(text, throttle_duration_sec=10.0)
            return
        self._timer.cancel()
        try:
            self._stream = GoalStream(self._grid, self.seed, len(self.robots), self.areas)
        except ValueError as error:
            self._grid = None
            self.get_logger().error(str(error))
            return
        cells = int((self._grid.components == 0).sum())
        self.get_logger().info(f"goals for {len(self.robots)} robots on {cells} cells, {self.mode}")

    def _on_state(self, message: FleetState) -> None:
        """Send first goals, next goals, and goals that got lost."""
        for state in message.robots:
            self._update(state, message.stopped, message.header.stamp)

    def _on_robot_state(self, state: RobotState) -> None:
        """The same, where each robot speaks for itself."""
        self._update(state, state.status == RobotState.STOPPED, self.get_clock().now().to_msg())

    def _update(self, state: RobotState, stopped: bool, stamp: object) -> None:
        """Send a robot what it needs: its first goal, its next one, or again one that got lost."""
        robot = self._index.get(state.name)
        if self._grid is None or robot is None or state.status == RobotState.NO_POSE:
            return
        now = stamp.sec + stamp.nanosec * 1e-9
        task = self._tasks[robot]
        grew = state.goals_reached > task.reached
        task.reached = state.goals_reached
        if task.goal is None:
            self._next(robot, state, now, stamp)
        elif grew and self.mode == "once":
            self._finish(robot)
        elif grew:
            self._next(robot, state, now, stamp)
        elif state.goal_row >= 0 or task.done or stopped:
            task.sent = now
        elif now - task.sent > RESEND_AFTER:
            text = f"'{state.name}' shows no goal; sending its goal again"
            self.get_logger().warning(text, throttle_duration_sec=10.0)
            self._send(robot, now, stamp)

    def _next(self, robot: int, state: RobotState, now: float, stamp: object) -> None:
        """Choose the robot's next goal and send it."""
        task = self._tasks[robot]
        if task.goal is None and len(self._first):
            x, y, yaw = self._first[robot].tolist()
            task.cell = tuple(self._grid.cell_of(np.array([x, y])).tolist())
        else:
            taken = {t.cell for i, t in enumerate(self._tasks) if i != robot and t.cell is not None}
            try:
                task.cell = self._stream.draw(robot, taken | {(state.row, state.col)})
            except ValueError as error:
                text = f"no next goal for '{state.name}': {error}"
                self.get_logger().warning(text, throttle_duration_sec=10.0)
                return
            x, y = self._grid.centre(np.array(task.cell)).tolist()
            yaw = 0.0
        goal = task.goal = PoseStamped()
        goal.header.frame_id = self._grid.frame_id
        goal.pose.position.x, goal.pose.position.y = x, y
        goal.pose.orientation.z, goal.pose.orientation.w = math.sin(0.5 * yaw), math.cos(0.5 * yaw)
        self._send(robot, now, stamp)

    def _send(self, robot: int, now: float, stamp: object) -> None:
        """Publish the robot's goal."""
        task = self._tasks[robot]
        task.sent = now
        task.goal.header.stamp = stamp
        self._publishers_by_robot[robot].publish(task.goal)

    def _finish(self, robot: int) -> None:
        """Note that a robot has done its only task."""
        self._tasks[robot].done = True
        if all(task.done for task in self._tasks):
            self.get_logger().info("all robots have reached their goals")


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted; returns the exit status."""
    return run("task_source", TaskSource, args)


if __name__ == "__main__":
    sys.exit(main())
