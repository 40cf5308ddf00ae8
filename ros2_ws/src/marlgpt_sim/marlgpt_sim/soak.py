"""``marlgpt soak``: many robot-hours on several maps with every fault mixed in; the summary says what survived."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from marlgpt_policy.grid import build_grid
from marlgpt_policy.occupancy import OccupancyMap, load_map_yaml
from tqdm import tqdm

from marlgpt_sim.soak_run import MARGIN, SoakRun
from marlgpt_sim.warehouse import warehouse_map
from marlgpt_sim.workers import end_with_parent

RESOLUTION = 0.05
STARVED = 120.0
"""Simulated s without getting nearer to a reachable goal that count as starved."""


@dataclasses.dataclass
class Args:
    """Drive simulated fleets for many robot-hours with all faults mixed, and count contacts and starvation."""

    hours: float = 100.0
    """Robot-hours in all."""
    rate: float = 2.0
    """Faults of each kind per robot and hour; there are 24 kinds."""
    robots: int = 32
    """Most robots of one run; maps with little room take fewer."""
    minutes: float = 10.0
    """Simulated minutes of one run."""
    map: list[Path] = dataclasses.field(default_factory=list)
    """More maps, in map_server's YAML format, beside the three that the project draws."""
    workers: int = 1
    """Processes that simulate."""
    seed: int = 0
    """Of everything random."""
    policy: Path | None = None
    """ONNX policy; the shipped one if not given."""
    out: Path = Path("out/soak")
    """Folder of results; runs that are there already, made with the same options, are not repeated."""


def hall_of_boxes(seed: int = 3) -> OccupancyMap:
    """A hall of 16 m x 12 m with boxes at random places; always the same for a seed."""
    random = np.random.default_rng(seed)
    occupied = np.zeros((240, 320), dtype=bool)
    for _ in range(22):
        (height, width), row, column = (
            random.integers(10, 40, 2),
            random.integers(0, 210),
            random.integers(0, 290),
        )
        occupied[row : row + height, column : column + width] = True
    return OccupancyMap(occupied, np.zeros_like(occupied), RESOLUTION, (0.0, 0.0, 0.3))


def rooms_and_corridors() -> OccupancyMap:
    """Twelve rooms of 4 m x 3 m on both sides of corridors one robot wide, with doors; 19 m x 14 m."""
    occupied = np.ones((280, 380), dtype=bool)
    for row in range(3):
        for column in range(4):
            bottom, left = 10 + 90 * row, 10 + 92 * column
            occupied[bottom : bottom + 62, left : left + 76] = False
            occupied[bottom + 62 : bottom + 72, left + 30 : left + 48] = False  # door to the corridor
            if row:
                occupied[bottom - 10 : bottom, left + 8 : left + 26] = False
    for row in range(3):
        occupied[10 + 90 * row + 70 : 10 + 90 * row + 88, 10:370] = False
    occupied[10:270, 86:102] = False
    occupied[10:270, 270:288] = False
    return OccupancyMap(occupied, np.zeros_like(occupied), RESOLUTION, (-9.5, -7.0, 0.0))


def run_one(job: dict[str, Any]) -> dict[str, Any]:
    """Simulate one run in this process and write its results to its file."""
    soak = SoakRun(job["map"], job["robots"], Path(job["policy"]), job["rate"], job["seed"], job["execution"])
    results = {"map": job["name"], **soak.run(job["minutes"]), "options": job["options"]}
    file = Path(job["file"])
    part = file.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1))
    part.replace(file)
    return results


