"""Whether a model does what its classes say: no hooks, no replaced methods, no other kinds of layers or tensors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable
from itertools import chain
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.overrides import _get_current_function_mode_stack as function_modes
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack as dispatch_modes

from genrec_fast.nn.reached import functions_in, reached_code

# torch's own layers that the native engine's packing knows how to read, or that do nothing outside training.
PLAIN_LAYERS: frozenset[type] = frozenset(
    {
        *(nn.Linear, nn.Embedding, nn.LayerNorm, nn.ModuleList, nn.Sequential, nn.Identity, nn.Dropout),
        *(nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh),
    }
)

_CPU = torch.device("cpu")

# Modules whose functions decorate, load and save.
_BESIDE: tuple[str, ...] = (
    *("transformers.utils.", "transformers.modeling_utils", "transformers.distributed."),
    *("transformers.integrations.hub_kernels", "accelerate.", "tqdm."),
)

# Whose functions those packages call.
_LIBRARIES = ("torch", "numpy", "safetensors", "huggingface_hub")


def change_of_model(
    model: nn.Module,
    belongs: Callable[[type], bool],
    packages: tuple[str, ...],
    device: torch.device = _CPU,
) -> str | None:
    """What about a model is not as its classes have it; ``None``: nothing.

    Args:
        model: looked at with all its parts.
        belongs: whether a class other than ``PLAIN_LAYERS`` may be a part.
        packages: where the code of its classes must come from, torch aside.
        device: where its tensors must be.
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
            if tensor is not None and (what := _not_plain(tensor, key in module._parameters, device)):
                return f"has {what} at {place}.{key}".replace("itself.", "")
        replaced = next((key for key in vars(module) if callable(getattr(kind, key, None))), None)
        if replaced is not None:
            return f"has a {replaced} of its own at {place}"
        if module.training and _drops(module):
            return f"is in training mode with dropout at {place}"
    kinds = dict.fromkeys(map(type, model.modules()))
    return _change_of_code(kinds, packages)


def changing_mode(kind: str = "cpu") -> str | None:
    """What is switched on around this call that changes torch's operations on a kind of device; ``None``: nothing.

    Autocast rounds, and a mode of ``torch.overrides`` or of torch's dispatcher may do anything.
    """
    if torch.is_autocast_enabled(kind):
        return "torch.autocast is on"
    for mode in (*function_modes(), *dispatch_modes()):
        if not isinstance(mode, DeviceContext):
            return f"the mode {type(mode).__name__} is on"
    return None


def called_modules(kinds: Iterable[type]) -> list[ModuleType]:
    """Where the code that classes run is looked up by name: their Python modules and those of functions named there."""
    homes = [sys.modules[name] for name in sorted({kind.__module__ for kind in kinds}) if name in sys.modules]
    further = {
        str(function.__globals__.get("__name__", "?"))
        for home in homes
        if home.__name__.partition(".")[0] not in _LIBRARIES
        for value in [*vars(home).values()]
        for function in functions_in(value)
    }
    further = {name for name in further if name in sys.modules and not name.startswith(_BESIDE)}
    further = {name for name in further if name.partition(".")[0] not in (*_LIBRARIES, *sys.stdlib_module_names)}
    names = dict.fromkeys(("torch.nn.functional", *(home.__name__ for home in homes), *sorted(further)))
    return [sys.modules[name] for name in names]


def _change_of_code(kinds: Collection[type], packages: tuple[str, ...]) -> str | None:
    """A method, or a function that methods can call by name, that was put into the place of the packages' own."""
    homes = (*_LIBRARIES, *packages)
    bases = dict.fromkeys(base for kind in kinds for base in kind.__mro__)
    for base in bases:
        if base.__module__.partition(".")[0] not in (*packages, "torch"):
            continue
        for key, value in vars(base).items():
            foreign = foreign_home(value, homes, base.__module__)
            if foreign and not foreign.startswith(_BESIDE):  # transformers gives torch's Module a way to load weights
                return f"has a {base.__name__}.{key} from {foreign}"
    called = called_modules(kinds)
    for module in called:
        if module.__name__.partition(".")[0] in (*packages, "torch"):
            for key, value in vars(module).items():
                if not isinstance(value, (type, ModuleType)) and (
                    foreign := foreign_home(value, homes, module.__name__)
                ):
                    return f"calls a {module.__name__}.{key} from {foreign}"
    operation = reached_code(kinds, called).replaced()
    if operation is not None:
        return f"would call another {operation} than torch's own"
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


def _not_plain(tensor: Tensor, is_parameter: bool, device: torch.device) -> str | None:
    kind = type(tensor)
    if kind not in (Tensor, nn.Parameter):
        return f"a {kind.__module__}.{kind.__qualname__}"
    if tensor.device != device or tensor.layout != torch.strided:
        return f"a tensor of {tensor.layout} on {tensor.device}"
    if is_parameter and not tensor.is_floating_point():
        return f"weights of {tensor.dtype}"
    return None


def foreign_home(value: Any, homes: tuple[str, ...], within: str = "") -> str | None:
    """The module outside ``homes`` in which a function, or one it wraps, was defined, or the class of a callable.

    Args:
        value: of a class or module; what cannot be called has no home.
        homes: names of packages.
        within: the module that names it: a function of another family of models is foreign there, too.
    """
    functions = [*functions_in(value)]
    for function in functions:
        home = str(function.__globals__.get("__name__", "?"))
        if _is_foreign(home, homes) or _other_family(home, within):
            return home
        if _is_moved(function):
            return function.__code__.co_filename
    if not functions and not isinstance(value, (type, ModuleType, BuiltinFunctionType)) and _runs(value):
        home = type(value).__module__
        if _is_foreign(home, homes):
            return f"{home}, a {type(value).__name__}"
    return None


def _is_foreign(home: str, homes: tuple[str, ...]) -> bool:
    top = home.partition(".")[0]
    return top not in homes and (top not in sys.stdlib_module_names or top == "__main__")


def _is_moved(function: FunctionType) -> bool:
    """Whether a function runs code that was written in another file than the function."""
    written, home = function.__code__.co_filename, function.__globals__.get("__file__")
    return home is not None and written != home and not written.startswith("<")  # "<string>": made by a dataclass


def _other_family(home: str, within: str) -> bool:
    """Whether two modules are of two models of one library (``transformers.models.glm`` within that of Llama)."""
    one, other = (name.split(".") for name in (home, within))
    return one[:2] == other[:2] and one[1:2] == ["models"] and one[:3] != other[:3]


def _runs(value: Any) -> bool:
    """Whether Python calls a value, or a class's attribute calls it."""
    return callable(value) or hasattr(type(value), "__get__")
