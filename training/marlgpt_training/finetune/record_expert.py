"""Record a session in which an expert drives a simulated fleet: an MCAP bag with map, poses and goals, no decisions.

The expert is the large-neighbourhood search of the training data. It may know rules of the site that no robot does: a
set of moves that it keeps to. The fleet's own shield, reservations and motion execute what it decides, in lockstep.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
from marlgpt_policy.encoders.token_layout import MAX_ACTIONS
from marlgpt_policy.fleet.fleet_config import FleetConfig
from marlgpt_policy.fleet.planners.planner import Proposal
from marlgpt_policy.fleet.snapshot import Snapshot
from marlgpt_policy.grid.cost_to_go import CostToGo
from marlgpt_policy.grid.nav_grid import build_grid
from marlgpt_policy.grid.occupancy_map import OccupancyMap, load_map_yaml
from marlgpt_policy.robots.robot_config import MotionLimits
from marlgpt_sim.bags.bag_types import TopicSpec
from marlgpt_sim.bags.bag_writer import BagWriter
from marlgpt_sim.maps import two_halls
from marlgpt_sim.runs.output_folder import check_output_file, output_folder, remove_from
from marlgpt_sim.world.closed_loop import ClosedLoop
from tqdm import tqdm

from marlgpt_training.experts.lns import LnsExpert, window_of

ODOMETRY, GOAL, MAP = "nav_msgs/msg/Odometry", "geometry_msgs/msg/PoseStamped", "nav_msgs/msg/OccupancyGrid"
LOCKSTEP = FleetConfig(execution="synchronous", step_timeout=60.0, first_settle=0.0, temperature=0.0)
FAST = MotionLimits(max_speed=1.2, max_yaw_rate=3.0, max_acceleration=3.0, max_yaw_acceleration=8.0)
"""The demo's robots."""
CERTAIN = 20.0
"""Logit of the expert's move; those of the others are 0."""


@dataclasses.dataclass
class Args:
    """Record a session of an expert that drives a simulated fleet."""

    out: Path = Path("out/expert_session")
    """Folder of the bag; an earlier recording in it is replaced."""
    map: Path | None = None
    """Map in map_server's YAML format; the site of two halls if not given, with goals in its halls only."""
    robots: int = 20
    """Number of robots."""
    minutes: float = 20.0
    """Simulated minutes."""
    radius: float = two_halls.RADIUS
    """Radius of the robots, m."""
    rule: str = "auto"
    """Rule that the expert keeps: one-way (aisles of the site of two halls), none, or auto: one-way on that site."""
    rate: float = 5.0
    """Poses per second in the bag."""
    seed: int = 1000
    """Seed of starts, goals and search."""


def bar_interval() -> float:
    """Seconds between two states of a progress bar: few lines where they end in a file."""
    return 0.2 if sys.stderr.isatty() else 30.0


class ExpertPlanner:
    """The expert as a planner of a fleet: it plans for all robots from where they are, and looks at no observations."""

    name, provider, sha256 = "lns expert", "search", ""
    resolves_deadlocks = True  # an expert that lets robots wait knows why

    def __init__(self, allowed: np.ndarray, robots: int, seed: int) -> None:
        """``allowed`` bool[R, C, 5] are the moves that the expert uses."""
        self._costs = CostToGo(allowed, capacity=4096)
        self._expert = LnsExpert(allowed, robots, window=window_of("warehouse"), seed=seed)

    def propose(self, snapshot: Snapshot, random: np.random.Generator) -> Proposal:
        """The expert's moves of the robots that decide; it plans for all, each time anew."""
        goals = snapshot.goals
        plan = self._expert.act(snapshot.cells, goals, self._costs.fields(goals), np.arange(len(goals)))
        mask, rows = snapshot.mask, np.arange(len(snapshot.which))
        chosen = plan[snapshot.which].astype(np.int64)
        chosen = np.where(mask[rows, chosen], chosen, 0)
        logits = np.where(mask, 0.0, -1e9).astype(np.float32)
        logits[rows, chosen] = CERTAIN
        shown = np.exp(logits[:, :5] - logits[:, :5].max(axis=1, keepdims=True))
        probabilities = (shown / shown.sum(axis=1, keepdims=True)).astype(np.float32)
        values = np.zeros((len(rows), MAX_ACTIONS), dtype=np.float32)
        return Proposal(chosen.astype(np.int8), logits, probabilities, values)


