"""A table that a module makes of its weights, made once for the weights of the moment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from genrec_fast.base.errors import UnsupportedError
from genrec_fast.nn.snapshot import Snapshot


class KeptTable:
    """The table that was made last, given again while nothing that it was made of has changed (``Snapshot``).

    A copy of it knows nothing yet. Threads may ask at once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: tuple[Snapshot, int, Tensor] | None = None

    def __reduce__(self) -> tuple[type[KeptTable], tuple[()]]:
        return KeptTable, ()

    def of(self, module: nn.Module, make: Callable[[], Tensor], also: dict[str, Any] | None = None) -> Tensor:
        """``make()``, or what it gave before.

        Args:
            module: whose parts, parameters and buffers the table is made of.
            make: makes it; called without gradients.
            also: more that it is made of: values by identity, and the tensors among them by content, too.
        """
        with self._lock:
            try:
                if self._known is not None:
                    snapshot, mark, table = self._known
                    if snapshot.same_parts(module) and snapshot.mark() == mark:
                        return table
                self._known = None
                more = {} if also is None else also
                snapshot = Snapshot(module, [more], [part for part in more.values() if isinstance(part, Tensor)])
                mark = snapshot.mark()
                table = make()
                if snapshot.mark() == mark:  # else somebody writes while we read: nothing is kept
                    self._known = snapshot, mark, table
                return table
            except UnsupportedError:  # tensors that cannot be looked at: on a card, or not dense
                self._known = None
                return make()
