"""The transition graph: how often one item followed another, counted from histories and never trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from genrec_fast.base.batch import Batch
from genrec_fast.base.checks import check_integers
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged, offsets_of, spans
from genrec_fast.catalog.catalog import Catalog

_UNIT = 1024  # weights are whole multiples of 1 / 1024: sums do not depend on their order, so that updates are exact
_PAIRS = 1 << 22  # counted at once: about 200 MiB while they are sorted
_MOST = (1 << 31) - 1


@dataclass(frozen=True, kw_only=True)
class TransitionsConfig:
    """Settings of ``Transitions``; the values are those that were best on the validation split of two Amazon sets."""

    max_distance: int = 10
    """an item counts towards the next so many items of its history"""
    max_next: int = 1024
    """successors kept per item, the heaviest: what bounds memory where items are few and events many"""
    last_items: int = 8
    """items of a history that are looked up"""
    decay: float = 0.6
    """weight of each of them over that of its successor"""
    text_weight: float = 1.0
    """of the similarity of feature vectors, where the layout hands them on; 0: none"""
    repeat_weight: float = field(default=0.0, metadata={"absent": 0.0})
    """of how much more or less often than by chance an item of the history comes again, a logarithm; 0: not counted"""
    popularity_weight: float = 1e-6
    """of an item's count over the largest one: what orders items that nothing else tells apart"""

    def __post_init__(self) -> None:
        check_fields(self, within={"decay": "(0, 1]"})

    def build(self, catalog: Catalog) -> Transitions:
        """Makes the graph without any edge; with the catalog's features where it has some."""
        return Transitions(self, catalog.num_items, catalog.features)


