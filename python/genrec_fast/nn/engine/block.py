"""A transformer's packed weights made ready to run: embeddings, tables by position, logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.ops.attention_bias import t5_buckets
from genrec_fast.ops.transformer import transformer_first
from genrec_fast.ops.transformer_head import transformer_head
from genrec_fast.ops.transformer_pack import PackedStack, unpack_stacks

# A table of the first layer's queries, keys and values by token is kept up to this size: past it the memory is worth
# more than a share of one layer.
_FIRST_TABLE_BYTES = 1 << 26


class Block:
    """Weights of ``pack_weights`` ready to run.

    Args:
        weights: uint8 ``[bytes]``; may be mapped from a file, nothing of it is copied. Where no position is added to
            the embeddings the first layer's queries, keys and values are made of all tokens at once, and looked up
            ever after (``transformer_first``; vocabularies for which that takes at most 64 MiB).

    Raises:
        CorruptFileError: not a whole block.
    """

    def __init__(self, weights: Tensor) -> None:
        stacks, self.tensors, self.note = unpack_stacks(weights)
        self.encoder: PackedStack | None = stacks[0] if len(stacks) > 1 else None
        self.decoder: PackedStack = stacks[-1]
        self.vocab_size: int = self.decoder.spec.head_size
        self.placed = "positions" in self.tensors
        """whether something is added to an embedding by its place in the text"""
        self.embedding = self.tensors["embedding"]
        self._tables: dict[str, Tensor] = {}
        self.first_tables = {stack.number: self._first_table(stack) for stack in stacks}

    def logits(self, hidden: Tensor, tokens: Tensor | slice, log_sums: bool) -> tuple[Tensor, Tensor | None]:
        """Logits of some tokens.

        Args:
            hidden: float32 ``[B, W, D]``.
            tokens: int64 ``[K]``, or a slice of the vocabulary.
            log_sums: whether the log-sum-exp over the whole vocabulary is wanted.

        Returns:
            float32 ``[B, W, K]`` and, if wanted, ``[B, W]``.
        """
        if isinstance(tokens, slice):
            first, last, _ = tokens.indices(self.vocab_size)
        else:
            first, last = int(tokens.min()), int(tokens.max()) + 1
        shape = hidden.shape[:2]
        found, sums = transformer_head(self.decoder, hidden.flatten(0, 1), first, last, log_sums=log_sums)
        if not isinstance(tokens, slice):
            found = found[:, tokens - first]
        return found.view(*shape, found.shape[1]), sums.view(shape) if log_sums else None

    def embed(self, tokens: Tensor, positions: Tensor | None) -> Tensor:
        size = self.embedding.shape[0]
        try:
            rows = self.embedding.index_select(0, tokens).float()  # a row of its own, or widened
        except IndexError as error:
            ends = [int(end) for end in tokens.aminmax()]
            raise InvalidValueError(f"tokens must be in [0, {size}), got {ends[0]} to {ends[1]}") from error
        if (scale := self.note.get("embedding_scale", 1.0)) != 1.0:
            rows *= scale
        if positions is not None and (table := self.tensors.get("positions")) is not None:
            if positions.numel() and int(positions.max()) >= table.shape[0]:
                raise InvalidValueError(
                    f"tokens must stand below position {table.shape[0]}, got {int(positions.max())}"
                )
            rows += table[positions].float()
        return rows

    def _first_table(self, stack: PackedStack) -> Tensor | None:
        spec, size = stack.spec, self.embedding.shape[0]
        if self.placed or size * spec.mixed * 4 > _FIRST_TABLE_BYTES:
            return None
        return transformer_first(stack, self.embed(torch.arange(size), None))

    def first_layer(self, stack: PackedStack, tokens: Tensor) -> dict[str, Any]:
        table = self.first_tables[stack.number]
        return {} if table is None else {"first_table": table, "tokens": tokens}

    def rotary(self, reach: int) -> Tensor | None:
        """Cosines and sines of at least ``reach`` positions."""
        if "inverse_frequencies" not in self.tensors:
            return None
        frequencies, scaling = self.tensors["inverse_frequencies"], float(self.note.get("attention_scaling", 1.0))
        return grown_table(self._tables, "rotary", reach, lambda size: rotary_table(frequencies, size, scaling))

    def distance(self, stack: str, reach: int) -> Tensor | None:
        """T5's bias for rows of at least ``reach``."""
        if f"relative_{stack}" not in self.tensors:
            return None

        def make(size: int) -> Tensor:
            distances = torch.arange(1 - size, size)
            weight = self.tensors[f"relative_{stack}"].float()
            buckets = t5_buckets(
                distances, weight.shape[0], int(self.note["max_distance"]), bidirectional=stack == "encoder"
            )
            return weight[buckets].T.contiguous()

        return grown_table(self._tables, f"distance_{stack}", reach, make)


def rotary_table(inverse_frequencies: Tensor, reach: int, scaling: float) -> Tensor:
    """float32 ``[reach, W]``: cosines and sines of each position's angles, as ``ops.rotary`` reads them."""
    places = torch.arange(reach, device=inverse_frequencies.device)
    angles = places.float().unsqueeze(1) * inverse_frequencies
    return torch.cat([angles.cos(), angles.sin()], 1) * scaling


def grown_table(tables: dict[str, Tensor], name: str, reach: int, make: Callable[[int], Tensor]) -> Tensor:
    """A table by position, made again for twice the reach when it is too short."""
    found = tables.get(name)
    size = 0 if found is None else (found.shape[0] if name == "rotary" else found.shape[1] // 2 + 1)
    if found is None or size < reach:
        found = tables[name] = make(1 << max(5, math.ceil(math.log2(reach + 1))))
    return found
