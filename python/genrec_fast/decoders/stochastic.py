"""Stochastic beam search: items drawn without replacement from what the model believes, instead of the best ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from genrec_fast.base.batch import Batch
from genrec_fast.base.checks import shown
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.query import Query
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.decoders.arguments import seed_of
from genrec_fast.decoders.children import Children
from genrec_fast.decoders.noise import gumbel, prefixes, seeds_of_rows
from genrec_fast.decoders.search_pass import SearchDecoder
from genrec_fast.nn.engine.plan import Found
from genrec_fast.ops.trie_filter import CatalogTrie, TrieFilter
from genrec_fast.ops.trie_step import TrieStep


@dataclass(frozen=True, kw_only=True)
class StochasticBeamConfig:
    """Settings of the stochastic beam search."""

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


class StochasticBeam(SearchDecoder):
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
    no_proof = ": its items are not the best k (beam's are)"

    def rule(self, batch: Batch, num_beams: int, query: Query) -> Sampled:
        """Noise by seed and history."""
        return Sampled(seeds_of_rows(seed_of(self.name, query.seed, self.config.seed), batch.items))


class Sampled:
    """Draws without replacement: the beams are an exact sample from the model's distribution over what is allowed.

    ::

        phi[child]   = phi[parent] + log_softmax(logits over the parent's children)
        noisy[child] = phi[child] + Gumbel noise of this prefix
        value[child] = noisy[child], conditioned on the largest among its siblings being value[parent]
        keep the num_beams children of the largest values

    Args:
        seeds: int64 ``[B]``: a user's noise is a function of the seed and the prefix alone.

    Source: stochastic beam search (Kool, van Hoof, Welling, arXiv:1903.06059), algorithm 1 and appendix B.3.
    """

    plain: ClassVar[bool] = False

    def __init__(self, seeds: Tensor) -> None:
        self.seeds = seeds
        self.ranks: Tensor | None = None
        """float64 ``[B, W]``: the beams' perturbed log-probabilities, in the order of which they stand"""

    def choose(
        self,
        trie: CatalogTrie,
        level: int,
        logits: Tensor,
        nodes: Tensor,
        scores: Tensor,
        *,
        num_beams: int,
        normalize: str,
        log_sums: Tensor | None = None,
        allowed: TrieFilter | None = None,
    ) -> TrieStep:
        above = torch.zeros_like(scores, dtype=torch.float64) if self.ranks is None else self.ranks
        children = Children(trie, level, logits, nodes, scores, allowed)
        probabilities = children.of_parent(scores.double()) + (children.logits - children.of_parent(children.sums))
        real = children.nodes >= 0
        probabilities = probabilities.where(real & (children.logits > -torch.inf), -torch.inf)
        noisy = probabilities + gumbel(self.seeds, prefixes(children.nodes, level))
        highest, top = children.of_parent(children.best_of(noisy)), children.of_parent(above)
        gap = (noisy - highest).where(probabilities > -torch.inf, -torch.inf)
        v = top - noisy + _log_one_minus_exp(gap)
        values = (top - v.clamp(min=0) - torch.log1p((-v.abs()).exp())).where(probabilities > -torch.inf, -torch.inf)
        values, order = values.sort(dim=1, descending=True, stable=True)
        if (missing := num_beams - values.shape[1]) > 0:
            values = torch.nn.functional.pad(values, (0, missing), value=-torch.inf)
            order = torch.nn.functional.pad(order, (0, missing))
        self.ranks, order = values[:, :num_beams], order[:, :num_beams]
        kept = self.ranks > -torch.inf
        return TrieStep(
            probabilities.gather(1, order).where(kept, -torch.inf).float(),
            children.codes.gather(1, order).where(kept, 0).int(),
            children.parents.gather(1, order).where(kept, 0).int(),
            children.nodes.gather(1, order).where(kept, -1).int(),
            scores.new_full((len(scores),), torch.inf),  # a sample proves nothing about what it left
        )

    def finish(self, found: Found, *, paid_end: bool) -> Found:
        """In the order of the draw."""
        return found


def _log_one_minus_exp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x <= 0."""
    return torch.where(x > -0.6931471805599453, (-torch.expm1(x)).log(), torch.log1p(-x.exp()))
