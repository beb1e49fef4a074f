"""What tables say about the items: a list of all of them, or descriptions of some."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from genrec_fast.data.readers.categories import as_text, category_columns, path_of
from genrec_fast.data.readers.known import DESCRIPTIONS, Description, fitting
from genrec_fast.data.readers.lines import fail
from genrec_fast.data.readers.open import open_table
from genrec_fast.data.readers.table import Table


@dataclass(frozen=True)
class Items:
    """N items.

    Args:
        path: of the file.
        item_ids: their names.
        titles: "" where there is none; ``None`` without such a column.
        attributes: the other columns, joined; ``None`` where there are none.
        categories: from the general to the special; ``None`` where there are none.
    """

    path: Path
    item_ids: list[str]
    titles: list[str] | None
    attributes: list[str] | None
    categories: list[list[str]] | None = None


def list_items(
    table: Table, item: str, title: str | None, others: Sequence[str], *, blanks: Collection[str] = ()
) -> Items:
    """A table that lists all items there are; in the columns ``blanks``, blanks separate words.

    Raises:
        DataError: an item without a name, or two of one name.
    """
    names = [item, *([title] if title else []), *others]
    item_ids: list[str] = []
    titles: list[str] = []
    rest: list[list[str]] = [[] for _ in others]
    lines: list[int] = []
    for part in table.parts(list(dict.fromkeys(names))):
        item_ids += table.keys(part, item).to_list()
        lines += part.lines.tolist()
        if title:
            titles += table.words(part, title).to_list()
        for column, name in zip(rest, others, strict=True):
            column += table.cells(part, name)
    if not item_ids:
        raise fail(table.path, None, "has no lines")
    known = dict(zip(item_ids, lines, strict=True))
    for line, name in zip(lines, item_ids, strict=True):
        if known[name] != line:
            raise table.fail(line, f"item {name!r} stands on several lines")
    kinds = category_columns(others)
    cells = dict(zip(others, rest, strict=True))
    categories = [
        path_of(dict(zip(kinds, row, strict=True)), blanks)
        for row in zip(*(cells[kind] for kind in kinds), strict=True)
    ]
    attributes = [" | ".join(map(as_text, row)) for row in zip(*rest, strict=True)] if others else None
    return Items(table.path, item_ids, titles if title else None, attributes, told(categories))


def told(categories: list[list[str]]) -> list[list[str]] | None:
    """``None`` where no item has any."""
    return categories if any(categories) else None


def look_up(
    paths: Sequence[Path], events: Path, item: str | None, wanted: Collection[str], folder: Path
) -> Items | None:
    """What a published file beside the events says about some items; "" for those it does not know.

    Args:
        paths: the files of the folder.
        events: the file of events: of several descriptions, the one whose name is part of this one's.
        item: name of the column of items, where one was given.
        wanted: names of the items.
        folder: for errors.

    Raises:
        DataError: several files fit, or a malformed one.
    """
    for description in DESCRIPTIONS:
        found = [path for path in fitting(paths, description.files) if path != events]
        if len(found) > 1:
            found = [path for path in found if _stem(path).removeprefix("meta_") in events.name] or found
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise fail(folder, None, f"{description.files} must fit one file for {events.name}, got {names}")
        if found:
            table = open_table(found[0])
            key = next((name for name in (item, *description.item) if name and name in table.names), None)
            if key is not None:
                return _described(table, key, description, wanted)
    return None


def _stem(path: Path) -> str:
    return path.name.partition(".")[0]


def _described(table: Table, key: str, description: Description, wanted: Collection[str]) -> Items:
    title = next((name for name in description.title if name in table.names), None)
    others = [name for name in description.attributes if name in table.names]
    kinds = [name for name in description.categories if name in table.names] or category_columns(others)
    titles = dict.fromkeys(wanted, "")
    attributes = dict.fromkeys(wanted, "")
    categories: dict[str, list[str]] = {item: [] for item in wanted}
    unknown = set(wanted)
    for part in table.parts(list(dict.fromkeys([key, *([title] if title else []), *others, *kinds]))):
        keys = table.words(part, key).to_list()
        named = table.words(part, title).to_list() if title else []
        columns = {name: table.cells(part, name) for name in dict.fromkeys([*others, *kinds])}
        for row, item in enumerate(keys):
            if item not in unknown:  # of several lines, the first
                continue
            unknown.remove(item)
            titles[item] = " ".join(named[row].split()) if title else ""  # captions run over lines
            said = (_said(as_text(columns[name][row]), name) for name in others)
            attributes[item] = " | ".join(filter(None, said))
            categories[item] = path_of({name: columns[name][row] for name in kinds})
    return Items(
        table.path,
        list(titles),
        list(titles.values()) if title else None,
        list(attributes.values()) if others else None,
        told(list(categories.values())),
    )


def _said(cell: str, column: str) -> str:
    """A cell as words; of a column genre:NAME the name, where the cell is 1."""
    kind, colon, name = column.partition(":")
    if kind == "genre" and colon:
        return name if cell == "1" else ""
    return cell.replace("|", ", ")
