"""Semantic IDs as text, in the two forms that language models are trained on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from genrec_fast.base.checks import check_integers
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError

Style = Literal["lcrec", "openonerec"]
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_CODES = {"lcrec": re.compile(r"<([a-z])_([0-9]{1,9})>"), "openonerec": re.compile(r"<s_([a-z])_([0-9]{1,9})>")}
_BEGIN, _END = "<|sid_begin|>", "<|sid_end|>"


def to_text(codes: Tensor, style: Style = "lcrec") -> list[str]:
    """Writes each row of integer ``codes [m, L]``, L up to 26.

    "lcrec": ``<a_183><b_70>``; "openonerec": ``<|sid_begin|><s_a_183><s_b_70><|sid_end|>``.

    Raises:
        InvalidTypeError: codes are not integers.
        InvalidValueError: a wrong shape, a negative code, or another style.

    Example:
        >>> import torch
        >>> from genrec_fast.tokenizers.formats.text import to_text
        >>> to_text(torch.tensor([[183, 70]]))
        ['<a_183><b_70>']
    """
    _check_style("to_text", style)
    check_integers("to_text", "codes", codes, "[m, L]")
    if codes.dim() != 2 or not 1 <= codes.shape[1] <= len(_LETTERS):
        raise InvalidValueError(f"to_text: codes must be [m, 1 to {len(_LETTERS)}], got {list(codes.shape)}")
    if bool((codes < 0).any()):
        raise InvalidValueError(f"to_text: codes must be at least 0, got {int(codes.min())}")
    if style == "lcrec":
        return ["".join(f"<{_LETTERS[i]}_{code}>" for i, code in enumerate(row)) for row in codes.tolist()]
    rows = ["".join(f"<s_{_LETTERS[i]}_{code}>" for i, code in enumerate(row)) for row in codes.tolist()]
    return [_BEGIN + row + _END for row in rows]


def from_text(texts: Sequence[str], style: Style = "lcrec") -> Tensor:
    """Reads what ``to_text`` writes: int32 ``[m, L]``; a missing ``<|sid_end|>`` is fine.

    Raises:
        InvalidTypeError: texts are not strings.
        InvalidValueError: a text is not a semantic ID of that style, or has another number of levels than the first.

    Example:
        >>> from genrec_fast.tokenizers.formats.text import from_text
        >>> from_text(["<a_183><b_70>", "<a_1><b_2>"]).tolist()
        [[183, 70], [1, 2]]
    """
    _check_style("from_text", style)
    rows: list[list[int]] = []
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise InvalidTypeError(f"from_text: texts must be a sequence of strings, got {texts!r:.60}")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidTypeError(f"from_text: text {index} must be a string, got {text!r:.60}")
        body = text
        if style == "openonerec":
            if not text.startswith(_BEGIN):
                raise InvalidValueError(f"from_text: text {index} must begin with {_BEGIN}, got {text!r}")
            body = text.removeprefix(_BEGIN).removesuffix(_END)
        row: list[int] = []
        place = 0
        while place < len(body):
            match = _CODES[style].match(body, place)
            if match is None or len(row) == len(_LETTERS) or match[1] != _LETTERS[len(row)]:
                raise InvalidValueError(
                    f"from_text: text {index} must be codes of levels a, b, ... in order, got {text!r}"
                )
            row.append(int(match[2]))
            place = match.end()
        if not row or (rows and len(row) != len(rows[0])):
            wanted = f"have {len(rows[0])} codes like the first" if rows else "have at least one code"
            raise InvalidValueError(f"from_text: text {index} must {wanted}, got {text!r}")
        rows.append(row)
    return torch.tensor(rows, dtype=torch.int32) if rows else torch.empty(0, 0, dtype=torch.int32)


def _check_style(op: str, style: str) -> None:
    if not isinstance(style, str) or style not in _CODES:
        raise InvalidValueError(f"{op}: style must be 'lcrec' or 'openonerec', got {style!r}")
