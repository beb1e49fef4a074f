"""Which engine runs a model of transformers natively."""

from __future__ import annotations

import torch
from torch import nn

from genrec_fast.errors import UnsupportedError
from genrec_fast.integrations.hf.families import pack_weights
from genrec_fast.nn.native import NativeEngine, packed_once

__all__ = ["native_engine"]


def native_engine(model: nn.Module, dtype: str | torch.dtype | None = None) -> NativeEngine:
    """The model packed for the native kernels; packed once, and again when a weight has changed since.

    Args:
        model: see ``pack_weights``.
        dtype: of the packed weights; ``None``: bfloat16 where the model is of that type, else float32.

    Raises:
        UnsupportedError: the native engine does not run this model, or it is not on the CPU.
    """
    weight = next(model.parameters())
    if weight.device.type != "cpu":
        raise UnsupportedError(f"native_engine: model must be on the CPU, got {weight.device}")
    name = str(dtype or ("bfloat16" if weight.dtype == torch.bfloat16 else "float32")).removeprefix("torch.")
    return packed_once(model, name, lambda: pack_weights(model, name))
