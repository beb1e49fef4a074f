"""LC-Rec's and LETTER's json: ``*.inter.json``, ``*.index.json``, ``*.item.json``; items are numbered from 0."""

from __future__ import annotations

from pathlib import Path

import torch

from genrec_fast.base.checks import as_whole
from genrec_fast.base.jagged import Jagged
from genrec_fast.data.interactions import Dataset, Interactions
from genrec_fast.data.readers.categories import as_cell, category_columns, path_of
from genrec_fast.data.readers.items import told
from genrec_fast.data.readers.lines import (
    VECTORS,
    agree,
    contiguous,
    fail,
    find_one,
    integer,
    read_json,
    read_vectors,
)
from genrec_fast.data.readers.semantic_ids import codes_by_number, find_published

LOOKS_FOR = "*.inter.json ({user: [item, ...]}; beside it *.index.json and *.item.json)"


def find(folder: Path) -> list[Path]:
    """The file of interactions, if this folder has this format."""
    found = find_one(folder, ("*.inter.json",))
    return [] if found is None else [found]


def read(folder: Path, path: Path) -> Dataset:
    """Reads interactions, and beside them semantic IDs, item texts and ``*emb*.npy`` vectors.

    Raises:
        DataError: a malformed file, or files that disagree about the items.
    """
    histories = read_json(path)
    if not histories:
        raise fail(path, None, "holds no users")
    values: list[int] = []
    lengths: list[int] = []
    for user, items in histories.items():
        if not isinstance(items, list):
            raise fail(path, None, f"user {user!r} must have a list of items, got {type(items).__name__}")
        items = list(map(as_whole, items))
        for item in items:
            if isinstance(item, bool) or not isinstance(item, int) or not 0 <= item < 10**18:
                raise fail(path, None, f"user {user!r}: an item must be an integer from 0, got {item!r}")
        values.extend(items)
        lengths.append(len(items))

    if not values:
        raise fail(path, None, f"must hold some items, but the lists of all {len(lengths)} users are empty")

    counts: dict[Path, int] = {}
    titles = attributes = features = item_codes = categories = None
    if (texts := find_one(folder, ("*.item.json",))) is not None:
        titles, attributes, categories = _read_items(texts)
        counts[texts] = len(titles)
    if (published := find_published(folder)) is not None:
        item_codes = codes_by_number(published, first=0)
        counts[published] = len(item_codes)
    if (vectors := find_one(folder, (*VECTORS, "*emb*.npy"))) is not None:
        features = read_vectors(vectors)
        counts[vectors] = len(features)
    num_items = agree(counts)

    ids = torch.tensor(values, dtype=torch.int64)
    if num_items is None:
        names, ids = torch.unique(ids, return_inverse=True)
        item_ids = [str(name) for name in names.tolist()]
    else:
        if bool((ids >= num_items).any()):
            at = int((ids >= num_items).nonzero()[0])
            row = int(torch.searchsorted(torch.cumsum(torch.tensor(lengths), 0), at, right=True))
            source = next(iter(counts)).name
            user = list(histories)[row]
            raise fail(path, None, f"user {user!r}: item {values[at]} is not among the {num_items} of {source}")
        item_ids = [str(i) for i in range(num_items)]
    jagged = Jagged.from_lengths(ids, torch.tensor(lengths, dtype=torch.int64))
    name = path.name.removesuffix(".inter.json") or folder.name
    interactions = Interactions(jagged, None, list(histories), item_ids)
    return Dataset(name, interactions, titles, attributes, features, item_codes, categories)


def _read_items(path: Path) -> tuple[list[str], list[str], list[list[str]] | None]:
    """Titles, attributes and categories of all items, which are numbered from 0."""
    texts = read_texts(path)
    rows: dict[int, tuple[str, str, list[str]]] = {}
    for name, row in texts.items():
        item = integer(path, None, name, "an item number", 0)
        if item in rows:
            raise fail(path, None, f"item {item} stands there twice")
        rows[item] = row
    ordered = [rows[i] for i in range(contiguous(path, rows, 0))]
    if not ordered:
        raise fail(path, None, "holds no items")
    titles, more, categories = map(list, zip(*ordered, strict=True))
    return titles, more, told(categories)


def read_texts(path: Path) -> dict[str, tuple[str, str, list[str]]]:
    """``{item: {"title": ..., other texts}}`` as title, attributes (all other texts) and categories of each key.

    Raises:
        DataError: not such a file.
    """
    rows: dict[str, tuple[str, str, list[str]]] = {}
    for name, fields in read_json(path).items():
        fields = {} if fields is None else fields
        if not isinstance(fields, dict):
            raise fail(path, None, f"item {name!r} must be an object of texts, got {type(fields).__name__}")
        known = {key: value for key, value in fields.items() if not _is_missing(value)}
        title = known.pop("title", "")
        if not isinstance(title, str):
            raise fail(path, None, f"item {name!r}: title must be a text, got {type(title).__name__}")
        kinds = {kind: as_cell(known[kind]) or _flat(known[kind]) for kind in category_columns(list(known))}
        rows[name] = title, " | ".join(map(_flat, known.values())), path_of(kinds)
    return rows


def _is_missing(value: object) -> bool:
    """null, or the NaN that pandas writes."""
    return value is None or value != value


def _flat(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(part) for part in value if not _is_missing(part))
    return str(value)
