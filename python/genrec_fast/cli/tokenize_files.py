"""From features or texts to files of semantic IDs: what ``genrec-fast tokenize`` does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from genrec_fast import tokenizers
from genrec_fast.base.errors import DataError, InvalidValueError
from genrec_fast.base.files import atomic_path, file_checksum, make_folder, write_text
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.progress import Progress
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.catalog.categories import categories_by_level
from genrec_fast.cli.data_options import NO_OPTIONS, DataOptions
from genrec_fast.cli.flags import in_flags
from genrec_fast.data import encode_texts, read_categories, read_features, read_item_texts
from genrec_fast.data.readers import is_dataset_file

_TEXTS = (".txt", ".tsv", ".csv", ".jsonl")


def kinds() -> dict[str, type]:
    """Every tokenizer that makes semantic IDs, by name, with its config type."""
    found = [getattr(tokenizers, name) for name in tokenizers.__all__]
    members = [kind for kind in found if isinstance(kind, type) and issubclass(kind, tokenizers.Tokenizer)]
    return {
        kind.kind: kind.config_type
        for kind in sorted(members, key=lambda kind: getattr(kind, "kind", ""))
        if hasattr(kind, "kind") and kind.kind != "published"  # has its IDs already
    }


def _needs_no_features(config_type: type) -> bool:
    try:
        config_type().build(Catalog(num_items=1))
    except InvalidValueError:
        return False
    return True


@dataclass(frozen=True)
class Source:
    """What a tokenizer may learn from."""

    num_items: int
    features: Tensor | None
    histories: Jagged | None
    """of the training split"""
    categories: Tensor | None


def read_source(
    source: Path,
    *,
    encoder: Path | None = None,
    text_columns: Sequence[str] = (),
    category_columns: Sequence[str] = (),
    categories: Path | None = None,
    device: str | None = None,
    show_progress: bool = False,
    reading: DataOptions = NO_OPTIONS,
) -> Source:
    """Reads a .npy of features, a dataset folder, or a file of item texts.

    A dataset folder without features gives its items' titles and attributes to ``encoder``, if there is one;
    ``reading`` says how such a folder is read and divided. Its categories are read, where ``categories`` is not given.

    Raises:
        DataError: a malformed file, naming it.
        InvalidValueError: texts without an encoder, or options that ``source`` does not read.
        UnsupportedError: the optional extra ``text`` is not installed.
    """
    histories = found = features = own = None
    texts: list[str] | None = None
    given = ", ".join(reading.given())
    is_dataset = source.is_dir() or (is_dataset_file(source) and (bool(given) or source.suffix not in _TEXTS))
    if given and not is_dataset:
        raise InvalidValueError(f"tokenize: {given} must not be given for {source}, which is no dataset")
    if is_dataset:
        dataset = reading.load(source)
        features, count, histories = dataset.features, dataset.num_items, reading.splits(dataset).train.items
        own = categories_by_level(dataset.categories)
        if features is None and encoder is not None:
            described = [part for part in (dataset.titles, dataset.attributes) if part is not None]
            if not described:
                raise DataError(f"tokenize: {source} must hold features or texts of the items, got neither")
            texts = [" ".join(parts) for parts in zip(*described, strict=True)]
    elif source.suffix in _TEXTS:
        items = read_item_texts(source, text_columns=text_columns, category_columns=category_columns)
        texts, found, count = items.texts, items.categories, len(items.texts)
        if encoder is None:
            raise InvalidValueError(
                f"tokenize: encoder must be a folder with a sentence-transformers model, as {source.name} holds texts, "
                "got None"
            )
    else:
        features = read_features(source)
        count = features.shape[0]
    for name, columns in (("text_columns", text_columns), ("category_columns", category_columns)):
        if columns and source.suffix not in _TEXTS:
            raise InvalidValueError(f"tokenize: {name} must not be given for {source}, which is no table of items")
    if texts is not None and encoder is not None:
        with in_flags({"model_folder": "--encoder"}):
            features = encode_texts(texts, encoder, device=device, progress=show_progress)
    if categories is not None:
        if found is not None:
            raise InvalidValueError("tokenize: categories and category_columns must not be given together, got both")
        found = read_categories(categories, count)
    found = own if found is None else found
    if count < 1:
        raise DataError(f"tokenize: {source} must hold at least one item, got none")
    return Source(count, features, histories, found)


def tokenize(
    source: Source,
    out: Path,
    config: Any,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> str:
    """Fits a tokenizer and writes all that is worth keeping to the folder ``out``.

    - ``item_codes.npy``: int32 ``[N, L]``
    - ``item_codes.json``: LC-Rec's and LETTER's form, item number -> codes
    - ``tokenizer.safetensors``: for ``genrec_fast.tokenizers.load``
    - ``report.txt``, ``report.json``, and ``report.png`` where matplotlib is installed: see ``tokenizers.report``.
      ``report.json`` comes last, with the checksums of the first three: codes that are not its own are refused.

    Returns:
        The report as text, and what was written.

    Raises:
        GenrecError: as the tokenizer's ``fit``; more levels than letters.
        StorageError: ``out`` cannot be written to.
    """
    try:
        built = config.build(Catalog(num_items=source.num_items, features=source.features))
    except InvalidValueError as error:
        if source.features is not None:
            raise
        raise InvalidValueError(
            f"tokenize: source must hold item features for this kind, got none ({error}); give a folder with "
            "item_embeddings.npy, a file of features, or texts and --encoder. Kinds without features: "
            f"{', '.join(name for name, kind in kinds().items() if _needs_no_features(kind))}"
        ) from error
    try:
        built.fit(
            source.features,
            num_items=source.num_items,
            seed=seed,
            histories=source.histories,
            categories=source.categories,
            progress=progress,
        )
    except InvalidValueError as error:
        hints = {
            "histories": "give a dataset folder as the source",
            "categories": "give --categories, or a dataset folder whose items have some",
        }
        hint = next((hint for name, hint in hints.items() if f": {name} must be given" in str(error)), None)
        raise error if hint is None else InvalidValueError(f"{error}; {hint}") from error
    codes = built.item_codes
    labels = None if source.categories is None else source.categories[:, 0]
    if labels is not None and int(labels.max()) < 0:
        labels = None
    found = tokenizers.report(codes, source.features, labels, tokenizer=built)
    make_folder(out, "tokenize")
    tokenizers.write_index_json(out / "item_codes.json", codes)
    with atomic_path(out / "item_codes.npy") as temporary, temporary.open("wb") as file:
        np.save(file, codes.numpy())
    built.save(out / "tokenizer.safetensors")
    told = getattr(built, "resolution", None)
    text = f"{built.kind}\n{found}" + (f"\n\n{told}" if told is not None else "")
    write_text(out / "report.txt", text + "\n")
    written = ["item_codes.npy", "item_codes.json", "tokenizer.safetensors", "report.txt", "report.json"]
    if find_spec("matplotlib") is not None:
        found.save_picture(out / "report.png")
        written.append("report.png")
    sums = {name: file_checksum(out / name) for name in written[:3]}
    told_json = {"kind": built.kind, **found.to_dict(), "sha256": sums}
    write_text(out / "report.json", json.dumps(told_json, indent=1) + "\n")
    return f"{text}\n\nwrote {', '.join(written)} to {out}"
