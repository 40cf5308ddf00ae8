"""Simulate a fleet: simulator, map, tasks, the fleet node that drives the robots and its watchdog.

    ros2 launch marlgpt_sim sim.launch.py robots:=24 seed:=3 real_time_factor:=4.0
    ros2 launch marlgpt_sim sim.launch.py robots_file:=my_robots.yaml map:=my_map.yaml

Robots are named robot_00, robot_01 and so on, and start on cells of the map that `seed` picks; with a robots file they
are those of the file, with its bodies, topics and start poses. Everything but the simulator follows simulated time.
"""

from pathlib import Path

from launch.actions import GroupAction, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import PushRosNamespace
from marlgpt_sim import launch_support as launching

from launch import LaunchContext, LaunchDescription

ARGUMENTS = launching.SIMULATION
WATCHDOG_TIMEOUT = 0.5  # s


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; what depends on their values is built by `start_simulation`."""
    return LaunchDescription([*launching.declared(ARGUMENTS), OpaqueFunction(function=start_simulation)])


def start_simulation(context: LaunchContext) -> list:
    """Return the simulation's nodes in their namespace, the fleet node and the end of the run."""
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    bodies, seed = robots_of(value), int(value["seed"])
    map_yaml = str(Path(value["map"]).expanduser().resolve())
    if not Path(map_yaml).is_file():
        raise FileNotFoundError(f"map:={value['map']}: no such file; give a map in map_server's YAML format")
    names = {key: bodies[key] for key in ("robots", "robots_file") if key in bodies}
    tasks = {"seed": seed, "mode": value["mode"], "control": value["control"], "use_sim_time": True}
    nodes = [
        launching.node(
            "marlgpt_sim",
            "simulator",
            map_yaml=map_yaml,
            seed=seed,
            real_time_factor=float(value["real_time_factor"]),
            cmd_timeout=0.2,  # no more than the fleet node's latency: a stalled computer then does no harm
            **bodies,
        ),
        launching.node(
            "marlgpt_sim", "map_publisher", map_yaml=map_yaml, use_sim_time=True, **map_frame(bodies)
        ),
        launching.node("marlgpt_sim", "task_source", **tasks, **names),
    ]
    return [
        GroupAction([PushRosNamespace(value["namespace"]), *(part for pair in nodes for part in pair)]),
        GroupAction([launching.fleet(value, WATCHDOG_TIMEOUT, **fleet_arguments(bodies))]),
        *launching.end_after(value["duration"]),
    ]


def robots_of(value: dict[str, str]) -> dict:
    """The simulator's parameters that say which robots there are: a robots file, or names and one body for all."""
    from marlgpt_sim.gazebo.plan import robot_names

    file = launching.robots_file(value)
    if file is not None:
        return {"robots_file": str(file)}
    return {"robots": robot_names(launching.robot_count(value)), **launching.body(value)}


def map_frame(bodies: dict) -> dict[str, str]:
    """The map's frame as a parameter, where a robots file names it."""
    if "robots_file" not in bodies:
        return {}
    from marlgpt_policy.robots.robots_file import load_robots

    return {"map_frame": load_robots(bodies["robots_file"]).map_frame}


def fleet_arguments(bodies: dict) -> dict[str, str]:
    """The robots as arguments of fleet.launch.py."""
    if "robots_file" in bodies:
        return {"robots_file": bodies["robots_file"]}
    return {"robots": ",".join(bodies["robots"]), "radius": str(bodies["radius"]), "drive": bodies["drive"]}
