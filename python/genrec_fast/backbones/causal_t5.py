"""A T5 whose encoder reads item after item, so that one reading of a history trains every position of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genrec_fast.backbones._t5_native import native_t5
from genrec_fast.backbones.t5 import T5, T5Config
from genrec_fast.base.batch import Batch
from genrec_fast.base.jagged import offsets_of
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.engine.native import NativeEngine
from genrec_fast.nn.histories import codes_of_targets
from genrec_fast.nn.packed import row_positions


@dataclass(frozen=True, kw_only=True)
class CausalT5Config(T5Config):
    """Settings of ``CausalT5``: those of ``T5``."""

    def build(self, catalog: Catalog) -> CausalT5:
        """Makes the backbone; it reads codes alone, so items and features are not used."""
        return CausalT5(self, catalog.codebook_sizes)


class CausalT5(T5):
    """``T5`` with a causal encoder: a token of the history knows what stands before it alone.

    A history begins with the user's token, or the end token where there are no users, and none stands behind it.
    What the encoder makes of the first items of a history is then the same whatever follows them. Training
    (``targets="every"``) reads each history once and lets the decoder of each of its n targets see the items up to that
    target's own position: n targets for the price of one reading and n short decodings, where ``T5`` reads n
    histories. A search is that of ``T5``.

    Source: ours; the causal reading is that of decoder-only recommenders (SASRec, arXiv:1808.09781).
    """

    encoder_is_causal = True

    def _native(self) -> NativeEngine | None:
        return native_t5(self, CausalT5)

    @staticmethod
    def _check_targets(batch: Batch) -> None:
        codes_of_targets("t5", batch, last=False)

    def _rows(self, batch: Batch) -> Tensor:
        """int64 ``[M]``: whose history each target ends."""
        return torch.searchsorted(batch.items.offsets, batch.target_positions, right=True) - 1

    def _starts(self, batch: Batch, *, asked: bool) -> Tensor:
        starts = super()._starts(batch, asked=asked)
        return starts if asked else starts[self._rows(batch)]

    def _seen(self, batch: Batch, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """A target sees the first token and those of the items up to its own position."""
        rows = self._rows(batch)
        items = batch.target_positions - batch.items.offsets[rows] + 1
        ends = offsets_of(items * len(self.codebook_sizes) + 1)
        return row_positions(ends, offsets[rows]), ends
