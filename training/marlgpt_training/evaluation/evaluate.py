"""Evaluate policies in the real ``pogema`` package on generated maps or on given map files, or in other games."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from marlgpt_sim.runs.output_folder import check_output_file, claim_folder
from tqdm import tqdm

from marlgpt_training.collection import job_pool as pool
from marlgpt_training.environments import map_families as maps
from marlgpt_training.evaluation import games, plots
from marlgpt_training.evaluation.episode import RADIUS, play_in_worker
from marlgpt_training.evaluation.finished_episodes import FinishedEpisodes
from marlgpt_training.evaluation.instances import GENERATED, Instance, agent_counts, instances
from marlgpt_training.evaluation.players import BASELINES, Contestant, contestants
from marlgpt_training.evaluation.report import normalised_table, summarise, table


@dataclasses.dataclass
class Args:
    """Evaluate policies in pogema or another game."""

    policy: list[str] = dataclasses.field(default_factory=list)
    """ONNX files and baselines (pibt, lns, random, greedy-path); pibt if none is named. In other games: ONNX files,
    checkpoints and the game's experts."""
    game: str = "pogema"
    """pogema, or GAME/SCENARIO such as smax/5v5; then only --policy, --episodes, --sample, --temperature, --unseen,
    --workers and --json count."""
    episodes: int = 128
    """Episodes in a game other than pogema."""
    unseen: bool = False
    """Let checkpoints play a layout that they were not trained on (other unit counts): zero-shot."""
    maps: str = "random"
    """Family of generated maps (random, maze, warehouse, rooms, caves) or a YAML file of pogema-toolbox maps."""
    count: int | None = None
    """Generated maps per agent count (16 if not given), or the most taken from a file (all if not given)."""
    agents: str = "8,16,24,32,48,64"
    """Agent counts, separated by commas."""
    mode: str = "lifelong"
    """lifelong (goals for ever, throughput) or one-shot (stay at the goal, success rates)."""
    steps: int = 256
    """Steps of an episode."""
    shield: str = "on,off"
    """on, off or both, for ONNX policies."""
    sample: str = "on"
    """on (sampled), off (greedy) or both, for ONNX policies."""
    temperature: float | None = None
    """Temperature of sampling; if not given, 0.2 with the shield, as on robots, and 0.5 without."""
    seeds: int = 1
    """Runs of every map with other starts, goals and samples."""
    pathfinding: bool = True
    """Also play every map with one agent alone, for the pathfinding metric."""
    workers: int = max(1, os.cpu_count() or 1)
    """Processes to use; 1 when decision times are to be compared."""
    json: Path | None = None
    """File to write the results to; finished episodes wait beside it, and a stopped evaluation goes on."""
    plots: Path | None = None
    """Folder for pictures."""


def check(args: Args) -> None:
    """Refuse options that cannot work, before any work.

    Raises:
        ValueError: Naming the option and what to do.
    """
    if args.mode not in ("lifelong", "one-shot"):
        raise ValueError(f"--mode {args.mode}: choose lifelong or one-shot")
    for name in ("count", "steps", "seeds", "workers", "episodes"):
        given = getattr(args, name)
        if given is not None and given < 1:
            raise ValueError(f"--{name} {given}: at least 1 is needed")
    if args.temperature is not None and not 0 < args.temperature < float("inf"):
        raise ValueError(f"--temperature {args.temperature:g}: must be above 0; --sample off is greedy")
    if args.json:
        check_output_file(args.json, b'"protocol"', b'"policies"', option="--json")
    if args.plots:
        try:
            claim_folder(args.plots, "plots", option="--plots")
        except OSError as error:
            raise ValueError(f"--plots {args.plots}: cannot be made ({error.strerror})") from error
        if not os.access(args.plots, os.W_OK):
            raise ValueError(f"--plots {args.plots}: not writable")


