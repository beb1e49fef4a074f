"""Tables of named columns, one event a line: CSV, Parquet, JSON lines, and the published sets that are such tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from genrec_fast.base.errors import DataError, InvalidValueError
from genrec_fast.data.interactions import Dataset
from genrec_fast.data.readers.events import Events, layout_of, read_events
from genrec_fast.data.readers.items import Items, list_items, look_up, told
from genrec_fast.data.readers.known import DESCRIPTIONS, EVENTS, LAYOUTS, Layout, fitting, is_table, plain_name
from genrec_fast.data.readers.lcrec import read_texts
from genrec_fast.data.readers.lines import VECTORS, agree, find_one, read_vectors
from genrec_fast.data.readers.open import open_table
from genrec_fast.data.readers.options import Reading
from genrec_fast.data.readers.semantic_ids import PUBLISHED, find_published, keys_of_items, published_codes
from genrec_fast.data.readers.table import Table

LOOKS_FOR = (
    "interactions.csv, .tsv, .parquet or .jsonl, packed by gzip or not, a published set by the names of its files "
    "(ratings.csv, ratings.dat, u.data, ...), or a single such file beside items.* (columns user, item, timestamp)"
)
_ITEMS = ("items.parquet", "items.csv", "items.tsv", "items.jsonl", "items.json", "items.csv.gz", "items.jsonl.gz")
_NO_EVENTS = ("items.*", "*.item.json", "*.user.json", "*.inter.json", *PUBLISHED)


def find(folder: Path) -> list[Path]:
    """The files of interactions, if this folder has this format."""
    for place in (folder, folder / "data"):  # the second: KuaiRec and KuaiRand
        if not place.is_dir():
            continue
        paths = [path for path in sorted(place.iterdir()) if path.is_file() and is_table(path)]
        for pattern in EVENTS:
            if found := fitting(paths, pattern):
                return found if pattern.startswith("log_") else [_only(place, pattern, found)]
        others = [path for path in paths if not any(fitting([path], pattern) for pattern in _NO_EVENTS)]
        plain = [path for path in others if path.suffix in (".csv", ".parquet")]
        if len(plain) == 1 and not any(fitting(plain, one.files) for one in DESCRIPTIONS):
            return plain
        told = [path for path in others if _holds_events(path)]
        if len(told) == 1:
            return told
    return []


def _only(folder: Path, pattern: str, found: list[Path]) -> Path:
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(f"{folder}: {pattern} must fit one file, got {names}; give the path of one of them")
    return found[0]


def _holds_events(path: Path) -> bool:
    """Whether a file is a table with the columns of a known kind of events."""
    if any(fitting([path], one.files) for one in DESCRIPTIONS):
        return False
    try:
        layout = layout_of(table := open_table(path), Reading())
    except DataError:
        return False
    return layout is not None and {layout.timestamp, layout.rating, layout.title} & set(table.names) != set()


def read(folder: Path, paths: Sequence[Path], reading: Reading) -> Dataset:
    """Reads events and, beside them, a file of items, vectors and semantic IDs in its order.

    Timestamps are numbers (see ``to_seconds``), dates or ISO times; they become seconds since 1970, UTC. A title that
    is missing is "".

    Raises:
        DataError: a malformed line or file, or files that disagree about the items.
        InvalidValueError: min_rating without a column of ratings, a unit of times that are dates or not there.
    """
    tables = [open_table(path, reading) for path in paths]
    layout = layout_of(tables[0], reading)
    if layout is None:  # a column is missing: said in the words of the plain layout
        named = dict(reading.given())
        user, item = named.get("user", LAYOUTS[0].user), named.get("item", LAYOUTS[0].item)
        layout = Layout(user, item, reading.timestamp or "timestamp", reading.rating or "rating")
    layout.check()
    beside = paths[0].parent
    described = find_one(beside, _ITEMS)
    items = None
    if described is not None and described not in paths:
        table = open_table(described, Reading(encoding=reading.encoding))
        item = next((name for name in (layout.item, "item") if name in table.names), layout.item)
        table.check_column(item, "item")
        title = reading.title or next((name for name in ("title", "name") if name in table.names), None)
        if title is not None:
            table.check_column(title, "title")
        items = list_items(table, item, title, [name for name in table.names if name not in (item, title)])
    name = plain_name(paths[0]).partition(".")[0] if folder.is_file() else folder.name
    return dataset_of(name, beside, tables, layout, reading, items)


def dataset_of(
    name: str, folder: Path, tables: Sequence[Table], layout: Layout, reading: Reading, items: Items | None
) -> Dataset:
    """Events of some tables, with what stands about the items in ``items``, in the events or beside them."""
    told = items is None and layout.title is not None
    told = told and (reading.title is not None or layout.title in tables[0].names)
    if told and layout.title not in tables[0].names:
        raise InvalidValueError(
            f"data.load: title (--title) must be None or a column of {tables[0].path}, as {folder} has no file of "
            f"items (items.csv or items.parquet, *.item), got {layout.title!r}"
        )
    events = read_events(tables, layout, reading, with_titles=told)
    lists = items is not None
    if items is None and not told:
        paths = [path for path in sorted(folder.iterdir()) if path.is_file()]
        items = look_up(paths, tables[0].path, reading.item, events.item_ids, folder)
    if items is None and not told and (texts := find_one(folder, ("*.item.json",))) is not None:
        items = _numbered(texts, events.item_ids)
    titles = events.titles if items is None else items.titles
    attributes = None if items is None else items.attributes
    item_ids, numbers = events.item_ids, events.items
    if lists and items is not None:
        item_ids, numbers = items.item_ids, _listed(events, items)
    categories = None if items is None else items.categories

    counts = {items.path if lists and items is not None else tables[0].path: len(item_ids)}
    features = item_codes = None
    if (vectors := find_one(folder, VECTORS)) is not None:
        features = read_vectors(vectors)
        counts[vectors] = len(features)
    agree(counts)
    if (published := find_published(folder)) is not None:
        item_codes = published_codes(published, item_ids, listed=lists)
    interactions = events.interactions(numbers, item_ids, reading.actions or ())
    return Dataset(name, interactions, titles, attributes, features, item_codes, categories)


def _numbered(path: Path, item_ids: Sequence[str]) -> Items:
    """LC-Rec's texts of items, "" where it has none."""
    texts = read_texts(path)
    keys = keys_of_items(path, texts, item_ids, listed=False)
    rows = [texts.get(key, ("", "", [])) for key in keys]
    titles, more, categories = map(list, zip(*rows, strict=True))
    return Items(path, list(item_ids), titles, more, told(categories))


def _listed(events: Events, items: Items) -> np.ndarray:
    """The number of each event's item in the list of items."""
    known = {name: number for number, name in enumerate(items.item_ids)}
    numbers: np.ndarray = np.array([known.get(name, -1) for name in events.item_ids], dtype=np.int32)[events.items]
    strange = np.flatnonzero(numbers < 0)
    if strange.size:
        event = int(strange[0])
        name = events.item_ids[events.items[event]]
        raise events.fail(event, f"item {name!r} is not in {items.path.name}")
    return numbers