def expert_loop(
    map: OccupancyMap, robots: int, seed: int, radius: float, rule=None, places: np.ndarray | None = None
) -> ClosedLoop:
    """A closed loop in which the expert decides; ``rule`` (grid) -> bool[R, C, 5] are the moves it uses.

    ``places`` int[k, 2] are the cells of starts and goals, all connected ones if None.
    """
    grid = build_grid(map, radius)
    planner = ExpertPlanner(grid.moves if rule is None else rule(grid), robots, seed)
    return ClosedLoop(map, robots, planner, LOCKSTEP, radius, FAST, seed=seed, places=places)


class SessionWriter:
    """Writes what robots without any decision to show would publish: map, odometry and goals."""

    def __init__(self, path: Path, loop: ClosedLoop, map: OccupancyMap) -> None:
        """Open the bag at ``path`` and write the map."""
        self.loop = loop
        self.bag = BagWriter(path, flush_period=10.0)
        self.types = self.bag.types.types
        self.bag.add_topic("/map", MAP, [TopicSpec("/map", MAP, latched=True, depth=1).qos()])
        for name in loop.fleet.names:
            for topic, kind in ((f"/{name}/odom", ODOMETRY), (f"/{name}/goal_pose", GOAL)):
                self.bag.add_topic(topic, kind, [TopicSpec(topic, kind).qos()])
        self._write("/map", MAP, self._map(map))
        self.sent = np.full((len(loop.fleet.names), 2), -1)

    def _write(self, topic: str, kind: str, message) -> None:
        stamp = round(self.loop.time * 1e9)
        self.bag.write(topic, kind, bytes(self.bag.types.serialize_cdr(message, kind)), stamp)

    def _header(self):
        nanoseconds = round(self.loop.time * 1e9)
        time = self.types["builtin_interfaces/msg/Time"]
        stamp = time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)
        return self.types["std_msgs/msg/Header"](stamp=stamp, frame_id="map")

    def _pose(self, x: float, y: float, yaw: float):
        point = self.types["geometry_msgs/msg/Point"](x=float(x), y=float(y), z=0.0)
        turn = self.types["geometry_msgs/msg/Quaternion"]
        rotation = turn(x=0.0, y=0.0, z=float(np.sin(yaw / 2)), w=float(np.cos(yaw / 2)))
        return self.types["geometry_msgs/msg/Pose"](position=point, orientation=rotation)

    def _map(self, map: OccupancyMap):
        rows, cols = map.occupied.shape
        values = np.where(map.unknown, -1, np.where(map.occupied, 100, 0)).astype(np.int8)
        header = self._header()
        facts = self.types["nav_msgs/msg/MapMetaData"](
            map_load_time=header.stamp, resolution=map.resolution, width=cols, height=rows,
            origin=self._pose(*map.origin),
        )  # fmt: skip
        return self.types[MAP](header=header, info=facts, data=values.ravel())

    def goals(self) -> None:
        """Write goals that are new."""
        fleet = self.loop.fleet
        for robot in np.flatnonzero((fleet.goals != self.sent).any(axis=1) & (fleet.goals[:, 0] >= 0)):
            pose = self._pose(*self.loop.grid.centre(fleet.goals[robot]), 0.0)
            self._write(
                f"/{fleet.names[robot]}/goal_pose", GOAL, self.types[GOAL](header=self._header(), pose=pose)
            )
            self.sent[robot] = fleet.goals[robot]

    def poses(self) -> None:
        """Write the odometry of every robot."""
        vector = self.types["geometry_msgs/msg/Vector3"]
        none, still = np.zeros(36), vector(x=0.0, y=0.0, z=0.0)
        for name, pose, speed in zip(
            self.loop.fleet.names, self.loop.world.measured_poses(), self.loop.world.velocities, strict=True
        ):
            posed = self.types["geometry_msgs/msg/PoseWithCovariance"](
                pose=self._pose(*pose), covariance=none
            )
            linear = vector(x=float(speed[0]), y=float(speed[1]), z=0.0)
            angular = dataclasses.replace(still, z=float(speed[2]))
            twist = self.types["geometry_msgs/msg/Twist"](linear=linear, angular=angular)
            moved = self.types["geometry_msgs/msg/TwistWithCovariance"](twist=twist, covariance=none)
            message = self.types[ODOMETRY](
                header=self._header(), child_frame_id=f"{name}/base_link", pose=posed, twist=moved
            )
            self._write(f"/{name}/odom", ODOMETRY, message)


