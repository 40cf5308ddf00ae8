"""What a demo will drive: map, robots, goals, and the parameter files of its nodes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_policy.grid.nav_grid import NavGrid, build_grid
from marlgpt_policy.grid.occupancy_map import OccupancyMap, load_map_yaml
from marlgpt_policy.policy.policy_process import PolicyProcess
from marlgpt_policy.policy.shipped_files import shipped_file

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
