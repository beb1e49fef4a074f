"""The processes of one training: who this one is, what it runs on, and sums over all of them."""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from genrec_fast.errors import InvalidValueError, UnsupportedError

__all__ = ["Processes"]

# What torchrun and "accelerate launch" set, and what MPI's launchers set.
_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


class Processes:
    """This process among those that a launcher started; alone, it needs no launcher and joins nothing.

    Args:
        device: "cpu", "cuda", ... ; ``None``: what accelerate finds, and the CPU in every process of a machine without
            accelerators.

    Attributes:
        rank: number of this process, from 0.
        world: processes that train together.
        device: of this process.

    Raises:
        InvalidValueError: a device with a number where several processes were launched.
        UnsupportedError: several processes were launched and cannot train together on that device; each would train
            for itself and write over the others' files.
    """

    def __init__(self, device: str | None) -> None:
        launched = _launched()
        self._accelerator: Accelerator | None = None
        self.rank, self.world = 0, 1
        if launched == 1:
            self.device = Accelerator().device if device is None else torch.device(device)
            return
        if device is not None and torch.device(device).index is not None:
            raise InvalidValueError(
                f"train: device must have no number where {launched} processes were launched, got {device!r}"
            )
        # accelerate joins processes on the CPU only where it is told that the CPU is meant.
        cpu = device == "cpu" or (device is None and not torch.accelerator.is_available())
        wrapper = DistributedDataParallelKwargs(find_unused_parameters=True)
        try:
            accelerator = Accelerator(cpu=cpu, kwargs_handlers=[wrapper])
        except ValueError as error:  # this program has used accelerate before, on another device
            raise UnsupportedError(f"train: device must be the one already in use, got {device!r} ({error})") from error
        wanted = accelerator.device.type if device is None else torch.device(device).type
        if accelerator.num_processes != launched or accelerator.device.type != wanted:
            raise UnsupportedError(
                f"train: the {launched} launched processes must train together on {wanted}, "
                f"got {accelerator.num_processes} on {accelerator.device.type}; start them with torchrun"
            )
        self._accelerator, self.device = accelerator, accelerator.device
        self.rank, self.world = accelerator.process_index, accelerator.num_processes

    def main_first(self) -> AbstractContextManager[None]:
        """Process 0 runs the block before all others."""
        return contextlib.nullcontext() if self._accelerator is None else self._accelerator.main_process_first()

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module, its gradients averaged over the processes by every backward pass."""
        return module if self._accelerator is None else self._accelerator.prepare(module)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the processes, the same in each; on ``device``."""
        return values if self._accelerator is None else self._accelerator.reduce(values.to(self.device), "sum")


def _launched() -> int:
    """How many processes a launcher says it started; 1 where there was none."""
    for name in _SIZES:
        text = os.environ.get(name, "")
        if text.isdecimal() and int(text) > 0:
            return int(text)
    return 1
