"""``marlgpt soak``: many robot-hours of drawn worlds in which everything goes wrong; what fails is cut down and kept.

Each run is drawn from one seed (``soak/scenario.py``) and simulated in one process (``soak/soak_run.py``) under two
judges: the simulator's own counter and an independent checker. A run that fails is cut down to a small one that still
does (``soak/cut_down.py``) and written to ``OUT/failures``, from where ``--replay`` repeats it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import marlgpt_policy
from marlgpt_policy.policy.shipped_files import shipped_policy
from tqdm import tqdm

import marlgpt_sim
from marlgpt_sim.runs.output_folder import output_folder
from marlgpt_sim.runs.worker_processes import end_with_parent
from marlgpt_sim.soak.broken_rules import broken
from marlgpt_sim.soak.cut_down import Budget, cut_down
from marlgpt_sim.soak.scenario import PERIOD, Event, Scenario, draw
from marlgpt_sim.soak.soak_report import in_words, passed, summarise
from marlgpt_sim.soak.soak_run import SoakRun

Mode = Literal["centralised", "decentralised"]
Rule = Literal["coupling", "docking", "settling", "goals"]
FAILED = 3
"""Exit status if anything failed."""
SEEDS = 1_000_000
"""A campaign's runs have the seeds from its own times this on."""


@dataclasses.dataclass
class Args:
    """Drive simulated fleets through drawn worlds with all faults mixed; contacts and lost goals fail it."""

    hours: float = 100.0
    """Robot-hours in all."""
    seed: int | None = None
    """Of the campaign; a campaign in OUT that is not complete goes on with its own, otherwise fresh from the clock."""
    minutes: float | None = None
    """Simulated minutes of one run; drawn from 2 to 9 if not given."""
    mode: Mode | None = None
    """Only this mode; every eighth run or so is decentralised if not given."""
    workers: int = 1
    """Processes that simulate."""
    replay: str | None = None
    """Repeat one run: its seed (with the same --minutes, --mode and --broken), or a JSON file of OUT/failures."""
    broken: Rule | None = None
    """Break one rule on purpose, to see whether the soak finds it: it should, within 20 robot-hours."""
    stop_at_first: bool = False
    """End the campaign with the first run that fails."""
    cut_down_for: float = 120.0
    """CPU seconds that cutting down one failing run may take; 0 keeps it as it is."""
    policy: Path | None = None
    """ONNX policy; the shipped one if not given."""
    out: Path = Path("out/soak")
    """Folder of results; runs that are there already, made with the same options and motion code, are not repeated."""


@cache
def code_hash() -> str:
    """Hash of all that decides about motion: the policy package without its nodes, and the simulator's modules."""
    digest = hashlib.sha256()
    for package in (marlgpt_policy, marlgpt_sim):
        root = Path(package.__file__).parent
        for file in sorted(root.rglob("*.py")):
            parts = file.relative_to(root).parts
            if parts[0] in ("nodes", "view", "gazebo", "commands") or file.stem in (
                "soak_report",
                "cut_down",
            ):
                continue
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def simulate(scenario: Scenario, policy: Path, rule: str | None = None) -> SoakRun:
    """Simulate a run to its end or its first failure, with a rule broken if asked to."""
    with broken(rule):
        run = SoakRun(scenario, policy)
        run.run()
    return run


def cut_down_run(run: SoakRun, policy: Path, rule: str | None, seconds: float) -> Scenario:
    """The smallest scenario that fails as ``run`` did."""
    kind = run.failure.kind

    def fails(scenario: Scenario) -> tuple[int, Sequence[Event]] | None:
        try:
            again = simulate(scenario, policy, rule)
        except ValueError:
            return None  # nothing that can be built is left
        if again.failure is None or again.failure.kind != kind:
            return None
        return again.failure.tick, again.recorded

    return cut_down(run.scenario, fails, Budget(seconds))


def run_one(job: dict[str, Any]) -> dict[str, Any]:
    """Simulate one run in this process and write its results, and a small test input if it failed."""
    policy, options = Path(job["policy"]), job["options"]
    scenario = draw(job["seed"], options["minutes"], options["mode"])
    begun, cpu = time.monotonic(), time.process_time()
    run = simulate(scenario, policy, options["broken"])
    results = {**run.results(), "options": options, "code": job["code"], "seconds": time.monotonic() - begun}
    results["cpu_s"] = time.process_time() - cpu
    if run.failure is not None:
        results["input"] = job["input"]
        small = run.scenario.replace(events=tuple(run.recorded), ticks=run.failure.tick + round(1.0 / PERIOD))
        if job["cut_down_for"] > 0:
            small = cut_down_run(run, policy, options["broken"], job["cut_down_for"])
        write_input(Path(job["input"]), small, run, options)
    file = Path(job["file"])
    part = file.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1))
    part.replace(file)
    return results


def write_input(file: Path, small: Scenario, run: SoakRun, options: dict[str, Any]) -> None:
    """Write a test input: how a run failed, and a scenario that does so."""
    text = small.to_json()
    head = {
        "failed": run.failure.kind,
        "what": run.failure.what,
        "broken": options["broken"],
        "seed": run.scenario.seed,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(head)[:-1] + ',\n"scenario": ' + text.rstrip() + "}\n")


def replay_command(seed: int, options: dict[str, Any]) -> str:
    """The command line that repeats one run."""
    words = ["marlgpt", "soak", "--replay", str(seed)]
    for name in ("minutes", "mode", "broken"):
        if options[name] is not None:
            words += [f"--{name}", str(options[name])]
    return shlex.join(words)


