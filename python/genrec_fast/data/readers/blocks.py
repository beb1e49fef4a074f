"""A file of lines in blocks: unpacked, as UTF-8, cut at line ends. What is held is a block, however large the file."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.data.readers.lines import fail

_SIZE = 1 << 24
_GZIP = b"\x1f\x8b"
_OTHERS = ("idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape")
_KINDS = {
    _GZIP: "packed by gzip twice; unpack it once",
    b"PK\x03\x04": "a zip archive or a spreadsheet; unpack it, or save the sheet as CSV",
    b"BZh": "packed by bzip2; unpack it, or pack it by gzip",
    b"\xfd7zXZ": "packed by xz; unpack it, or pack it by gzip",
    b"\x28\xb5\x2f\xfd": "packed by zstd; unpack it, or pack it by gzip",
    b"7z\xbc\xaf": "a 7z archive; unpack it",
    b"PAR1": "a Parquet file, whose name must end in .parquet",
    b"ARROW1": "a file of Arrow; save it as Parquet",
    b"\x93NUMPY": "an array of numpy, which has no columns",
    b"SQLite format 3": "a database of SQLite; export its table as CSV",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture",
}


@dataclass(frozen=True)
class Block:
    """Some lines of a file."""

    text: bytes
    """UTF-8; every line of it ends with a line feed"""
    line: int
    """number of its first line in the file, from 1"""


def check_encoding(encoding: str | None) -> None:
    """Raises unless Python knows the encoding, or it is ``None``."""
    if encoding is None:
        return
    try:
        found = codecs.lookup(encoding)
        "".encode(encoding)  # those that are no encodings of texts raise a LookupError
    except (LookupError, TypeError, ValueError) as error:
        raise InvalidValueError(
            f"data.load: encoding (--encoding) must be one that Python knows, such as latin-1, got {encoding!r:.40}"
        ) from error
    if found.name in _OTHERS:
        raise InvalidValueError(
            f"data.load: encoding (--encoding) must be one of whole files, such as latin-1, got {encoding!r:.40}"
        )


def blocks(path: Path, encoding: str | None = None, size: int = _SIZE) -> Iterator[Block]:
    """All lines of a file, packed by gzip or not, without a byte order mark.

    Args:
        path: the file.
        encoding: ``None``: UTF-8, or UTF-16 where the file begins with its mark, as spreadsheets write it.
        size: bytes of a block; a longer line makes a longer block.

    Raises:
        DataError: unreadable, cut short, or of another encoding (naming the line).
    """
    line, rest = 1, b""
    try:
        with _open(path) as file:
            start = file.read(16)
            file.seek(0)
            kind = next((kind for mark, kind in _KINDS.items() if start.startswith(mark)), None)
            if kind is not None:
                raise fail(path, None, f"must be a table as text, but is {kind}")
            decoder = codecs.getincrementaldecoder(_codec(encoding) or _marked(file))()
            while True:
                raw = file.read(size)
                try:
                    text = rest + decoder.decode(raw, final=not raw).encode()
                except UnicodeDecodeError as error:
                    bad, before = error.object[error.start], error.object[: error.start]
                    raise fail(
                        path,
                        line + rest.count(b"\n") + before.count(b"\n"),
                        f"not {'UTF-8' if encoding is None else encoding}: byte 0x{bad:02x}; "
                        "encoding (--encoding latin-1) names another",
                    ) from error
                except UnicodeError as error:  # UTF-16 without its mark
                    raise fail(path, None, f"not {encoding}: {error}; encoding (--encoding) names another") from error
                if b"\0" in text:
                    at = line + text[: text.index(b"\0")].count(b"\n")
                    raise fail(
                        path,
                        at,
                        "a zero byte, as in UTF-16 and in binary files; encoding (--encoding utf-16-le) names it",
                    )
                end = text.rfind(b"\n") + 1
                if not raw:  # the last line may lack its end
                    if text:
                        yield Block(text if end == len(text) else text + b"\n", line)
                    return
                if end:
                    yield Block(text[:end], line)
                    line += text.count(b"\n", 0, end)
                rest = text[end:]
    except (OSError, EOFError, zlib.error) as error:
        raise fail(path, None, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _codec(encoding: str | None) -> str | None:
    """The encoding, one that leaves the mark out where it is UTF-8."""
    return "utf-8-sig" if encoding is not None and codecs.lookup(encoding).name == "utf-8" else encoding


def _marked(file: gzip.GzipFile | BufferedReader) -> str:
    """The encoding that the mark at the file's beginning says, UTF-8 without one."""
    mark = file.read(2)
    file.seek(0)
    return "utf-16" if mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def usual_encoding(path: Path) -> str:
    """UTF-8 where the (small) file is that, else latin-1: what the older MovieLens files are written in."""
    try:
        with _open(path) as file:
            file.read().decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    except (OSError, EOFError, zlib.error) as error:
        raise fail(path, None, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return "utf-8-sig"


def _open(path: Path) -> gzip.GzipFile | BufferedReader:
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
    return gzip.open(path, "rb") if packed else path.open("rb")
