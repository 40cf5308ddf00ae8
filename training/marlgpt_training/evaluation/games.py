"""Evaluation in games other than POGEMA: episodes with success or not, on seeds that training never draws."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np
from marlgpt_policy.encoders.registry import layout_of
from marlgpt_policy.fleet.fleet_config import SHARP
from marlgpt_policy.policy.onnx_policy import OnnxPolicy
from tqdm import tqdm

from marlgpt_training.collection import game_rollouts as games
from marlgpt_training.collection import job_pool as pool
from marlgpt_training.evaluation.finished_episodes import FinishedEpisodes
from marlgpt_training.evaluation.intervals import wilson
from marlgpt_training.evaluation.players import SWITCHES
from marlgpt_training.model.checkpoint import load_checkpoint, torch_forward
from marlgpt_training.seeds import EVALUATION
from marlgpt_training.store.frame_episode import FrameEpisode

CHUNK = 16
"""Episodes that one job plays side by side."""
FILES = (".onnx", ".safetensors")


@dataclasses.dataclass(frozen=True)
class Contestant:
    """Who plays: a policy file at a temperature (0: greedy), an expert, or random."""

    name: str
    temperature: float = 0.0

    @property
    def label(self) -> str:
        """As shown in tables."""
        if not self.name.endswith(FILES):
            return self.name
        how = f"sampled T={self.temperature:g}" if self.temperature > 0 else "greedy"
        return f"{Path(self.name).stem} {how}"


def contestants(game: str, policies: list[str], sample: str, temperature: float | None) -> list[Contestant]:
    """Everyone who plays, in the order of ``policies``.

    Raises:
        ValueError: A name that is neither a policy file nor an expert of the game, two equal labels, or an unknown
            switch.
    """
    if sample not in SWITCHES:
        raise ValueError(f"--sample {sample}: choose on, off or both")
    found = []
    for name in policies:
        if name in games.experts_of(game):
            found.append(Contestant(name))
        elif name.endswith(FILES) and Path(name).is_file():
            heat = SHARP if temperature is None else temperature
            found += [Contestant(name, heat if sampled else 0.0) for sampled in SWITCHES[sample]]
        else:
            raise ValueError(
                f"--policy {name}: no such file (.onnx or .safetensors), and no expert of {game}, which has "
                f"{', '.join(games.experts_of(game))}"
            )
    labels = [who.label for who in found]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"two policies would both be called '{twice[0]}'; rename one of the files")
    return found


def forward_of(name: str, game: str, unseen: bool) -> games.Forward:
    """The student in the file ``name`` as a function of observations.

    Raises:
        ValueError: The file does not fit the game's layout (``unseen``: layouts it was not trained on will do).
    """
    layout = layout_of(game)
    if name.endswith(".onnx"):
        policy = OnnxPolicy(name, layout, ("CPUExecutionProvider",), 1)
        return lambda values, valid, mask: policy(values, valid, mask).logits
    return torch_forward(load_checkpoint(name, layout, unseen)[0], "cpu", layout.name)


@dataclasses.dataclass(frozen=True)
class Job:
    """A few episodes of one contestant."""

    game: str
    who: Contestant
    seeds: tuple[int, ...]
    unseen: bool


def work(job: Job) -> list[dict]:
    """Metrics of the job's episodes, in the order of its seeds."""
    import torch

    torch.set_num_threads(1)
    name, teacher, student = job.who.name, None, None
    if name.endswith(FILES):
        student = forward_of(name, job.game, job.unseen)
    else:
        teacher = games.expert(job.game.split("/")[0], name)
    played = games.play(job.game, list(job.seeds), teacher, student, job.who.temperature)
    by_seed = {episode.seed: _measured(episode) for episode in played}
    return [by_seed[seed] for seed in job.seeds]


def _measured(episode: FrameEpisode) -> dict[str, float]:
    """The game's own metrics as plain numbers, and the steps and the mean return of the agents in any game."""
    found = {name: float(value) for name, value in episode.spec["metrics"].items()}
    rewards = episode.rewards.astype(np.float64)
    return found | {"steps": float(len(rewards)), "return": float(rewards.sum(axis=0).mean())}


