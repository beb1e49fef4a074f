"""What ``generate`` was given beside prompts: taken over where a search can, refused by name where it would be lost."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidValueError, UnsupportedError
from genrec_fast.catalog.trie import Trie
from genrec_fast.hf.called import CACHE_NAMES
from genrec_fast.hf.codes import CodeTokens

_OP = "trie_beam_search"
_STATES = (*CACHE_NAMES, "state", "mems", "past_buckets_states", "past")  # the last four of older models
# What changes no result, or is looked at elsewhere.
_KNOWN = {
    *("attention_mask", "position_ids", "encoder_outputs", "decoder_attention_mask", "decoder_input_ids"),
    *("use_cache", "cache_position", "logits_to_keep", "return_dict", "synced_gpus", "num_logits_to_keep"),
    *("output_attentions", "output_hidden_states", "output_router_logits", "is_first_iteration", "max_cache_len"),
    *("next_sequence_length", "tokenizer"),
}
# Settings of generate's other searches, and what they are where they do nothing.
_GROUPS = "; trie_beam_search(num_groups=, diversity_penalty=) has groups"
_OTHER_SEARCHES: dict[str, tuple[Any, ...]] = {
    "num_beam_groups": (None, 1),
    "diversity_penalty": (None, 0.0),
    "constraints": (None,),
    "force_words_ids": (None,),
    "penalty_alpha": (None, 0.0),
    "dola_layers": (None,),
}


# Settings of generate that change the scores of tokens, and what they are where they do not.
_SCORING: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty", "guidance_scale"), (None, 1)),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size"), (None, 0)),
    **dict.fromkeys(("bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "sequence_bias"), (None, [], {})),
    **dict.fromkeys(("forced_bos_token_id", "watermarking_config"), (None,)),
}
# Criteria that come of a setting.
_STOPS = {"MaxTimeCriteria": "max_time", "StopStringCriteria": "stop_strings", "ConfidenceCriteria": "is_assistant"}


def check_settings(settings: Any, stopping_criteria: Any, *, encoder: bool = False) -> None:
    """Raises for settings that this search would leave out; ``encoder``: of an encoder-decoder.

    Raises:
        InvalidValueError: sampling.
        UnsupportedError: another of generate's searches, outputs that beams share, or own stopping criteria.
    """
    if settings.do_sample:
        raise InvalidValueError(
            f"{_OP}: do_sample must be False, got True (seed= draws items; TrieLogitsProcessor masks tokens)"
        )
    for name, idle in _OTHER_SEARCHES.items():
        given = getattr(settings, name, None)
        if given not in idle:
            hint = (
                ": give num_groups and diversity_penalty to trie_beam_search" if "div" in name or "gro" in name else ""
            )
            raise UnsupportedError(f"{_OP}: {name} must be {idle[-1]}, got {given!r:.40}{hint}")
    for name in ("output_logits", "output_attentions", "output_hidden_states"):
        if settings.return_dict_in_generate and getattr(settings, name, False):
            raise UnsupportedError(f"{_OP}: {name} must be False: beams share what the model computes")
    if encoder and getattr(settings, "prefill_chunk_size", None) is not None:
        raise UnsupportedError(
            f"{_OP}: prefill_chunk_size must be None for an encoder-decoder, as generate cuts the encoder's mask with "
            f"the decoder's tokens, got {settings.prefill_chunk_size!r:.40}"
        )
    for criterion in stopping_criteria or ():
        setting = _STOPS.get(type(criterion).__name__)
        if setting is not None:
            raise UnsupportedError(f"{_OP}: {setting} must be None or False: a search ends with its items")
        if type(criterion).__name__ not in ("MaxLengthCriteria", "EosTokenCriteria"):
            raise UnsupportedError(
                f"{_OP}: stopping_criteria must be none of its own (a search ends with its items), "
                f"got {type(criterion).__name__}"
            )


def scoring_settings(settings: Any) -> dict[str, Any]:
    """The settings of a generation config, or of none, that change the scores of tokens, by name."""
    given = {name: getattr(settings, name, None) for name in _SCORING}
    return {name: value for name, value in given.items() if value not in _SCORING[name]}


def check_ends(ends: Any, tokens: CodeTokens, trie: Trie, prefix: tuple[int, ...]) -> None:
    """Raises for an end token that items are written with: ``generate`` would end in the middle of one.

    Args:
        ends: ``eos_token_id``: a token, several, or none.
        tokens: of codes.
        trie: the codes that items have; a token of any other code may be an end.
        prefix: written before every item.

    Raises:
        InvalidValueError: such a token.
    """
    for end in [] if ends is None else torch.as_tensor(ends).flatten().tolist():
        if end in prefix:
            raise InvalidValueError(f"{_OP}: eos_token_id must be no token of an item, got {end} of prefix_tokens")
        for level, table in enumerate(tokens.of):
            for code in (table == end).nonzero().flatten().tolist():
                if bool((trie.tokens[level].long() == code).any()):
                    raise InvalidValueError(
                        f"{_OP}: eos_token_id must be no token of an item, where generate would end, "
                        f"got {end}, code {code} of level {level}"
                    )


def check_given(model: Any, given: dict[str, Any]) -> None:
    """Raises for arguments of the model that a search would drop.

    An encoder-decoder's are those of its decoder: what its encoder takes has had its effect.

    Raises:
        UnsupportedError: a state with something in it, embeddings, or any other argument.
    """
    if given.get("inputs_embeds") is not None and not model.config.is_encoder_decoder:
        raise UnsupportedError(f"{_OP}: inputs_embeds must be None: give input_ids")
    for name in _STATES:
        if given.get(name) is not None and (filled := _filled(given[name])):
            raise UnsupportedError(f"{_OP}: {name} must be empty: give whole prompts, got {filled}")
    others = [name for name, value in given.items() if not _nothing(value) and name not in _KNOWN | set(_STATES)]
    if others and model.config.is_encoder_decoder:
        encoder = inspect.signature(model.get_encoder().forward).parameters
        others = [name for name in others if name not in encoder]
    for name in others:
        raise UnsupportedError(
            f"{_OP}: {name} must be None: a search passes tokens and masks alone to the model, "
            f"got {type(given[name]).__name__}"
        )


def _nothing(value: Any) -> bool:
    """``None``, or a table of nothing, which generate makes for models that could read images of a text alone."""
    return value is None or (isinstance(value, dict) and all(part is None for part in value.values()))


def _filled(state: Any) -> str | int:
    """How many tokens a state holds, or that it holds something; 0 for an empty one."""
    if hasattr(state, "get_seq_length"):
        try:
            length = int(state.get_seq_length())
        except (ValueError, TypeError, IndexError):  # of states without a single layer of keys and values
            length = 0
        if length:
            return length
    return f"a {type(state).__name__} with something in it" if any(_nonzero(t) for t in _tensors(state, 4)) else 0


def _nonzero(tensor: Tensor) -> bool:
    """Whether a tensor is of a text; what has less than two dimensions is a layer's window or its count."""
    return tensor.device.type != "meta" and tensor.dim() > 1 and tensor.numel() > 0 and bool((tensor != 0).any())


def _tensors(thing: Any, depth: int) -> Iterator[Tensor]:
    """Every tensor in a state: tuples of old, caches with layers, tables of tensors."""
    if isinstance(thing, Tensor):
        yield thing
    elif depth:
        if isinstance(thing, dict):
            parts = list(thing.values())
        elif isinstance(thing, (tuple, list)):
            parts = list(thing)
        else:
            parts = list(vars(thing).values()) if hasattr(thing, "__dict__") else []
        for part in parts:
            yield from _tensors(part, depth - 1)
