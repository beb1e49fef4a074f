"""The folder of a saved model: one card, ``recipe.json``, and the files that it names.

A model is saved beside the one before, under names that no one reads yet; then one rename replaces the card; then the
old files go. So a reader finds, and a killed process leaves, the old model or the new one. The first model of a folder
lies in it, later ones in a sub-folder that the card names.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from genrec_fast.base.config import to_json as written
from genrec_fast.base.errors import CorruptFileError, StorageError
from genrec_fast.base.files import (
    file_checksum,
    json_checksum,
    make_folder,
    read_tensors,
    save_tensors,
    storing,
    sweep,
    write_text,
)
from genrec_fast.base.weights import module_tensors
from genrec_fast.recipe.card import from_json, to_json
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipe.run import read_run
from genrec_fast.recipe.system import System

FORMAT = "genrec_fast.recommender"
VERSION = 2
CARD = "recipe.json"
WEIGHTS = "weights.safetensors"
NAMES = (WEIGHTS, "catalog.safetensors", "items.json", "trie.safetensors")
_PART = re.compile(r"files-[0-9a-f]{8}")  # a sub-folder with the files of one model
_CARD_BYTES = 16 << 20  # a card of this library has a few thousand


def write_model(model: System, folder: Path, *, run: str = "") -> None:
    """Saves a model in the place of the one in ``folder``; the caller has the folder to himself (``FolderLock``).

    Args:
        model: what is saved.
        folder: where; it is there.
        run: the training that made it.

    Raises:
        StorageError: a file cannot be written; the model before is whole.
    """
    sweep(folder)
    known = _known_card(folder)
    part = "" if known is None else f"files-{secrets.token_hex(4)}"
    place = folder / part
    try:
        _remove_strays(folder, known)
        make_folder(place, "save")
        _ = model.trie  # made, so that it is saved, too
        names = [*model.catalog.save(place), WEIGHTS]
        tensors = {name: tensor.cpu().contiguous() for name, tensor in module_tensors(model).items()}
        save_tensors(place / WEIGHTS, tensors)
        card: dict[str, Any] = {"format": FORMAT, "version": VERSION, "recipe": to_json(model.recipe)}
        card |= {"run": run} if run else {}
        card["sha256"] = {name: file_checksum(place / name) for name in names}
        card |= {"files": part} if part else {}
        card["checksum"] = _checksum(card, model.recipe)
        write_text(folder / CARD, json.dumps(card, indent=2) + "\n")
    finally:
        with contextlib.suppress(StorageError):  # what is left behind is in nobody's way, and the next one removes it
            _remove_strays(folder, _known_card(folder))


def _checksum(card: dict[str, Any], recipe: Recipe) -> str:
    """Over what a card means: settings that came later than a file do not count where they change nothing."""
    return json_checksum(card | {"recipe": written(recipe, absent=False)})


def remove_model(folder: Path) -> None:
    """Removes the model in ``folder``, the card first; nothing where there is none."""
    with storing(folder / CARD, "remove"):
        (folder / CARD).unlink(missing_ok=True)
    _remove_strays(folder, None)


def holds_model_of(folder: Path, run: str) -> bool:
    """Whether the whole model that a training ``run`` wrote is there, every file as it was written."""
    try:
        return read_files(folder, card_bytes(folder)).card.get("run") == run
    except CorruptFileError:
        return False


def _known_card(folder: Path) -> dict[str, Any] | None:
    """The card that readers find now; ``{}`` where it is damaged."""
    if not (folder / CARD).exists():
        return None
    try:
        with storing(folder / CARD, "save"):
            card = json.loads((folder / CARD).read_bytes())
    except (ValueError, RecursionError):
        return {}
    return card if isinstance(card, dict) else {}


def _remove_strays(folder: Path, card: dict[str, Any] | None) -> None:
    """Removes files of models that the card does not name: older ones, and those of killed processes."""
    part = None if card is None else card.get("files", "")
    with storing(folder, "save"):
        for path in folder.iterdir():
            if _PART.fullmatch(path.name) and path.is_dir() and not path.is_symlink() and path.name != part:
                shutil.rmtree(path)
        if part != "":  # no model, or one in a sub-folder
            for name in NAMES:
                (folder / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class Files:
    """What the folder of a model holds, every file as it was written."""

    card: dict[str, Any]
    first: bool
    """whether it is of version 1"""
    recipe: Recipe
    place: Path
    """where the files lie"""
    weights: dict[str, Tensor]
    num_bytes: int
    """of all files"""


def card_bytes(folder: Path) -> bytes:
    """What stands in the card.

    Raises:
        CorruptFileError: there is none, or one of a size that no model has.
    """
    path = folder / CARD
    if folder.exists() and not folder.is_dir():
        raise CorruptFileError(f"load: {folder} must be the folder of a trained model, got a file or a device")
    run = read_run(folder)
    if run is not None and run.clearing:
        raise CorruptFileError(f"load: {folder} must hold a trained model, but its training is starting over")
    try:
        if not _within(path, folder):
            raise CorruptFileError(f"load: {folder} must hold a trained model, but {CARD} is missing")
        if (size := path.stat().st_size) > _CARD_BYTES:
            raise CorruptFileError(f"load: {path} must have at most {_CARD_BYTES} bytes, got {size}")
        return path.read_bytes()
    except OSError as error:
        raise CorruptFileError(f"load: {path} cannot be read ({error})") from error


def read_files(folder: Path, card_text: bytes) -> Files:
    """Checks the card and every file that it names, and reads recipe and weights.

    Raises:
        CorruptFileError: a file is missing, cut short, altered, outside the folder, or of an unknown version.
    """
    path = folder / CARD
    try:
        card = json.loads(card_text)
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"load: {path} is cut short or altered ({error})") from error
    version = card.get("version") if isinstance(card, dict) and card.get("format") == FORMAT else None
    if type(version) is not int or not 1 <= version <= VERSION:
        raise CorruptFileError(f"load: {path} must be a recommender's card of version 1 to {VERSION}")
    recipe = from_json(card.get("recipe"), str(path))
    place = _place(folder, card)
    num_bytes = _check_files(path, place, card)
    # Last, so that what is wrong with a card of another program is said by its name; absent in folders of before.
    if (stored := card.pop("checksum", None)) is not None and stored != (found := _checksum(card, recipe)):
        raise CorruptFileError(
            f"load: {path} is cut short or altered: its checksum must be {stored!r:.80}, got {found}"
        )
    try:
        _, weights = read_tensors(place / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise CorruptFileError(f"load: {place / WEIGHTS} is missing, cut short or altered ({error})") from error
    return Files(card, version == 1, recipe, place, weights, num_bytes)


def _place(folder: Path, card: dict[str, Any]) -> Path:
    part = card.get("files", "")
    if part != "" and not (isinstance(part, str) and _PART.fullmatch(part)):
        raise CorruptFileError(
            f"load: {folder / CARD}: files must name a sub-folder 'files-' and 8 hexadecimal digits, got {part!r:.80}"
        )
    return folder / str(part)


def _check_files(path: Path, place: Path, card: dict[str, Any]) -> int:
    """Every file of the card is there and as it was written; their bytes in all."""
    sums = card.get("sha256")
    if not isinstance(sums, dict):
        raise CorruptFileError(f"load: {path} lacks or misstates a key ('sha256')")
    for name in (WEIGHTS, "items.json", *(("catalog.safetensors",) if card["version"] > 1 else ())):
        if name not in sums:
            raise CorruptFileError(f"load: {path} must hold the checksum of {name}, got none")
    num_bytes = 0
    for name, known in sums.items():
        if name not in NAMES:
            raise CorruptFileError(f"load: {path} must name no file but {', '.join(NAMES)}, got {name!r:.80}")
        file = place / name
        try:
            if not _within(file, path.parent):
                raise CorruptFileError(f"load: {place} must hold a trained model, but {name} is missing")
            num_bytes += file.stat().st_size
            found = file_checksum(file)
        except OSError as error:
            raise CorruptFileError(f"load: {file} is missing, cut short or altered ({error})") from error
        if found != known:
            raise CorruptFileError(f"load: {file} is cut short or altered: its checksum is not {CARD}'s")
    return num_bytes


def _within(path: Path, folder: Path) -> bool:
    """Whether a path names a file that lies in ``folder``.

    Raises:
        CorruptFileError: a link to a file outside it.
    """
    if not path.is_file():
        return False
    if folder.resolve() not in path.resolve().parents:
        raise CorruptFileError(
            f"load: {path} must be a file of its folder, got a link to {path.resolve()}; put the file itself there"
        )
    return True
