"""Which children of a level's beams survive: other rules than the best score, called as ``ops.trie_step`` is."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from genrec_fast.errors import InvalidValueError
from genrec_fast.ops.trie_filter import CatalogTrie, TrieFilter
from genrec_fast.ops.trie_offsets import unpack_offsets
from genrec_fast.ops.trie_step import TrieStep, trie_step
from genrec_fast.types import Jagged

__all__ = ["Choose", "Diverse", "Sampled", "seeds_of_rows"]

_LEVELS = 1 << 40  # nodes of a level are far fewer: node + level * this is another number for every prefix


class Choose(Protocol):
    """``ops.trie_step``, or what stands in its place for one search."""

    def __call__(
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
    ) -> TrieStep: ...


class _Children:
    """Every child of every beam that the filter leaves, and the log-sum-exp of each beam's.

    Args:
        trie, level, logits, nodes, scores, allowed: see ``trie_step``.
    """

    nodes: Tensor
    """int64 ``[B, C]``; -1 behind a user's last child"""
    codes: Tensor
    """int64 ``[B, C]``"""
    parents: Tensor
    """int64 ``[B, C]``"""
    logits: Tensor
    """float64 ``[B, C]``; -inf behind the last"""
    sums: Tensor
    """float64 ``[B, W]``; -inf where a beam has no child"""

    def __init__(
        self,
        trie: CatalogTrie,
        level: int,
        logits: Tensor,
        nodes: Tensor,
        scores: Tensor,
        allowed: TrieFilter | None,
    ) -> None:
        self._beams = nodes.shape[1]
        live = (nodes >= 0) & (scores > -torch.inf)
        if not bool((logits.amax(-1).where(live, 0.0) < torch.inf).all()):
            raise InvalidValueError("trie_step: logits must not be NaN or +inf, got one of them")
        node = nodes.where(live, 0).long()
        begin, end = (unpack_offsets(trie.child_bases[level], trie.child_deltas[level], n) for n in (node, node + 1))
        count = int((end - begin).where(live, 0).sum(1).max())
        # With nothing to choose by, trie_step gives all children, in the order of their beams and codes.
        every = trie_step(
            trie,
            level,
            torch.zeros_like(logits),
            nodes.where(live, -1),
            torch.zeros_like(scores),
            num_beams=max(1, count),
            normalize="all",
            log_sums=torch.zeros_like(scores),
            allowed=allowed,
        )
        self.nodes, self.codes, self.parents = every.nodes.long(), every.codes.long(), every.parents.long()
        user = torch.arange(len(nodes), device=nodes.device).unsqueeze(1)
        found = logits[user, self.parents, self.codes].double()
        self.logits = found.where(self.nodes >= 0, -torch.inf)
        highest = self.best_of(self.logits)
        shifted = (self.logits - self.of_parent(highest).clamp(min=torch.finfo(torch.float64).min)).exp()
        self.sums = highest + torch.zeros_like(highest).scatter_add(1, self.parents, shifted).log()

    def of_parent(self, values: Tensor) -> Tensor:
        """``[B, W] -> [B, C]``."""
        return values.gather(1, self.parents)

    def best_of(self, values: Tensor) -> Tensor:
        """The largest of each beam's, ``[B, C] -> [B, W]``; -inf where a beam has no child."""
        none = values.new_full((len(values), self._beams), -torch.inf)
        return none.scatter_reduce(1, self.parents, values, "amax")


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

    def __init__(self, seeds: Tensor) -> None:
        self.seeds = seeds
        self.values: Tensor | None = None
        """float64 ``[B, W]``: the beams' perturbed log-probabilities, in the order of which they stand"""

    def __call__(
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
        above = torch.zeros_like(scores, dtype=torch.float64) if self.values is None else self.values
        children = _Children(trie, level, logits, nodes, scores, allowed)
        probabilities = children.of_parent(scores.double()) + (children.logits - children.of_parent(children.sums))
        real = children.nodes >= 0
        probabilities = probabilities.where(real & (children.logits > -torch.inf), -torch.inf)
        noisy = probabilities + _gumbel(self.seeds, children.nodes + level * _LEVELS)
        highest, top = children.of_parent(children.best_of(noisy)), children.of_parent(above)
        gap = (noisy - highest).where(probabilities > -torch.inf, -torch.inf)
        v = top - noisy + _log_one_minus_exp(gap)
        values = (top - v.clamp(min=0) - torch.log1p((-v.abs()).exp())).where(probabilities > -torch.inf, -torch.inf)
        values, order = values.sort(dim=1, descending=True, stable=True)
        if (missing := num_beams - values.shape[1]) > 0:
            values = torch.nn.functional.pad(values, (0, missing), value=-torch.inf)
            order = torch.nn.functional.pad(order, (0, missing))
        self.values, order = values[:, :num_beams], order[:, :num_beams]
        kept = self.values > -torch.inf
        return TrieStep(
            probabilities.gather(1, order).where(kept, -torch.inf).float(),
            children.codes.gather(1, order).where(kept, 0).int(),
            children.parents.gather(1, order).where(kept, 0).int(),
            children.nodes.gather(1, order).where(kept, -1).int(),
            scores.new_full((len(scores),), torch.inf),  # a sample proves nothing about what it left
        )


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

    def __init__(self, num_beams: int, num_groups: int, penalty: float) -> None:
        self.each, self.num_groups, self.penalty = num_beams // num_groups, num_groups, penalty

    def __call__(
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
            valid = _Children(trie, level, logits, nodes, scores, allowed).sums.float()
            within = scores + (sums - valid.where(valid > -torch.inf, 0.0))
        beams, last = nodes.shape[1], level + 1 == len(trie.codebook_sizes)
        before = beams // self.num_groups
        each = min(self.each, trie.tokens[level].numel())  # there are no more prefixes than that
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


def seeds_of_rows(seed: int, rows: Jagged) -> Tensor:
    """int64 ``[B]``: a seed for each row of whole numbers, by what it holds and not by where it stands."""
    values = rows.values.long()
    places = torch.arange(values.shape[0], device=values.device) - rows.offsets[:-1].repeat_interleave(rows.lengths)
    sums = torch.zeros(len(rows), dtype=torch.int64, device=values.device)
    sums.index_add_(0, rows.row_index(), _mixed(_mixed(values) + places))
    return _mixed(sums + rows.lengths + _mixed(torch.tensor(seed, device=values.device)))


def _mixed(x: Tensor) -> Tensor:
    """A bijection of 64-bit words that scatters them well (the end of MurmurHash3, Stafford's variant 13)."""
    x = x + -7046029254386353131  # 0x9e3779b97f4a7c15
    x = (x ^ (x >> 30 & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ (x >> 27 & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ (x >> 31 & 0x1FFFFFFFF)


def _gumbel(seeds: Tensor, prefixes: Tensor) -> Tensor:
    """float64 Gumbel noise of each user's prefixes ``[B, C]``."""
    bits = _mixed(_mixed(prefixes) + seeds.unsqueeze(1)) >> 11 & ((1 << 53) - 1)
    return -(-((bits.double() + 0.5) * 2.0**-53).log()).log()


def _log_one_minus_exp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x <= 0."""
    return torch.where(x > -0.6931471805599453, (-torch.expm1(x)).log(), torch.log1p(-x.exp()))
