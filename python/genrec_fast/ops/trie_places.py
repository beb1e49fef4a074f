"""Where the nodes of a small trie stand among those of a large one (contract: ``trie_places``)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidValueError, door
from genrec_fast.base.protocols import TrieTensors
from genrec_fast.ops import _cuda
from genrec_fast.ops._cuda_trie import card_trie
from genrec_fast.ops._registry import core, define
from genrec_fast.ops._trie_arguments import require_levels
from genrec_fast.ops.reference.trie_places import trie_places as _twin

_THREADS = 256  # of a block on a card
_MOST_LANES = 10  # log2 of the threads that share a node there


class TriePlaces(NamedTuple):
    """Per level l, for each edge of the added trie, which is a node of level l + 1.

    ``before`` int32: the nodes of the base at that level that stand before its prefix; ``shared`` bool: whether the
    next of them is that prefix.
    """

    before: tuple[Tensor, ...]
    shared: tuple[Tensor, ...]


@door
def trie_places(base: TrieTensors, added: TrieTensors) -> TriePlaces:
    """Finds each prefix of ``added`` in ``base``, or the place where it would stand.

    A trie's nodes are numbered in sorted order. So with e new prefixes before it, node ``before`` of the base is number
    ``before + e`` in the trie of both: what the base needs to be numbered anew is a short list per level.

    Args:
        base: any trie.
        added: a trie of the same codebook sizes, on the same device; much smaller, for this to be worth it.

    Returns:
        ``TriePlaces``.

    Raises:
        InvalidTypeError: no tries.
        InvalidValueError: their codebook sizes or devices differ, or tensors that do not fit together.

    Notes:
        O(M log K) for M nodes of ``added``, one thread (on a card one for each of them, in a launch a level), whatever
        the size of the base: 40,000 of 20M items took milliseconds on the CPU (docs/benchmarks.md). Deterministic. Not
        differentiable.

    Source:
        Ours.

    Example:
        >>> import genrec_fast as gf
        >>> found = gf.ops.trie_places(gf.build_trie([[0], [2], [3]]), gf.build_trie([[1], [2], [3]]))
        >>> found.before[0].tolist(), found.shared[0].tolist()
        ([1, 1, 2], [False, True, True])
    """
    sizes = require_levels("trie_places", base)
    if require_levels("trie_places", added) != sizes:
        raise InvalidValueError(
            f"trie_places: added must have the base's codebook sizes {tuple(sizes)}, got {tuple(added.codebook_sizes)}"
        )
    device = base.tokens[0].device
    if added.tokens[0].device != device:
        raise InvalidValueError(f"trie_places: added must be on {device} like base, got {added.tokens[0].device}")
    parts = (part for trie in (base, added) for part in (trie.tokens, trie.child_bases, trie.child_deltas))
    before, shared = _op(*map(list, parts), sizes)
    return TriePlaces(tuple(before), tuple(shared))


def _empty(added_tokens: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    before = [tokens.new_empty(tokens.shape, dtype=torch.int32) for tokens in added_tokens]
    return before, [tokens.new_empty(tokens.shape, dtype=torch.bool) for tokens in added_tokens]


def _cpu(
    tokens: list[Tensor],
    child_bases: list[Tensor],
    child_deltas: list[Tensor],
    added_tokens: list[Tensor],
    added_bases: list[Tensor],
    added_deltas: list[Tensor],
    codebook_sizes: list[int],
) -> tuple[list[Tensor], list[Tensor]]:
    before, shared = _empty(added_tokens)
    core.trie_places(
        tokens=tokens,
        child_bases=child_bases,
        child_deltas=child_deltas,
        added_tokens=added_tokens,
        added_bases=added_bases,
        added_deltas=added_deltas,
        codebook_sizes=codebook_sizes,
        before=before,
        shared=shared,
    )
    return before, shared


def _card(
    tokens: list[Tensor],
    child_bases: list[Tensor],
    child_deltas: list[Tensor],
    added_tokens: list[Tensor],
    added_bases: list[Tensor],
    added_deltas: list[Tensor],
    codebook_sizes: list[int],
) -> tuple[list[Tensor], list[Tensor]]:
    base = card_trie("trie_places", tokens, child_bases, child_deltas)
    added = card_trie("trie_places", added_tokens, added_bases, added_deltas)
    before, shared = _empty(added_tokens)
    parents: tuple[Tensor | None, Tensor | None] = (None, None)
    for level, places in enumerate(zip(before, shared, strict=True)):
        for part in places:
            part.zero_()
        nodes = added_deltas[level].numel() - 1
        log_lanes = min(_MOST_LANES, max(0, places[0].numel() // nodes - 1).bit_length())
        blocks = -(-(nodes << log_lanes) // _THREADS)
        numbers = _cuda.int32(level), _cuda.int32(log_lanes)
        arguments = (base, added, *numbers, *parents, *places)
        _cuda.launch("trie_places", "trie_places", (blocks, 1, 1), (_THREADS, 1, 1), 0, arguments)
        parents = places
    return before, shared


_op = define(
    "trie_places(Tensor[] tokens, Tensor[] child_bases, Tensor[] child_deltas, Tensor[] added_tokens,"
    " Tensor[] added_bases, Tensor[] added_deltas, int[] codebook_sizes) -> (Tensor[] before, Tensor[] shared)",
    kernels={"cpu": _cpu, "cuda": _card},
    twin=_twin,
    fake=_empty,
)
