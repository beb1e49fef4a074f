"""LC-Rec's and LETTER's json: ``*.inter.json``, ``*.index.json``, ``*.item.json``; items are numbered from 0."""

from __future__ import annotations

from pathlib import Path

import torch

from genrec_fast.base.jagged import Jagged
from genrec_fast.data.interactions import Dataset, Interactions
from genrec_fast.data.readers.lines import (
    PUBLISHED,
    VECTORS,
    agree,
    codes_by_number,
    contiguous,
    fail,
    find_one,
    integer,
    read_json,
    read_vectors,
)

__all__ = ["LOOKS_FOR", "find", "read"]

LOOKS_FOR = "*.inter.json ({user: [item, ...]}; beside it *.index.json and *.item.json)"


def find(folder: Path) -> Path | None:
    """The file of interactions, if this folder has this format."""
    return find_one(folder, ("*.inter.json",))


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
        for item in items:
            if isinstance(item, bool) or not isinstance(item, int) or not 0 <= item < 10**18:
                raise fail(path, None, f"user {user!r}: an item must be an integer from 0, got {item!r}")
        values.extend(items)
        lengths.append(len(items))

    counts: dict[Path, int] = {}
    titles = attributes = features = item_codes = None
    if (texts := find_one(folder, ("*.item.json",))) is not None:
        titles, attributes = _read_items(texts)
        counts[texts] = len(titles)
    if (published := find_one(folder, PUBLISHED[1:])) is not None:
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
    return Dataset(
        name, Interactions(jagged, None, list(histories), item_ids), titles, attributes, features, item_codes
    )


def _read_items(path: Path) -> tuple[list[str], list[str]]:
    """``{item: {"title": ..., other texts}}``; what is not the title becomes the attributes."""
    rows: dict[int, dict[str, object]] = {}
    for name, fields in read_json(path).items():
        item = integer(path, None, name, "an item number", 0)
        if item in rows:
            raise fail(path, None, f"item {item} stands there twice")
        fields = {} if fields is None else fields
        if not isinstance(fields, dict):
            raise fail(path, None, f"item {name!r} must be an object of texts, got {type(fields).__name__}")
        rows[item] = known = {key: value for key, value in fields.items() if not _is_missing(value)}
        if not isinstance(known.get("title", ""), str):
            raise fail(path, None, f"item {name!r}: title must be a text, got {type(known['title']).__name__}")
    ordered = [rows[i] for i in range(contiguous(path, rows, 0))]
    if not ordered:
        raise fail(path, None, "holds no items")
    titles = [str(fields.get("title", "")) for fields in ordered]
    return titles, [" | ".join(_flat(value) for key, value in f.items() if key != "title") for f in ordered]


def _is_missing(value: object) -> bool:
    """null, or the NaN that pandas writes."""
    return value is None or value != value


def _flat(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(part) for part in value if not _is_missing(part))
    return str(value)
