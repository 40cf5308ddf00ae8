"""The loop that makes a fleet better, in one command: record an expert, import, fine-tune, swap in the driving fleet.

Everything real but the robots: an MCAP bag, the importer, training, ONNX export, and over ROS 2 a simulated fleet that
gets the new policy by service while it drives. The gain is measured twice: in process, paired over seeds that neither
the recording nor training uses, with confidence intervals; and in the very fleet whose policy is swapped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from marlgpt_policy.grid.occupancy_map import save_map_yaml
from marlgpt_sim.commands import hot_swap
from marlgpt_sim.maps import two_halls
from marlgpt_sim.runs.output_folder import output_folder

from marlgpt_training.bags import import_bag as importing
from marlgpt_training.finetune import finetune, record_expert, tuning_evaluation
from marlgpt_training.finetune.tuning_evaluation import Budget

ORIGINAL_SHARE, DAGGER_SHARE = 0.25, 0.4
"""Shares of the samples: of the original families, and of data aggregation; the rest is the recording."""


@dataclasses.dataclass
class Args:
    """Record an expert, import its bag, fine-tune, and swap the policy of a driving fleet."""

    out: Path = Path("out/retrain")
    """Folder of everything; what an earlier run of the same command has finished there is not done again."""
    robots: int = 14
    """Robots on the site of two halls."""
    minutes: float = 20.0
    """Simulated minutes of the expert's session."""
    steps: int = 400
    """Optimiser steps."""
    original_shards: int = 3
    """Shards of replay data of the original map families."""
    original_episodes: int = 16
    """Episodes in each of them."""
    runs: int = 8
    """Runs of the whole motion stack before and after."""
    run_minutes: float = 4.0
    """Simulated minutes of each."""
    maps: int = 6
    """Held-out maps of each original family, for forgetting; 0 for none."""
    swap_seconds: float = 120.0
    """Simulated seconds that the fleet drives before and after the swap."""
    dagger: int = 3
    """Rounds of data aggregation on the site besides the recording; 0: the recording alone."""
    workers: int = max(1, min(2, os.cpu_count() or 1))
    """Processes for data and evaluation."""
    seed: int = 0
    """Seed of training, evaluation and the driving fleet; the recording has one of its own."""


class Clock:
    """Prints the stages and remembers how long they took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str, what: str) -> Iterator[None]:
        """One stage."""
        print(f"\n[{name}] {what}", flush=True)
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 1)
        print(f"[{name}] {self.seconds[name]:.0f} s", flush=True)


def check(args: Args) -> None:
    """Refuse what cannot be.

    Raises:
        ValueError: Naming the option.
    """
    most = len(two_halls.goal_cells())
    if not 2 <= args.robots < most:
        raise ValueError(f"--robots {args.robots}: the halls hold 2 to {most - 1}")
    for name in ("minutes", "run_minutes", "swap_seconds"):
        if not 0 < getattr(args, name) < 1e6:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(args, name)}: give a number above 0")
    for name in ("steps", "original_shards", "original_episodes", "runs", "workers"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(args, name)}: at least 1 is needed")


def record(args: Args) -> tuple[Path, float]:
    """The expert's session as a bag, unless it is there already, and the seconds of one of its joint moves."""
    bag = args.out / "session"
    wanted = {"robots": args.robots, "minutes": args.minutes}
    note = bag.with_suffix(".json")
    if bag.exists() and note.exists():
        held = json.loads(note.read_text())
        if held.items() >= wanted.items() and "step" in held:
            print("recorded before")
            return bag, float(held["step"])
    code = record_expert.main(record_expert.Args(out=bag, robots=args.robots, minutes=args.minutes))
    if code:
        raise ValueError("the expert's session failed, see above")
    return bag, float(json.loads(note.read_text())["step"])


def summarise(args: Args, report: dict, swap: dict, clock: Clock) -> dict:
    """What summary.json holds."""
    kept = ("before", "after", "ratio", "runs", "search")
    found = {
        kind: {key: entry[key] for key in kept if key in entry}
        for kind, entry in report.items()
        if isinstance(entry, dict) and "before" in entry and kind != "contacts"
    }
    contacts = report.get("contacts", {"before": 0, "after": 0})
    driving = {key: value for key, value in swap.items() if key != "reached"}
    return {
        "robots": args.robots,
        "session_minutes": args.minutes,
        "evaluation": found,
        "contacts": contacts,
        "swap": driving,
        "stages_s": clock.seconds,
        "total_s": round(sum(clock.seconds.values()), 1),
    }


