"""How Python reaches the compiled module, and how an op becomes a torch op.

The only file besides ``env.py`` that imports ``_core``. A torch op is a Python function over a call that takes raw
addresses: about 5 us, and it passes ``torch.compile(fullgraph=True)`` and ``opcheck``.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch

import genrec_fast._core as _core
from genrec_fast.base.errors import SlowPathWarning, UnsupportedError
from genrec_fast.ops import _cuda

core: Any = _core

_LIBRARY: Any = torch.library.Library("genrec_fast", "DEF")
_warned: set[str] = set()
twins: dict[str, Callable[..., Any]] = {}
"""Op -> its twin behind the checks of the kernels; takes what the op takes."""
on_cards: set[str] = set()
"""The ops that have a kernel for cards."""


def define(
    schema: str,
    *,
    kernels: Mapping[str, Callable[..., Any]],
    twin: Callable[..., Any],
    fake: Callable[..., Any],
    check: Callable[..., None] | None = None,
) -> Callable[..., Any]:
    """Registers ``genrec_fast::NAME`` and returns the callable op.

    ``twin``, ``fake`` and ``check`` take those of the schema's arguments that they name.

    Args:
        schema: in torch's notation, e.g. ``"trie_lookup(Tensor codes, Tensor[] tokens) -> Tensor"``.
        kernels: device type -> what allocates the outputs and calls the compiled kernel; takes every argument in
            order. That of "cuda" needs CuPy on the machine, and runs on CPU tensors where tests emulate a card.
        twin: plain torch; runs on every other device, after one ``SlowPathWarning``.
        fake: returns empty tensors of the right shape and dtype.
        check: raises for values that the kernels refuse, before the twin runs.
    """
    name, _, rest = schema.partition("(")
    arguments = [argument.split()[-1] for argument in rest.partition(") ->")[0].split(", ")]
    run, examine = _by_name(twin, arguments), _by_name(check, arguments)

    def checked(*args: Any, **kwargs: Any) -> Any:
        examine(*args, **kwargs)
        return run(*args, **kwargs)

    def slow(*args: Any, **kwargs: Any) -> Any:
        every = (tensor for arg in args for tensor in (arg if isinstance(arg, list | tuple) else (arg,)))
        warn_slow_path(name, next(tensor for tensor in every if isinstance(tensor, torch.Tensor)).device.type)
        return checked(*args, **kwargs)

    def on_card(*args: Any) -> Any:
        return (kernels["cuda"] if _cuda.can_launch() else slow)(*args)

    def on_cpu(*args: Any) -> Any:
        return kernels["cuda" if _cuda.emulates() else "cpu"](*args)

    twins[name] = checked
    _LIBRARY.define(schema)
    has_card = "cuda" in kernels
    if has_card:
        _LIBRARY.impl(name, on_card, "CUDA")
        on_cards.add(name)
    if "cpu" in kernels:
        _LIBRARY.impl(name, on_cpu if has_card else kernels["cpu"], "CPU")
    _LIBRARY.impl(name, slow, "CompositeExplicitAutograd")
    torch.library.register_fake(f"genrec_fast::{name}", _by_name(fake, arguments), lib=_LIBRARY)
    op: Callable[..., Any] = getattr(torch.ops.genrec_fast, name).default
    return op


def _by_name(function: Callable[..., Any] | None, arguments: list[str]) -> Callable[..., Any]:
    """The function as one of all ``arguments``, of which it takes those that its parameters name."""
    if function is None:
        return lambda *args, **kwargs: None
    parameters = inspect.signature(function).parameters
    every = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    wanted = set(arguments) if every else set(parameters)
    assert wanted <= set(arguments), f"{function} names {wanted - set(arguments)}, which the op has not"

    def call(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(arguments, args, strict=False)), **kwargs}
        return function(**{name: given[name] for name in arguments if name in wanted})

    return call


def differentiable(name: str, backward: Callable[..., Any], remember: Callable[..., None]) -> None:
    """Gives the op a gradient: ``remember(ctx, inputs, output)`` keeps what ``backward(ctx, *gradients)`` needs."""
    torch.library.register_autograd(f"genrec_fast::{name}", backward, setup_context=remember, lib=_LIBRARY)


def warn_slow_path(name: str, device: str) -> None:
    """Says once per op that its plain twin runs; raises instead where ``GENREC_FAST_STRICT=1``.

    Raises:
        UnsupportedError: in strict mode.
    """
    if device == "cuda" and name in on_cards:
        advice = "pip install 'genrec-fast[cuda12]' (or [cuda13]) for CuPy, which compiles the kernel for this card"
    else:
        advice = "move the tensors to the CPU for the kernel"
    text = f"{name}: no kernel for {device}, its plain torch twin runs; {advice}"
    if os.environ.get("GENREC_FAST_STRICT") == "1":
        raise UnsupportedError(text)
    if name not in _warned:
        _warned.add(name)
        warnings.warn(text, SlowPathWarning, stacklevel=3)
