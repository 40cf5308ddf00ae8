"""Start the fleet node and its watchdog and, unless told otherwise, bring them to work.

The fleet node is a lifecycle node: configuring it loads and checks the policy file, activating it starts the
control of the robots. With `autostart` it does both whenever its process starts, so also after a crash: it is
started again and takes over where the robots stand. Meanwhile the watchdog, a process of its own, holds them at
standstill. A fleet node that cannot be configured when it is first started ends the launch.

    ros2 launch marlgpt_sim fleet.launch.py robots:=robot_00,robot_01 namespace:=yard
"""

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

UNCONFIGURED = 2  # exit status of a fleet node that could not configure itself
ARGUMENTS = {
    "params_file": (
        PathJoinSubstitution([FindPackageShare("marlgpt_policy"), "config", "fleet.yaml"]),
        "parameters of the fleet node; the arguments below replace what it says, unless they are empty",
    ),
    "robots": ("", "names of the robots, separated by commas"),
    "policy": ("", "policy file (.onnx)"),
    "radius": ("", "radius of the robots, m"),
    "drive": ("", "how the robots move: differential or holonomic"),
    "execution": ("", "asynchronous or synchronous"),
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
    """Return both nodes in their namespace; each is started again whenever it ends."""
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    shared = overrides(value)
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
        return [Shutdown(reason="the fleet node could not be configured; its log above says why")]

    exit_handler = RegisterEventHandler(OnProcessExit(target_action=fleet, on_exit=ended))
    return [GroupAction([PushRosNamespace(value["namespace"]), exit_handler, watchdog, fleet])]


def is_true(text: str) -> bool:
    """Whether an argument says yes."""
    return text.lower() in ("true", "1", "yes", "on")


def overrides(value: dict[str, str]) -> dict:
    """Parameters that the arguments set, for both nodes; each takes those it knows."""
    found: dict = {"use_sim_time": is_true(value["use_sim_time"])}
    robots = [name.strip() for name in value["robots"].split(",") if name.strip()]
    if robots:
        found["robots"] = robots
    if value["radius"]:
        found["radius"] = float(value["radius"])
    found.update({name: value[name] for name in ("policy", "drive", "execution") if value[name]})
    return found
