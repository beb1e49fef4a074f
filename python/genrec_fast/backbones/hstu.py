"""HSTU: packed histories through layers of pointwise attention, in both published forms."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_fast.base.batch import Batch, Tokens
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError, UnsupportedError
from genrec_fast.base.jagged import offsets_of
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.dropout import Dropout
from genrec_fast.nn.histories import check_length
from genrec_fast.nn.hstu import HSTULayer, HSTULayerConfig, RelativeBias
from genrec_fast.nn.item_inputs import ITEMS, ItemInputsConfig, ProjectedFeatures, item_inputs
from genrec_fast.nn.packed import Packing, Past, last_of_rows, row_positions, successors
from genrec_fast.nn.transformer import init_weights


@dataclass(frozen=True, kw_only=True)
class HSTUConfig(HSTULayerConfig):
    """Settings of ``HSTU``; the defaults are the research form."""

    num_layers: int = 2
    bias: Literal["none", "position", "time", "both"] = "both"  # learned bias of the scores; time needs timestamps
    num_time_buckets: int = 128  # buckets of the gaps in the bias, floor(ln(gap in seconds) / 0.301)
    positions: Literal["start", "end", "none"] = "start"  # learned positions in the input, counted from there
    times: Literal["none", "gap", "end"] = "none"  # embedded in the input: time since the event before, or to the end
    num_input_buckets: int = 512  # buckets of those times, floor(sqrt(minutes))
    normalize: bool = False  # users and items of length 1, scored by their cosine / temperature
    temperature: float = 0.05  # divides the cosine; read only with normalize
    num_actions: int = 0  # A: tasks of the head that predicts what a user will do; 0: no such head
    num_contexts: int = 0  # ids of contextual tokens; 0: none
    max_items: int = 50  # longest history, items
    max_tokens: int = 0  # N: tokens of the longest row, contexts and candidates included; 0: max_items
    items: ItemInputsConfig = field(default=ITEMS, metadata={"absent": ITEMS})  # what is read of an item

    def __post_init__(self) -> None:
        zero = ("num_layers", "max_attn_len", "num_actions", "num_contexts", "max_tokens")
        check_fields(self, zero=zero, above=("epsilon", "alpha", "temperature"))
        if self.rotary and self.qk_dim % 2:
            raise InvalidValueError(f"HSTUConfig: qk_dim must be even with rotary, got {self.qk_dim}")
        if self.max_tokens and self.max_tokens < self.max_items:
            raise InvalidValueError(
                f"HSTUConfig: max_tokens must be 0 or at least max_items = {self.max_items}, got {self.max_tokens}"
            )

    @property
    def longest(self) -> int:
        """N: tokens of the longest row, by which silu's weights are divided."""
        return self.max_tokens or self.max_items

    @classmethod
    def research(cls, **changes: Any) -> HSTUConfig:
        """The form of the published experiments: relative bias, no scaling, cosine scores at temperature 0.05."""
        return dataclasses.replace(cls(normalize=True), **changes)

    @classmethod
    def production(cls, **changes: Any) -> HSTUConfig:
        """The form of the production code: positions and times, from the end, in the input; no bias.

        A token's input then depends on when its row ends: ask only for the last position or for candidates.
        """
        form = cls(activate="gate", alpha=None, bias="none", positions="end", times="end", num_input_buckets=2048)
        return dataclasses.replace(form, **changes)

    def build(self, catalog: Catalog) -> HSTU:
        """Makes the backbone; it reads what ``items`` names, and projects ``batch.features`` where there are any."""
        return HSTU(self, catalog)


