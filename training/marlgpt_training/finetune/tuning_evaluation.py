"""Before and after: a policy and its successor on the same seeds, on the site and on the original families."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from marlgpt_policy.encoders.token_layout import MAX_ACTIONS, POGEMA_LAYOUT
from marlgpt_policy.fleet.fleet_config import SHARP, FleetConfig
from marlgpt_policy.grid.occupancy_map import load_map_yaml
from marlgpt_policy.policy.onnx_policy import OnnxPolicy
from marlgpt_policy.robots.robot_config import MotionLimits
from marlgpt_sim.runs.worker_processes import worker_pool
from marlgpt_sim.world.closed_loop import ClosedLoop
from tqdm import tqdm

from marlgpt_training.evaluation.intervals import Sample, mean_interval, ratio_interval
from marlgpt_training.finetune.recorded_site import Site, throughput
from marlgpt_training.train import validation as rollout

FAMILIES = ("random", "maze", "warehouse", "rooms")
LIMITS = MotionLimits(max_speed=1.2, max_yaw_rate=3.0, max_acceleration=3.0, max_yaw_acceleration=8.0)
"""Robots of the demo."""
DRIVING = FleetConfig(first_settle=0.0)
FIRST_SEED = 700_000
"""Seeds of evaluations begin here; recordings and training use smaller ones."""


@dataclass(frozen=True)
class Budget:
    """How much is played."""

    driven: int = 8
    """Runs of the whole motion stack, each with other starts and goals; 0 for none (needs a map)."""
    minutes: float = 5.0
    """Simulated minutes of each."""
    grid: int = 8
    """Grid episodes on the site."""
    family: int = 8
    """Held-out maps of each original family."""
    steps: int = 128
    """Steps of grid episodes."""
    agents: int = 32
    """Agents on the original families' maps."""


@dataclass(frozen=True)
class Job:
    """One run; ``kind`` is driven, grid, or one of the original families."""

    kind: str
    policy: Path | None
    seed: int


def _load(path: Path | None) -> OnnxPolicy | None:
    return None if path is None else OnnxPolicy(path, POGEMA_LAYOUT, ("CPUExecutionProvider",), 1)


def driven(
    map: Path, places: np.ndarray, robots: int, radius: float, policy: OnnxPolicy, seed: int, minutes: float
):
    """Goals per minute and contacts of a fleet on ``map`` with starts and goals among ``places`` int[k, 2]."""
    loop = ClosedLoop(load_map_yaml(map), robots, policy, DRIVING, radius, LIMITS, seed=seed, places=places)
    loop.run(60 * minutes)
    return float(loop.fleet.goals_reached.sum() / minutes), len(loop.world.contacts)


def work(task: tuple[Job, Budget, Site, Path | None, float]) -> list[float]:
    """The values of one job: goals per step of each map, or goals per minute and contacts."""
    job, budget, site, map, radius = task
    policy = _load(job.policy)
    if job.kind == "driven":
        return list(driven(map, site.places, site.agents, radius, policy, job.seed, budget.minutes))
    if job.kind == "grid":
        return [throughput(policy, site, job.seed, budget.steps)]

    def forward(values, valid, mask):
        return policy(values, valid, mask).logits[:, :MAX_ACTIONS]

    return rollout.throughputs(forward, job.kind, budget.agents, budget.family, budget.steps, True, SHARP)


class Notes:
    """Finished runs in a file, so that a stopped evaluation goes on where it was."""

    def __init__(self, path: Path) -> None:
        """Continue the file ``path``."""
        self.path, self.known = path, {}
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                entry = json.loads(line)
                self.known[entry["key"]] = entry["values"]
            except (ValueError, KeyError, TypeError):
                continue  # the last line of a killed run may be torn

    def add(self, key: str, values: list[float]) -> None:
        """Keep the values of a run."""
        self.known[key] = values
        with open(self.path, "a") as file:
            file.write(json.dumps({"key": key, "values": values}) + "\n")


