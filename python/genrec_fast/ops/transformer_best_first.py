"""A whole best-first search in one call (contract: ``transformer_best_first``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genrec_fast.base.checks import (
    FLOAT32,
    INT64,
    choice,
    real_number,
    require_room,
    require_tensors,
    sequence,
    whole_number,
)
from genrec_fast.base.errors import InvalidValueError, door
from genrec_fast.ops._registry import define
from genrec_fast.ops._search_call import CATALOG, PROMPTS, check_search, kernel, masks_of
from genrec_fast.ops._transformer_call import direct
from genrec_fast.ops._trie_arguments import require_levels
from genrec_fast.ops.reference.transformer_best_first import transformer_best_first as _twin
from genrec_fast.ops.transformer_pack import PackedStack, require_stack
from genrec_fast.ops.trie_filter import CatalogTrie, TrieFilter


class BestFound(NamedTuple):
    """The best semantic IDs of each of n users, best first; equal scores in no order that is promised.

    ``scores`` float32 ``[n, M]`` (-inf: none); ``rows`` int32 ``[n, M]`` of the trie (-1); ``codes`` int32
    ``[n, M, L]``; ``bound`` float32 ``[n]``: nothing that was not found scores higher; ``expanded`` int64 ``[n]``: rows
    of the network that each user took; ``cut`` bool ``[n]``: more than M rows score as high as the k-th item.
    """

    scores: Tensor
    rows: Tensor
    codes: Tensor
    bound: Tensor
    expanded: Tensor
    cut: Tensor


@door
def transformer_best_first(
    stack: PackedStack,
    hidden: Tensor,
    scores: Tensor,
    offsets: Tensor,
    cache: Tensor,
    trie: CatalogTrie,
    code_tokens: Sequence[Tensor],
    embedding: Tensor,
    *,
    k: int,
    width: int,
    first_user: int = 0,
    last_user: int | None = None,
    budget: int = 2**62,
    least_rows: int = 8,
    share: int = 2,
    normalize: str = "all",
    keep: TrieFilter | None = None,
    embedding_scale: float = 1.0,
    rotary: Tensor | None = None,
    distance: Tensor | None = None,
    cross: Tensor | None = None,
    cross_offsets: Tensor | None = None,
    first_table: Tensor | None = None,
    positions: Tensor | None = None,
) -> BestFound:
    """The best semantic IDs behind each prompt that was read, proven.

    ::

        for each user: open = {the empty prefix}, found = {}
        until for every user the best of open is below the k-th item of found, or the budget is spent:
            each user takes the best of open, as many as max(least_rows, rows taken before // share)
            logits, log_sums = transformer_head(transformer_step(embedding[last codes] ...)), all users in one pass
            children as trie_step scores them; a whole semantic ID goes to found, another prefix to open

    with the errors and the bits of those ops. With "valid" a prefix that leads to one semantic ID is found at once.
    Who has fewer than k items when the budget is spent goes down once more, level by level, with the k best of each.

    Args:
        stack: from ``unpack_stacks``, with a head.
        hidden: float32 ``[B, D]`` of each user's last token.
        scores: float32 ``[B]``: what each user's empty prefix has paid; -inf: nothing is searched.
        offsets: of the prompts, as ``transformer_step`` takes them.
        cache: of the prompts.
        trie: the catalog.
        code_tokens: L tensors int64 ``[K_l]``: the token of each code.
        embedding: float32 ``[V, D]``.
        k: items that are asked for, at least 1. Rows of several items count as many, but without a filter alone.
        width: M, at least k: rows that are returned; more are found where scores are equal (``cut``).
        first_user: the first of the B who is searched.
        last_user: and the one before whom the search ends; ``None``: B.
        budget: rows of the network that each user may take, at least 1.
        least_rows: rows of a user in one round, at least, where he has as many open prefixes.
        share: and at least as many as he took before, divided by this.
        normalize: "all": log-softmax over the vocabulary; "codes": over the codes of the level; "valid": over those
            that the trie and the filter allow.
        keep: which items may appear.
        embedding_scale: of the embeddings' rows.
        rotary: as for ``transformer_step``, for the levels to come.
        distance: as for ``transformer_step``, for the levels to come.
        cross: as for ``transformer_step``.
        cross_offsets: as for ``transformer_step``.
        first_table: of ``transformer_first`` for the embeddings; ``None``: every step makes its own.
        positions: float32 ``[P, D]``, for every place from the prompts' first token on; ``None``: nothing is added.

    Returns:
        ``BestFound``, n rows for the users that were searched.

    Raises:
        InvalidTypeError, InvalidValueError, UnsupportedError: as the ops it stands for.

    Notes:
        Rows of the network: those prefixes that score as high as the k-th item, and a share of others since several
        are taken at once. Users do not wait for each other, and none depends on who else is searched. Python's lock is
        free throughout. The same bits for any number of threads. Not differentiable.

    Source: best-first search with an admissible bound (Hart, Nilsson, Raphael 1968, A*); in rounds over users: ours.
    """
    op = "transformer_best_first"
    require_stack(op, stack)
    require_levels(op, trie)
    code_tokens = sequence(op, "code_tokens", code_tokens)
    tables = {"rotary": rotary, "distance": distance, "cross": cross, "first_table": first_table}
    given = {"hidden": hidden, "scores": scores, "offsets": offsets, "cache": cache, "embedding": embedding}
    others = {"cross_offsets": cross_offsets, "positions": positions}
    check_search(op, stack, trie, code_tokens, (), {**given, **tables, **others})
    count = offsets.numel() - 1
    k = whole_number(op, "k", k, 1, 2**31 - 1)
    width = whole_number(op, "width", width, k, 2**31 - 1)
    first = whole_number(op, "first_user", first_user, *INT64)
    last = count if last_user is None else whole_number(op, "last_user", last_user, *INT64)
    if not 0 <= first <= last <= count:
        raise InvalidValueError(
            f"{op}: first_user and last_user must be a range of {count} users, got {first} to {last}"
        )
    budget = whole_number(op, "budget", budget, 1, 2**62)
    least_rows, share = whole_number(op, "least_rows", least_rows), whole_number(op, "share", share)
    choice(op, "normalize", normalize, ("all", "codes", "valid"))
    scale = real_number(op, "embedding_scale", embedding_scale, FLOAT32)
    masks = masks_of(op, trie, keep, count)
    leaves = {"leaf_items": trie.leaf_items, "leaf_bases": trie.leaf_bases, "leaf_deltas": trie.leaf_deltas}
    require_tensors(op, stack.weights.device, **leaves)
    shared = keep is None and trie.leaf_items.numel() != trie.num_rows  # of a filtered row one item may be left
    require_room(op, "codes", (last - first, width, len(trie.codebook_sizes)), 4)
    return BestFound(
        *_search(
            stack.weights,
            hidden,
            scores,
            offsets,
            cache,
            rotary,
            distance,
            cross,
            cross_offsets,
            first_table,
            list(code_tokens),
            embedding,
            positions,
            list(trie.tokens),
            list(trie.child_bases),
            list(trie.child_deltas),
            *masks,
            scale,
            stack.number,
            trie.leaf_bases if shared else None,
            trie.leaf_deltas if shared else None,
            k,
            width,
            first,
            last,
            budget,
            least_rows,
            share,
            normalize == "valid",
            normalize == "codes",
        )
    )


def _outputs(scores: Tensor, tokens: Sequence[Tensor], width: int, first_user: int, last_user: int) -> Any:
    users = last_user - first_user
    return (
        scores.new_empty(users, width),
        scores.new_empty(users, width, dtype=torch.int32),
        scores.new_empty(users, width, len(tokens), dtype=torch.int32),
        scores.new_empty(users),
        scores.new_empty(users, dtype=torch.int64),
        scores.new_empty(users, dtype=torch.bool),
    )


_ARGUMENTS = (
    f"{PROMPTS}, {CATALOG}, Tensor? leaf_bases, Tensor? leaf_deltas, int k, int width, int first_user, int last_user,"
    " int budget, int least_rows, int share, bool valid_only, bool own_codes"
)
_FOUND = ("found_scores", "rows", "codes", "bound", "expanded", "cut")
_cpu = kernel("transformer_best_first", _ARGUMENTS, _outputs, _FOUND, unread=("width",))
_search = direct(
    _cpu,
    define(
        f"transformer_best_first({_ARGUMENTS})"
        " -> (Tensor scores, Tensor rows, Tensor codes, Tensor bound, Tensor expanded, Tensor cut)",
        kernels={"cpu": _cpu},
        twin=_twin,
        fake=_outputs,
    ),
)
