"""From the rows a search kept to the items a user is shown."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from genrec_fast.base.best_of import best_of
from genrec_fast.base.checks import require_room
from genrec_fast.base.jagged import Jagged
from genrec_fast.ops import _cuda, _cuda_expand_rows
from genrec_fast.ops._registry import core, define
from genrec_fast.ops.reference.expand_rows import expand_rows as _twin
from genrec_fast.ops.trie_filter import CatalogTrie, TrieFilter


def expand_rows(
    trie: CatalogTrie,
    rows: Tensor,
    codes: Tensor,
    scores: Tensor,
    k: int,
    keep: TrieFilter | None,
    ranks: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gives every item of every row the row's score, drops what the filter drops, and keeps the best k per user.

    Order: higher score (or rank) first, then lower item id. Tries that items were appended to, and devices without a
    kernel, take torch.

    Args:
        trie: the catalog.
        rows: int32 ``[B, W]``: rows of the trie, -1 = none; no row twice per user.
        codes: int32 ``[B, W, L]``: their semantic IDs.
        scores: float32 ``[B, W]``; -inf, as of ranks, where there is no row.
        k: items per user.
        keep: the filter of the search, which left out rows without an item that passes.
        ranks: float32 or float64 ``[B, W]``: what items are ordered by, the largest first; ``None``: the scores.

    Returns:
        items int64 ``[B, k]`` (-1 behind the last), codes int32 ``[B, k, L]`` (-1), scores float32 ``[B, k]`` (-inf).

    Notes:
        The items of rows that can still be among the k best, and their order: a few microseconds for one user's 50
        beams. On a card two launches, whose memory does not depend on the number of items.
    """
    by = scores if ranks is None else ranks
    built = hasattr(trie, "leaf_items")  # not one whose items have changed since
    on_card = _cuda.emulates() or (rows.is_cuda and _cuda.can_launch())
    if built and trie.num_items == trie.num_rows:
        keep = None  # a search with a filter found no other rows
    if not built or not (rows.is_cpu or on_card):
        return _sorted(rows, codes, scores, by, k, trie.items, None if keep is None else keep.keeps)
    allowed, exclude = (None, None) if keep is None else (keep.allowed, keep.exclude)
    lists = (None, None) if exclude is None else (exclude.values, exclude.offsets)
    leaves = (trie.leaf_bases, trie.leaf_deltas, trie.leaf_items)
    # The way through the dispatcher costs 5 us: plain CPU tensors take the direct one.
    direct = not (on_card or torch.compiler.is_compiling())
    found: tuple[Tensor, Tensor, Tensor] = (_cpu if direct else _op)(
        rows, codes, scores, by, *leaves, k, allowed, *lists
    )
    return found


def _cpu(
    rows: Tensor,
    codes: Tensor,
    scores: Tensor,
    ranks: Tensor,
    leaf_bases: Tensor,
    leaf_deltas: Tensor,
    leaf_items: Tensor,
    k: int,
    allowed: Tensor | None,
    exclude_ids: Tensor | None,
    exclude_offsets: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    require_room("expand_rows", "items", (rows.shape[0], k, codes.shape[2] + 3))
    out = _fake(rows, codes, scores, k)
    core.expand_rows(
        rows=rows,
        codes=codes,
        scores=scores,
        ranks=ranks,
        leaf_bases=leaf_bases,
        leaf_deltas=leaf_deltas,
        leaf_items=leaf_items,
        allowed=allowed,
        exclude_ids=exclude_ids,
        exclude_offsets=exclude_offsets,
        items=out[0],
        found_codes=out[1],
        found_scores=out[2],
        num_threads=torch.get_num_threads(),
    )
    return out


def _sorted(
    rows: Tensor,
    codes: Tensor,
    scores: Tensor,
    ranks: Tensor,
    k: int,
    items_of: Callable[[Tensor], Jagged],
    keeps: Callable[[Tensor, Tensor], Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    users = rows.shape[0]
    user, beam = (rows >= 0).nonzero(as_tuple=True)
    found = items_of(rows[user, beam].long())
    item, source = found.values, found.row_index()
    if keeps is not None:
        kept = keeps(user[source], item)
        item, source = item[kept], source[kept]

    items, _, at = best_of(users, user[source], item, ranks[user, beam][source], k)
    owner, place = (at >= 0).nonzero(as_tuple=True)
    from_beam = beam[source[at[owner, place]]]
    out_codes = codes.new_full((users, k, codes.shape[2]), -1)
    out_scores = scores.new_full((users, k), -torch.inf)
    out_codes[owner, place], out_scores[owner, place] = codes[owner, from_beam], scores[owner, from_beam]
    return items, out_codes, out_scores


def _fake(rows: Tensor, codes: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    shape = (rows.shape[0], k)
    return rows.new_empty(shape, dtype=torch.int64), codes.new_empty(*shape, codes.shape[2]), scores.new_empty(shape)


_op = define(
    "expand_rows(Tensor rows, Tensor codes, Tensor scores, Tensor ranks, Tensor leaf_bases, Tensor leaf_deltas,"
    " Tensor leaf_items, int k, Tensor? allowed, Tensor? exclude_ids, Tensor? exclude_offsets)"
    " -> (Tensor items, Tensor item_codes, Tensor item_scores)",
    kernels={"cpu": _cpu, "cuda": _cuda_expand_rows.expand_rows},
    twin=_twin,
    fake=_fake,
)
