"""Beam search over the trie, with a certificate: did pruning lose anything?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genrec_fast.base.config import check_fields
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.decoders.search_pass import SearchDecoder


@dataclass(frozen=True, kw_only=True)
class BeamConfig:
    """Settings of the beam search."""

    num_beams: int = 50
    """prefixes kept per user and level (50: common in the field's evaluations)"""
    normalize: Literal["all", "valid"] = "all"
    """"all": log-softmax over the codebook, as in Hugging Face's beam search; "valid": over the trie's children"""

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, catalog: Catalog | None = None) -> Beam:
        return Beam(self)


class Beam(SearchDecoder):
    """The k best items by summed log-probability of their codes.

    Items that share a semantic ID share its score. ``Ranked.bound`` is the best prefix that was pruned, so what it
    bounds is every item that was lost; ``Ranked.exact`` is k-th score > bound.

    Notes:
        L steps of the backbone and L ``trie_step`` calls, or one call where the engine runs a whole decode; with
        ``exact=True`` at most log2(rows / num_beams) + 1 times that for the users it concerns, whose histories are read
        once. A tie between the k-th item and a pruned prefix counts as a failed certificate. Deterministic as far as
        the backbone is.

    Source: beam search as in Hugging Face ``generate`` with a prefix constraint; the certificate is ours.

    Example:
        ``BeamConfig(num_beams=50).build().search(backbone, layout(batch), trie, k=10).items``
    """

    name = "beam"
    uneven = True
