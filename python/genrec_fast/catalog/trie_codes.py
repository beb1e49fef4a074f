"""Codes read back from a trie: those that may follow a node, and the semantic ID of each item."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.base.checks import INT64, require_room, require_tensors, whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.ops.trie_filter import CatalogTrie
from genrec_fast.ops.trie_offsets import children_of, require_whole, unpack_offsets


def valid_codes(trie: CatalogTrie, level: int, nodes: Tensor) -> Tensor:
    """See ``Trie.valid_codes``."""
    level = whole_number("Trie.valid_codes", "level", level, *INT64)
    require_tensors("Trie.valid_codes", trie.leaf_items.device, nodes=nodes)
    if nodes.dtype not in (torch.int32, torch.int64):
        raise InvalidTypeError(f"Trie.valid_codes: nodes must be int32 or int64, got {nodes.dtype}")
    if nodes.dim() != 1:
        raise InvalidValueError(f"Trie.valid_codes: nodes must be [M], got {list(nodes.shape)}")
    levels = len(trie.codebook_sizes)
    if not 0 <= level < levels:
        raise InvalidValueError(f"Trie.valid_codes: level must be in [0, {levels - 1}], got {level}")
    count = 1 if level == 0 else trie.tokens[level - 1].numel()
    outside = (nodes < 0) | (nodes >= count)
    if bool(outside.any()):
        raise InvalidValueError(
            f"Trie.valid_codes: nodes must be in [0, {count}), got {int(nodes[outside][0])}"
            f" at {int(outside.nonzero()[0])}"
        )
    bases, deltas, flat = trie.child_bases[level], trie.child_deltas[level], nodes.to(torch.int64)
    _, _, (rows, edges) = children_of("child", bases, deltas, flat, trie.tokens[level].numel())
    size = trie.codebook_sizes[level]
    require_room("Trie.valid_codes", "mask", (len(nodes), size), 1)
    mask = torch.zeros(len(nodes), size, dtype=torch.bool, device=nodes.device)
    # torch cannot index uint16 on every device: the same bits are read as int16 and widened without their sign.
    tokens = trie.tokens[level]
    narrow = tokens.view(torch.int16) if tokens.dtype == torch.uint16 else tokens
    codes = narrow[edges].to(torch.int64) & 0xFFFF
    require_whole("tokens", codes, 0, size - 1)
    mask[rows, codes] = True
    return mask


def item_codes(trie: CatalogTrie) -> Tensor:
    """See ``Trie.item_codes``: level by level upwards, each row's edge and the node that it leaves."""
    wide = torch.int32 if max(trie.codebook_sizes) > 256 else torch.uint8
    codes = torch.empty(trie.num_items, len(trie.codebook_sizes), dtype=wide, device=trie.leaf_items.device)
    edges = torch.arange(trie.num_rows, dtype=torch.int32, device=trie.leaf_items.device)
    items = trie.item_rows
    for level in range(len(trie.codebook_sizes) - 1, -1, -1):
        tokens = trie.tokens[level]
        narrow = tokens if tokens.dtype == torch.uint8 else tokens.view(torch.int16)
        column = narrow[edges]  # of each row
        column = column if tokens.dtype == torch.uint8 else column.to(torch.int32) & 0xFFFF
        codes[:, level] = column[items]
        ends = unpack_offsets(trie.child_bases[level], trie.child_deltas[level])
        nodes = torch.arange(len(ends) - 1, dtype=torch.int32, device=edges.device)
        edges = nodes.repeat_interleave(ends.diff())[edges]
    return codes
