"""Items written as codes on a card: ``csrc/cuda/topk_code_sums.cuh`` and ``graph_step.cuh``. Nothing is read back."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_fast.ops import _cuda
from genrec_fast.ops._filters import lengthened

_THREADS = 256
_BASES = 512  # of a launch that writes where levels begin
_STAGED_BYTES = 64 << 10  # of users' scores in a block's shared memory at most
_USERS = (4, 2, 1)  # that a block may score side by side
_BLOCKS, _PART_ITEMS = 512, 2048  # that share a card, and that a part has at least
_ROUND = 1024  # items between two looks at a buffer: scan_rounds * scan_threads of topk_code_sums.cuh
_MANY_KEYS, _MANY_THREADS = 4096, 1024  # from so many on, so many threads look for a user's best
_MOST_SLOTS = 31  # log2

_POINTER, _LONG, _INT = ctypes.c_void_p, ctypes.c_longlong, ctypes.c_int


class _CodeSums(ctypes.Structure):
    """``CodeSums`` of ``csrc/cuda/code_sums.cuh``."""

    _fields_ = (
        *((name, _POINTER) for name in ("logprobs", "item_codes", "bases")),
        *((name, _LONG) for name in ("users", "width", "num_items")),
        *((name, _INT) for name in ("num_levels", "wide")),
    )


class _Bases(ctypes.Structure):
    _fields_ = (("at", _INT * _BASES),)


class _TopkCodeSums(ctypes.Structure):
    """``TopkCodeSums`` of ``csrc/cuda/topk_code_sums.cuh``."""

    _fields_ = (
        ("sums", _CodeSums),
        *((name, _POINTER) for name in ("allowed", "exclude_offsets", "exclude")),
        *((name, _LONG) for name in ("allowed_stride", "k", "parts", "capacity")),
        *((name, _POINTER) for name in ("buffers", "found", "sorted", "wrong")),
    )


class _GraphStep(ctypes.Structure):
    """``GraphStep`` of ``csrc/cuda/graph_step.cuh``."""

    _fields_ = (
        ("sums", _CodeSums),
        *((name, _POINTER) for name in ("neighbours", "items")),
        *((name, _LONG) for name in ("num_edges", "num_from", "num_beams", "capacity")),
        *((name, _INT) for name in ("chunks", "log_slots")),
        *((name, _POINTER) for name in ("slots", "keys", "counts", "wrong", "sorted")),
    )


def fill_bases(bases: Tensor, sizes: Sequence[int]) -> None:
    """Where levels of these sizes begin, and the last ends, into int32 ``[L + 1]``; a graph of launches can hold it."""
    ends = list(itertools.accumulate(sizes, initial=0))
    for first in range(0, len(ends), _BASES):
        some = ends[first : first + _BASES]
        held, numbers = _Bases((_INT * _BASES)(*some)), (_cuda.int32(first), _cuda.int32(len(some)))
        _launch("topk_code_sums", "topk_code_sums_bases", 1, _THREADS, (held, *numbers, bases))


def _code_sums(logprobs: Tensor, item_codes: Tensor, bases: Tensor, sizes: Sequence[int]) -> _CodeSums:
    """Both contiguous; ``bases`` int32 ``[L + 1]`` is filled. They must outlive the kernels' start."""
    fill_bases(bases, sizes)
    levels = len(sizes)
    wide = item_codes.dtype == torch.uint8 and levels % 16 == 0 and item_codes.data_ptr() % 16 == 0
    addresses = (logprobs.data_ptr(), item_codes.data_ptr(), bases.data_ptr())
    return _CodeSums(*addresses, *logprobs.shape, item_codes.shape[0], levels, wide)


