"""Fine-tune a policy on imported episodes, mixed with data of its original kind, and measure what that changed.

Steps, each of which is skipped or gone on with if an earlier run was stopped: replay data of the original map families;
training; export to ONNX; the same runs with the policy before and after, on the site and on the original families.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import signal
import sys
from dataclasses import field
from pathlib import Path

import torch
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_policy.grid.occupancy_map import load_map_yaml
from marlgpt_policy.policy.shipped_files import shipped_file
from marlgpt_sim.runs.output_folder import output_folder

from marlgpt_training.dataloader.sample_stream import parse_mixture
from marlgpt_training.export import export
from marlgpt_training.finetune import tuning_data, tuning_evaluation
from marlgpt_training.finetune.recorded_site import Site, sites_of
from marlgpt_training.finetune.tuning_evaluation import Budget, hash_of
from marlgpt_training.model.checkpoint import load_checkpoint, save_checkpoint, torch_forward
from marlgpt_training.store.shards import shards
from marlgpt_training.train import train_args
from marlgpt_training.train.distributed import World
from marlgpt_training.train.run_log import RunLog
from marlgpt_training.train.run_state import RUN, is_run
from marlgpt_training.train.train import StopRequest, Trainer, run

SHIPPED = shipped_file("marlgpt_policy", "models/pogema.safetensors")
STOPPED = 130


@dataclasses.dataclass
class Args:
    """Fine-tune a policy on imported episodes."""

    store: list[str] = field(default_factory=lambda: ["out/imported"])
    """Stores of imported episodes (marlgpt import-bag) with their weights: FOLDER or FOLDER=WEIGHT."""
    out: Path = Path("out/finetune")
    """Folder of the run: policy.onnx, final.safetensors, summary.json, and what a stopped run needs to go on."""
    checkpoint: Path = SHIPPED
    """Checkpoint to start from."""
    original: list[str] = field(default_factory=list)
    """Stores of the data that the checkpoint was trained on; if none is given, episodes of the same map families and
    expert are generated in OUT/original."""
    original_share: float = 0.5
    """Share of the samples that are of the original kind; 0 trains on the imported ones alone."""
    original_shards: int = 6
    """Generated shards of original data."""
    original_episodes: int = 16
    """Episodes in each of them."""
    steps: int = 300
    """Optimiser steps."""
    batch: int = 256
    """Samples in a batch."""
    learning_rate: float = 5e-4
    """Peak learning rate; 20 steps of warm-up, cosine decay to a tenth."""
    average: float = 0.98
    """Decay of the moving average of the weights, which is what is kept."""
    dagger: int = 0
    """Rounds of data aggregation on the site: the policy drives there in simulation, and the search, on the moves that
    the recorded robots made, labels. 0: the recording alone."""
    dagger_share: float = 0.3
    """Share of the samples that come from these rounds, once there are any."""
    map: Path | None = None
    """Map of the site in map_server's YAML format: evaluates with the whole motion stack, in goals per minute."""
    radius: float = 0.22
    """Radius of the robots in that evaluation, m."""
    robots: int = 0
    """Robots in evaluations on the site; 0: as many as were recorded."""
    evaluate: Budget = field(default_factory=Budget)
    """How much is played before and after."""
    minutes: float = 1e9
    """Stop (resumable) after this many minutes of training."""
    workers: int = 1
    """Processes for generating data and for evaluation."""
    seed: int = 0
    """Seed of batches, generated episodes and rollouts."""
    threads: int = 1
    """CPU threads of the trainer."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """cuda or cpu."""


def check(args: Args) -> None:
    """Refuse what cannot be before anything is made.

    Raises:
        ValueError: Naming the option.
    """
    least = {"original_shards": 1, "original_episodes": 1, "steps": 1, "batch": 2, "dagger": 0, "robots": 0,
             "workers": 1, "threads": 1, "seed": 0}  # fmt: skip
    for name, value in least.items():
        if getattr(args, name) < value:
            raise ValueError(f"{train_args.option(name)} {getattr(args, name)}: at least {value} is needed")
    for name in ("original_share", "dagger_share"):
        if not 0 <= getattr(args, name) < 1:
            raise ValueError(
                f"{train_args.option(name)} {getattr(args, name)}: choose a share from 0 to below 1"
            )
    if not 0 < args.learning_rate < math.inf:
        raise ValueError(f"--learning-rate {args.learning_rate}: choose a number above 0")
    if args.evaluate.driven and args.map is None:
        args.evaluate = dataclasses.replace(args.evaluate, driven=0)
    if args.map is not None:
        load_map_yaml(args.map)
    train_args.check_device("device", args.device)
    parse_mixture(args.store)


def fingerprint(args: Args) -> dict[str, str]:
    """What decides the outcome of training: options, the checkpoint's bytes and those of the imported shards."""
    names = ("original", "original_share", "original_shards", "original_episodes", "steps", "batch", "learning_rate",
             "average", "dagger", "dagger_share", "seed")  # fmt: skip
    found = {name: str(getattr(args, name)) for name in names}
    digest = hashlib.sha256()
    for source in parse_mixture(args.store):
        digest.update(str(source.weight).encode())
        for path in shards(source.folder):
            digest.update(path.read_bytes())
    return found | {
        "store": digest.hexdigest()[:16],
        "checkpoint": hashlib.sha256(args.checkpoint.read_bytes()).hexdigest()[:16],
    }


