"""A beam search whose beams are drawn at every level: what AtSpeed's relaxed verification draws from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from genrec_fast.decoders.children import Children
from genrec_fast.decoders.noise import gumbel, prefixes
from genrec_fast.decoders.trie_search import ordered
from genrec_fast.nn.engine.plan import Found
from genrec_fast.ops.trie_filter import CatalogTrie, TrieFilter
from genrec_fast.ops.trie_step import TrieStep


@dataclass(frozen=True)
class Weighed:
    """The children of some users' beams, and how likely each is to be drawn; ``[B, C]`` each.

    Args:
        nodes: int64; -1 behind a user's last child.
        codes, parents: int64.
        said: float64: the score of its beam and the log-probability of its code; -inf where that is 0.
        log_p: float64: the log-softmax of ``said`` over all children of all beams of the user.
    """

    nodes: Tensor
    codes: Tensor
    parents: Tensor
    said: Tensor
    log_p: Tensor

    @classmethod
    def of(
        cls,
        trie: CatalogTrie,
        level: int,
        logits: Tensor,
        nodes: Tensor,
        scores: Tensor,
        normalize: str,
        log_sums: Tensor | None,
        allowed: TrieFilter | None,
    ) -> Weighed:
        """See ``trie_step``."""
        children = Children(trie, level, logits, nodes, scores, allowed)
        sums = children.sums
        if normalize == "all":
            sums = logits.double().logsumexp(-1) if log_sums is None else log_sums.double()
        real = (children.nodes >= 0) & (children.logits > -torch.inf)
        said = children.of_parent(scores.double()) + (children.logits - children.of_parent(sums))
        said = said.where(real, -torch.inf)
        log_p = torch.where(real, said - said.logsumexp(1, keepdim=True), -torch.inf)
        return cls(children.nodes, children.codes, children.parents, said, log_p)

    def select(self, users: Tensor) -> Weighed:
        """Of users int64 ``[m]``."""
        return Weighed(*(getattr(self, field.name)[users] for field in dataclasses.fields(self)))


def kept(weighed: Weighed, keys: Tensor, tiers: Tensor, count: int) -> TrieStep:
    """The ``count`` children of the highest tier, and of the largest key within one; tier below 0: never.

    Args:
        weighed: B users' children.
        keys: float64 ``[B, C]``.
        tiers: int64 ``[B, C]``.
        count: of slots.
    """
    order = keys.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, tiers.gather(1, order).argsort(dim=1, descending=True, stable=True))[:, :count]
    missing = (0, count - order.shape[1])
    live = functional.pad(tiers.gather(1, order) >= 0, missing)
    order = functional.pad(order, missing)

    def taken(part: Tensor, otherwise: float) -> Tensor:
        return part.gather(1, order).where(live, otherwise)

    return TrieStep(
        taken(weighed.said, -torch.inf).float(),
        taken(weighed.codes, 0).int(),
        taken(weighed.parents, 0).int(),
        taken(weighed.nodes, -1).int(),
        torch.full((len(order),), torch.inf, device=order.device),  # a draw proves nothing about what it left
    )


class SampledBeams:
    """Draws the beams of a level without replacement, by the softmax of their scores over all children of all beams.

    Args:
        seeds: int64 ``[B]``: a user's draws are a function of the seed and the prefixes alone.

    Source: beam search with sampling as in Hugging Face ``generate`` and in AtSpeed (arXiv:2410.05165); the draw by
        perturbed log-probabilities: Gumbel top-k (arXiv:1903.06059).
    """

    plain: ClassVar[bool] = False
    ranks: None = None

    def __init__(self, seeds: Tensor) -> None:
        self.seeds = seeds

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
        return self.drawn(
            Weighed.of(trie, level, logits, nodes, scores, normalize, log_sums, allowed), level, num_beams
        )

    def drawn(self, weighed: Weighed, level: int, count: int, purpose: int = 0) -> TrieStep:
        """``count`` children of each user, without replacement."""
        noise = gumbel(self.seeds, prefixes(weighed.nodes, level, purpose))
        return kept(weighed, weighed.log_p + noise, (weighed.log_p > -torch.inf).long() - 1, count)

    def select(self, users: Tensor) -> SampledBeams:
        """Of users int64 ``[m]``."""
        return SampledBeams(self.seeds[users])

    def finish(self, found: Found, *, paid_end: bool) -> Found:
        """Best first."""
        return ordered(found)
