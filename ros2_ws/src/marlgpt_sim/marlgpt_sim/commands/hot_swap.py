"""Swap the policy of a simulated fleet by service while it drives, over ROS 2, and measure before and after.

The same processes as in the demo: simulator, map publisher, task source and fleet node. The part that talks ROS is in
:mod:`marlgpt_sim.nodes.hot_swap_monitor`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import yaml

from marlgpt_sim.runs.demo_plan import Args as DemoArgs
from marlgpt_sim.runs.demo_plan import parameter_files, plan
from marlgpt_sim.runs.node_processes import Processes


@dataclasses.dataclass
class Args:
    """Swap the policy of a driving fleet."""

    map: Path
    """Map in map_server's YAML format."""
    before: Path
    """ONNX policy that the fleet starts with."""
    after: Path
    """ONNX policy that it is told to load."""
    out: Path = Path("out/hot_swap")
    """Folder of parameters, logs, bag and summary.json."""
    robots: int = 14
    """Number of robots."""
    radius: float = 0.22
    """Radius of the robots, m."""
    seconds: float = 120.0
    """Simulated seconds with each of the policies."""
    areas: tuple[tuple[float, float, float, float], ...] = ()
    """Rectangles x, y, x, y (m) of starts and goals; everywhere if none is given."""
    seed: int = 0
    """Seed of starts, goals, sampling and pose noise."""


def spread(args: Args, grid) -> str:
    """Start poses on cells of the areas, as the demo takes them."""
    cells = np.argwhere(grid.components == 0)
    x, y = grid.centre(cells).T[..., None]
    left, bottom, right, top = np.array(args.areas, float).T
    cells = cells[((x >= left) & (x <= right) & (y >= bottom) & (y <= top)).any(axis=1)]
    if len(cells) < args.robots:
        raise ValueError(f"{args.robots} robots do not fit on the {len(cells)} cells of the areas")
    random = np.random.default_rng([args.seed, 3])
    places = grid.centre(cells[random.permutation(len(cells))[: args.robots]])
    yaws = random.uniform(-np.pi, np.pi, args.robots)
    return ";".join(f"{x:.6f},{y:.6f},{yaw:.6f}" for (x, y), yaw in zip(places, yaws, strict=True))


def run(args: Args) -> dict:
    """Start the graph, drive, try a broken file, swap, drive on; the measurements.

    Returns:
        ``before`` and ``after`` (goals, sim_seconds, goals_per_minute, policy), ``swap`` (accepted, message,
        wall_seconds), ``refused`` (the same of a broken file), ``longest_decision_gap_s`` around the swap,
        ``commanded_stop`` (whether the fleet was ever stopped), contacts and ``min_separation_m``.

    Raises:
        RuntimeError: A process ended, or something did not happen in time; names the log.
        ValueError: Options, map or policy that cannot be.
    """
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    demo = DemoArgs(
        map=args.map, robots=args.robots, radius=args.radius, policy=args.before, seed=args.seed, out=args.out
    )
    setup = plan(demo)
    if args.areas:
        setup = plan(dataclasses.replace(demo, starts=spread(args, setup.grid)))
    args.out.mkdir(parents=True, exist_ok=True)
    logs = args.out / "logs"
    files = parameter_files(setup, logs)
    if args.areas:
        settings = yaml.safe_load(files["task_source"].read_text())
        settings["/**"]["ros__parameters"]["areas"] = [float(v) for area in args.areas for v in area]
        files["task_source"].write_text(yaml.safe_dump(settings))
    broken = args.out / "broken.onnx"
    broken.write_bytes(args.after.read_bytes()[: args.after.stat().st_size // 2])
    from marlgpt_sim.nodes.hot_swap_monitor import watch

    with Processes(files, logs) as processes:
        summary = watch(setup, processes, args.after, broken, args.seconds)
    summary["seed"] = args.seed
    (args.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary
