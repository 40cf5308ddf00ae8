"""The demo: simulator, map, task source and fleet node as ROS 2 processes, watched until the time is over.

Writes ``summary.json``, ``report.html``, ``picture.png``, the MCAP ``bag`` and the processes' logs. The part
that talks ROS is in :mod:`marlgpt_sim.nodes.demo_monitor`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_policy.grid.nav_grid import NavGrid, build_grid
from marlgpt_policy.grid.occupancy_map import OccupancyMap, load_map_yaml
from marlgpt_policy.policy.policy_process import PolicyProcess
from marlgpt_policy.policy.shipped_files import shipped_file

from marlgpt_sim.runs.output_folder import output_folder, remove_from
from marlgpt_sim.runs.report import RunTrace, picture, write_report
from marlgpt_sim.world.spawn import place_robots

RADII = (0.22, 0.18, 0.15, 0.12)
"""Radii in m that the demo chooses from: a mid-size mobile base down to a small TurtleBot."""
MAPS = shipped_file("marlgpt_sim", "maps")


@dataclasses.dataclass
class Args:
    """Drive a simulated fleet over ROS 2."""

    map: Path = MAPS / "warehouse.yaml"
    """Map in map_server's YAML format."""
    robots: int = 16
    """Number of robots."""
    duration: float = 120.0
    """Simulated seconds from the first decision."""
    seed: int = 0
    """Seed of starts, goals, sampling and pose noise."""
    policy: Path | None = None
    """ONNX policy file; the shipped one if not given."""
    out: Path = Path("out/demo")
    """Folder of the results; what an earlier demo left there is replaced."""
    radius: float = 0.0
    """Radius of the robots, m; 0 takes 0.22, or less where the map would have under 8 cells per robot."""
    drive: str = "differential"
    """differential or holonomic."""
    max_speed: float = 1.2
    """Largest speed of the robots, m/s."""
    noise: float = 0.003
    """Standard deviation of the measured poses, m and rad."""
    mode: str = "lifelong"
    """lifelong (a new goal on arrival) or once."""
    starts: str = ""
    """Start poses 'x,y,yaw;x,y,yaw;...' in m and rad; spread over the map if empty."""
    goals: str = ""
    """First goals 'x,y;x,y;...' in m; random if empty."""
    record: str = "auto"
    """What the bag holds: all (also every robot's odom and cmd_vel), fleet (aggregated topics only), or auto:
    all up to 32 robots."""


def _numbers(text: str, name: str, width: int, count: int) -> np.ndarray:
    """float[count, width] from 'a,b;c,d;...'; ``ValueError`` naming the option."""
    try:
        rows = [[float(value) for value in part.split(",")] for part in text.split(";") if part.strip()]
        array = np.array(rows, dtype=float).reshape(len(rows), width)
    except ValueError:
        raise ValueError(
            f"--{name} '{text}': expected {width} numbers per robot, like 1.0,2.0;3.0,4.0"
        ) from None
    if len(array) != count:
        raise ValueError(f"--{name} gives {len(array)} entries for {count} robots")
    return array


def check_fit(grid: NavGrid, names: list[str], points: np.ndarray, what: str, radius: float) -> None:
    """Refuse, by the robot's name, a start or goal float[n, 2] that its robot cannot stand at."""
    for name, (x, y) in zip(names, points, strict=True):
        where = f"{what} ({x:.2f}, {y:.2f}) of robot '{name}'"
        if not (np.isfinite(x) and np.isfinite(y)):
            raise ValueError(f"{where} is not finite")
        if not grid.inside(grid.cell_of(np.array([x, y]))):
            raise ValueError(f"{where} lies outside the map or in its outer walls")
        cell = grid.nearest_free(np.array([x, y]), grid.cell_size / np.sqrt(2))
        if cell is None:
            raise ValueError(
                f"{where} does not fit: it lies in or too near a wall for a radius of {radius} m"
            )
        if grid.components[tuple(cell)] != 0:
            raise ValueError(f"{where} lies in a part of the map that is cut off for a radius of {radius} m")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything the processes need, checked before any of them starts."""

    args: Args
    names: list[str]
    map: OccupancyMap
    grid: NavGrid
    starts: np.ndarray
    goals: np.ndarray | None
    policy: Path


def plan(args: Args) -> Plan:
    """Check the options and lay out the run. Raises ``ValueError`` or ``OSError`` with what is wrong."""
    if args.robots < 1:
        raise ValueError(f"--robots {args.robots}: at least one robot is needed")
    if not (np.isfinite(args.duration) and args.duration > 0):
        raise ValueError(f"--duration {args.duration}: give a positive number of simulated seconds")
    for name, allowed in (("record", ("auto", "all", "fleet")), ("mode", ("lifelong", "once"))):
        if getattr(args, name) not in allowed:
            raise ValueError(f"--{name} {getattr(args, name)}: choose one of {', '.join(allowed)}")
    from marlgpt_policy.policy.shipped_files import shipped_policy

    policy = Path(args.policy).resolve() if args.policy else shipped_policy()
    # In a process of its own, with a deadline: a file that never loads must not hang the command either.
    PolicyProcess(policy, POGEMA_LAYOUT, ("CPUExecutionProvider",), 1).wait_loaded().close()
    occupancy = load_map_yaml(args.map)
    grid = None
    if args.radius == 0:
        args, grid = _roomy(args, occupancy)
    elif not (np.isfinite(args.radius) and args.radius > 0):
        raise ValueError(f"--radius {args.radius}: give a positive number of metres, or 0 to choose one")
    grid = grid or build_grid(occupancy, args.radius)
    names = [f"robot_{i:02d}" for i in range(args.robots)]
    if args.starts:
        starts = _numbers(args.starts, "starts", 3, args.robots)
        check_fit(grid, names, starts[:, :2], "start", args.radius)
    else:
        starts = place_robots(grid, args.robots, args.seed)
    goals = None
    if args.goals:
        goals = np.pad(_numbers(args.goals, "goals", 2, args.robots), ((0, 0), (0, 1)))
        check_fit(grid, names, goals[:, :2], "goal", args.radius)
    return Plan(args, names, occupancy, grid, starts, goals, policy)


def _roomy(args: Args, occupancy: OccupancyMap) -> tuple[Args, NavGrid]:
    """The first of the usual radii that leaves 8 cells per robot, else the smallest one that fits at all."""
    error: ValueError | None = None
    found = None
    for radius in RADII:
        try:
            grid = build_grid(occupancy, radius)
        except ValueError as reason:
            error = error or reason
            continue
        found = dataclasses.replace(args, radius=radius), grid
        if (grid.components == 0).sum() >= 8 * args.robots:
            return found
    if found is None:
        raise error
    return found


def parameter_files(run: Plan, folder: Path) -> dict[str, Path]:
    """Write one parameter file per node; their paths by node name."""
    import yaml

    args = run.args
    body = {
        "robots": run.names, "radius": args.radius, "drive": args.drive, "max_speed": args.max_speed,
        "max_yaw_rate": 3.0, "stamped_cmd_vel": True, "seed": args.seed,
    }  # fmt: skip
    nodes = {
        "simulator": {
            **body, "max_acceleration": 3.5, "max_yaw_acceleration": 9.0, "map_yaml": str(args.map),
            "initial_poses": run.starts.ravel().tolist(), "real_time_factor": 0.0, "lockstep": True,
            "pose_noise_xy": args.noise, "pose_noise_yaw": args.noise, "lockstep_timeout": 5.0,
        },
        "map_publisher": {"map_yaml": str(args.map)},
        "task_source": {"robots": run.names, "mode": args.mode, "seed": args.seed, "use_sim_time": True},
        "fleet_node": {
            **body, "max_acceleration": 3.0, "max_yaw_acceleration": 8.0, "policy": str(run.policy),
            "use_sim_time": True, "trigger": "poses", "latency": -1.0,
        },
    }  # fmt: skip
    if run.goals is not None:
        nodes["task_source"]["goals"] = run.goals.ravel().tolist()
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, values in nodes.items():
        paths[name] = folder / f"{name}.yaml"
        paths[name].write_text(yaml.safe_dump({"/**": {"ros__parameters": values}}))
    return paths


MODULES = {
    "simulator": "marlgpt_sim.nodes.simulator",
    "map_publisher": "marlgpt_sim.nodes.map_publisher",
    "task_source": "marlgpt_sim.nodes.task_source",
    "fleet_node": "marlgpt_policy.nodes.fleet_node",
    "watchdog_node": "marlgpt_policy.nodes.watchdog_node",
}


RESULTS = ("bag", "logs", "summary.json", "report.html", "picture.png")
"""What a demo leaves in its folder."""


class Processes:
    """The nodes as child processes; a context manager that always ends them."""

    def __init__(self, parameters: dict[str, Path], logs: Path) -> None:
        """Start all nodes, each logging to a file of its own."""
        logs.mkdir(parents=True, exist_ok=True)
        self.logs = {name: logs / f"{name}.log" for name in parameters}
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.children = {}
        for name, path in parameters.items():
            command = [sys.executable, "-m", MODULES[name], "--ros-args", "--params-file", str(path)]
            with open(self.logs[name], "wb") as log:
                self.children[name] = subprocess.Popen(
                    command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
                )

    def check(self) -> None:
        """Raise ``RuntimeError`` with the end of its log if a node has ended."""
        for name, child in self.children.items():
            if child.poll() is not None:
                text = self.logs[name].read_text(errors="replace").strip().splitlines()
                raise RuntimeError(f"{name} ended with code {child.returncode}:\n  " + "\n  ".join(text[-8:]))

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children.values():
            if child.poll() is None:
                child.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 5.0
        for child in self.children.values():
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def main(args: Args) -> int:
    """Run the demo; 0 if no robot touched anything, 3 if one did, 1 if it could not run."""
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    # Two demos, or a demo and a real fleet, must not hear each other.
    domain = os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    run = plan(args)
    with output_folder(args.out, "demo"):
        remove_from(args.out, RESULTS)
        return drive(run, domain)


def drive(run: Plan, domain: str) -> int:
    """Start the nodes, watch them until the time is over, write the results; the exit status."""
    from marlgpt_sim.nodes.demo_monitor import watch

    args = run.args

    rows, cols = run.grid.free.shape
    print(
        f"{args.map.name}: {rows} x {cols} cells of {run.grid.cell_size:.2f} m, {args.robots} robots "
        f"of {run.args.radius} m radius, policy {run.policy.name}, {args.duration:.0f} simulated seconds "
        f"(ROS_DOMAIN_ID={domain})"
    )
    everything = args.record == "all" or (args.record == "auto" and args.robots <= 32)
    try:
        with Processes(parameter_files(run, args.out / "logs"), args.out / "logs") as processes:
            trace, summary = watch(run, processes, args.out / "bag", everything)
    except RuntimeError as error:
        print(f"marlgpt demo: {error}", file=sys.stderr)
        return 1
    return finish(run, trace, summary)


def finish(run: Plan, trace: RunTrace, summary: dict) -> int:
    """Write and print the results."""
    out = run.args.out
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    write_report(trace, out / "report.html")
    picture(trace, out / "picture.png")
    width = max(map(len, summary))
    for key, value in summary.items():
        print(f"{key:<{width}}  {value}")
    print(f"written to {out}: summary.json, report.html, picture.png, bag, logs")
    contacts = summary["robot_contacts"] + summary["wall_contacts"]
    if contacts:
        print(f"{contacts} contacts: this must not happen; please report {out}", file=sys.stderr)
    return 3 if contacts else 0
