"""What deciding without a central node costs: goals per minute of the same robots, decentralised over centralised.

The baseline is the fleet step that the fleet node runs. The robots of the other runs hear each other over a network
that loses messages at random, each on each link for itself, and delivers the rest one control period later. Both
have the same map, starts, sequence of goals, policy and motion, in this process and in simulated time.

    .venv/bin/python benchmarks/bench_decentralised.py --robots 16 --seconds 180 --json out/bench/decentralised.json
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from common import MODELS, finish, progress
from marlgpt_policy.decentralised.peer_state import Rules
from marlgpt_policy.decentralised.robot_controller import ControllerConfig, RobotController
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_policy.fleet.fleet import Fleet
from marlgpt_policy.fleet.fleet_config import FleetConfig
from marlgpt_policy.grid.distance_field import DistanceField
from marlgpt_policy.grid.nav_grid import build_grid
from marlgpt_policy.grid.occupancy_map import load_map_yaml
from marlgpt_policy.policy.onnx_policy import OnnxPolicy
from marlgpt_policy.robots.robot_config import MotionLimits, RobotConfig
from marlgpt_sim.world.fleet_world import DIFFERENTIAL, FleetWorld
from marlgpt_sim.world.spawn import place_robots

MAP = MODELS.parents[1] / "marlgpt_sim/maps/warehouse.yaml"
RADIUS, PERIOD, LATENCY = 0.22, 0.05, 0.2
LOSSES = (0.0, 0.2, 0.5)
LIMITS = MotionLimits()


class Scene:
    """Robots on the warehouse map with an endless sequence of goals for each."""

    def __init__(self, robots: int, seed: int) -> None:
        self.map, self.robots, self.seed = load_map_yaml(MAP), robots, seed
        self.grid = build_grid(self.map, RADIUS)
        self.cells = np.argwhere(self.grid.components == 0)
        self.bodies = [RobotConfig(f"r{i:03d}", RADIUS, limits=LIMITS) for i in range(robots)]
        self.policy = OnnxPolicy(MODELS / "pogema.onnx", POGEMA_LAYOUT, ("CPUExecutionProvider",), 1)
        self.distances = DistanceField(self.map)

    def start(self) -> None:
        """Put the robots at their starts and begin their goals anew."""
        poses = place_robots(self.grid, self.robots, self.seed)
        self.world = FleetWorld(self.map, poses, RADIUS, DIFFERENTIAL, LIMITS.as_row(), self.seed)
        self.random = [np.random.default_rng((self.seed, i)) for i in range(self.robots)]

    def goal(self, robot: int) -> np.ndarray:
        """Next goal of a robot, float64[2] in m."""
        return self.grid.centre(self.cells[self.random[robot].integers(len(self.cells))])

    def obey(self, commands: np.ndarray) -> None:
        """Drive for one control period."""
        for _ in range(5):
            self.world.step(commands, PERIOD / 5)


def centralised(scene: Scene, seconds: float) -> int:
    """Goals reached by the fleet with one decision for all."""
    config = FleetConfig(control_period=PERIOD, latency=LATENCY, first_settle=0.0, seed=scene.seed)
    fleet = Fleet(scene.grid, scene.policy, scene.bodies, config, scene.distances)
    scene.start()
    for tick in range(round(seconds / PERIOD)):
        now = tick * PERIOD
        for i in range(scene.robots):
            fleet.update_pose(i, *scene.world.poses[i], now)
            if fleet.goals[i, 0] < 0:
                fleet.set_goal(i, *scene.goal(i))
        scene.obey(fleet.tick(now).commands)
    return int(fleet.goals_reached.sum())


def decentralised(scene: Scene, seconds: float, loss: float) -> tuple[int, float, float]:
    """Goals reached, messages per robot and second, and CPU ms per robot and control period."""
    names = tuple(body.name for body in scene.bodies)
    rules = Rules(names, "warehouse", scene.grid.cell_size / LIMITS.max_speed)
    fleet = [
        RobotController(
            body, scene.grid, scene.policy, rules, 1,
            ControllerConfig(control_period=PERIOD, latency=LATENCY, seed=scene.seed + i),
            scene.distances,
        )
        for i, body in enumerate(scene.bodies)
    ]  # fmt: skip
    scene.start()
    network = np.random.default_rng(scene.seed)
    post, sent, cpu = [], 0, 0.0
    for tick in range(round(seconds / PERIOD)):
        now = tick * PERIOD
        begun = time.process_time()
        for state in post:
            heard = network.random(scene.robots) >= loss
            for robot, hears in zip(fleet, heard, strict=True):
                if hears and robot.robot.name != state.name:
                    robot.receive(state)
        post, commands = [], np.zeros((scene.robots, 3))
        for i, robot in enumerate(fleet):
            robot.update_pose(*scene.world.poses[i], now)
            if robot.choice.goal is None:
                robot.set_goal(*scene.goal(i), now)
            result = robot.tick(now)
            commands[i] = result.command
            if result.message is not None:
                post.append(result.message)
        cpu += time.process_time() - begun
        sent += len(post)
        scene.obey(commands)
    periods = scene.robots * seconds / PERIOD
    return sum(r.goals_reached for r in fleet), sent / scene.robots / seconds, 1e3 * cpu / periods


def main() -> int:
    """Run all modes on the same scenes and print goals per minute and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--robots", type=int, default=16, help="number of robots")
    parser.add_argument("--seconds", type=float, default=180.0, help="simulated seconds per run")
    parser.add_argument("--seeds", type=int, default=2, help="scenes per mode")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the results to this file as well")
    args = parser.parse_args()
    scenes = [Scene(args.robots, seed) for seed in range(args.seeds)]
    minutes = args.seeds * args.seconds / 60
    contacts = 0
    progress("centralised ...")
    goals = 0
    for scene in scenes:
        goals += centralised(scene, args.seconds)
        contacts += len(scene.world.contacts)
    base = goals / minutes
    print(f"{args.robots} robots, {args.seeds} scenes of {args.seconds:g} s, goals per minute")
    print(f"  centralised                {base:6.1f}   contacts {contacts}")
    results = {"robots": args.robots, "centralised": base, "decentralised": {}}
    for loss in LOSSES:
        progress(f"loss {loss:.0%} ...")
        runs, met = [], 0
        for scene in scenes:
            runs.append(decentralised(scene, args.seconds, loss))
            met += len(scene.world.contacts)
        contacts += met
        goals, messages, cpu = np.sum([r[0] for r in runs]), runs[0][1], np.mean([r[2] for r in runs])
        rate = float(goals / minutes)
        print(
            f"  decentralised, {loss:4.0%} lost {rate:6.1f}   contacts {met}   ratio {rate / max(base, 1e-9):.2f}   "
            f"{messages:.1f} messages/s and {cpu:.2f} ms CPU per period and robot"
        )
        results["decentralised"][str(loss)] = {
            "goals_per_minute": rate, "ratio": rate / max(base, 1e-9), "contacts": met,
            "messages_per_second": messages, "cpu_ms_per_period": float(cpu),
        }  # fmt: skip
    finish(args, "decentralised", results)
    return 1 if contacts else 0


if __name__ == "__main__":
    sys.exit(main())
