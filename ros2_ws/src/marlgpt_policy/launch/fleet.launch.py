"""Start the fleet node and its watchdog and, unless told otherwise, bring them to work.

The fleet node is a lifecycle node: configuring it loads and checks the policy file, activating it starts the
control of the robots. With `autostart` it does both whenever its process starts, so also after a crash: it is
started again and takes over where the robots stand. Meanwhile the watchdog, a process of its own, holds them at
standstill. A fleet node that cannot be configured when it is first started, or whose robots another one drives, ends
the launch.

With `control:=decentralised` there is neither: one robot node per robot, which share what they hold (here all on this
machine; `only:=robot_00` starts the one that belongs on this robot).

    ros2 launch marlgpt_policy fleet.launch.py robots:=robot_00,robot_01 namespace:=yard
    ros2 launch marlgpt_policy fleet.launch.py robots_file:=my_robots.yaml
"""

from pathlib import Path

import yaml
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
)
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node, PushRosNamespace
from launch_ros.substitutions import FindPackageShare

from launch import LaunchContext, LaunchDescription

UNCONFIGURED = 2  # exit status of a fleet node that could not configure or activate itself
ARGUMENTS = {
    "params_file": (
        PathJoinSubstitution([FindPackageShare("marlgpt_policy"), "config", "fleet.yaml"]),
        "parameters of the fleet node; the arguments below replace what it says, unless they are empty",
    ),
    "robots_file": ("", "YAML file that describes each robot; then robots, radius and drive stay empty"),
    "robots": ("", "names of the robots, separated by commas"),
    "policy": ("", "policy file (.onnx)"),
    "radius": ("", "radius of the robots, m"),
    "drive": ("", "how the robots move: differential or holonomic"),
    "execution": ("", "asynchronous or synchronous"),
    "control": ("centralised", "one fleet node for all robots, or decentralised: one robot node for each"),
    "only": ("", "decentralised: names of the robots to start nodes for, separated by commas; empty: all"),
    "namespace": ("", "namespace of the nodes and their topics"),
    "use_sim_time": ("false", "follow /clock instead of the wall clock"),
    "autostart": ("true", "configure and activate the node whenever its process starts"),
    "watchdog_timeout": (
        "0.5",
        "seconds without a sign of life from the fleet node until robots are stopped",
    ),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; what depends on their values is built by `start_fleet`."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start_fleet)])


def start_fleet(context: LaunchContext) -> list:
    """Return the nodes in their namespace; each is started again whenever it ends."""
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    shared = overrides(value)
    if value["control"] == "decentralised":
        return [GroupAction([PushRosNamespace(value["namespace"]), *robot_nodes(value, shared)])]
    if value["control"] != "centralised":
        raise ValueError(f"control:={value['control']}: it must be centralised or decentralised")
    fleet = Node(
        package="marlgpt_policy",
        executable="fleet_node",
        name="fleet_node",
        parameters=[value["params_file"], shared, {"autostart": is_true(value["autostart"])}],
        output="screen",
        respawn=True,
        respawn_delay=1.0,
    )
    watchdog = Node(
        package="marlgpt_policy",
        executable="watchdog_node",
        name="watchdog_node",
        parameters=[value["params_file"], shared, {"timeout": float(value["watchdog_timeout"])}],
        output="screen",
        respawn=True,
        respawn_delay=0.1,
    )
    exits: list[int] = []

    def ended(event: ProcessExited, context: LaunchContext) -> list:
        exits.append(event.returncode)
        if context.is_shutdown or exits != [UNCONFIGURED]:
            return []  # once it has driven, the watchdog is needed more than ever
        return [
            Shutdown(reason="the fleet node could not configure or activate itself; its log above says why")
        ]

    exit_handler = RegisterEventHandler(OnProcessExit(target_action=fleet, on_exit=ended))
    return [GroupAction([PushRosNamespace(value["namespace"]), exit_handler, watchdog, fleet])]


def robot_nodes(value: dict[str, str], shared: dict) -> list[Node]:
    """One node for each robot; all of them know the names of all robots."""
    if value["robots_file"]:
        from marlgpt_policy.robots.robots_file import load_robots

        everyone = load_robots(shared["robots_file"]).names
    else:
        everyone = shared.get("robots") or robots_of(Path(value["params_file"]))
    if not everyone:
        raise ValueError("robots:= is empty, and so is 'robots' in params_file; name the robots of the fleet")
    only = split(value["only"]) or everyone
    strangers = sorted(set(only) - set(everyone))
    if strangers:
        raise ValueError(
            f"only:={value['only']}: {', '.join(strangers)} is not among the robots of the fleet"
        )
    return [
        Node(
            package="marlgpt_policy",
            executable="robot_node",
            name=f"robot_node_{name}",
            parameters=[value["params_file"], shared, {"robots": everyone, "name": name}],
            output="screen",
            respawn=True,
            respawn_delay=1.0,
        )
        for name in only
    ]


def robots_of(file: Path) -> list[str]:
    """Names of the robots in a parameter file."""
    for node in (yaml.safe_load(file.read_text()) or {}).values():
        names = (node or {}).get("ros__parameters", {}).get("robots")
        if names:
            return list(names)
    return []


def split(text: str) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def is_true(text: str) -> bool:
    """Whether an argument says yes."""
    return text.lower() in ("true", "1", "yes", "on")


def overrides(value: dict[str, str]) -> dict:
    """Parameters that the arguments set, for both nodes; each takes those it knows."""
    found: dict = {"use_sim_time": is_true(value["use_sim_time"])}
    if value["robots_file"]:
        given = [name for name in ("robots", "radius", "drive") if value[name]]
        if given:
            raise ValueError(
                f"{given[0]}:= and robots_file:= are both given; the file says this of each robot"
            )
        file = Path(value["robots_file"]).expanduser().resolve()
        if not file.is_file():
            raise FileNotFoundError(f"robots_file:={value['robots_file']}: no such file")
        found["robots_file"] = str(file)
    robots = split(value["robots"])
    if robots:
        found["robots"] = robots
    if value["radius"]:
        found["radius"] = float(value["radius"])
    found.update({name: value[name] for name in ("policy", "drive", "execution") if value[name]})
    return found
