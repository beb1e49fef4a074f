"""The twin of ``ops.trie_filter``: plain torch, slow, and the specification."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.base.protocols import TrieTensors
from genrec_fast.ops.trie_offsets import row_range


def allowed_rows(item_rows: Tensor, num_rows: int, allowed: Tensor) -> Tensor:
    """Maps bool ``[U, N]`` over items to bool ``[U, num_rows]``: a row is allowed if any of its items is."""
    counts = torch.zeros(allowed.shape[0], num_rows, dtype=torch.int32, device=allowed.device)
    counts.index_add_(1, item_rows.long(), allowed.to(torch.int32))
    return counts > 0


def pack_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Packs bool ``[U, R]``.

    Returns ``bits`` int64 ``[U, R // 64 + 1]`` (row r is bit r mod 64) and ``ranks`` int32 of the same shape: the
    number of allowed rows before each word.
    """
    users, num_rows = rows.shape
    words = num_rows // 64 + 1
    padded = torch.nn.functional.pad(rows, (0, words * 64 - num_rows)).view(users, words, 64)
    weights = torch.ones(64, dtype=torch.int64, device=rows.device) << torch.arange(64, device=rows.device)
    counts = padded.sum(-1)
    return (padded * weights).sum(-1), (counts.cumsum(1) - counts).to(torch.int32)


def excluded_rows(
    item_rows: Tensor, num_rows: int, allowed: Tensor | None, items: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """Finds the rows that lose their last allowed item to a user's list.

    Returns int32 ``[E]``, ascending per user, 0 behind the last, and int64 offsets ``[B + 1]``.
    """
    rows: list[Tensor] = []
    item_rows = item_rows.long()
    for user in range(offsets.numel() - 1):
        kept = (
            torch.ones(item_rows.numel(), dtype=torch.bool, device=item_rows.device)
            if allowed is None
            else allowed[user if allowed.shape[0] > 1 else 0].clone()
        )
        before = allowed_rows(item_rows, num_rows, kept[None])[0]
        kept[items[int(offsets[user]) : int(offsets[user + 1])].long()] = False
        after = allowed_rows(item_rows, num_rows, kept[None])[0]
        rows.append((before & ~after).nonzero().squeeze(1).to(torch.int32))
    lengths = torch.tensor([0, *(len(r) for r in rows)], dtype=torch.int64, device=item_rows.device)
    out = torch.zeros(items.numel(), dtype=torch.int32, device=item_rows.device)
    out[: int(lengths.sum())] = torch.cat([*rows, out[:0]])
    return out, lengths.cumsum(0)


def alive_edges(
    trie: TrieTensors,
    level: int,
    edge: Tensor,
    bits: Tensor | None,
    ranks: Tensor | None,
    excluded: Tensor | None,
    excluded_offsets: Tensor | None,
) -> Tensor:
    """Whether any row below each of the edges ``[B, ...]`` of ``level`` passes the filter: bool, same shape."""
    low, high = row_range(trie, level + 1, edge, edge + 1)
    num_rows = trie.tokens[-1].numel()
    alive = []
    for user in range(edge.shape[0]):
        rows = torch.ones(num_rows, dtype=torch.int64, device=edge.device)
        if bits is not None and ranks is not None:
            words = bits[user if bits.shape[0] > 1 else 0]
            rows = ((words.unsqueeze(1) >> torch.arange(64, device=edge.device)) & 1).flatten()[:num_rows]
        if excluded is not None and excluded_offsets is not None:
            rows = rows.clone()
            rows[excluded[int(excluded_offsets[user]) : int(excluded_offsets[user + 1])].long()] = 0
        count = torch.nn.functional.pad(rows.cumsum(0), (1, 0))
        alive.append(count[high[user]] > count[low[user]])
    return torch.stack(alive) if alive else torch.zeros_like(edge, dtype=torch.bool)
