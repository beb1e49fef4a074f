"""A timeline that writes semantic IDs, and one score of every item from its states, a transition graph and the text."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_fast.backbones.timeline import Timeline, TimelineConfig
from genrec_fast.backbones.transitions import Transitions, TransitionsConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import Session
from genrec_fast.base.summed import Summed
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.item_inputs import ItemInputsConfig, item_inputs, whitened
from genrec_fast.nn.kept_table import KeptTable
from genrec_fast.nn.transformer import init_weights

CHANNELS = ("network", "graph", "text", "repeats")
_GATE_INPUTS = 4


@dataclass(frozen=True, kw_only=True)
class FusedConfig:
    """Settings of ``Fused``."""

    timeline: TimelineConfig = field(default_factory=TimelineConfig)
    """the network that reads histories and writes semantic IDs"""
    graph: TransitionsConfig = field(default_factory=lambda: TransitionsConfig(text_weight=0.0, repeat_weight=1.0))
    """what followed what; its own weights are not read"""
    items: ItemInputsConfig = field(default_factory=lambda: ItemInputsConfig(features=True))
    """what the network scores an item by"""
    temperature: float = 0.07
    """divides the cosine of a state and an item"""
    text_width: int = 128
    """principal components of the features that are compared"""
    weights: tuple[float, ...] = (1.0, 1.0, 1.5, 1.0)
    """of network, graph, text and repeats where training begins; 0 leaves a channel out"""
    residual: bool = field(default=True, metadata={"absent": True})
    """whether the network learns what graph, text and repeats leave open; else it learns alone, and reads an item by
    what it scores it by, too; they join it in answers, by ``weights``, and no gate is learned"""
    gate_hidden: int = 16
    """channels of the layer between what is known of a history and the channels' weights"""

    def __post_init__(self) -> None:
        check_fields(self, above=("temperature",))
        if not self.graph.repeat_weight:
            raise InvalidValueError("FusedConfig: graph must have a repeat_weight above 0, got 0: it counts none")
        if len(self.weights) != len(CHANNELS) or not any(self.weights):
            raise InvalidValueError(
                f"FusedConfig: weights must be {len(CHANNELS)} numbers, not all 0 ({', '.join(CHANNELS)}), "
                f"got {self.weights}"
            )

    def build(self, catalog: Catalog) -> Fused:
        """Makes the backbone of a catalog with semantic IDs and features.

        Raises:
            InvalidValueError: it has no features, or its layout does not hand them on.
        """
        if catalog.features is None:
            raise InvalidValueError("FusedConfig: catalog must have features (layout use_features), got None")
        return Fused(self, catalog, catalog.features)


