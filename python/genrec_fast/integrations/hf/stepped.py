"""A search's state in a model's own cache: each prompt is read once, beams take its cache over."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec_fast.errors import UnsupportedError
from genrec_fast.integrations.hf.called import CalledModel
from genrec_fast.types import Jagged

__all__ = ["Stepped", "left_padded"]


class Stepped:
    """Prompts of a decoder are padded on the left, those of an encoder on the right; steps read one token a beam.

    A prompt's keys and values are copied for every beam once, and reordered as transformers does; those of an encoder
    are copied but not reordered.

    Args:
        model: to be called.
        masked: whether a step is given the mask of the whole text; state-space models want one for what they read.
    """

    def __init__(self, model: CalledModel, masked: bool = True) -> None:
        self.model, self.masked = model, masked
        self.cache: Any = None
        self.fixed: dict[str, Any] = {}  # of an encoder-decoder: rows and mask of the encoder
        self.mask: Tensor | None = None  # of a decoder

    def prefill(
        self, prompts: Jagged, decoder_prompts: Jagged | None, encoded: bool, kept: Jagged | None = None
    ) -> Tensor:
        """Logits ``[B, 1, V]`` behind each prompt."""
        device = self.model.device
        if decoder_prompts is None:
            tokens, self.mask = left_padded(prompts, kept, device)
            return self._call(tokens).unsqueeze(1)
        mask = _mask(prompts.lengths).to(device)
        rows = prompts.padded().to(device)
        rows = rows.to(self.model.dtype) if encoded else self.model.encode(rows, mask)
        self.fixed = self.model.encoded(rows, mask)
        return self._call(decoder_prompts.padded().to(device)).unsqueeze(1)

    def step(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """Logits ``[B, W, V]`` of beams extended by tokens ``[B, W]``."""
        users, beams = tokens.shape
        known = self.mask if self.mask is not None else self.fixed["attention_mask"]
        before = known.shape[0] // users
        tokens, parents = tokens.to(known.device), parents.to(known.device)
        flat = (parents + torch.arange(users, device=known.device).unsqueeze(1) * before).flatten()
        same_rows = before == beams  # then what belongs to users alone is in its place
        if same_rows and hasattr(self.cache, "self_attention_cache"):
            self.cache.self_attention_cache.reorder_cache(flat)
        else:
            self.cache.reorder_cache(flat)
        if self.mask is not None:
            self.mask = torch.cat([self.mask[flat], self.mask.new_ones(flat.numel(), 1)], 1)
        elif not same_rows:
            rows = self.fixed["encoder_outputs"].last_hidden_state
            self.fixed = self.model.encoded(rows[flat.to(rows.device)], known[flat])
        return self._call(tokens.reshape(-1, 1)).view(users, beams, -1)

    def _call(self, tokens: Tensor) -> Tensor:
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
        return logits


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
