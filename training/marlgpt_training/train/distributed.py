"""One process or many (torchrun): who am I, and what do I share the work with."""

from __future__ import annotations

import datetime
import gc
import os
from dataclasses import dataclass

import torch
from torch import distributed


@dataclass(frozen=True)
class World:
    """This process among those that torchrun started; alone without torchrun."""

    rank: int
    size: int
    device: str

    @property
    def leads(self) -> bool:
        """Whether this process writes files, shows progress and runs validation."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            distributed.barrier()

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is set in any process."""
        if self.size == 1:
            return flag
        shared = torch.tensor([float(flag)], device=self.device)
        distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
        return bool(shared.item())

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """``values`` summed over all processes."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def close(self) -> None:
        """Leave the group; drop what uses it before."""
        if self.size > 1:
            gc.collect()
            distributed.destroy_process_group()


def join(device: str) -> World:
    """Join the process group that torchrun describes in the environment (RANK, WORLD_SIZE, LOCAL_RANK).

    NCCL on GPUs, gloo on CPUs. The timeout is long because the others wait while the first one validates.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World(0, 1, device)
    if device.startswith("cuda"):
        local = int(os.environ.get("LOCAL_RANK", "0"))
        torch.cuda.set_device(local)
        device = f"cuda:{local}"
    distributed.init_process_group(
        "nccl" if device.startswith("cuda") else "gloo", timeout=datetime.timedelta(hours=1)
    )
    return World(distributed.get_rank(), size, device)