class Fused(nn.Module):
    """Two answers of one state: the next item's semantic ID, code by code, and a score of every item.

    With h the timeline's state, x_n the features of the n-th last item, and g the weights that a gate gives a history::

        score[j] = g_network cos(h, item_j) / temperature
                 + g_graph   sum_n decay^n log(1 + weight[i_n, j])            (``Transitions``)
                 + g_text    sum_n decay^n cos(x_n, x_j)                      (features, whitened by half)
                 + g_repeats log(how often an item of the history comes next / how often by chance)   for j in it
        g = weights * exp(MLP(log length, log count of the last item, log weight of its edges, cosine of the last two))

    With ``residual``, training adds graph, text and repeats to the network's logits, so that the network learns what
    they leave open; the history's own later events are taken out of the graph first, which would else know the answer.
    Otherwise the network learns as if it were alone and g is ``weights``: a product of experts.

    Speaks ``Autoregressive``, ``TeacherForced``, ``ItemScores``, ``SummedScores``, ``AddedScores`` and ``Counted``.

    Source: ours. A graph of transitions beside a network: SR of arXiv:1803.09587; several answers weighted per user by
        what is known of him: EnsRec; the residual of a fixed log-linear part: an offset of a generalised linear model.
    """

    text: Tensor

    def __init__(self, config: FusedConfig, catalog: Catalog, features: Tensor) -> None:
        super().__init__()
        self.config, self.num_items = config, catalog.num_items
        items = item_inputs(config.items, catalog, config.timeline.width)
        items.apply(init_weights)
        self.codebook_sizes = catalog.codebook_sizes
        timeline = dataclasses.replace(config.timeline, temperature=config.temperature)
        read = None if config.residual else items
        self.timeline = Timeline(timeline, self.codebook_sizes, catalog.feature_dim, read)
        self.graph = Transitions(config.graph, catalog.num_items)
        if config.residual:
            self.items = items
        self._kept = KeptTable()
        self.gate = _gate(config.gate_hidden) if config.residual else None
        self.register_buffer("text", whitened(features, config.text_width), persistent=False)

    @property
    def counts(self) -> Tensor:
        """int64 ``[N]``: events of each item, counted."""
        return self.graph.counts

    def count(self, histories: Jagged) -> None:
        """Adds the histories' transitions and repeats to the graph."""
        self.graph.count(histories)

    def prefill(self, batch: Batch) -> Session:
        """Reads each history once; see ``Autoregressive``."""
        return self.timeline.prefill(batch)

    def level_logits(self, batch: Batch) -> list[Tensor]:
        """See ``TeacherForced``."""
        return self.timeline.level_logits(batch)

    def added_scores(self, batch: Batch) -> tuple[list[Tensor], Tensor, Tensor, tuple[Jagged, Tensor]]:
        """See ``AddedScores``; the events of the batch's rows were counted."""
        if not self.config.residual:
            return self.timeline.added_scores(batch)
        states = self.timeline.target_states(batch)
        rows, at = _with_ends(batch)
        return (self.timeline.logits_behind(states, batch), *self._parts(states.float(), rows, at, leave_own=True))

    def summed_scores(self, batch: Batch) -> Summed:
        """See ``SummedScores``; no history may be empty."""
        states = self.timeline.user_states(batch).float()
        vectors, table, (items, values) = self._parts(states, batch.items, batch.items.offsets[1:] - 1, leave_own=False)
        network, wishes = vectors.split([states.shape[1], self.text.shape[1]], 1)
        # The network's part is a cosine times the length of the user's: items have length 1.
        return Summed(vectors, table, items, values, wishes.contiguous(), self.text, network.norm(dim=1))

    def score_items(self, batch: Batch) -> Tensor:
        """float32 ``[B, N]``; no history may be empty."""
        summed = self.summed_scores(batch)
        vectors, table, items, values = summed.vectors, summed.table, summed.known, summed.values
        scores = vectors @ table.T
        scores.view(-1).index_add_(0, items.row_index() * self.num_items + items.values, values)
        return scores

    def _parts(
        self, states: Tensor, rows: Jagged, at: Tensor, *, leave_own: bool
    ) -> tuple[Tensor, Tensor, tuple[Jagged, Tensor]]:
        """Vectors ``[M, D + F]`` and a table ``[N, D + F]`` whose products are scores, and what is added to these."""
        begins = rows.offsets[torch.searchsorted(rows.offsets, at, right=True) - 1]
        followed, values = self.graph.after(rows, at, leave_own=leave_own)
        weights = self._weights(rows, at, begins, followed, values)
        user = F.normalize(states, dim=1) / self.config.temperature * weights[:, :1]
        wish = self._wish(rows, at, begins) * weights[:, 2:3]
        added, first, second = _joined(followed, _read(rows, at, begins, self.num_items))
        both = values.new_empty(added.values.numel())
        both = both.index_copy(0, first, values * weights[followed.row_index(), 1])
        both = both.index_copy(0, second, self.graph.repeat_logit() * weights[added.row_index()[second], 3])
        return torch.cat([user, wish], 1), self._table(), (added, both)

    def _table(self) -> Tensor:
        """``[N, D + F]``; made once for the weights of the moment where nothing is learned from it."""
        if self.training or torch.is_grad_enabled():
            return self._made()
        return self._kept.of(self._scored(), self._made, self._buffers)

    def _made(self) -> Tensor:
        return torch.cat([F.normalize(self._scored().table().float(), dim=1), self.text], 1)

    def _scored(self) -> Any:
        return self.items if self.config.residual else self.timeline.items

    def _wish(self, rows: Jagged, at: Tensor, begins: Tensor) -> Tensor:
        """``[M, F]``: ``sum_n decay^n x_n``."""
        graph, wish = self.config.graph, self.text.new_zeros(at.numel(), self.text.shape[1])
        for back in range(graph.last_items):
            some = (at - back >= begins).nonzero().squeeze(1)
            wish[some] += graph.decay**back * self.text[rows.values[at[some] - back]]
        return wish

    def _weights(self, rows: Jagged, at: Tensor, begins: Tensor, followed: Jagged, values: Tensor) -> Tensor:
        """``[M, 4]``: of the channels."""
        start = torch.tensor(self.config.weights, device=values.device)
        if self.gate is None:
            return start.expand(at.numel(), -1)
        last, before = rows.values[at], rows.values[torch.maximum(at - 1, begins)]
        mass = values.new_zeros(at.numel()).index_add_(0, followed.row_index(), values)
        known = torch.stack(
            [
                (at - begins + 1).float().log() - 1.0,
                self.graph.counts[last].float().log1p() - 3.0,
                mass.log1p() - 3.0,
                (self.text[last] * self.text[before]).sum(1),
            ],
            1,
        )
        found: Tensor = start * self.gate(known).float().exp()
        return found


