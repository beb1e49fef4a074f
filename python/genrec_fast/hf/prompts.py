"""Each user's prompt once and without padding, from what ``generate`` repeats for every beam."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidValueError, UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.hf.adapters import learned_prompt

_OP = "trie_beam_search"


class Prompts(NamedTuple):
    """What ``Engine.prefill`` reads."""

    rows: Jagged
    decoder: Jagged | None
    encoded: bool
    kept: Jagged | None
    """bool like a decoder's rows, where some token inside a prompt is masked; ``None``: none is"""


def packed(rows: Tensor, mask: Tensor) -> Jagged:
    """The rows ``[B, S, ...]`` that a mask ``[B, S]`` keeps."""
    kept = mask.bool()
    if bool(kept.all()):
        users, longest = mask.shape
        return Jagged(rows.flatten(0, 1), torch.arange(users + 1, device=rows.device) * longest)
    return Jagged.from_lengths(rows[kept], kept.sum(1))


def has_holes(mask: Tensor) -> bool:
    """Whether a mask ``[B, S]`` hides a token between two that it keeps: models differ in whether it is counted."""
    kept = mask.bool()
    return bool((kept[:, 1:] & ~kept[:, :-1]).sum(1).add(kept[:, :1].sum(1)).gt(1).any())


def prompts_of(model: Any, start: Tensor, num_beams: int, given: dict[str, Any]) -> Prompts:
    """The prompts behind a call.

    Args:
        model: whose.
        start: int64 ``[B, T]``: a decoder's prompts, or an encoder-decoder's first tokens.
        num_beams: how often generate may have repeated what is given.
        given: the model's arguments.

    Raises:
        InvalidValueError: an encoder-decoder's encoder has not run, or a mask of another shape.
        UnsupportedError: a mask of pairs, positions of their own, or a mask over the first tokens of a decoder.
    """
    users = len(start)
    given_mask = given.get("attention_mask")
    mask = torch.ones_like(start) if given_mask is None else _once(given_mask, users, num_beams)
    if mask.dim() != 2:
        raise UnsupportedError(f"{_OP}: attention_mask must be [B, S], got {list(mask.shape)}")
    if bool(((mask != 0) & (mask != 1)).any()):  # transformers counts positions by their sum
        odd = mask[(mask != 0) & (mask != 1)][0].item()
        raise InvalidValueError(f"{_OP}: attention_mask must be 0 or 1 everywhere, got {odd}")
    if not getattr(model.config, "is_encoder_decoder", False):
        if mask.shape != start.shape:
            raise InvalidValueError(
                f"{_OP}: attention_mask must be {list(start.shape)} like input_ids, got {list(mask.shape)}"
            )
        _check_positions(given.get("position_ids"), mask, num_beams)
        if learned_prompt(model) is not None and not bool(mask.all()):
            raise UnsupportedError(
                f"{_OP}: attention_mask must have no padding behind a learned prompt, whose distance from the text "
                "it would change: give prompts of one length, or compile(model, trie).recommend(prompts)"
            )
        if bool(mask.all()) or not has_holes(mask):
            return Prompts(packed(start.long(), mask), None, False, None)
        numbers = torch.arange(mask.shape[1], device=mask.device)
        kept = mask.bool()
        first = numbers.where(kept, mask.shape[1]).amin(1, keepdim=True)
        last = numbers.where(kept, -1).amax(1, keepdim=True)
        spans = (numbers >= first) & (numbers <= last)
        return Prompts(packed(start.long(), spans), None, False, packed(kept, spans))
    out = given.get("encoder_outputs")
    if out is None:
        raise InvalidValueError(f"{_OP}: encoder_outputs must be given for an encoder-decoder, got None")
    rows = _once(out.last_hidden_state if hasattr(out, "last_hidden_state") else out[0], users, num_beams)
    if mask.shape[1] != rows.shape[1]:
        mask = torch.ones(rows.shape[:2], dtype=torch.int64, device=rows.device)
    decoder_mask = given.get("decoder_attention_mask")
    if decoder_mask is not None and bool((decoder_mask == 0).any()):
        raise UnsupportedError(f"{_OP}: decoder_attention_mask must be 1 everywhere, got a 0")
    return Prompts(packed(rows.float(), mask), packed(start.long(), torch.ones_like(start)), True, None)


def _check_positions(positions: Tensor | None, mask: Tensor, num_beams: int) -> None:
    if positions is None:
        return
    kept = mask.bool()
    for plane in positions if positions.dim() == 3 else positions[None]:  # three or four of models that read images
        if plane.shape not in (mask.shape, (len(mask) * num_beams, mask.shape[1])):
            raise InvalidValueError(
                f"{_OP}: position_ids must be {list(mask.shape)} like input_ids, got {list(positions.shape)}"
            )
        if not torch.equal(_once(plane, len(mask), num_beams)[kept], (mask.cumsum(1) - 1)[kept]):
            raise UnsupportedError(f"{_OP}: position_ids must count the tokens of each prompt from 0")


def _once(rows: Tensor, users: int, num_beams: int) -> Tensor:
    """One row per user of what generate may have repeated for every beam."""
    return rows if rows.shape[0] == users else rows[::num_beams]
