"""What the launch files of both simulators share: their arguments, and how a node is started.

Needs ROS 2's ``launch`` and ``launch_ros``, which only launch files import.
"""

from __future__ import annotations

from pathlib import Path

from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    RegisterEventHandler,
    Shutdown,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from launch import LaunchContext

FLEET = {
    "namespace": ("", "namespace of all nodes and topics"),
    "params_file": (
        PathJoinSubstitution([FindPackageShare("marlgpt_policy"), "config", "fleet.yaml"]),
        "parameters of the fleet node",
    ),
    "policy": ("", "policy file (.onnx); empty: that of params_file"),
    "execution": ("", "asynchronous or synchronous; empty: that of params_file"),
    "control": ("centralised", "one fleet node for all robots, or decentralised: one robot node for each"),
}
"""Arguments that a simulator's launch file passes on to fleet.launch.py: name to default and description."""
SIMULATION = {
    "map": (
        PathJoinSubstitution([FindPackageShare("marlgpt_sim"), "maps", "warehouse.yaml"]),
        "map in map_server's YAML format",
    ),
    "robots_file": ("", "YAML file that describes each robot; then robots, radius and drive stay empty"),
    "robots": ("", "number of robots; empty: 8, or those of robots_file"),
    "seed": ("0", "of start poses, tasks and noise"),
    "radius": ("", "radius of the robots, m; empty: 0.22, or as robots_file says"),
    "drive": ("", "differential or holonomic; empty: differential, or as robots_file says"),
    "mode": ("lifelong", "tasks: lifelong, a new goal as soon as one is reached, or once"),
    "real_time_factor": ("1.0", "simulated seconds per wall second at most; 0 for as fast as possible"),
    "duration": ("0", "wall seconds after which everything ends; 0 for never"),
    **FLEET,
}
"""Arguments of every simulator's launch file."""


def declared(arguments: dict[str, tuple]) -> list[DeclareLaunchArgument]:
    """The launch actions that declare a table of arguments."""
    return [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in arguments.items()
    ]


def robot_count(value: dict[str, str]) -> int:
    """Number of robots that the arguments ask for; ``ValueError`` if it is none."""
    text = value["robots"] or "8"
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"robots:={text}: give the number of robots, 1 or more")
    return int(text)


def body(value: dict[str, str]) -> dict:
    """Radius (m) and drive of all robots, where no robots file says them."""
    return {"radius": float(value["radius"] or 0.22), "drive": value["drive"] or "differential"}


def robots_file(value: dict[str, str]) -> Path | None:
    """The robots file, None where there is none.

    Raises:
        ValueError: Other arguments say the same.
        FileNotFoundError: It is not there.
    """
    if not value["robots_file"]:
        return None
    given = [name for name in ("robots", "radius", "drive") if value[name]]
    if given:
        raise ValueError(f"{given[0]}:= and robots_file:= are both given; the file says this of each robot")
    file = Path(value["robots_file"]).expanduser().resolve()
    if not file.is_file():
        raise FileNotFoundError(f"robots_file:={value['robots_file']}: no such file")
    return file


def fleet(value: dict[str, str], watchdog_timeout: float, **arguments: str) -> IncludeLaunchDescription:
    """fleet.launch.py of marlgpt_policy, on simulated time.

    Args:
        value: Arguments of the launch file that includes it; those of `FLEET` and ``real_time_factor`` are used.
        watchdog_timeout: Seconds at real time. The watchdog's clock is the wall's: a fleet node on slower simulated
            time shows signs of life less often, and is given longer in proportion.
        arguments: More arguments of fleet.launch.py.
    """
    slowness = 1.0 / min(float(value["real_time_factor"]) or 1.0, 1.0)
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource(
            PathJoinSubstitution([FindPackageShare("marlgpt_policy"), "launch", "fleet.launch.py"])
        ),
        launch_arguments={
            **arguments,
            "use_sim_time": "true",
            "watchdog_timeout": str(watchdog_timeout * slowness),
            **{name: value[name] for name in FLEET},
        }.items(),
    )


def end_after(text: str) -> list[TimerAction]:
    """What ends the launch after so many wall seconds; nothing for 0."""
    seconds = float(text)
    end = Shutdown(reason=f"{seconds:g} s are over")
    return [TimerAction(period=seconds, actions=[end])] if seconds > 0.0 else []


def node(package: str, name: str, **parameters: object) -> tuple[RegisterEventHandler, Node]:
    """One node, named as its executable, whose failure ends the launch; a task source may be done."""
    action = Node(package=package, executable=name, name=name, parameters=[parameters], output="screen")

    def ended(event: ProcessExited, context: LaunchContext) -> list:
        if context.is_shutdown or (name == "task_source" and event.returncode == 0):
            return []
        return [Shutdown(reason=f"the {name} ended")]

    return RegisterEventHandler(OnProcessExit(target_action=action, on_exit=ended)), action
