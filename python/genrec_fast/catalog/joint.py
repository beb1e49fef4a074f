"""Two tries searched as one: a large one, and a small one of the items that were appended to it since.

Nodes are numbered as in the trie that both would be if they had been built together. What lies below a prefix that the
small trie has not is the large one's alone, but for the numbers; a prefix that both have has the children of both.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genrec_fast.base.jagged import Jagged
from genrec_fast.ops.trie_filter import CatalogTrie, TrieFilter
from genrec_fast.ops.trie_lookup import trie_lookup
from genrec_fast.ops.trie_offsets import fan_out
from genrec_fast.ops.trie_places import trie_places
from genrec_fast.ops.trie_step import TrieStep, refuse_beams, trie_step, valid_log_sums

Keeps = tuple[TrieFilter | None, TrieFilter | None]  # of the base and of the added trie
_LAST = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Places:
    """One level of two tries that are numbered together.

    Args:
        joint: int64 ``[M]``, ascending: the numbers of the added trie's nodes.
        new: int64 ``[X]``, ascending: those of them that the base has not.
        before: int64 ``[X]``: nodes of the base before each of the new ones.
    """

    joint: Tensor
    new: Tensor
    before: Tensor

    @classmethod
    def of(cls, before: Tensor, shared: Tensor) -> Places:
        """A level of ``ops.trie_places``."""
        fresh = ~shared
        point = before.long()
        joint = point + fresh.cumsum(0) - fresh.long()
        return cls(joint, joint[fresh], point[fresh])

    def in_base(self, nodes: Tensor) -> Tensor:
        """int64: the base's number of each node; -1 where it has none, and for -1."""
        behind = torch.searchsorted(self.new, nodes, right=True)
        if not self.new.numel():
            return nodes
        own = (behind > 0) & (self.new[(behind - 1).clamp(min=0)] == nodes)
        return (nodes - behind).where(~own & (nodes >= 0), -1)

    def in_added(self, nodes: Tensor) -> Tensor:
        """int64: the added trie's number of each node; -1 where it has none."""
        at = torch.searchsorted(self.joint, nodes).clamp(max=self.joint.numel() - 1)
        return at.where(self.joint[at] == nodes, -1)

    def of_base(self, nodes: Tensor) -> Tensor:
        """int64: the common number of the base's nodes; -1 stays."""
        return (nodes + torch.searchsorted(self.before, nodes, right=True)).where(nodes >= 0, -1)

    def of_added(self, nodes: Tensor) -> Tensor:
        """int64: the common number of the added trie's nodes; -1 stays."""
        return self.joint[nodes.clamp(min=0)].where(nodes >= 0, -1)


