"""How one policy does beside another in the real pogema, map family by map family, with intervals of their ratio.

    python benchmarks/compare_policies.py POLICY.onnx REFERENCE.onnx --maps random maze --json out/results/pogema.json

Both, PIBT and the training data's expert play the same maps, starts and goals, those of ``marlgpt evaluate`` (lifelong,
256 steps, with the shield). A stopped run goes on where it was if ``--json`` is given.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

import numpy as np
from common import finish
from marlgpt_training.environments import map_families as maps
from marlgpt_training.evaluation import evaluate
from marlgpt_training.evaluation.finished_episodes import FinishedEpisodes
from marlgpt_training.evaluation.instances import agent_counts, instances
from marlgpt_training.evaluation.intervals import ratio_interval
from marlgpt_training.evaluation.players import contestants
from marlgpt_training.evaluation.report import sample_of, summarise, table

STEPS = 256


def options() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("policy", help="ONNX file")
    parser.add_argument("reference", help="ONNX file that it is compared with")
    parser.add_argument("--maps", nargs="+", default=["random"], choices=maps.FAMILIES, help="map families")
    parser.add_argument("--agents", default="16,32,64", help="agent counts, separated by commas")
    parser.add_argument("--count", type=int, default=16, help="maps per agent count")
    parser.add_argument("--seeds", type=int, default=1, help="runs of every map with other starts and goals")
    parser.add_argument("--workers", type=int, default=1, help="processes to use")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the results to this file as well")
    return parser.parse_args()


def partial(args: argparse.Namespace, family: str) -> Path:
    """Where finished episodes wait until all are played."""
    return args.json.with_name(f"{args.json.name}.{family}.partial.jsonl")


def compared(args: argparse.Namespace, family: str) -> dict:
    """The entries of the report of ``marlgpt evaluate``, and the ``ratio`` of policy to reference with its interval."""
    who = contestants([args.policy, args.reference, "pibt", "lns"], "on", "on", None)
    counts = agent_counts(args.agents)
    played, _ = instances(family, args.count, counts, args.seeds, True, STEPS, False)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        settings = evaluate.Args(
            maps=family, count=args.count, agents=args.agents, seeds=args.seeds, steps=STEPS
        )
        journal = FinishedEpisodes(partial(args, family), evaluate.protocol(settings, who, played, []))
        with contextlib.closing(journal):
            results = evaluate.play_all(who, played, args.workers, journal)
    else:
        results = evaluate.play_all(who, played, args.workers, None)
    ratios = {}
    for name, here in [("mean", counts), *((str(agents), [agents]) for agents in counts)]:
        on = [one for one in played if one.agents in here]
        mine, theirs = ([results[w.label, i.key]["avg_throughput"] for i in on] for w in who[:2])
        ratio, low, high = ratio_interval(sample_of(mine, on), np.array(theirs))
        ratios[name] = {"ratio": ratio, "low": low, "high": high}
    policies = summarise(who, played, results, True)
    return {"policies": policies, "ratio": ratios, "episodes": len(played)}


def main() -> int:
    args = options()
    found = {}
    for family in args.maps:
        found[family] = compared(args, family)
        report = {"policies": found[family]["policies"], "protocol": {"mode": "lifelong"}}
        print(f"\n{family}\n\n{table(report)}\n")
        for name, entry in found[family]["ratio"].items():
            low, high = ("-" if entry[k] is None else f"{entry[k]:.3f}" for k in ("low", "high"))
            print(f"policy / reference, {name} agents: {entry['ratio']:.3f} [{low}, {high}]", flush=True)
    finish(args, "policies", found)
    for family in args.maps if args.json else []:
        partial(args, family).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
