"""Parameters of the fleet node: one table that declares, documents and bounds each of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.parameter import Parameter

from marlgpt_policy.fleet import FleetConfig, RobotConfig
from marlgpt_policy.policy import PROVIDERS
from marlgpt_policy.tracker import Drive, MotionLimits

EXECUTIONS = ("asynchronous", "synchronous")
LONGEST_NAME = 64
"""Characters of a robot's name."""
DRIVES = {"differential": Drive.DIFFERENTIAL, "holonomic": Drive.HOLONOMIC}
STRINGS = Parameter.Type.STRING_ARRAY


@dataclass(frozen=True)
class Spec:
    """One parameter: default (or type where there is no default), sentence, and range of numbers."""

    default: Any
    description: str
    low: float | None = None
    high: float | None = None


PARAMETERS: dict[str, Spec] = {
    "autostart": Spec(False, "Whether the node configures and activates itself when its process starts."),
    "robots": Spec(STRINGS, "Names of the robots; each is also the prefix of its topics."),
    "max_robots": Spec(512, "Robots the fleet may have, those that join later included.", 1, 100_000),
    "policy": Spec("", "ONNX policy file; empty for the one shipped with this package."),
    "policy_sha256": Spec("", "SHA-256 that the policy file must have; empty: the hash is only logged."),
    "require_policy_hash": Spec(False, "Whether fleet/load_policy refuses files without a hash to check."),
    "providers": Spec(list(PROVIDERS), "ONNX Runtime execution providers, best first."),
    "threads": Spec(1, "CPU threads of one inference; 0 lets ONNX Runtime choose.", 0, 256),
    "map_frame": Spec("map", "Frame of the map, the poses and the goals."),
    "radius": Spec(0.22, "Radius in m of the disc that contains any robot of the fleet.", 0.01, 10.0),
    "margin": Spec(0.05, "Metres added to the cells beyond what the radius needs.", 0.03, 5.0),
    "cell_size": Spec(0.0, "Edge of a cell in m; 0 for the smallest that the radius allows.", 0.0, 50.0),
    "max_map_pixels": Spec(16_000_000, "Pixels of the largest map that is accepted.", 1, 64_000_000),
    "unknown_is_free": Spec(False, "Whether robots may drive where the map is unknown."),
    "drive": Spec("differential", "How the robots move: differential or holonomic."),
    "max_speed": Spec(0.5, "Largest speed commanded, m/s.", 0.01, 20.0),
    "max_yaw_rate": Spec(2.0, "Largest yaw rate commanded, rad/s.", 0.01, 50.0),
    "max_acceleration": Spec(2.5, "Largest acceleration commanded, m/s^2, also for braking.", 0.01, 100.0),
    "max_yaw_acceleration": Spec(3.5, "Largest yaw acceleration commanded, rad/s^2.", 0.01, 500.0),
    "execution": Spec(
        "asynchronous",
        "asynchronous: each robot drives on as soon as its next cell is free; synchronous: all move step by step.",
    ),
    "control_rate": Spec(20.0, "Control periods per second.", 1.0, 200.0),
    "latency": Spec(
        0.2,
        "Seconds from a pose being measured to its command acting, at least the base's own command timeout; "
        "-1: two periods, one with trigger poses.",
        -1.0,
        5.0,
    ),
    "pose_timeout": Spec(0.5, "Age in s at which a pose is stale and its robot stops.", 0.02, 60.0),
    "jump_distance": Spec(
        0.1,
        "Metres a pose may lie beyond where the robot can have driven before it is not believed.",
        0.01,
        10.0,
    ),
    "jump_settle": Spec(4.0, "Seconds for which such poses must agree to be believed.", 0.0, 600.0),
    "step_timeout": Spec(
        0.6, "Synchronous: seconds after which the next decision is taken without late robots.", 0.1, 120.0
    ),
    "goal_grace": Spec(
        0.15, "Synchronous: seconds a decision waits for the next goal of a robot that reached one.", 0.0, 5.0
    ),
    "arrive_tolerance": Spec(0.03, "Distance in m from a cell's centre that counts as there.", 0.02, 0.5),
    "temperature": Spec(0.2, "Of sampling from the policy; 0 takes the most probable move.", 0.0, 10.0),
    "seed": Spec(0, "Of sampling and of breaking ties.", 0, 2**31 - 1),
    "pose_source": Spec(
        "odom", "Topic of poses: odom (nav_msgs/Odometry) or pose (PoseWithCovarianceStamped)."
    ),
    "stamped_cmd_vel": Spec(False, "Publish geometry_msgs/TwistStamped instead of Twist."),
    "trigger": Spec(
        "timer", "What starts a control period: timer, or poses (all fresh robots have a new one)."
    ),
    "state_rate": Spec(
        5.0, "Publications of fleet/state per second, besides every decision and arrival.", 0.1, 100.0
    ),
}


