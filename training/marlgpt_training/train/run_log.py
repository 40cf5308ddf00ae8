"""What a run shows and writes down: a progress bar, log.jsonl and TensorBoard event files."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tensorboardX import SummaryWriter
from tqdm import tqdm


class RunLog:
    """Log of one run; a resumed run drops the entries after the step it goes on from."""

    def __init__(self, folder: Path, step: int, steps: int) -> None:
        """Continue the log in ``folder`` at ``step`` of ``steps``."""
        self.path = folder / "log.jsonl"
        kept = []
        if self.path.exists():
            for line in self.path.read_text(errors="replace").splitlines():
                try:
                    if json.loads(line)["step"] <= step:
                        kept.append(line)
                except (ValueError, KeyError, TypeError, RecursionError):
                    continue  # the last line of a killed run may be torn
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(line + "\n" for line in kept))
        temporary.replace(self.path)
        self._file = open(self.path, "a", buffering=1)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)
        quiet = 1.0 if sys.stderr.isatty() else 60.0
        self.bar = tqdm(total=steps, initial=step, unit="step", mininterval=quiet, dynamic_ncols=True)
        self._started = self._since = time.monotonic()
        self._waited = 0.0

    def waited(self, seconds: float) -> None:
        """Add time that the trainer waited for data."""
        self._waited += seconds

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Do something that is not training: its time does not count in the rate."""
        began = time.monotonic()
        yield
        self._since += time.monotonic() - began

    def training(self, step: int, samples: int, new: int, terms: dict[str, float], device: str) -> None:
        """Write an entry: the terms' means, samples per second, share of time spent waiting for data.

        ``new`` samples were trained on since the last entry.
        """
        now = time.monotonic()
        spent = max(1e-9, now - self._since)
        entry = {
            **terms,
            "rate": new / spent,
            "data_wait": self._waited / spent,
            "minutes": (now - self._started) / 60,
        }
        busy = gpu_utilisation(device)
        if busy is not None:
            entry["gpu_utilisation"] = busy
        self.write(step, samples, entry)
        shown = {"loss": f"{terms['loss']:.4f}", "samples/s": f"{new / spent:,.0f}"}
        if "accuracy" in terms:
            shown["accuracy"] = f"{terms['accuracy']:.3f}"
        self.bar.set_postfix(shown, refresh=False)
        self._since, self._waited = now, 0.0

    def write(self, step: int, samples: int, entry: dict) -> None:
        """Write ``entry`` to log.jsonl and TensorBoard."""
        self._file.write(json.dumps({"step": step, "samples": samples, **entry}) + "\n")
        for name, value in entry.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        self.bar.close()
        self._file.close()
        self._board.close()


def gpu_utilisation(device: str) -> float | None:
    """Share of the last second in which the GPU computed; None on a CPU or where NVML is missing."""
    if not device.startswith("cuda"):
        return None
    import torch

    try:
        return torch.cuda.utilization(torch.device(device)) / 100
    except Exception:  # NVML's own errors, or its Python package is not installed
        return None