def protocol(args: Args, who: list[Contestant], played: list[Instance], left_out: list[str]) -> dict:
    """How the numbers came about; everything that changes them and everything needed to repeat them."""
    worlds = {one.map.name: one.map for one in played}
    digest = hashlib.sha256()
    for name in sorted(worlds):
        digest.update(name.encode() + str(worlds[name].free.shape).encode() + worlds[name].free.tobytes())
        digest.update(repr((worlds[name].starts, worlds[name].goals, worlds[name].agents)).encode())
    several = len({one.map.name for one in played if one.kind == "main"}) > 1
    return {
        "maps": args.maps, "maps_per_count": maps_per_count(args, played), "maps_sha256": digest.hexdigest(),
        "mode": args.mode, "steps": args.steps, "agents": args.agents, "seeds": args.seeds,
        "pathfinding": args.pathfinding, "collision_system": "soft", "obs_radius": RADIUS,
        "environment": "pogema 1.4.0", "left_out": left_out,
        "interval": "95 %, t over maps; ratios: of the linearised ratio; CSR, ISR: Wilson, effective sample size",
        "interval_over": "maps" if several else "episodes of one map",
        "policies": [
            dataclasses.asdict(one) | ({} if one.name in BASELINES else {"sha256": _digest(one.name)})
            for one in who
        ],
    }  # fmt: skip


def maps_per_count(args: Args, played: list[Instance]) -> int:
    """``--count``, or what it is where it was not given: 16 generated maps, or all that a file has room on."""
    if args.count is not None:
        return args.count
    if args.maps in maps.FAMILIES:
        return GENERATED
    return len({one.map.name for one in played if one.kind == "main"})


def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def key_of(who: Contestant, instance: Instance) -> str:
    """Unique name of an episode in a run."""
    return f"{who.label}|{instance.key}"


def episodes(
    work: list[tuple[Contestant, Instance]], workers: int
) -> Iterator[tuple[tuple[Contestant, Instance], dict]]:
    """(job, metrics) of every job as it finishes.

    Raises:
        ValueError: Naming the episode that failed.
    """
    for job, result in pool.run(play_in_worker, work, max(1, min(workers, len(work)))):
        if isinstance(result, Exception):
            raise ValueError(f"{key_of(*job)}: {result}") from result
        yield job, result


def play_all(
    who: list[Contestant], played: list[Instance], workers: int, journal: FinishedEpisodes | None
) -> dict[tuple[str, str], dict]:
    """Metrics by (label, instance key); what the journal holds is not played again."""
    done = journal.done if journal else {}
    everything = [(one, instance) for instance in played for one in who]
    results = {(w.label, i.key): done[key_of(w, i)] for w, i in everything if key_of(w, i) in done}
    work = [(w, i) for w, i in everything if (w.label, i.key) not in results]
    # Long episodes first, so that the last ones do not keep a single process busy.
    work.sort(key=lambda job: -job[1].agents)
    if results:
        print(f"going on with {journal.path}: {len(results)} of {len(everything)} episodes are there")
    with tqdm(total=len(everything), initial=len(results), unit="episode") as bar:
        for (one, instance), metrics in episodes(work, workers):
            results[one.label, instance.key] = metrics
            if journal:
                journal.add(key_of(one, instance), metrics)
            bar.update()
    return results


def main(args: Args) -> int:
    """Play everything in parallel, print tables, write JSON and pictures."""
    check(args)
    if args.game != "pogema":
        how = (args.sample, args.temperature, args.unseen, args.workers, args.json)
        return 130 if games.evaluate(args.game, args.policy, args.episodes, *how) is None else 0
    counts = agent_counts(args.agents)
    who = contestants(args.policy or ["pibt"], args.shield, args.sample, args.temperature)
    lifelong = args.mode == "lifelong"
    played, left_out = instances(
        args.maps, args.count, counts, args.seeds, lifelong, args.steps, args.pathfinding
    )
    if left_out:
        print(f"left out for want of room: {len(left_out)} of the maps and agent counts, e.g. {left_out[0]}")
    settings = protocol(args, who, played, left_out)
    journal = (
        FinishedEpisodes(args.json.with_name(args.json.name + ".partial.jsonl"), settings)
        if args.json
        else None
    )
    try:
        results = play_all(who, played, args.workers, journal)
    except KeyboardInterrupt:
        kept = (
            f"; {journal.path} keeps {len(journal.done)} episodes, the same command goes on"
            if journal
            else ""
        )
        print(f"\nstopped{kept}")
        return 130
    finally:
        if journal:
            journal.close()
    policies = summarise(who, played, results, lifelong)
    first = next(iter(policies))
    report = {**policies[first], "policy": first, "protocol": settings, "policies": policies}
    print(f"\n{table(report)}\n\n{normalised_table(report)}\n")
    if args.json:
        temporary = args.json.with_name(f".{args.json.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
        temporary.replace(args.json)
        journal.remove()
        print(f"written to {args.json}")
    if args.plots:
        print(f"drawn into {args.plots}: {', '.join(path.name for path in plots.draw(report, args.plots))}")
    return 0
