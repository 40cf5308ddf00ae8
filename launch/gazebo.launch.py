"""Drive a fleet in Gazebo: server or GUI, bridge, map, tasks, the fleet node that drives the robots and its watchdog.

    ros2 launch marlgpt_sim gazebo.launch.py robots:=16 seed:=3
    ros2 launch marlgpt_sim gazebo.launch.py robots_file:=my_robots.yaml map:=my_map.yaml gui:=true

World and bridge configuration are written at the start, from the map and the robots; with the same arguments the
robots are those of sim.launch.py, at the same places, with the same parameters of the fleet node. Needs Gazebo
Harmonic's `gz` on the PATH and ros_gz_bridge. Everything but Gazebo follows simulated time.
"""

import tempfile
from pathlib import Path

from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
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
    "seed": ("0", "of start poses and tasks"),
    "radius": ("", "radius of the robots, m; empty: 0.22, or as robots_file says"),
    "drive": ("", "differential or holonomic; empty: differential, or as robots_file says"),
    "mode": ("lifelong", "tasks: lifelong, a new goal as soon as one is reached, or once"),
    "gui": ("false", "show Gazebo's window; without it only the server runs"),
    "step": ("0.005", "step of the physics, s"),
    "real_time_factor": ("1.0", "simulated seconds per wall second at most; 0 for as fast as possible"),
    "contacts": ("false", "bridge the robots' contacts, too (ros_gz_interfaces/msg/Contacts)"),
    "files": ("", "folder for world.sdf, bridge.yaml and robots.yaml; empty: a new temporary one"),
    "duration": ("0", "wall seconds after which everything ends; 0 for never"),
    "namespace": ("", "namespace of all nodes and topics"),
    "params_file": (
        PathJoinSubstitution([FindPackageShare("marlgpt_policy"), "config", "fleet.yaml"]),
        "parameters of the fleet node",
    ),
    "policy": ("", "policy file (.onnx); empty: that of params_file"),
    "execution": ("", "asynchronous or synchronous; empty: that of params_file"),
    "control": ("centralised", "one fleet node for all robots, or decentralised: one robot node for each"),
    "watchdog_timeout": (
        "0.5",
        "seconds without a sign of life from the fleet node until robots are stopped, on the wall's clock; longer in "
        "proportion below a real_time_factor of 1; Gazebo's drives do not stop by themselves when commands cease",
    ),
}
PASSED_ON = ("namespace", "params_file", "policy", "execution", "control")


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; what depends on their values is built by `start_gazebo`."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start_gazebo)])


def start_gazebo(context: LaunchContext) -> list:
    """Write the files and return Gazebo, the bridge, the nodes in their namespace and the end of the run."""
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    plan, files = write(value)
    map_yaml, duration = str(Path(value["map"]).expanduser().resolve()), float(value["duration"])
    robots = {"robots_file": str(files.robots)}
    nodes = [
        node("marlgpt_sim", "map_publisher", map_yaml=map_yaml, map_frame=plan.fleet.map_frame),
        node(
            "marlgpt_sim",
            "task_source",
            seed=int(value["seed"]),
            mode=value["mode"],
            control=value["control"],
            **robots,
        ),
        node("ros_gz_bridge", "parameter_bridge", config_file=str(files.bridge)),
    ]
    gui = value["gui"].lower() in ("true", "1", "yes", "on")
    # Not ros_gz_sim's launch file: it starts Gazebo in a shell, and launch's signals at the end reach only the shell.
    gazebo = ExecuteProcess(
        cmd=["gz", "sim", "-r", *([] if gui else ["-s"]), str(files.world)],
        name="gazebo",
        output="screen",
        on_exit=[Shutdown(reason="Gazebo ended")],
    )
    slowness = 1.0 / min(float(value["real_time_factor"]) or 1.0, 1.0)
    fleet = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(Path(__file__).with_name("fleet.launch.py"))),
        launch_arguments={
            **fleet_arguments(value, plan, files),
            "use_sim_time": "true",
            "watchdog_timeout": str(float(value["watchdog_timeout"]) * slowness),
            **{name: value[name] for name in PASSED_ON},
        }.items(),
    )
    end = [TimerAction(period=duration, actions=[Shutdown(reason=f"{duration:g} s are over")])]
    return [
        gazebo,
        GroupAction([PushRosNamespace(value["namespace"]), *(part for pair in nodes for part in pair)]),
        GroupAction([fleet]),
        *(end if duration > 0.0 else []),
    ]


def write(value: dict[str, str]) -> tuple:
    """Plan the world from the arguments and write it; returns the plan and the files."""
    from marlgpt_sim.gazebo.files import write_files
    from marlgpt_sim.gazebo.plan import plan_from_files
    from marlgpt_sim.gazebo.world import WorldOptions

    bodies: dict = {"robots": count(value["robots"] or "8"), "radius": float(value["radius"] or 0.22)}
    bodies["drive"] = value["drive"] or "differential"
    if value["robots_file"]:
        given = [name for name in ("robots", "radius", "drive") if value[name]]
        if given:
            raise ValueError(
                f"{given[0]}:= and robots_file:= are both given; the file says this of each robot"
            )
        bodies = {"robots_file": Path(value["robots_file"]).expanduser()}
    plan = plan_from_files(Path(value["map"]).expanduser(), seed=int(value["seed"]), **bodies)
    options = WorldOptions(step=float(value["step"]), real_time_factor=float(value["real_time_factor"]))
    folder = value["files"] or tempfile.mkdtemp(prefix="marlgpt_gazebo_")
    files = write_files(
        plan, folder, options, contacts=value["contacts"].lower() in ("true", "1", "yes", "on")
    )
    for sentence in plan.changes:
        print(f"gazebo.launch.py: {sentence}")
    print(f"gazebo.launch.py: world and bridge are in {files.world.parent}")
    return plan, files


def fleet_arguments(value: dict[str, str], plan: object, files: object) -> dict[str, str]:
    """The robots as arguments of fleet.launch.py: a file, or what sim.launch.py passes on without one."""
    if value["robots_file"]:
        return {"robots_file": str(files.robots)}
    return {
        "robots": ",".join(plan.fleet.names),
        "radius": value["radius"] or "0.22",
        "drive": value["drive"] or "differential",
    }


def count(text: str) -> int:
    """A number of robots."""
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"robots:={text}: give the number of robots, 1 or more")
    return int(text)


def node(package: str, name: str, **parameters: object) -> tuple[RegisterEventHandler, Node]:
    """One node on simulated time, named as its executable, whose failure ends the launch."""
    parameters["use_sim_time"] = True
    action = Node(package=package, executable=name, name=name, parameters=[parameters], output="screen")

    def ended(event: ProcessExited, context: LaunchContext) -> list:
        if context.is_shutdown or (name == "task_source" and event.returncode == 0):
            return []
        return [Shutdown(reason=f"the {name} ended")]

    return RegisterEventHandler(OnProcessExit(target_action=action, on_exit=ended)), action
