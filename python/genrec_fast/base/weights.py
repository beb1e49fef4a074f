"""The tensors of a module by name, out and in again."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from genrec_fast.base.errors import CorruptFileError


@runtime_checkable
class Growing(Protocol):
    """A module with tensors whose sizes depend on what it has learned."""

    def make_room(self, tensors: dict[str, Tensor]) -> None:
        """Gives its own tensors the shapes of saved ones, by the names they have in the module."""
        ...


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Name -> tensor of everything in the state dict; a tensor that has several names is given once."""
    seen: set[int] = set()
    tensors = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor.detach()
    return tensors


def restore_module(module: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Copies ``tensors`` into ``module``, in place.

    Raises:
        CorruptFileError: a tensor is missing, unknown, or has another shape or dtype.
    """
    for path, part in module.named_modules():
        if isinstance(part, Growing):
            start = path and f"{path}."
            part.make_room({name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)})
    own = module_tensors(module)
    for name in own.keys() | tensors.keys():
        if name not in tensors or name not in own:
            rule = "is missing" if name not in tensors else "is unknown to this recipe"
            raise CorruptFileError(f"{where}: tensor {name} {rule}")
        have, want = tensors[name], own[name]
        if have.shape != want.shape or have.dtype != want.dtype:
            raise CorruptFileError(
                f"{where}: tensor {name} must be {want.dtype} {list(want.shape)}, got {have.dtype} {list(have.shape)}"
            )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
