"""A trie's file: its tensors in safetensors, with format version, sizes and checksum."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from safetensors import safe_open
from torch import Tensor

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.files import checksum, save_tensors

FILE_KIND = "genrec_fast.trie"
FILE_VERSION = 1
LEVEL_FIELDS = ("tokens", "child_bases", "child_deltas")
LEAF_FIELDS = ("leaf_bases", "leaf_deltas", "leaf_items")


def write_trie(
    path: str | os.PathLike[str], codebook_sizes: Sequence[int], num_items: int, tensors: dict[str, Tensor]
) -> None:
    """Writes the file, whole or not at all; ``tensors`` by field, those of a level as ``field.level``."""
    metadata = {
        "kind": FILE_KIND,
        "version": str(FILE_VERSION),
        "codebook_sizes": json.dumps(codebook_sizes),
        "num_items": str(num_items),
    }
    metadata["checksum"] = checksum(metadata, tensors)
    save_tensors(path, tensors, metadata)


def read_trie(path: str | os.PathLike[str], verify: bool) -> tuple[Any, ...]:
    """The fields of ``Trie`` in their order, mapped into memory and not yet checked.

    Raises:
        InvalidValueError: no such file, or with ``verify`` one that was altered.
        SafetensorError: no whole file.
    """
    with safe_open(path, framework="pt", device="cpu") as file:
        metadata = file.metadata() or {}
        if metadata.get("kind") != FILE_KIND:
            raise InvalidValueError(f"no trie: kind must be {FILE_KIND!r}, got {metadata.get('kind')!r}")
        if metadata.get("version") != str(FILE_VERSION):
            raise InvalidValueError(f"version must be {FILE_VERSION}, got {metadata.get('version')!r}")
        try:
            sizes = [int(size) for size in json.loads(metadata["codebook_sizes"])]
            num_items = int(metadata["num_items"])
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InvalidValueError(f"unreadable metadata: {error!r}") from error
        wanted = {*(f"{n}.{v}" for n in LEVEL_FIELDS for v in range(len(sizes))), *LEAF_FIELDS}
        if set(file.keys()) != wanted:
            raise InvalidValueError(f"tensors must be {sorted(wanted)}, got {sorted(file.keys())}")
        tensors = {name: file.get_tensor(name) for name in wanted}
    if verify:
        stored = metadata.pop("checksum", None)
        if stored != (computed := checksum(metadata, tensors)):
            raise InvalidValueError(f"checksum must be {stored}, got {computed}: the content was altered")
    levels = [tuple(tensors[f"{n}.{v}"] for v in range(len(sizes))) for n in LEVEL_FIELDS]
    leaves = [tensors[name] for name in LEAF_FIELDS]
    return tuple(sizes), num_items, *levels, *leaves
