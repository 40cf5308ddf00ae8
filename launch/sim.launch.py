"""Simulate a fleet: simulator, map, tasks, the fleet node that drives the robots and its watchdog.

    ros2 launch marlgpt_sim sim.launch.py robots:=24 seed:=3 real_time_factor:=4.0
    ros2 launch marlgpt_sim sim.launch.py robots_file:=my_robots.yaml map:=my_map.yaml

Robots are named robot_00, robot_01 and so on, and start on cells of the map that `seed` picks; with a robots file they
are those of the file, with its bodies, topics and start poses. Everything but the simulator follows simulated time.
"""

from pathlib import Path

from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node, PushRosNamespace
from launch_ros.substitutions import FindPackageShare

from launch import LaunchContext, LaunchDescription

ARGUMENTS = {
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
    "real_time_factor": ("1.0", "simulated seconds per wall second; 0 for as fast as possible"),
    "duration": ("0", "wall seconds after which everything ends; 0 for never"),
    "namespace": ("", "namespace of all nodes and topics"),
    "params_file": (
        PathJoinSubstitution([FindPackageShare("marlgpt_policy"), "config", "fleet.yaml"]),
        "parameters of the fleet node",
    ),
    "policy": ("", "policy file (.onnx); empty: that of params_file"),
    "execution": ("", "asynchronous or synchronous; empty: that of params_file"),
    "control": ("centralised", "one fleet node for all robots, or decentralised: one robot node for each"),
}
PASSED_ON = (
    "robots_file",
    "namespace",
    "params_file",
    "policy",
    "execution",
    "control",
)  # to fleet.launch.py
WATCHDOG_TIMEOUT = 0.5  # s at real time; the watchdog's clock is the wall's, slow simulations need longer


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; what depends on their values is built by `start_simulation`."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start_simulation)])


def start_simulation(context: LaunchContext) -> list:
    """Return the simulation's nodes in their namespace, the fleet node and the end of the run."""
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    bodies, seed, duration = robots_of(value), int(value["seed"]), float(value["duration"])
    map_yaml = str(Path(value["map"]).expanduser().resolve())
    if not Path(map_yaml).is_file():
        raise FileNotFoundError(f"map:={value['map']}: no such file; give a map in map_server's YAML format")
    names = {key: bodies[key] for key in ("robots", "robots_file") if key in bodies}
    nodes = [
        node(
            "simulator",
            map_yaml=map_yaml,
            seed=seed,
            real_time_factor=float(value["real_time_factor"]),
            cmd_timeout=0.2,  # no more than the fleet node's latency: a stalled computer then does no harm
            **bodies,
        ),
        node("map_publisher", map_yaml=map_yaml, use_sim_time=True, **map_frame(bodies)),
        node(
            "task_source",
            seed=seed,
            mode=value["mode"],
            control=value["control"],
            use_sim_time=True,
            **names,
        ),
    ]
    slowness = 1.0 / min(float(value["real_time_factor"]) or 1.0, 1.0)
    fleet = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(Path(__file__).with_name("fleet.launch.py"))),
        launch_arguments={
            **fleet_arguments(bodies),
            "use_sim_time": "true",
            "watchdog_timeout": str(WATCHDOG_TIMEOUT * slowness),
            **{name: value[name] for name in PASSED_ON},
        }.items(),
    )
    end = [TimerAction(period=duration, actions=[Shutdown(reason=f"{duration:g} s are over")])]
    return [
        GroupAction([PushRosNamespace(value["namespace"]), *(part for pair in nodes for part in pair)]),
        GroupAction([fleet]),
        *(end if duration > 0.0 else []),
    ]


def robots_of(value: dict[str, str]) -> dict:
    """The simulator's parameters that say which robots there are: a robots file, or names and one body for all."""
    if not value["robots_file"]:
        return {
            "robots": robot_names(value["robots"] or "8"),
            "radius": float(value["radius"] or 0.22),
            "drive": value["drive"] or "differential",
        }
    given = [name for name in ("robots", "radius", "drive") if value[name]]
    if given:
        raise ValueError(f"{given[0]}:= and robots_file:= are both given; the file says this of each robot")
    file = Path(value["robots_file"]).expanduser().resolve()
    if not file.is_file():
        raise FileNotFoundError(f"robots_file:={value['robots_file']}: no such file")
    return {"robots_file": str(file)}


def map_frame(bodies: dict) -> dict[str, str]:
    """The map's frame as a parameter, where a robots file names it."""
    if "robots_file" not in bodies:
        return {}
    from marlgpt_policy.robots_file import load_robots

    return {"map_frame": load_robots(bodies["robots_file"]).map_frame}


def fleet_arguments(bodies: dict) -> dict[str, str]:
    """The robots as arguments of fleet.launch.py."""
    if "robots_file" in bodies:
        return {}
    return {"robots": ",".join(bodies["robots"]), "radius": str(bodies["radius"]), "drive": bodies["drive"]}


def robot_names(count: str) -> list[str]:
    """Names of `count` robots: robot_00, robot_01 and so on."""
    if not count.isdecimal() or int(count) < 1:
        raise ValueError(f"robots:={count}: give the number of robots, 1 or more")
    width = max(2, len(str(int(count) - 1)))
    return [f"robot_{i:0{width}d}" for i in range(int(count))]


def node(name: str, **parameters: object) -> tuple[RegisterEventHandler, Node]:
    """One node of marlgpt_sim, named as its executable, whose failure ends the launch."""
    action = Node(package="marlgpt_sim", executable=name, name=name, parameters=[parameters], output="screen")

    def ended(event: ProcessExited, context: LaunchContext) -> list:
        if context.is_shutdown or (name == "task_source" and event.returncode == 0):
            return []
        return [Shutdown(reason=f"the {name} ended")]

    return RegisterEventHandler(OnProcessExit(target_action=action, on_exit=ended)), action