def jobs(args: Args) -> list[dict[str, Any]]:
    """The runs that make up the hours: maps in turn, every fourth one synchronous."""
    maps = {
        "warehouse": warehouse_map(),
        "boxes": hall_of_boxes(),
        "rooms": rooms_and_corridors(),
        **{str(path): load_map_yaml(path) for path in args.map},
    }
    policy = args.policy or Path(__file__).resolve().parents[2] / "marlgpt_policy/models/pogema.onnx"
    if args.policy is None and not policy.is_file():
        from ament_index_python.packages import get_package_share_directory

        policy = Path(get_package_share_directory("marlgpt_policy")) / "models" / "pogema.onnx"
    room = {}
    for name, map in maps.items():
        free = int((build_grid(map, 0.22, MARGIN).components == 0).sum())
        room[name] = max(2, min(args.robots, free // 16))
    made, hours = [], 0.0
    names = list(maps)
    while hours < args.hours:
        k = len(made)
        name = names[k % len(names)]
        options = {"rate": args.rate, "minutes": args.minutes, "robots": args.robots, "seed": args.seed}
        made.append({
            "name": name, "map": maps[name], "robots": room[name], "policy": str(policy), "rate": args.rate,
            "seed": args.seed + k, "minutes": args.minutes, "options": options,
            "execution": "synchronous" if k % 4 == 3 else "asynchronous",
            "file": str(args.out / "runs" / f"{k:04d}.json"),
        })  # fmt: skip
        hours += 0.95 * room[name] * args.minutes / 60.0  # a few robots are away at any time
    return made


def summarise(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Totals and extremes over runs."""
    faults: dict[str, Counter[str]] = {}
    goals: Counter[str] = Counter()
    remedies: Counter[str] = Counter()
    for result in results:
        goals.update(result["goals"])
        remedies.update(result["remedies"])
        for kind, counts in result["faults"].items():
            faults.setdefault(kind, Counter()).update(counts)
    starved = sum(result["longest_starved_s"] > STARVED for result in results)
    worst = max(results, key=lambda result: result["longest_starved_s"])
    return {
        "robot_hours": round(sum(result["robot_hours"] for result in results), 2),
        "runs": len(results),
        "maps": dict(Counter(result["map"] for result in results)),
        "robot_contacts": sum(result["robot_contacts"] for result in results),
        "wall_contacts": sum(result["wall_contacts"] for result in results),
        "min_separation_m": min(result["min_separation_m"] for result in results),
        "runs_with_starvation": starved,
        "longest_starved_s": worst["longest_starved_s"],
        "longest_starved": f"{worst['map']}, seed {worst['seed']}: {worst['longest_starved']}",
        "goals": dict(goals),
        "remedies": dict(remedies),
        "faults": {kind: dict(counts) for kind, counts in faults.items()},
        "problems": [problem for result in results for problem in result["problems"]],
    }


def passed(summary: dict[str, Any]) -> bool:
    """Whether nothing touched, starved or was lost."""
    return (
        summary["robot_contacts"] + summary["wall_contacts"] == 0
        and summary["runs_with_starvation"] == 0
        and summary["goals"]["lost"] == 0
        and not summary["problems"]
    )


def main(args: Args) -> int:
    """Run what is missing, write ``summary.json``; exit status 3 if anything touched, starved or was lost."""
    if args.hours <= 0 or args.minutes <= 0 or args.robots < 2 or args.rate < 0:
        raise ValueError("hours and minutes must be positive, robots at least 2, rate not negative")
    (args.out / "runs").mkdir(parents=True, exist_ok=True)
    todo, results = [], []
    for job in jobs(args):
        file = Path(job["file"])
        kept = json.loads(file.read_text()) if file.is_file() else None
        if kept is not None and kept["options"] == job["options"] and kept["map"] == job["name"]:
            results.append(kept)
        else:
            todo.append(job)
    bar = tqdm(total=len(todo) + len(results), initial=len(results), unit="run", desc="soak")
    # Spawned: a forked child of a process with threads (ONNX Runtime's) may hang.
    with ProcessPoolExecutor(
        args.workers, mp_context=get_context("spawn"), initializer=end_with_parent
    ) as pool:
        for future in as_completed([pool.submit(run_one, job) for job in todo]):
            results.append(future.result())
            bar.update()
            contacts = sum(r["robot_contacts"] + r["wall_contacts"] for r in results)
            bar.set_postfix(hours=f"{sum(r['robot_hours'] for r in results):.1f}", contacts=contacts)
    bar.close()
    summary = summarise(results)
    (args.out / "summary.json").write_text(json.dumps(summary, indent=1))
    begun = sum(counts["injected"] for counts in summary["faults"].values())
    print(
        f"{summary['robot_hours']} robot-hours in {summary['runs']} runs: {begun} faults of {len(summary['faults'])} "
        f"kinds, {summary['robot_contacts']} robot contacts, {summary['wall_contacts']} wall contacts, longest "
        f"without progress towards a reachable goal {summary['longest_starved_s']:.0f} s, "
        f"{summary['goals']['reached']} goals reached, {summary['goals']['lost']} lost\n"
        f"written to {args.out / 'summary.json'}"
    )
    return 0 if passed(summary) else 3
