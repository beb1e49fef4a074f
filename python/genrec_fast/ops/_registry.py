"""How Python reaches the compiled module, and how an op becomes a torch op.

The only file besides ``env.py`` that imports ``_core``. A torch op is a Python function over a call that takes raw
addresses: about 5 us, and it passes ``torch.compile(fullgraph=True)`` and ``opcheck``.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import torch

import genrec_fast._core as _core
from genrec_fast.errors import SlowPathWarning, UnsupportedError

__all__ = ["core", "define", "differentiable", "warn_slow_path"]

core: Any = _core

_LIBRARY: Any = torch.library.Library("genrec_fast", "DEF")
_warned: set[str] = set()


def define(
    schema: str, *, cpu: Callable[..., Any], twin: Callable[..., Any], fake: Callable[..., Any]
) -> Callable[..., Any]:
    """Registers ``genrec_fast::NAME`` and returns the callable op.

    Args:
        schema: in torch's notation, e.g. ``"trie_lookup(Tensor codes, Tensor[] tokens) -> Tensor"``.
        cpu: allocates the outputs and calls the compiled kernel.
        twin: same arguments, plain torch; runs on a GPU, where no kernel exists, after one ``SlowPathWarning``.
        fake: same arguments, returns empty tensors of the right shape and dtype.
    """
    name = schema.partition("(")[0].strip()

    def slow(*args: Any, **kwargs: Any) -> Any:
        warn_slow_path(name, "cuda")
        return twin(*args, **kwargs)

    _LIBRARY.define(schema)
    _LIBRARY.impl(name, cpu, "CPU")
    _LIBRARY.impl(name, slow, "CUDA")
    torch.library.register_fake(f"genrec_fast::{name}", fake, lib=_LIBRARY)
    op: Callable[..., Any] = getattr(torch.ops.genrec_fast, name).default
    return op


def differentiable(name: str, backward: Callable[..., Any], remember: Callable[..., None]) -> None:
    """Gives the op a gradient: ``remember(ctx, inputs, output)`` keeps what ``backward(ctx, *gradients)`` needs."""
    torch.library.register_autograd(f"genrec_fast::{name}", backward, setup_context=remember, lib=_LIBRARY)


def warn_slow_path(name: str, device: str) -> None:
    """Says once per op that its plain twin runs; raises instead where ``GENREC_FAST_STRICT=1``.

    Raises:
        UnsupportedError: in strict mode.
    """
    text = f"{name}: no kernel for {device}, its plain torch twin runs; move the tensors to the CPU for the kernel"
    if os.environ.get("GENREC_FAST_STRICT") == "1":
        raise UnsupportedError(text)
    if name not in _warned:
        _warned.add(name)
        warnings.warn(text, SlowPathWarning, stacklevel=3)
