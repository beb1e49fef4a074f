"""A stack's weights under the names of the packed block, and which of the model's tensors they were read from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from genrec_fast.base.errors import UnsupportedError
from genrec_fast.nn.stock import unread_parameter

__all__ = ["StackWeights", "check_all_read", "one_value"]


class StackWeights(dict[str, Tensor]):
    """What ``pack_stacks`` takes of one stack.

    Args:
        read: collects the model's tensors; a parameter that none of its stacks read is a model of another kind.
    """

    def __init__(self, read: list[Tensor]) -> None:
        super().__init__()
        self._read = read

    def put(self, name: str, *modules: Any, scale: float = 1.0, shift: float = 0.0) -> None:
        """``name.weight`` and, where there is one, ``name.bias``: of modules joined by their output channels.

        ``scale`` and ``shift`` are the weight's alone.
        """
        weights = [module.weight for module in modules]
        biases = [getattr(module, "bias", None) for module in modules]
        self._read += [tensor for tensor in (*weights, *biases) if tensor is not None]
        if scale != 1.0 or shift != 0.0:
            weights = [weight.float() * scale + shift for weight in weights]
        self[f"{name}.weight"] = weights[0] if len(weights) == 1 else torch.cat(weights)
        if any(bias is not None for bias in biases):
            whole = [w.new_zeros(w.shape[0]) if b is None else b for w, b in zip(weights, biases, strict=True)]
            self[f"{name}.bias"] = whole[0] if len(whole) == 1 else torch.cat(whole)

    def put_transposed(self, name: str, module: Any) -> None:
        """The same of one module that keeps its weight ``[in, out]``."""
        self.put(name, module)
        self[f"{name}.weight"] = module.weight.T

    def table(self, tensor: Tensor) -> Tensor:
        """A tensor that is kept beside the stacks."""
        self._read.append(tensor)
        return tensor.detach()


def check_all_read(model: nn.Module, read: list[Tensor]) -> None:
    """Raises ``UnsupportedError`` for a parameter that the packed form leaves out."""
    left_out = unread_parameter(model, read)
    if left_out is not None:
        raise UnsupportedError(
            f"{type(model).__name__}: the native engine knows every weight it runs, and this model has {left_out}"
        )


def one_value(model: nn.Module, what: str, values: Iterable[Any]) -> Any:
    """The value that all layers share.

    Raises:
        UnsupportedError: they do not share one.
    """
    found = list(dict.fromkeys(values))
    if len(found) != 1:
        raise UnsupportedError(
            f"{type(model).__name__}: the native engine knows one {what} for all layers, and this model has {found}"
        )
    return found[0]
