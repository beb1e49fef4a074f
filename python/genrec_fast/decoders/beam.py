"""Beam search over the trie, with a certificate: did pruning lose anything?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from genrec_fast.catalog import Catalog
from genrec_fast.checks import check_flag
from genrec_fast.config import check_fields
from genrec_fast.decoders._pass import BeamPass, beam_pass, check_search
from genrec_fast.decoders._users import check_k, select_filter, select_users
from genrec_fast.ops.trie_filter import CatalogTrie
from genrec_fast.types import Autoregressive, Batch, Jagged, Ranked

__all__ = ["Beam", "BeamConfig", "search"]

# Logits of one widened pass: 2^26 float32 are 256 MiB, and a user whose certificate fails is searched with many beams.
_WIDENED_LOGITS = 1 << 26


@torch.inference_mode()
def search(
    backbone: Autoregressive,
    batch: Batch,
    trie: CatalogTrie,
    num_beams: int,
    k: int,
    *,
    normalize: str = "all",
    allowed: Tensor | None = None,
    exclude: Jagged | None = None,
    exact: bool = False,
) -> Ranked:
    """The k best items of each user by summed log-probability of their codes.

    ::

        for level: logits = backbone.step(...); keep the num_beams best prefixes (trie_step); bound = max(bound, ...)
        expand rows to items; exact = k-th score > bound

    A prefix never scores below what follows it, so the best pruned prefix bounds every item that was lost.

    Args:
        backbone: an ``Autoregressive``, in evaluation mode.
        batch: B users, with what the backbone reads filled in by the layout.
        trie: the catalog, on the backbone's device.
        num_beams: prefixes kept per user and level, at least k; more than there are prefixes keeps all.
        k: items per user.
        normalize: "all": log-softmax over the codebook (the score of Hugging Face's beam search); "valid": over the
            children that pass the filter.
        allowed: bool ``[N]`` or ``[B, N]``: items that may appear; ``None``: all.
        exclude: item ids per user that may not appear; ``None``: none.
        exact: searches the users whose certificate fails again, with twice the beams each time, until it holds.

    Returns:
        ``Ranked``: higher score first, then lower item id. Items that share a semantic ID share its score. A user
        with fewer than k items left has -1 behind them. ``exact`` and ``bound`` speak about the filtered catalog.

    Raises:
        InvalidTypeError: the backbone is not ``Autoregressive``.
        InvalidValueError: k, num_beams, a filter or the backbone's codebook sizes do not fit; NaN logits.

    Notes:
        L backbone steps and L ``trie_step`` calls; with ``exact=True`` at most log2(rows / num_beams) + 1 times that
        for the users it concerns, each time from their histories. A tie between the k-th item and a pruned prefix
        counts as a failed certificate. Deterministic as far as the backbone is.

    Source: beam search as in Hugging Face ``generate`` with a prefix constraint; the certificate is ours.

    Example:
        ``search(backbone, layout(batch), trie, num_beams=50, k=10).items``
    """
    check_search("beam", backbone, batch, trie, allowed, exclude)
    k, num_beams = check_k("beam", k, num_beams)
    check_flag("beam", "exact", exact)
    found = beam_pass(backbone, batch, trie, k, num_beams, normalize, allowed, exclude)
    while exact and not bool(found.exact.all()):
        # A pass that keeps every row prunes nothing, so this ends.
        num_beams = min(2 * num_beams, max(trie.num_rows, num_beams))
        size = max(1, _WIDENED_LOGITS // (num_beams * max(trie.codebook_sizes)))
        for users in (~found.exact).nonzero().squeeze(1).split(size):
            chosen = select_filter(allowed, exclude, users)
            again = beam_pass(backbone, select_users(batch, users), trie, k, num_beams, normalize, *chosen)
            for name in ("items", "codes", "scores", "exact", "bound"):
                getattr(found, name)[users] = getattr(again, name)
    return found


@dataclass(frozen=True, kw_only=True)
class BeamConfig:
    """Settings of the beam search."""

    needs: ClassVar[str] = "Autoregressive"

    num_beams: int = 50
    """prefixes kept per user and level (50: common in the field's evaluations)"""
    normalize: Literal["all", "valid"] = "all"
    """"all": log-softmax over the codebook, as in Hugging Face's beam search; "valid": over the trie's children"""

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, catalog: Catalog | None = None) -> Beam:
        return Beam(self)


class Beam:
    """A configured beam search."""

    def __init__(self, config: BeamConfig) -> None:
        self.config = config

    def search(
        self,
        backbone: Autoregressive,
        batch: Batch,
        trie: CatalogTrie,
        k: int,
        *,
        num_beams: int | None = None,
        allowed: Tensor | None = None,
        exclude: Jagged | None = None,
        exact: bool = False,
    ) -> Ranked:
        """See ``search``; ``num_beams=None`` takes the configured number, or k if that is more."""
        return search(
            backbone,
            batch,
            trie,
            self.width(k, num_beams),
            k,
            normalize=self.config.normalize,
            allowed=allowed,
            exclude=exclude,
            exact=exact,
        )

    can_widen: ClassVar[bool] = True  # a search whose certificate fails may be asked again with more beams

    def width(self, k: int, num_beams: int | None) -> int:
        """The beams of a search.

        Raises:
            InvalidValueError: k is below 1 or above num_beams.
        """
        k, beams = check_k("beam", k, num_beams)
        return max(self.config.num_beams, k) if num_beams is None else beams

    def begin(
        self,
        backbone: Autoregressive,
        batch: Batch,
        trie: CatalogTrie,
        num_beams: int,
        *,
        allowed: Tensor | None = None,
        exclude: Jagged | None = None,
    ) -> BeamPass:
        """A search that goes level by level; at least one user, under ``torch.inference_mode``."""
        check_search("beam", backbone, batch, trie, allowed, exclude)
        return BeamPass(backbone, batch, trie, num_beams, self.config.normalize, allowed, exclude)
