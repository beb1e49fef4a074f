"""A trained recommender: histories in, the k best items of the catalog out; saved as a folder."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from typing_extensions import Unpack

from genrec_fast.base.batch import Ranked
from genrec_fast.base.checks import whole_number
from genrec_fast.base.errors import CorruptFileError, InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.limits import within
from genrec_fast.base.lock import FolderLock
from genrec_fast.base.query import Options, ask
from genrec_fast.base.weights import restore_module
from genrec_fast.catalog.catalog import Catalog, read_texts
from genrec_fast.catalog.find import Found
from genrec_fast.recipe.batcher import Batcher
from genrec_fast.recipe.saved import CARD, Files, card_bytes, read_files, write_model
from genrec_fast.recipe.system import System

SAVE_SECONDS = 60.0  # to wait for another model that is being saved in the same folder


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


class NamedItem(NamedTuple):
    """An item of an answer."""

    item: str
    """its name"""
    id: int
    score: float
    title: str
    """"" where it has none; its name where the catalog has no titles"""


class Recommender(System):
    """Everything that turns histories into ranked items; see ``System`` for its parts."""

    @property
    def item_ids(self) -> Sequence[str]:
        """N names the items have outside; their numbers as text where the catalog has none."""
        return self.catalog.names

    @property
    def titles(self) -> Sequence[str] | None:
        return self.catalog.titles

    def find_items(self, text: str, k: int = 10) -> Found:
        """Items that a text may mean, by name, title, part of a title or with a typing error: ``Catalog.find``."""
        return self.catalog.find(text, k)

    def named(self, ranked: Ranked) -> list[list[NamedItem]]:
        """An answer in words: per user the items, best first; the -1 behind a user's last result are left out."""
        return [
            [
                NamedItem(self.item_ids[item], item, score, self.title(item))
                for item, score in zip(items, scores, strict=True)
                if item >= 0
            ]
            for items, scores in zip(ranked.items.tolist(), ranked.scores.tolist(), strict=True)
        ]

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
        histories: Jagged | Iterable[Iterable[int | str]],
        k: int = 10,
        *,
        users_per_batch: int = 256,
        **options: Unpack[Options],
    ) -> Ranked:
        """The k best items for each history.

        Args:
            histories: items, oldest first: one list of names and ids per user, or int64 Jagged of ids. Only the last
                ``recipe.batching.max_items`` of each are read. Who has none gets what the model learned of the start
                of histories or, where it learned nothing of it, the popular items: ``Ranked.based_on`` says which.
            k: how many items.
            users_per_batch: users searched at once: a matter of memory and speed, not of the result.
            options: ``num_beams``, ``exact``, ``allowed``, ``candidates``, ``exclude``, ``exclude_seen``, ``unknown``,
                ``users``, ``timestamps``, ``target_timestamps``, ``actions``, ``seed``; see ``base.query.Options``.

        Returns:
            Ranked, B rows; -1 behind a user's last result. ``named`` gives it in words.

        Raises:
            InvalidTypeError: histories or filters of the wrong kind, an option that there is not.
            InvalidValueError: an item that the catalog does not have, a filter that does not fit, an empty history
                where the catalog has no counts of items.
        """
        size = whole_number("recommend", "users_per_batch", users_per_batch)
        question, query = ask(self, histories, k, options)
        parts = []
        with self.answering():
            for begin in range(0, len(question), size):
                some = question.slice(begin, begin + size).last(self.max_items)
                parts.append(self.answer(some, query.slice(begin, begin + size, of=len(question))))
        return Ranked.cat(parts)

    def batcher(self, **settings: Any) -> Batcher:
        """Answers many threads at once; see ``batcher.Batcher`` for its settings."""
        return Batcher(self, **settings)

    def save(self, folder: str | Path) -> None:
        """Saves the model in ``folder``: the card ``recipe.json``, and beside it the weights and the catalog.

        A model that is there already is replaced by one rename, when all files of the new one are on disk: who loads
        the folder, and what a killed process leaves, is the old model or the new one.

        Raises:
            FolderInUseError: a training writes to the folder, or another model was being saved there for a minute.
            StorageError: the disk is full or read-only; the old model is whole.
        """
        folder = Path(folder)
        with FolderLock(folder, "save", wait_s=SAVE_SECONDS):
            write_model(self, folder)


def load(folder: str | Path, device: torch.device | str = "cpu") -> Recommender:
    """Reads a folder that ``Recommender.save`` (or ``train``) wrote; every byte of it is checked.

    A card may come from anywhere: it names nothing outside its folder, and a network larger than its weights is
    refused before memory is taken.

    Raises:
        CorruptFileError: a file is missing, cut short, altered, or of an unknown version.
        UnsupportedError: no such device here.
    """
    device = usable_device("load", device)
    folder = Path(folder)
    while True:
        card = card_bytes(folder)
        try:
            model = _read(folder, card)
        except CorruptFileError:
            if card_bytes(folder) == card:
                raise
            # else another model was saved meanwhile, and took the files away
        else:
            model.to(device)
            return model


def _read(folder: Path, card: bytes) -> Recommender:
    files = read_files(folder, card)
    where = str(folder / CARD)
    with within(files.weights, files.num_bytes, where):
        catalog = _first_version(files) if files.first else Catalog.load(files.place)
        try:
            model = Recommender(files.recipe, catalog)
        except (InvalidTypeError, InvalidValueError) as error:
            raise CorruptFileError(f"load: {where} and its files must fit each other, got: {error}") from error
    restore_module(model, files.weights, str(files.place / "weights.safetensors"))
    model.eval()
    return model


def _first_version(files: Files) -> Catalog:
    """The catalog of a folder of version 1, which kept it among the layout's weights; takes it out of ``weights``."""
    card, tensors, path = files.card, files.weights, files.place / CARD
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
        known: dict[str, Any] = {**own, **read_texts(files.place / "items.json")}
        catalog = Catalog(num_items=num_items, codebook_sizes=sizes, **known)
    except (InvalidTypeError, InvalidValueError) as error:
        raise CorruptFileError(f"load: {path} and its files must fit each other, got: {error}") from error
    return catalog.with_trie_of(files.place) if "trie.safetensors" in card["sha256"] else catalog
