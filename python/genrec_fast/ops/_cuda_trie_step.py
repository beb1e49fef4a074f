"""trie_step on a card: the four kernels of ``csrc/cuda/trie_step.cuh``, on how many blocks and in what memory.

Nothing is read back: how many children are gathered is bounded by shapes alone, and memory is taken for that many.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_fast.base.checks import require_room
from genrec_fast.base.errors import InvalidTypeError
from genrec_fast.ops._cuda import launch
from genrec_fast.ops._cuda_trie import CardFilter, CardTrie, card_filter, card_trie

_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
_BATCH = 8  # logits of a thread before a block adds up what it made: sum_batch of csrc/cuda/log_sum_exp.cuh
_BEAM_THREADS = (32, 256)  # of a block that reads a beam's logits: the fewest and the most
_GROUPS = 32  # of a beam at least: the fewer children a group has, the fewer are gathered in vain
_GROUPS_KEPT = 8  # groups of a user for each child that is kept: so few groups hold two of them
_FLOOR_THREADS = (256, 1024)
_FLOOR_KEYS = 2048  # of a user, up to which the fewer threads are enough
_ORDER_THREADS = 128
_DIRECT = 2048  # gathered children that are ordered without a cut, whatever is kept

_POINTER, _LONG, _INT, _WORD = ctypes.c_void_p, ctypes.c_longlong, ctypes.c_int, ctypes.c_uint


class _TrieStep(ctypes.Structure):
    """``TrieStep`` of ``csrc/cuda/trie_step.cuh``."""

    _fields_ = (
        ("trie", CardTrie),
        ("filter", CardFilter),
        ("logits", _POINTER),
        *((name, _LONG) for name in ("user_stride", "beam_stride", "users", "beams", "codes")),
        *((name, _POINTER) for name in ("nodes", "scores", "log_sums")),
        *((name, _INT) for name in ("valid_only", "groups")),
        *(("num_beams", _LONG), ("keep", _WORD), ("room", _WORD)),
        *((name, _POINTER) for name in ("highest", "keys", "edges")),
        *(("capacity", _LONG), ("direct", _LONG), ("parts", _INT)),
        *((name, _POINTER) for name in ("out_scores", "out_codes", "out_parents", "out_nodes", "out_bound")),
    )


def trie_step_on_card(
    logits: Tensor,
    nodes: Tensor,
    scores: Tensor,
    tokens: Sequence[Tensor],
    child_bases: Sequence[Tensor],
    child_deltas: Sequence[Tensor],
    num_beams: int,
    valid_only: bool,
    log_sums: Tensor | None,
    bits: Tensor | None,
    ranks: Tensor | None,
    excluded: Tensor | None,
    excluded_offsets: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As ``genrec_fast::trie_step``.

    Raises:
        InvalidTypeError: a tensor of another dtype than the op takes.
        InvalidValueError: tensors of the trie or the filter that do not fit together.
        UnsupportedError: not enough memory for num_beams.
    """
    if logits.dtype not in _NAMES or nodes.dtype != torch.int32 or scores.dtype != torch.float32:
        raise InvalidTypeError(
            "trie_step: logits must be float32, bfloat16 or float16, nodes int32 and scores float32, "
            f"got {logits.dtype}, {nodes.dtype} and {scores.dtype}"
        )
    users, beams, codes = logits.shape
    require_room("trie_step", "nodes", (4, users, num_beams))
    best, bound = scores.new_empty(users, num_beams), scores.new_empty(users)
    chosen, parents, reached = (nodes.new_empty(users, num_beams) for _ in range(3))
    masks = (bits, ranks, excluded, excluded_offsets)
    trie = card_trie("trie_step", tokens, child_bases, child_deltas)
    row_filter = card_filter("trie_step", masks, tokens[-1].numel(), users)
    if users == 0:
        return best, chosen, parents, reached, bound
    if beams == 0:
        best.fill_(-torch.inf), bound.fill_(-torch.inf), reached.fill_(-1)
        return best, chosen.zero_(), parents.zero_(), reached, bound

    logits = logits if logits.stride(2) == 1 or codes == 1 else logits.contiguous()
    nodes, scores = nodes.contiguous(), scores.contiguous()
    log_sums = None if log_sums is None else log_sums.contiguous()
    keep = min(num_beams, beams * codes) + 1
    room = keep // 4
    threads = min(max(_power_of_two(codes) // _BATCH, _BEAM_THREADS[0]), _BEAM_THREADS[1])
    groups = _num_groups(beams, codes, keep)
    capacity = min((keep + room) * _group_size(groups, threads, codes), beams * codes)
    direct = max(_DIRECT, 2 * keep)
    parts = -(-min(direct, max(capacity, min(num_beams, direct))) // _ORDER_THREADS)
    highest = torch.empty(users, beams * groups, dtype=torch.int64, device=logits.device)
    normalisers, searches = torch.empty_like(scores), highest.new_empty(users, 3)
    keys, edges = highest.new_empty(users, capacity), nodes.new_empty(users, capacity)
    step = _TrieStep(
        trie=trie,
        filter=row_filter,
        logits=logits.data_ptr(),
        user_stride=logits.stride(0),
        beam_stride=logits.stride(1),
        users=users,
        beams=beams,
        codes=codes,
        nodes=nodes.data_ptr(),
        scores=scores.data_ptr(),
        log_sums=None if log_sums is None else log_sums.data_ptr(),
        valid_only=valid_only,
        groups=groups,
        num_beams=num_beams,
        keep=keep,
        room=room,
        highest=highest.data_ptr(),
        keys=keys.data_ptr(),
        edges=edges.data_ptr(),
        capacity=capacity,
        direct=direct,
        parts=parts,
        out_scores=best.data_ptr(),
        out_codes=chosen.data_ptr(),
        out_parents=parents.data_ptr(),
        out_nodes=reached.data_ptr(),
        out_bound=bound.data_ptr(),
    )
    name = _NAMES[logits.dtype]
    every_beam, shared = (users * beams, 1, 1), 2 * _BATCH * threads * 4
    floor_threads = _FLOOR_THREADS[beams * groups > _FLOOR_KEYS]
    launch("trie_step", f"trie_step_rows_{name}", every_beam, (threads, 1, 1), shared, (step, normalisers))
    given = (step, normalisers, searches)
    launch("trie_step", "trie_step_floor", (users, 1, 1), (floor_threads, 1, 1), 0, given)
    launch("trie_step", f"trie_step_gather_{name}", every_beam, (threads, 1, 1), 0, given)
    launch("trie_step", "trie_step_order", (users * parts, 1, 1), (_ORDER_THREADS, 1, 1), 0, (step, searches))
    return best, chosen, parents, reached, bound


def _power_of_two(number: int) -> int:
    """The least one that is not below ``number``."""
    return 1 << (number - 1).bit_length()


def _num_groups(beams: int, codes: int, keep: int) -> int:
    """Of a beam's children: at least ``_GROUPS``, and ``_GROUPS_KEPT * keep`` of all beams, if there are such many."""
    groups = min(_GROUPS, _power_of_two(codes))
    while groups * beams < _GROUPS_KEPT * keep and groups < codes:
        groups *= 2
    return groups


def _group_size(groups: int, threads: int, codes: int) -> int:
    """The most children of one group."""
    return -(-codes // groups) if groups >= threads else threads // groups * -(-codes // threads)