def declare(node: Node, table: dict[str, Spec], read_only: bool = False) -> None:
    """Declare the parameters of ``table`` with their descriptions and ranges."""
    for name, spec in table.items():
        descriptor = ParameterDescriptor(description=spec.description, read_only=read_only)
        if spec.low is not None and isinstance(spec.default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=spec.low, to_value=spec.high)]
        elif spec.low is not None:
            descriptor.integer_range = [IntegerRange(from_value=int(spec.low), to_value=int(spec.high))]
        node.declare_parameter(name, spec.default, descriptor)


def check_names(names: list[str], most: int) -> None:
    """Check the names of robots.

    Raises:
        ValueError: More than ``most``, a name twice, or one that cannot be the prefix of topics.
    """
    if len(names) > most:
        raise ValueError(f"{len(names)} robots, parameter 'max_robots' is {most}")
    for name in names:
        shown = name[: LONGEST_NAME + 8]
        plain = name.isascii() and name.replace("_", "a").isalnum() and not name[0].isdigit()
        if not plain or "__" in name:
            raise ValueError(
                f"robot name '{shown}' is not a ROS name: letters, digits and single '_', not a digit first"
            )
        if len(name) > LONGEST_NAME:
            raise ValueError(f"robot name '{shown}...' is longer than {LONGEST_NAME} characters")
        if name == "fleet":
            raise ValueError("robot name 'fleet' is taken by the topics of the whole fleet")
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise ValueError(f"parameter 'robots' names {', '.join(twice)} twice; every robot needs its own name")


def robot_config(values: dict[str, Any], name: str) -> RobotConfig:
    """The body of a robot, which all robots of the fleet share, by the parameters."""
    limits = MotionLimits(
        values["max_speed"],
        values["max_yaw_rate"],
        values["max_acceleration"],
        values["max_yaw_acceleration"],
    )
    return RobotConfig(name, values["radius"], DRIVES[values["drive"]], limits)


@dataclass(frozen=True)
class Settings:
    """The parameters, read and checked."""

    values: dict[str, Any]
    robots: list[RobotConfig]
    fleet: FleetConfig
    policy: Path

    def __getattr__(self, name: str) -> Any:
        """Any parameter by its name."""
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(name) from None


def read(node: LifecycleNode) -> Settings:
    """Read all parameters.

    Raises:
        ValueError: Naming the parameter and what it may be.
    """
    values: dict[str, Any] = {}
    for name, spec in PARAMETERS.items():
        unset = [] if spec.default is STRINGS else spec.default
        parameter = node.get_parameter_or(name, None)
        values[name] = unset if parameter is None or parameter.value is None else parameter.value
    for name, allowed in (
        ("drive", DRIVES),
        ("pose_source", ("odom", "pose")),
        ("trigger", ("timer", "poses")),
        ("execution", EXECUTIONS),
    ):
        if values[name] not in allowed:
            raise ValueError(
                f"parameter '{name}' is '{values[name]}'; it must be one of {', '.join(allowed)}"
            )
    check_names(list(values["robots"]), values["max_robots"])
    robots = [robot_config(values, name) for name in values["robots"]]
    fleet = FleetConfig(
        control_period=1.0 / values["control_rate"],
        pose_timeout=values["pose_timeout"],
        step_timeout=values["step_timeout"],
        goal_grace=values["goal_grace"],
        latency=_latency(values),
        arrive_tolerance=values["arrive_tolerance"],
        temperature=values["temperature"],
        seed=values["seed"],
        execution=values["execution"],
        jump_distance=values["jump_distance"],
        jump_settle=values["jump_settle"],
    )
    return Settings(values, robots, fleet, Path(values["policy"]) if values["policy"] else shipped_policy())


def _latency(values: dict[str, Any]) -> float | None:
    """The configured latency, s; with a free-running timer a pose is up to a period old before its tick."""
    if values["latency"] >= 0:
        return values["latency"]
    return None if values["trigger"] == "poses" else 2.0 / values["control_rate"]


def shipped_policy() -> Path:
    """The policy file that comes with this package, installed or in the source tree."""
    source = Path(__file__).resolve().parents[2] / "models" / "pogema.onnx"
    if source.is_file():
        return source
    from ament_index_python.packages import get_package_share_directory

    return Path(get_package_share_directory("marlgpt_policy")) / "models" / "pogema.onnx"
