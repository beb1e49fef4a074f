"""Catalogs that do not fit into memory: codes of a file of vectors, and k-means over one, block by block."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from genrec_fast.base.errors import (
    DataError,
    GenrecError,
    InvalidTypeError,
    InvalidValueError,
    StorageError,
    UnsupportedError,
)
from genrec_fast.base.files import checksum, storing, sync_folder, write_text
from genrec_fast.base.progress import Progress
from genrec_fast.data.feature_file import FeatureFile
from genrec_fast.ops.kmeans_step import KMeansStep, kmeans_step
from genrec_fast.ops.rq_encode import rq_encode
from genrec_fast.tokenizers.base import Tokenizer

_RECORD_SECONDS = 2.0  # between two notes of how far a run is: each waits for the disk
_READ_BYTES = 1 << 20


def encode_file(
    tokenizer: Tokenizer | Sequence[Tensor],
    source: str | os.PathLike[str] | FeatureFile,
    out: str | os.PathLike[str],
    *,
    rows_per_block: int | None = None,
    num_beams: int = 1,
    precision: str = "float32",
    progress: Progress | None = None,
) -> Path:
    """Writes the codes of all vectors of a file to another, holding one block of them in memory.

    A run that was killed is resumed when it is called again with the same source, tokenizer and ``out`` (block sizes
    may differ); an error in the source ends it for good. Meanwhile a hidden file next to ``out`` holds the codes, and a
    small one says how far they go; ``out`` itself appears at the end, whole.

    Args:
        tokenizer: a fitted tokenizer of feature vectors, or codebooks float ``[K_l, F]``, one per level.
        source: ``.npy`` of float16, float32, float64 or bfloat16 ``[N, F]``, see ``data.FeatureFile``.
        out: a ``.npy`` file, int32 ``[N, levels]`` without a dedup level; an old one is replaced.
        rows_per_block: vectors in memory at a time; ``None``: 16 MiB of them.
        num_beams: with codebooks, as in ``ops.rq_encode``; a tokenizer has its own way.
        precision: with codebooks; the codes do not depend on it.
        progress: called after each block with ("encode", rows done, N, {"rows_per_second": of this run}).

    Returns:
        ``out``.

    Raises:
        DataError: the source is no such file, is cut short, holds a value that is not finite (naming its row),
            or is written to meanwhile.
        InvalidTypeError: ``tokenizer`` is neither.
        InvalidValueError: vectors of another width, a tokenizer not fitted, rows_per_block below 1, num_beams or
            precision beside a tokenizer, or ``out`` is the source or does not end in .npy.
        UnsupportedError: the tokenizer reads no vectors.
        FileNotFoundError: the folder of ``out`` does not exist.
        StorageError: the disk is full or read-only; what is done is kept, and the same call goes on from there.

    Notes:
        Codes equal ``encode`` of all vectors at once, whatever the blocks (a network before the quantizer, such as
        RQ-VAE's, may round otherwise in blocks of another size). Memory: about three blocks, whatever N is.

    Example:
        >>> import tempfile, numpy, torch
        >>> from genrec_fast.tokenizers import encode_file
        >>> folder = tempfile.mkdtemp()
        >>> numpy.save(folder + "/x.npy", numpy.array([[0.1], [0.9], [5.0]], dtype=numpy.float32))
        >>> done = encode_file([torch.tensor([[0.0], [4.0]]), torch.tensor([[0.0], [1.0]])], folder + "/x.npy",
        ...                    folder + "/codes.npy")
        >>> numpy.load(done).tolist()
        [[0, 0], [0, 1], [1, 1]]
    """
    file = source if isinstance(source, FeatureFile) else FeatureFile(source)
    target = Path(out)
    if target.suffix != ".npy":
        raise InvalidValueError(f"encode_file: out must end in .npy, got {target.name!r}")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"encode_file: the folder of {target} must exist, got {target.parent}")
    if target.exists() and target.samefile(file.path):
        raise InvalidValueError(f"encode_file: out must be another file than the source, got {target}")
    encode, learned, width = _encoder(tokenizer, num_beams, precision)
    if width is None:
        raise UnsupportedError("encode_file: tokenizer must be one of feature vectors, such as rqkmeans")
    if width != file.width:
        raise InvalidValueError(f"encode_file: source must be [N, {width}], got [{file.num_rows}, {file.width}]")
    rows = file.default_rows() if rows_per_block is None else rows_per_block
    if rows < 1:
        raise InvalidValueError(f"encode_file: rows_per_block must be at least 1, got {rows_per_block}")
    levels = encode(torch.empty(0, width)).shape[1]
    identity = file.identity()
    with _Unfinished(target, f"{identity} {learned}", file.num_rows, levels) as unfinished:
        start, begin = unfinished.rows, time.perf_counter()
        for block in file.blocks(rows, first=start):
            unfinished.append(encode(block))
            if progress is not None:
                speed = (unfinished.rows - start) / max(time.perf_counter() - begin, 1e-9)
                progress("encode", unfinished.rows, file.num_rows, {"rows_per_second": speed})
        if file.identity() != identity:
            raise DataError(f"{file.path}: must stay as it is while it is encoded, but it was written to")
        unfinished.finish()
    return target


def kmeans_step_file(
    source: str | os.PathLike[str] | FeatureFile,
    centroids: Tensor,
    *,
    codebooks: Sequence[Tensor] = (),
    rows_per_block: int | None = None,
) -> KMeansStep:
    """``ops.kmeans_step`` over all vectors of a file, or over their residuals after some levels.

    Args:
        source: ``.npy`` of vectors ``[N, F]``, see ``data.FeatureFile``.
        centroids: float ``[K, F]``.
        codebooks: of the levels before; each vector is replaced by its residual after them.
        rows_per_block: vectors in memory at a time; ``None``: 16 MiB of them.

    Returns:
        The step over all N; sums and counts have the bits of one call, the inertia too where blocks are multiples of
        1024 rows.

    Raises:
        DataError, InvalidTypeError, InvalidValueError: as ``encode_file`` and ``ops.kmeans_step``.
    """
    file = source if isinstance(source, FeatureFile) else FeatureFile(source)
    step = kmeans_step(torch.empty(0, file.width), centroids)
    labels = torch.empty(file.num_rows, dtype=torch.int32)
    row = 0
    for block in file.blocks(rows_per_block):
        step = kmeans_step(residuals(block, codebooks), centroids, after=step)
        labels[row : row + len(block)] = step.labels
        row += len(block)
    return step._replace(labels=labels)


def residuals(vectors: Tensor, codebooks: Sequence[Tensor]) -> Tensor:
    """What the levels leave over: float32 ``[N, D]``, ``for c in codebooks: r = r - c[nearest(r)]``."""
    rest = vectors.float()
    if codebooks:
        codes = rq_encode(vectors, codebooks).long()
        for column, codebook in zip(codes.unbind(1), codebooks, strict=True):
            rest = rest - codebook.float()[column]
    return rest


def _encoder(
    tokenizer: Tokenizer | Sequence[Tensor], num_beams: int, precision: str
) -> tuple[Callable[[Tensor], Tensor], str, int | None]:
    """What turns a block into codes, a hash of all that decides them, and the width of its vectors."""
    if isinstance(tokenizer, Tokenizer):
        if (num_beams, precision) != (1, "float32"):
            raise InvalidValueError(
                f"encode_file: num_beams and precision must be left to the tokenizer, got {num_beams} and {precision!r}"
            )
        _ = tokenizer.item_codes  # raises unless fitted
        metadata = {"kind": tokenizer.kind, "config": json.dumps(asdict(tokenizer.config), sort_keys=True)}
        return tokenizer.encode, checksum(metadata, tokenizer._learned()), tokenizer.feature_dim
    books = list(tokenizer) if isinstance(tokenizer, Sequence) else []
    if not books or not all(isinstance(book, Tensor) and book.dim() == 2 for book in books):
        raise InvalidTypeError(
            f"encode_file: tokenizer must be a Tokenizer or a sequence of codebooks [K, F], got {tokenizer!r:.60}"
        )
    hashed = checksum(
        {"kind": "codebooks", "num_beams": str(num_beams)},
        {f"{level:05}": book.cpu() for level, book in enumerate(books)},
    )
    return lambda block: rq_encode(block, books, num_beams=num_beams, precision=precision), hashed, books[0].shape[1]


class _Unfinished:
    """Codes on their way to ``target``: ``rows`` of them are there already, of this run or one before.

    Leaving the block by an error of ours removes them, as the same call would fail again; one of the disk keeps them.
    """

    def __init__(self, target: Path, identity: str, num_rows: int, levels: int) -> None:
        self.target, self.num_rows, self.rows = target, num_rows, 0
        self.identity = f"{identity} {num_rows} {levels}"
        short = f"{zlib.crc32(self.identity.encode()):08x}"  # other settings: another file, so no run spoils another's
        self.path = target.with_name(f".{target.stem}.{short}.unfinished.npy")
        self.note = self.path.with_suffix(".json")
        self._row_bytes, self._crc = 4 * levels, 0
        self._header = _header((num_rows, levels))
        self._noted = time.monotonic()

    def __enter__(self) -> _Unfinished:
        with storing(self.path, "encode_file"):
            self._file: BinaryIO = self._reopened() or self.path.open("wb+")
            if not self.rows:
                self.note.unlink(missing_ok=True)
                self._file.write(self._header)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt) and self.rows:
            self._record()
        with contextlib.suppress(OSError):  # closing writes what is left: the error before said that it cannot
            self._file.close()
        if kind is not None and issubclass(kind, GenrecError) and not issubclass(kind, StorageError):
            self._remove()

    def append(self, codes: Tensor) -> None:
        data = codes.contiguous().numpy().astype("<i4", copy=False).tobytes()
        with storing(self.path, "encode_file"):
            self._file.write(data)
        self._crc = zlib.crc32(data, self._crc)
        self.rows += len(codes)
        if time.monotonic() > self._noted + _RECORD_SECONDS:
            self._record()

    def finish(self) -> None:
        with storing(self.target, "encode_file"):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self.path.replace(self.target)
            sync_folder(self.target.parent)
            self._remove()

    def _record(self) -> None:
        with storing(self.path, "encode_file"):
            self._file.flush()
            os.fsync(self._file.fileno())  # before the note: it must not promise what a crash of the machine takes back
        write_text(self.note, json.dumps({"identity": self.identity, "rows": self.rows, "crc32": self._crc}))
        self._noted = time.monotonic()

    def _remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def _reopened(self) -> BinaryIO | None:
        """A killed run's file, at the end of its last whole block; ``None`` unless its bytes are as noted."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            rows, crc = int(note["rows"]), int(note["crc32"])
            same = note["identity"] == self.identity and 0 < rows <= self.num_rows
            file = self.path.open("rb+") if same else None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if file is None:
            return None
        whole, left = file.read(len(self._header)) == self._header, rows * self._row_bytes
        while left and (data := file.read(min(left, _READ_BYTES))):
            self._crc = zlib.crc32(data, self._crc)
            left -= len(data)
        if not whole or left or self._crc != crc:
            file.close()
            self._crc = 0
            return None
        file.seek(len(self._header) + rows * self._row_bytes)
        self.rows = rows
        return file


def _header(shape: tuple[int, int]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<i4", "fortran_order": False, "shape": shape})
    return stream.getvalue()
