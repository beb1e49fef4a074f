"""A stack's weights under the names of the packed block, and which of the model's tensors they were read from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from genrec_fast.base.errors import UnsupportedError
from genrec_fast.nn.stock import unread_parameter


class StackWeights(dict[str, Tensor]):
    """What ``pack_stacks`` takes of one stack.

    Args:
        read: collects the model's tensors; a parameter that none of its stacks read is a model of another kind.
        norm: how the name of the class of its norms ends; what stands there instead computes something else.
    """

    def __init__(self, read: list[Tensor], norm: str) -> None:
        super().__init__()
        self._read, self._norm = read, norm

    def put(self, name: str, *modules: Any, scale: float = 1.0, shift: float = 0.0) -> None:
        """``name.weight`` and, where there is one, ``name.bias``: of modules joined by their output channels.

        ``scale`` and ``shift`` are the weight's alone.

        Raises:
            UnsupportedError: a norm where a linear layer belongs, a layer that keeps its weights otherwise, and the
                like.
        """
        for module in modules:
            self._check_kind(name, module, "Linear")
        self._put(name, *modules, scale=scale, shift=shift)

    def _put(self, name: str, *modules: Any, scale: float = 1.0, shift: float = 0.0) -> None:
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
        """The same of one ``Conv1D``, which keeps its weight ``[in, out]``."""
        self._check_kind(name, module, "Conv1D")
        self._put(name, module)
        self[f"{name}.weight"] = module.weight.T

    def _check_kind(self, name: str, module: Any, layer: str) -> None:
        place = name.rpartition(".")[2]
        wanted = self._norm if place.startswith("before_") or place.endswith("_norm") else layer
        kind = type(module)
        own = kind.__module__.startswith("torch.") == (wanted in ("Linear", "LayerNorm"))
        if not own or not kind.__name__.endswith(wanted):
            raise UnsupportedError(
                f"pack_weights: {name} must be of a {wanted}, as its family has it, and this model has a "
                f"{kind.__module__}.{kind.__qualname__}"
            )

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
