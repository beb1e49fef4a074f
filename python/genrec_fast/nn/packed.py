"""What all layers of a network over packed rows share: where rows begin, who stands where, and what came before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Past(Protocol):
    """Keys and values of events that were read before, for rows that go on."""

    @property
    def lengths(self) -> Tensor:
        """int64 ``[B]``: how many tokens of each row are known."""
        ...

    def join_times(self, times: Tensor) -> Tensor:
        """int64: when each token of each row was, known and new, end to end."""
        ...

    def join(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of each row, known and new (``[E, H, D]`` each), end to end."""
        ...


@dataclass(frozen=True)
class Packing:
    """B rows of tokens, end to end.

    Args:
        offsets: int64 ``[B + 1]`` of the rows of new tokens.
        positions: int64 ``[E]``: each token's place in its whole row; candidates of one row share theirs.
        max_seq_len: the N of silu's ``1 / N``: a constant of the network, never of the batch.
        num_targets: int64 ``[B]``: so many last tokens of a row are candidates; ``None``: none are.
        contextual_seq_len: so many first tokens of each row are context.
        timestamps: int64 ``[E_kv]``: when each token was, the past included; ``None``: not known.
        query_timestamps: int64 ``[E]``: when each token's successor is asked for; with ``timestamps``.
        past: what is known of these rows already; ``None``: nothing.
        kv_offsets: int64 ``[B + 1]`` of the whole rows; ``None``: as ``offsets``.
        kinds: int64 ``[E]``: what each token is, in [0, 4): context, item, action, candidate; ``None``: all are items.
    """

    offsets: Tensor
    positions: Tensor
    max_seq_len: int
    num_targets: Tensor | None = None
    contextual_seq_len: int = 0
    timestamps: Tensor | None = None
    query_timestamps: Tensor | None = None
    past: Past | None = None
    kv_offsets: Tensor | None = None
    kinds: Tensor | None = None


def row_positions(offsets: Tensor, first: Tensor | None = None) -> Tensor:
    """int64 ``[E]``: each token's place in its row, counted from 0, or from ``first [B]``."""
    lengths = offsets.diff()
    starts = offsets[:-1] if first is None else offsets[:-1] - first
    total = int(offsets[-1])
    return torch.arange(total, device=offsets.device) - torch.repeat_interleave(starts, lengths, output_size=total)


def successors(times: Tensor, offsets: Tensor) -> Tensor:
    """Each token's successor's time in its row; the last one's own."""
    out = torch.cat([times[1:], times[:1]])
    last = offsets[1:][offsets.diff() > 0] - 1
    out[last] = times[last]
    return out


def equal_rows(count: int, length: int, device: torch.device) -> Packing:
    """``count`` rows of ``length`` tokens each."""
    ends = torch.arange(count + 1, device=device)
    return Packing(ends * length, torch.arange(length, device=device).repeat(count), length)


def last_of_rows(states: Tensor, offsets: Tensor) -> Tensor:
    """``[E, D]`` -> ``[B, D]``: the last token of each row; 0 for a row without tokens."""
    some = (offsets.diff() > 0).nonzero().squeeze(1)
    out = states.new_zeros(offsets.shape[0] - 1, states.shape[1])
    return out.index_copy(0, some, states[offsets[1:][some] - 1])