def record(
    path: Path, map: OccupancyMap, loop: ClosedLoop, seconds: float, rate: float, show: bool = True
) -> int:
    """Drive ``loop`` for ``seconds`` and write the bag ``path``; goals reached.

    Raises:
        RuntimeError: Robots touched something: such a session is no example.
    """
    every = max(1, round(1 / (rate * loop.fleet.config.control_period)))
    ticks = round(seconds / loop.fleet.config.control_period)
    writer = SessionWriter(path, loop, map)
    with (
        writer.bag,
        tqdm(total=round(seconds), unit="sim s", disable=not show, mininterval=bar_interval()) as bar,
    ):
        for k in range(ticks):
            writer.goals()
            if k % every == 0:
                writer.poses()
            loop.tick()
            bar.update(int(loop.time) - bar.n)
    if loop.world.contacts:
        raise RuntimeError(
            f"the expert's robots touched: {loop.world.contacts[0]}; not a session to learn from"
        )
    return int(loop.fleet.goals_reached.sum())


def main(args: Args) -> int:
    """Record one session; prints goals per minute, and writes what an import must know to ``OUT.json``.

    Raises:
        ValueError: An option that cannot be, a map that the robots do not fit, or a folder that is not ours.
    """
    if args.robots < 1 or not args.minutes > 0 or not args.rate > 0:
        raise ValueError(
            f"--robots {args.robots} --minutes {args.minutes} --rate {args.rate}: all must be above 0"
        )
    if args.rule not in ("auto", "one-way", "none"):
        raise ValueError(f"--rule {args.rule}: choose auto, one-way or none")
    site = args.map is None
    ruled = args.rule == "one-way" or (args.rule == "auto" and site)
    map = two_halls.two_halls_map() if site else load_map_yaml(args.map)
    loop = expert_loop(
        map, args.robots, args.seed, args.radius, two_halls.one_way if ruled else None,
        two_halls.goal_cells() if site else None,
    )  # fmt: skip
    note = args.out.with_suffix(".json")
    check_output_file(note, b'"robots"', b'"minutes"', b'"step"', option="the note beside --out,")
    with output_folder(args.out, "recording"):
        own = (f"{args.out.name}_*.mcap", f".{args.out.name}_*.yaml")
        parts = {path.name for pattern in own for path in args.out.glob(pattern)}
        remove_from(args.out, {"metadata.yaml", *parts})
        return _record(args, map, loop, note)


def _record(args: Args, map: OccupancyMap, loop: ClosedLoop, note: Path) -> int:
    """Drive, write the bag and the note; the exit status."""
    try:
        goals = record(args.out, map, loop, 60 * args.minutes, args.rate)
    except RuntimeError as error:
        print(f"marlgpt record-expert: {error}", file=sys.stderr)
        return 1
    print(
        f"{args.out}: {args.robots} robots, {args.minutes:g} min, {goals / args.minutes:.1f} goals per minute"
    )
    step = pace(loop)
    facts = {"robots": args.robots, "minutes": args.minutes, "step": round(step, 3)}
    note.write_text(json.dumps(facts) + "\n")
    print(f"robots moved in lockstep, every {step:.2f} s: import it with --step {step:.2f}")
    return 0


def pace(loop: ClosedLoop) -> float:
    """Seconds between the joint moves of ``loop``: untold, an import takes waiting for the last one for a choice."""
    return loop.time / max(1, loop.fleet.steps)
