"""Record what a fleet does into an MCAP bag that `marlgpt import-bag` turns into training data.

    ros2 launch marlgpt_sim record.launch.py output:=monday robots:=robot_00,robot_01
    ros2 launch marlgpt_sim record.launch.py output:=monday robots_file:=my_robots.yaml max_size:=1000 max_duration:=600

It records map, grid, states, decisions, tf, and the poses, commands and goals of the robots that are named, whether
they run already or come later; without names, every topic. Stop it with Ctrl-C. With `with:=rosbag2` the same topics
are recorded by `ros2 bag record`, where that is installed.
"""

import time
from pathlib import Path

from launch.actions import DeclareLaunchArgument, ExecuteProcess, GroupAction, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node, PushRosNamespace

from launch import LaunchContext, LaunchDescription

ARGUMENTS = {
    "output": ("", "folder of the bag, which must not exist; empty: bags/ and the time"),
    "robots": ("", "names of the robots, separated by commas"),
    "robots_file": ("", "YAML file that describes each robot; then robots stays empty"),
    "topics": ("", "more topics, separated by commas"),
    "max_size": ("0", "megabytes of messages after which the next file of the bag begins; 0: never"),
    "max_duration": ("0", "seconds after which the next file of the bag begins; 0: never"),
    "flush_period": ("0.5", "seconds that a message stays in memory at most: what a crash may lose"),
    "namespace": ("", "namespace of the fleet's topics"),
    "use_sim_time": ("false", "follow /clock instead of the wall clock, and record it"),
    "with": ("recorder", "recorder: this project's; rosbag2: ros2 bag record"),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; what depends on their values is built by `start_recording`."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start_recording)])


def start_recording(context: LaunchContext) -> list:
    """Return the recorder in its namespace."""
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    sim_time = value["use_sim_time"].lower() in ("true", "1", "yes")
    topics = topics_to_record(value, sim_time)
    output = Path(value["output"] or time.strftime("bags/%Y-%m-%d_%H-%M-%S")).expanduser().resolve()
    if output.exists():
        raise FileExistsError(f"output:={output}: exists already; choose another name or remove it")
    size = round(number(value, "max_size") * 1e6)
    duration = number(value, "max_duration")
    if value["with"] == "rosbag2":
        return [rosbag2(output, topics, size, duration, sim_time, value["namespace"])]
    if value["with"] != "recorder":
        raise ValueError(f"with:={value['with']}: it must be recorder or rosbag2")
    recorder = Node(
        package="marlgpt_sim",
        executable="recorder",
        name="recorder",
        parameters=[
            {
                "output": str(output),
                "topics": topics or [""],
                "flush_period": number(value, "flush_period"),
                "max_size": size,
                "max_duration": duration,
                "use_sim_time": sim_time,
            }
        ],
        output="screen",
    )
    return [GroupAction([PushRosNamespace(value["namespace"]), recorder])]


def topics_to_record(value: dict[str, str], sim_time: bool) -> list[str]:
    """Names of the topics, relative to the fleet's namespace; none for all."""
    from marlgpt_policy.robots.robots_file import FleetFile, load_robots
    from marlgpt_sim.bags.record_topics import topics_of

    extra = [name.strip() for name in value["topics"].split(",") if name.strip()]
    names = [name.strip() for name in value["robots"].split(",") if name.strip()]
    if names and value["robots_file"]:
        raise ValueError("robots:= and robots_file:= are both given; the file names the robots")
    if value["robots_file"]:
        return topics_of(load_robots(value["robots_file"]), sim_time, extra)
    if names:
        poses = [f"{name}/pose" for name in names]  # one of odom and pose comes, by the fleet's parameters
        return topics_of(FleetFile.default(names), sim_time, [*poses, *extra])
    return extra


def number(value: dict[str, str], name: str) -> float:
    """An argument that is a number, zero or more."""
    try:
        found = float(value[name])
    except ValueError:
        found = -1.0
    if not 0.0 <= found < 1e12:
        raise ValueError(f"{name}:={value[name]}: it must be a number, 0 or more")
    return found


def rosbag2(
    output: Path, topics: list[str], size: int, duration: float, sim_time: bool, namespace: str
) -> ExecuteProcess:
    """The same recording by `ros2 bag record`."""
    from marlgpt_sim.bags.record_topics import absolute

    command = ["ros2", "bag", "record", "--storage", "mcap", "--output", str(output)]
    command += ["--max-bag-size", str(size)] if size else []
    command += ["--max-bag-duration", str(round(duration))] if duration else []
    command += ["--use-sim-time"] if sim_time else []
    command += ["--topics", *(absolute(topic, namespace) for topic in topics)] if topics else ["--all"]
    return ExecuteProcess(cmd=command, output="screen")
