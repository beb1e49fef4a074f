"""S3-Rec's text: one line per user, ``user item item ...``, oldest first; items are numbered from 1."""

from __future__ import annotations

from array import array
from pathlib import Path

import torch

from genrec_fast.base.jagged import Jagged
from genrec_fast.data.interactions import Dataset, Interactions
from genrec_fast.data.readers.categories import category_columns, path_of
from genrec_fast.data.readers.items import told
from genrec_fast.data.readers.lines import (
    VECTORS,
    agree,
    contiguous,
    fail,
    find_one,
    integer,
    numbered_lines,
    read_vectors,
)
from genrec_fast.data.readers.semantic_ids import codes_by_number, find_published

LOOKS_FOR = "interactions.txt, or a single *.txt (lines `user item item ...`)"


def find(folder: Path) -> list[Path]:
    """The file of interactions, if this folder has this format."""
    found = find_one(folder, ("interactions.txt", "*.txt"))
    return [] if found is None else [found]


def read(folder: Path, path: Path) -> Dataset:
    """Reads interactions, and beside them ``items.tsv``, ``item_embeddings*.npy`` and ``semantic_ids*.json``.

    Raises:
        DataError: a malformed line or file, or files that disagree about the items.
    """
    users: dict[str, int] = {}
    values = array("q")  # 8 bytes an event
    lengths: list[int] = []
    last_line: list[int] = []  # line of each user, to name it when an item turns out not to exist
    for number, line in enumerate(numbered_lines(path), 1):
        fields = line.split()
        if not fields:
            continue
        user = str(integer(path, number, fields[0], "the user", 0))
        if user in users:
            raise fail(
                path,
                number,
                f"user {user} stands on line {last_line[users[user]]} already; if each line is an event, columns "
                "(--columns user item ...) names what stands on it",
            )
        if len(fields) == 1:
            raise fail(path, number, f"user {user} has no items")
        users[user] = len(lengths)
        values.extend(_items(path, number, fields[1:]))
        lengths.append(len(fields) - 1)
        last_line.append(number)

    counts: dict[Path, int] = {}
    titles = attributes = features = item_codes = categories = None
    if (table := find_one(folder, ("items.tsv",))) is not None:
        titles, attributes, categories = _read_items(table)
        counts[table] = len(titles)
    if (vectors := find_one(folder, VECTORS)) is not None:
        features = read_vectors(vectors)
        counts[vectors] = len(features)
    if (published := find_published(folder)) is not None:
        item_codes = codes_by_number(published, first=0)
        counts[published] = len(item_codes)
    num_items = agree(counts)

    items = torch.frombuffer(values, dtype=torch.int64).clone() if values else torch.empty(0, dtype=torch.int64)
    if num_items is None:  # nothing says which items exist: those that were touched
        names, items = torch.unique(items, return_inverse=True)
        item_ids = [str(name) for name in names.tolist()]
    else:
        if bool((items > num_items).any()):
            at = int((items > num_items).nonzero()[0])
            line_index = int(torch.searchsorted(torch.cumsum(torch.tensor(lengths), 0), at, right=True))
            source = next(iter(counts)).name
            raise fail(path, last_line[line_index], f"item {values[at]} is not among the {num_items} of {source}")
        items = items - 1
        item_ids = [str(i + 1) for i in range(num_items)]
    jagged = Jagged.from_lengths(items, torch.tensor(lengths, dtype=torch.int64))
    interactions = Interactions(jagged, None, list(users), item_ids)
    return Dataset(folder.name, interactions, titles, attributes, features, item_codes, categories)


def _items(path: Path, number: int, tokens: list[str]) -> list[int]:
    joined = "".join(tokens)
    if joined.isascii() and joined.isdigit() and len(max(tokens, key=len)) <= 18:  # the usual line, checked at once
        items = list(map(int, tokens))
        if min(items) >= 1:
            return items
    return [integer(path, number, token, "an item", 1) for token in tokens]  # finds the token to name


def _read_items(path: Path) -> tuple[list[str], list[str] | None, list[list[str]] | None]:
    """``item_id <tab> text [<tab> attributes ...]`` below a header line, in any order of the ids."""
    lines = ((number, line) for number, line in enumerate(numbered_lines(path), 1) if line.strip())
    first, head = next(lines, (1, ""))
    header = head.split("\t")
    if header[0] != "item_id" or len(header) < 2:
        raise fail(path, first, f"the header must be item_id, a text and any attributes, got {head[:80]!r}")
    rows: dict[int, list[str]] = {}
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) != len(header):
            raise fail(path, number, f"must have {len(header)} tab-separated fields, got {len(fields)}")
        item = integer(path, number, fields[0], "the item", 1)
        if item in rows:
            raise fail(path, number, f"item {item} stands on an earlier line already")
        rows[item] = fields
    count = contiguous(path, rows, 1)
    ordered = [rows[i + 1] for i in range(count)]
    attributes = [" | ".join(row[2:]) for row in ordered] if len(header) > 2 else None
    places = {name: header.index(name) for name in category_columns(header[2:])}
    categories = [path_of({name: row[place] for name, place in places.items()}) for row in ordered]
    return [row[1] for row in ordered], attributes, told(categories)
