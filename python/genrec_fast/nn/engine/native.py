"""A transformer run by the native kernels: prompts are read once, beams share them, nothing is copied or reordered."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged, offsets_of
from genrec_fast.nn.engine.plan import Found, Plan
from genrec_fast.nn.engine.rows import Rows, level_scores
from genrec_fast.ops.attention_bias import t5_buckets
from genrec_fast.ops.transformer import transformer_cross, transformer_first, transformer_prefill, transformer_select
from genrec_fast.ops.transformer_head import transformer_head
from genrec_fast.ops.transformer_pack import PackedStack, unpack_stacks
from genrec_fast.ops.transformer_search import transformer_search
from genrec_fast.ops.transformer_step import transformer_step
from genrec_fast.ops.trie_filter import CatalogTrie

__all__ = ["NativeEngine", "NativeSession", "Prompts"]

# A table of the first layer's queries, keys and values by token is kept up to this size: past it the memory is worth
# more than a share of one layer.
_FIRST_TABLE_BYTES = 1 << 26


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
        self.placed = "positions" in self.tensors
        """whether something is added to an embedding by its place in the text"""
        self.embedding = self.tensors["embedding"]
        self._tables: dict[str, Tensor] = {}
        self.first_tables = {stack.number: self._first_table(stack) for stack in stacks}

    def prefill(
        self,
        prompts: Jagged,
        decoder_prompts: Jagged | None = None,
        *,
        encoded: bool = False,
        levels: tuple[slice, ...] | None = None,
        known: Sequence[tuple[NativeSession, int] | None] = (),
    ) -> NativeSession:
        """Reads every prompt once.

        Args:
            prompts: int64 token ids per user, none empty (an encoder-decoder's encoder input).
            decoder_prompts: the decoder's first tokens per user; needed for an encoder-decoder, refused elsewhere.
            encoded: prompts hold float32 rows ``[E, D]`` that the encoder has already made.
            levels: see ``NativeSession``.
            known: for each user the session of this user alone behind an earlier prompt, and how many of its first
                tokens the new one begins with, ``None`` where there is none; prompts are then what stands behind these.
                The bits are those of a whole prompt. ``()``: nobody has one; for decoders alone.

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
                    self.embed(prompts.values, None),
                    prompts.offsets,
                    distance=self.distance("encoder", longest),
                    **self.first_layer(self.encoder, prompts.values),
                    only_last=False,
                )
            cross, cross_offsets = transformer_cross(self.decoder, rows, prompts.offsets), prompts.offsets
            assert decoder_prompts is not None
            prompts = decoder_prompts
        longest = self._check(prompts)
        offsets, before = prompts.offsets, [0] * len(prompts)
        past: dict[str, Any] = {}
        if any(old is not None for old in known):
            before = [0 if old is None else old[1] for old in known]
            past = _past(known)
            offsets = offsets + offsets_of(past["past_used"])
            longest = int(offsets.diff().max())
        positions = None
        if self.placed:
            places = zip(before, prompts.lengths.tolist(), strict=True)
            positions = torch.cat([torch.arange(at, at + count) for at, count in places] or [prompts.values])
        hidden, cache = transformer_prefill(
            self.decoder,
            self.embed(prompts.values, positions),
            prompts.offsets,
            rotary=self.rotary(longest),
            distance=self.distance("decoder", longest),
            cross=cross,
            cross_offsets=cross_offsets,
            **self.first_layer(self.decoder, prompts.values),
            **past,
        )
        read = Prompts(offsets, cache, cross, cross_offsets, longest)
        return NativeSession(self, read, hidden.unsqueeze(1), levels)

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

    def _check(self, prompts: Jagged) -> int:
        if not isinstance(prompts, Jagged) or prompts.values.dtype != torch.int64 or prompts.values.dim() != 1:
            raise InvalidTypeError(f"prefill: prompts must be int64 Jagged, got {type(prompts).__name__}")
        ends = prompts.offsets.tolist()
        lengths = [end - begin for begin, end in itertools.pairwise(ends)]
        if 0 in lengths:
            raise InvalidValueError(f"prefill: prompts must have a token each, but user {lengths.index(0)} has none")
        return max(lengths, default=1)

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
        return self._grown("rotary", reach, self._make_rotary)

    def _make_rotary(self, reach: int) -> Tensor:
        angles = torch.arange(reach).float().unsqueeze(1) * self.tensors["inverse_frequencies"]
        return torch.cat([angles.cos(), angles.sin()], 1) * float(self.note.get("attention_scaling", 1.0))

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

        return self._grown(f"distance_{stack}", reach, make)

    def _grown(self, name: str, reach: int, make: Any) -> Tensor:
        """A table by position, made again for twice the reach when it is too short."""
        found = self._tables.get(name)
        size = 0 if found is None else (found.shape[0] if name == "rotary" else found.shape[1] // 2 + 1)
        if found is None or size < reach:
            found = self._tables[name] = make(1 << max(5, math.ceil(math.log2(reach + 1))))
        return found


def _past(known: Sequence[tuple[NativeSession, int] | None]) -> dict[str, Any]:
    """What ``transformer_prefill`` is told of earlier prompts."""
    held = [(torch.empty(0), 0, 0) if old is None else (old[0].prompts.cache, old[0].length, old[1]) for old in known]
    return {
        "past": [cache for cache, _, _ in held],
        "past_rows": torch.tensor([rows for _, rows, _ in held]),
        "past_used": torch.tensor([used for _, _, used in held]),
    }


@dataclass(frozen=True)
class Prompts:
    """Keys and values of the prompts that a search begins with."""

    offsets: Tensor
    cache: Tensor
    cross: Tensor | None = None
    cross_offsets: Tensor | None = None
    longest: int = 1
    """rows of the longest prompt"""


@dataclass(frozen=True)
class NativeSession:
    """A search over a ``NativeEngine`` (``TreeSession``).

    Args:
        engine: what runs it.
        prompts: what all beams of a user share.
        hidden: float32 ``[B, W, D]`` of the rows of the last call.
        levels: the tokens of each level's codes, for a network that is extended by codes; ``None``: by tokens.
        chain: what every call has kept, float32 ``[layers, B * W, kept]``.
        parents: int64 ``[B, W]`` of every call: beams of the call before.
        ancestors: int32 ``[t, B * W]``: for every beam of the last call its ancestor at each call, itself the last.
        rows: once a call made a tree, which rows descend from which.
    """

    engine: NativeEngine
    prompts: Prompts
    hidden: Tensor
    levels: tuple[slice, ...] | None = None
    chain: tuple[Tensor, ...] = ()
    parents: tuple[Tensor, ...] = ()
    ancestors: Tensor | None = None
    rows: Rows | None = None

    @property
    def length(self) -> int:
        """Tokens of all prompts."""
        return int(self.prompts.offsets[-1])

    @property
    def kept_bytes(self) -> int:
        """Memory of all keys and values."""
        prompts = self.prompts
        tensors = [prompts.cache, *self.chain, *([] if prompts.cross is None else [prompts.cross])]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def scores(self, span: Tensor | slice | None = None, *, log_sums: bool = False) -> tuple[Tensor, Tensor | None]:
        """Logits ``[B, W, K]`` of a span of tokens, or of each row's next level."""
        if span is not None:
            return self.engine.logits(self.hidden, span, log_sums)
        assert self.levels is not None
        if self.rows is None:
            return self.engine.logits(self.hidden, self.levels[len(self.chain)], log_sums=False)
        return level_scores(self._logits_of, self.rows.paths()[1], [span.stop - span.start for span in self.levels])

    def extend(self, codes: Tensor, parents: Tensor) -> NativeSession:
        """Every beam by a code (or token): int ``[B, W]`` each.

        Raises:
            InvalidValueError: a token outside the vocabulary, or a parent that is no beam.
        """
        if self.rows is not None:
            return self.extend_tree(codes, parents + self.rows.first_of_last)
        users, beams = codes.shape
        parents, steps = parents.long(), len(self.chain)
        if self.ancestors is None:
            ancestors = torch.empty(0, users * beams, dtype=torch.int32)
        else:
            before = self.hidden.shape[1]
            low, high = (int(end) for end in parents.aminmax()) if parents.numel() else (0, 0)
            if low < 0 or high >= before:
                raise InvalidValueError(f"step: parents must be beams in [0, {before}), got {low} to {high}")
            extended = parents if users == 1 else parents + torch.arange(users).unsqueeze(1) * before
            ancestors = self.ancestors.index_select(1, extended.flatten())
        tokens = codes.long() if self.levels is None else codes.long() + self.levels[steps].start
        places = (self.prompts.offsets.diff() + steps).repeat_interleave(beams) if self.engine.placed else None
        hidden, kept = self._step(tokens.flatten(), places, steps, ancestors)
        own = torch.arange(users * beams, dtype=torch.int32).unsqueeze(0)
        return dataclasses.replace(
            self,
            hidden=hidden.view(users, beams, -1),
            chain=(*self.chain, kept),
            parents=(*self.parents, parents),
            ancestors=torch.cat([ancestors, own]),
        )

    def extend_tree(self, codes: Tensor, parents: Tensor) -> NativeSession:
        """Rows at different depths in one pass: int ``[B, W]`` codes, and numbers of the rows that they extend.

        Raises:
            InvalidValueError: as ``extend``; a parent that is no row made before.
        """
        users, beams = codes.shape
        rows = Rows.of(users, self.parents) if self.rows is None else self.rows
        rows = rows.grown(parents.long())
        paths, depths = rows.paths()
        calls, places = rows.calls(paths[..., 1:])  # the root is the prompt
        known = paths[..., 1:] >= 0
        parts, ancestors = calls.sub(1).where(known, -1), places.where(known, 0)
        parts, ancestors = (part.int().flatten(0, 1).T.contiguous() for part in (parts, ancestors))
        tokens, level = codes.long(), depths - 1
        if self.levels is not None:
            tokens = tokens + torch.tensor([span.start for span in self.levels])[level]
        at = (self.prompts.offsets.diff().unsqueeze(1) + level).flatten() if self.engine.placed else None
        hidden, kept = self._step(tokens.flatten(), at, int(depths.max()), ancestors, parts)
        chain = (*self.chain, kept)
        return dataclasses.replace(self, hidden=hidden.view(users, beams, -1), chain=chain, rows=rows)

    def select(self, users: Tensor) -> NativeSession:
        """The session of users int64 ``[m]``; keys and values are copied, nothing is computed."""
        count, old = len(self.hidden), self.prompts
        if users.numel() == count and torch.equal(users, torch.arange(count)):
            return self
        stack = self.engine.decoder
        cross = cross_offsets = None
        if old.cross is not None and old.cross_offsets is not None:
            cross = transformer_select(stack, old.cross, old.cross_offsets, users)
            cross_offsets = offsets_of(old.cross_offsets.diff()[users])
        prompts = Prompts(
            offsets_of(old.offsets.diff()[users]),
            transformer_select(stack, old.cache, old.offsets, users),
            cross,
            cross_offsets,
            old.longest,
        )
        ancestors = self.ancestors
        if ancestors is not None:  # rows of a call stand user by user: those of user b begin at b times its width
            widths = torch.tensor([part.shape[1] // count for part in self.chain], dtype=torch.int32).view(-1, 1, 1)
            moved = (torch.arange(len(users)) - users).int().view(1, -1, 1)
            ancestors = (ancestors.view(len(self.chain), count, -1)[:, users] + moved * widths).flatten(1)
        return dataclasses.replace(
            self,
            prompts=prompts,
            hidden=self.hidden[users],
            chain=tuple(part.unflatten(1, (count, -1))[:, users].flatten(1, 2) for part in self.chain),
            parents=tuple(call[users] for call in self.parents),
            ancestors=ancestors,
            rows=None if self.rows is None else self.rows.select(users),
        )

    def search(self, trie: CatalogTrie, plan: Plan, paid: Tensor) -> Found | None:
        """The whole decode behind one beam per user, in one call (``transformer_search``).

        Args:
            trie: the catalog.
            plan: what to find; one item, the same beams at every level, nobody to ask in between.
            paid: float32 ``[B, 1]``: scores of the beams so far.

        Returns:
            Beams as the last level left them, ``None`` where the plan or the engine needs a level at a time.
        """
        whole = plan.num_items == 1 and plan.processor is None and len(set(plan.num_beams)) == 1
        if not whole or self.rows is not None or self.engine.embedding.dtype != torch.float32:
            return None
        if plan.tokens is None:
            assert self.levels is not None
            tokens = [torch.arange(span.start, span.stop) for span in self.levels]
            normalize = "codes" if plan.normalize == "all" else plan.normalize
        else:
            tokens, normalize = list(plan.tokens.known), plan.normalize
        reach = self.prompts.longest + len(self.chain) + len(tokens) + 1
        found = transformer_search(
            self.engine.decoder,
            self.hidden[:, 0],
            paid[:, 0],
            self.prompts.offsets,
            self.prompts.cache,
            trie,
            tokens,
            self.engine.embedding,
            num_beams=plan.num_beams[0],
            normalize=normalize,
            keep=plan.keep,
            end_token=plan.end_token,
            embedding_scale=float(self.engine.note.get("embedding_scale", 1.0)),
            chain=self.chain,
            ancestors=self.ancestors,
            first_table=self.engine.first_tables[self.engine.decoder.number],
            positions=self.engine.tensors.get("positions"),
            **self._tables(reach),
        )
        return Found(found.rows, found.codes, found.scores, found.bound, found.tokens)

    def _step(
        self, tokens: Tensor, places: Tensor | None, depth: int, ancestors: Tensor, parts: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return transformer_step(
            self.engine.decoder,
            self.engine.embed(tokens, places),
            self.prompts.offsets,
            self.prompts.cache,
            self.chain,
            ancestors,
            parts=parts,
            **self.engine.first_layer(self.engine.decoder, tokens),
            **self._tables(self.prompts.longest + depth + 1),
        )

    def _tables(self, reach: int) -> dict[str, Any]:
        prompts = self.prompts
        return {
            "rotary": self.engine.rotary(reach),
            "distance": self.engine.distance("decoder", reach),
            "cross": prompts.cross,
            "cross_offsets": prompts.cross_offsets,
        }

    def _logits_of(self, at: Tensor, level: int) -> Tensor:
        """``[n, K_l]`` of the rows where bool ``[B, W]``."""
        assert self.levels is not None
        return self.engine.logits(self.hidden[at].unsqueeze(0), self.levels[level], log_sums=False)[0][0]
