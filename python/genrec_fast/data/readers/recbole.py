"""RecBole's atomic files: ``.inter`` and ``.item``, tab separated, with a typed header ``name:type``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from genrec_fast.data.interactions import Dataset
from genrec_fast.data.readers.cells import open_cells
from genrec_fast.data.readers.items import list_items
from genrec_fast.data.readers.known import Layout
from genrec_fast.data.readers.lines import fail, find_one
from genrec_fast.data.readers.options import Reading
from genrec_fast.data.readers.table import Part, Table
from genrec_fast.data.readers.tables import dataset_of

LOOKS_FOR = "*.inter (tab separated, header `user_id:token item_id:token ...`; beside it *.item)"
TYPES = ("token", "token_seq", "float", "float_seq")


def find(folder: Path) -> list[Path]:
    """The file of interactions, if this folder has this format."""
    found = find_one(folder, ("*.inter",))
    return [] if found is None else [found]


def read(folder: Path, paths: Sequence[Path], reading: Reading) -> Dataset:
    """Reads events (sorted by time, ties in the order of the file), and beside them items, vectors, semantic IDs.

    ``item_embeddings*.npy`` and ``semantic_ids*.json`` (keys from 0) follow the lines of the ``.item`` file. Of the
    options, ``user`` stands in place of user_id, ``item`` of item_id, and ``title`` of what ``_title_of`` finds.

    Raises:
        DataError: a malformed line or file, or files that disagree about the items.
        InvalidValueError: min_rating without a column of ratings, or a unit of times that are not there.
    """
    (path,) = paths
    table, _ = _open(path, reading.encoding)
    layout = Layout(
        reading.user or "user_id",
        reading.item or "item_id",
        reading.timestamp or "timestamp",
        reading.rating or "rating",
        reading.title,
    )
    layout.check()
    table.check_column(layout.user, "user")
    table.check_column(layout.item, "item")
    items = None
    if (described := find_one(path.parent, (f"{path.stem}.item", "*.item"))) is not None:
        listed, types = _open(described, reading.encoding)
        listed.check_column(layout.item, "item")
        title = reading.title or _title_of({name: kind for name, kind in types.items() if name != layout.item})
        if title is not None:
            listed.check_column(title, "title")
        others = [name for name in listed.names if name not in (layout.item, title)]
        blanks = [name for name in others if types[name] == "token_seq"]
        items = list_items(listed, layout.item, title, others, blanks=blanks)
    return dataset_of(path.stem or folder.name, path.parent, [table], layout, reading, items)


def _open(path: Path, encoding: str | None) -> tuple[Table, dict[str, str]]:
    """The table, and the type of each column. Quotes are letters here."""
    raw = open_cells(path, separator="\t", encoding=encoding)
    types: dict[str, str] = {}
    for field in raw.names:
        name, _, kind = field.partition(":")
        if kind not in TYPES or not name or name in types:
            raise fail(
                path,
                raw.header,
                f"a column of the header must be name:type with type {'|'.join(TYPES)}, got {field[:40]!r}",
            )
        types[name] = kind

    def parts(wanted: Sequence[str]) -> Iterator[Part]:
        for part in raw.parts([f"{name}:{types[name]}" for name in wanted]):
            yield Part(dict(zip(wanted, part.columns.values(), strict=True)), part.lines)

    return dataclasses.replace(raw, names=tuple(types), parts=parts), types


def _title_of(types: dict[str, str]) -> str | None:
    """The column a person would read: one called title or name, else the first of words."""
    for word in ("title", "name"):
        for name in types:
            if word in name.lower():
                return name
    return next((name for name, kind in types.items() if kind == "token_seq"), None)
