"""Train a policy offline: behaviour cloning with data aggregation, and the terms of an offline actor-critic.

Runs alone or under torchrun; resumes exactly from its last saved state; chooses checkpoints by rollout throughput.
"""

from __future__ import annotations

import contextlib
import signal
import time

import numpy as np
import torch
from marlgpt_sim.runs.output_folder import output_folder
from marlgpt_sim.runs.worker_processes import worker_pool
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from marlgpt_training.collection import dagger
from marlgpt_training.dataloader.mixture import Mixture
from marlgpt_training.dataloader.sample_stream import parse_mixture
from marlgpt_training.dataloader.samples import Samples
from marlgpt_training.dataloader.sampling import SamplingConfig
from marlgpt_training.model.checkpoint import load_checkpoint, save_checkpoint
from marlgpt_training.model.losses import TERMS, Objective
from marlgpt_training.model.model import ENVIRONMENTS, MarlGpt, preset
from marlgpt_training.train.distributed import World, join
from marlgpt_training.train.run_log import RunLog
from marlgpt_training.train.run_state import RUN, check_config, is_run, load_state, save_state
from marlgpt_training.train.train_args import Args, check, learning_rate, share_out
from marlgpt_training.train.validation import validate

LOG_EVERY = 100


class Trainer:
    """One training run: model, its average, optimiser and sample streams."""

    def __init__(self, args: Args, world: World) -> None:
        """Build everything anew, or from the state of an earlier run in ``args.out``."""
        self.args, self.world, self.device = args, world, world.device
        torch.manual_seed(args.seed)
        self.state_path = args.out / "state.pt"
        state = load_state(self.state_path, self.device) if self.state_path.exists() else None
        self.executor = worker_pool(args.loaders) if args.loaders else None
        self.mixture = self._mixture()
        known = {layout.name for layout in self.mixture.layouts}
        tasks = [dagger.Task.parse(text, args.expert) for text in args.dagger_games]
        self.tasks = [task for task in tasks if task.layout.name in known]
        self.model = self._model().to(self.device).train()
        self.step, self.samples, self.best = 0, 0, -1.0
        self.sums: dict[str, torch.Tensor] = {}  # of the loss terms since the last log entry
        self.summed = 0
        if state:
            check_config(self.state_path, state["config"], self.model.config.to_dict())
            self.model.load_state_dict(state["model"])
        self.average = AveragedModel(self.model, multi_avg_fn=self._blend, use_buffers=False)
        objective = Objective(self.model, args.loss, self.average.module)
        self.optimiser = self._optimiser()
        if args.compile:
            objective.compile(dynamic=True)
        self.objective = DistributedDataParallel(objective) if world.size > 1 else objective
        self.shown = MarlGpt(self.model.config, self.mixture.layouts)  # a CPU copy of the average
        if state:
            self._restore(state)

    def _blend(self, averaged: list[torch.Tensor], current: list[torch.Tensor], _: int) -> None:
        decay = min(self.args.average, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(averaged, current, 1 - decay)

    def _optimiser(self) -> torch.optim.AdamW:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.dim() >= 2], "weight_decay": self.args.weight_decay},
            {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.args.learning_rate, betas=(0.9, 0.98))

    def _mixture(self) -> Mixture:
        """This process's share of the batch's streams."""
        args, loss = self.args, self.args.loss
        drawing = SamplingConfig(transitions=loss.uses_critic, gamma=loss.gamma, td_steps=loss.td_steps)
        own = [part for part in range(args.parts) if part % self.world.size == self.world.rank]
        return Mixture(
            parse_mixture(args.store), args.out, args.dagger_share, args.batch // args.parts, own, args.seed,
            drawing, self.executor, max(1, args.loaders),
        )  # fmt: skip

    def _model(self) -> MarlGpt:
        """A new model, or the one to start from, for the layouts of the mixture."""
        args, layouts = self.args, self.mixture.layouts
        tables = ENVIRONMENTS if len({layout.environment for layout in layouts}) > 1 else 1
        if not args.init:
            config = preset(args.preset, args.reading)
            highest = 2.0 if args.highest is None else args.highest
            config.value_range, config.tables = (0.0, highest), tables
            return MarlGpt(config, layouts)
        model = load_checkpoint(args.init, layouts, unseen=True)[0]
        lowest, highest = model.config.value_range
        if args.highest not in (None, highest):
            if not args.loss.td:
                raise ValueError(
                    f"--highest {args.highest}: the critic of {args.init} has learnt value bins up to {highest:g}; "
                    "leave --highest out, or give --loss.td a weight above 0 so that it learns the new ones"
                )
            model.set_value_range(lowest, args.highest)
        return model if tables <= model.config.tables else model.with_tables(tables)

    def _restore(self, state: dict) -> None:
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.samples, self.best = state["step"], state["samples"], state["best"]
        self.summed = state["summed"]
        share = 1.0 if self.world.leads else 0.0
        self.sums = {name: value.to(self.device) * share for name, value in state["sums"].items()}
        same = len(state["streams"]) == self.args.parts
        own = state["streams"][self.world.rank :: self.world.size]
        if not (same and self.mixture.restore(own)) and self.world.leads:
            print("--parts or --store have changed; the batches to come are other ones")
        if self.world.leads:
            print(f"resumed at step {self.step:,} ({self.samples:,} samples, best score {self.best:.3f})")

    def save(self) -> None:
        """Write state.pt; all processes must call it."""
        own = self.mixture.state()
        streams = [own]
        sums = {name: self.world.sum(value.clone()) for name, value in self.sums.items()}
        if self.world.size > 1:
            streams = [None] * self.world.size
            torch.distributed.all_gather_object(streams, own)
        if self.world.leads:
            interleaved = [streams[p % self.world.size][p // self.world.size] for p in range(self.args.parts)]
            state = {
                "config": self.model.config.to_dict(),
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "step": self.step,
                "samples": self.samples,
                "best": self.best,
                "sums": sums,
                "summed": self.summed,
                "streams": interleaved,
            }
            save_state(self.state_path, state)

    def batch(self) -> list[Samples]:
        """This process's samples of the next batch, one entry per layout."""
        return self.mixture.batch()

    def _pieces(self, batch: list[Samples]) -> list[Samples]:
        """The batch in pieces of one layout each, about ``chunks`` of equal size."""
        total = sum(map(len, batch))
        pieces = []
        for samples in batch:
            count = min(len(samples), max(1, round(self.args.chunks * len(samples) / total)))
            pieces += [samples.take(index) for index in np.array_split(np.arange(len(samples)), count)]
        return pieces

    def _count(self, sums: dict[str, torch.Tensor], layout: str) -> None:
        """Add to the sums since the last log entry; also by layout where there are several."""
        for name, value in sums.items():
            for key in [name] if len(self.mixture.layouts) == 1 else [name, f"{name}/{layout}"]:
                self.sums[key] = self.sums.get(key, 0) + value.double()

    def update(self, batch: list[Samples]) -> None:
        """One optimiser step on this process's samples.

        Raises:
            FloatingPointError: The gradient is not finite in any process; the batch is kept for inspection.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.args, self.step)
        pieces = self._pieces(batch)
        scale = self.world.size / self.args.batch  # DistributedDataParallel averages over the processes
        for k, piece in enumerate(pieces):
            last = k == len(pieces) - 1
            waits = contextlib.nullcontext() if last or self.world.size == 1 else self.objective.no_sync()
            kind = self.device.split(":")[0]
            mixed = torch.autocast(kind, torch.bfloat16, enabled=self.args.precision == "bf16")
            with waits:
                with mixed:
                    total, sums = self.objective(piece.tensors(self.device), piece.layout)
                (total * scale).backward()
            self._count(sums, piece.layout)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if not torch.isfinite(norm):  # stop before the weights, their average and the state are spoilt
            path = self.args.out / f"bad_batch_{self.world.rank}.npz"
            np.savez(path, **{f"{s.layout}/{name}": a for s in batch for name, a in s.arrays().items()})
            kept = f"the last good state in {self.state_path}" if self.state_path.exists() else "no state yet"
            raise FloatingPointError(
                f"the gradient is {float(norm)} at step {self.step + 1}; the batch is in {path}, {kept}. Lower "
                "--learning-rate, or look at the batch"
            )
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.average.update_parameters(self.model)
        self.step += 1
        self.samples += self.args.batch
        self.summed += 1

    def means(self) -> dict[str, float]:
        """Means per sample since the last call, over all processes: loss, its terms, and accuracy.

        With several layouts each figure also by layout, as ``bc/smax-5v5-1``.
        """
        names = list(self.sums)
        totals = self.world.sum(torch.stack([self.sums[name] for name in names])).tolist()
        sums, found = dict(zip(names, totals, strict=True)), {}
        mixture = self.mixture
        sizes = {
            f"/{x.name}": n * self.args.parts for x, n in zip(mixture.layouts, mixture.sizes, strict=True)
        }
        for tail, size in {"": self.args.batch, **(sizes if len(sizes) > 1 else {})}.items():
            terms = {name: sums[name + tail] / (self.summed * size) for name in TERMS if name + tail in sums}
            found |= {name + tail: value for name, value in terms.items()}
            found[f"loss{tail}"] = sum(getattr(self.args.loss, name) * value for name, value in terms.items())
            found[f"accuracy{tail}"] = sums[f"hits{tail}"] / max(1.0, sums[f"labelled{tail}"])
        self.sums, self.summed = {}, 0
        return found

    def publish(self) -> None:
        """Save the newest average, which DAgger workers drive."""
        self.shown.load_state_dict({k: v.cpu() for k, v in self.average.module.state_dict().items()})
        facts = {"step": self.step, "samples": self.samples}
        save_checkpoint(self.args.out / "student.safetensors", self.shown, self.mixture.layouts, facts)

    def evaluate(self, log: RunLog) -> None:
        """Validate the average; keep it if it is the best so far."""
        self.publish()
        metrics = validate(self.shown, self.tasks, self.args.evaluate_episodes)
        log.write(self.step, self.samples, metrics)
        log.bar.write("  rollout " + " ".join(f"{k} {v:.3f}" for k, v in metrics.items()))
        if metrics["score"] > self.best:
            self.best = metrics["score"]
            facts = {"step": self.step, "samples": self.samples, **metrics}
            save_checkpoint(self.args.out / "best.safetensors", self.shown, self.mixture.layouts, facts)


class StopRequest:
    """Turns SIGINT and SIGTERM into a flag, so that a run ends after a whole step with its state saved."""

    def __init__(self) -> None:
        self.flag = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._set)

    def _set(self, *_) -> None:
        self.flag = True


def run(
    trainer: Trainer,
    log: RunLog | None,
    stop: StopRequest,
    workers: dagger.Workers | None,
    until: int | None = None,
) -> bool:
    """The training loop, up to step ``until`` of the schedule (its end if None); the state is saved in any case.

    False if the leader's DAgger workers keep dying.
    """
    args, world = trainer.args, trainer.world
    until = args.steps if until is None else until
    alive = True
    started, logged = time.time(), trainer.step
    while trainer.step < until:
        if trainer.step % (10 if world.size > 1 else 1) == 0:  # all processes must stop at the same step
            if world.any(stop.flag or time.time() - started > args.minutes * 60):
                break
        waiting = time.time()
        batch = trainer.batch()
        if log:
            log.waited(time.time() - waiting)
        trainer.update(batch)
        if log:
            log.bar.update()
        if trainer.step % LOG_EVERY == 0 or trainer.step == args.steps:
            terms = trainer.means()
            if log:
                new = (trainer.step - logged) * args.batch
                log.training(trainer.step, trainer.samples, new, terms, trainer.device)
                trainer.publish()
            logged = trainer.step
            alive = not world.any(workers is not None and not workers.keep_alive())
            if not alive:
                break
        over = trainer.step == args.steps
        if args.evaluate_every and trainer.tasks and (over or trainer.step % args.evaluate_every == 0):
            over = True
            if log:
                with log.paused():
                    trainer.evaluate(log)
        if over or trainer.step % args.save_every == 0:
            with log.paused() if log else contextlib.nullcontext():
                world.barrier()
                trainer.save()
    trainer.save()
    return alive


def main(args: Args) -> int:
    """Train until the schedule or the time is over.

    Raises:
        ValueError: An option that cannot be, or a store or state that does not fit; nothing was trained.
        FloatingPointError: The training diverged.
        dagger.WorkerError: The DAgger workers keep dying; the state is saved.
    """
    check(args)
    torch.set_num_threads(args.threads)
    world = join(args.device)
    workers, log, trainer, held = None, None, None, contextlib.ExitStack()
    try:
        args = share_out(args, world.size)
        if world.leads:  # the others write nothing but a batch that diverged
            held.enter_context(output_folder(args.out, RUN, is_run))
        trainer = Trainer(args, world)
        if world.leads:
            log = RunLog(args.out, trainer.step, args.steps)
            trainer.publish()
            workers = dagger.Workers(
                args.dagger_workers, trainer.tasks, args.out, args.seed, args.dagger_episodes, args.dagger_keep,
                args.dagger_device, log.bar.write,
            )  # fmt: skip
        alive = run(trainer, log, StopRequest(), workers)
        step, best = trainer.step, trainer.best
        world.barrier()  # nobody leaves the group while another still needs it
        if workers and not alive:
            raise dagger.WorkerError(
                f"{workers.gave_up}. The state is saved at step {step:,}: mend that and run the same command again, or "
                "go on with --dagger-workers 0"
            )
    finally:
        if workers:
            workers.stop()
        if log:
            log.close()
        # DistributedDataParallel holds the group, whose threads must end before the interpreter does.
        trainer = None
        world.close()
        held.close()
    if world.leads:
        chosen = f"; best score {best:.3f} in {args.out / 'best.safetensors'}" if best >= 0 else ""
        print(f"stopped at step {step:,}; newest average in {args.out / 'student.safetensors'}{chosen}")
    return 0 if alive else 1
