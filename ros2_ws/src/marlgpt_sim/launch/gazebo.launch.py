"""Drive a fleet in Gazebo: server or GUI, bridge, map, tasks, the fleet node that drives the robots and its watchdog.

    ros2 launch marlgpt_sim gazebo.launch.py robots:=16 seed:=3
    ros2 launch marlgpt_sim gazebo.launch.py robots_file:=my_robots.yaml map:=my_map.yaml gui:=true

World and bridge configuration are written at the start, from the map and the robots; with the same arguments the
robots are those of sim.launch.py, at the same places, with the same parameters of the fleet node. Needs Gazebo
Harmonic's `gz` on the PATH and ros_gz_bridge. Everything but Gazebo follows simulated time.
"""

import tempfile
from pathlib import Path

from launch.actions import ExecuteProcess, GroupAction, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import PushRosNamespace
from marlgpt_sim import launch_support as launching

from launch import LaunchContext, LaunchDescription

ARGUMENTS = launching.SIMULATION | {
    "gui": ("false", "show Gazebo's window; without it only the server runs"),
    "step": ("0.005", "step of the physics, s"),
    "contacts": ("false", "bridge the robots' contacts, too (ros_gz_interfaces/msg/Contacts)"),
    "files": ("", "folder for world.sdf, bridge.yaml and robots.yaml; empty: a new temporary one"),
    "watchdog_timeout": (
        "0.5",
        "seconds without a sign of life from the fleet node until robots are stopped, on the wall's clock; longer in "
        "proportion below a real_time_factor of 1; Gazebo's drives do not stop by themselves when commands cease",
    ),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; what depends on their values is built by `start_gazebo`."""
    return LaunchDescription([*launching.declared(ARGUMENTS), OpaqueFunction(function=start_gazebo)])


def start_gazebo(context: LaunchContext) -> list:
    """Write the files and return Gazebo, the bridge, the nodes in their namespace and the end of the run."""
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    plan, files = write(value)
    simulated = {"use_sim_time": True}
    map_yaml, robots = str(Path(value["map"]).expanduser().resolve()), {"robots_file": str(files.robots)}
    tasks = {"seed": int(value["seed"]), "mode": value["mode"], "control": value["control"]}
    nodes = [
        launching.node(
            "marlgpt_sim", "map_publisher", map_yaml=map_yaml, map_frame=plan.fleet.map_frame, **simulated
        ),
        launching.node("marlgpt_sim", "task_source", **tasks, **robots, **simulated),
        launching.node("ros_gz_bridge", "parameter_bridge", config_file=str(files.bridge), **simulated),
    ]
    # Not ros_gz_sim's launch file: it starts Gazebo in a shell, and launch's signals at the end reach only the shell.
    gazebo = ExecuteProcess(
        cmd=["gz", "sim", "-r", *([] if is_true(value["gui"]) else ["-s"]), str(files.world)],
        name="gazebo",
        output="screen",
        on_exit=[Shutdown(reason="Gazebo ended")],
    )
    timeout = float(value["watchdog_timeout"])
    return [
        gazebo,
        GroupAction([PushRosNamespace(value["namespace"]), *(part for pair in nodes for part in pair)]),
        GroupAction([launching.fleet(value, timeout, **fleet_arguments(value, plan, files))]),
        *launching.end_after(value["duration"]),
    ]


def write(value: dict[str, str]) -> tuple:
    """Plan the world from the arguments and write it; returns the plan and the files."""
    from marlgpt_sim.gazebo.files import write_files
    from marlgpt_sim.gazebo.plan import plan_from_files
    from marlgpt_sim.gazebo.world import WorldOptions

    file = launching.robots_file(value)
    bodies = {"robots": launching.robot_count(value), **launching.body(value)}
    if file is not None:
        bodies = {"robots_file": file}
    plan = plan_from_files(Path(value["map"]).expanduser(), seed=int(value["seed"]), **bodies)
    options = WorldOptions(step=float(value["step"]), real_time_factor=float(value["real_time_factor"]))
    folder = value["files"] or tempfile.mkdtemp(prefix="marlgpt_gazebo_")
    files = write_files(plan, folder, options, contacts=is_true(value["contacts"]))
    for sentence in plan.changes:
        print(f"gazebo.launch.py: {sentence}")
    print(f"gazebo.launch.py: world and bridge are in {files.world.parent}")
    return plan, files


def fleet_arguments(value: dict[str, str], plan: object, files: object) -> dict[str, str]:
    """The robots as arguments of fleet.launch.py: a file, or what sim.launch.py passes on without one."""
    if value["robots_file"]:
        return {"robots_file": str(files.robots)}
    same = {name: str(setting) for name, setting in launching.body(value).items()}
    return {"robots": ",".join(plan.fleet.names), **same}


def is_true(text: str) -> bool:
    """Whether an argument says yes."""
    return text.lower() in ("true", "1", "yes", "on")
