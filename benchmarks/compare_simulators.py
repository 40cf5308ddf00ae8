"""The project's own simulator and Gazebo, compared by one recorded bag of each.

Record both with the same map, robots and seed, on simulated time. `docs/gazebo.md` has the commands; in short:

    ros2 launch marlgpt_sim gazebo.launch.py robots:=16 files:=out/gazebo contacts:=true      # and once sim.launch.py
    ros2 run marlgpt_sim recorder --ros-args -p use_sim_time:=true -p output:=out/bags/gazebo  # meanwhile
    .venv/bin/python benchmarks/compare_simulators.py --own out/bags/own --gazebo out/bags/gazebo \
        --robots out/gazebo/robots.yaml --picture docs/figures/gazebo.png
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from marlgpt_policy.robots.robots_file import load_robots
from marlgpt_sim.gazebo.compare import compare, draw, summary
from marlgpt_sim.gazebo.drive_log import read_drive


def main() -> int:
    """Print the figures of both runs and of their comparison; 1 if a bag cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--own", type=Path, required=True, help="bag of the project's own simulator")
    parser.add_argument("--gazebo", type=Path, required=True, help="bag of Gazebo")
    parser.add_argument("--robots", type=Path, required=True, help="robots.yaml that gazebo.launch.py wrote")
    parser.add_argument("--namespace", default="", help="of the recorded topics")
    parser.add_argument("--picture", type=Path, metavar="OUT", help="draw the ways of both runs")
    parser.add_argument("--seconds", type=float, default=40.0, help="simulated seconds that are drawn")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the results to this file as well")
    args = parser.parse_args()
    try:
        fleet = load_robots(args.robots)
        own, gazebo = (read_drive(bag, fleet, args.namespace) for bag in (args.own, args.gazebo))
        both = compare(own, gazebo)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    figures = {"own": summary(own), "gazebo": summary(gazebo)}
    print(f"{'':<26}{'own':>12}{'Gazebo':>12}")
    for key, value in figures["own"].items():
        print(f"{key:<26}{_text(value):>12}{_text(figures['gazebo'][key]):>12}")
    for key, value in both.items():
        print(f"{key:<26}{_text(value):>12}")
    if args.picture:
        draw({"own simulator": own, "Gazebo": gazebo}, args.picture, args.seconds)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({**figures, "comparison": both}, indent=2) + "\n")
    return 0


def _text(value: float | int | None) -> str:
    """A figure, or a dash where the bag does not say."""
    return "-" if value is None else f"{value:g}"


if __name__ == "__main__":
    sys.exit(main())
