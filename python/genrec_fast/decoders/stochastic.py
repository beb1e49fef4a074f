"""Stochastic beam search: items drawn without replacement from what the model believes, instead of the best ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from genrec_fast.catalog import Catalog
from genrec_fast.checks import shown
from genrec_fast.config import check_fields
from genrec_fast.decoders._choose import Choose, Sampled, seeds_of_rows
from genrec_fast.decoders._pass import OnePass
from genrec_fast.errors import InvalidValueError
from genrec_fast.types import Batch

__all__ = ["StochasticBeam", "StochasticBeamConfig"]


@dataclass(frozen=True, kw_only=True)
class StochasticBeamConfig:
    """Settings of the stochastic beam search."""

    needs: ClassVar[str] = "Autoregressive"

    num_beams: int = 50
    """semantic IDs drawn per user; k items are asked of them"""
    seed: int = 0
    """another seed, another draw; the same seed and history, the same items, whoever else is asked for"""

    def __post_init__(self) -> None:
        check_fields(self, free=("seed",))
        if not -(1 << 63) <= self.seed < 1 << 63:
            raise InvalidValueError(f"StochasticBeamConfig: seed must fit 64 bits, got {shown(self.seed)}")

    def build(self, catalog: Catalog | None = None) -> StochasticBeam:
        return StochasticBeam(self)


class StochasticBeam(OnePass):
    """A configured stochastic beam search.

    The first item is a draw from the model's distribution over the semantic IDs that the filter leaves, the second one
    from what remains, and so on; items that share a semantic ID come together, lower id first. ``Ranked.scores`` are
    log-probabilities, normalised over the trie's (allowed) children, in the order of the draw: they need not fall.
    ``Ranked.exact`` is false. For exploration, or to train on what a model would show.

    Notes:
        Any num_beams of at least k gives the same first k, where the model rules out no whole subtree. Every child of
        every beam is looked at, in float64: some times a beam search's time, for what is not the network.
        Deterministic as far as the backbone is.

    Source: Kool, van Hoof, Welling, "Stochastic Beams and Where to Find Them" (arXiv:1903.06059), algorithm 1.
    """

    name = "stochastic_beam"

    def __init__(self, config: StochasticBeamConfig) -> None:
        super().__init__(config.num_beams, "valid")
        self.config = config

    def choose(self, batch: Batch, num_beams: int) -> Choose:
        """Noise by seed and history."""
        return Sampled(seeds_of_rows(self.config.seed, batch.items))
