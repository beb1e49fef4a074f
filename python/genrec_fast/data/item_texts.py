"""Items as texts, one a line or one a row of a table, with their categories where there are any."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genrec_fast.base.errors import DataError, InvalidValueError
from genrec_fast.data.readers.csv_rows import csv_rows
from genrec_fast.data.readers.lines import fail, not_an_array, numbered_lines

_ENDINGS = (".txt", ".tsv", ".csv", ".jsonl")
_USUAL = ("text", "title", "description", "name")


@dataclass(frozen=True)
class ItemTexts:
    """N items in the order of their file."""

    texts: list[str]
    categories: Tensor | None
    """int64 ``[N, depth]``, numbered per column in order of first appearance, -1 where empty; None: none asked for"""


def read_item_texts(
    path: str | os.PathLike[str], *, text_columns: Sequence[str] = (), category_columns: Sequence[str] = ()
) -> ItemTexts:
    """Reads what ``encode_texts`` makes vectors of.

    Args:
        path: .txt (each line a text), .csv or .tsv (a header line), or .jsonl (an object a line).
        text_columns: of a table: joined by blanks, empty ones left out. Without them all of text, title, description
            and name that there are.
        category_columns: of a table, from coarse to fine.

    Raises:
        DataError: a malformed line, a missing column, an item without text (``file:line: reason``).
        InvalidValueError: another kind of file, or columns of a .txt.
    """
    file = Path(path)
    if file.suffix not in _ENDINGS:
        raise InvalidValueError(f"read_item_texts: path must end in {', '.join(_ENDINGS)}, got {file.name!r}")
    if file.suffix == ".txt":
        if text_columns or category_columns:
            raise InvalidValueError(f"read_item_texts: a .txt has no columns, got {[*text_columns, *category_columns]}")
        rows: Iterator[tuple[int, dict[str, str]]] = (
            (number, {"text": line}) for number, line in enumerate(numbered_lines(file), start=1)
        )
    else:
        rows = _objects(file) if file.suffix == ".jsonl" else _table(file)
    texts, labels = [], []
    for number, row in rows:
        for name in (*text_columns, *category_columns):
            if name not in row:
                raise fail(file, number, f"must have a column {name}, got {', '.join(row)}")
        names = list(text_columns) or [name for name in _USUAL if name in row]
        if not names:
            raise fail(file, number, f"must have a column {' or '.join(_USUAL)}, got {', '.join(row) or 'none'}")
        text = " ".join(part for name in names if (part := row[name].strip()))
        if not text:
            raise fail(file, number, f"{' and '.join(names)} must hold a text, got none")
        texts.append(text)
        labels.append([row[name].strip() for name in category_columns])
    if not texts:
        raise fail(file, None, "holds no items")
    return ItemTexts(texts, _numbered(labels) if category_columns else None)


def read_categories(path: str | os.PathLike[str], num_items: int) -> Tensor:
    """int64 ``[N, depth]`` from a .npy of integers ``[N]`` or ``[N, depth]``; -1: unknown.

    Raises:
        DataError: not such a file, another number of items, or a number below -1.
    """
    file = Path(path)
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise not_an_array(file, error) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu" or array.ndim not in (1, 2):
        got = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else "an archive"
        raise fail(file, None, f"must be integers [items] or [items, depth], got {got}")
    table = array.reshape(len(array), -1)
    if len(table) != num_items or table.shape[1] == 0:
        raise fail(file, None, f"must have a row for each of {num_items} items, got {list(array.shape)}")
    if table.min() < -1 or table.max() > np.iinfo(np.int64).max:
        raise fail(file, None, f"must be at least -1 (unknown), got {table.min()} to {table.max()}")
    return torch.from_numpy(table.astype(np.int64))


def _table(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    tabs = file.suffix == ".tsv"  # quotes are letters there: texts hold inches
    rows = csv_rows(file, delimiter="\t" if tabs else ",", quotes=not tabs)
    first, header = next(rows, (1, []))
    if len(set(header)) < len(header):
        raise fail(file, first, f"columns must have names of their own, got {', '.join(header)}")
    for number, cells in rows:
        yield number, dict(zip(header, cells, strict=True))


def _objects(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    for number, line in enumerate(numbered_lines(file), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise fail(file, number, f"not JSON: {error.msg} (column {error.colno})") from error
        except (RecursionError, ValueError) as error:
            raise fail(file, number, f"not usable JSON: {type(error).__name__}") from error
        if not isinstance(row, dict):
            raise fail(file, number, f"must be a JSON object, got {type(row).__name__}")
        yield number, {name: _word(file, number, name, value) for name, value in row.items()}


def _word(file: Path, number: int, name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return " ".join(value)
    if isinstance(value, (str, int, float)):
        return str(value)
    raise DataError(f"{file}:{number}: {name} must be a text, a number or a list of texts, got {type(value).__name__}")


def _numbered(labels: list[list[str]]) -> Tensor:
    columns = []
    for column in zip(*labels, strict=True):
        numbers = {name: index for index, name in enumerate(dict.fromkeys(name for name in column if name))}
        columns.append([numbers.get(name, -1) for name in column])
    return torch.tensor(columns, dtype=torch.int64).T.contiguous()
