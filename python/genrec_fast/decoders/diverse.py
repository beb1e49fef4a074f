"""Diverse beam search: groups of beams that keep out of each other's prefixes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from genrec_fast.base.batch import Batch
from genrec_fast.base.checks import whole_number
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.query import Query
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.decoders.arguments import check_k
from genrec_fast.decoders.children import Children
from genrec_fast.decoders.search_pass import SearchDecoder
from genrec_fast.decoders.trie_search import ordered
from genrec_fast.nn.engine.plan import Found
from genrec_fast.ops.trie_filter import CatalogTrie, TrieFilter
from genrec_fast.ops.trie_step import TrieStep, trie_step


@dataclass(frozen=True, kw_only=True)
class DiverseBeamConfig:
    """Settings of the diverse beam search."""

    num_beams: int = 50
    """of all groups together, a multiple of num_groups"""
    num_groups: int = 5
    """1 is a plain beam search"""
    penalty: float = 0.5
    """log-probability that a candidate loses for every beam of an earlier group at the same prefix"""
    normalize: Literal["all", "valid"] = "all"
    """as in ``BeamConfig``"""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.num_beams % self.num_groups:
            raise InvalidValueError(
                f"DiverseBeamConfig: num_beams must be a multiple of num_groups = {self.num_groups}, "
                f"got {self.num_beams}"
            )

    def build(self, catalog: Catalog | None = None) -> DiverseBeam:
        return DiverseBeam(self)


class DiverseBeam(SearchDecoder):
    """A configured diverse beam search.

    The groups' items together, the likeliest first; none stands in two groups. ``Ranked.scores`` are log-probabilities
    without penalties, ``Ranked.exact`` is false.

    Notes:
        One native call per group and level.

    Source: Vijayakumar et al., "Diverse Beam Search" (arXiv:1610.02424), with a penalty on prefixes.
    """

    name = "diverse_beam"
    no_proof = ": its items are not the best k (beam's are)"

    def width(self, k: int, num_beams: int | None) -> int:
        """As the other searches'; where it is not given, rounded up to whole groups.

        Raises:
            InvalidValueError: k is below 1 or above num_beams, or num_beams is no multiple of num_groups.
        """
        groups = self.config.num_groups
        num_beams = None if num_beams is None else whole_number(self.name, "num_beams", num_beams)
        if num_beams is not None and num_beams % groups:
            raise InvalidValueError(
                f"{self.name}: num_beams must be a multiple of num_groups = {groups}, got {num_beams}"
            )
        k, beams = check_k(self.name, k, num_beams)
        return beams if num_beams is not None else -(-max(self.config.num_beams, k) // groups) * groups

    def rule(self, batch: Batch, num_beams: int, query: Query) -> Diverse:
        """Groups of equal width."""
        return Diverse(num_beams, self.config.num_groups, self.config.penalty)


class Diverse:
    """Groups of beams, one after the other; a prefix that earlier groups chose at this level is worth less.

    A candidate's score is lowered by ``penalty`` for every beam of an earlier group that stands at the same prefix,
    when it is chosen; what is kept is its log-probability. At the last level such an item is no candidate at all: no
    item stands in two groups. A group that finds too few there gets the best that is left of all groups' prefixes.

    Args:
        num_beams: of all groups, a multiple of num_groups.
        num_groups: how many.
        penalty: at least 0.

    Source: diverse beam search (Vijayakumar et al., arXiv:1610.02424), equation 4, with cumulative (prefix) instead of
    Hamming diversity; in groups, not tokens.
    """

    plain: ClassVar[bool] = False
    ranks: None = None

    def __init__(self, num_beams: int, num_groups: int, penalty: float) -> None:
        self.each, self.num_groups, self.penalty = num_beams // num_groups, num_groups, penalty

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
        logits = logits.float()
        sums = logits.logsumexp(-1) if log_sums is None else log_sums
        sums = sums.where(sums > -torch.inf, 0.0)
        within = scores
        if normalize == "valid":  # trie_step takes away `sums`
            valid = Children(trie, level, logits, nodes, scores, allowed).sums.float()
            within = scores + (sums - valid.where(valid > -torch.inf, 0.0))
        beams, last = nodes.shape[1], level + 1 == len(trie.codebook_sizes)
        before = beams // self.num_groups
        each = min(self.each, trie.num_nodes(level + 1))  # there are no more prefixes than that
        begun = torch.full((len(nodes), 0), -1, dtype=torch.int64, device=nodes.device)
        taken, taken_codes, steps = begun, begun, []  # parents' nodes and codes that earlier groups chose
        for group in range(self.num_groups):
            first = 0 if beams == 1 else group * before
            part = slice(first, 1 if beams == 1 else first + before)
            own, same = logits[:, part], nodes[:, part, None] == taken[:, None]
            counts = torch.zeros_like(own).scatter_add(2, taken_codes[:, None].expand_as(same), same.float())
            lowered = (own - self.penalty * counts).where((counts == 0) | (not last), -torch.inf)
            step = trie_step(
                trie,
                level,
                lowered,
                nodes[:, part],
                within[:, part],
                num_beams=each,
                normalize="all",
                log_sums=sums[:, part],
                allowed=allowed,
            )
            live, parents = step.nodes >= 0, step.parents.long() + first
            steps.append((step.codes, parents, step.nodes))
            taken = torch.cat([taken, nodes.gather(1, parents).long().where(live, -2)], 1)
            taken_codes = torch.cat([taken_codes, step.codes.long()], 1)
        codes, parents, chosen = (torch.cat(parts, 1) for parts in zip(*steps, strict=True))
        if last and bool((chosen < 0).any()):
            again = (nodes[:, :, None] == nodes[:, None, :]).tril(-1).any(-1)  # another group's prefix, too
            same = nodes[:, :, None] == taken[:, None]
            counts = torch.zeros_like(logits).scatter_add(2, taken_codes[:, None].expand_as(same), same.float())
            left = trie_step(
                trie,
                level,
                logits.where(counts == 0, -torch.inf),
                nodes.where(~again, -1),
                within,
                num_beams=chosen.shape[1],
                normalize="all",
                log_sums=sums,
                allowed=allowed,
            )
            place = (chosen < 0).cumsum(1).sub(1).clamp(min=0)
            codes, parents, chosen = (
                old.where(chosen >= 0, new.gather(1, place).to(old.dtype))
                for old, new in ((codes, left.codes), (parents, left.parents), (chosen, left.nodes))
            )
        user = torch.arange(len(nodes), device=nodes.device).unsqueeze(1)
        plain = within.gather(1, parents) + (logits[user, parents, codes.long()] - sums.gather(1, parents))
        best = plain.where(chosen >= 0, -torch.inf)
        return TrieStep(best, codes, parents.int(), chosen, scores.new_full((len(scores),), torch.inf))

    def finish(self, found: Found, *, paid_end: bool) -> Found:
        """All groups together, best first."""
        return ordered(found)
