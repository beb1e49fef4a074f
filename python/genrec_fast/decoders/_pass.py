"""One pass of beam search over the trie: ``beam`` repeats it with more beams, ``greedy`` runs it with one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from genrec_fast.checks import check_flag, shown
from genrec_fast.decoders._choose import Choose, Sampled
from genrec_fast.decoders._expand import expand_rows
from genrec_fast.decoders._users import check_filter, check_k
from genrec_fast.errors import InvalidTypeError, InvalidValueError
from genrec_fast.ops.trie_filter import CatalogTrie, trie_filter
from genrec_fast.ops.trie_step import trie_step
from genrec_fast.types import Autoregressive, Batch, Jagged, Ranked

__all__ = ["BeamPass", "OnePass", "beam_pass", "check_search"]


def check_search(
    op: str, backbone: object, batch: Batch, trie: CatalogTrie, allowed: Tensor | None, exclude: Jagged | None
) -> None:
    """The parts fit each other.

    Raises:
        InvalidTypeError: the backbone is not ``Autoregressive``, or a filter has the wrong dtype.
        InvalidValueError: codebook sizes or a filter's shape do not fit.
    """
    if not (hasattr(trie, "codebook_sizes") and hasattr(trie, "leaf_items")):
        raise InvalidTypeError(f"{op}: trie must be a Trie, got {shown(trie)}")
    if not isinstance(backbone, Autoregressive):
        raise InvalidTypeError(f"{op}: backbone must be Autoregressive, got {type(backbone).__name__}")
    if tuple(backbone.codebook_sizes) != tuple(trie.codebook_sizes):
        raise InvalidValueError(
            f"{op}: backbone must have the trie's codebook sizes {tuple(trie.codebook_sizes)}, "
            f"got {tuple(backbone.codebook_sizes)}"
        )
    check_filter(op, len(batch), trie.num_items, allowed, exclude)


class BeamPass:
    """A beam search that goes level by level, so that a server can start another one in between.

    Reads the users' histories (``prefill``) when it is made; ``advance`` searches one level, ``result`` may be asked
    for when ``done``. Call all of it under ``torch.inference_mode``. Arguments are those of ``beam.search``, taken as
    valid; at least one user.
    """

    def __init__(
        self,
        backbone: Autoregressive,
        batch: Batch,
        trie: CatalogTrie,
        num_beams: int,
        normalize: str,
        allowed: Tensor | None,
        exclude: Jagged | None,
        choose: Choose = trie_step,
    ) -> None:
        self.choose = choose
        self.backbone, self.trie, self.num_beams, self.normalize = backbone, trie, num_beams, normalize
        users, device = len(batch), trie.leaf_items.device
        self.keep = None if allowed is None and exclude is None else trie_filter(trie, allowed=allowed, exclude=exclude)
        self.session = backbone.prefill(batch)
        self.level = 0
        self.nodes = torch.zeros(users, 1, dtype=torch.int32, device=device)
        self.scores = torch.zeros(users, 1, device=device)
        self.bound = torch.full((users,), -torch.inf, device=device)
        self.codes = torch.empty(users, 1, 0, dtype=torch.int32, device=device)
        self.chosen: Tensor | None = None
        self.parents: Tensor | None = None

    @property
    def done(self) -> bool:
        """Whether every level was searched."""
        return self.level == len(self.trie.codebook_sizes)

    def advance(self) -> None:
        """Searches the next level."""
        if self.chosen is not None and self.parents is not None:
            self.session = self.session.extend(self.chosen, self.parents)
        logits, _ = self.session.scores()
        width = min(self.num_beams, self.trie.tokens[self.level].numel())  # there are no more prefixes than that
        self.scores, self.chosen, self.parents, self.nodes, pruned = self.choose(
            self.trie,
            self.level,
            logits,
            self.nodes,
            self.scores,
            num_beams=width,
            normalize=self.normalize,
            allowed=self.keep,
        )
        self.bound = torch.maximum(self.bound, pruned)
        ancestors = self.codes.gather(1, self.parents.long().unsqueeze(2).expand(-1, -1, self.level))
        self.codes = torch.cat([ancestors, self.chosen.unsqueeze(2)], 2)
        self.level += 1

    def result(self, k: int) -> Ranked:
        """The k best items of each user."""
        drawn = self.choose.values if isinstance(self.choose, Sampled) else None
        items, codes, scores = expand_rows(self.trie, self.nodes, self.codes, self.scores, k, self.keep, drawn)
        return Ranked(items, codes, scores, _proven(scores[:, -1], self.bound), self.bound)

    def results(self, ks: Sequence[int]) -> list[Ranked]:
        """One row for each user, with a k of its own; each as ``result`` of a search for that user and k."""
        found = self.result(max(ks))
        rows = []
        for user, k in enumerate(ks):
            row = slice(user, user + 1)
            items, codes, scores = (part[row, :k] for part in (found.items, found.codes, found.scores))
            rows.append(Ranked(items, codes, scores, _proven(scores[:, -1], found.bound[row]), found.bound[row]))
        return rows


class OnePass(ABC):
    """A decoder that is one beam search and chooses its beams by a rule of its own, so it cannot widen."""

    name: ClassVar[str]
    can_widen: ClassVar[bool] = False

    def __init__(self, num_beams: int, normalize: str) -> None:
        self.num_beams, self.normalize = num_beams, normalize

    @abstractmethod
    def choose(self, batch: Batch, num_beams: int) -> Choose:
        """The rule for one search."""

    def width(self, k: int, num_beams: int | None) -> int:
        """The beams of a search.

        Raises:
            InvalidValueError: k is below 1 or above num_beams.
        """
        k, beams = check_k(self.name, k, num_beams)
        return max(self.num_beams, k) if num_beams is None else beams

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
        """At most k items per user; arguments and errors as ``beam.search``.

        Raises:
            InvalidValueError: exact is true: there is nothing to prove.
        """
        if check_flag(self.name, "exact", exact):
            raise InvalidValueError(f"{self.name}: exact must be False: its items are not the best k (beam's are)")
        beams = self.width(k, num_beams)
        k, _ = check_k(self.name, k)
        check_search(self.name, backbone, batch, trie, allowed, exclude)
        with torch.inference_mode():
            rule = self.choose(batch, beams)
            return beam_pass(backbone, batch, trie, k, beams, self.normalize, allowed, exclude, rule)

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
        check_search(self.name, backbone, batch, trie, allowed, exclude)
        rule = self.choose(batch, num_beams)
        return BeamPass(backbone, batch, trie, num_beams, self.normalize, allowed, exclude, rule)


def _proven(last: Tensor, bound: Tensor) -> Tensor:
    """Whether nothing that was pruned can score as high as the last result, bool ``[B]``."""
    return (last > bound) | (bound == -torch.inf)


def beam_pass(
    backbone: Autoregressive,
    batch: Batch,
    trie: CatalogTrie,
    k: int,
    num_beams: int,
    normalize: str,
    allowed: Tensor | None,
    exclude: Jagged | None,
    choose: Choose = trie_step,
) -> Ranked:
    """One beam search; arguments are those of ``beam.search``, taken as valid."""
    users, levels = len(batch), len(trie.codebook_sizes)
    device = trie.leaf_items.device
    if users == 0:
        return Ranked(
            torch.empty(0, k, dtype=torch.int64, device=device),
            torch.empty(0, k, levels, dtype=torch.int32, device=device),
            torch.empty(0, k, device=device),
            torch.empty(0, dtype=torch.bool, device=device),
            torch.empty(0, device=device),
        )
    search = BeamPass(backbone, batch, trie, num_beams, normalize, allowed, exclude, choose)
    while not search.done:
        search.advance()
    return search.result(k)
