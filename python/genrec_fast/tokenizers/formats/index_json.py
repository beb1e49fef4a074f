"""Semantic IDs as the ``index.json`` of LC-Rec and LETTER."""

from __future__ import annotations

import json
import os
from pathlib import Path

from torch import Tensor

from genrec_fast.base.checks import whole_number
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.files import write_text
from genrec_fast.data.readers.semantic_ids import codes_by_number
from genrec_fast.tokenizers.codes import check_item_codes

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write_index_json(path: str | os.PathLike[str], item_codes: Tensor, *, first: int = 0) -> None:
    """Writes ``{"0": ["<a_183>", "<b_70>", ...], ...}``, whole or not at all.

    Args:
        path: in a folder that exists.
        item_codes: integer ``[N, L]``, L up to 26.
        first: the number under which item 0 stands.

    Raises:
        InvalidTypeError: item_codes are not integers, or first is not an integer.
        InvalidValueError: a wrong shape, a negative code, more levels than letters, or first below 0.

    Example:
        >>> import tempfile, pathlib, torch
        >>> from genrec_fast.tokenizers import read_index_json, write_index_json
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "index.json"
        >>> write_index_json(path, torch.tensor([[183, 70], [5, 0]]))
        >>> path.read_text()
        '{"0": ["<a_183>", "<b_70>"], "1": ["<a_5>", "<b_0>"]}'
        >>> read_index_json(path).tolist()
        [[183, 70], [5, 0]]
    """
    check_item_codes("write_index_json", item_codes)
    whole_number("write_index_json", "first", first, least=0)
    if item_codes.shape[1] > len(_LETTERS):
        raise InvalidValueError(
            f"write_index_json: item_codes must have at most {len(_LETTERS)} levels, one a letter, "
            f"got {item_codes.shape[1]}"
        )
    rows = {
        str(item): [f"<{letter}_{code}>" for letter, code in zip(_LETTERS, row, strict=False)]
        for item, row in enumerate(item_codes.tolist(), start=first)
    }
    write_text(path, json.dumps(rows))


def read_index_json(path: str | os.PathLike[str], *, first: int = 0) -> Tensor:
    """int32 ``[N, L]`` of a file as LC-Rec and LETTER publish it; codes may also be plain integers.

    Args:
        path: the file.
        first: the number of item 0; the numbers from there on must have no gap.

    Raises:
        DataError: not such a file, naming file, item and reason.
        InvalidTypeError: first is not an integer.
        InvalidValueError: first is below 0.
    """
    whole_number("read_index_json", "first", first, least=0)
    return codes_by_number(Path(path), first)
