"""The processes of one training: who this one is, what it runs on, and sums over all of them."""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from genrec_fast.base.errors import InvalidValueError, UnsupportedError

# What torchrun and "accelerate launch" set, and what MPI's launchers set.
_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")

# What "accelerate launch" asks for by its own settings, the values under which it asks for nothing, and what is there
# instead. Every process holds the whole network, and what accelerate would do beside that is the training loop's.
_NOT_READ = {
    "ACCELERATE_USE_FSDP": (("", "false", "0", "no"), "every process holds all weights"),
    "ACCELERATE_USE_DEEPSPEED": (("", "false", "0", "no"), "every process holds all weights"),
    "ACCELERATE_USE_MEGATRON_LM": (("", "false", "0", "no"), "every process holds all weights"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": (("", "false", "0", "no"), "every process holds all weights"),
    "ACCELERATE_MIXED_PRECISION": (("", "no"), "set the recipe's train.bf16"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (("", "1"), "set the recipe's batching.items_per_batch"),
    "ACCELERATE_DYNAMO_BACKEND": (("", "no"), "networks are not compiled"),
}


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
            for itself and write over the others' files. Or accelerate was told to do what this training does not:
            to shard the weights (FSDP, DeepSpeed, Megatron), another precision, accumulated gradients, compilation.
    """

    def __init__(self, device: str | None) -> None:
        _refuse_what_is_not_read()
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


def _refuse_what_is_not_read() -> None:
    """Refuses settings of accelerate that this training would not honour."""
    for name, (nothing, instead) in _NOT_READ.items():
        value = os.environ.get(name, "")
        if value.strip().lower() not in nothing:
            raise UnsupportedError(f"train: {name} must not be set ({instead}), got {value!r:.60}")


def _launched() -> int:
    """How many processes a launcher says it started; 1 where there was none."""
    for name in _SIZES:
        text = os.environ.get(name, "")
        if text.isdecimal() and int(text) > 0:
            return int(text)
    return 1
