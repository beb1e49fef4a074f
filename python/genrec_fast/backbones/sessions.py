"""Next-session prediction: a session is one step, and all items of the next session are predicted."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from genrec_fast.base.batch import Batch
from genrec_fast.base.checks import check_heads
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import offsets_of
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.dropout import Dropout
from genrec_fast.nn.histories import check_length
from genrec_fast.nn.item_inputs import ITEMS, ItemInputsConfig, item_inputs
from genrec_fast.nn.packed import Packing, row_positions, successors
from genrec_fast.nn.transformer import Block, init_weights


@dataclass(frozen=True, kw_only=True)
class SessionsConfig:
    """Settings of ``Sessions``."""

    form: Literal["pooled", "token"] = "pooled"  # a session is the mean of its items, or a token behind them
    session_seconds: int = 1800  # a longer pause than that begins another session
    width: int = 128  # channels
    num_heads: int = 2  # a divisor of width
    num_layers: int = 2
    hidden: int = 512  # channels inside the MLP of a block
    dropout: float = 0.5  # rate
    max_items: int = 50  # longest history, items
    items: ItemInputsConfig = field(default=ITEMS, metadata={"absent": ITEMS})  # what is read of an item

    def __post_init__(self) -> None:
        check_fields(self, zero=("num_layers", "session_seconds"))
        check_heads("SessionsConfig", self.width, self.num_heads)

    def build(self, catalog: Catalog) -> Sessions:
        """Makes the backbone; of the catalog it reads what ``items`` names."""
        return Sessions(self, catalog)


class Sessions(nn.Module):
    """A causal transformer with one state per session, which predicts every item of the next session.

    "pooled": a token per session, the mean of its items' embeddings. "token": every item is a token, and behind each
    session stands one more, whose state is the session's. In front of both stands a start, which predicts the first
    session. So no target is predicted with the help of another item of its own session.

    Reads ``batch.timestamps``. Speaks ``Embedding``.

    Source: "pooled": SessionRec (arXiv:2502.10157); "token": TBGRecall (arXiv:2508.11977).
    """

    reads_times = True
    learns_start = True
    """the start predicts the first session: an empty history has a state of its own"""

    def __init__(self, config: SessionsConfig, catalog: Catalog) -> None:
        super().__init__()
        self.config = config
        self.items = item_inputs(config.items, catalog, config.width)
        longest = 1 + config.max_items * (2 if config.form == "token" else 1)
        self.positions = nn.Embedding(longest, config.width)
        self.start = nn.Parameter(torch.empty(config.width))
        self.session = nn.Parameter(torch.empty(config.width)) if config.form == "token" else None
        self.input_dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(config.width, config.num_heads, config.hidden, config.dropout) for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.apply(init_weights)
        nn.init.normal_(self.start, std=1.0)
        if self.session is not None:
            nn.init.normal_(self.session, std=0.02 * math.sqrt(config.width))

    def _times(self, batch: Batch) -> Tensor:
        if batch.timestamps is None:
            raise InvalidValueError("sessions: batch must have timestamps, got None")
        return batch.timestamps

    def _states(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """``[sessions + B, D]``, int64 ``[E]`` and int64 ``[B + 1]``.

        Per row the start's state, then one per session; which session of its row, from 1, each item belongs to; the
        offsets of the rows of states.
        """
        check_length("sessions", batch, self.config.max_items)
        items, count = batch.items, len(batch)
        rows = items.row_index()
        begins = session_begins(self._times(batch), items.offsets, self.config.session_seconds)
        total = torch.cumsum(begins, 0)  # sessions of the batch so far
        sessions = torch.zeros(count, dtype=torch.int64, device=rows.device).index_add_(0, rows, begins.long())
        before = offsets_of(sessions)
        number = total - before[rows]
        states_at = before + torch.arange(count + 1, device=rows.device)  # rows of start and sessions
        embedded = self.items(items.values) * math.sqrt(self.config.width)
        if self.session is None:
            place, offsets = states_at[rows] + number, states_at
            sums = embedded.new_zeros(int(offsets[-1]), embedded.shape[1]).index_add(0, place, embedded)
            sizes = torch.bincount(place, minlength=sums.shape[0])
            x = sums / sizes.clamp(min=1)[:, None]
            ends = torch.arange(x.shape[0], device=rows.device)
        else:
            # In front of an item stand its row's start and the tokens of the sessions before its own.
            offsets = items.offsets + states_at
            place = torch.arange(rows.shape[0], device=rows.device) + states_at[rows] + number
            x = embedded.new_empty(int(offsets[-1]), embedded.shape[1]).index_copy(0, place, embedded)
            other = torch.ones(x.shape[0], dtype=torch.bool, device=rows.device)
            other[place] = False
            ends = other.nonzero().squeeze(1)  # starts and session tokens, in the order of the states
            x = x.index_copy(0, ends, self.session.to(x.dtype).expand(ends.shape[0], -1))
        x = x.index_copy(0, offsets[:-1], self.start.to(x.dtype).expand(count, -1))
        positions = row_positions(offsets)
        packing = Packing(offsets, positions, self.positions.num_embeddings)
        x = self.input_dropout(x + self.positions(positions))
        for layer, block in enumerate(self.blocks):
            x = block(x, packing, layer)
        return self.norm(x[ends]), number, states_at

    def embed_targets(self, batch: Batch) -> Tensor:
        """``[M, D]``: the state after the last session that was over when the target's began."""
        states, number, states_at = self._states(batch)
        times, positions = self._times(batch), batch.target_positions
        asked = successors(times, batch.items.offsets) if batch.target_timestamps is None else batch.target_timestamps
        goes_on = asked[positions] - times[positions] <= self.config.session_seconds
        rows = batch.items.row_index()[positions]
        return states[states_at[rows] + number[positions] - goes_on.long()]

    def embed_users(self, batch: Batch) -> Tensor:
        """``[B, D]``: the state after each whole history."""
        states, _, states_at = self._states(batch)
        return states[states_at[1:] - 1]

    def item_table(self) -> Tensor:
        """``[N, D]``."""
        return self.items.table()


def session_begins(times: Tensor, offsets: Tensor, seconds: int) -> Tensor:
    """Bool ``[E]``: the events before which their row paused for longer than ``seconds``, or began."""
    begins = torch.ones_like(times, dtype=torch.bool)
    begins[1:] = times[1:] - times[:-1] > seconds
    begins[offsets[:-1][offsets.diff() > 0]] = True
    return begins
