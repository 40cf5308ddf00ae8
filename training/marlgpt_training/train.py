"""Train a policy by behaviour cloning with data aggregation (DAgger); resumable, checkpoints chosen by rollout."""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import torch
from marlgpt_policy.layout import POGEMA_LAYOUT
from torch.nn import functional as F

from marlgpt_training import dagger
from marlgpt_training.checkpoint import save_checkpoint, torch_forward
from marlgpt_training.data import SampleStream, expand
from marlgpt_training.model import MarlGpt, preset
from marlgpt_training.rollout import throughput

SHARP = 0.2
"""Sampling temperature of shielded rollouts, as on robots: the shield does best with the plain ranking."""


@dataclasses.dataclass
class Args:
    """Train a policy on a trajectory store."""

    out: Path = Path("out/train")
    """Folder of the run: checkpoints student (newest average) and best, state.pt to resume from, log.jsonl."""
    store: Path = Path("out/store")
    """Trajectory store made by marlgpt collect; DAgger shards are added to it."""
    preset: str = "tiny"
    """Model size: tiny, small or paper."""
    reading: str = "entity"
    """Token reading: entity or scalar."""
    batch: int = 512
    """Samples in a batch."""
    chunks: int = 4
    """Parts of a batch, sorted by number of tokens, so that little padding is computed."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW, cosine decay to a tenth at the end."""
    weight_decay: float = 0.05
    """Weight decay of AdamW."""
    steps: int = 20_000
    """Optimiser steps of the whole schedule."""
    warmup: int = 300
    """Steps of linear warm-up."""
    dagger_workers: int = 1
    """Processes that roll out the student and label with the expert; 0 for plain behaviour cloning."""
    dagger_episodes: int = 16
    """Episodes in a DAgger shard."""
    dagger_keep: int = 150
    """DAgger shards kept per worker; older ones are deleted."""
    dagger_share: float = 0.6
    """Share of the samples that come from DAgger shards once there are any."""
    expert: str = "lns"
    """Expert that labels DAgger states: lns or pibt."""
    evaluate_every: int = 1000
    """Steps between validation rollouts."""
    minutes: float = 1e9
    """Stop (resumable) after this many minutes."""
    threads: int = 1
    """CPU threads of the trainer."""
    seed: int = 0
    """Seed of weights, batches and rollouts."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """cuda or cpu."""


def learning_rate(args: Args, step: int) -> float:
    """Linear warm-up, then cosine decay to a tenth."""
    if step < args.warmup:
        return args.learning_rate * (step + 1) / args.warmup
    done = min(1.0, (step - args.warmup) / max(1, args.steps - args.warmup))
    return args.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def behaviour_cloning(
    model: MarlGpt, packed: np.ndarray, labels: np.ndarray, masks: np.ndarray, device: str
) -> tuple[torch.Tensor, float]:
    """Cross entropy between policy and expert moves (mean over the samples), and the accuracy."""
    values, valid = expand(packed)
    mask = np.zeros((len(masks), 20), dtype=bool)
    mask[:, :5] = masks
    x, bias = model.trunk_forward(torch.from_numpy(values).to(device), torch.from_numpy(valid).to(device))
    logits = model.actor(x, bias, torch.from_numpy(mask).to(device))
    target = torch.from_numpy(labels).to(device)
    return F.cross_entropy(logits, target), float((logits.detach().argmax(1) == target).float().mean())


class Average:
    """Exponential moving average of the weights, which rolls out better than the last step's."""

    def __init__(self, model: MarlGpt, decay: float = 0.999) -> None:
        self.decay = decay
        self.weights = {k: v.detach().clone() for k, v in model.state_dict().items()}

    def update(self, model: MarlGpt, step: int) -> None:
        """Blend in the current weights."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            self.weights[name].lerp_(value, 1 - decay)


def validate(model: MarlGpt) -> dict:
    """Rollout throughput on held-out random maps and mazes with shield, and unshielded on random maps."""
    forward = torch_forward(model.to("cpu"))
    result = {
        "random32_shield": throughput(forward, "random", 32, 6, 128, True, SHARP),
        "random64_shield": throughput(forward, "random", 64, 6, 128, True, SHARP),
        "random32_sampled": throughput(forward, "random", 32, 6, 128, False),
        "maze32_shield": throughput(forward, "maze", 32, 6, 128, True, SHARP),
    }
    result["score"] = float(np.mean(list(result.values())))
    return result


def main(args: Args) -> int:
    """Train until the schedule or the time is over."""
    if args.expert not in ("lns", "pibt"):
        raise ValueError(f"--expert {args.expert}: choose lns or pibt")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    state_path, student = args.out / "state.pt", args.out / "student.safetensors"
    model = MarlGpt(preset(args.preset, args.reading), POGEMA_LAYOUT).to(args.device)
    decay = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    optimiser = torch.optim.AdamW(
        [{"params": decay, "weight_decay": args.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=args.learning_rate,
        betas=(0.9, 0.98),
    )
    average = Average(model)
    step, samples, best = 0, 0, -1.0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True, map_location=args.device)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        average.weights = state["average"]
        step, samples, best = state["step"], state["samples"], state["best"]
        print(f"resumed at step {step:,} ({samples:,} samples, best score {best:.3f})")
    averaged = MarlGpt(model.config, POGEMA_LAYOUT)

    def publish() -> None:
        averaged.load_state_dict({k: v.cpu() for k, v in average.weights.items()})
        save_checkpoint(student, averaged, POGEMA_LAYOUT, {"step": step, "samples": samples})

    def save_state() -> None:
        state = {
            "model": model.state_dict(),
            "optimiser": optimiser.state_dict(),
            "average": average.weights,
            "step": step,
            "samples": samples,
            "best": best,
        }
        temporary = state_path.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, state_path)

    publish()
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(
            target=dagger.run,
            args=(
                args.store, student, args.seed, k, args.dagger_episodes, 128, args.expert, args.dagger_keep,
            ),
            daemon=True,
        )
        for k in range(args.dagger_workers)
    ]  # fmt: skip
    for worker in workers:
        worker.start()
    stream = SampleStream(args.store, args.seed * 1_000_003 + step, args.dagger_share).batches(args.batch)
    log = open(args.out / "log.jsonl", "a", buffering=1)
    started, last = time.time(), time.time()
    losses, accuracies, since = [], [], 0
    try:
        while step < args.steps and time.time() - started < args.minutes * 60:
            packed, labels, masks = next(stream)
            order = np.argsort((packed != -128).sum(axis=1))
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(args, step)
            model.train()
            for part in np.array_split(order, args.chunks):
                loss, accuracy = behaviour_cloning(
                    model, packed[part], labels[part], masks[part], args.device
                )
                (loss * (len(part) / len(order))).backward()
                losses.append(loss.detach())
                accuracies.append(accuracy)
            mean = float(torch.stack(losses[-args.chunks :]).mean())
            if not math.isfinite(mean):  # stop before the weights, their average and the state are spoilt
                np.savez(args.out / "bad_batch.npz", packed=packed, labels=labels, masks=masks)
                raise SystemExit(
                    f"loss is {mean} at step {step + 1}; the batch is in {args.out / 'bad_batch.npz'}"
                )
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            average.update(model, step)
            step, samples, since = step + 1, samples + len(labels), since + len(labels)
            if step % 100 == 0:
                mean = float(torch.stack(losses).mean())
                rate = since / (time.time() - last)
                left = (args.steps - step) * args.batch / rate / 60
                print(
                    f"step {step:,}/{args.steps:,} loss {mean:.4f} accuracy {np.mean(accuracies):.3f} "
                    f"{rate:,.0f} samples/s {left:.0f} min left",
                    flush=True,
                )
                entry = {
                    "step": step,
                    "samples": samples,
                    "loss": mean,
                    "accuracy": float(np.mean(accuracies)),
                }
                log.write(json.dumps({**entry, "rate": rate, "minutes": (time.time() - started) / 60}) + "\n")
                losses, accuracies, since, last = [], [], 0, time.time()
                publish()
            if step % args.evaluate_every == 0 or step == args.steps:
                averaged.load_state_dict({k: v.cpu() for k, v in average.weights.items()})
                metrics = validate(averaged)
                log.write(json.dumps({"step": step, "samples": samples, **metrics}) + "\n")
                print("  rollout " + " ".join(f"{k} {v:.3f}" for k, v in metrics.items()), flush=True)
                if metrics["score"] > best:
                    best = metrics["score"]
                    facts = {"step": step, "samples": samples, **metrics}
                    save_checkpoint(args.out / "best.safetensors", averaged, POGEMA_LAYOUT, facts)
                save_state()
                last = time.time()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here")
    finally:
        for worker in workers:
            worker.terminate()
        log.close()
    save_state()
    print(f"stopped at step {step:,}; best score {best:.3f} in {args.out / 'best.safetensors'}")
    return 0