class HSTU(nn.Module):
    """Item embeddings and what stands beside them, ``HSTULayer`` after layer, over packed rows: nothing is padded.

    Speaks ``Embedding``, ``Resumable`` and, with ``num_actions``, ``ActionScoring``. Reads
    ``batch.tokens`` where a layout made a stream (contexts, items with actions, candidates), else the items alone. A
    row without tokens has the state 0: nothing is known of it.

    A score is the inner product of states and item table, with ``normalize`` their cosine over the temperature.

    Source: HSTU (arXiv:2402.17152); research form: the code of its experiments; production form: its modules.
    """

    def __init__(self, config: HSTUConfig, catalog: Catalog) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.items = item_inputs(config.items, catalog, width)
        self.positions = None if config.positions == "none" else nn.Embedding(config.longest + 1, width)
        self.times = None if config.times == "none" else nn.Embedding(config.num_input_buckets, width)
        self.contexts = nn.Embedding(config.num_contexts, width) if config.num_contexts else None
        self.actions = nn.Linear(config.num_actions, width) if config.num_actions else None
        # Features that are a part of the items are read there.
        feature_dim = None if config.items.features else catalog.feature_dim
        self.features = None if feature_dim is None else ProjectedFeatures(feature_dim, width)
        self.input_dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(self._layer() for _ in range(config.num_layers))
        self.norm = nn.Identity() if config.normalize else nn.LayerNorm(width, eps=config.epsilon)
        self.action_head = (
            nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, config.num_actions))
            if config.num_actions
            else None
        )
        self.apply(init_weights)

    def _layer(self) -> HSTULayer:
        c = self.config
        distances = c.longest if c.bias in ("position", "both") else 0
        buckets = c.num_time_buckets if c.bias in ("time", "both") else 0
        return HSTULayer(c, RelativeBias(distances, buckets) if distances or buckets else None)

    @property
    def num_actions(self) -> int:
        """A."""
        return self.config.num_actions

    first_tokens = 0
    flows = 1
    """2: a second flow is asked, which has no actions"""

    @property
    def reads_times(self) -> bool:
        """Whether batches must have timestamps."""
        return self.config.bias in ("time", "both") or self.config.times != "none"

    @property
    def open_events(self) -> int:
        """How many last events of a row depend on when the next one comes, or is asked for: see ``UserCache``.

        Raises:
            UnsupportedError: all events do, as inputs are counted from the end.
        """
        if self.config.positions == "end" or self.config.times == "end":
            raise UnsupportedError(
                "hstu: positions and times must not be counted from the end for a history that goes on, "
                f"got positions = {self.config.positions!r}, times = {self.config.times!r}"
            )
        return 1 if self.config.bias in ("time", "both") else 0

    @property
    def cache_shapes(self) -> list[tuple[int, int, int]]:
        """Per layer: heads, channels of a key and of a value."""
        return [(self.config.num_heads, self.config.qk_dim, self.config.v_dim)] * len(self.layers)

    def _packing(self, batch: Batch, past: Past | None) -> Packing:
        """Where the tokens stand, and when."""
        tokens, longest = batch.tokens, self.config.longest
        check_length("hstu", batch, self.config.max_items)
        offsets = batch.items.offsets if tokens is None else tokens.offsets
        first = None if past is None else past.lengths
        kv_offsets = offsets if first is None else offsets_of(offsets.diff() + first)
        lengths = kv_offsets.diff()
        if lengths.numel() and int(lengths.max()) > longest:
            raise InvalidValueError(
                f"hstu: rows must have at most max_tokens = {longest} tokens (contexts, items, actions and candidates "
                f"together), got {int(lengths.max())}"
            )
        positions = row_positions(offsets, first)
        if tokens is None:
            times, asked = batch.timestamps, batch.target_timestamps
        else:
            times, asked = tokens.timestamps, tokens.query_timestamps
            if self.config.bias in ("position", "both") and bool((tokens.num_targets > 1).any()):
                raise InvalidValueError(
                    "hstu: bias must be 'time' or 'none' where a user has several candidates, which have no order, "
                    f"got {self.config.bias!r}"
                )
            ends = lengths - tokens.num_targets  # where the candidates stand, side by side
            positions = torch.minimum(positions, torch.repeat_interleave(ends, lengths))
        if not self.reads_times:
            times = asked = None
        elif times is None:
            raise InvalidValueError(
                "hstu: batch must have timestamps, got None (without times: bias 'position' or 'none', times 'none')"
            )
        else:
            asked = successors(times, offsets) if asked is None else asked
            for name, column in (("timestamps", times), ("target_timestamps", asked)):
                if column.dtype != torch.int64 or column.shape != positions.shape:
                    raise InvalidValueError(
                        f"hstu: {name} must be int64 {list(positions.shape)}, got {column.dtype} {list(column.shape)}"
                    )
            times = times if past is None else past.join_times(times)
        return Packing(
            offsets,
            positions,
            longest,
            num_targets=None if tokens is None or not tokens.candidates_at.numel() else tokens.num_targets,
            contextual_seq_len=0 if tokens is None else tokens.contextual_seq_len,
            timestamps=times,
            query_timestamps=asked,
            past=past,
            kv_offsets=None if past is None else kv_offsets,
            kinds=_kinds(tokens) if self.config.norms_by_kind else None,
        )

    def _projected(self, embedded: Tensor, features: Tensor | None) -> Tensor:
        if self.features is None:
            return embedded
        if features is None:
            raise InvalidValueError("hstu: batch must have features, as in training, got None")
        added: Tensor = embedded + self.features(features)
        return added

    def _embedded(self, batch: Batch) -> Tensor:
        """``[Et, D]``: every token's own embedding."""
        tokens, scale = batch.tokens, math.sqrt(self.config.width)
        items = self._projected(self.items(batch.items.values) * scale, batch.features)
        if tokens is None:
            return items
        parts, places = [items], [tokens.items_at]
        actions = None
        if batch.actions is not None:
            if self.actions is None or batch.actions.shape != (items.shape[0], self.config.num_actions):
                raise InvalidValueError(
                    f"hstu: actions must be [{items.shape[0]}, {self.config.num_actions}], one column for each of "
                    f"num_actions, got {list(batch.actions.shape)}"
                )
            actions = self.actions(batch.actions.to(items.dtype))
            if tokens.actions_at.numel():
                parts.append(actions)
                places.append(tokens.actions_at)
            elif tokens.actions_before:
                first = batch.items.offsets[:-1][batch.items.lengths > 0]
                parts[0] = items + actions.roll(1, 0).index_fill(0, first, 0.0)
            else:
                parts[0] = items + actions
        if batch.candidates is not None:
            scored = self.items(batch.candidates.values) * scale
            if actions is not None and tokens.actions_before:  # what is asked comes behind the last event
                scored = scored + last_of_rows(actions, batch.items.offsets)[batch.candidates.row_index()]
            parts.append(self._projected(scored, batch.candidate_features))
            places.append(tokens.candidates_at)
        if tokens.contexts_at.numel():
            if self.contexts is None or batch.contexts is None:
                raise InvalidValueError("hstu: num_contexts must be above 0 for contextual tokens, got 0")
            low, high = (int(v) for v in torch.aminmax(batch.contexts))
            if low < 0 or high >= self.config.num_contexts:
                raise InvalidValueError(
                    f"hstu: contexts must be in [0, {self.config.num_contexts}), the settings' num_contexts, "
                    f"got {low} to {high}"
                )
            parts.append(self.contexts(batch.contexts.flatten()))
            places.append(tokens.contexts_at)
        embedded, where = torch.cat(parts), torch.cat(places)
        if where.shape[0] != embedded.shape[0] or where.shape[0] != int(tokens.offsets[-1]):
            raise InvalidValueError(
                f"hstu: tokens must place every item, action, candidate and context once: {embedded.shape[0]}, "
                f"got places for {where.shape[0]} in a stream of {int(tokens.offsets[-1])}"
            )
        return torch.empty_like(embedded).index_copy(0, where, embedded)

    def _placed(self, rows: Packing, batch: Batch) -> Tensor | None:
        """``[Et, D]``: what the places and times of the tokens add to them."""
        added = None
        contexts = 0 if batch.contexts is None or batch.tokens is None else batch.contexts.shape[1]
        lengths = rows.offsets.diff()
        if self.positions is not None:
            at = rows.positions
            if self.config.positions == "end":  # contexts keep their places, the others count from the newest
                targets = 0 if rows.num_targets is None else rows.num_targets
                back = torch.repeat_interleave(lengths - targets, lengths) - at + contexts
                at = torch.where(at < contexts, at, back.clamp(max=self.config.longest))
            added = self.positions(at)
        if self.times is not None:
            assert rows.timestamps is not None
            assert rows.query_timestamps is not None
            if self.config.times == "end":
                last = rows.query_timestamps[(rows.offsets[1:] - 1).clamp(min=0)] if lengths.numel() else lengths
                gaps = torch.repeat_interleave(last, lengths) - rows.timestamps
            else:
                ends = rows.offsets[1:] if rows.kv_offsets is None else rows.kv_offsets[1:]
                here = torch.arange(int(rows.offsets[-1]), device=lengths.device)
                here = here + torch.repeat_interleave(ends - rows.offsets[1:], lengths)  # among all tokens
                before = torch.where(row_positions(rows.offsets, _known(rows)) > 0, here - 1, here)
                gaps = rows.timestamps[here] - rows.timestamps[before]
            minutes = gaps.clamp(min=0).double() / 60
            embedded = self.times(minutes.sqrt().long().clamp(max=self.config.num_input_buckets - 1))
            added = embedded if added is None else added + embedded
        return added

    def states(self, batch: Batch, past: Past | None = None) -> Tensor:
        """``[Et, D]``: the state at every token of the batch, with what is known of its rows before it.

        Args:
            batch: from a layout.
            past: keys and values of the events before those of the batch; ``None``: these are whole histories.

        Raises:
            InvalidValueError: a row that is too long, or something that the settings need and the batch lacks.
            UnsupportedError: a past for a stream of several kinds of tokens.
        """
        if past is not None and batch.tokens is not None:
            raise UnsupportedError("hstu: a history that goes on must be of items alone, got a batch with tokens")
        rows = self._packing(batch, past)
        x, placed = self._embedded(batch), self._placed(rows, batch)
        x = self.input_dropout(x if placed is None else x + placed)
        for number, layer in enumerate(self.layers):
            x = layer(x, rows, number)
        normed: Tensor = self.norm(x)
        return normed

    def user_vectors(self, states: Tensor) -> Tensor:
        """What is multiplied with ``item_table``, from states."""
        return F.normalize(states, dim=-1) / self.config.temperature if self.config.normalize else states

    def embed_targets(self, batch: Batch) -> Tensor:
        """``[M, D]``: the state that predicts each target."""
        positions = batch.target_positions
        if batch.tokens is not None:
            tokens = batch.tokens
            positions = (tokens.actions_at if tokens.actions_at.numel() else tokens.items_at)[positions]
        return self.user_vectors(self.states(batch)[positions])

    def last_states(self, batch: Batch, past: Past | None = None) -> Tensor:
        """``[B, D]``: the state after each row's last event of this pass, candidates not counted; 0 without any."""
        states, tokens = self.states(batch, past), batch.tokens
        if tokens is None:
            return last_of_rows(states, batch.items.offsets)
        if tokens.candidates_at.numel():  # leave them out
            kept = torch.ones(states.shape[0], dtype=torch.bool, device=states.device)
            kept[tokens.candidates_at] = False
            states = states[kept]
        return last_of_rows(states, offsets_of(tokens.offsets.diff() - tokens.num_targets))

    def embed_users(self, batch: Batch) -> Tensor:
        """``[B, D]``: the state after each whole history, candidates not counted."""
        return self.user_vectors(self.last_states(batch))

    def item_table(self) -> Tensor:
        """``[N, D]``."""
        table = self.items.table()
        return F.normalize(table, dim=-1) if self.config.normalize else table

    def action_logits(self, batch: Batch) -> Tensor:
        """``[M, A]``: what the user will do with the item of each token that ``batch.tokens.asked`` names.

        Raises:
            InvalidValueError: no head for actions, or a batch in which none is asked.
        """
        if self.action_head is None:
            raise InvalidValueError("hstu: num_actions must be above 0 to predict actions, got 0")
        if batch.tokens is None or batch.tokens.asked is None:
            raise InvalidValueError("hstu: batch must have tokens with asked (from layouts.Interleave), got None")
        if batch.tokens.two_flows and self.flows < 2:
            raise InvalidValueError(
                "hstu: actions must not be 'two_flows', which a DualFlow reads; they tell the answers"
            )
        logits: Tensor = self.action_head(self.states(batch)[batch.tokens.asked])
        return logits


def _kinds(tokens: Tokens | None) -> Tensor | None:
    """int64 ``[Et]``, as in ``Packing``; ``None``: items alone."""
    if tokens is None:
        return None
    places = (tokens.contexts_at, tokens.items_at, tokens.actions_at, tokens.candidates_at)
    kinds = tokens.items_at.new_zeros(int(tokens.offsets[-1]))
    for kind, at in enumerate(places):
        kinds[at] = kind
    return kinds


def _known(rows: Packing) -> Tensor | None:
    return None if rows.past is None else rows.past.lengths
