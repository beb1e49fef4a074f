"""What a regulariser is: a term of a trainable tokenizer's loss, with settings of its own.

A trainable tokenizer takes any number of them (``RQVAEConfig(regularisers=(...))``). It builds each one from the
``FitContext``, asks it at every step which further items to code with the batch, and adds ``weight`` times its loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from genrec_fast.base.checks import shown
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged

Similarity = Literal["cosine", "product"]


@dataclass(frozen=True, kw_only=True)
class FitContext:
    """What is known when training begins.

    Args:
        num_items: N.
        feature_dim: F.
        latent_dim: D, the width of the code vectors.
        codebook_sizes: K per level.
        histories: item ids per user, of the training split only, or ``None``.
        categories: int64 ``[N, depth]``, -1 where unknown, or ``None``.
        generator: of all randomness, on the CPU.
    """

    num_items: int
    feature_dim: int
    latent_dim: int
    codebook_sizes: tuple[int, ...]
    histories: Jagged | None
    categories: Tensor | None
    generator: torch.Generator


@dataclass(frozen=True, kw_only=True)
class CodedBatch:
    """One step: the batch's B items first, then the items that regularisers asked for; M rows in all.

    Args:
        items: int64 ``[M]``: item ids.
        size: B.
        asked: the rows that this regulariser asked for.
        features: float ``[M, F]``, scaled.
        reconstruction: float ``[M, F]``: what the decoder makes of the codes.
        latent: float ``[M, D]``: what was coded.
        prefixes: L floats ``[M, D]``: the sum of the code vectors of levels 0 .. l. Their gradient goes straight
            through to the latent and, where codebooks learn by gradient, to the code vectors too.
        codes: int64 ``[M, L]``.
        codebooks: L floats ``[K_l, D]``, with gradient where they learn by it.
    """

    items: Tensor
    size: int
    asked: slice
    features: Tensor
    reconstruction: Tensor
    latent: Tensor
    prefixes: tuple[Tensor, ...]
    codes: Tensor
    codebooks: tuple[Tensor, ...]


class Regulariser(nn.Module):
    """One term of the loss; what it learns itself (projections, heads) are its parameters.

    A member writes ``forward``, and ``ask`` where it needs items that are not in the batch.
    """

    def ask(self, items: Tensor) -> Tensor:
        """Further items int64 ``[any]`` to code with the batch ``items [B]``; none by default."""
        return items.new_empty(0)

    def forward(self, batch: CodedBatch) -> Tensor:
        """The unweighted loss, 0-d; 0 where the batch has nothing for it."""
        raise NotImplementedError


@runtime_checkable
class RegulariserConfig(Protocol):
    """Settings from which a regulariser is built."""

    @property
    def weight(self) -> float:
        """Of its loss, relative to the reconstruction error of scaled features (1 per element before training)."""
        ...

    @property
    def learned_codebooks(self) -> bool:
        """Whether it acts through codebooks that learn by gradient and not by moving averages."""
        ...

    def build(self, context: FitContext) -> Regulariser: ...


def check_regularisers(op: str, configs: Any) -> None:
    """A tuple of regulariser configs, no kind twice.

    Raises:
        InvalidTypeError: something else.
        InvalidValueError: a kind twice.
    """
    if not isinstance(configs, tuple) or not all(isinstance(c, RegulariserConfig) for c in configs):
        raise InvalidTypeError(f"{op}: regularisers must be a tuple of regulariser configs, got {shown(configs)}")
    names = [type(config).__name__ for config in configs]
    if len(set(names)) < len(names):
        raise InvalidValueError(f"{op}: regularisers must be of different kinds, got {', '.join(names)}")


def contrast(
    queries: Tensor,
    keys: Tensor,
    temperature: float,
    hidden: Tensor | None = None,
    similarity: Similarity = "cosine",
) -> Tensor:
    """InfoNCE: row i of ``keys`` is the positive of row i of ``queries``, the other rows are negatives.

    ::

        - mean_i log( exp(cos(q_i, k_i) / t) / sum_j exp(cos(q_i, k_j) / t) )

    Args:
        queries: float ``[n, D]``.
        keys: float ``[n, D]``.
        temperature: t, above 0.
        hidden: bool ``[n, n]``: pairs excluded from the negatives; never the diagonal.
        similarity: "product": inner products in place of the cosines.

    Returns:
        0-d; 0 without rows.

    Source: arXiv:1807.03748, equation 4; the cosine and its temperature as in arXiv:2002.05709, equation 1.
    """
    if queries.shape[0] == 0:
        return queries.sum()
    if similarity == "cosine":
        queries, keys = nn.functional.normalize(queries, dim=1), nn.functional.normalize(keys, dim=1)
    logits = queries @ keys.T / temperature
    if hidden is not None:
        logits = logits.masked_fill(hidden, -math.inf)
    return nn.functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
