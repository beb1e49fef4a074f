"""Negatives of a target: how they are drawn, with which probability, and which of them do not count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from genrec_fast.base.batch import Batch
from genrec_fast.base.checks import check_integers
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError


def targets_of(op: str, batch: Batch) -> tuple[Tensor, Tensor]:
    """int64 ``[M]``: where a batch's targets stand, and which items they are.

    Raises:
        InvalidTypeError: targets are not int64.
        InvalidValueError: none.
    """
    if batch.targets is not None and check_integers(op, "targets", batch.targets, "[E]").dtype != torch.int64:
        raise InvalidTypeError(f"{op}: targets must be int64 [E], got {batch.targets.dtype}")
    positions = batch.target_positions
    if batch.targets is None or positions.numel() == 0:
        raise InvalidValueError(f"{op}: batch must have targets, got none")
    return positions, batch.targets[positions]


def check_targets(op: str, targets: Tensor, num_items: int) -> None:
    """Raises InvalidValueError where a target is no item: each is followed as an address.

    Cost: one pass, microseconds; nothing on a GPU, which would wait for it.
    """
    if targets.device.type == "cpu" and targets.numel() and int(targets.max()) >= num_items:
        raise InvalidValueError(f"{op}: targets must be item ids in [0, {num_items}), got {int(targets.max())}")


def check_counts(op: str, counts: Tensor) -> Tensor:
    """float64 ``[N]`` of ``counts``: how often each item occurs in the training data.

    Raises:
        InvalidTypeError: not a tensor of integers.
        InvalidValueError: not ``[N]`` with N at least 1, or a count below 0.
    """
    check_integers(op, "counts", counts, "[N]")
    if counts.dim() != 1 or counts.numel() == 0:
        raise InvalidValueError(f"{op}: counts must be [N] with N at least 1, got {list(counts.shape)}")
    if bool((counts < 0).any()):
        raise InvalidValueError(f"{op}: counts must be at least 0, got {int(counts.min())}")
    return counts.double()


class Draw:
    """Draws item ids with replacement from torch's generator, which the training loop seeds for every batch.

    Args:
        op: whose name stands in messages.
        sampling: "uniform", or "popularity": item i with probability proportional to ``(counts[i] + 1) ** power``, so
            that no item is out of reach.
        power: of the popularity.
    """

    def __init__(self, op: str, sampling: Literal["uniform", "popularity"], power: float) -> None:
        self.op, self.sampling, self.power = op, sampling, power
        self._log: Tensor | None = None  # log of each item's probability, float64 [N]
        self._below: Tensor | None = None  # the probability of this item and all before it

    def take_counts(self, counts: Tensor) -> None:
        """Learns how popular the N items are; see ``check_counts``."""
        weights = (check_counts(self.op, counts) + 1.0).pow(self.power)
        self._log = (weights / weights.sum()).log()
        below = weights.cumsum(0)
        self._below = below / below[-1]

    def __call__(self, shape: tuple[int, ...], num_items: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """int64 ids of ``shape`` in ``[0, num_items)``, and float64 ``[num_items]``: each item's log-probability.

        Raises:
            InvalidValueError: popularity without counts, or with those of another number of items.
        """
        if self.sampling == "uniform":
            log = torch.full((num_items,), 1.0 / num_items, dtype=torch.float64, device=device).log_()
            return torch.randint(num_items, shape, device=device), log
        if self._log is None or self._below is None:
            raise InvalidValueError(
                f"{self.op}: counts must be taken before a draw by popularity (build does, of a catalog with counts), "
                "got none"
            )
        if self._log.numel() != num_items:
            raise InvalidValueError(f"{self.op}: counts must be of {num_items} items, got {self._log.numel()}")
        if self._log.device != device:
            self._log, self._below = self._log.to(device), self._below.to(device)
        # rand is below 1 and the last entry is 1: the index stays inside.
        place = torch.rand(shape, dtype=torch.float64, device=device)
        return torch.searchsorted(self._below, place, right=True), self._log


def hits_of(
    batch: Batch, targets: Tensor, num_items: int, mask: Literal["target", "history"]
) -> Callable[[int, int, Tensor], Tensor]:
    """A function ``(begin, end, negatives)`` -> bool ``[end - begin, K]``: accidental hits, which do not count.

    Args:
        batch: whose targets these are.
        targets: int64 ``[M]``, in order of position.
        num_items: N.
        mask: "target": a negative that is the row's own target does not count. "history": nor does any item of that
            row's history or targets (SASRec). O(log E) per negative.
    """
    if mask == "target":

        def own(begin: int, end: int, negatives: Tensor) -> Tensor:
            return negatives.eq(targets[begin:end, None])

        return own
    rows = torch.searchsorted(batch.items.offsets, batch.target_positions, right=True) - 1
    keys = torch.cat([batch.items.row_index() * num_items + batch.items.values, rows * num_items + targets]).unique()

    def known(begin: int, end: int, negatives: Tensor) -> Tensor:
        asked = rows[begin:end, None] * num_items + negatives
        place = torch.searchsorted(keys, asked).clamp_(max=keys.numel() - 1)
        found: Tensor = keys[place] == asked
        return found

    return known