def draw(path: Path, report: dict, swap: dict) -> None:
    """Goals per minute before and after in every run, and the goals of the fleet whose policy was swapped."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), constrained_layout=True)
    entry = report["driven"]
    for k, (before, after) in enumerate(
        zip(entry["values"]["before"], entry["values"]["after"], strict=True)
    ):
        left.plot([0, 1], [before, after], color="0.75", lw=1, label="one seed" if not k else None)
    for x, side, colour in ((0, "before", "tab:red"), (1, "after", "tab:green")):
        mean, half = entry[side]
        left.errorbar([x], [mean], yerr=[half or 0.0], fmt="o", color=colour, capsize=4, lw=2)
    left.set(
        xticks=[0, 1], xticklabels=["shipped", "fine-tuned"], xlim=(-0.5, 1.5), ylabel="goals per minute"
    )
    left.set_ylim(bottom=0)
    left.set_title("paired runs, mean and 95 % interval", fontsize=10)
    left.legend(frameon=False)
    times, goals = zip(*swap["reached"], strict=True)
    right.step(times, goals, where="post", color="tab:blue")
    right.axvline(swap["swapped_at_s"], color="0.3", ls="--", lw=1)
    right.annotate(
        "fleet/load_policy", (swap["swapped_at_s"], 0), xytext=(4, 4), textcoords="offset points", fontsize=9
    )
    right.set(xlabel="simulated s", ylabel="goals reached")
    right.set_title("the driving fleet over ROS 2", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(args: Args) -> int:
    """Run the loop; 0 if the policy was swapped without a stop or a contact, 3 if robots touched, 1 if a stage failed.

    Raises:
        ValueError: An option that cannot be, or a stage that failed.
    """
    check(args)
    with output_folder(args.out, "retraining loop"):
        return loop(args)


def loop(args: Args) -> int:
    """The stages in the folder that is ours; exit status as of :func:`main`."""
    clock, site_map = Clock(), args.out / "two_halls.yaml"
    save_map_yaml(two_halls.two_halls_map(), site_map)
    with clock.stage(
        "record", f"the expert drives {args.robots} robots for {args.minutes:g} simulated minutes"
    ):
        bag, step = record(args)
    with clock.stage("import", "map, poses and goals of the bag become episodes"):
        code = importing.main(
            importing.Args(bag=(bag,), out=args.out / "imported", radius=two_halls.RADIUS, step=step)
        )
        if code:
            raise ValueError("import-bag failed, see above")
    tuned = args.out / "finetune"
    budget = Budget(driven=args.runs, minutes=args.run_minutes, grid=args.runs, family=args.maps)
    with clock.stage("fine-tune", f"{args.steps} steps, then before and after on the same seeds"):
        code = finetune.main(
            finetune.Args(
                store=[str(args.out / "imported")], out=tuned, steps=args.steps, map=site_map,
                original_shards=args.original_shards, original_episodes=args.original_episodes,
                original_share=ORIGINAL_SHARE, dagger_share=DAGGER_SHARE,
                radius=two_halls.RADIUS, evaluate=budget, dagger=args.dagger, workers=args.workers, seed=args.seed,
                device="cpu",
            )
        )  # fmt: skip
        if code:
            print(
                "marlgpt retrain-demo: fine-tuning did not finish; the same command goes on", file=sys.stderr
            )
            return code
    report = json.loads((tuned / "summary.json").read_text())
    with clock.stage("swap", "a fleet over ROS 2 gets the new policy while it drives"):
        try:
            swap = hot_swap.run(
                hot_swap.Args(
                    map=site_map, before=tuned / "before.onnx", after=tuned / "policy.onnx", out=args.out / "swap",
                    robots=args.robots, radius=two_halls.RADIUS, seconds=args.swap_seconds,
                    areas=tuple(two_halls.goal_areas()), seed=args.seed,
                )
            )  # fmt: skip
        except RuntimeError as error:
            print(f"marlgpt retrain-demo: {error}", file=sys.stderr)
            return 1
    summary = summarise(args, report, swap, clock)
    (args.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    draw(args.out / "picture.png", report, swap)
    return conclude(args, report, swap, summary)


def conclude(args: Args, report: dict, swap: dict, summary: dict) -> int:
    """Print the result; the exit status."""
    print("\n" + "\n".join(tuning_evaluation.lines(report)))
    ratio = report["driven"]["ratio"]
    if ratio is not None:
        bounds = "" if ratio[1] is None else f" (95 % interval {ratio[1] - 1:+.0%} to {ratio[2] - 1:+.0%})"
        print(f"\ngain on the site: {ratio[0] - 1:+.0%} goals per minute{bounds}")
    before, after = swap["before"]["goals_per_minute"], swap["after"]["goals_per_minute"]
    print(
        f"the driving fleet: {before:.1f} goals per minute with {swap['before']['policy']}, {after:.1f} with "
        f"{swap['after']['policy']}; a broken file was {'accepted' if swap['refused']['accepted'] else 'refused'}; "
        f"longest time between two decisions around the swap {swap['longest_decision_gap_s']:.2f} s "
        f"(before {swap['longest_decision_gap_before_s']:.2f} s)"
    )
    contacts = swap["robot_contacts"] + swap["wall_contacts"] + sum(summary["contacts"].values())
    print(
        f"contacts: {contacts}; {summary['total_s'] / 60:.1f} minutes; written to {args.out}: summary.json, picture.png"
    )
    good = swap["swap"]["accepted"] and not swap["refused"]["accepted"] and not swap["commanded_stop"]
    if not good:
        print("marlgpt retrain-demo: the swap did not go as it must, see summary.json", file=sys.stderr)
    return 3 if contacts else 0 if good else 1
