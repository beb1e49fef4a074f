"""A whole constrained decode in one call (contract: ``transformer_search``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genrec_fast.base.checks import FLOAT32, INT64, choice, real_number, require_room, sequence, whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, door
from genrec_fast.ops._registry import define
from genrec_fast.ops._search_call import CATALOG, PROMPTS, check_search, described, kernel, masks_of
from genrec_fast.ops._transformer_call import direct
from genrec_fast.ops._trie_arguments import require_levels
from genrec_fast.ops.reference.transformer_search import transformer_search as _twin
from genrec_fast.ops.transformer_pack import PackedStack, require_stack
from genrec_fast.ops.trie_filter import CatalogTrie, TrieFilter


class TransformerFound(NamedTuple):
    """Beams behind the last level, best first but for what ``end_token`` changed.

    ``scores`` float32 ``[B, W]`` (-inf: no beam); ``rows`` int32 ``[B, W]`` of the trie (-1); ``codes`` int32 and
    ``tokens`` int64 ``[B, W, L]``; ``bound`` float32 ``[B]``: nothing that was pruned scores higher.
    """

    scores: Tensor
    rows: Tensor
    codes: Tensor
    tokens: Tensor
    bound: Tensor


@door
def transformer_search(
    stack: PackedStack,
    hidden: Tensor,
    scores: Tensor,
    offsets: Tensor,
    cache: Tensor,
    trie: CatalogTrie,
    code_tokens: Sequence[Tensor],
    embedding: Tensor,
    *,
    num_beams: int,
    normalize: str = "all",
    keep: TrieFilter | None = None,
    end_token: int | None = None,
    embedding_scale: float = 1.0,
    chain: Sequence[Tensor] = (),
    ancestors: Tensor | None = None,
    rotary: Tensor | None = None,
    distance: Tensor | None = None,
    cross: Tensor | None = None,
    cross_offsets: Tensor | None = None,
    first_table: Tensor | None = None,
    positions: Tensor | None = None,
) -> TransformerFound:
    """The best semantic IDs behind each prompt that was read.

    ::

        for level: logits, log_sums = transformer_head(...); beams = trie_step(...)
                   rows = embedding[code_tokens[level][codes]] * embedding_scale + positions[place]
                   transformer_step(rows)    # but behind the last

    with the arguments, the errors and the bits of those ops.

    Args:
        stack: from ``unpack_stacks``, with a head.
        hidden: float32 ``[B, D]`` of each user's last token.
        scores: float32 ``[B]``: what each user's beam has paid so far; -inf: no beam.
        offsets: of the prompts, as ``transformer_step`` takes them.
        cache: of the prompts.
        trie: the catalog.
        code_tokens: L tensors int64 ``[K_l]``: the token of each code.
        embedding: float32 ``[V, D]``.
        num_beams: beams kept at every level, at least 1.
        normalize: "all": log-softmax over the vocabulary; "codes": over the codes of the level; "valid": over those
            that the trie and the filter allow.
        keep: which items may appear.
        end_token: paid for behind the last code, with "all".
        embedding_scale: of the embeddings' rows.
        chain: what steps behind the prompts have kept so far.
        ancestors: int32 ``[t, B]`` of them, the last row each beam's own; ``None`` without any.
        rotary: as for ``transformer_step``, for the levels to come.
        distance: as for ``transformer_step``, for the levels to come.
        cross: as for ``transformer_step``.
        cross_offsets: as for ``transformer_step``.
        first_table: of ``transformer_first`` for the embeddings; ``None``: every step makes its own.
        positions: float32 ``[P, D]``, for every place from the prompts' first token on; ``None``: nothing is added.

    Returns:
        ``TransformerFound``, W = num_beams, or fewer where the levels have too few edges for that many.

    Raises:
        InvalidTypeError, InvalidValueError, UnsupportedError: as the ops it stands for.

    Notes:
        Their cost, without the hundred calls of microseconds between them: 0.5 ms of a user's 6. Python's lock is free
        from the first level to the last. The same bits for any number of threads. Not differentiable.

    Source: ours, of ``trie_step`` and ``transformer_step``.
    """
    op = "transformer_search"
    require_stack(op, stack)
    require_levels(op, trie)
    chain, code_tokens = sequence(op, "chain", chain), sequence(op, "code_tokens", code_tokens)
    tables = {"rotary": rotary, "distance": distance, "cross": cross, "first_table": first_table}
    given = {"hidden": hidden, "scores": scores, "offsets": offsets, "cache": cache, "embedding": embedding}
    others = {"ancestors": ancestors, "cross_offsets": cross_offsets, "positions": positions}
    check_search(op, stack, trie, code_tokens, chain, {**given, **tables, **others})
    users = offsets.numel() - 1
    own = torch.empty(0, users, dtype=torch.int32) if ancestors is None else ancestors
    if own.dtype != torch.int32 or own.shape != (len(chain), users):
        raise InvalidTypeError(f"{op}: ancestors must be int32 [{len(chain)}, {users}], got {described(own)}")
    num_beams = whole_number(op, "num_beams", num_beams, 1, 2**31 - 1)
    choice(op, "normalize", normalize, ("all", "codes", "valid"))
    scale = real_number(op, "embedding_scale", embedding_scale, FLOAT32)
    end = -1 if end_token is None else whole_number(op, "end_token", end_token, *INT64)
    if end_token is not None and not 0 <= end < stack.spec.head_size:
        raise InvalidValueError(f"{op}: end_token must be in [0, {stack.spec.head_size}), got {end_token}")
    masks = masks_of(op, trie, keep, users)
    return TransformerFound(
        *_search(
            stack.weights,
            hidden,
            scores,
            offsets,
            cache,
            list(chain),
            own,
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
            num_beams,
            normalize == "valid",
            normalize == "codes",
            end,
        )
    )


def _outputs(scores: Tensor, code_tokens: Sequence[Tensor], tokens: Sequence[Tensor], num_beams: int) -> Any:
    users, levels, width = scores.shape[0], len(code_tokens), 1
    for edges in tokens:
        width = min(num_beams, width * edges.numel())
    require_room("transformer_search", "tokens", (users, width, levels), 8)
    return (
        scores.new_empty(users, width),
        scores.new_empty(users, width, dtype=torch.int32),
        scores.new_empty(users, width, levels, dtype=torch.int32),
        scores.new_empty(users, width, levels, dtype=torch.int64),
        scores.new_empty(users),
    )


_ARGUMENTS = f"{PROMPTS}, Tensor[] chain, Tensor ancestors, {CATALOG}, int num_beams, bool valid_only, bool own_codes"
_ARGUMENTS += ", int end_token"
_FOUND = ("found_scores", "rows", "codes", "found_tokens", "bound")
_cpu = kernel("transformer_search", _ARGUMENTS, _outputs, _FOUND)
_search = direct(
    _cpu,
    define(
        f"transformer_search({_ARGUMENTS}) -> (Tensor scores, Tensor rows, Tensor codes, Tensor tokens, Tensor bound)",
        kernels={"cpu": _cpu},
        twin=_twin,
        fake=_outputs,
    ),
)
