"""Which token of a model's vocabulary stands for which code."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.checks import INT64, require_tensors, whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.catalog.trie import Trie

# Tables by token are made up to the largest one; no vocabulary is near this.
MOST_TOKENS = 1 << 26

_FORMS = (re.compile(r"<([a-z])_(\d{1,9})>"), re.compile(r"<s_([a-z])_(\d{1,9})>"))


@dataclass(frozen=True, eq=False)
class CodeTokens:
    """The tokens of every code of every level. Made by ``code_tokens`` and ``tokens_from_tokenizer``.

    Args:
        of: per level int64 ``[K_l]``: the token of each code, -1 where a code has none; no token twice in a level.

    Raises:
        InvalidTypeError: a table is not an integer tensor.
        InvalidValueError: no table, an empty one, another shape, an entry below -1, or a token twice in a level.
    """

    of: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "of", tuple(_table(level, given) for level, given in enumerate(self.of)))
        if not self.of:
            raise InvalidValueError("code_to_token: code_to_token must have a table for each level, got none")
        object.__setattr__(self, "_codes", tuple(_inverse(table) for table in self.of))
        object.__setattr__(self, "_known", tuple(_filled(table) for table in self.of))
        object.__setattr__(self, "_spans", tuple(_span(table) for table in self.of))

    def to(self, device: torch.device) -> CodeTokens:
        """The tables that a search reads, on a device."""
        moved = copy.copy(self)
        for name in ("of", "_known", "_spans"):
            parts = (part.to(device) if isinstance(part, Tensor) else part for part in getattr(self, name))
            object.__setattr__(moved, name, tuple(parts))
        return moved

    @property
    def largest(self) -> int:
        """The largest token of any code."""
        return max(int(table.max()) for table in self.of)

    @property
    def known(self) -> tuple[Tensor, ...]:
        """``of`` with some other code's token for a code that has none."""
        found: tuple[Tensor, ...] = self._known  # type: ignore[attr-defined]
        return found

    @property
    def num_levels(self) -> int:
        """L."""
        return len(self.of)

    def span(self, level: int) -> Tensor | slice:
        """Where a level's codes stand in the vocabulary: a slice where they follow each other, else int64 ``[K_l]``.

        A code without a token has some other code's: no trie that passed ``require`` leads there.
        """
        found: Tensor | slice = self._spans[level]  # type: ignore[attr-defined]
        return found

    def written(self, level: int, codes: Tensor) -> Tensor:
        """int64: what is written for int32 codes of a level; any token for a code that has none (a dead beam's 0)."""
        return self.known[level][codes]

    def encode(self, codes: Tensor) -> Tensor:
        """The tokens of integer codes ``[..., t]``: int64 ``[..., t]``; codes are in range and have tokens."""
        columns = [table[codes[..., level].long()] for level, table in enumerate(self.of[: codes.shape[-1]])]
        return torch.stack(columns, -1) if columns else codes.long()

    def decode(self, tokens: Tensor) -> Tensor:
        """The codes of int64 tokens ``[..., t]``, t at most L: int64 ``[..., t]``, -1 where a token is no code."""
        columns = []
        for level, codes in enumerate(self._codes[: tokens.shape[-1]]):  # type: ignore[attr-defined]
            token = tokens[..., level].cpu()
            inside = (token >= 0) & (token < codes.numel())
            columns.append(torch.where(inside, codes[torch.where(inside, token, 0)], -1))
        return torch.stack(columns, -1).to(tokens.device) if columns else tokens

    def require(self, op: str, trie: Trie, vocab_size: int | None = None) -> None:
        """Every code that the trie holds has a token, and every token is in the vocabulary.

        Raises:
            InvalidValueError: another number of levels, a level of another size, a code of the catalog without a
                token, or a token outside the vocabulary.
        """
        if len(self.of) != len(trie.codebook_sizes):
            raise InvalidValueError(
                f"{op}: code_to_token must have {len(trie.codebook_sizes)} levels like the trie, got {len(self.of)}"
            )
        for level, (table, size) in enumerate(zip(self.of, trie.codebook_sizes, strict=True)):
            if table.numel() != size:
                raise InvalidValueError(
                    f"{op}: code_to_token must have {size} tokens at level {level} like the trie, got {table.numel()}"
                )
            if bool((table < 0).any()):
                used = trie.tokens[level].cpu().to(torch.int64)
                without = used[table[used] < 0]
                if without.numel():
                    raise InvalidValueError(
                        f"{op}: code_to_token must have a token for every code of the catalog, "
                        f"got none for code {int(without[0])} of level {level}"
                    )
        if vocab_size is not None and self.largest >= vocab_size:
            raise InvalidValueError(
                f"{op}: code_to_token must hold tokens in [0, {vocab_size}), the vocabulary, got {self.largest}"
            )


