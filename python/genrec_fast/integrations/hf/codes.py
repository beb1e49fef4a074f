"""Where the codes of semantic IDs stand in a language model's vocabulary."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genrec_fast.errors import InvalidTypeError, InvalidValueError

__all__ = ["CodeTokens", "code_tokens", "tokens_from_tokenizer"]

# <a_12>, <b_3>, ...: LC-Rec's form. <s_a_12>, ...: OpenOneRec's.
_FORMS = (re.compile(r"<([a-z])_(\d+)>"), re.compile(r"<s_([a-z])_(\d+)>"))


@dataclass(frozen=True, eq=False)
class CodeTokens:
    """The token of every code, by level.

    Args:
        of: L tensors int64 ``[K_l]``: the token of each code of a level.
    """

    of: tuple[Tensor, ...]

    @property
    def num_levels(self) -> int:
        return len(self.of)

    def span(self, level: int) -> Tensor | slice:
        """The level's tokens, as a slice of the vocabulary where they follow each other."""
        tokens = self.of[level]
        first = int(tokens[0])
        if torch.equal(tokens, torch.arange(first, first + tokens.numel())):
            return slice(first, first + tokens.numel())
        return tokens

    def encode(self, codes: Tensor) -> Tensor:
        """Codes int ``[..., L]`` -> tokens int64 ``[..., L]``; -1 stays."""
        found = [
            torch.where(codes[..., level] < 0, -1, tokens[codes[..., level].long().clamp(min=0)])
            for level, tokens in enumerate(self.of)
        ]
        return torch.stack(found, -1)

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens int64 ``[..., t]`` of the first t levels -> codes int64; -1 where a token is none of its level."""
        out = torch.full_like(tokens, -1)
        for level in range(tokens.shape[-1]):
            ordered, order = self.of[level].sort()
            at = torch.searchsorted(ordered, tokens[..., level].contiguous()).clamp(max=ordered.numel() - 1)
            out[..., level] = torch.where(ordered[at] == tokens[..., level], order[at], -1)
        return out


def code_tokens(
    codebook_sizes: Sequence[int],
    *,
    token_offset: int = 0,
    code_to_token: Sequence[Any] | CodeTokens | None = None,
    vocab_size: int | None = None,
) -> CodeTokens:
    """The map from codes to tokens, checked.

    Args:
        codebook_sizes: of the trie.
        token_offset: token of code 0 of level 0, where the levels follow each other in the vocabulary.
        code_to_token: L tables, each of at least ``codebook_sizes[l]`` tokens; instead of ``token_offset``.
        vocab_size: tokens that the model's head scores.

    Raises:
        InvalidTypeError: a table is not of whole numbers.
        InvalidValueError: a table is too short, repeats a token within a level, or a token is outside the vocabulary.
    """
    op = "code_to_token"
    if isinstance(code_to_token, CodeTokens):
        code_to_token = code_to_token.of
    tables: list[Tensor] = []
    if code_to_token is None:
        if isinstance(token_offset, bool) or not isinstance(token_offset, int):
            raise InvalidTypeError(f"token_offset: must be an int, got {token_offset!r:.40}")
        begin = token_offset
        for size in codebook_sizes:
            tables.append(torch.arange(begin, begin + size))
            begin += size
    else:
        if len(code_to_token) != len(codebook_sizes):
            raise InvalidValueError(f"{op}: must have {len(codebook_sizes)} levels, got {len(code_to_token)}")
        for level, (given, size) in enumerate(zip(code_to_token, codebook_sizes, strict=True)):
            try:
                table = torch.as_tensor(given)
            except (TypeError, ValueError, RuntimeError) as error:
                raise InvalidTypeError(
                    f"{op}: level {level} must be a table of token ids, got {given!r:.40}"
                ) from error
            if table.dim() != 1 or table.is_floating_point() or table.dtype == torch.bool:
                raise InvalidTypeError(
                    f"{op}: level {level} must be int64 [{size}], got {table.dtype} {list(table.shape)}"
                )
            if table.numel() < size:
                raise InvalidValueError(f"{op}: level {level} must have {size} tokens, got {table.numel()}")
            tables.append(table[:size].long().cpu().clone())
    for level, table in enumerate(tables):
        if table.unique().numel() != table.numel():
            raise InvalidValueError(f"{op}: tokens of level {level} must differ from each other, got one twice")
        low, high = int(table.min()), int(table.max())
        if low < 0 or (vocab_size is not None and high >= vocab_size):
            raise InvalidValueError(
                f"{op}: tokens of level {level} must lie in the vocabulary of {vocab_size}, got {low} to {high}"
            )
    return CodeTokens(tuple(tables))


def tokens_from_tokenizer(tokenizer: Any, codebook_sizes: Sequence[int]) -> CodeTokens:
    """The map of a tokenizer that holds ``<a_0>``, ``<b_0>``, ... (or ``<s_a_0>``, ...) as tokens of their own.

    Args:
        tokenizer: anything with ``get_vocab()``.
        codebook_sizes: of the trie; level 0 is written with the letter a.

    Raises:
        InvalidValueError: a code has no token; the text names the first.
    """
    vocab = tokenizer.get_vocab()
    found: dict[tuple[int, int], int] = {}
    for form in _FORMS:
        for text, token in vocab.items():
            if match := form.fullmatch(text):
                found[ord(match[1]) - ord("a"), int(match[2])] = int(token)
        if found:
            break
    for level, size in enumerate(codebook_sizes):
        for code in range(size):
            if (level, code) not in found:
                text = f"<{chr(ord('a') + level)}_{code}>"
                raise InvalidValueError(
                    f"tokens_from_tokenizer: tokenizer must hold every code as a token, but it has no {text}; "
                    f"add it with tokenizer.add_tokens"
                )
    tables = [torch.tensor([found[level, code] for code in range(size)]) for level, size in enumerate(codebook_sizes)]
    return code_tokens(codebook_sizes, code_to_token=tables)
