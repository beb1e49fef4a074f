"""How a language model writes the items of a catalog, and what runs it: said once, for ``generate`` and without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import torch
from torch import nn

from genrec_fast.base.checks import choice
from genrec_fast.base.errors import InvalidTypeError, UnsupportedError
from genrec_fast.base.query import check_options
from genrec_fast.catalog.trie import Trie
from genrec_fast.hf.card import card_engine
from genrec_fast.hf.codes import CodeTokens, code_tokens, token_ids
from genrec_fast.hf.engine import Engine, TorchEngine
from genrec_fast.hf.native import native_engine
from genrec_fast.hf.session import on_card
from genrec_fast.nn.native import warn_once


class WritingOptions(TypedDict, total=False):
    """What may be said of a model that writes items, beside the tokens of their codes.

    ``engine``: "native": compiled kernels, a card's where the model is on one; "torch": the model's own modules; "auto"
    (the default): native where it runs the model.
    ``dtype``: of the native engine's weights, "float32", "bfloat16" or "int8"; ``None`` (the default): the model's, as
    always on a card.
    ``normalize``: "all" (the default): log-softmax over the vocabulary, Hugging Face's scores; "valid": over what the
    trie allows.
    ``prefix_tokens``: written before every item; default: none.
    """

    engine: Literal["auto", "native", "torch"]
    dtype: str | torch.dtype | None
    normalize: Literal["all", "valid"]
    prefix_tokens: Sequence[int]


@dataclass(frozen=True)
class Writing:
    """``WritingOptions`` and the tokens of codes, checked.

    Args:
        tokens: of every code.
        prefix: written before every item.
        normalize: see ``WritingOptions``.
        engine: see ``WritingOptions``.
        dtype: see ``WritingOptions``.
    """

    tokens: CodeTokens
    prefix: tuple[int, ...]
    normalize: Literal["all", "valid"]
    engine: str
    dtype: str | torch.dtype | None

    @classmethod
    def of(cls, op: str, trie: Any, token_offset: int, code_to_token: Any, options: WritingOptions) -> Writing:
        """What the callers of ``op`` said of a trie.

        Raises:
            InvalidTypeError: not a trie, an option that there is not, tokens that are no integers.
            InvalidValueError: an option out of its choices, tokens that do not fit the trie.
        """
        check_options(op, options, WritingOptions)
        if not isinstance(trie, Trie):
            raise InvalidTypeError(f"{op}: trie must be a Trie (build_trie makes one), got {type(trie).__name__}")
        engine = choice(op, "engine", options.get("engine", "auto"), ("auto", "native", "torch"))
        normalize: Any = choice(op, "normalize", options.get("normalize", "all"), ("all", "valid"))
        tokens = code_tokens(trie.codebook_sizes, token_offset, code_to_token, op=op)
        tokens.require(op, trie)
        prefix = token_ids(op, "prefix_tokens", options.get("prefix_tokens", ()))
        return cls(tokens, tuple(prefix), normalize, engine, options.get("dtype"))

    def engine_of(self, model: nn.Module) -> Engine:
        """What runs a model as it is now."""
        return choose_engine(model, self.engine, self.dtype)


def choose_engine(model: nn.Module, engine: str, dtype: str | torch.dtype | None) -> Engine:
    """Compiled kernels where they run the model, a card's where it is on one; else torch's modules, said once.

    Raises:
        UnsupportedError: engine="native", and they do not run the model.
    """
    if engine == "torch":
        return TorchEngine(model)
    try:
        return card_engine(model, dtype) if on_card(model) else native_engine(model, dtype)
    except UnsupportedError as error:
        if engine == "native":
            raise
        warn_once(error)
        return TorchEngine(model)
