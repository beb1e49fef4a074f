"""Counting: what a backbone learns of the training data at once, without steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from genrec_fast.base.batch import Batch, Loss
from genrec_fast.base.errors import UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.objective import Objective
from genrec_fast.base.protocols import Counted
from genrec_fast.catalog.catalog import Catalog


@dataclass(frozen=True, kw_only=True)
class CountingConfig:
    """Settings of ``Counting``: there are none."""

    def build(self, catalog: Catalog | None = None) -> Counting:
        return Counting()


class Counting(Objective):
    """Hands the training histories to the backbone; training takes no step, and settings of steps are not read."""

    needs = Counted
    at_once = True

    def __call__(self, system: Any, batch: Batch) -> Loss:
        """Raises ``UnsupportedError``: there is no loss."""
        raise UnsupportedError("Counting: there is no loss, as learn() counts the whole training split at once")

    def learn(self, system: Any, histories: Jagged) -> None:
        """Counts them."""
        system.backbone.count(histories)