def code_tokens(
    codebook_sizes: Sequence[int], token_offset: int = 0, code_to_token: Any = None, *, op: str = "code_tokens"
) -> CodeTokens:
    """The map that the arguments ``token_offset`` and ``code_to_token`` of this package describe.

    Args:
        codebook_sizes: L sizes, of the trie.
        token_offset: the token of code 0 of level 0; code c of level l is token_offset + the sizes of the levels
            before l + c (give ``build_trie`` the ``codebook_sizes`` that the vocabulary was laid out for).
        code_to_token: in its place, the token of every code: a ``CodeTokens``, L integer tensors (or sequences)
            ``[K_l]``, or a tensor ``[L, K]``; -1 where a code has none. What stands behind ``codebook_sizes[l]`` is
            not read.
        op: named in errors.

    Raises:
        InvalidTypeError: code_to_token is not integer tensors.
        InvalidValueError: token_offset is negative, or given together with code_to_token; a table of another shape.
    """
    offset = whole_number(op, "token_offset", token_offset, 0, MOST_TOKENS)
    if code_to_token is None:
        tables = []
        for size in codebook_sizes:
            tables.append(torch.arange(offset, offset + size))
            offset += size
        return CodeTokens(tuple(tables))
    if offset:
        raise InvalidValueError(f"{op}: token_offset must be 0 with code_to_token, which stands in its place")
    if isinstance(code_to_token, CodeTokens):
        code_to_token = code_to_token.of
    if isinstance(code_to_token, Tensor) and code_to_token.dim() != 2:
        raise InvalidValueError(
            f"{op}: code_to_token must be a tensor [L, K] or L tensors [K], got {list(code_to_token.shape)}"
        )
    if not isinstance(code_to_token, Sequence | Tensor) or isinstance(code_to_token, str):
        raise InvalidTypeError(
            f"{op}: code_to_token must be a tensor [L, K] or L tensors [K], got {type(code_to_token).__name__}"
        )
    if len(code_to_token) != len(codebook_sizes):
        raise InvalidValueError(
            f"{op}: code_to_token must have {len(codebook_sizes)} levels like the trie, got {len(code_to_token)}"
        )
    tables = [_table(level, given) for level, given in enumerate(code_to_token)]
    for level, (table, size) in enumerate(zip(tables, codebook_sizes, strict=True)):
        if table.numel() < size:
            raise InvalidValueError(
                f"{op}: code_to_token[{level}] must have {size} tokens like the trie, got {table.numel()}"
            )
    return CodeTokens(tuple(table[:size] for table, size in zip(tables, codebook_sizes, strict=True)))


