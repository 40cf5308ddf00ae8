"""Parameters of the fleet node: one table that declares, documents and bounds each of them."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.parameter import Parameter

from marlgpt_policy.fleet.fleet_config import EXECUTIONS, SHARP, FleetConfig
from marlgpt_policy.policy.onnx_policy import PROVIDERS
from marlgpt_policy.policy.shipped_files import shipped_policy
from marlgpt_policy.robots.robot_config import RobotConfig
from marlgpt_policy.robots.robots_file import FleetFile, load_robots
from marlgpt_policy.robots.robots_keys import DRIVES, LIMITS, LONGEST_NAME, POSE_SOURCES, check_name

__all__ = [
    "LONGEST_NAME",
    "PARAMETERS",
    "Settings",
    "Spec",
    "check_names",
    "declare",
    "read",
    "refuse_unused",
    "robots_of",
]

STRINGS = Parameter.Type.STRING_ARRAY
IN_ROBOTS_FILE = ("robots", "map_frame", "radius", "drive", *LIMITS, "pose_source", "stamped_cmd_vel")
"""Parameters that are not looked at where there is a robots file: it says all of this itself."""


@dataclass(frozen=True)
class Spec:
    """One parameter: default (or type where there is no default), sentence, and range of numbers."""

    default: Any
    description: str
    low: float | None = None
    high: float | None = None


PARAMETERS: dict[str, Spec] = {
    "autostart": Spec(False, "Whether the node configures and activates itself when its process starts."),
    "robots_file": Spec(
        "", f"YAML file that describes each robot, instead of the parameters {', '.join(IN_ROBOTS_FILE)}."
    ),
    "robots": Spec(STRINGS, "Names of the robots; each is also the prefix of its topics."),
    "max_robots": Spec(512, "Robots the fleet may have, those that join later included.", 1, 100_000),
    "policy": Spec("", "ONNX policy file; empty for the one shipped with this package."),
    "policy_sha256": Spec("", "SHA-256 that the policy file must have; empty: the hash is only logged."),
    "require_policy_hash": Spec(False, "Whether fleet/load_policy refuses files without a hash to check."),
    "providers": Spec(list(PROVIDERS), "ONNX Runtime execution providers, best first."),
    "policy_load_timeout": Spec(
        120.0, "Seconds in which a policy file must be loaded and tried out; else it is refused.", 0.1, 3600.0
    ),
    "decision_timeout": Spec(
        2.0,
        "Seconds after which a policy that has not decided is ended; until then others decide.",
        0.1,
        60.0,
    ),
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
    "first_settle": Spec(
        4.0, "Seconds that a robot stands after its first pose, in case it is wrong.", 0.0, 600.0
    ),
    "step_timeout": Spec(
        0.6, "Synchronous: seconds after which the next decision is taken without late robots.", 0.1, 120.0
    ),
    "goal_grace": Spec(
        0.15, "Synchronous: seconds a decision waits for the next goal of a robot that reached one.", 0.0, 5.0
    ),
    "arrive_tolerance": Spec(0.03, "Distance in m from a cell's centre that counts as there.", 0.02, 0.5),
    "pose_error": Spec(
        -1.0,
        "Bound in m on the error of each robot's poses, which the cells must leave room for; -1: what fits into half "
        "of the room that margin leaves.",
        -1.0,
        1.0,
    ),
    "temperature": Spec(SHARP, "Of sampling from the policy; 0 takes the most probable move.", 0.0, 10.0),
    "seed": Spec(0, "Of sampling and of breaking ties.", 0, 2**31 - 1),
    "pose_source": Spec(
        "odom",
        "Where poses come from: odom (nav_msgs/Odometry), pose (PoseWithCovarianceStamped), pose_stamped or tf.",
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


def refuse_unused(
    node: Node, used: dict[str, Spec], shared: dict[str, Spec] | None = None, any_value: bool = False
) -> None:
    """Refuse parameters given at the start that a node does not use: ROS lets them pass without a word.

    Args:
        node: The node, before it declares them.
        used: What it declares.
        shared: What other nodes read from the same file; it may give the defaults of these.
        any_value: Whether it may also give other values.

    Raises:
        ValueError: Naming the parameters and what to do.
    """
    shared = shared or {}
    for name, given in node._parameter_overrides.items():  # rclpy has no public way to what was not declared
        if name in used or name == "use_sim_time" or name.startswith("qos_overrides."):
            continue
        if name == "start_type_description_service":
            continue
        if name not in shared:
            close = get_close_matches(name, used, 1)
            hint = f"did you mean '{close[0]}'?" if close else "remove it"
            raise ValueError(
                f"parameter '{name}' is given, but {node.get_name()} has none of this name; {hint}"
            )
        if not any_value and given.value != shared[name].default:
            raise ValueError(
                f"parameter '{name}' is {given.value}, but {node.get_name()} does not use it; remove it or leave it at "
                f"{shared[name].default}"
            )


def check_names(names: list[str], most: int) -> None:
    """Check the names of robots.

    Raises:
        ValueError: More than ``most``, a name twice, or one that cannot be the prefix of topics.
    """
    if len(names) > most:
        raise ValueError(f"{len(names)} robots, parameter 'max_robots' is {most}")
    for name in names:
        check_name(name)
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise ValueError(f"parameter 'robots' names {', '.join(twice)} twice; every robot needs its own name")


def robots_of(values: dict[str, Any]) -> FleetFile:
    """The robots that parameters describe: by a robots file, or all alike by the other parameters.

    Args:
        values: By name; of ``IN_ROBOTS_FILE`` those that the node has. ``robots`` may be empty.

    Raises:
        ValueError: The file, or a parameter, is wrong, or there are more robots than ``max_robots``.
    """
    most = values.get("max_robots", 100_000)
    if values.get("robots_file"):
        fleet = load_robots(values["robots_file"])
        check_names(fleet.names, most)
        return fleet
    check_names(list(values["robots"]), most)
    same = {
        key: values[key] for key in ("radius", "drive", "pose_source", "stamped_cmd_vel") if key in values
    }
    limits = {key: values[key] for key in LIMITS if key in values}
    return FleetFile.default(list(values["robots"]), values.get("map_frame", "map"), limits=limits, **same)


@dataclass(frozen=True)
class Settings:
    """The parameters, read and checked.

    Attributes:
        values: By name; where a robots file gives map frame and largest radius, those of the file.
        robots_file: Every robot with its topics and frames.
        robots: Their bodies.
        fleet: Timing and choices of the fleet.
        policy: Policy file.
    """

    values: dict[str, Any]
    robots_file: FleetFile
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
        ("pose_source", POSE_SOURCES),
        ("trigger", ("timer", "poses")),
        ("execution", EXECUTIONS),
    ):
        if values[name] not in allowed:
            raise ValueError(
                f"parameter '{name}' is '{values[name]}'; it must be one of {', '.join(allowed)}"
            )
    described = robots_of(values)
    if values["robots_file"]:
        values["map_frame"], values["radius"] = described.map_frame, described.radius
    robots = [robot.config for robot in described.robots]
    fleet = FleetConfig(
        control_period=1.0 / values["control_rate"],
        pose_timeout=values["pose_timeout"],
        step_timeout=values["step_timeout"],
        goal_grace=values["goal_grace"],
        latency=_latency(values),
        arrive_tolerance=values["arrive_tolerance"],
        pose_error=values["pose_error"] if values["pose_error"] >= 0 else None,
        temperature=values["temperature"],
        seed=values["seed"],
        execution=values["execution"],
        jump_distance=values["jump_distance"],
        jump_settle=values["jump_settle"],
        first_settle=values["first_settle"],
    )
    policy = Path(values["policy"]) if values["policy"] else shipped_policy()
    return Settings(values, described, robots, fleet, policy)


def _latency(values: dict[str, Any]) -> float | None:
    """The configured latency, s; with a free-running timer a pose is up to a period old before its tick."""
    if values["latency"] >= 0:
        return values["latency"]
    return None if values["trigger"] == "poses" else 2.0 / values["control_rate"]
