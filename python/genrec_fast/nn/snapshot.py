"""What a model is made of at one moment: its parts, compared by identity, and its weights, compared by content."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from genrec_fast.nn.reached import reached_code
from genrec_fast.nn.stock import called_modules
from genrec_fast.ops.fingerprint import LiveFingerprint, same_values

_GLOBAL_HOOKS = (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks)
# Hooks that a forward pass does not run.
_HARMLESS = (
    *("backward_hooks", "backward_pre_hooks", "state_dict_hooks", "dict_pre_hooks", "_hooks_with_kwargs"),
    *("hooks_always_called", "dict_post_hooks"),
)


class Snapshot:
    """A model's modules, attributes, hooks, settings and code by identity, its parameters and buffers by content.

    Torch's operations that the code names count as code, and so do functions whose code was changed in place.

    No counter of changes is trusted: torch's fused optimizers, ``.data``, numpy views and writes in inference mode
    leave ``Tensor._version`` as it was. So ``mark`` is over every byte, each time: read, or known from the page tables
    to be unwritten since.

    Args:
        model: not kept alive by the snapshot.
        also: more dictionaries whose values count as parts.
        tensors: more tensors that count by content.

    Notes:
        ``same_parts`` compares a few thousand pointers (25 us for a T5 of 8 layers); ``mark`` runs at the speed of
        memory, or of a look at the page tables.
    """

    def __init__(self, model: nn.Module, also: Iterable[dict[Any, Any]] = (), tensors: Iterable[Tensor] = ()) -> None:
        modules = list(model.modules())
        self._inner = modules[1:]
        self._kinds = [type(module) for module in modules]
        own = [vars(module) for module in modules]
        # What a module holds: parameters, buffers, children, hooks, an adapter's settings. Most of these are empty.
        held: list[Any] = [*_GLOBAL_HOOKS]
        lists: list[Any] = []
        settings: list[dict[Any, Any]] = [*also]
        for name, value in chain.from_iterable(mapping.items() for mapping in own):
            if isinstance(value, dict) and not name.endswith(_HARMLESS):
                held.append(value)
            elif isinstance(value, list):
                lists.append(value)
            elif name == "config" and hasattr(value, "__dict__"):
                settings.append(vars(value))
        kinds = {base for kind in self._kinds for base in kind.__mro__ if base is not object}
        homes = called_modules(self._kinds)
        settings += [vars(home) for home in homes]
        settings = [*{id(mapping): mapping for mapping in settings}.values()]
        code = reached_code(kinds, homes)
        self._operations = sorted(code.names & vars(torch).keys())
        self._called = [*map(vars(torch).get, self._operations)]
        self._containers: list[Any] = [*own, *held, *settings, *kinds, Tensor, *lists, *code.functions, self._called]
        contents = [_contents(container) for container in self._containers]
        self._sizes = torch.tensor([len(values) for values in contents])
        self._values = [*chain.from_iterable(contents)]
        # Parameters and buffers, and whatever else a module holds: a tensor may stand in a parameter's place.
        kept = [value for container in (*own, *held, *lists) for value in _contents(container)]
        found = {id(value): value for value in (*kept, *tensors) if isinstance(value, Tensor)}
        self.tensors: list[Tensor] = [*found.values()]
        self._contents: LiveFingerprint | None = None

    def same_parts(self, model: nn.Module) -> bool:
        """Whether nothing but the contents of tensors can have changed since."""
        if [type(model), *map(type, self._inner)] != self._kinds:
            return False
        self._called[:] = map(vars(torch).get, self._operations)
        return same_values(self._containers, self._sizes, self._values)

    def mark(self) -> int:
        """A number of 64 bits over all contents.

        Raises:
            UnsupportedError: a tensor that is not dense in this machine's memory.
        """
        if self._contents is None:
            self._contents = LiveFingerprint(self.tensors)
        return self._contents.value()


def _contents(container: dict[Any, Any] | type | list[Any] | FunctionType) -> list[Any]:
    if isinstance(container, list):
        return [*container]
    if isinstance(container, FunctionType):
        return [container.__code__, container.__defaults__, container.__kwdefaults__, container.__closure__]
    return [*(vars(container) if isinstance(container, type) else container).values()]
