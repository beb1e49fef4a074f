"""Logits processors in a search: they see what ``generate`` would show them, and one that leaves nothing is named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidValueError, UnsupportedError

# The setting behind each of transformers' processors that may forbid tokens, and what to do about it.
_SHORTEST = ("min_length (or min_new_tokens)", "set it to 0, as an item ends where it ends")
_SETTINGS = {
    "MinLengthLogitsProcessor": _SHORTEST,
    "MinNewTokensLengthLogitsProcessor": _SHORTEST,
    "ForcedBOSTokenLogitsProcessor": ("forced_bos_token_id", "give the token as prefix_tokens, or set it to None"),
    "ForcedEOSTokenLogitsProcessor": (
        "forced_eos_token_id",
        "set it to None, or give max_new_tokens room for the end token behind the item",
    ),
    "SuppressTokensLogitsProcessor": ("suppress_tokens", "take the catalog's tokens and the end token out of it"),
    "SuppressTokensAtBeginLogitsProcessor": ("begin_suppress_tokens", "take the catalog's tokens out of it"),
    "NoBadWordsLogitsProcessor": ("bad_words_ids", "take the catalog's tokens and the end token out of it"),
    "NoRepeatNGramLogitsProcessor": ("no_repeat_ngram_size", "set it to 0"),
    "EncoderNoRepeatNGramLogitsProcessor": ("encoder_no_repeat_ngram_size", "set it to 0"),
    "PrefixConstrainedLogitsProcessor": ("prefix_allowed_tokens_fn", "leave it out: the trie constrains the search"),
    "SequenceBiasLogitsProcessor": ("sequence_bias", "take the catalog's tokens out of it"),
}
# Processors that keep what they saw in the last call: a beam that changes its place would take over another's.
_REMEMBERING = {
    "UnbatchedClassifierFreeGuidanceLogitsProcessor": "guidance_scale",
    "SynthIDTextWatermarkLogitsProcessor": "watermarking_config",
}
_NOTHING = -1e30  # below it a score stands for "never": -inf, or a type's least number


class Processed:
    """``generate``'s processors over the whole vocabulary, for ``search``.

    Args:
        processors: a ``LogitsProcessorList``, or any list of them.
        start: int64 ``[B, T]``: what stands in front of what beams write.
        num_beams: rows per user that processors may count on.

    Raises:
        UnsupportedError: a processor of transformers that keeps a state of its own from call to call.
    """

    def __init__(self, processors: Sequence[Any], start: Tensor, num_beams: int) -> None:
        for kind in (type(processor).__name__ for processor in processors):
            if kind in _REMEMBERING:
                raise UnsupportedError(
                    f"trie_beam_search: {_REMEMBERING[kind]} must be None, as a {kind} keeps a state that does not "
                    "follow beams when they change places"
                )
        self.processors, self.start, self.num_beams = processors, start, num_beams
        self._closed: dict[int, Any] = {}  # by user: the first processor that left no token open to any of his beams

    def __call__(self, written: Tensor, scores: Tensor) -> Tensor:
        """Log-probabilities ``[B * W, V]`` of beams that wrote ``[B * W, t]``, processed."""
        users = self.start.shape[0]
        beams = written.shape[0] // users
        # Processors may know how many rows there will be: beams that do not live yet repeat the first.
        rows = torch.arange(self.num_beams).clamp(max=beams - 1) + beams * torch.arange(users).unsqueeze(1)
        before = self.start.repeat_interleave(self.num_beams, 0)
        ids = torch.cat([before, written[rows.flatten()].to(before.device)], 1)
        scores = scores[rows.flatten()].to(before.device)
        allowed = scores > _NOTHING  # what the trie allows
        alive = self._alive(scores, allowed)
        for processor in self.processors:
            scores = processor(ids, scores)
            left = self._alive(scores, allowed)
            for user in (alive & ~left).nonzero().flatten().tolist():
                self._closed.setdefault(user, processor)
            alive = left
        return scores.view(users, self.num_beams, -1)[:, :beams].flatten(0, 1).to(written.device)

    def require_items(self, scores: Tensor) -> None:
        """Raises where a search over what was processed left a user without any item.

        Args:
            scores: ``[B, W]`` of the beams found.

        Raises:
            InvalidValueError: a user without an item; the text names the setting, or the class of the processor.
        """
        for user in (~(scores > _NOTHING).any(1)).nonzero().flatten().tolist():
            last = self._closed.get(user)
            kinds = [type(last).__name__] if last is not None else [type(p).__name__ for p in self.processors]
            known = [_SETTINGS.get(kind, (f"logits_processor {kind}", "let it keep an item")) for kind in kinds]
            names, remedies = (dict.fromkeys(part) for part in zip(*known, strict=True))
            raise InvalidValueError(
                f"trie_beam_search: {', '.join(names)} must leave an item to every user, but user {user} has none: "
                f"{'; '.join(remedies)}"
            )

    def _alive(self, scores: Tensor, allowed: Tensor) -> Tensor:
        """Bool ``[B]``: users who have a token that the trie allows."""
        return ((scores > _NOTHING) & allowed).view(self.start.shape[0], -1).any(1)
