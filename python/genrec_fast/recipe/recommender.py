"""A trained recommender: histories in, the k best items of the catalog out; saved as a folder."""

from __future__ import annotations

import json
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from typing_extensions import Unpack

from genrec_fast.base.batch import Ranked
from genrec_fast.base.checks import whole_number
from genrec_fast.base.errors import CorruptFileError, InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.base.files import atomic_path, file_checksum, write_text
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.query import Options, ask
from genrec_fast.base.weights import module_tensors, restore_module
from genrec_fast.catalog.catalog import Catalog, read_texts
from genrec_fast.recipe.batcher import Batcher
from genrec_fast.recipe.card import from_json, to_json
from genrec_fast.recipe.system import System

__all__ = ["Recommender", "load", "usable_device"]

FORMAT = "genrec_fast.recommender"
VERSION = 2


def usable_device(op: str, device: torch.device | str) -> torch.device:
    """``device``, once a tensor was made on it.

    Raises:
        UnsupportedError: no such device, or this torch or machine has none.
    """
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as error:  # torch raises either
        reason = str(error).partition("\n")[0]
        raise UnsupportedError(f"{op}: device must be one of this machine, got {str(device)!r} ({reason})") from error
    if place.type == "meta":
        raise UnsupportedError(f"{op}: device must be one of this machine, got 'meta'")
    return place


