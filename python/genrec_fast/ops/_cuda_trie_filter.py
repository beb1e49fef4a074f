"""trie_filter on a card: the kernels of ``csrc/cuda/trie_filter.cuh``. Nothing is read back."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from genrec_fast.ops._cuda import int32, int64, launch
from genrec_fast.ops._cuda_trie import PackedOffsets

_SOURCE = "trie_filter"
_THREADS = 256
_OFFSET_THREADS = 1024
_CHUNK_WORDS = 4096  # chunk_words of the source


class _RowItems(ctypes.Structure):
    """``RowItems`` of ``csrc/cuda/trie_filter.cuh``."""

    _fields_ = (
        ("item_rows", ctypes.c_void_p),
        ("num_items", ctypes.c_longlong),
        ("leaf", PackedOffsets),
        ("leaf_items", ctypes.c_void_p),
        ("num_rows", ctypes.c_longlong),
    )


def allow_on_card(item_rows: Tensor, allowed: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """As ``genrec_fast::trie_filter_allow``."""
    users, items = allowed.shape
    words = num_rows // 64 + 1
    chunks = -(-words // _CHUNK_WORDS)
    bits = torch.zeros(users, words, dtype=torch.int64, device=allowed.device)
    ranks = torch.empty(users, words, dtype=torch.int32, device=allowed.device)
    counts = ranks.new_empty(users, chunks)
    given = (item_rows, int64(items), allowed, int64(users * items), int64(num_rows), bits)
    _launch("trie_filter_bits", -(-users * items // _THREADS), given)
    _launch("trie_filter_counts", users * chunks, (bits, int64(words), int32(chunks), counts))
    _launch("trie_filter_ranks", users * chunks, (bits, int64(words), int32(chunks), counts, ranks))
    return bits, ranks


def exclude_on_card(
    item_rows: Tensor,
    leaf_bases: Tensor,
    leaf_deltas: Tensor,
    leaf_items: Tensor,
    allowed: Tensor | None,
    items: Tensor,
    offsets: Tensor,
) -> tuple[Tensor, Tensor]:
    """As ``genrec_fast::trie_filter_exclude``."""
    users, num_rows = offsets.numel() - 1, leaf_deltas.numel() - 1
    leaf = PackedOffsets(leaf_bases.data_ptr(), leaf_deltas.data_ptr(), leaf_deltas.numel(), leaf_deltas.element_size())
    catalog = _RowItems(item_rows.data_ptr(), item_rows.numel(), leaf, leaf_items.data_ptr(), num_rows)
    keys, numbers = torch.empty_like(items), offsets.new_empty(users)
    rows = torch.zeros(items.shape, dtype=torch.int32, device=items.device)
    found, row_offsets = torch.empty_like(rows), torch.empty_like(offsets)
    several = int64(0 if allowed is None else allowed.shape[0])
    lists = (catalog, allowed, several, items, int64(items.numel()), offsets, keys, found, numbers)
    _launch("trie_filter_lists", users, lists)
    _launch("trie_filter_offsets", 1, (numbers, int64(users), row_offsets), _OFFSET_THREADS)
    _launch("trie_filter_move", users, (found, offsets, row_offsets, rows))
    return rows, row_offsets


def _launch(kernel: str, blocks: int, given: tuple[object, ...], threads: int = _THREADS) -> None:
    launch(_SOURCE, kernel, (blocks, 1, 1), (threads, 1, 1), 0, given)
