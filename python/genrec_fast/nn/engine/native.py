"""A transformer run by the native kernels: every prompt is read once, or behind what was kept of an earlier one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged, offsets_of
from genrec_fast.nn.engine.block import Block
from genrec_fast.nn.engine.native_session import NativeSession, Prompts
from genrec_fast.ops.transformer import transformer_cross, transformer_prefill

__all__ = ["NativeEngine", "NativeSession", "Prompts"]


class NativeEngine(Block):
    """A block that reads prompts; what it begins is a ``NativeSession``."""

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

    def _check(self, prompts: Jagged) -> int:
        if not isinstance(prompts, Jagged) or prompts.values.dtype != torch.int64 or prompts.values.dim() != 1:
            raise InvalidTypeError(f"prefill: prompts must be int64 Jagged, got {type(prompts).__name__}")
        ends = prompts.offsets.tolist()
        lengths = [end - begin for begin, end in itertools.pairwise(ends)]
        if 0 in lengths:
            raise InvalidValueError(f"prefill: prompts must have a token each, but user {lengths.index(0)} has none")
        return max(lengths, default=1)


def _past(known: Sequence[tuple[NativeSession, int] | None]) -> dict[str, Any]:
    """What ``transformer_prefill`` is told of earlier prompts."""
    held = [(torch.empty(0), 0, 0) if old is None else (old[0].prompts.cache, old[0].length, old[1]) for old in known]
    return {
        "past": [cache for cache, _, _ in held],
        "past_rows": torch.tensor([rows for _, rows, _ in held]),
        "past_used": torch.tensor([used for _, _, used in held]),
    }
