"""Evaluate policies in the real ``pogema`` package on this project's generated maps or on given map files."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import yaml
from marlgpt_policy.cost_to_go import CostToGo
from marlgpt_policy.encoders import pogema as encoder
from marlgpt_policy.layout import HISTORY, POGEMA_LAYOUT
from marlgpt_policy.policy import OnnxPolicy, choose
from marlgpt_policy.shield import rank_moves, resolve
from tqdm import tqdm

from marlgpt_training import maps
from marlgpt_training.collect import HELD_OUT, window_of
from marlgpt_training.experts.lns import LIFELONG, ONE_SHOT, LnsExpert
from marlgpt_training.experts.pibt import Pibt
from marlgpt_training.grid_env import edges

BASELINES = ("pibt", "lns", "random", "greedy-path")
EVALUATION = HELD_OUT + 10_000_000
"""Map seeds of evaluations; neither training nor checkpoint selection draws them."""


@dataclasses.dataclass
class Args:
    """Evaluate policies in pogema."""

    policy: list[str] = dataclasses.field(default_factory=list)
    """ONNX files and baselines (pibt, lns, random, greedy-path)."""
    maps: str = "random"
    """Family of generated maps (random, maze, warehouse, rooms) or a YAML file of pogema-toolbox maps."""
    count: int = 16
    """Generated maps per agent count, or the most taken from a file."""
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
    temperature: float = 1.0
    """Temperature of sampling."""
    seeds: int = 1
    """Runs of every map with other starts, goals and samples."""
    workers: int = max(1, os.cpu_count() or 1)
    """Processes to use."""
    json: Path | None = None
    """File to write the results to."""


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A policy with its way of acting."""

    name: str
    shield: bool = False
    sample: bool = True
    temperature: float = 1.0

    @property
    def label(self) -> str:
        """As shown in tables."""
        if self.name in BASELINES:
            return self.name
        how = f"sampled T={self.temperature:g}" if self.sample else "greedy"
        return f"{Path(self.name).stem} {how}{' + shield' if self.shield else ''}"


def load_maps(path: str | Path) -> list[tuple[str, np.ndarray]]:
    """Maps of a pogema-toolbox YAML file: name -> text with '#' or '@' for walls.

    Raises:
        ValueError: Naming the file and the map that cannot be read.
    """
    try:
        entries = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable YAML file of maps ({error})") from error
    if not isinstance(entries, dict) or not entries:
        raise ValueError(f"{path}: expected 'name: |' entries with one map each")
    found = []
    for name, text in entries.items():
        lines = str(text).split()
        if not lines or len({len(line) for line in lines}) != 1:
            raise ValueError(f"{path}: map '{name}' is empty or its lines differ in length")
        free = np.array([[symbol not in "#@T" for symbol in line] for line in lines])
        found.append((str(name), maps.largest_component(free)))
    return found


