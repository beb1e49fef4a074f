"""The twin of ``ops.transformer_search``: the twins of its parts, level by level."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genrec_fast.ops.reference.transformer_head import transformer_head
from genrec_fast.ops.reference.transformer_step import transformer_step
from genrec_fast.ops.reference.trie_step import trie_step
from genrec_fast.ops.transformer_pack import unpack_stacks


class _Levels(NamedTuple):
    codebook_sizes: tuple[int, ...]
    tokens: tuple[Tensor, ...]
    child_bases: tuple[Tensor, ...]
    child_deltas: tuple[Tensor, ...]


def transformer_search(
    weights: Tensor,
    hidden: Tensor,
    scores: Tensor,
    offsets: Tensor,
    cache: Tensor,
    chain: list[Tensor],
    ancestors: Tensor,
    rotary: Tensor | None,
    distance: Tensor | None,
    cross: Tensor | None,
    cross_offsets: Tensor | None,
    first_table: Tensor | None,
    code_tokens: list[Tensor],
    embedding: Tensor,
    positions: Tensor | None,
    tokens: list[Tensor],
    child_bases: list[Tensor],
    child_deltas: list[Tensor],
    bits: Tensor | None,
    ranks: Tensor | None,
    excluded: Tensor | None,
    excluded_offsets: Tensor | None,
    embedding_scale: float,
    stack: int,
    num_beams: int,
    valid_only: bool,
    own_codes: bool,
    end_token: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Beams as rows ``[B, W]``; ``ancestors`` grow by a step at a time."""
    spec = unpack_stacks(weights)[0][stack].spec
    users, levels = scores.shape[0], len(tokens)
    trie = _Levels(tuple(t.numel() for t in code_tokens), tuple(tokens), tuple(child_bases), tuple(child_deltas))
    scores, bound = scores.unsqueeze(1), scores.new_full((users,), -torch.inf)
    nodes = torch.where(scores > -torch.inf, 0, -1).int()
    codes = torch.empty(users, 1, 0, dtype=torch.int32, device=scores.device)
    written = codes.long()
    chain, stepped = list(chain), 1  # beams of each user at the last step
    sums_wanted = not (valid_only or own_codes)

    def score(of: Tensor) -> tuple[Tensor, Tensor]:
        shape = (users, hidden.shape[0] // users)
        logits, sums = transformer_head(weights, hidden, stack, 0, spec.head_size, sums_wanted)
        return logits[:, of].view(*shape, -1), sums.view(shape) if sums_wanted else scores.new_zeros(shape)

    for level in range(levels):
        logits, sums = score(code_tokens[level])
        width = min(num_beams, nodes.shape[1] * tokens[level].numel())
        filters = (bits, ranks, excluded, excluded_offsets, sums if sums_wanted else None)
        scores, chosen, parents, nodes, pruned = trie_step(
            trie, level, logits, nodes, scores, width, valid_only, *filters
        )
        bound, parents = torch.maximum(bound, pruned), parents.long()
        token = code_tokens[level][chosen.long()]
        past = parents.unsqueeze(2).expand(-1, -1, level)
        codes = torch.cat([codes.gather(1, past), chosen.unsqueeze(2)], 2)
        written = torch.cat([written.gather(1, past), token.unsqueeze(2)], 2)
        pays_end = end_token >= 0 and sums_wanted
        if level + 1 == levels and not pays_end:
            break
        flat = (parents + torch.arange(users, device=parents.device).unsqueeze(1) * stepped).flatten()
        ancestors = ancestors[:, flat].contiguous()
        rows = embedding[token.flatten()] * embedding_scale
        if positions is not None:
            rows = rows + positions[(offsets.diff() + len(chain)).repeat_interleave(width)]
        known = (first_table, None if first_table is None else token.flatten())
        tables = (rotary, distance, cross, cross_offsets)
        sizes = (stack, spec.num_layers, spec.kept)
        hidden, kept = transformer_step(weights, rows, offsets, cache, chain, ancestors, None, *tables, *known, *sizes)
        chain.append(kept)
        own = torch.arange(rows.shape[0], dtype=torch.int32, device=rows.device)
        ancestors, stepped = torch.cat([ancestors, own.unsqueeze(0)]), width
        if level + 1 == levels:
            logits, sums = score(torch.tensor([end_token], device=scores.device))
            scores = torch.where(nodes >= 0, scores + (logits[..., 0] - sums), -torch.inf)
    return scores, nodes, codes, written, bound
