"""Tune the football script for a scenario: cross-entropy search over its numbers, by episodes won.

    python -m marlgpt_training.experts.grf_tune --scenario pass_and_shoot --minutes 20

Prints the best style found whenever it changes. Seeds stay below :data:`HELD_OUT`, evaluation uses larger ones.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import tyro
from marlgpt_sim.runs.output_folder import check_output_file

from marlgpt_training.environments.grf import Grf
from marlgpt_training.experts.grf_script import STYLES, GrfScript, Style
from marlgpt_training.experts.grf_search import roll_out, vary
from marlgpt_training.seeds import HELD_OUT


@dataclasses.dataclass
class Args:
    """Tune the football script."""

    scenario: str = "pass_and_shoot"
    """Scenario's short name."""
    minutes: float = 10.0
    """Time to spend."""
    seed: int = 0
    """Seed of variations and episodes."""
    noise: float = 0.05
    """Probability that an agent does something else in a step: what wins all the same can be learnt by a student."""
    episodes: int = 8
    """Episodes of a first measurement; a promising style plays twice as many more."""
    out: Path | None = None
    """Keep the best styles in this file, one JSON object a line; another run goes on from there."""


def win_rate(env: Grf, style: Style, seeds: range | list[int], noise: float = 0.0) -> float:
    """Share of the episodes ``seeds`` that the script wins with ``style``, in spite of ``noise`` in its moves."""
    script, wins = GrfScript(style), 0
    for seed in seeds:
        env.reset(seed)
        wins += roll_out(env, script, 400, noise, np.random.default_rng(seed))[1]
    return wins / len(seeds)


@dataclasses.dataclass
class Candidate:
    """A style and what it has won so far."""

    style: Style
    wins: float = 0.0
    played: int = 0

    @property
    def score(self) -> float:
        """Win rate, shrunk towards 1/4 as long as few episodes were played."""
        return (self.wins + 1) / (self.played + 4)

    def play(self, env: Grf, rng: np.random.Generator, episodes: int, noise: float) -> None:
        """Play more episodes."""
        seeds = [int(s) for s in rng.integers(HELD_OUT, size=episodes)]
        self.wins += episodes * win_rate(env, self.style, seeds, noise)
        self.played += episodes


def propose(kept: list[Candidate], rng: np.random.Generator) -> Style:
    """A variation of one of the better styles, or a mixture of two of them."""
    first, second = (kept[int(len(kept) * rng.random() ** 2)] for _ in range(2))
    if rng.random() < 0.5:
        one, other = dataclasses.asdict(first.style), dataclasses.asdict(second.style)
        first = Candidate(Style(**{k: (one if rng.random() < 0.5 else other)[k] for k in one}))
    return vary(first.style, rng, float(rng.choice([0.1, 0.25, 0.5])))


def load(args: Args) -> list[Candidate]:
    """What an earlier run with the same scenario and noise measured."""
    if args.out is None or not args.out.exists():
        return []
    rows = [json.loads(line) for line in args.out.read_text().splitlines()]
    return [
        Candidate(Style(**row["style"]), row["wins"], row["played"])
        for row in rows
        if (row["scenario"], row["noise"]) == (args.scenario, args.noise)
    ]


def save(args: Args, kept: list[Candidate]) -> None:
    """Write ``kept`` for :func:`load`."""
    if args.out is None:
        return
    rows = [
        {
            "scenario": args.scenario,
            "noise": args.noise,
            "wins": c.wins,
            "played": c.played,
            "style": dataclasses.asdict(c.style),
        }
        for c in kept
    ]
    args.out.write_text("".join(json.dumps(row) + "\n" for row in rows))


def main(args: Args) -> None:
    """Search until the time is up; candidates that do well are played more often."""
    if args.out is not None:
        check_output_file(args.out, b'"style"', b'"noise"')
    kept = load(args) or [Candidate(style) for style in dict.fromkeys((*STYLES.values(), Style()))]
    rng = np.random.default_rng([args.seed, sum(c.played for c in kept)])  # a run that goes on draws anew
    env, until, best = Grf(args.scenario), time.time() + 60 * args.minutes, None
    for candidate in kept:
        if not candidate.played:
            candidate.play(env, rng, 2 * args.episodes, args.noise)
    while time.time() < until:
        kept.sort(key=lambda c: -c.score)
        fresh = len(kept) < 4 or rng.random() < 0.6
        candidate = Candidate(propose(kept[:8], rng)) if fresh else kept[int(rng.integers(min(4, len(kept))))]
        candidate.play(env, rng, args.episodes, args.noise)
        bar = kept[min(3, len(kept) - 1)].score
        if fresh and candidate.wins / candidate.played >= bar:
            candidate.play(env, rng, 2 * args.episodes, args.noise)
        if fresh:
            kept.append(candidate)
        kept = sorted(kept, key=lambda c: -c.score)[:24]
        if kept[0] is not best or not fresh:
            best = kept[0]
            print(f"{best.wins:.0f} of {best.played}: {best.style}", flush=True)
    save(args, kept)
    env.close()


if __name__ == "__main__":
    main(tyro.cli(Args))
