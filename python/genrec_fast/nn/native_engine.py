"""A transformer run by the native kernels: prompts are read once, beams share them, nothing is copied or reordered."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genrec_fast.errors import InvalidTypeError, InvalidValueError
from genrec_fast.ops.attention_bias import t5_buckets
from genrec_fast.ops.transformer import (
    transformer_cross,
    transformer_first,
    transformer_head,
    transformer_prefill,
    transformer_step,
)
from genrec_fast.ops.transformer_pack import PackedStack, unpack_stacks
from genrec_fast.ops.transformer_search import TransformerFound, transformer_search
from genrec_fast.ops.trie_filter import CatalogTrie, TrieFilter
from genrec_fast.types import Jagged

__all__ = ["NativeEngine", "NativeState"]

# A table of the first layer's queries, keys and values by token is kept up to this size: past it the memory is worth
# more than a share of one layer.
_FIRST_TABLE_BYTES = 1 << 26


@dataclass(frozen=True)
class NativeState:
    """What a search knows of its users: their prompts' keys and values, and what every step kept."""

    offsets: Tensor
    cache: Tensor
    cross: Tensor | None
    cross_offsets: Tensor | None
    longest: int
    """rows of the longest prompt"""
    chain: tuple[Tensor, ...] = ()
    ancestors: Tensor | None = None
    """int32 ``[t, R]``: for every beam of the last step its ancestor at each step, itself the last"""

    @property
    def kept_bytes(self) -> int:
        """Memory of all keys and values."""
        tensors = [self.cache, *self.chain, *([] if self.cross is None else [self.cross])]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class NativeEngine:
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
        self._embedding = self.tensors["embedding"]
        self._tables: dict[str, Tensor] = {}
        self._first = {stack.number: self._first_table(stack) for stack in stacks}

    def prefill(
        self, prompts: Jagged, decoder_prompts: Jagged | None = None, *, encoded: bool = False
    ) -> tuple[NativeState, Tensor]:
        """Reads every prompt once.

        Args:
            prompts: int64 token ids per user, none empty (an encoder-decoder's encoder input).
            decoder_prompts: the decoder's first tokens per user; needed for an encoder-decoder, refused elsewhere.
            encoded: prompts hold float32 rows ``[E, D]`` that the encoder has already made.

        Returns:
            The state, and hidden float32 ``[B, 1, D]`` of each user's last token.

        Raises:
            InvalidTypeError: prompts are not int64 Jagged.
            InvalidValueError: an empty prompt, a token outside the vocabulary, or too long a prompt.
        """
        if (decoder_prompts is None) != (self.encoder is None):
            kind = "needs" if self.encoder else "takes no"
            raise InvalidValueError(f"prefill: this model {kind} decoder_prompts, got {decoder_prompts!r:.40}")
        cross = cross_offsets = None
        if self.encoder is not None:
            rows = prompts.values
            if not encoded:
                longest = self._check(prompts)
                rows, _ = transformer_prefill(
                    self.encoder,
                    self._embed(prompts.values, None),
                    prompts.offsets,
                    distance=self._distance("encoder", longest),
                    **self._first_layer(self.encoder, prompts.values),
                    only_last=False,
                )
            cross, cross_offsets = transformer_cross(self.decoder, rows, prompts.offsets), prompts.offsets
            assert decoder_prompts is not None
            prompts = decoder_prompts
        longest = self._check(prompts)
        positions = None
        if "positions" in self.tensors:
            positions = torch.cat([torch.arange(length) for length in prompts.lengths.tolist()] or [prompts.values])
        hidden, cache = transformer_prefill(
            self.decoder,
            self._embed(prompts.values, positions),
            prompts.offsets,
            rotary=self._rotary(longest),
            distance=self._distance("decoder", longest),
            cross=cross,
            cross_offsets=cross_offsets,
            **self._first_layer(self.decoder, prompts.values),
        )
        return NativeState(prompts.offsets, cache, cross, cross_offsets, longest), hidden.unsqueeze(1)

    def step(self, state: NativeState, tokens: Tensor, parents: Tensor) -> tuple[NativeState, Tensor]:
        """Extends every beam by a token.

        Args:
            state: of the prompts or of the step before; not modified.
            tokens: int64 ``[B, W]``.
            parents: int64 ``[B, W]``: the beam of the step before that each extends (0 behind the prompts); dead beams
                carry any token and parent 0.

        Returns:
            The new state, and hidden float32 ``[B, W, D]``.

        Raises:
            InvalidValueError: a token outside the vocabulary, or a parent that is no beam.
        """
        users, beams = tokens.shape
        steps = len(state.chain)
        rows = users * beams
        if state.ancestors is None:
            ancestors = torch.empty(0, rows, dtype=torch.int32)
        else:
            before = state.ancestors.shape[1] // users
            low, high = (int(end) for end in parents.aminmax()) if parents.numel() else (0, 0)
            if low < 0 or high >= before:
                raise InvalidValueError(f"step: parents must be beams in [0, {before}), got {low} to {high}")
            extended = parents if users == 1 else parents + torch.arange(users).unsqueeze(1) * before
            ancestors = state.ancestors.index_select(1, extended.flatten())
        reach = state.longest + steps + 1
        positions = None
        if "positions" in self.tensors:
            positions = (state.offsets.diff() + steps).repeat_interleave(beams)
        flat = tokens.flatten()
        hidden, kept = transformer_step(
            self.decoder,
            self._embed(flat, positions),
            state.offsets,
            state.cache,
            state.chain,
            ancestors,
            rotary=self._rotary(reach),
            distance=self._distance("decoder", reach),
            cross=state.cross,
            cross_offsets=state.cross_offsets,
            **self._first_layer(self.decoder, flat),
        )
        ancestors = torch.cat([ancestors, torch.arange(rows, dtype=torch.int32).unsqueeze(0)])
        after = NativeState(
            state.offsets,
            state.cache,
            state.cross,
            state.cross_offsets,
            state.longest,
            (*state.chain, kept),
            ancestors,
        )
        return after, hidden.view(users, beams, -1)

    @property
    def searches(self) -> bool:
        """Whether ``search`` runs this model: embeddings in float32 that know no position."""
        return self._embedding.dtype == torch.float32 and "positions" not in self.tensors

    def search(
        self,
        state: NativeState,
        hidden: Tensor,
        scores: Tensor,
        trie: CatalogTrie,
        code_tokens: Sequence[Tensor],
        *,
        num_beams: int,
        normalize: str = "all",
        keep: TrieFilter | None = None,
        end_token: int | None = None,
    ) -> TransformerFound:
        """The best semantic IDs behind prompts that were read, in one call (``transformer_search``).

        Args:
            state: of ``prefill``, or of steps of one beam per user.
            hidden: float32 ``[B, 1, D]`` of that call.
            scores: float32 ``[B, 1]``: paid so far.
            trie: the catalog.
            code_tokens: L tensors int64 ``[K_l]``: the token of each code.
            num_beams: see ``transformer_search``.
            normalize: see ``transformer_search``.
            keep: see ``transformer_search``.
            end_token: see ``transformer_search``.
        """
        reach = state.longest + len(state.chain) + len(code_tokens) + 1
        return transformer_search(
            self.decoder,
            hidden[:, 0],
            scores[:, 0],
            state.offsets,
            state.cache,
            trie,
            code_tokens,
            self._embedding,
            num_beams=num_beams,
            normalize=normalize,
            keep=keep,
            end_token=end_token,
            embedding_scale=float(self.note.get("embedding_scale", 1.0)),
            chain=state.chain,
            ancestors=state.ancestors,
            rotary=self._rotary(reach),
            distance=self._distance("decoder", reach),
            cross=state.cross,
            cross_offsets=state.cross_offsets,
            first_table=self._first[self.decoder.number],
        )

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
        return found.view(*shape, -1), sums.view(shape) if log_sums else None

    def _check(self, prompts: Jagged) -> int:
        if not isinstance(prompts, Jagged) or prompts.values.dtype != torch.int64 or prompts.values.dim() != 1:
            raise InvalidTypeError(f"prefill: prompts must be int64 Jagged, got {type(prompts).__name__}")
        ends = prompts.offsets.tolist()
        lengths = [end - begin for begin, end in itertools.pairwise(ends)]
        if 0 in lengths:
            raise InvalidValueError(f"prefill: prompts must have a token each, but user {lengths.index(0)} has none")
        return max(lengths, default=1)

    def _embed(self, tokens: Tensor, positions: Tensor | None) -> Tensor:
        size = self._embedding.shape[0]
        try:
            rows = self._embedding.index_select(0, tokens).float()  # a row of its own, or widened
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
        spec, size = stack.spec, self._embedding.shape[0]
        if "positions" in self.tensors or size * spec.mixed * 4 > _FIRST_TABLE_BYTES:
            return None
        return transformer_first(stack, self._embed(torch.arange(size), None))

    def _first_layer(self, stack: PackedStack, tokens: Tensor) -> dict[str, Any]:
        table = self._first[stack.number]
        return {} if table is None else {"first_table": table, "tokens": tokens}

    def _rotary(self, reach: int) -> Tensor | None:
        """Cosines and sines of at least ``reach`` positions."""
        if "inverse_frequencies" not in self.tensors:
            return None
        return self._grown("rotary", reach, self._make_rotary)

    def _make_rotary(self, reach: int) -> Tensor:
        angles = torch.arange(reach).float().unsqueeze(1) * self.tensors["inverse_frequencies"]
        return torch.cat([angles.cos(), angles.sin()], 1) * float(self.note.get("attention_scaling", 1.0))

    def _distance(self, stack: str, reach: int) -> Tensor | None:
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

        return self._grown(f"distance_{stack}", reach, make)

    def _grown(self, name: str, reach: int, make: Any) -> Tensor:
        """A table by position, made again for twice the reach when it is too short."""
        found = self._tables.get(name)
        size = 0 if found is None else (found.shape[0] if name == "rotary" else found.shape[1] // 2 + 1)
        if found is None or size < reach:
            found = self._tables[name] = make(1 << max(5, math.ceil(math.log2(reach + 1))))
        return found
