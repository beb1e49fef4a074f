"""From the rows a search kept to the items a user is shown."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from genrec_fast.base.best_of import best_of
from genrec_fast.base.jagged import Jagged
from genrec_fast.ops import _cuda, _cuda_expand_rows
from genrec_fast.ops._registry import define
from genrec_fast.ops.reference.expand_rows import expand_rows as _twin
from genrec_fast.ops.trie_filter import CatalogTrie, TrieFilter
from genrec_fast.ops.trie_offsets import children_of

__all__ = ["expand_rows"]


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

    Order: higher score (or rank) first, then lower item id.

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
        O(E log E) for E items of the kept rows; a few calls on ``[B, W]`` where every row has one item. On a card two
        launches, whose memory does not depend on E.
    """
    by = scores if ranks is None else ranks
    if not hasattr(trie, "leaf_items"):  # one whose items have changed since it was built
        return _sorted(rows, codes, scores, by, k, trie.items, None if keep is None else keep.keeps)
    one_each = trie.num_items == trie.num_rows  # a search with a filter found no other rows
    allowed, exclude = (None, None) if keep is None or one_each else (keep.allowed, keep.exclude)
    lists = (None, None) if exclude is None else (exclude.values, exclude.offsets)
    on_card = _cuda.emulates() or (rows.is_cuda and _cuda.can_launch())
    leaves = (trie.leaf_bases, trie.leaf_deltas, trie.leaf_items)
    found: tuple[Tensor, Tensor, Tensor] = (_op if on_card else _plain)(
        rows, codes, scores, by, *leaves, k, allowed, *lists
    )
    return found


def _plain(
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
    """Torch on any device, all users at once."""
    num_items, num_rows = leaf_items.shape[0], leaf_deltas.shape[0] - 1
    if num_items == num_rows and allowed is None and exclude_ids is None:
        return _one_each(leaf_items, rows, codes, scores, k, ranks)

    def items(row: Tensor) -> Jagged:
        begin, end, (_, at) = children_of("leaf", leaf_bases, leaf_deltas, row, num_items)
        return Jagged.from_lengths(leaf_items[at].to(torch.int64), end - begin)

    keeps = None
    if allowed is not None or exclude_ids is not None:
        lists = None
        if exclude_ids is not None and exclude_offsets is not None:
            lists = Jagged(exclude_ids, exclude_offsets)
        keeps = TrieFilter(None, None, None, None, allowed, lists, num_rows, leaf_items).keeps
    return _sorted(rows, codes, scores, ranks, k, items, keeps)


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


def _one_each(
    leaf_items: Tensor, rows: Tensor, codes: Tensor, scores: Tensor, k: int, ranks: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    live = rows >= 0
    item = leaf_items[rows.clamp(min=0).long()].long()
    # In order, and no ties to break; a look at a card would wait for it.
    if rows.is_cpu and not bool((live[:, 1:] & (ranks[:, 1:] >= ranks[:, :-1])).any()):
        shown, live = slice(None, k), live[:, :k]
        items, found = item[:, shown].where(live, -1), codes[:, shown].where(live.unsqueeze(2), -1)
        return _padded(items, found, scores[:, shown].where(live, -torch.inf), k)
    item = item.where(live, torch.iinfo(torch.int64).max)
    item, order = item.sort(1)  # dead beams last, no item twice
    again = ranks.where(live, -torch.inf).gather(1, order).argsort(dim=1, descending=True, stable=True)[:, :k]
    order = order.gather(1, again)
    items = item.gather(1, again).where(live.gather(1, order), -1)
    best = scores.gather(1, order).where(items >= 0, -torch.inf)
    found = codes.gather(1, order.unsqueeze(2).expand(-1, -1, codes.shape[2])).where((items >= 0).unsqueeze(2), -1)
    return _padded(items, found, best, k)


def _padded(items: Tensor, codes: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    if (missing := k - items.shape[1]) > 0:
        items = functional.pad(items, (0, missing), value=-1)
        codes = functional.pad(codes, (0, 0, 0, missing), value=-1)
        scores = functional.pad(scores, (0, missing), value=-torch.inf)
    return items, codes, scores


def _fake(rows: Tensor, codes: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    shape = (rows.shape[0], k)
    return rows.new_empty(shape, dtype=torch.int64), codes.new_empty(*shape, codes.shape[2]), scores.new_empty(shape)


_op = define(
    "expand_rows(Tensor rows, Tensor codes, Tensor scores, Tensor ranks, Tensor leaf_bases, Tensor leaf_deltas,"
    " Tensor leaf_items, int k, Tensor? allowed, Tensor? exclude_ids, Tensor? exclude_offsets)"
    " -> (Tensor items, Tensor item_codes, Tensor item_scores)",
    kernels={"cpu": _plain, "cuda": _cuda_expand_rows.expand_rows},
    twin=_twin,
    fake=_fake,
)
