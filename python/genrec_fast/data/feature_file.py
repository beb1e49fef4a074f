"""Item vectors that stay on disk: a ``.npy`` file read block by block."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from tokenize import TokenError  # numpy reads old headers as Python
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.data.readers.lines import fail

_BLOCK_BYTES = 1 << 24  # larger ones are mapped anew by malloc each time, which costs a page fault per 4 KiB
_MULTIPLE = 1024  # of rows: see the notes of ops.kmeans_step
_FLOATS = {2: torch.float16, 4: torch.float32, 8: torch.float64}
_SAMPLES, _SAMPLE_BYTES = 64, 4096


class FeatureFile:
    """Vectors ``[N, F]`` in a ``.npy`` file, of which a block at a time is in memory.

    The file holds float16, float32 or float64 in C order, as ``numpy.save`` writes it, or bfloat16 as ``ml_dtypes``
    has it (which numpy writes as raw 2-byte elements). Rows are read at their positions, not mapped: mapped pages
    count as the process's memory until the system takes them back.

    Args:
        path: the file; what follows the last row is not looked at.

    Attributes:
        num_rows: N, may be 0.
        width: F, at least 1.

    Raises:
        DataError: not such a file, or one cut short.
        InvalidTypeError: not a path (an array that is mapped from a file already is one block of its own).

    Example:
        >>> import tempfile, numpy, genrec_fast as gf
        >>> path = tempfile.mkdtemp() + "/features.npy"
        >>> numpy.save(path, numpy.arange(6.0).reshape(3, 2))
        >>> file = gf.data.FeatureFile(path)
        >>> file.num_rows, file.width, [len(block) for block in file.blocks(2)]
        (3, 2, [2, 1])
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise InvalidTypeError(f"FeatureFile: path must name a .npy file, got {type(path).__name__}")
        self.path = Path(path)
        try:
            with self.path.open("rb") as file:
                shape, fortran, self._dtype = _header(self.path, file)
                self._offset = file.tell()
                size = os.fstat(file.fileno()).st_size
        except OSError as error:
            raise fail(self.path, None, f"cannot be read: {error.strerror}") from error
        raw = self._dtype.kind == "V" and self._dtype.itemsize == 2 and self._dtype.names is None
        if not raw and (self._dtype.kind != "f" or self._dtype.itemsize > 8):
            raise fail(self.path, None, f"must be float16, float32, float64 or bfloat16, got {self._dtype}")
        if len(shape) != 2 or shape[0] < 0 or shape[1] < 1:
            raise fail(self.path, None, f"must be [N, F] with F at least 1, got {list(shape)}")
        self.num_rows, self.width = shape
        if fortran and self.num_rows > 1 and self.width > 1:
            raise fail(self.path, None, "must be in C order (rows end to end), got Fortran order")
        wanted = self._offset + self.num_rows * self._row_bytes
        if size < wanted:
            raise fail(self.path, None, f"cut short: {self.num_rows} rows need {wanted} bytes, got {size}")

    @property
    def _row_bytes(self) -> int:
        return self.width * self._dtype.itemsize

    def blocks(self, rows_per_block: int | None = None, *, first: int = 0, last: int | None = None) -> Iterator[Tensor]:
        """Rows ``[first, last)`` in order, as float32 ``[n, F]`` of n = ``rows_per_block`` (the last one: fewer).

        Args:
            rows_per_block: ``None``: as many as fill 16 MiB, a multiple of 1024 where that is possible.
            first: row to begin with.
            last: row to end before; ``None``: N.

        Raises:
            DataError: a value that is not finite in float32 (naming its row), or the file has shrunk.
            InvalidValueError: rows_per_block below 1, or rows that the file does not have.
        """
        last = self.num_rows if last is None else last
        if not 0 <= first <= last <= self.num_rows:
            raise InvalidValueError(f"FeatureFile: rows must be within [0, {self.num_rows}], got [{first}, {last})")
        rows = self.default_rows() if rows_per_block is None else rows_per_block
        if rows < 1:
            raise InvalidValueError(f"FeatureFile: rows_per_block must be at least 1, got {rows}")
        return self._blocks(rows, first, last)

    def default_rows(self) -> int:
        """Rows of a block where none are named."""
        rows = _BLOCK_BYTES // (4 * self.width)
        return max(rows // _MULTIPLE * _MULTIPLE or rows, 1)

    def identity(self) -> str:
        """A hash of path, size, time of change, header and samples of the contents: another one, another file."""
        stat = self.path.stat()
        what = (str(self.path.resolve()), stat.st_size, stat.st_mtime_ns, self.num_rows, self.width, str(self._dtype))
        digest = hashlib.sha256(repr(what).encode())
        with self.path.open("rb") as file:
            for sample in range(_SAMPLES):
                file.seek(stat.st_size * sample // _SAMPLES)
                digest.update(file.read(_SAMPLE_BYTES))
        return digest.hexdigest()

    def _blocks(self, rows: int, first: int, last: int) -> Iterator[Tensor]:
        with self.path.open("rb", buffering=0) as file:
            file.seek(self._offset + first * self._row_bytes)
            for start in range(first, last, rows):
                count = min(rows, last - start)
                block = self._convert(self._read(file, count, start))
                # One pass tells that all is well: a sum of finite numbers that overflows is looked at again.
                if not bool(block.sum().isfinite()) and not bool((finite := block.isfinite().all(1)).all()):
                    row = start + int((~finite).nonzero()[0])
                    raise fail(self.path, None, f"row {row} holds a value that is not finite in float32")
                yield block

    def _read(self, file: BinaryIO, count: int, start: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        raw = np.empty(count * self._row_bytes, dtype=np.uint8)
        view, done = raw.data, 0
        while done < len(raw):
            got = file.readinto(view[done:])  # type: ignore[attr-defined]
            if not got:
                raise fail(
                    self.path, None, f"cut short while it was read: it ends in row {start + done // self._row_bytes}"
                )
            done += got
        return raw

    def _convert(self, raw: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Tensor:
        if not self._dtype.isnative and self._dtype.kind == "f":
            raw = raw.view(self._dtype).astype(self._dtype.newbyteorder("=")).view(np.uint8)
        kind = torch.bfloat16 if self._dtype.kind == "V" else _FLOATS[self._dtype.itemsize]
        return torch.from_numpy(raw).view(kind).view(-1, self.width).float()


def _header(path: Path, file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    try:
        with warnings.catch_warnings():  # numpy's word on headers of Python 2: nothing its reader could do about it
            warnings.simplefilter("ignore", UserWarning)
            version = np.lib.format.read_magic(file)
            if version == (1, 0):
                return np.lib.format.read_array_header_1_0(file)
            if version == (2, 0):
                return np.lib.format.read_array_header_2_0(file)
    except (ValueError, EOFError, SyntaxError, TypeError, OverflowError, MemoryError, TokenError) as error:
        raise fail(path, None, f"not a .npy array: {error}") from error
    raise fail(path, None, f"must be a .npy file of version 1.0 or 2.0, got {version}")
