"""Scores that are sums: what a search that looks at a few items needs to know of them."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from genrec_fast.base.batch import Batch
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import Autoregressive


class Summed(NamedTuple):
    """``score[b, i] = vectors[b] . table[i] + values of i in row b of known``, for B users and N items.

    Args:
        vectors: float32 ``[B, D]``.
        table: float32 ``[N, D]``.
        known: int64 items of B rows; an item may stand in a row several times, and its values are added up.
        values: float32, of the same order.
        wishes: float32 ``[B, F]``: the part of the vectors that compares texts.
        texts: float32 ``[N, F]``: and what it is compared with; ``wishes . texts`` is a part of the product above.
        most: float32 ``[B]``: no item's rest of that product is higher.
    """

    vectors: Tensor
    table: Tensor
    known: Jagged
    values: Tensor
    wishes: Tensor
    texts: Tensor
    most: Tensor


@runtime_checkable
class SummedScores(Autoregressive, Protocol):
    """A backbone that writes semantic IDs, and whose score of an item is a product and what is known of a few items."""

    num_items: int

    def summed_scores(self, batch: Batch) -> Summed:
        """What the scores of B users are made of, without a matrix of them; no history may be empty."""
        ...
