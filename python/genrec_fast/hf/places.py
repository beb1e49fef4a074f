"""How long a text a model can read: tables of positions have an end, and what stands behind it is no row of theirs."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genrec_fast.base.checks import check_integers
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged

_TABLE = re.compile(r"(^|\.)(wpe|embed_positions|position_embeddings|positions_embed)$")
_OF_ENCODER = re.compile(r"(^|\.)encoder\.")
_OF_OTHERS = re.compile("vision|visual|image|audio")
# Those whose table is no embedding, by the setting that is its length.
_SETTINGS = {"codegen": "n_positions", "ctrl": "n_positions", "gptj": "n_positions", "mpt": "max_seq_len"}
_CLAMPED = ("ProphetNetPositionalEmbeddings",)  # its encoder reads the last row for all that is beyond


class Places(NamedTuple):
    """The most tokens that a model reads; ``None``: as many as there are, as of rotary or relative positions."""

    encoder: int | None
    decoder: int | None

    @classmethod
    def of(cls, model: Any, before: int = 0) -> Places:
        """Of a model of transformers, with so many virtual tokens before a decoder's."""
        most: dict[bool, list[int]] = {True: [], False: []}
        for name, module in model.named_modules():
            if not isinstance(module, nn.Embedding) or not _TABLE.search(name) or _OF_OTHERS.search(name):
                continue
            encoder = bool(model.config.is_encoder_decoder and _OF_ENCODER.search(name))
            if not (encoder and type(module).__name__ in _CLAMPED):
                most[encoder].append(_rows(module))
        setting = _SETTINGS.get(model.config.model_type)
        if setting is not None:
            most[False].append(int(getattr(model.config, setting)))
        return cls(min(most[True], default=None), min((rows - before for rows in most[False]), default=None))


def _rows(table: nn.Embedding) -> int:
    rows = table.num_embeddings - int(getattr(table, "offset", 0))
    if type(table) is nn.Embedding and table.padding_idx is not None:  # RoBERTa's: the first token stands behind it
        rows -= table.padding_idx + 1
    return rows


def check_prompts(model: Any, input_ids: Tensor) -> None:
    """Raises where a model of transformers has no positions for some prompts, before ``generate`` reads them.

    ``generate`` has an encoder read the prompts before it calls ``custom_generate``: one that is too long is an
    IndexError of torch there, which ``trie_beam_search`` cannot know of. A decoder's are checked by the search.

    Args:
        model: with an encoder or without.
        input_ids: integers ``[B, S]``, as ``generate`` takes them; padding has positions, too.

    Raises:
        InvalidTypeError: not integers.
        InvalidValueError: too long, or not ``[B, S]``.
    """
    op = "check_prompts"
    if check_integers(op, "input_ids", input_ids, "[B, S]").dim() != 2:
        raise InvalidValueError(f"{op}: input_ids must be [B, S], got {list(input_ids.shape)}")
    places = Places.of(model)
    most = places.encoder if model.config.is_encoder_decoder else places.decoder
    _check(op, most, torch.full(input_ids.shape[:1], input_ids.shape[1]), 0)


def check_room(op: str, places: Places, prompts: Jagged, start: Jagged | None, answer: int, encoded: bool) -> None:
    """Raises for a prompt that the model has no positions for.

    Args:
        op: named in errors.
        places: of the model.
        prompts: of a decoder, or of an encoder.
        start: an encoder-decoder's first tokens; ``None``: there is no encoder.
        answer: tokens of an answer; the last of them is written, and not read.
        encoded: prompts are rows that an encoder has made.

    Raises:
        InvalidValueError: too long a prompt.
    """
    if start is None:
        _check(op, places.decoder, prompts.lengths, answer)
    else:
        _check(op, None if encoded else places.encoder, prompts.lengths, 0)
        _check(op, places.decoder, start.lengths, answer)


def _check(op: str, most: int | None, lengths: Tensor, answer: int) -> None:
    read = max(answer - 1, 0)
    if most is None or not lengths.numel() or int(lengths.max()) + read <= most:
        return
    user = int((lengths + read > most).nonzero()[0])
    tokens = int(lengths[user])
    behind = f" and {read} of the answer's {answer} are {tokens + read} to be read," if answer else ","
    raise InvalidValueError(
        f"{op}: prompts must fit the model's {most} positions, but user {user} has {tokens} tokens{behind} "
        f"which is {tokens + read - most} too many: give a shorter prompt"
    )
