"""One beam search over the trie, without second thoughts: what ``beam`` repeats and ``greedy`` narrows."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.decoders._expand import expand_rows
from genrec_fast.decoders._users import check_filter
from genrec_fast.errors import InvalidTypeError, InvalidValueError
from genrec_fast.ops.trie_filter import CatalogTrie, trie_filter
from genrec_fast.ops.trie_step import trie_step
from genrec_fast.types import Autoregressive, Batch, Jagged, Ranked

__all__ = ["beam_pass", "check_search"]


def check_search(
    op: str, backbone: object, batch: Batch, trie: CatalogTrie, allowed: Tensor | None, exclude: Jagged | None
) -> None:
    """The parts fit each other.

    Raises:
        InvalidTypeError: the backbone is not ``Autoregressive``, or a filter has the wrong dtype.
        InvalidValueError: codebook sizes or a filter's shape do not fit.
    """
    if not isinstance(backbone, Autoregressive):
        raise InvalidTypeError(f"{op}: backbone must be Autoregressive, got {type(backbone).__name__}")
    if tuple(backbone.codebook_sizes) != tuple(trie.codebook_sizes):
        raise InvalidValueError(
            f"{op}: backbone must have the trie's codebook sizes {tuple(trie.codebook_sizes)}, "
            f"got {tuple(backbone.codebook_sizes)}"
        )
    check_filter(op, len(batch), trie.num_items, allowed, exclude)


def beam_pass(
    backbone: Autoregressive,
    batch: Batch,
    trie: CatalogTrie,
    k: int,
    num_beams: int,
    normalize: str,
    allowed: Tensor | None,
    exclude: Jagged | None,
) -> Ranked:
    """One beam search; arguments are those of ``beam.search``, taken as valid."""
    users, levels = len(batch), len(trie.codebook_sizes)
    device = trie.leaf_items.device
    if users == 0:
        return Ranked(
            torch.empty(0, k, dtype=torch.int64, device=device),
            torch.empty(0, k, levels, dtype=torch.int32, device=device),
            torch.empty(0, k, device=device),
            torch.empty(0, dtype=torch.bool, device=device),
            torch.empty(0, device=device),
        )
    keep = None if allowed is None and exclude is None else trie_filter(trie, allowed=allowed, exclude=exclude)
    state = backbone.prefill(batch)
    nodes = torch.zeros(users, 1, dtype=torch.int32, device=device)
    scores = torch.zeros(users, 1, device=device)
    bound = torch.full((users,), -torch.inf, device=device)
    codes = torch.empty(users, 1, 0, dtype=torch.int32, device=device)
    chosen: Tensor | None = None
    parents: Tensor | None = None
    for level in range(levels):
        logits, state = backbone.step(state, chosen, parents)
        width = min(num_beams, trie.tokens[level].numel())  # there are no more prefixes than that
        scores, chosen, parents, nodes, pruned = trie_step(
            trie, level, logits, nodes, scores, num_beams=width, normalize=normalize, allowed=keep
        )
        bound = torch.maximum(bound, pruned)
        ancestors = codes.gather(1, parents.long().unsqueeze(2).expand(-1, -1, level))
        codes = torch.cat([ancestors, chosen.unsqueeze(2)], 2)
    items, codes, scores = expand_rows(trie, nodes, codes, scores, k, keep)
    return Ranked(items, codes, scores, (scores[:, -1] > bound) | (bound == -torch.inf), bound)