class Player:
    """Plays one contestant: observes pogema's global state, answers with actions."""

    def __init__(
        self, contestant: Contestant, policy: OnnxPolicy | None, moves: np.ndarray, n: int, args: dict
    ):
        self.contestant, self.policy, self.moves = contestant, policy, moves
        self.costs = CostToGo(moves, capacity=4096)
        self.random = np.random.default_rng([args["seed"], 2])
        self.history = np.full((n, HISTORY), -1, dtype=np.int8)
        self.previous: np.ndarray | None = None
        self.waited = self.random.random(n)
        self.goals: np.ndarray | None = None
        mode = LIFELONG if args["mode"] == "lifelong" else ONE_SHOT
        self.pibt = Pibt(moves, n, args["seed"])
        window = args["window"]
        self.lns = LnsExpert(moves, n, mode, window, seed=args["seed"]) if contestant.name == "lns" else None

    def act(self, cells: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """int8[n] moves for agents at ``cells`` with ``goals``, both int[n, 2]."""
        if self.previous is not None:
            moved = (cells - self.previous)[:, None] == encoder.MOVES[None]
            done = np.argmax(moved.all(axis=2), axis=1).astype(np.int8)
            self.history = np.concatenate([done[:, None], self.history[:, :-1]], axis=1)
        arrived = np.zeros(len(cells), bool) if self.goals is None else (goals != self.goals).any(axis=1)
        self.previous, self.goals = cells.copy(), goals.copy()
        fields = self.costs.fields(goals)
        own = np.arange(len(cells))
        name = self.contestant.name
        if name == "pibt":
            return self.pibt.act(cells, fields, own, arrived)
        if name == "lns":
            return self.lns.act(cells, goals, fields, own)
        if name == "random":
            return self.random.integers(0, 5, size=len(cells)).astype(np.int8)
        if name == "greedy-path":
            ahead = cells[:, None] + encoder.MOVES[None]
            inside = np.clip(ahead, 0, np.array(self.moves.shape[:2]) - 1)
            cost = fields[own[:, None], inside[..., 0], inside[..., 1]]
            return np.where(self.moves[cells[:, 0], cells[:, 1]], cost, 2**30).argmin(axis=1).astype(np.int8)
        values, valid, mask = encoder.encode(fields, cells, goals, self.history, self.moves)
        output = self.policy(values, valid, mask)
        temperature = self.contestant.temperature if self.contestant.sample else 0.0
        action = choose(output.probabilities, temperature, self.random)
        if self.contestant.shield:
            # Agents at their goal (one-shot) let the others pass.
            at_goal = (cells == goals).all(axis=1)
            self.waited = np.where(arrived | at_goal, self.random.random(len(cells)), self.waited + 1)
            action = resolve(cells, rank_moves(output.logits, action, mask), self.waited, self.moves)
        return action


def play(
    contestant: Contestant, policy: OnnxPolicy | None, free: np.ndarray, agents: int, args: dict
) -> dict:
    """One episode in pogema; its metrics, the decision time in ms and the label of what was played."""
    from marlgpt_training.pogema_compat import import_pogema

    pogema = import_pogema()
    lifelong = args["mode"] == "lifelong"
    config = pogema.GridConfig(
        map=(~free).astype(int).tolist(),
        num_agents=agents, seed=args["seed"], max_episode_steps=args["steps"], obs_radius=5,
        collision_system="soft", on_target="restart" if lifelong else "nothing", observation_type="MAPF",
    )  # fmt: skip
    env = pogema.pogema_v0(config)
    observed, _ = env.reset()
    radius = config.obs_radius
    obstacles = np.asarray(observed[0]["global_obstacles"])
    world = obstacles[radius:-radius, radius:-radius] == 0
    offset = np.array([radius, radius])
    player = Player(contestant, policy, edges(world), agents, args)
    spent, finished, step = 0.0, False, 0
    while not finished:
        cells = np.array([o["global_xy"] for o in observed]) - offset
        goals = np.array([o["global_target_xy"] for o in observed]) - offset
        started = time.perf_counter()
        action = player.act(cells, goals)
        spent += time.perf_counter() - started
        observed, _, terminated, truncated, info = env.step([int(a) for a in action])
        finished = all(terminated) or all(truncated)
        step += 1
    metrics = {key: float(value) for key, value in info[0]["metrics"].items()}
    return {**metrics, "decision_ms": spent / step * 1e3}


_POLICIES: dict[str, OnnxPolicy] = {}


def _job(job: tuple) -> tuple:
    contestant, free, agents, args = job
    policy = None
    if contestant.name not in BASELINES:
        if contestant.name not in _POLICIES:
            _POLICIES[contestant.name] = OnnxPolicy(
                contestant.name, POGEMA_LAYOUT, ("CPUExecutionProvider",), 1
            )
        policy = _POLICIES[contestant.name]
    return contestant.label, agents, play(contestant, policy, free, agents, args)


def contestants(args: Args) -> list[Contestant]:
    """Who plays, from the options; ``ValueError`` for unknown switches."""
    options = {
        "on": [True],
        "off": [False],
        "on,off": [True, False],
        "off,on": [True, False],
        "both": [True, False],
    }
    for name in ("shield", "sample"):
        if getattr(args, name) not in options:
            raise ValueError(f"--{name} {getattr(args, name)}: choose on, off or both")
    found = []
    for name in args.policy or ["pibt"]:
        if name in BASELINES:
            found.append(Contestant(name))
            continue
        OnnxPolicy(name, POGEMA_LAYOUT, ("CPUExecutionProvider",), 1)  # fail before any work
        for sampled in options[args.sample]:
            found += [Contestant(name, shield, sampled, args.temperature) for shield in options[args.shield]]
    labels = [who.label for who in found]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"two policies would both be called '{twice[0]}'; rename one of the files")
    return found


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % confidence interval (normal approximation)."""
    array = np.array(values)
    half = 1.96 * array.std(ddof=1) / np.sqrt(len(array)) if len(array) > 1 else float("nan")
    return float(array.mean()), float(half)


def jobs(args: Args) -> list[tuple]:
    """Every episode to play: (contestant, free cells, agents, arguments)."""
    counts = [int(part) for part in args.agents.split(",")]
    from_file = None if args.maps in maps.FAMILIES else load_maps(args.maps)[: args.count]
    found = []
    for agents in counts:
        for k in range(args.count if from_file is None else len(from_file)):
            if from_file is None:
                seed = EVALUATION + 1000 * agents + k
                free = maps.generate(args.maps, seed)
                while free.sum() < 2 * agents:
                    seed += 1_000_000
                    free = maps.generate(args.maps, seed)
            else:
                free = from_file[k][1]
                if free.sum() < 2 * agents:
                    continue
            for s in range(args.seeds):
                settings = {
                    "seed": 7 * k + 1009 * s + agents, "steps": args.steps, "mode": args.mode,
                    "window": window_of(args.maps),
                }  # fmt: skip
                found += [(who, free, agents, settings) for who in contestants_cached(args)]
    return found


def contestants_cached(args: Args) -> list[Contestant]:
    """The contestants, checked once per run."""
    if not hasattr(args, "_contestants"):
        args._contestants = contestants(args)
    return args._contestants


def main(args: Args) -> int:
    """Play everything in parallel, print a table, write JSON."""
    if args.mode not in ("lifelong", "one-shot"):
        raise ValueError(f"--mode {args.mode}: choose lifelong or one-shot")
    work = jobs(args)
    if not work:
        raise ValueError(f"no map of {args.maps} has room for {args.agents} agents")
    results: dict[str, dict[int, list[dict]]] = {}
    context = multiprocessing.get_context("spawn")
    with context.Pool(args.workers) as pool, tqdm(total=len(work), unit="episode") as bar:
        for label, agents, metrics in pool.imap_unordered(_job, work):
            results.setdefault(label, {}).setdefault(agents, []).append(metrics)
            bar.update()
    report = summarise(args, results)
    print(table(report))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1))
        print(f"written to {args.json}")
    return 0


def summarise(args: Args, results: dict) -> dict:
    """Means and 95 % intervals by policy and agent count."""
    main_metric = "avg_throughput" if args.mode == "lifelong" else "CSR"
    policies = {}
    for who in contestants_cached(args):
        by_agents = {}
        for agents, episodes in sorted(results[who.label].items()):
            entry = {"episodes": len(episodes)}
            for key in sorted(episodes[0]):
                entry[key], entry[f"{key}_ci95"] = interval([episode[key] for episode in episodes])
            by_agents[str(agents)] = entry
        mean = float(np.mean([entry[main_metric] for entry in by_agents.values()]))
        name = "mean_throughput" if args.mode == "lifelong" else "mean_success"
        policies[who.label] = {name: mean, "by_agents": by_agents, **dataclasses.asdict(who)}
    protocol = {
        "maps": args.maps, "maps_per_count": args.count, "mode": args.mode, "steps": args.steps,
        "collision_system": "soft", "seeds": args.seeds, "agents": args.agents, "environment": "pogema 1.4.0",
    }  # fmt: skip
    first = next(iter(policies.values()))
    return {**first, "policy": next(iter(policies)), "protocol": protocol, "policies": policies}


def table(report: dict) -> str:
    """A Markdown table: policies by agent counts."""
    lifelong = report["protocol"]["mode"] == "lifelong"
    metric, mean = ("avg_throughput", "mean_throughput") if lifelong else ("CSR", "mean_success")
    counts = list(next(iter(report["policies"].values()))["by_agents"])
    lines = [f"| {metric} | " + " | ".join(counts) + " | mean |", "|---" * (len(counts) + 2) + "|"]
    for label, entry in report["policies"].items():
        cells = [
            f"{entry['by_agents'][c][metric]:.2f} ± {entry['by_agents'][c][metric + '_ci95']:.2f}"
            for c in counts
        ]
        lines.append(f"| {label} | " + " | ".join(cells) + f" | {entry[mean]:.3f} |")
    return "\n".join(lines)
