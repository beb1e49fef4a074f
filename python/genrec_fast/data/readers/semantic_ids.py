"""Published semantic IDs: ``*.index.json`` of LC-Rec and LETTER, and what says which item each of them is."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor

from genrec_fast.base.errors import CorruptFileError, DataError
from genrec_fast.base.files import file_checksum
from genrec_fast.data.readers.lines import contiguous, fail, find_one, integer, numbered_lines, read_json

PUBLISHED = ("semantic_ids*.json", "*.index.json")
"""Names of files of semantic IDs: this library's, and LC-Rec's and LETTER's."""

_CODE = re.compile(r"<?([A-Za-z]*)_?(\d{1,9})>?", re.ASCII)


def find_published(folder: Path) -> Path | None:
    """The file of semantic IDs in a folder, if there is one."""
    return find_one(folder, PUBLISHED)


def read_item_codes(path: Path) -> dict[str, tuple[int, ...]]:
    """``{"item": ["<a_183>", "<b_70>", ...]}`` or ``{"item": [183, 70, ...]}``.

    A single letter before a number names its level: a the first, b the second.

    Raises:
        DataError: not such a file, IDs of different lengths, or a letter of another level.
        CorruptFileError: not as ``genrec-fast tokenize`` wrote it, by the checksum in ``report.json`` beside it.
    """
    _check_sum(path)
    codes: dict[str, tuple[int, ...]] = {}
    levels = 0
    for item, tokens in read_json(path).items():
        if not isinstance(tokens, list) or not tokens:
            raise fail(path, None, f"item {item!r} must have a list of codes, got {tokens!r}")
        codes[item] = row = tuple(_code(path, item, level, token) for level, token in enumerate(tokens))
        levels = levels or len(row)
        if len(row) != levels:
            raise fail(path, None, f"item {item!r} has {len(row)} codes, the items before it have {levels}")
    if not codes:
        raise fail(path, None, "holds no items")
    return codes


def _check_sum(path: Path) -> None:
    report = path.with_name("report.json")
    try:
        known = json.loads(report.read_bytes())["sha256"][path.name]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return  # nothing was written down about this file
    if path.is_file() and file_checksum(path) != known:
        raise CorruptFileError(
            f"{path}: must be as 'genrec-fast tokenize' wrote it, but its checksum is not that of {report}; tokenize "
            f"again, or remove {report.name} if the file was changed on purpose"
        )


def _code(path: Path, item: str, level: int, token: object) -> int:
    if isinstance(token, int) and not isinstance(token, bool) and 0 <= token < 1_000_000_000:
        return token
    match = _CODE.fullmatch(token) if isinstance(token, str) else None
    if match is None:
        raise fail(path, None, f"item {item!r}: a code must look like <a_183> or be an integer from 0, got {token!r}")
    letter, due = match[1].lower(), chr(ord("a") + level)
    if len(letter) == 1 and letter != due:
        raise fail(
            path,
            None,
            f"item {item!r}: the code of level {level} must have the letter {due}, got {token!r}; "
            "numbers alone need no letters",
        )
    return int(match[2])


def codes_by_number(path: Path, first: int) -> Tensor:
    """int32 ``[items, L]`` from a file whose keys are ``first, first + 1, ...``."""
    codes = read_item_codes(path)
    numbers = {integer(path, None, name, "an item number", first): row for name, row in codes.items()}
    count = contiguous(path, numbers, first)
    return torch.tensor([numbers[first + i] for i in range(count)], dtype=torch.int32)


def published_codes(path: Path, item_ids: Sequence[str], listed: bool = True) -> Tensor:
    """int32 ``[N, L]`` for items of these names; see ``keys_of_items``.

    Raises:
        DataError: a malformed file, or an item without a semantic ID.
    """
    codes = read_item_codes(path)
    keys = keys_of_items(path, codes, item_ids, listed)
    for name, key in zip(item_ids, keys, strict=True):
        if key not in codes:
            number = "" if key == name else f" (number {key})"
            raise fail(path, None, f"item {name!r}{number} has no semantic ID")
    return torch.tensor([codes[key] for key in keys], dtype=torch.int32)


def keys_of_items(path: Path, keys: Collection[str], item_ids: Sequence[str], listed: bool = True) -> Sequence[str]:
    """The key in LC-Rec's or LETTER's file ``path`` of each item.

    Of ``*.index.json`` and ``*.item.json`` it is the item's number, where a ``*.item2id`` beside the file says the
    numbers (lines ``name <tab> number``), or the item's name, where the keys are the names. Else it is the item's row,
    from 0, unless no key is a number. Where the items are not ``listed`` by a file, their rows are those of their first
    events, which a file from elsewhere can hardly mean: that is warned of.

    Raises:
        DataError: keys and items do not fit, or an item without a number.
    """
    stem, _, kind = path.name.removesuffix(".json").rpartition(".")
    theirs = kind in ("index", "item")
    table = find_one(path.parent, (f"{stem}.item2id", "*.item2id")) if theirs else None
    if table is not None:
        numbers = _read_numbers(table)
        strange = next((name for name in item_ids if name not in numbers), None)
        if strange is not None:
            raise fail(table, None, f"item {strange!r} of the interactions is not there")
        return [numbers[name] for name in item_ids]
    if (theirs and set(item_ids) == set(keys)) or not any(key.isdigit() for key in keys):
        return item_ids
    rows = {integer(path, None, name, "an item number", 0): name for name in keys}
    if contiguous(path, rows, 0) != len(item_ids):
        raise fail(
            path,
            None,
            f"has {len(rows)} items, but the data has {len(item_ids)}; its keys must be the items' names, or the rows "
            "of the file of items from 0, or a NAME.item2id beside it (lines: name, tab, number) must say which item "
            "each is",
        )
    if theirs and not listed:
        warnings.warn(
            f"data.load: nothing says which items the numbers of {path} mean; they are taken by the order of first "
            "events. A NAME.item2id beside it (lines: name, tab, number) or a file of items says it",
            stacklevel=2,
        )
    return [rows[row] for row in range(len(rows))]


def _read_numbers(path: Path) -> dict[str, str]:
    """``name <tab> number`` a line, in RecBole's form with a header, too."""
    numbers: dict[str, str] = {}
    for line, text in enumerate(numbered_lines(path), 1):
        if not text.strip():
            continue
        fields = text.split("\t") if "\t" in text else text.split()
        if len(fields) != 2:
            raise fail(path, line, f"must be a name, a tab and a number, got {text[:80]!r}")
        name, number = fields[0], fields[1].strip()
        if not number.isdigit():
            if line == 1:
                continue  # a header
            raise fail(path, line, f"an item's number must be an integer from 0, got {number[:40]!r}")
        if name in numbers:
            raise fail(path, line, f"item {name!r} stands there twice")
        numbers[name] = str(int(number))
    if not numbers:
        raise DataError(f"{path}: holds no items")
    return numbers