def _gate(hidden: int) -> nn.Sequential:
    """Of what is known of a history: logarithms of its weights over those of the beginning, zeros at first."""
    layers = nn.Sequential(nn.Linear(_GATE_INPUTS, hidden), nn.Tanh(), nn.Linear(hidden, len(CHANNELS)))
    for parameter in layers[-1].parameters():
        nn.init.zeros_(parameter)
    return layers


def _with_ends(batch: Batch) -> tuple[Jagged, Tensor]:
    """Histories with each row's last target behind them, and where the last item before each target stands in them."""
    assert batch.targets is not None
    lengths, offsets = batch.items.lengths, batch.items.offsets
    known = (batch.targets[(offsets[1:] - 1).clamp(min=0)] >= 0) & (lengths > 0)
    starts = torch.cat([known.new_zeros(1).long(), known.long().cumsum(0)])
    whole = offsets + starts
    values = batch.items.values.new_empty(int(whole[-1]))
    at = torch.arange(batch.items.values.numel(), device=values.device) + starts[batch.items.row_index()]
    values[at] = batch.items.values
    values[whole[1:][known] - 1] = batch.targets[offsets[1:][known] - 1]
    return Jagged(values, whole), at[batch.target_positions]


def _read(rows: Jagged, at: Tensor, begins: Tensor, num_items: int) -> Jagged:
    """M rows: every different item from the beginning of its row to each position."""
    lengths = at - begins + 1
    owner = torch.repeat_interleave(torch.arange(at.numel(), device=at.device), lengths)
    place = torch.arange(owner.numel(), device=at.device) - (lengths.cumsum(0) - lengths)[owner] + begins[owner]
    keys = (owner * num_items + rows.values[place]).unique()
    return Jagged.from_lengths(keys % num_items, torch.bincount(keys // num_items, minlength=at.numel()))


def _joined(first: Jagged, second: Jagged) -> tuple[Jagged, Tensor, Tensor]:
    """Each row of the first and then that of the second, and where the entries of both went."""
    lengths = first.lengths
    at = torch.arange(first.values.numel(), device=lengths.device)
    to_first = at + torch.repeat_interleave(second.offsets[:-1], lengths)
    at = torch.arange(second.values.numel(), device=lengths.device)
    to_second = at + torch.repeat_interleave(first.offsets[1:], second.lengths)
    values = first.values.new_empty(to_first.numel() + to_second.numel())
    values[to_first], values[to_second] = first.values, second.values
    return Jagged(values, first.offsets + second.offsets), to_first, to_second
