"""What all readers share: text files as checked lines, names as ids, vectors and semantic IDs beside the data."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from tokenize import TokenError  # numpy reads old headers as Python
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec_fast.base.errors import DataError

VECTORS = ("item_embeddings.*npy", "item_embeddings*.npy")
"""Names of files of vectors: the usual one, with a type or without, before any other."""


def fail(path: Path, line: int | None, reason: str) -> DataError:
    """The one form of every reader's complaint: ``file:line: reason``."""
    return DataError(f"{path}: {reason}" if line is None else f"{path}:{line}: {reason}")


def read_text(path: Path) -> str:
    """A UTF-8 file as it stands, without a byte order mark.

    Raises:
        DataError: unreadable, empty, or not UTF-8 (naming the line).
    """
    raw = read_bytes(path)
    if not raw.strip():
        raise fail(path, None, "the file is empty")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise fail(
            path, line, f"not UTF-8: byte 0x{raw[error.start]:02x} at position {error.start}; save it as UTF-8"
        ) from error


def numbered_lines(path: Path) -> list[str]:
    """All lines of a UTF-8 file without their ends; line i of the list is line i + 1 of the file.

    Only a line feed ends a line (a carriage return before it is dropped), so that numbers match any editor's.

    Raises:
        DataError: as ``read_text``.
    """
    lines = read_text(path).split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line[:-1] if line.endswith("\r") else line for line in lines]


def read_bytes(path: Path) -> bytes:
    """All of a file; ``DataError`` where the system refuses it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise fail(path, None, f"cannot be read: {error.strerror}") from error


def find_one(folder: Path, patterns: Iterable[str]) -> Path | None:
    """The only file that fits the first pattern that any file fits; ``None`` when none fits.

    Raises:
        DataError: several files fit.
    """
    for pattern in patterns:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if len(found) > 1:
            raise DataError(f"{folder}: {pattern} must fit one file, got {', '.join(path.name for path in found)}")
        if found:
            return found[0]
    return None


def contiguous(path: Path, keys: Iterable[int], first: int) -> int:
    """How many items, given that their numbers are ``first, first + 1, ...`` without a gap.

    Raises:
        DataError: a number is missing.
    """
    present = set(keys)
    for offset in range(len(present)):
        if first + offset not in present:
            raise fail(
                path, None, f"item {first + offset} is missing (items must be numbered from {first} without gaps)"
            )
    return len(present)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object whose keys occur once.

    Raises:
        DataError: not JSON, not an object, or a key twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise fail(path, None, f"key {twice!r} stands twice")
        return out

    text = "\n".join(numbered_lines(path))
    try:
        data = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise fail(path, error.lineno, f"not JSON: {error.msg} (column {error.colno})") from error
    except RecursionError as error:
        raise fail(path, None, "not usable JSON: nested too deeply") from error
    except DataError:
        raise
    except ValueError as error:  # an integer of thousands of digits
        raise fail(path, None, f"not usable JSON: {error}") from error
    if "\\ud" in text.lower():  # half of a pair of surrogates: no file can be written with it
        try:
            json.dumps(data, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise fail(path, None, f"holds a letter that is no text: {error.object[error.start]!r}") from error
    if not isinstance(data, dict):
        raise fail(path, None, f"must be a JSON object, got {type(data).__name__}")
    return data


def read_vectors(path: Path) -> Tensor:
    """float32 ``[rows, F]`` from ``.npy`` of float16, float32 or float64.

    Raises:
        DataError: not such a file, or a value that is not finite.
    """
    try:
        with warnings.catch_warnings():  # numpy's word on headers of Python 2: nothing its reader could do about it
            warnings.simplefilter("ignore", UserWarning)
            array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, OverflowError, MemoryError, TokenError) as error:
        raise not_an_array(path, error) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise fail(path, None, "not a .npy array: it is an archive of arrays")
    if array.dtype.kind != "f" or array.dtype.itemsize > 8 or array.ndim != 2 or not array.shape[1]:
        raise fail(path, None, f"must be float16, float32 or float64 [items, F], got {array.dtype} {list(array.shape)}")
    with np.errstate(over="ignore"):
        vectors = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    finite = torch.isfinite(vectors).all(1)
    if not bool(finite.all()):
        raise fail(path, None, f"row {int((~finite).nonzero()[0])} holds a value that is not finite in float32")
    return vectors


def not_an_array(path: Path, error: Exception) -> DataError:
    """The complaint about a file that numpy cannot read, without numpy's advice to run what is in it."""
    if isinstance(error, OSError) and error.strerror:
        return fail(path, None, f"cannot be read: {error.strerror}")
    reason = "it holds Python objects, or is another kind of file" if "pickle" in str(error) else error
    return fail(path, None, f"not a .npy array: {reason}")


def integer(path: Path, line: int | None, token: str, what: str, low: int) -> int:
    """A decimal integer of at most 18 digits, at least ``low``."""
    if not (token.isascii() and token.isdigit() and len(token) <= 18) or int(token) < low:
        shown = token if len(token) <= 40 else token[:40] + "..."
        raise fail(path, line, f"{what} must be an integer from {low}, got {shown!r}")
    return int(token)


def agree(counts: dict[Path, int]) -> int | None:
    """The number of items, which all files that state it must share.

    Raises:
        DataError: they differ.
    """
    stated: Iterator[tuple[Path, int]] = iter(counts.items())
    first = next(stated, None)
    if first is None:
        return None
    for path, count in stated:
        if count != first[1]:
            raise fail(path, None, f"has {count} items, but {first[0].name} has {first[1]}")
    return first[1]
