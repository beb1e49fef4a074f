"""A search's state in a model's own cache: each prompt is read once, beams take its cache over."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidValueError, UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.hf.called import CalledModel
from genrec_fast.hf.session import TransformersSession

__all__ = ["Stepped", "forked", "left_padded", "rolls_back"]


class Stepped(TransformersSession):
    """Prompts of a decoder are padded on the left, those of an encoder on the right; steps read one token a beam.

    A prompt's keys and values are copied for every beam once, and reordered as transformers does; those of an encoder
    are copied but not reordered. A session that was extended has given its cache away.

    Args:
        model: to be called.
        fixed: of an encoder-decoder: rows and mask of the encoder.
        mask: of a decoder: int64 ``[B * W, S]`` of the whole texts.
        masked: whether a step is given the mask; state-space models want one for what they read.
    """

    def __init__(self, model: CalledModel, fixed: dict[str, Any], mask: Tensor | None, masked: bool) -> None:
        self.model, self.fixed, self.mask, self.masked = model, fixed, mask, masked
        self.cache: Any = None

    @classmethod
    def begin(
        cls,
        model: CalledModel,
        prompts: Jagged,
        decoder_prompts: Jagged | None,
        encoded: bool,
        kept: Jagged | None = None,
        *,
        masked: bool = True,
    ) -> Stepped:
        """Reads the prompts; ``masked`` as above, the others as ``TorchEngine.prefill``."""
        device = model.device
        if decoder_prompts is None:
            tokens, mask = left_padded(prompts, kept, device)
            return cls(model, {}, mask, masked)._read(tokens, 1)
        mask = _mask(prompts.lengths).to(device)
        rows = prompts.padded().to(device)
        rows = rows.to(model.dtype) if encoded else model.encode(rows, mask)
        return cls(model, model.encoded(rows, mask), None, masked)._read(decoder_prompts.padded().to(device), 1)

    @classmethod
    def alone(cls, model: CalledModel, tokens: Tensor, known: tuple[Stepped, int] | None = None) -> Stepped:
        """Reads one decoder's prompt int64 ``[S]`` into a cache that can be rolled back.

        Args:
            model: to be called.
            tokens: at least one of them is read.
            known: such a session, which stays as it is, and how many of its first tokens the prompt begins with.
        """
        from transformers import DynamicCache

        cache, used = DynamicCache(), 0  # without a config: every layer keeps every token, whatever its window
        if known is not None:
            before, used = known
            assert before.mask is not None
            cache, surplus = forked(before.cache), before.mask.shape[1] - used
            if surplus:
                cache.crop(-surplus)
        session = cls(model, {}, torch.ones(1, len(tokens), dtype=torch.int64, device=model.device), masked=True)
        session.cache = cache
        return session._read(tokens[used:].unsqueeze(0).to(model.device), 1)

    def extend(self, codes: Tensor, parents: Tensor) -> Stepped:
        """Every beam by a token: integers ``[B, W]`` each.

        Raises:
            InvalidValueError: this session was extended before.
        """
        if self.cache is None:
            raise InvalidValueError("extend: session must have its cache, got one that was extended (select copies)")
        (users, beams), before = codes.shape, self.logits.shape[1]
        after, self.cache = self._with(self.cache), None
        rows = (parents.long() + torch.arange(users, device=parents.device).unsqueeze(1) * before).flatten()
        after._reorder(rows, before == beams)
        if after.mask is not None:
            after.mask = torch.cat([after.mask, after.mask.new_ones(users * beams, 1)], 1)
        return after._read(codes.long().reshape(-1, 1).to(self.model.device), beams)

    def select(self, users: Tensor) -> Stepped:
        """The session of users int64 ``[m]``, with a cache of its own."""
        beams, chosen = self.logits.shape[1], self._with(forked(self.cache))
        chosen._reorder((users.unsqueeze(1) * beams + torch.arange(beams, device=users.device)).flatten(), False)
        chosen.logits = self.logits[users.to(self.logits.device)]
        return chosen

    def _with(self, cache: Any) -> Stepped:
        other = Stepped(self.model, self.fixed, self.mask, self.masked)
        other.cache = cache
        return other

    def _reorder(self, rows: Tensor, same_users: bool) -> None:
        """Rows of the cache and of what belongs to it; with ``same_users`` what is theirs alone is in its place."""
        rows = rows.to(self.model.device)
        if same_users and hasattr(self.cache, "self_attention_cache"):
            self.cache.self_attention_cache.reorder_cache(rows)
        else:
            self.cache.reorder_cache(rows)
        if self.mask is not None:
            self.mask = self.mask[rows]
        elif not same_users:
            encoder_rows, mask = self.fixed["encoder_outputs"].last_hidden_state, self.fixed["attention_mask"]
            self.fixed = self.model.encoded(encoder_rows[rows.to(encoder_rows.device)], mask[rows])

    def _read(self, tokens: Tensor, beams: int) -> Stepped:
        """This session behind tokens ``[B * W, t]`` more."""
        given = dict(self.fixed)
        if self.mask is not None:
            if self.masked or self.cache is None:
                given["attention_mask"] = self.mask
            if self.model.takes_positions:
                given["position_ids"] = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        logits, self.cache = self.model(tokens, cache=self.cache, use_cache=True, **given)
        if not hasattr(self.cache, "reorder_cache"):
            raise UnsupportedError(
                "TorchEngine: model must keep keys and values in a cache that beams can reorder, "
                f"got {type(self.model.module).__name__}"
            )
        self.logits = logits.view(-1, beams, logits.shape[-1])
        return self


def rolls_back(cache: Any) -> bool:
    """Whether a cache holds keys and values by token, and nothing else."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    return type(cache) is DynamicCache and all(type(layer) is DynamicLayer for layer in cache.layers)


def forked(cache: Any) -> Any:
    """A cache that can be extended, cropped and reordered, and leaves the given one as it is."""
    if not rolls_back(cache):
        return copy.deepcopy(cache)
    other = copy.copy(cache)
    other.layers = [copy.copy(layer) for layer in cache.layers]  # they never write to a tensor in place
    return other


def _mask(lengths: Tensor) -> Tensor:
    longest = int(lengths.max()) if lengths.numel() else 0
    return (torch.arange(longest, device=lengths.device) < lengths.unsqueeze(1)).long()


def left_padded(prompts: Jagged, kept: Jagged | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens and mask int64 ``[B, S]``; ``kept`` is False where a token inside a prompt is masked."""
    place = _mask(prompts.lengths).flip(1).bool()
    tokens = torch.zeros(place.shape, dtype=torch.int64, device=place.device)
    tokens[place] = prompts.values.to(place.device)
    mask = place.long()
    if kept is not None:
        mask[place] = kept.values.to(place.device).long()
    return tokens.to(device), mask.to(device)
