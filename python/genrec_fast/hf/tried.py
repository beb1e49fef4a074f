"""What was found out of models by trying them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from torch import nn

from genrec_fast.nn.snapshot import Snapshot

T = TypeVar("T")


class Tried(Generic[T]):
    """A finding per model: made once, and again when the model's parts have changed."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[nn.Module, tuple[Snapshot, T]] = weakref.WeakKeyDictionary()

    def of(self, model: nn.Module, find: Callable[[], T]) -> T:
        """What is known of a model, or what ``find`` finds."""
        known = self._known.get(model)
        if known is None or not known[0].same_parts(model):
            known = (Snapshot(model), find())
            self._known[model] = known
        return known[1]
