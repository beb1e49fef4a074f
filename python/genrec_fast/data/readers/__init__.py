"""From a folder or a file to a Dataset: which format it is, and what was looked for when it is none."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Literal

from typing_extensions import Unpack

from genrec_fast.base.errors import DataError, InvalidValueError
from genrec_fast.data.interactions import Dataset
from genrec_fast.data.readers import lcrec, recbole, s3rec, tables
from genrec_fast.data.readers.known import is_table
from genrec_fast.data.readers.options import Options, Reading
from genrec_fast.data.splits import k_core

# In the order they are tried: the more telling file name first.
FORMATS = {"recbole": recbole, "lcrec": lcrec, "table": tables, "s3rec": s3rec}
_ENDINGS = {".inter": "recbole", ".inter.json": "lcrec", ".txt": "s3rec"}


def load(
    folder: str | os.PathLike[str],
    *,
    format: Literal["s3rec", "lcrec", "recbole", "table"] | None = None,
    **options: Unpack[Options],
) -> Dataset:
    """Reads interactions, and what stands beside them about the items.

    Args:
        folder: a folder with one data set in one of the formats of docs/data.md, or its file of interactions.
        format: "s3rec" (text lines), "lcrec" (json), "recbole" (atomic files) or "table" (CSV, Parquet, JSON lines and
            the published sets that are such tables); ``None`` goes by the names of the files.
        options: ``user``, ``item``, ``timestamp``, ``rating``, ``title`` (names of columns), ``min_rating``,
            ``k_core``, ``time_unit``, ``actions``, ``columns``, ``separator``, ``encoding``; see ``readers.options``.

    Returns:
        Dataset; its items include those that nobody touched, where a file beside the interactions lists them.

    Raises:
        DataError: no known format, a malformed line (``file:line: reason``), or files that disagree.
        InvalidTypeError: an option that there is not, or the name of a column that is no text.
        InvalidValueError: an unknown format or unit, or an option that the format or the folder does not have.

    Warns:
        UserWarning: times that are too large for seconds and look like no other unit either; events of KuaiRec
            without a time, which are left out.

    Notes:
        Tables are read in blocks of 16 MiB; an event of one takes under 100 bytes until it is in its user's row, and no
        Python object. JSON, RecBole and S3-Rec: as tables; LC-Rec's json is read whole.

    Example:
        >>> import tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "interactions.txt").write_text("1 10 11 12 13")
        >>> load(folder).num_items
        4
    """
    root = Path(folder)
    if format is not None and format not in FORMATS:
        raise InvalidValueError(f"data.load: format must be one of {', '.join(FORMATS)}, got {format!r}")
    reading = Reading.of(options)
    _check(folder)
    kind, paths = (
        (_kind_of(root, format, reading), [root.resolve()]) if root.is_file() else _look(root, format, reading)
    )
    root = root.resolve()
    if kind in ("recbole", "table"):
        read = recbole.read if kind == "recbole" else tables.read
        dataset = read(root, paths, reading)
    else:
        given = [name for name, _ in reading.given() if name != "k_core"]
        if given:
            raise InvalidValueError(
                f"data.load: {given[0]} must be None for the format {kind} of {paths[0]}, which has no such column"
            )
        place = root.parent if root.is_file() else root
        dataset = lcrec.read(place, paths[0]) if kind == "lcrec" else s3rec.read(place, paths[0])
    if reading.k_core is None:
        return dataset
    try:
        return k_core(dataset, reading.k_core)
    except InvalidValueError as error:  # nothing is left: said of the option
        raise InvalidValueError(
            f"data.load: k_core must leave some events, got {reading.k_core} which leaves none"
        ) from error


def _check(folder: str | os.PathLike[str]) -> None:
    """Raises unless there is such a folder or a file that lies on a disk: others cannot be read twice."""
    try:
        mode = Path(folder).stat().st_mode if os.fspath(folder) else 0
    except (OSError, ValueError):  # such a name may be too long, or have a zero in it
        mode = 0
    if not mode:
        raise DataError(f"data.load: folder must be an existing folder or file, got {str(folder)!r:.200}")
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise DataError(
            f"data.load: folder must be a folder or a file on disk, got {str(folder)!r:.200}, which is {kind}; "
            "write what it gives to a file first"
        )


def _look(root: Path, format: str | None, reading: Reading) -> tuple[str, list[Path]]:
    """The format of a folder, and its files of interactions."""
    if format is None and reading.columns is not None and (paths := tables.find(root) or s3rec.find(root)):
        return "table", paths  # a text, too, where its columns have names
    tried = {name: reader for name, reader in FORMATS.items() if format in (None, name)}
    try:
        for name, reader in tried.items():
            if paths := reader.find(root):
                return name, paths
    except OSError as error:
        raise DataError(f"data.load: {root} cannot be read: {error.strerror}") from error
    wanted = "; ".join(f"{name}: {reader.LOOKS_FOR}" for name, reader in tried.items())
    there = ", ".join(sorted(path.name for path in root.iterdir())[:10]) or "nothing"
    raise DataError(
        f"data.load: {root} must hold one of: {wanted}. It holds {there}; "
        "where it is one of these, give its path in place of the folder"
    )


def _kind_of(path: Path, format: str | None, reading: Reading) -> str:
    """The format of a file; a text with names or separators for its columns is a table."""
    if format is not None:
        return format
    if reading.columns is not None or reading.separator is not None:
        return "table"
    return next((kind for ending, kind in _ENDINGS.items() if path.name.endswith(ending)), "table")


def is_dataset_file(path: Path) -> bool:
    """Whether a file is one of interactions, by its name."""
    return path.is_file() and (is_table(path) or path.name.endswith(tuple(_ENDINGS)))
