"""Items drafted by how near they lie to the user, and verified by the network that writes their codes (SpecGR)."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from genrec_fast.base.batch import Batch, Ranked
from genrec_fast.base.checks import check_flag
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.protocols import CodesThenUsers
from genrec_fast.base.query import Query
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.decoders.arguments import check_filter, check_k
from genrec_fast.decoders.base import Decoder
from genrec_fast.decoders.best_first_pass import filter_of
from genrec_fast.decoders.read_rows import ReadRows, Slots
from genrec_fast.decoders.retrieve import nearest
from genrec_fast.decoders.search_pass import as_built, check_parts, check_tree, unanswered
from genrec_fast.nn.engine.plan import Plan
from genrec_fast.ops.trie_step import trie_step


@dataclass(frozen=True, kw_only=True)
class DraftedItemsConfig:
    """Settings of ``DraftedItems``; the defaults are those of SpecGR's code."""

    num_beams: int = 50
    """prefixes kept per level, below which items are drafted"""
    num_drafts: int = 20
    """items drafted at each level (SpecGR: 20 where the encoder drafts, 50 where another model does)"""
    threshold: float = 0.165
    """a draft is accepted where the geometric mean of its codes' probabilities is above this (SpecGR: e ** -1.8)"""
    dedup: bool = True
    """the last code only tells items apart: it does not count for items that no training event has"""

    def __post_init__(self) -> None:
        check_fields(self, within={"threshold": "[0, 1]"})

    def build(self, catalog: Catalog | None = None) -> DraftedItems:
        return DraftedItems(self, None if catalog is None else catalog.counts)


class DraftedItems(Decoder):
    """Items near the user's vector, as long as the network finds their codes likely.

    ::

        beams = {the empty prefix}; accepted = []
        for level in 0 .. L - 1, while fewer than k are accepted:
            drafts = the num_drafts nearest of the items below the beams that were not drafted before
            s(i) = mean log-probability of i's codes;  accepted += drafts with s > log(threshold), the nearest first
            beams = the num_beams best prefixes of one more code
        what is missing to k: rejected drafts and the items of the last beams, by s, the highest first

    The drafts need no codes to be found, so items that nobody has bought yet are drafted like any other. Users who have
    k accepted items leave. ``Ranked.scores`` are minus the place in the list (accepted and filled-up items are measured
    by different things), ``exact`` is false and ``bound`` inf.

    Args:
        config: settings.
        counts: integer ``[N]``: how often each item occurs in the training data; ``None``: every item does.

    Notes:
        One pass of the network a level, over the beams and those prefixes of the drafts that it has not read; O(B N)
        marks and O(B N D) products a level to draft. The history is read twice, to write codes and to be embedded.

    Source: SpecGR (arXiv:2410.02939); code Jamesding000/SpecGR, commit ce74660, whose beams know no trie.
    """

    needs = CodesThenUsers
    by_level: ClassVar[bool] = True
    by_k: ClassVar[bool] = True

    def __init__(self, config: DraftedItemsConfig, counts: Tensor | None) -> None:
        self.config = config
        self.unseen = None if counts is None or not config.dedup else counts == 0

    def over(self, catalog: Catalog) -> Self:
        """See ``Decoder``: appended items count by what the catalog says of how often they occur."""
        return type(self)(self.config, catalog.counts)

    def settled(self, query: Query) -> Query:
        """See ``Decoder``; ``num_beams`` may be smaller than k.

        Raises:
            InvalidValueError: exact, which no draft can prove; k or num_beams below 1.
            InvalidTypeError: num_beams that differ by level or user.
        """
        if check_flag("drafted_items", "exact", query.exact):
            raise InvalidValueError("drafted_items: exact must be False: what is accepted is near, not the best")
        k, _ = check_k("drafted_items", query.k)
        beams = self.config.num_beams if query.num_beams is None else query.num_beams
        return dataclasses.replace(query, k=k, num_beams=check_k("drafted_items", 1, beams)[1])

    def begin(self, system: Any, batch: Batch, query: Query) -> DraftedItemsPass:
        """Reads the histories; every ``advance`` drafts at one level.

        Raises:
            InvalidTypeError: the backbone does not write codes and embed users.
            InvalidValueError: as ``search``.
            UnsupportedError: its session is no ``TreeSession``, or items were appended and not merged yet.
        """
        query, backbone, trie = self.settled(query), system.backbone, system.trie
        check_parts("drafted_items", backbone, trie)
        if not isinstance(backbone, CodesThenUsers):
            kind = type(backbone).__name__
            raise InvalidTypeError(f"drafted_items: backbone must be Autoregressive and Embedding, got {kind}")
        check_filter("drafted_items", len(batch), trie.num_items, query.allowed, query.exclude)
        trie, query = as_built("drafted_items", trie, query)
        session = check_tree("drafted_items", backbone.prefill(batch)) if len(batch) else None
        users = backbone.embed_users(batch) if len(batch) else torch.zeros(0, 1)
        table = backbone.item_table() if len(batch) else torch.zeros(trie.num_items, 1)
        return DraftedItemsPass(self.config, trie, query, session, (users, table), self.unseen)