def is_fine_tuning(folder: Path) -> bool:
    """Whether a folder without a marker is one that a version of this project without markers began."""
    try:
        return {"checkpoint", "store", "original_share"} <= set(json.loads((folder / "run.json").read_text()))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def check_same(args: Args) -> None:
    """Begin the run in ``OUT``, or make sure that it is this one.

    Raises:
        ValueError: ``OUT`` holds another run; names what differs.
    """
    path, wanted = args.out / "run.json", fingerprint(args)
    if path.exists():
        try:
            held = json.loads(path.read_text())
            other = [name for name, value in wanted.items() if held.get(name) != value]
        except (ValueError, AttributeError):
            other = ["run.json, which is damaged"]
        if other:
            raise ValueError(
                f"--out {args.out}: holds a run that differs in {', '.join(other)}; name another folder, or delete it"
            )
    path.write_text(json.dumps(wanted) + "\n")


def mixture(args: Args, originals: list[str]) -> list[str]:
    """``--store`` entries of the training: imported and original data with weights that give the wanted shares."""
    found = []
    shares = [(args.store, 1 - args.original_share), (originals, args.original_share)]
    for entries, share in shares:
        if share <= 0 or not entries:
            continue
        sources = parse_mixture(entries)
        total = sum(source.weight for source in sources)
        found += [f"{source.folder}={share * source.weight / total:.6f}" for source in sources]
    return found