def tokens_from_tokenizer(tokenizer: Any, codebook_sizes: Sequence[int] | Trie) -> CodeTokens:
    """Reads a tokenizer's semantic-ID tokens: ``<a_183>`` or ``<s_a_183>``, level a, b, ... and code.

    Args:
        tokenizer: of transformers, or anything whose ``get_vocab()`` gives token text -> id (such a dict will do).
        codebook_sizes: L sizes, or the trie itself. A vocabulary may lack codes that no item uses.

    Returns:
        The map, for ``code_to_token=``. Begin marks such as ``<|sid_begin|>`` belong into ``prefix_tokens=``.

    Raises:
        InvalidTypeError: no vocabulary.
        InvalidValueError: no such tokens, both forms, a level without any, or a catalog's code without one.

    Example:
        >>> from genrec_fast.hf.codes import tokens_from_tokenizer
        >>> [t.tolist() for t in tokens_from_tokenizer({"<a_0>": 7, "<a_1>": 5, "<b_0>": 9}, [2, 1]).of]
        [[7, 5], [9]]
    """
    vocabulary = tokenizer if isinstance(tokenizer, dict) else getattr(tokenizer, "get_vocab", dict)()
    if not vocabulary:
        raise InvalidTypeError(
            f"tokens_from_tokenizer: tokenizer must have a vocabulary (get_vocab()), got {type(tokenizer).__name__}"
        )
    trie = codebook_sizes if isinstance(codebook_sizes, Trie) else None
    given: Any = codebook_sizes if trie is None else trie.codebook_sizes
    sizes = [whole_number("tokens_from_tokenizer", "codebook_sizes", size, *INT64) for size in given]
    tables = [torch.full((size,), -1) for size in sizes]
    found = [[(m, token) for text, token in vocabulary.items() if (m := form.fullmatch(text))] for form in _FORMS]
    forms = [matches for matches in found if matches]
    if len(forms) != 1:
        raise InvalidValueError(
            "tokens_from_tokenizer: tokenizer must have tokens <a_0> or <s_a_0>, got "
            + ("both" if forms else "neither")
        )
    for match, token in forms[0]:
        level, code = ord(match[1]) - ord("a"), int(match[2])
        if level < len(sizes) and code < sizes[level]:
            tables[level][code] = int(token)
    for level, table in enumerate(tables):
        if not bool((table >= 0).any()):
            raise InvalidValueError(f"tokens_from_tokenizer: tokenizer must have tokens of level {level}, got none")
    codes = CodeTokens(tuple(tables))
    if trie is not None:
        codes.require("tokens_from_tokenizer", trie)
    return codes


def token_ids(op: str, name: str, tokens: Any) -> list[int]:
    """The token ids of an argument, each at least 0."""
    if isinstance(tokens, Tensor):
        tokens = tokens.flatten().tolist()
    if not isinstance(tokens, Sequence) or isinstance(tokens, str):
        raise InvalidTypeError(f"{op}: {name} must be token ids, got {type(tokens).__name__}")
    ids = [whole_number(op, name, token, *INT64) for token in tokens]
    if ids and min(ids) < 0:
        raise InvalidValueError(f"{op}: {name} must be at least 0, got {min(ids)}")
    return ids


def _table(level: int, given: Any) -> Tensor:
    if not isinstance(given, Tensor):
        try:
            given = torch.as_tensor(given)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidTypeError(
                f"code_to_token: code_to_token[{level}] must be integers [K], got {type(given).__name__}"
            ) from error
    require_tensors("code_to_token", None, code_to_token=given)
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise InvalidTypeError(f"code_to_token: code_to_token[{level}] must be integers [K], got {given.dtype}")
    if given.dim() != 1 or given.numel() == 0:
        raise InvalidValueError(f"code_to_token: code_to_token[{level}] must be [K], got {list(given.shape)}")
    table: Tensor = given.to("cpu", torch.int64)
    if int(table.min()) < -1 or int(table.max()) < 0:
        raise InvalidValueError(
            f"code_to_token: code_to_token[{level}] must hold tokens, or -1 for none, got {int(table.min())}"
        )
    if int(table.max()) > MOST_TOKENS:
        raise InvalidValueError(
            f"code_to_token: code_to_token[{level}] must hold tokens of at most {MOST_TOKENS}, got {int(table.max())}"
        )
    present, counts = table[table >= 0].unique(return_counts=True)
    if int(counts.max()) > 1:
        raise InvalidValueError(
            f"code_to_token: code_to_token[{level}] must have another token for each code, "
            f"got {int(present[counts > 1][0])} twice"
        )
    return table


def _span(table: Tensor) -> Tensor | slice:
    first = int(table[0]) if table.numel() else -1
    if first >= 0 and torch.equal(table, torch.arange(first, first + table.numel())):
        return slice(first, first + table.numel())
    return _filled(table)


def _filled(table: Tensor) -> Tensor:
    return torch.where(table >= 0, table, table.max()) if table.numel() else table


def _inverse(table: Tensor) -> Tensor:
    """int64: the code of each token up to the largest, -1 where it is none."""
    codes = torch.full((int(table.max()) + 1,), -1)
    codes[table[table >= 0]] = (table >= 0).nonzero().squeeze(1)
    return codes