@dataclass(frozen=True)
class Joint:
    """Two tries of the same codebooks on one device; items of ``added`` are numbered behind those of ``base``."""

    base: CatalogTrie
    added: CatalogTrie

    @functools.cached_property
    def places(self) -> tuple[Places, ...]:
        """Of the nodes of levels 0 (the root) to L (the rows)."""
        found = trie_places(self.base, self.added)
        root = torch.zeros(1, dtype=torch.int64, device=found.before[0].device)
        levels = zip(found.before, found.shared, strict=True)
        return (Places(root, root[:0], root[:0]), *(Places.of(before, shared) for before, shared in levels))

    def num_nodes(self, level: int) -> int:
        """Nodes of a level in ``[1, L]``."""
        return self.base.tokens[level - 1].numel() + self.places[level].new.numel()

    def lookup(self, codes: Tensor) -> Tensor:
        """See ``ops.trie_lookup``."""
        found = trie_lookup(self.base, codes)
        places = self.places[codes.shape[-1]]
        added = places.of_added(trie_lookup(self.added, codes).long())
        return torch.maximum(places.of_base(found.long()), added).to(torch.int32)

    def fan_out(self, level: int, nodes: Tensor) -> Tensor:
        """int64: no node has more children than that; nodes are some of the level's."""
        places = self.places[level]
        base, added = places.in_base(nodes.long()), places.in_added(nodes.long())
        return fan_out(self.base, level, base.clamp(min=0)).where(base >= 0, 0) + fan_out(
            self.added, level, added.clamp(min=0)
        ).where(added >= 0, 0)

    def rows(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """int64: each row's number in the base and in the added trie; -1 where it has none."""
        return self.places[-1].in_base(rows), self.places[-1].in_added(rows)

    def step(
        self,
        level: int,
        logits: Tensor,
        nodes: Tensor,
        scores: Tensor,
        *,
        num_beams: int,
        normalize: str,
        log_sums: Tensor | None,
        keeps: Keeps,
    ) -> TrieStep:
        """``ops.trie_step`` over both, with its bits.

        The num_beams best of each trie hold those of both: a child outscored by num_beams others in one trie is by as
        many in both. So is what bounds the rest.
        """
        last, nodes = 1 if level == 0 else self.num_nodes(level), nodes.long()
        refuse_beams((nodes < -1) | (nodes >= last), f"nodes must be -1 or in [0, {last - 1}]", nodes)
        places, below = self.places[level], self.places[level + 1]
        base, added = places.in_base(nodes), places.in_added(nodes)
        sides = [(self.base, base, below.of_base, keeps[0]), (self.added, added, below.of_added, keeps[1])]
        steps = []
        if normalize == "valid" and bool((added >= 0).any()):
            alone = base.where(added < 0, -1)  # what only the base has is normalised there
            found = trie_step(
                self.base,
                level,
                logits,
                alone.int(),
                scores,
                num_beams=num_beams,
                normalize=normalize,
                allowed=keeps[0],
            )
            steps.append(found._replace(nodes=below.of_base(found.nodes.long())))
            logits, log_sums = self._valid(level, logits, nodes.where(added >= 0, -1), scores, keeps)
            base, normalize = base.where(added >= 0, -1), "all"
            sides[0] = (self.base, base, below.of_base, keeps[0])
        for trie, here, joint, keep in sides:
            if steps and not bool((here >= 0).any()):
                continue
            found = trie_step(
                trie,
                level,
                logits,
                here.int(),
                scores,
                num_beams=num_beams,
                normalize=normalize,
                log_sums=log_sums,
                allowed=keep,
            )
            steps.append(found._replace(nodes=joint(found.nodes.long())))
        return _best(steps, num_beams, logits.shape[2])

    def _valid(self, level: int, logits: Tensor, nodes: Tensor, scores: Tensor, keeps: Keeps) -> tuple[Tensor, Tensor]:
        """The logits, -inf where no child passes the filter, and the log-sum-exp of what is left."""
        live = (nodes >= 0) & (scores > -torch.inf)
        highest = logits.amax(-1)
        refuse_beams(live & ~(highest < torch.inf), "logits must not be NaN or +inf", highest)
        valid = self.children(level, nodes.where(live, -1), keeps)
        return logits.float().where(valid, -torch.inf), valid_log_sums(logits, valid)

    def children(self, level: int, nodes: Tensor, keeps: Keeps) -> Tensor:
        """Bool ``[B, W, K]``: the codes of each node's children that pass the filter; none for -1."""
        size, places = self.base.codebook_sizes[level], self.places[level]
        nodes = nodes.long()
        valid = torch.zeros(*nodes.shape, size, dtype=torch.bool, device=nodes.device)
        sides = (self.base, places.in_base(nodes), keeps[0]), (self.added, places.in_added(nodes), keeps[1])
        for trie, here, keep in sides:
            mark_children(valid, trie, level, here, keep)
        return valid


def mark_children(valid: Tensor, trie: CatalogTrie, level: int, nodes: Tensor, keep: TrieFilter | None) -> None:
    """Sets bool ``valid [B, W, K]`` where a child of the nodes int64 ``[B, W]`` (-1: none) passes the filter.

    With nothing to choose by, ``trie_step`` gives all children.
    """
    counts = fan_out(trie, level, nodes.clamp(min=0)).where(nodes >= 0, 0).sum(1)
    most = int(counts.max()) if counts.numel() else 0
    if not most:
        return
    nothing = torch.zeros(nodes.shape, device=nodes.device)
    logits = torch.zeros(valid.shape, device=nodes.device)
    every = trie_step(
        trie, level, logits, nodes.int(), nothing, num_beams=most, normalize="all", log_sums=nothing, allowed=keep
    )
    user, place = (every.nodes >= 0).nonzero(as_tuple=True)
    valid[user, every.parents[user, place].long(), every.codes[user, place].long()] = True


def _best(steps: Sequence[TrieStep], num_beams: int, size: int) -> TrieStep:
    """The best of several steps of the same beams, each child once; ``size``: codes of the level."""
    if len(steps) == 1:
        return steps[0]._replace(nodes=steps[0].nodes.int())
    scores, codes, parents, nodes = (torch.cat([step[field] for step in steps], 1) for field in range(4))
    flat = (parents.long() * size + codes).where(nodes >= 0, _LAST)
    flat, order = flat.sort(1)
    again = flat[:, 1:] == flat[:, :-1]  # in two tries, with the same score
    scores = scores.gather(1, order)
    scores[:, 1:] = scores[:, 1:].where(~again, -torch.inf)
    scores, place = scores.sort(dim=1, descending=True, stable=True)
    bound = torch.stack([step.bound for step in steps]).amax(0)
    if scores.shape[1] > num_beams:
        bound = torch.maximum(bound, scores[:, num_beams])
    order = order.gather(1, place[:, :num_beams])
    kept = scores[:, :num_beams].contiguous()
    real = kept > -torch.inf
    codes, parents, nodes = (
        part.gather(1, order).where(real, none).int() for part, none in ((codes, 0), (parents, 0), (nodes, -1))
    )
    return TrieStep(kept, codes, parents, nodes, bound)


def joined_items(base: Jagged, added: Jagged, first: int) -> Jagged:
    """Row by row the items of the base, and those of the added trie, the first of which is item ``first``."""
    values = torch.cat([base.values, added.values + first])
    owner = torch.cat([base.row_index(), added.row_index()])
    return Jagged.from_lengths(values[owner.argsort(stable=True)], base.lengths + added.lengths)