def training_args(args: Args, stores: list[str]) -> train_args.Args:
    """The training run, as ``marlgpt train`` would be told."""
    settings = train_args.Args(
        out=args.out / "run", store=stores, init=args.checkpoint, batch=args.batch, learning_rate=args.learning_rate,
        average=args.average, steps=args.steps, warmup=min(20, args.steps // 4), dagger_workers=0,
        dagger_share=args.dagger_share if args.dagger else 0.0, evaluate_every=0, save_every=50, minutes=args.minutes,
        threads=args.threads, seed=args.seed, device=args.device, precision="fp32",
    )  # fmt: skip
    train_args.check(settings)
    return train_args.share_out(settings, 1)


def fine_tune(args: Args, stores: list[str], site: Site) -> bool:
    """Train, resumably; False if it was stopped before the end. The result is in ``OUT/run/student.safetensors``."""
    settings = training_args(args, stores)
    with output_folder(settings.out, RUN, is_run):
        return _train(args, settings, site)


def _train(args: Args, settings: train_args.Args, site: Site) -> bool:
    torch.set_num_threads(args.threads)
    trainer = Trainer(settings, World(0, 1, args.device))
    log = RunLog(settings.out, trainer.step, args.steps)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stop = StopRequest()
    folder = settings.out / "dagger"
    try:
        for k in range(args.dagger + 1):
            until = args.steps * (k + 1) // (args.dagger + 1)
            run(trainer, log, stop, None, until)
            if trainer.step < until:
                return False
            if k < args.dagger and len(shards(folder)) <= k:
                log.bar.write(f"round {k + 1} of {args.dagger}: driving on the site")
                trainer.publish()
                tuning_data.add_site_shard(
                    folder, site, torch_forward(trainer.shown), 8, 96, 100 + k + args.seed
                )
        trainer.publish()
    finally:
        log.close()
        for number, handler in handlers.items():  # an evaluation has no step to end before it stops
            signal.signal(number, handler)
    return True


def onnx_of(checkpoint: Path, path: Path) -> Path:
    """``checkpoint`` as the runtime loads it, for evaluation; written once."""
    if not path.exists() or path.stat().st_mtime < checkpoint.stat().st_mtime:
        model, facts = load_checkpoint(checkpoint, POGEMA_LAYOUT)
        export.to_onnx(model, POGEMA_LAYOUT, path, facts, "for evaluation")
    return path


def finish(args: Args, report: dict, site: Site) -> int:
    """Write final.safetensors and policy.onnx with the measurements in their metadata; 1 if parity fails."""
    model, facts = load_checkpoint(args.out / "run/student.safetensors", POGEMA_LAYOUT)
    short = {
        kind: {key: value for key, value in entry.items() if key != "values"}
        for kind, entry in report.items()
        if isinstance(entry, dict)
    }
    facts = {**facts, "fine_tuned_from": args.checkpoint.name, "site": hash_of(site), "evaluation": short}
    save_checkpoint(args.out / "final.safetensors", model, POGEMA_LAYOUT, facts)
    training = (
        f"fine-tuned from {args.checkpoint.name}: {facts['samples']:,} samples, {args.original_share:.0%} of them of "
        f"the original map families, the others from {', '.join(args.store)}"
        + (f" and {args.dagger} rounds of data aggregation there" if args.dagger else "")
    )
    return export.main(
        export.Args(
            checkpoint=args.out / "final.safetensors", out=args.out / "policy.onnx",
            store=parse_mixture(args.store)[0].folder, observations=2000, training=training,
        )
    )  # fmt: skip


def main(args: Args) -> int:
    """Fine-tune, evaluate, export; 130 if stopped (the same command goes on), 1 if the exported file is not the model.

    Raises:
        ValueError: An option that cannot be, a store without episodes, an unusable checkpoint.
    """
    check(args)
    imported = [str(source.folder) for source in parse_mixture(args.store)]
    sites = sites_of(imported)
    site = sites[0] if not args.robots else dataclasses.replace(sites[0], agents=args.robots)
    if len(site.places) < 2:
        raise ValueError(f"{', '.join(imported)}: holds {len(site.places)} goal cells; at least 2 are needed")
    if len(sites) > 1:
        print(f"{len(sites)} grids in the stores; the one with most decisions is evaluated on")
    load_checkpoint(args.checkpoint, POGEMA_LAYOUT)
    with output_folder(args.out, "fine-tuning", is_fine_tuning):
        check_same(args)
        return tune(args, imported, site)


def tune(args: Args, imported: list[str], site: Site) -> int:
    """Data, training, evaluation and export in the folder that is ours; exit status as of :func:`main`."""
    quiet = 1.0 if sys.stderr.isatty() else 30.0
    originals = list(args.original)
    if not originals and args.original_share > 0:
        folder = args.out / "original"
        tuning_data.make_original(
            folder,
            args.checkpoint,
            args.original_shards,
            args.original_episodes,
            96,
            args.seed,
            args.workers,
            quiet,
        )
        originals = [str(folder)]
    print(
        f"site: {int(site.free.sum())} cells, {len(site.places)} goal cells, {site.agents} robots, "
        f"{int(site.made.sum()):,} recorded moves"
    )
    if not fine_tune(args, mixture(args, originals), site):
        print(f"stopped; the same command goes on from {args.out / 'run'}")
        return STOPPED
    before = onnx_of(args.checkpoint, args.out / "before.onnx")
    after = onnx_of(args.out / "run/student.safetensors", args.out / "after.onnx")
    report = tuning_evaluation.compare(
        before,
        after,
        site,
        args.evaluate,
        args.out / "evaluation.jsonl",
        args.workers,
        quiet,
        args.map,
        args.radius,
    )
    code = finish(args, report, site)
    settings = {key: str(value) for key, value in vars(args).items()}
    (args.out / "summary.json").write_text(json.dumps({**report, "settings": settings}, indent=1) + "\n")
    print("\n".join(["", *tuning_evaluation.lines(report), ""]))
    print(f"written to {args.out}: summary.json, final.safetensors" + ("" if code else ", policy.onnx"))
    return code