def summarise(results: list[dict]) -> dict:
    """Success rate with the bounds of its interval, and the means of all metrics (None: a metric has no value)."""
    names = list(dict.fromkeys(name for entry in results for name in entry))
    means = {}
    for name in names:
        values = [entry[name] for entry in results if math.isfinite(entry.get(name, math.nan))]
        means[name] = float(np.mean(values)) if values else None
    rate = sum(entry["success"] > 0 for entry in results) / len(results)
    low, high = wilson(rate, len(results))
    return {**means, "success": rate, "success_low": low, "success_high": high, "episodes": len(results)}


def table(report: dict) -> str:
    """Markdown table of the report."""
    lines = ["| | success | 95 % interval | return | steps | episodes |", "|---|---|---|---|---|---|"]
    for label, entry in report["policies"].items():
        lines.append(
            f"| {label} | {entry['success']:.3f} | {entry['success_low']:.3f} to {entry['success_high']:.3f} | "
            f"{entry['return']:.2f} | {entry['steps']:.0f} | {entry['episodes']} |"
        )
    return "\n".join(lines)


def _protocol(game: str, who: list[Contestant], episodes: int, unseen: bool) -> dict:
    """How the numbers came about; everything that changes them."""
    return {
        "game": game,
        "layout": layout_of(game).name,
        "episodes": episodes,
        "first_seed": EVALUATION,
        "unseen": unseen,
        "interval": "95 %, Wilson",
        "policies": [dataclasses.asdict(one) | _digest(one.name) for one in who],
    }


def play_all(
    game: str,
    who: list[Contestant],
    seeds: list[int],
    unseen: bool,
    workers: int,
    journal: FinishedEpisodes | None,
) -> dict[str, dict]:
    """Metrics by ``LABEL|SEED``; what the journal holds is not played again.

    Raises:
        ValueError: Naming the contestant whose episode failed.
    """
    done = dict(journal.done) if journal else {}
    jobs = []
    for one in who:
        missing = [seed for seed in seeds if f"{one.label}|{seed}" not in done]
        jobs += [Job(game, one, tuple(missing[k : k + CHUNK]), unseen) for k in range(0, len(missing), CHUNK)]
    if done:
        print(f"going on with {journal.path}: {len(done)} of {len(who) * len(seeds)} episodes are there")
    with tqdm(total=len(who) * len(seeds), initial=len(done), unit="episode") as bar:
        for job, result in pool.run(work, jobs, max(1, min(workers, len(jobs)))):
            if isinstance(result, Exception):
                raise ValueError(f"{job.who.label} in {game}: {result}") from result
            for seed, metrics in zip(job.seeds, result, strict=True):
                done[f"{job.who.label}|{seed}"] = metrics
                if journal:
                    journal.add(f"{job.who.label}|{seed}", metrics)
            bar.update(len(job.seeds))
    return done


def evaluate(
    game: str,
    policies: list[str],
    episodes: int,
    sample: str,
    temperature: float | None,
    unseen: bool,
    workers: int,
    out: Path | None,
) -> dict | None:
    """Play, print a table and write ``out``; the report, None if it was stopped (Ctrl-C).

    Finished episodes wait beside ``out``; a stopped evaluation goes on.

    Raises:
        ValueError: Naming what cannot be: a game, a policy, an episode that failed.
    """
    games.split(game)
    layout_of(game)  # fails before any work, as the files do
    who = contestants(game, policies or [games.default_expert(game)], sample, temperature)
    for name in {one.name for one in who if one.name.endswith(FILES)}:
        forward_of(name, game, unseen)
    protocol = _protocol(game, who, episodes, unseen)
    journal = FinishedEpisodes(out.with_name(out.name + ".partial.jsonl"), protocol) if out else None
    seeds = [EVALUATION + k for k in range(episodes)]
    try:
        done = play_all(game, who, seeds, unseen, workers, journal)
    except KeyboardInterrupt:
        kept = ""
        if journal:
            kept = f"; {journal.path} keeps {len(journal.done)} episodes, the same command goes on"
        print(f"\nstopped{kept}")
        return None
    finally:
        if journal:
            journal.close()
    found = {one.label: summarise([done[f"{one.label}|{seed}"] for seed in seeds]) for one in who}
    report = {"policy": who[0].label, "protocol": protocol, "policies": found}
    print(f"\n{game}, {episodes} episodes\n\n{table(report)}\n")
    if out:
        temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
        temporary.replace(out)
        journal.remove()
        print(f"written to {out}")
    return report


def _digest(name: str) -> dict[str, str]:
    return {"sha256": hashlib.sha256(Path(name).read_bytes()).hexdigest()} if name.endswith(FILES) else {}
