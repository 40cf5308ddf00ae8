"""Show the fleet live in web browsers: set goals, stop and resume.

    ros2 launch marlgpt_sim view.launch.py namespace:=yard use_sim_time:=true

The page's address is printed. It works on this machine only, unless `host` says otherwise; commands then need the
token in the address (docs/seeing.md).
"""

from launch.actions import DeclareLaunchArgument, GroupAction, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node, PushRosNamespace

from launch import LaunchContext, LaunchDescription

ARGUMENTS = {
    "host": ("127.0.0.1", "address to listen on; 0.0.0.0 lets the network in"),
    "port": ("8420", "TCP port; 0 for any free one"),
    "rate": ("10.0", "frames per second that each browser gets, at most"),
    "read_only": ("false", "whether browsers may only watch"),
    "allow_hosts": ("", "more host names under which browsers may reach the page, separated by commas"),
    "title": ("", "heading of the page; empty: the namespace"),
    "robots_file": ("", "robots file (robots.yaml), for radii and goal topics"),
    "namespace": ("", "namespace of the fleet"),
    "use_sim_time": ("false", "follow /clock instead of the wall clock"),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; the node is built by `start_view` from their values."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start_view)])


def start_view(context: LaunchContext) -> list:
    """Return the node in its namespace; it is started again whenever it ends."""
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    texts = ("host", "allow_hosts", "title", "robots_file")
    parameters = {name: value[name] for name in texts} | {
        "port": int(value["port"]),
        "rate": float(value["rate"]),
        "read_only": is_true(value["read_only"]),
        "use_sim_time": is_true(value["use_sim_time"]),
    }
    node = Node(
        package="marlgpt_sim",
        executable="view_node",
        name="view_node",
        parameters=[parameters],
        output="screen",
        respawn=True,
        respawn_delay=2.0,
    )
    return [GroupAction([PushRosNamespace(value["namespace"]), node])]


def is_true(text: str) -> bool:
    """Whether an argument says yes."""
    return text.lower() in ("true", "1", "yes", "on")
