"""From a folder of files to a Dataset: which format it is, and what was looked for when it is none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from genrec_fast.base.errors import DataError, InvalidValueError
from genrec_fast.data.interactions import Dataset
from genrec_fast.data.readers import lcrec, recbole, s3rec, tables
from genrec_fast.data.readers.columns import Columns
from genrec_fast.data.readers.times import check_time_unit

__all__ = ["FORMATS", "load"]

# In the order they are tried: the more telling file name first.
FORMATS = {"recbole": recbole, "lcrec": lcrec, "table": tables, "s3rec": s3rec}


def load(
    folder: str | os.PathLike[str],
    *,
    format: Literal["s3rec", "lcrec", "recbole", "table"] | None = None,
    min_rating: float | None = None,
    user: str | None = None,
    item: str | None = None,
    timestamp: str | None = None,
    rating: str | None = None,
    title: str | None = None,
    time_unit: Literal["s", "ms", "us", "ns"] | None = None,
    actions: Sequence[str] | None = None,
) -> Dataset:
    """Reads a folder of interactions, and what stands beside them about the items.

    Args:
        folder: holds one data set in one of the formats of docs/data.md.
        format: "s3rec" (text lines), "lcrec" (json), "recbole" (atomic files) or "table" (CSV or Parquet); ``None``
            goes by the names of the files.
        min_rating: recbole and table: keep only events whose rating is at least this.
        user: recbole and table: name of that column, "user_id" (recbole) or "user" unless given; likewise ``item``,
            ``timestamp`` (a file without such a column is taken to be in order, oldest first) and ``rating``.
        item: see ``user``; in the file of items, too.
        timestamp: see ``user``.
        rating: see ``user``.
        title: recbole and table: name of the column of titles in the file of items; unless given "title" (table), or
            the first column whose name has "title" or "name" in it (recbole).
        time_unit: recbole and table: of numbers that are times, which become seconds; ``None``: told by their size,
            for moments between 1990 and 2100.
        actions: recbole and table: what each event was, as rules over columns of numbers, such as
            ``("rating>=4", "rating>=5")``; they become ``interactions.actions``. "rating" is the column of ratings,
            whatever its name.

    Returns:
        Dataset; its items include those that nobody touched, where a file beside the interactions lists them.

    Raises:
        DataError: no known format, a malformed line (``file:line: reason``), or files that disagree.
        InvalidTypeError: the name of a column that is no text.
        InvalidValueError: an unknown format or unit, or an option that the format or the folder does not have.
        UnsupportedError: a CSV or Parquet file without the optional extra ``tables``.

    Warns:
        UserWarning: times that are too large for seconds and look like no other unit either.

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
    columns = Columns(user=user, item=item, timestamp=timestamp, rating=rating, title=title)
    check_time_unit(time_unit)
    if not root.is_dir():
        raise DataError(f"data.load: folder must be an existing folder, got {str(root)!r}")
    found: dict[str, Path] = {}
    for name, reader in FORMATS.items():
        if format in (None, name) and (path := reader.find(root)) is not None:
            found[name] = path
            break
    if not found:
        tried = FORMATS if format is None else {format: FORMATS[format]}
        wanted = "; ".join(f"{name}: {reader.LOOKS_FOR}" for name, reader in tried.items())
        there = ", ".join(sorted(path.name for path in root.iterdir())[:10]) or "nothing"
        raise DataError(f"data.load: {root} must hold one of: {wanted}. It holds {there}")
    kind, path = next(iter(found.items()))
    root = root.resolve()
    read = {"recbole": recbole.read, "table": tables.read}.get(kind)
    if read is not None:
        return read(root, path, columns=columns, time_unit=time_unit, min_rating=min_rating, actions=actions)
    given = [name for name, _ in columns.given()]
    given += [
        name
        for name, value in (("time_unit", time_unit), ("min_rating", min_rating), ("actions", actions))
        if value is not None
    ]
    if given:
        raise InvalidValueError(
            f"data.load: {given[0]} must be None for the format {kind} of {path}, which has no such column"
        )
    return lcrec.read(root, path) if kind == "lcrec" else s3rec.read(root, path)
