"""Whether a model does what its classes say: no hooks, no replaced methods, no other kinds of layers or tensors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

__all__ = ["PLAIN_LAYERS", "change_of_model", "foreign_home", "unread_parameter"]

# torch's own layers that the native engine's packing knows how to read, or that do nothing outside training.
PLAIN_LAYERS: frozenset[type] = frozenset(
    {
        *(nn.Linear, nn.Embedding, nn.LayerNorm, nn.ModuleList, nn.Sequential, nn.Identity, nn.Dropout),
        *(nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh),
    }
)

# Whose functions those packages call.
_LIBRARIES = ("torch", "numpy", "safetensors", "huggingface_hub")


def change_of_model(model: nn.Module, belongs: Callable[[type], bool], packages: tuple[str, ...]) -> str | None:
    """What about a model is not as its classes have it; ``None``: nothing.

    Args:
        model: looked at with all its parts.
        belongs: whether a class other than ``PLAIN_LAYERS`` may be a part.
        packages: where the code of its classes must come from, torch aside.
    """
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        return "has hooks that torch runs for every module"
    for name, module in model.named_modules():
        place, kind = name or "itself", type(module)
        if kind not in PLAIN_LAYERS and not belongs(kind):
            return f"has {place}, a {kind.__module__}.{kind.__qualname__}"
        if module._forward_hooks or module._forward_pre_hooks:
            return f"has hooks at {place}"
        for key, tensor in chain(module._parameters.items(), module._buffers.items()):
            if tensor is not None and (what := _not_plain(tensor, key in module._parameters)):
                return f"has {what} at {place}.{key}".replace("itself.", "")
        replaced = next((key for key in vars(module) if callable(getattr(kind, key, None))), None)
        if replaced is not None:
            return f"has a {replaced} of its own at {place}"
        if module.training and _drops(module):
            return f"is in training mode with dropout at {place}"
    kinds = dict.fromkeys(map(type, model.modules()))
    return _change_of_code(kinds, packages)


def _change_of_code(kinds: Collection[type], packages: tuple[str, ...]) -> str | None:
    """A method, or a function that methods can call by name, that was put into the place of the packages' own."""
    homes = (*_LIBRARIES, *packages)
    bases = dict.fromkeys(base for kind in kinds for base in kind.__mro__)
    for base in bases:
        if base.__module__.partition(".")[0] not in packages:
            continue
        for key, value in vars(base).items():
            if foreign := foreign_home(value, homes):
                return f"has a {base.__name__}.{key} from {foreign}"
    for name in dict.fromkeys(kind.__module__ for kind in kinds):
        if name.partition(".")[0] in packages and name in sys.modules:
            for key, value in vars(sys.modules[name]).items():
                if isinstance(value, FunctionType) and (foreign := foreign_home(value, homes)):
                    return f"calls a {name}.{key} from {foreign}"
    return None


def unread_parameter(model: nn.Module, read: Iterable[Tensor]) -> str | None:
    """The name of a parameter that is none of those that were read."""
    known = {id(tensor) for tensor in read}
    return next((name for name, parameter in model.named_parameters() if id(parameter) not in known), None)


def _drops(module: nn.Module) -> bool:
    return any(
        ("drop" in key or key in ("p", "threshold")) and isinstance(value, (int, float)) and value > 0
        for key, value in vars(module).items()
    )


def _not_plain(tensor: Tensor, is_parameter: bool) -> str | None:
    kind = type(tensor)
    if kind not in (Tensor, nn.Parameter):
        return f"a {kind.__module__}.{kind.__qualname__}"
    if tensor.device.type != "cpu" or tensor.layout != torch.strided:
        return f"a tensor of {tensor.layout} on {tensor.device}"
    if is_parameter and not tensor.is_floating_point():
        return f"weights of {tensor.dtype}"
    return None


def foreign_home(value: Any, homes: tuple[str, ...]) -> str | None:
    """The module outside ``homes`` in which a function, or one it wraps, was defined."""
    for function in _functions(value):
        home = str(function.__globals__.get("__name__", "?"))
        top = home.partition(".")[0]
        if top not in homes and (top not in sys.stdlib_module_names or top == "__main__"):
            return home
    return None


def _functions(value: Any) -> Iterator[FunctionType]:
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    if isinstance(value, property):
        value = value.fget
    while isinstance(value, FunctionType):
        yield value
        value = getattr(value, "__wrapped__", None)