class Transitions(nn.Module):
    """Scores every item by what followed the last items of a history.

    With item_s the item at position s of a history, i_0 the last item of the history that asks, i_1 the one before::

        weight[i, j] = sum over histories and s < t <= s + max_distance, item_s = i, item_t = j, of 1 / (t - s)
        score[j] = sum_{n < last_items} decay^n (log(1 + weight[i_n, j]) + text_weight cos(x_{i_n}, x_j))
                   + popularity_weight count[j] / max count
                   + repeat_weight repeat_logit    where j is an item of the history that asks

    Speaks ``ItemScores`` and ``Counted``. There is nothing to train; ``count`` adds histories at any time.

    Attributes:
        offsets: int64 ``[N + 1]``: item i's edges are ``offsets[i]`` to ``offsets[i + 1]``.
        next_items: int32 ``[T]``: where they lead, ascending for each item.
        weights: int32 ``[T]``, in units of 1 / 1024; what is beyond the largest int32 stays there.
        counts: int64 ``[N]``: events of each item.
        repeats: int64 ``[3]``: events that repeat an item of their history, events that could, and the items before all
            of these; with ``repeat_weight`` alone.

    Notes:
        Memory: 8 bytes an edge, at most ``N max_next`` edges. A pass over B users costs their edges and ``B N`` scores.

    Source: sequential rules with weights of 1 / distance (SR), arXiv:1803.09587, section 3.2; the logarithm, several
        last items and the text are ours.
    """

    offsets: Tensor
    next_items: Tensor
    weights: Tensor
    counts: Tensor
    table: Tensor | None
    repeats: Tensor

    def __init__(self, config: TransitionsConfig, num_items: int, features: Tensor | None = None) -> None:
        super().__init__()
        self.config, self.num_items = config, num_items
        self.register_buffer("offsets", torch.zeros(num_items + 1, dtype=torch.int64))
        self.register_buffer("next_items", torch.empty(0, dtype=torch.int32))
        self.register_buffer("weights", torch.empty(0, dtype=torch.int32))
        self.register_buffer("counts", torch.zeros(num_items, dtype=torch.int64))
        if config.repeat_weight:
            self.register_buffer("repeats", torch.zeros(3, dtype=torch.int64))
        table = None if features is None or not config.text_weight else nn.functional.normalize(features.float(), dim=1)
        self.register_buffer("table", table, persistent=False)

    def make_room(self, tensors: dict[str, Tensor]) -> None:
        """Gets the sizes of saved tensors, as a graph has any number of edges."""
        for name in ("next_items", "weights"):
            if name in tensors and tensors[name].dim() == 1:
                setattr(self, name, getattr(self, name).new_empty(tensors[name].shape))

    def count(self, histories: Jagged, known: Tensor | None = None) -> None:
        """Adds the transitions of histories to the graph, in place, and their events to ``counts``.

        Of a model's graph, the popular items, which users without a history get, are those of ``counts`` from then on.

        Args:
            histories: int64 item ids in ``[0, N)``, oldest first.
            known: int64 ``[B]``: how many first events of each row were counted before; their pairs are left out, those
                from them to newer events are not. ``None``: no events were.

        Raises:
            InvalidTypeError: no Jagged of integers, or ``known`` of others than integers.
            InvalidValueError: an item outside the catalog, or ``known`` that does not fit.

        Notes:
            ``O(E max_distance log)`` and one pass over the graph, in blocks of items. The graph is the same as if all
            had been counted at once, unless an item has had more than ``max_next`` successors.
        """
        if not isinstance(histories, Jagged):
            raise InvalidTypeError(
                f"Transitions: histories must be Jagged item ids (Jagged.from_rows makes them of lists), "
                f"got {type(histories).__name__}"
            )
        items = check_integers("Transitions", "histories", histories.values, "[E]").long().cpu()
        offsets, home = histories.offsets.cpu(), self.offsets.device
        if items.numel():
            low, high = (int(value) for value in items.aminmax())
            if low < 0 or high >= self.num_items:
                wrong = low if low < 0 else high
                raise InvalidValueError(
                    f"Transitions: histories must hold item ids in [0, {self.num_items}), got {wrong}"
                )
        lengths = offsets.diff()
        if known is None:
            known = torch.zeros_like(lengths)
        else:
            known = check_integers("Transitions", "known", known, "[B]").long().cpu()
        if known.shape != lengths.shape or bool(((known < 0) | (known > lengths)).any()):
            raise InvalidValueError("Transitions: known must be within the length of each row, got one outside")
        self.to("cpu")
        fresh, ends = (torch.repeat_interleave(column, lengths) for column in (offsets[:-1] + known, offsets[1:]))
        at = torch.arange(items.numel())
        self.counts += torch.bincount(items[at >= fresh], minlength=self.num_items)
        if self.config.repeat_weight:
            self.repeats += _repeats(items, offsets, at >= fresh)
        # An event begins pairs that are new only where a new event is within reach.
        begins = at[(at + self.config.max_distance >= fresh) & (at + 1 < ends)]
        begins = begins[items[begins].argsort(stable=True)]
        found = [self._merged(*block, items, fresh, ends) for block in self._blocks(begins, items)]
        keys, weights = (torch.cat(parts) for parts in zip(*found, strict=True))
        self.offsets = offsets_of(torch.bincount(keys // self.num_items, minlength=self.num_items))
        self.next_items = (keys % self.num_items).to(torch.int32)
        self.weights = weights.to(torch.int32)
        self.to(home)

    def repeat_logit(self) -> Tensor:
        """How much likelier an item of the history comes next than one drawn by chance: a difference of log-odds.

        Before anything was counted, 0. One repeat is counted more than there were, so that it is never infinite.
        """
        repeated, events, before = self.repeats.double()
        if not int(events):
            return torch.zeros((), device=self.repeats.device)
        share = (repeated + 1.0) / (events + 2.0)
        chance = (before / events / self.num_items).clamp(max=0.5)
        return (torch.logit(share) - torch.logit(chance)).float()

    def _blocks(self, begins: Tensor, items: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """Ranges of items of a bounded number of pairs and edges, and the events of theirs that begin pairs."""
        events = torch.bincount(items[begins], minlength=self.num_items)
        load = (events * self.config.max_distance + self.offsets.diff()).cumsum(0) // _PAIRS
        edges = [0, *(load.diff().nonzero().squeeze(1) + 1).tolist(), self.num_items]
        ends = offsets_of(events)[torch.tensor(edges)].tolist()
        for number in range(len(edges) - 1):
            yield edges[number], edges[number + 1], begins[ends[number] : ends[number + 1]]

    def _merged(
        self, first: int, last: int, begins: Tensor, items: Tensor, fresh: Tensor, ends: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Edges of items ``first`` to ``last``, old and new: keys ``item * N + next`` int64, ascending, and weights."""
        low, high = int(self.offsets[first]), int(self.offsets[last])
        owners = torch.repeat_interleave(torch.arange(first, last), self.offsets[first : last + 1].diff())
        keys = [owners * self.num_items + self.next_items[low:high]]
        weights = [self.weights[low:high].long()]
        for distance in range(1, self.config.max_distance + 1):
            to = begins + distance
            some = begins[(to < ends[begins]) & (to >= fresh[begins])]
            keys.append(items[some] * self.num_items + items[some + distance])
            weights.append(torch.full_like(some, round(_UNIT / distance)))
        edges, place = torch.unique(torch.cat(keys), return_inverse=True)
        sums = torch.zeros_like(edges).index_add_(0, place, torch.cat(weights)).clamp_(max=_MOST)
        degrees = torch.bincount(edges // self.num_items - first, minlength=last - first)
        if int(degrees.max()) > self.config.max_next:
            order = sums.argsort(descending=True, stable=True)
            order = order[(edges[order] // self.num_items).argsort(stable=True)]  # item by item, heaviest first
            rank = torch.arange(order.numel()) - torch.repeat_interleave(offsets_of(degrees)[:-1], degrees)
            kept = order[rank < self.config.max_next].sort().values
            edges, sums = edges[kept], sums[kept]
        return edges, sums

    def after(self, rows: Jagged, at: Tensor, *, leave_own: bool = False) -> tuple[Jagged, Tensor]:
        """What followed the last items before each of some positions: the edges that a score is summed of.

        Args:
            rows: int64 item ids.
            at: int64 ``[M]``: positions in ``rows.values``; each looks up its item and the ``last_items - 1`` before.
            leave_own: the events of a row behind ``at`` were counted, and are taken out: what is left is what the graph
                would know of the future without this history (leave one out).

        Returns:
            Jagged of items, M rows, and float32 values of the same order: ``decay^n log(1 + weight)``. An item may
            stand in a row once for each of the last items.
        """
        config = self.config
        owner = torch.searchsorted(rows.offsets, at, right=True) - 1
        place = at[:, None] - torch.arange(config.last_items, device=at.device)
        known = place >= rows.offsets[owner][:, None]
        asked, back = known.nonzero(as_tuple=True)
        place = place[known]
        items = rows.values[place]
        edges = spans(self.offsets[items], self.offsets[items + 1] - self.offsets[items])
        weights = self.weights[edges.values].long()
        if leave_own:
            self._leave_out(weights, edges, items, at[asked], rows)
        shares = config.decay ** back.float()
        values = torch.log1p(weights.float() / _UNIT) * shares[edges.row_index()]
        return Jagged(self.next_items[edges.values].long(), edges.offsets[offsets_of(known.sum(1))]), values

    def _leave_out(self, weights: Tensor, edges: Jagged, items: Tensor, at: Tensor, rows: Jagged) -> None:
        """Takes what each position's own row added to its edges behind it out of ``weights``, in place.

        Args:
            weights: int64, of all edges.
            edges: those of one looked-up item a row.
            items: which these are.
            at: the positions that ask for them.
            rows: where the positions lie.
        """
        here = rows.row_index()
        keys = here * self.num_items + rows.values  # an item may stand in a row more than once
        order = keys.argsort(stable=True)
        wanted = here[at] * self.num_items + items
        first, last = (torch.searchsorted(keys[order], wanted, right=right) for right in (False, True))
        found = spans(first, last - first)
        asks, begins = found.row_index(), order[found.values]
        owners = torch.repeat_interleave(torch.arange(self.num_items, device=at.device), self.offsets.diff())
        known = owners * self.num_items + self.next_items
        ends = rows.offsets[here + 1]
        for distance in range(1, self.config.max_distance + 1):
            to = begins + distance
            some = ((to > at[asks]) & (to < ends[begins])).nonzero().squeeze(1)
            pairs = items[asks[some]] * self.num_items + rows.values[to[some]]
            edge = torch.searchsorted(known, pairs).clamp(max=max(0, known.numel() - 1))
            there = known[edge] == pairs if known.numel() else torch.zeros_like(some, dtype=torch.bool)
            ask, edge = asks[some[there]], edge[there]
            local = edges.offsets[ask] + edge - self.offsets[items[ask]]
            weights.index_add_(0, local, torch.full_like(local, -round(_UNIT / distance)))
        weights.clamp_(min=0)  # where edges were cut to max_next, or weights to what an int32 holds

    def score_items(self, batch: Batch) -> Tensor:
        """float32 ``[B, N]``."""
        histories, config = batch.items, self.config
        counts = self.counts.float()
        scores = (config.popularity_weight / counts.max().clamp(min=1) * counts).repeat(len(histories), 1)
        users = (histories.lengths > 0).nonzero().squeeze(1)
        found, values = self.after(histories, histories.offsets[1:][users] - 1)
        scores.view(-1).index_add_(0, users[found.row_index()] * self.num_items + found.values, values)
        if self.table is not None:
            wish = self.table.new_zeros(len(histories), self.table.shape[1])
            for back in range(config.last_items):
                users = (histories.lengths > back).nonzero().squeeze(1)
                wish[users] += (
                    config.decay**back * self.table[histories.values[histories.offsets[1:][users] - 1 - back]]
                )
            scores.addmm_(wish, self.table.T, alpha=config.text_weight)
        if config.repeat_weight:
            places = (histories.row_index() * self.num_items + histories.values).unique()
            scores.view(-1)[places] += config.repeat_weight * self.repeat_logit()
        return scores


def _repeats(items: Tensor, offsets: Tensor, fresh: Tensor) -> Tensor:
    """int64 ``[3]``: of the events that are ``fresh``, see ``Transitions.repeats``."""
    rows = torch.repeat_interleave(torch.arange(offsets.numel() - 1), offsets.diff())
    keys = rows * (int(items.max()) + 1 if items.numel() else 1) + items
    order = keys.argsort(stable=True)
    again = torch.zeros_like(fresh)
    again[order[1:]] = keys[order][1:] == keys[order][:-1]  # of equal ones, all but the first
    place = torch.arange(items.numel()) - offsets[:-1][rows]
    asked = fresh & (place > 0)
    return torch.stack([(again & asked).sum(), asked.sum(), place[asked].sum()])
