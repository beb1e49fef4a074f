"""Speculation that draws its beams: a draft is accepted where the network finds it likely, though others lead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from genrec_fast.base.batch import Batch
from genrec_fast.base.checks import shown
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.query import Query
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.decoders.arguments import seed_of
from genrec_fast.decoders.noise import seeds_of_rows
from genrec_fast.decoders.sampled_beams import SampledBeams
from genrec_fast.decoders.sampled_search import SampledSearch
from genrec_fast.decoders.speculative import Speculative, SpeculativeConfig, check_draft
from genrec_fast.decoders.trie_search import TrieSearch


@dataclass(frozen=True, kw_only=True)
class SpeculativeSamplingConfig(SpeculativeConfig):
    """Settings of the speculative search that draws."""

    seed: int = 0
    """another seed, another draw; the same seed and history, the same items, whoever else is asked for"""

    def __post_init__(self) -> None:
        check_fields(self, free=("seed",))
        check_draft(self)
        if not -(1 << 63) <= self.seed < 1 << 63:
            raise InvalidValueError(f"SpeculativeSamplingConfig: seed must fit 64 bits, got {shown(self.seed)}")

    def build(self, catalog: Catalog | None = None) -> SpeculativeSampling:
        return SpeculativeSampling(self)


class SpeculativeSampling(Speculative):
    """A search whose beams are drawn at every level, by target and draft together.

    A drafted prefix is accepted with probability min(1, p / q), so one that the target finds likely is kept though W
    others are likelier: fewer passes than ``Speculative`` needs, and other items than the best. ``Ranked`` has them by
    score; its ``exact`` is false. Answers depend on the draft, on ``drafts_per_beam`` and on ``num_levels``.

    Notes:
        For one beam and one draft (``num_beams=1, drafts_per_beam=1, k=1``) every code is a draw from the target's
        softmax over the codes that lead to what is allowed. With more, beams lean to where draft and target agree: see
        ``SampledSearch``.
        Every child of every beam is looked at, in float64.

    Source: AtSpeed (arXiv:2410.05165), relaxed sampling verification; see ``SampledSearch``.

    Example:
        ``SpeculativeSamplingConfig(num_beams=20, draft=gf.T5Config(width=32), seed=3).build(catalog)``
    """

    name = "speculative_sampling"
    uneven: ClassVar[bool] = False
    no_proof = ": its items are drawn (beam's are the best k)"
    search_kind: ClassVar[type[TrieSearch]] = SampledSearch

    def rule(self, batch: Batch, num_beams: int, query: Query) -> SampledBeams:
        """Draws by seed and history."""
        return SampledBeams(seeds_of_rows(seed_of(self.name, query.seed, self.config.seed), batch.items))