class DraftedItemsPass:
    """The search of some users: every ``advance`` drafts, verifies and goes down a level.

    Args:
        config: settings.
        trie: built.
        query: checked.
        session: behind the histories; ``None``: there is no user.
        vectors: of users ``[B, D]`` and of items ``[N, D]``.
        unseen: bool ``[N]``: items whose last code does not count; ``None``: there are none.
    """

    def __init__(
        self,
        config: DraftedItemsConfig,
        trie: Any,
        query: Query,
        session: Any,
        vectors: tuple[Tensor, Tensor],
        unseen: Tensor | None,
    ) -> None:
        self.config, self.trie, self.query, self._unseen = config, trie, query, unseen
        self._least = math.log(config.threshold) if config.threshold else -math.inf
        self._vectors, self._table = vectors
        count, device = len(self._vectors), trie.device
        self._sizes, self._levels = tuple(trie.codebook_sizes), len(trie.codebook_sizes)
        self._found = unanswered(count, query.k, trie)
        self.finished = torch.zeros_like(self._found.exact)
        self.passes = 0
        """of the network, without the one that read the histories"""
        self._item_codes = trie.item_codes().int()
        self._users = torch.arange(count, device=device)
        self._level = 0
        self._beams = torch.zeros(count, 1, dtype=torch.int32, device=device)  # nodes of the level
        self._scores = torch.zeros(count, 1, device=device)
        self._codes = torch.zeros(count, 1, self._levels, dtype=torch.int32, device=device)
        self._drafts = torch.zeros(count, 0, dtype=torch.int64, device=device)  # of all levels, in their order; -1
        self._said = torch.zeros(count, 0, device=device)  # their s
        self._keep = filter_of(trie, query)
        self._plan = Plan((int(query.num_beams or 1),) * self._levels)  # type: ignore[arg-type]
        self._rows = None if session is None else ReadRows.behind(session, self._plan, self._sizes, 1)

    @property
    def done(self) -> bool:
        """Whether all users have their results."""
        return not self._users.numel()

    def results(self) -> Ranked:
        """The k items of each user."""
        return self._found

    def advance(self) -> None:
        """One level."""
        drafts = self._drafted()
        self._drafts = torch.cat([self._drafts, drafts], 1)
        self._said = torch.cat([self._said, self._verified(drafts)], 1)
        enough = (self._said > self._least).sum(1) >= self.query.k
        if self._level + 1 == self._levels:
            self._step()
            enough = torch.ones_like(enough)
        if bool(enough.any()):
            self._answer(enough.nonzero().squeeze(1))
            self._stay((~enough).nonzero().squeeze(1))
        if not self.done and self._level + 1 < self._levels:
            self._step()
        self._level += 1

    def _drafted(self) -> Tensor:
        """Int64 ``[b, n]``: the nearest items below the beams that were not drafted before; -1 behind the last."""
        num_items, level = self.trie.num_items, self._level
        inside = torch.ones(len(self._users), num_items, dtype=torch.bool, device=self._users.device)
        if level:
            nodes = self.trie.lookup(self._item_codes[:, :level].contiguous()).long()
            chosen = torch.zeros(len(inside), self.trie.num_nodes(level) + 1, dtype=torch.bool, device=nodes.device)
            chosen.scatter_(1, self._beams.long() + 1, True)  # -1: no beam
            inside = chosen[:, 1:][:, nodes]
        asked = self.query.select(self._users)
        if asked.allowed is not None:
            inside &= asked.allowed
        gone = torch.zeros(len(inside), num_items + 1, dtype=torch.bool, device=inside.device)
        inside &= ~gone.scatter_(1, self._drafts + 1, True)[:, 1:]  # -1: no draft
        count = min(self.config.num_drafts, num_items)
        found = nearest(self._vectors, self._table, count, allowed=inside, exclude=asked.exclude, op="drafted_items")
        return found.items

    def _verified(self, drafts: Tensor) -> Tensor:
        """Float32 ``[b, n]``: the mean log-probability of their codes; -inf where there is no draft.

        The target reads them, and the beams of this level, in one pass.
        """
        rows = self._rows
        assert rows is not None
        codes = self._item_codes[drafts.clamp(min=0)]
        paths = torch.cat([codes, self._codes], 1)
        reach = torch.where(drafts >= 0, self._levels - 1, 0)
        reach = torch.cat([reach, torch.where(self._beams >= 0, self._level, 0)], 1)
        slots, above = [], torch.zeros_like(reach)
        for level in range(min(int(reach.max()), self._levels - 1)):
            prefix = torch.where((reach > level).unsqueeze(2), paths[..., : level + 1], -1)
            first = (prefix.unsqueeze(2) == prefix.unsqueeze(1)).all(3).byte().argmax(2)  # those that begin alike
            live = (reach > level) & (first == torch.arange(first.shape[1], device=first.device))
            nodes = self.trie.lookup(paths[..., : level + 1].contiguous())
            slots.append(Slots(nodes.where(live, -1), above, paths[..., level]))
            above = first
        firsts = [*[some.parents for some in slots[1:]], above] if slots else []
        numbers: list[Tensor] = []
        if slots:
            zero = torch.zeros_like(reach)
            self._rows, found, count = rows.descend(slots, zero, zero[:, 0], self._plan, self._sizes)
            self.passes += int(bool(count.any()))
            numbers = [part.gather(1, first) for part, first in zip(found, firsts, strict=True)]
        self._numbers = torch.zeros_like(self._beams).long()
        if 0 < self._level <= len(numbers):
            self._numbers = numbers[self._level - 1][:, drafts.shape[1] :]
        total = torch.zeros(drafts.shape, device=drafts.device)
        length = torch.full_like(total, self._levels)
        last = None if self._unseen is None else self._unseen.to(drafts.device)[drafts.clamp(min=0)]
        behind = torch.zeros_like(drafts)
        for level, size in enumerate(self._sizes):
            assert self._rows is not None
            logits, _ = self._rows.scores_of(behind.clamp(min=0), size)
            said = logits.log_softmax(2).gather(2, codes[..., level : level + 1].long()).squeeze(2)
            if level + 1 == self._levels and last is not None and level:
                said, length = said.masked_fill(last, 0.0), length - last.float()
            total += said
            behind = numbers[level][:, : drafts.shape[1]] if level < len(numbers) else behind
        return (total / length).masked_fill((drafts < 0) | total.isnan(), -torch.inf)

    def _step(self) -> None:
        """The beams of one more code."""
        level = self._level
        assert self._rows is not None
        logits, _ = self._rows.scores_of(self._numbers.clamp(min=0), self._sizes[level])
        step = trie_step(
            self.trie,
            level,
            logits,
            self._beams,
            self._scores,
            num_beams=min(self._plan.num_beams[level], self.trie.num_nodes(level + 1)),
            allowed=self._keep,
        )
        parents = step.parents.long().unsqueeze(2).expand(-1, -1, self._levels)
        self._codes = self._codes.gather(1, parents).clone()
        self._codes[..., level] = step.codes
        self._beams, self._scores = step.nodes, step.scores

    def _answer(self, places: Tensor) -> None:
        """The lists of some users: accepted drafts as they were drafted, then what is left, by what is said of it."""
        k = self.query.k
        for place in places.tolist():
            drafts, said = self._drafts[place], self._said[place]
            there = drafts >= 0
            drafts, said = drafts[there], said[there]
            taken = said > self._least
            chosen = drafts[taken][:k]
            if len(chosen) < k:
                items, means = self._written(place)
                # A rejected draft that was written, too, has the bits of those that share its semantic ID.
                spared = torch.zeros_like(drafts, dtype=torch.bool)
                spared = spared if self._unseen is None else self._unseen.to(drafts.device)[drafts]
                kept = ~taken & (spared | ~torch.isin(drafts, items))
                fresh = ~torch.isin(items, drafts[taken | kept])
                others, means = torch.cat([drafts[kept], items[fresh]]), torch.cat([said[kept], means[fresh]])
                order = torch.argsort(others, stable=True)
                order = order[means[order].argsort(descending=True, stable=True)]
                chosen = torch.cat([chosen, others[order]])[:k]
            user = self._users[place]
            count = len(chosen)
            self._found.items[user, :count] = chosen
            self._found.codes[user, :count] = self._item_codes[chosen]
            self._found.scores[user, :count] = -torch.arange(count, device=chosen.device, dtype=torch.float32)
            self.finished[user] = True

    def _written(self, place: int) -> tuple[Tensor, Tensor]:
        """Items of a user's last beams, and the means of their codes."""
        live = self._beams[place] >= 0
        found = self.trie.items(self._beams[place][live].long())
        means = (self._scores[place][live] / self._levels)[found.row_index()]
        items = found.values.long()
        if self._keep is not None:
            kept = self._keep.keeps(torch.full_like(items, place), items)
            items, means = items[kept], means[kept]
        return items, means

    def _stay(self, places: Tensor) -> None:
        """Only these go on."""
        if places.numel() == self._users.numel():
            return
        for name in ("_users", "_vectors", "_beams", "_scores", "_codes", "_drafts", "_said", "_numbers"):
            setattr(self, name, getattr(self, name)[places])
        if places.numel():
            assert self._rows is not None
            self._rows = self._rows.select(places)
            self._keep = None if self._keep is None else self._keep.select(places)