def topk_code_sums(
    logprobs: Tensor,
    item_codes: Tensor,
    k: int,
    codebook_sizes: Sequence[int],
    allowed: Tensor | None,
    exclude_ids: Tensor | None,
    exclude_offsets: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See ``ops.topk_code_sums``.

    Memory: for each block that scores for a user (512 for all, one at least) 8 (3 k + 1024) bytes at most.
    """
    logprobs, item_codes = logprobs.contiguous(), item_codes.contiguous()
    (count, width), num_items = logprobs.shape, item_codes.shape[0]
    kept = max(1, min(k, num_items))
    scores, ids = logprobs.new_empty(count, kept), logprobs.new_empty((count, kept), dtype=torch.int64)
    if count == 0 or num_items == 0:
        return logprobs.new_full((count, k), -torch.inf), ids.new_full((count, k), -1)
    staged = [users for users in _USERS if 4 * width * users <= _STAGED_BYTES and users < 2 * count]
    users = staged[0] if staged else 1
    groups = -(-count // users)
    parts = max(1, min(_BLOCKS // groups, num_items // _PART_ITEMS))
    capacity = min(2 * kept + _ROUND, -(-num_items // parts))
    allowed, exclude_ids = (None if part is None else part.contiguous() for part in (allowed, exclude_ids))
    bases = torch.empty(len(codebook_sizes) + 1, dtype=torch.int32, device=logprobs.device)
    made = (
        ids.new_empty(count, parts, capacity),
        ids.new_empty(count, parts, kept),
        torch.empty_like(ids),
        bases.new_zeros(count + 1),
    )
    search = _TopkCodeSums(
        _code_sums(logprobs, item_codes, bases, codebook_sizes),
        *(None if part is None else part.data_ptr() for part in (allowed, exclude_offsets, exclude_ids)),
        *(num_items if allowed is not None and len(allowed) > 1 else 0, kept, parts, capacity),
        *(part.data_ptr() for part in made),
    )
    kernel = f"topk_code_sums_scan_{_name(item_codes)}_{users if staged else 'far'}"
    shared = 4 * width * users if staged else 0
    _launch("topk_code_sums", kernel, groups * parts, _THREADS, (search, logprobs), shared)
    _launch("topk_code_sums", "topk_code_sums_best", count, _threads(parts * kept), (search, scores, ids))
    return lengthened(scores, ids, k)


def graph_step(
    logprobs: Tensor,
    item_codes: Tensor,
    neighbours: Tensor,
    items: Tensor,
    num_beams: int,
    codebook_sizes: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``ops.graph_step``.

    Memory: at most 24 bytes a user and neighbour, or item where these are fewer.
    """
    logprobs, item_codes = logprobs.contiguous(), item_codes.contiguous()
    neighbours, items = neighbours.contiguous(), items.contiguous()
    count, num_items, edges, stands = logprobs.shape[0], item_codes.shape[0], neighbours.shape[1], items.shape[1]
    kept = max(1, min(num_beams, num_items))
    reached, scores = items.new_empty(count, kept), logprobs.new_empty(count, kept)
    num_seen = items.new_empty(count)
    capacity = max(1, min(stands * edges, num_items))
    log_slots = min(_MOST_SLOTS, (2 * capacity).bit_length())
    chunks = max(1, -(-stands * edges // _THREADS))
    bases = items.new_empty(len(codebook_sizes) + 1)
    made = (
        items.new_full((count, 1 << log_slots), -1),
        items.new_empty((count, capacity), dtype=torch.int64),
        items.new_zeros(count),
        items.new_zeros(count),
        items.new_empty((count, kept), dtype=torch.int64),
    )
    step = _GraphStep(
        _code_sums(logprobs, item_codes, bases, codebook_sizes),
        *(neighbours.data_ptr(), items.data_ptr(), edges, stands, kept, capacity, chunks, log_slots),
        *(part.data_ptr() for part in made),
    )
    _launch("graph_step", f"graph_step_gather_{_name(item_codes)}", count * chunks, _THREADS, (step, logprobs))
    _launch("graph_step", "graph_step_best", count, _threads(capacity), (step, reached, scores, num_seen))
    scores, reached = lengthened(scores, reached, num_beams)
    return reached, scores, num_seen


def _name(item_codes: Tensor) -> str:
    return "uint8" if item_codes.dtype == torch.uint8 else "int32"


def _threads(keys: int) -> int:
    return _MANY_THREADS if keys >= _MANY_KEYS else _THREADS


def _launch(source: str, kernel: str, blocks: int, threads: int, arguments: _cuda.Arguments, shared: int = 0) -> None:
    _cuda.launch(source, kernel, (blocks, 1, 1), (threads, 1, 1), shared, arguments)
