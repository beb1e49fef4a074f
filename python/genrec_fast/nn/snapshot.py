"""What a model is made of at one moment: its parts, compared by identity, and its weights, compared by content."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from itertools import chain
from operator import is_, methodcaller
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from genrec_fast.ops.fingerprint import LiveFingerprint, same_values

__all__ = ["Snapshot"]

_GLOBAL_HOOKS = (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks)
# Hooks that a forward pass does not run.
_HARMLESS = (
    *("backward_hooks", "backward_pre_hooks", "state_dict_hooks", "dict_pre_hooks", "_hooks_with_kwargs"),
    *("hooks_always_called", "dict_post_hooks"),
)
_values = methodcaller("values")


class Snapshot:
    """A model's modules, attributes, hooks, settings and code by identity, its parameters and buffers by content.

    No counter of changes is trusted: torch's fused optimizers, ``.data``, numpy views and writes in inference mode
    leave ``Tensor._version`` as it was. So ``mark`` is over every byte, each time: read, or known from the page tables
    to be unwritten since.

    Args:
        model: not kept alive by the snapshot.
        also: more mappings whose values count as parts.

    Notes:
        ``same_parts`` compares a few thousand pointers (100 us for a T5 of 8 layers); ``mark`` runs at the speed of
        memory, or of a look at the page tables.
    """

    def __init__(self, model: nn.Module, also: Iterable[Mapping[Any, Any]] = ()) -> None:
        modules = list(model.modules())
        self._inner = modules[1:]
        self._kinds = [type(module) for module in modules]
        own = [vars(module) for module in modules]
        # What a module holds: parameters, buffers, children, hooks, an adapter's settings. Most of these are empty.
        held: list[dict[Any, Any]] = [*_GLOBAL_HOOKS]
        self._lists: list[list[Any]] = []
        settings: list[Mapping[Any, Any]] = [*also]
        for name, value in chain.from_iterable(mapping.items() for mapping in own):
            if isinstance(value, dict) and not name.endswith(_HARMLESS):
                held.append(value)
            elif isinstance(value, list):
                self._lists.append(value)
            elif name == "config" and hasattr(value, "__dict__"):
                settings.append(vars(value))
        kinds = {base for kind in self._kinds for base in kind.__mro__ if base is not object}
        settings += [vars(kind) for kind in kinds]
        settings += [vars(home) for home in _homes(kinds)]
        settings = [*{id(mapping): mapping for mapping in settings}.values()]
        self._dicts = [*own, *held, *(mapping for mapping in settings if isinstance(mapping, dict))]
        self._sizes = list(map(len, self._dicts))
        self._values = [*chain.from_iterable(map(dict.values, self._dicts))]
        self._views = [mapping for mapping in settings if not isinstance(mapping, dict)]  # of classes
        self._seen = self._in_views()
        self.tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
        self._contents: LiveFingerprint | None = None

    def same_parts(self, model: nn.Module) -> bool:
        """Whether nothing but the contents of tensors can have changed since."""
        if [type(model), *map(type, self._inner)] != self._kinds:
            return False
        if not same_values(self._dicts, self._sizes, self._values):
            return False
        seen = self._in_views()
        return len(seen) == len(self._seen) and all(map(is_, seen, self._seen))

    def mark(self) -> int:
        """A number of 64 bits over all contents.

        Raises:
            UnsupportedError: a tensor that is not dense in this machine's memory.
        """
        if self._contents is None:
            self._contents = LiveFingerprint(self.tensors)
        return self._contents.value()

    def _in_views(self) -> list[Any]:
        return [*chain.from_iterable(map(_values, self._views)), *chain.from_iterable(self._lists)]


def _homes(kinds: Iterable[type]) -> list[ModuleType]:
    """The Python modules of classes: what their code calls by name stands there."""
    return [sys.modules[name] for name in sorted({kind.__module__ for kind in kinds}) if name in sys.modules]