def replay(args: Args) -> int:
    """Repeat one run and say how it went."""
    rule = args.broken
    if args.replay.isdecimal():
        scenario = draw(int(args.replay), args.minutes, args.mode)
    else:
        text = Path(args.replay).read_text()
        scenario, rule = Scenario.from_json(text), rule or json.loads(text).get("broken")
    run = simulate(scenario, args.policy or shipped_policy(), rule)
    results = run.results()
    print(json.dumps(results, indent=1))
    print(f"failed: {run.failure.kind}: {run.failure.what}" if run.failure else "nothing failed")
    return FAILED if run.failure else 0


def campaign_of(args: Args) -> tuple[int, dict[str, Any]]:
    """Seed and options of the campaign; one that is not complete goes on."""
    options = {"minutes": args.minutes, "mode": args.mode, "broken": args.broken}
    file = args.out / "campaign.json"
    kept = json.loads(file.read_text()) if file.is_file() else {}
    seed = args.seed
    if (
        seed is None
        and kept.get("options") == options
        and not kept.get("complete")
        and kept.get("code") == code_hash()
    ):
        seed = kept["seed"]
    if seed is None:
        seed = time.time_ns() // 1000 % 1_000_000_000
    _note_campaign(args, seed, options, complete=False)
    return seed, options


def _note_campaign(args: Args, seed: int, options: dict[str, Any], complete: bool) -> None:
    values = {"seed": seed, "options": options, "code": code_hash(), "complete": complete}
    (args.out / "campaign.json").write_text(json.dumps(values, indent=1))


def jobs(args: Args, seed: int, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Runs without end, in the order of their seeds."""
    policy, k = str(args.policy or shipped_policy()), 0
    while True:
        own = seed * SEEDS + k
        yield {
            "seed": own, "options": options, "policy": policy, "code": code_hash(), "cut_down_for": args.cut_down_for,
            "file": str(args.out / "runs" / f"{own}.json"), "input": str(args.out / "failures" / f"{own}.json"),
        }  # fmt: skip
        k += 1


def kept_results(job: dict[str, Any]) -> dict[str, Any] | None:
    """Results of a run that is there already, made with the same options and code."""
    file = Path(job["file"])
    kept = json.loads(file.read_text()) if file.is_file() else None
    same = kept is not None and kept["options"] == job["options"] and kept["code"] == job["code"]
    return kept if same else None


def campaign(args: Args) -> list[dict[str, Any]]:
    """Simulate run after run until the hours are full; the results of all."""
    seed, options = campaign_of(args)
    print(f"soak: campaign seed {seed}, motion code {code_hash()}")
    results: list[dict[str, Any]] = []
    ahead = jobs(args, seed, options)
    bar = tqdm(
        total=args.hours, unit="robot-h", desc="soak", bar_format="{l_bar}{bar}| {n:.1f}/{total:g} {postfix}"
    )
    # Spawned: a forked child of a process with threads (ONNX Runtime's) may hang.
    with ProcessPoolExecutor(
        args.workers, mp_context=get_context("spawn"), initializer=end_with_parent
    ) as pool:
        pending: dict[Future, float] = {}  # and the robot-hours that each is expected to make
        while True:
            hours = sum(result["robot_hours"] for result in results)
            failed = args.stop_at_first and any(result["failure"] for result in results)
            while not failed and len(pending) <= args.workers and hours + sum(pending.values()) < args.hours:
                job = next(ahead)
                kept = kept_results(job)
                if kept is not None:
                    results.append(kept)
                    hours += kept["robot_hours"]
                    bar.update(kept["robot_hours"])
                    continue
                planned = draw(job["seed"], args.minutes, args.mode).hours
                pending[pool.submit(run_one, job)] = planned
            if not pending:
                break
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                del pending[future]
                result = future.result()
                results.append(result)
                bar.update(min(result["robot_hours"], args.hours - bar.n))
                bar.set_postfix(runs=len(results), failed=sum(bool(r["failure"]) for r in results))
                if result["failure"]:
                    tqdm.write(failure_text(result))
    bar.close()
    if not (args.stop_at_first and any(result["failure"] for result in results)):
        _note_campaign(args, seed, options, complete=True)
    return results


def failure_text(result: dict[str, Any]) -> str:
    """What failed, and how to see it again."""
    return (
        f"FAILED {result['failure']['kind']}: seed {result['seed']}: {result['failure']['what']}\n"
        f"  replay the run:         {replay_command(result['seed'], result['options'])}\n"
        f"  replay the small input: marlgpt soak --replay {shlex.quote(result['input'])}"
    )


def main(args: Args) -> int:
    """Run the campaign, or repeat one run; exit status 3 if anything failed or was never exercised."""
    if args.replay is not None:
        return replay(args)
    if args.hours <= 0 or (args.minutes is not None and args.minutes <= 0) or args.workers < 1:
        raise ValueError("--hours, --minutes and --workers must be positive")
    with output_folder(args.out, "soak", _made_before):
        (args.out / "runs").mkdir(parents=True, exist_ok=True)
        results = campaign(args)
        summary = summarise(results)
        (args.out / "summary.json").write_text(json.dumps(summary, indent=1))
        print(in_words(summary))
        for result in results:
            if result["failure"]:
                print(failure_text(result))
        print(f"written to {args.out / 'summary.json'}")
    return 0 if passed(summary) else FAILED


def _made_before(folder: Path) -> bool:
    """Whether an older version, that wrote no marker, made a folder."""
    try:
        summary = json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError):
        return False
    ours = {"robot_hours", "robot_contacts", "wall_contacts"}
    return (folder / "runs").is_dir() and isinstance(summary, dict) and ours <= set(summary)
