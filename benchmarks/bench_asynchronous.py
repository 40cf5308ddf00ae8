"""Goals per simulated minute of asynchronous against synchronous execution, on the project's warehouse.

Same policy, same map, same robots; the baseline is synchronous execution in the same run. With mixed speeds every
other robot is half as fast. Synchronous execution is measured twice: waiting for every robot at each step ("lockstep"),
and as configured by default, where a step leaves late robots out after 0.6 s. Asynchronous robots decide before they
arrive and do not brake at each cell, and nobody waits for the slowest. Latency is the fleet node's default, 0.2 s.

    .venv/bin/python benchmarks/bench_asynchronous.py --robots 16 48 --minutes 3 --json out/bench/asynchronous.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from common import MODELS, finish, progress
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_policy.fleet.fleet_config import FleetConfig
from marlgpt_policy.policy.onnx_policy import OnnxPolicy
from marlgpt_policy.robots.robot_config import MotionLimits
from marlgpt_sim.maps.warehouse import warehouse_map
from marlgpt_sim.world.closed_loop import ClosedLoop

EXECUTIONS = {
    "lockstep": FleetConfig(execution="synchronous", step_timeout=60.0, first_settle=0.0),
    "synchronous": FleetConfig(execution="synchronous", first_settle=0.0),
    "asynchronous": FleetConfig(execution="asynchronous", first_settle=0.0),
}


def goals_per_minute(robots: int, execution: str, mixed: bool, minutes: float, seed: int) -> float:
    """One run. Raises ``RuntimeError`` on any contact."""
    slow = MotionLimits(max_speed=0.25)
    limits = [slow if mixed and i % 2 else MotionLimits() for i in range(robots)]
    policy = OnnxPolicy(MODELS / "pogema.onnx", POGEMA_LAYOUT)
    loop = ClosedLoop(warehouse_map(), robots, policy, EXECUTIONS[execution], limits=limits, seed=seed)
    loop.run(60.0 * minutes)
    if loop.world.contacts:
        raise RuntimeError(f"{execution}, {robots} robots: contact {loop.world.contacts[0]}")
    return float(loop.fleet.goals_reached.sum() / minutes)


def main() -> int:
    """Print goals per minute of both and their ratio, per robot count and speeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--robots", type=int, nargs="+", default=[16, 48], help="robot counts")
    parser.add_argument("--minutes", type=float, default=3.0, help="simulated minutes per run")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each kind")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the results to this file as well")
    args = parser.parse_args()
    results = {}
    for mixed in (False, True):
        for robots in args.robots:
            rate = {}
            for execution in EXECUTIONS:
                progress(f"{robots} robots, {execution}")
                runs = [
                    goals_per_minute(robots, execution, mixed, args.minutes, s) for s in range(args.seeds)
                ]
                rate[execution] = float(np.mean(runs))
            progress("")
            ratios = {name: rate["asynchronous"] / rate[name] for name in ("lockstep", "synchronous")}
            name = f"{robots} robots, {'mixed' if mixed else 'equal'} speeds"
            results[name] = {**rate, "ratios": {k: round(v, 3) for k, v in ratios.items()}}
            shown = ", ".join(f"{k} {v:.1f}" for k, v in rate.items())
            print(f"{name}: {shown} goals/min; asynchronous is {ratios['lockstep']:.2f} x lockstep, "
                  f"{ratios['synchronous']:.2f} x synchronous", flush=True)  # fmt: skip
    finish(args, "asynchronous", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
