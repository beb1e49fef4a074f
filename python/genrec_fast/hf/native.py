"""Which engine runs a model of transformers natively."""

from __future__ import annotations

import torch
from torch import nn

from genrec_fast.base.errors import UnsupportedError
from genrec_fast.hf.adapters import has_adapters, learned_prompt, merged, underlying
from genrec_fast.hf.agreement import disagreement
from genrec_fast.hf.families import FAMILIES, not_the_model, pack_unchecked
from genrec_fast.hf.stock import attention_functions, check_stock
from genrec_fast.hf.tried import Tried
from genrec_fast.nn.engine.native import NativeEngine
from genrec_fast.nn.native import packed_once
from genrec_fast.nn.stock import changing_mode

# Of each packed form: why it is not the model.
_agreements: dict[str, Tried[str | None]] = {name: Tried() for name in ("float32", "bfloat16", "int8")}


def native_engine(model: nn.Module, dtype: str | torch.dtype | None = None) -> NativeEngine:
    """The model packed for the native kernels; packed once, and again when anything about it has changed since.

    Args:
        model: see ``pack_weights``; active adapters of peft are merged into the packed copy, not into the model.
        dtype: of the packed weights; ``None``: bfloat16 where the model is of that type, else float32.

    Raises:
        UnsupportedError: the native engine does not run this model, or it is not on the CPU.
    """
    if torch.get_default_dtype() != torch.float32:
        raise UnsupportedError(
            f"{type(model).__name__}: the native engine computes in float32, and torch's default is "
            f"{torch.get_default_dtype()}"
        )
    model = underlying(model)
    check_asked(model, "cpu")
    weight = next(model.parameters(), None)
    name = "bfloat16" if weight is not None and weight.dtype == torch.bfloat16 else "float32"
    name = str(dtype or name).removeprefix("torch.")
    if not has_adapters(model):
        return packed_once(
            model,
            name,
            lambda: check_stock(model, tuple(FAMILIES)),
            lambda: _tried(model, model, name),
            attention_functions(),
        )
    whole: list[nn.Module] = []  # merged where it is checked, packed from there

    def check() -> None:
        whole[:] = [merged(model)]
        check_stock(whole[0], tuple(FAMILIES))

    def pack() -> torch.Tensor:
        return _tried(model, whole[0] if whole else merged(model), name)

    return packed_once(model, name, check, pack, attention_functions())


def check_asked(model: nn.Module, kind: str) -> None:
    """Raises ``UnsupportedError`` where compiled kernels would not do what the model does when it is called now.

    Args:
        model: ``underlying``.
        kind: of device.
    """
    if (mode := changing_mode(kind)) is not None:
        raise UnsupportedError(f"{type(model).__name__}: the native engine does what a model does, and {mode}")
    if learned_prompt(model) is not None:
        raise UnsupportedError(
            f"{type(model).__name__}: the native engine reads tokens, and this model has a learned prompt before them"
        )


def _tried(model: nn.Module, whole: nn.Module, name: str) -> torch.Tensor:
    """``pack_weights`` of a model without adapters; its agreement is tried once for all weights of a model's parts."""
    packed: list[torch.Tensor] = []

    def find() -> str | None:
        packed.append(pack_unchecked(whole, name))
        return disagreement(whole, NativeEngine(packed[0]), name)

    reason = _agreements.get(name, Tried()).of(model, find)  # of no other form: packing it raises
    if reason is not None:
        raise not_the_model(model, reason)
    return packed[0] if packed else pack_unchecked(whole, name)