def compare(
    before: Path,
    after: Path,
    site: Site,
    budget: Budget,
    notes: Path,
    workers: int,
    quiet: float,
    map: Path | None = None,
    radius: float = 0.22,
) -> dict:
    """Play both policies, and on the site's grid the search, on the same seeds.

    Returns:
        JSON-serialisable: ``driven`` (goals per minute; only with a ``map``), ``grid`` and each family (goals per
        step) with ``before``, ``after`` ([mean, half of the 95 % interval]) and ``ratio`` ([ratio, low, high]);
        ``forgetting``: the ratio over all families' maps.
    """
    jobs = []
    for seed in range(FIRST_SEED, FIRST_SEED + (budget.driven if map else 0)):
        jobs += [Job("driven", before, seed), Job("driven", after, seed)]
    for seed in range(FIRST_SEED, FIRST_SEED + budget.grid):
        jobs += [Job("grid", before, seed), Job("grid", after, seed), Job("grid", None, seed)]
    for family in FAMILIES if budget.family else ():
        jobs += [Job(family, before, 0), Job(family, after, 0)]
    digest = {path: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in (before, after)}
    memory = Notes(notes)

    def key(job: Job) -> str:
        facts = (job.kind, digest.get(job.policy, "lns"), job.seed, budget.minutes, budget.steps, budget.agents,
                 budget.family, site.agents, hash_of(site), str(map), radius)  # fmt: skip
        return "|".join(map_text(fact) for fact in facts)

    todo = [job for job in jobs if key(job) not in memory.known]
    tasks = [(job, budget, site, map, radius) for job in todo]
    with tqdm(total=len(todo), unit="run", desc="evaluation", mininterval=quiet) as bar:
        if workers == 1:
            for job, task in zip(todo, tasks, strict=True):
                memory.add(key(job), work(task))
                bar.update()
        elif todo:
            with worker_pool(workers) as pool:
                for job, values in zip(todo, pool.map(work, tasks), strict=True):
                    memory.add(key(job), values)
                    bar.update()
    found = {job: memory.known[key(job)] for job in jobs}
    return summarise(found, before, after)


def map_text(fact: object) -> str:
    """A fact of a run as part of its key."""
    return f"{fact:g}" if isinstance(fact, float) else str(fact)


def hash_of(site: Site) -> str:
    """Digest of a site's edges and places."""
    return hashlib.sha256(np.packbits(site.moves).tobytes() + site.places.tobytes()).hexdigest()[:12]


def summarise(found: dict[Job, list[float]], before: Path, after: Path) -> dict:
    """Means, ratios and their intervals, by kind of run."""
    report: dict = {}
    pairs: dict[str, tuple[list[float], list[float]]] = {}
    for kind in dict.fromkeys(job.kind for job in found):
        value = [
            [v for job, v in found.items() if job.kind == kind and job.policy == p] for p in (before, after)
        ]
        if kind == "driven":
            pairs[kind] = tuple([run[0] for run in side] for side in value)
            report["contacts"] = {
                "before": int(sum(r[1] for r in value[0])),
                "after": int(sum(r[1] for r in value[1])),
            }
        else:
            pairs[kind] = tuple([v for run in side for v in run] for side in value)
    for kind, (old, new) in pairs.items():
        maps = [kind] * len(old) if kind in ("driven", "grid") else [f"{kind} {k}" for k in range(len(old))]
        report[kind] = _entry(old, new, maps)
    search = [v for job, run in found.items() if job.kind == "grid" and job.policy is None for v in run]
    if search:
        report["grid"]["search"] = list(mean_interval(_sample(search, ["grid"] * len(search))))
    families = [kind for kind in pairs if kind in FAMILIES]
    if families:
        old, new = ([v for kind in families for v in pairs[kind][side]] for side in (0, 1))
        report["forgetting"] = _entry(
            old, new, [f"{kind} {k}" for kind in families for k in range(len(pairs[kind][0]))]
        )
    return report


def _sample(values: list[float], maps: list[str]) -> Sample:
    return Sample(np.array(values), maps, [0] * len(values))


def _entry(old: list[float], new: list[float], maps: list[str]) -> dict:
    ratio = ratio_interval(_sample(new, maps), np.array(old))
    return {
        "before": list(mean_interval(_sample(old, maps))),
        "after": list(mean_interval(_sample(new, maps))),
        "ratio": None if ratio is None else list(ratio),
        "runs": len(old),
        "values": {"before": old, "after": new},
    }


def lines(report: dict) -> list[str]:
    """The report as a Markdown table."""
    names = {
        "driven": "goals per minute on the site, whole motion stack",
        "grid": "goals per step on its grid",
    }
    names |= {family: f"goals per step, {family} maps" for family in FAMILIES}
    names["forgetting"] = "goals per step, original families together"
    rows = ["| | before | after | after / before | runs |", "|---|---|---|---|---|"]
    for kind, name in names.items():
        if kind not in report:
            continue
        entry = report[kind]
        digits = 1 if kind == "driven" else 3
        cells = [_shown(entry[side], digits) for side in ("before", "after")]
        ratio = entry["ratio"]
        if ratio is None:
            cells.append("-")
        else:
            bounds = "" if ratio[1] is None else f" [{ratio[1]:.2f}, {ratio[2]:.2f}]"
            cells.append(f"{ratio[0]:.2f}{bounds}")
        rows.append(f"| {name} | {' | '.join(cells)} | {entry['runs']} |")
    return rows


def _shown(mean: list, digits: int) -> str:
    half = "" if mean[1] is None else f" ± {mean[1]:.{digits}f}"
    return f"{mean[0]:.{digits}f}{half}"