class Recommender(System):
    """Everything that turns histories into ranked items; see ``System`` for its parts."""

    @property
    def item_ids(self) -> Sequence[str]:
        """N names the items have outside; their numbers as text where the catalog has none."""
        return self.catalog.names

    @property
    def titles(self) -> Sequence[str] | None:
        return self.catalog.titles

    def numbers(self, item_ids: Sequence[str], *, what: str = "Recommender: item") -> list[int]:
        """Outside names -> item ids; ``what`` says in an error whose names they are.

        Raises:
            InvalidValueError: a name that is not in the catalog.
        """
        known = self.catalog.numbers
        for name in item_ids:
            if name not in known:
                raise InvalidValueError(
                    f"{what} must be one of the catalog's {self.num_items} names "
                    f"(such as {self.item_ids[0]!r}), got {name!r:.80}"
                )
        return [known[name] for name in item_ids]

    def title(self, item: int) -> str:
        """Title of an item, "" where it has none; its outside name where there are no titles at all.

        Raises:
            InvalidTypeError: no whole number.
            InvalidValueError: no item of the catalog, such as the -1 behind a user's last result.
        """
        try:
            number = operator.index(item)
        except TypeError as error:
            raise InvalidTypeError(f"Recommender: title must be asked for an item id, got {item!r:.80}") from error
        if not 0 <= number < self.num_items:
            raise InvalidValueError(
                f"Recommender: title must be asked for an item id in [0, {self.num_items}), got {number}"
                + (", which stands behind a user's last result" if number == -1 else "")
            )
        return self.item_ids[number] if self.titles is None else self.titles[number]

    def recommend(
        self,
        histories: Jagged | Sequence[Sequence[int]],
        k: int = 10,
        *,
        users_per_batch: int = 256,
        **options: Unpack[Options],
    ) -> Ranked:
        """The k best items for each history.

        Args:
            histories: item ids, oldest first: one list per user, or int64 Jagged. No row may be empty. Only the last
                ``recipe.batching.max_items`` of each are read.
            k: how many items.
            users_per_batch: users searched at once: a matter of memory and speed, not of the result.
            options: ``num_beams``, ``exact``, ``allowed``, ``exclude``, ``exclude_seen``, ``users``, ``timestamps``,
                ``target_timestamps``, ``actions``, ``seed``; see ``base.query.Options``.

        Returns:
            Ranked, B rows; -1 behind a user's last result.

        Raises:
            InvalidTypeError: histories or filters of the wrong kind, an option that there is not.
            InvalidValueError: an empty history, an item outside the catalog, a filter that does not fit.
        """
        size = whole_number("recommend", "users_per_batch", users_per_batch)
        question, query = ask(self, histories, k, options)
        parts = []
        with self.answering():
            for begin in range(0, len(question), size):
                some = question.slice(begin, begin + size).last(self.max_items)
                parts.append(self.search(some, query.slice(begin, begin + size, of=len(question))).to("cpu"))
        return Ranked.cat(parts)

    def batcher(self, **settings: Any) -> Batcher:
        """Answers many threads at once; see ``batcher.Batcher`` for its settings."""
        return Batcher(self, **settings)

    def save(self, folder: str | Path) -> None:
        """Writes ``recipe.json``, ``weights.safetensors`` and the catalog (``Catalog.save``).

        Every file is whole or not there; ``recipe.json`` comes last and carries the others' checksums.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _ = self.trie  # made, so that it is saved, too
        names = self.catalog.save(folder)
        with atomic_path(folder / "weights.safetensors") as temporary:
            save_file({name: tensor.cpu().contiguous() for name, tensor in module_tensors(self).items()}, temporary)
        names.append("weights.safetensors")
        card = {
            "format": FORMAT,
            "version": VERSION,
            "recipe": to_json(self.recipe),
            "sha256": {name: file_checksum(folder / name) for name in names},
        }
        write_text(folder / "recipe.json", json.dumps(card, indent=2) + "\n")


def load(folder: str | Path, device: torch.device | str = "cpu") -> Recommender:
    """Reads a folder that ``Recommender.save`` (or ``train``) wrote.

    Raises:
        CorruptFileError: a file is missing, cut short, altered, or of an unknown version.
        UnsupportedError: no such device here.
    """
    device = usable_device("load", device)
    folder = Path(folder)
    path = folder / "recipe.json"
    card = _json(path)
    version = card.get("version") if isinstance(card, dict) and card.get("format") == FORMAT else None
    if type(version) is not int or not 1 <= version <= VERSION:
        raise CorruptFileError(f"load: {path} must be a recommender's card of version 1 to {VERSION}")
    recipe = from_json(card.get("recipe"), str(path))
    first = version == 1
    _check_files(folder, card, ("weights.safetensors", "items.json", *(() if first else ("catalog.safetensors",))))
    tensors = _tensors(folder / "weights.safetensors")
    catalog = _first_version(folder, card, tensors) if first else Catalog.load(folder)
    model = Recommender(recipe, catalog)
    restore_module(model, tensors, str(folder / "weights.safetensors"))
    model.eval()
    model.to(device)
    return model


def _json(path: Path) -> Any:
    if not path.is_file():
        raise CorruptFileError(f"load: {path.parent} must hold a trained model, but {path.name} is missing")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"load: {path} is cut short or altered ({error})") from error


def _check_files(folder: Path, card: dict[str, Any], needed: Sequence[str]) -> None:
    """Every file of the card is there and as it was written."""
    sums = card.get("sha256")
    if not isinstance(sums, dict):
        raise CorruptFileError(f"load: {folder / 'recipe.json'} lacks or misstates a key ('sha256')")
    for name in needed:
        if name not in sums:
            raise CorruptFileError(f"load: {folder / 'recipe.json'} must hold the checksum of {name}, got none")
    for name, checksum in sums.items():
        if not (folder / name).is_file():
            raise CorruptFileError(f"load: {folder} must hold a trained model, but {name} is missing")
        if file_checksum(folder / name) != checksum:
            raise CorruptFileError(f"load: {folder / name} is cut short or altered: its checksum is not recipe.json's")


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, FileNotFoundError) as error:
        raise CorruptFileError(f"load: {path} is missing, cut short or altered ({error})") from error


def _first_version(folder: Path, card: dict[str, Any], tensors: dict[str, Tensor]) -> Catalog:
    """The catalog of a folder of version 1, which kept it among the layout's weights; takes it out of ``tensors``."""
    path = folder / "recipe.json"
    try:
        sizes, num_items = tuple(int(size) for size in card["codebook_sizes"]), int(card["num_items"])
        width = None if card["feature_dim"] is None else int(card["feature_dim"])
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFileError(f"load: {path} lacks or misstates a key ({error})") from error
    own = {name: tensors.pop(f"layout.{name}", None) for name in ("item_codes", "features")}
    if (None if own["features"] is None else own["features"].shape[1]) != width:
        raise CorruptFileError(f"load: {path}: feature_dim must be that of the weights, got {width}")
    if own["item_codes"] is None and len(sizes) == 1 and sizes[0] == num_items:  # items are atoms
        own["item_codes"] = torch.arange(num_items, dtype=torch.int32)[:, None]
    try:
        known: dict[str, Any] = {**own, **read_texts(folder / "items.json")}
        catalog = Catalog(num_items=num_items, codebook_sizes=sizes, **known)
    except (InvalidTypeError, InvalidValueError) as error:
        raise CorruptFileError(f"load: {path} and its files must fit each other, got: {error}") from error
    return catalog.with_trie_of(folder) if "trie.safetensors" in card["sha256"] else catalog
