"""Start the fleet node and, unless told otherwise, bring it to work.

The node is a lifecycle node: configuring it loads and checks the policy file, activating it starts the
control of the robots. With ``autostart`` both happen once; whoever deactivates the node later also decides
when it works again. A node that ends or cannot be configured ends the launch.

    ros2 launch marlgpt_sim fleet.launch.py robots:=robot_00,robot_01 namespace:=yard
"""

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    GroupAction,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
)
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessExit, OnProcessStart
from launch.events import matches_action
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, PushRosNamespace
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.substitutions import FindPackageShare
from lifecycle_msgs.msg import Transition

from launch import LaunchContext, LaunchDescription

ARGUMENTS = {
    "params_file": (
        PathJoinSubstitution([FindPackageShare("marlgpt_policy"), "config", "fleet.yaml"]),
        "parameters of the fleet node; the arguments below replace what it says, unless they are empty",
    ),
    "robots": ("", "names of the robots, separated by commas"),
    "policy": ("", "policy file (.onnx)"),
    "radius": ("", "radius of the robots, m"),
    "drive": ("", "how the robots move: differential or holonomic"),
    "namespace": ("", "namespace of the fleet node and its topics"),
    "use_sim_time": ("false", "follow /clock instead of the wall clock"),
    "autostart": ("true", "configure and activate the node"),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; what depends on their values is built by `start_fleet`."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start_fleet)])


def start_fleet(context: LaunchContext) -> list:
    """Return the node in its namespace and the handlers that take it through its lifecycle."""
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    node = LifecycleNode(
        package="marlgpt_policy",
        executable="fleet_node",
        name="fleet_node",
        namespace="",
        parameters=[value["params_file"], overrides(value)],
        output="screen",
    )

    def ended(_event: ProcessExited, context: LaunchContext) -> list:
        return [] if context.is_shutdown else [Shutdown(reason="the fleet node ended")]

    exit_handler = RegisterEventHandler(OnProcessExit(target_action=node, on_exit=ended))
    start_handlers = GroupAction(autostart(node), condition=IfCondition(value["autostart"]))
    return [GroupAction([PushRosNamespace(value["namespace"]), exit_handler, start_handlers, node])]


def overrides(value: dict[str, str]) -> dict:
    """Parameters that the arguments set."""
    found: dict = {"use_sim_time": value["use_sim_time"].lower() in ("true", "1", "yes", "on")}
    robots = [name.strip() for name in value["robots"].split(",") if name.strip()]
    if robots:
        found["robots"] = robots
    if value["radius"]:
        found["radius"] = float(value["radius"])
    found.update({name: value[name] for name in ("policy", "drive") if value[name]})
    return found


def autostart(node: LifecycleNode) -> list:
    """Handlers that configure the node once its process runs, then activate it once it is configured."""

    def change(transition: int) -> EmitEvent:
        which = matches_action(node)
        return EmitEvent(event=ChangeState(lifecycle_node_matcher=which, transition_id=transition))

    def configured(goal_state: str, entities: list) -> RegisterEventHandler:
        return RegisterEventHandler(
            OnStateTransition(
                target_lifecycle_node=node,
                start_state="configuring",
                goal_state=goal_state,
                entities=entities,
                handle_once=True,
            )
        )

    configure = change(Transition.TRANSITION_CONFIGURE)
    reason = "the fleet node could not be configured; its log above says why"
    return [
        RegisterEventHandler(OnProcessStart(target_action=node, on_start=[configure], handle_once=True)),
        configured("inactive", [change(Transition.TRANSITION_ACTIVATE)]),
        configured("unconfigured", [LogInfo(msg=reason), Shutdown(reason=reason)]),
    ]
