"""The LNS expert against PIBT on generated maps: lifelong throughput, time per step, one-shot success."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from pathlib import Path

import numpy as np
from common import finish
from marlgpt_training.environments import map_families as maps
from marlgpt_training.environments.grid_env import GridEnv
from marlgpt_training.experts.lns import LIFELONG, ONE_SHOT, LnsExpert, window_of
from marlgpt_training.experts.pibt import Pibt
from marlgpt_training.seeds import HELD_OUT
from tqdm import tqdm

AGENTS = {"random": (8, 16, 24, 32, 48, 64), "maze": (8, 16, 24, 32, 48, 64)}
ONE_SHOT_AGENTS = (32, 64)
RATIO_FLOOR = {"random": 1.35, "maze": 1.5}
SLOWEST_MS = 2.0
DENSEST = 0.5
"""Largest share of the free cells that agents take; seeds whose maps are too small are passed over."""


def options() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--maps", type=int, default=64, help="maps per family and number of agents")
    parser.add_argument("--steps", type=int, default=256, help="steps of an episode")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="processes")
    parser.add_argument("--lifelong", action="store_true", help="leave out the one-shot episodes")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the results to this file as well")
    return parser.parse_args()


def instance(family: str, agents: int, k: int, lifelong: bool) -> GridEnv:
    """Instance ``k`` of a family and number of agents: held-out map, random starts and goals."""
    seed = HELD_OUT + 555 * agents + k
    free = maps.generate(family, seed)
    while agents > DENSEST * free.sum():
        seed += 100_000
        free = maps.generate(family, seed)
    return GridEnv.sample(free, agents, lifelong, seed)


def episode(job: tuple) -> dict:
    """One episode of one driver under soft collisions: goals per step, CPU time per decision, success."""
    driver, family, agents, k, lifelong, steps = job
    env = instance(family, agents, k, lifelong)
    if driver == "lns":
        mode = LIFELONG if lifelong else ONE_SHOT
        lns = LnsExpert(env.moves, agents, mode, window_of(family), seed=k)
    else:
        pibt = Pibt(env.moves, agents, k)
    spent = done = 0
    while done < steps and (lifelong or not env.arrived.all()):
        started = time.thread_time()
        if driver == "lns":
            actions = lns.act(env.cells, env.goals, env.fields, env.field_of)
        else:
            actions = pibt.act(env.cells, env.fields, env.field_of, env.arrived)
        spent += time.thread_time() - started
        env.step(actions)
        done += 1
    return {
        "case": (driver, family, agents, lifelong),
        "throughput": env.reached.sum() / done,
        "ms": 1e3 * spent / done,
        "solved": not lifelong and bool(env.arrived.all()),
        "makespan": done,
    }


def warm_up(_: int) -> None:
    """Compile (or load) everything once per process, outside of the clock."""
    for driver in ("lns", "pibt"):
        for lifelong in (True, False):
            episode((driver, "random", 8, 0, lifelong, 3))


def run(args: argparse.Namespace) -> dict[tuple, list[dict]]:
    """All episodes by (driver, family, agents, lifelong), the long ones first."""
    cases = [(family, n, True) for family, counts in AGENTS.items() for n in counts]
    if not args.lifelong:
        cases += [(family, n, False) for family in maps.FAMILIES for n in ONE_SHOT_AGENTS]
    jobs = [
        (driver, family, n, k, lifelong, args.steps)
        for family, n, lifelong in sorted(cases, key=lambda case: -case[1])
        for k in range(args.maps)
        for driver in ("lns", "pibt")
    ]
    found: dict[tuple, list[dict]] = {}
    warm_up(0)  # fills the cache of compiled functions before the processes read it
    context = multiprocessing.get_context("spawn")
    with context.Pool(args.workers, warm_up, (0,)) as pool, tqdm(total=len(jobs), unit="episode") as bar:
        for result in pool.imap_unordered(episode, jobs):
            found.setdefault(result["case"], []).append(result)
            bar.update()
    return found


def mean(results: list[dict], key: str) -> float:
    """Mean of one figure over episodes."""
    return float(np.mean([result[key] for result in results]))


def report(found: dict[tuple, list[dict]]) -> dict:
    """Print the tables; the figures."""
    figures: dict = {"throughput": {}, "ratio": {}, "ms": {}, "one_shot": {}}
    for family, counts in AGENTS.items():
        print(f"{family}, lifelong      " + "".join(f"{n:>8}" for n in counts) + "    mean  agents")
        means = {}
        for driver in ("lns", "pibt"):
            values = [mean(found[driver, family, n, True], "throughput") for n in counts]
            means[driver] = float(np.mean(values))
            print(f"  {driver:<4} goals/step    " + "".join(f"{v:8.2f}" for v in values + [means[driver]]))
            figures["throughput"][f"{driver} {family}"] = dict(zip(map(str, counts), values, strict=True))
        times = [mean(found["lns", family, n, True], "ms") for n in counts]
        figures["ms"][family] = dict(zip(map(str, counts), times, strict=True))
        figures["ratio"][family] = means["lns"] / means["pibt"]
        print("  lns  ms/step       " + "".join(f"{v:8.2f}" for v in times))
    if not any(not lifelong for *_, lifelong in found):
        return figures
    print("one-shot success       " + "".join(f"{n:>8}" for n in ONE_SHOT_AGENTS) + "  agents")
    for family in maps.FAMILIES:
        for driver in ("lns", "pibt"):
            rates = [mean(found[driver, family, n, False], "solved") for n in ONE_SHOT_AGENTS]
            print(f"  {family:<10} {driver:<10}" + "".join(f"{v:8.3f}" for v in rates))
            figures["one_shot"][f"{driver} {family}"] = dict(
                zip(map(str, ONE_SHOT_AGENTS), rates, strict=True)
            )
    return figures


def main() -> int:
    args = options()
    if args.maps < 1 or args.steps < 1 or args.workers < 1:
        print("--maps, --steps and --workers must be at least 1", file=sys.stderr)
        return 2
    figures = report(run(args))
    for family, floor in RATIO_FLOOR.items():
        ratio = figures["ratio"][family]
        verdict = "met" if ratio >= floor else "NOT met"
        print(f"{family}: {ratio:.2f} times PIBT's mean throughput; floor of {floor}: {verdict}")
    slowest = figures["ms"]["random"][str(max(AGENTS["random"]))]
    verdict = "met" if slowest <= SLOWEST_MS else "NOT met"
    print(f"{slowest:.2f} ms of CPU per step at 64 agents; limit of {SLOWEST_MS} ms: {verdict}")
    finish(args, "expert", {"maps": args.maps, "steps": args.steps, **figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
