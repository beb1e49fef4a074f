"""A walk over a graph of items whose codes are alike: RPG's search, which looks at a part of the catalog."""

from __future__ import annotations

import dataclasses
import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.batch import Batch, Ranked
from genrec_fast.base.checks import check_flag
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.protocols import Parallel
from genrec_fast.base.query import Query
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.decoders.arguments import check_k, seed_of
from genrec_fast.decoders.base import Decoder, OneStep
from genrec_fast.decoders.neighbours import code_neighbours
from genrec_fast.decoders.scan_codes import CodesOf, PackedCodes, ask_parallel, code_logprobs, ranked, scan
from genrec_fast.ops import fingerprint, graph_step


@dataclass(frozen=True, kw_only=True)
class GraphConfig:
    """Settings of ``Graph``; the defaults are RPG's for Beauty."""

    num_beams: int = 20
    """items where a user stands after each step; k if that is more"""
    num_edges: int = 200
    """neighbours of an item, itself among them"""
    num_steps: int = 3
    """steps of the walk; it ends before where nobody moves any more"""
    seed: int = 0
    """of the items where the walk begins; a query may name another"""

    def __post_init__(self) -> None:
        check_fields(self, zero=("seed",))

    def build(self, catalog: Catalog | None = None) -> Graph:
        return Graph(self)


class Graph(Decoder):
    """From random items, again and again, to the best of the neighbours; the score is that of ``ScanCodes``.

    ::

        items = num_beams random ones, the same for all users
        num_steps times: items = the num_beams best of their neighbours (code_neighbours)
        answer: the k best of items that the query allows

    The graph is made from the network's vectors of codes at the first question, and again when these have changed.
    ``num_beams`` or ``num_edges`` of at least the catalog's items, or ``exact``, looks at every item: the answer is the
    exact one. So it is for users whom the walk leaves with fewer than k items that are allowed. Any other answer is not
    exact, and its ``bound`` is the sum of the best log-probability of each level: far above most scores, but no item
    that was not looked at can be above it.

    Runs on the CPU (``ops.graph_step``), wherever the network does.

    Source: RPG (arXiv:2506.05781), section 3.3.
    """

    needs = Parallel
    reads_trie = False

    def __init__(self, config: GraphConfig) -> None:
        self.config = config
        self._codes, self._near = PackedCodes(), _Neighbours()

    def begin(self, system: Any, batch: Batch, query: Query) -> OneStep:
        """One step.

        Raises:
            InvalidTypeError: the backbone does not predict all codes at once.
            InvalidValueError: k, num_beams or a filter does not fit, or the backbone's levels are not the catalog's.
        """
        return OneStep(len(batch), lambda: self._asked(system, batch, query))

    def _asked(self, system: Any, batch: Batch, query: Query) -> Ranked:
        check_flag("graph", "exact", query.exact)
        query = dataclasses.replace(query, seed=seed_of("graph", query.seed, self.config.seed, 0))
        codes = ask_parallel("graph", system, batch, query, self._codes)
        logprobs = code_logprobs(system.backbone.user_logits(batch))
        device, beams = batch.items.offsets.device, query.num_beams
        query = query.to("cpu")
        if isinstance(beams, tuple):
            raise InvalidValueError(f"graph: num_beams must be one number or one per user, got {beams}")
        if not isinstance(beams, Tensor):
            return self._walked(system, logprobs, codes, query, beams).to(device)
        order, found = [], []
        for number in beams.unique().tolist():  # an answer is independent of the others' widths
            users = (beams == number).nonzero().squeeze(1).cpu()
            order.append(users)
            found.append(self._walked(system, logprobs[users], codes, query.select(users), number))
        if not found:
            return scan(logprobs, codes, query, device)
        return Ranked.cat(found).select(torch.cat(order).argsort()).to(device)

    def _walked(self, system: Any, logprobs: Tensor, codes: CodesOf, query: Query, num_beams: int | None) -> Ranked:
        cpu, num_items = torch.device("cpu"), len(codes.packed)
        k, beams = check_k("graph", query.k, max(self.config.num_beams, query.k) if num_beams is None else num_beams)
        if query.exact or max(beams, self.config.num_edges) >= num_items:
            return scan(logprobs, codes, query, cpu)
        near = self._near.of(system, codes, self.config.num_edges)
        start = torch.randperm(num_items, generator=torch.Generator().manual_seed(int(query.seed or 0)))[:beams]
        items = start.int().expand(len(logprobs), -1)
        scores = torch.full(items.shape, -torch.inf)
        num_seen = torch.zeros(len(logprobs), dtype=torch.int32)
        for _ in range(self.config.num_steps):
            before = items
            items, scores, num_seen = graph_step(logprobs, codes.packed, near, items, beams, codebook_sizes=codes.sizes)
            if torch.equal(items, before):
                break
        ids, scores = _kept(items.long(), scores, query, num_items)
        ids, scores = ids[:, :k].contiguous(), scores[:, :k].contiguous()
        exact = num_seen == num_items
        bound = torch.where(exact, -torch.inf, _ceiling(logprobs, codes))
        found = ranked(codes, ids, scores, exact, bound)
        short = (ids[:, -1] < 0).nonzero().squeeze(1)
        if not len(short):
            return found
        others = (ids[:, -1] >= 0).nonzero().squeeze(1)
        whole = scan(logprobs[short], codes, query.select(short), cpu)
        return Ranked.cat([whole, found.select(others)]).select(torch.cat([short, others]).argsort())


class _Neighbours:
    """The graph that was asked for last; a copy knows nothing yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: tuple[CodesOf, int, Tensor] | None = None

    def __reduce__(self) -> tuple[type[_Neighbours], tuple[()]]:
        return _Neighbours, ()

    def of(self, system: Any, codes: CodesOf, num_edges: int) -> Tensor:
        """int32 ``[N, E]`` of the catalog's levels, made once for their vectors."""
        levels = codes.item_codes.shape[1]
        tables = [table.detach().cpu() for table in system.backbone.code_tables()[:levels]]
        mark = fingerprint(tables)
        with self._lock:
            if self._known is None or self._known[0] is not codes or self._known[1] != mark:
                item_codes = codes.packed[:, :levels].contiguous()
                self._known = codes, mark, code_neighbours(tables, item_codes, min(num_edges, len(item_codes)))
            return self._known[2]


def _kept(items: Tensor, scores: Tensor, query: Query, num_items: int) -> tuple[Tensor, Tensor]:
    """Items ``[B, W]`` and scores that the query allows, in front, -1 and -inf behind."""
    there = items >= 0
    safe = items.clamp(min=0)
    if query.allowed is not None:
        there &= query.allowed.expand(len(items), num_items).gather(1, safe)
    if query.exclude is not None and query.exclude.values.numel():
        keys = query.exclude.row_index() * num_items + query.exclude.values.long()
        there &= ~torch.isin(torch.arange(len(items)).unsqueeze(1) * num_items + safe, keys)
    order = torch.sort(there.int(), dim=1, descending=True, stable=True).indices
    there = there.gather(1, order)
    return items.gather(1, order).masked_fill(~there, -1), scores.gather(1, order).masked_fill(~there, -torch.inf)


def _ceiling(logprobs: Tensor, codes: CodesOf) -> Tensor:
    """``[B]``: the best log-probability of each level's codes that occur, added as an item's are: none is above it."""
    total = logprobs.new_zeros(len(logprobs))
    for scores, used in zip(logprobs.split(codes.sizes, 1), codes.used.split(codes.sizes), strict=True):
        total = total + scores[:, used].amax(1)
    return total
