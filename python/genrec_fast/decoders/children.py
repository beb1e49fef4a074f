"""Every child of a level's beams, for rules that look at more than the best."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.ops.trie_filter import CatalogTrie, TrieFilter
from genrec_fast.ops.trie_offsets import fan_out
from genrec_fast.ops.trie_step import trie_step


class Children:
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
        count = int(fan_out(trie, level, node).where(live, 0).sum(1).max())
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
