"""A trained recommender: histories in, the k best items of the catalog out; saved as a folder."""

from __future__ import annotations

import contextlib
import json
import operator
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from typing_extensions import Unpack

from genrec_fast.base.batch import Question, Ranked, as_batch
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.query import Options, Query, ask
from genrec_fast.checks import whole_number
from genrec_fast.errors import CorruptFileError, InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.files import atomic_path, file_checksum, write_text
from genrec_fast.recipe import Decoder, Recipe
from genrec_fast.recipe_json import from_json, to_json
from genrec_fast.trie import Trie, build_trie
from genrec_fast.weights import module_tensors, restore_module

if TYPE_CHECKING:
    from genrec_fast.batcher import Batcher

__all__ = ["Recommender", "build_parts", "load", "usable_device"]

VERSION = 1


def build_parts(
    recipe: Recipe, item_codes: Tensor, codebook_sizes: tuple[int, ...], features: Tensor | None
) -> tuple[nn.Module, nn.Module, Decoder, Trie | None]:
    """Layout, backbone (freshly initialised from torch's global generator), decoder, and the trie if one is needed."""
    layout = recipe.layout.build(item_codes, codebook_sizes, features)
    backbone = recipe.backbone.build(codebook_sizes, item_codes.shape[0], feature_dim(layout))
    trie = None if recipe.tokenizer is None else build_trie(item_codes, codebook_sizes=codebook_sizes)
    return layout, backbone, recipe.decoder.build(), trie


def feature_dim(layout: nn.Module) -> int | None:
    """Width of the features that a layout hands to the backbone, ``None`` where it hands none."""
    width = getattr(layout, "feature_dim", None)
    return None if width is None else int(width)


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


_ANSWERING = threading.Lock()  # over the modes of modules; held for microseconds


class Recommender:
    """Everything that turns histories into ranked items.

    Args:
        recipe: what it is made of.
        layout: fills in what the backbone reads of each item.
        backbone: the network.
        decoder: the search.
        trie: the catalog's semantic IDs, or ``None`` for a decoder that scores items directly.
        item_ids: N names the items have outside.
        titles: N texts a person can read, or ``None``.
        codebook_sizes: of the semantic IDs, every level.
    """

    def __init__(
        self,
        recipe: Recipe,
        layout: nn.Module,
        backbone: nn.Module,
        decoder: Decoder,
        trie: Trie | None,
        *,
        item_ids: list[str],
        titles: list[str] | None,
        codebook_sizes: tuple[int, ...],
    ) -> None:
        self.recipe, self.layout, self.backbone, self.decoder, self.trie = recipe, layout, backbone, decoder, trie
        self.item_ids, self.titles = item_ids, titles
        self.codebook_sizes = codebook_sizes
        self._numbers: dict[str, int] | None = None
        self._answering: int = 0  # blocks of answering() that are open, in any thread
        self._modes: list[tuple[nn.Module, bool]] = []

    @property
    def num_items(self) -> int:
        return len(self.item_ids)

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device

    def to(self, device: torch.device | str) -> Recommender:
        """Moves network, item tables and trie; returns itself."""
        self.layout.to(device)
        self.backbone.to(device)
        if self.trie is not None:
            self.trie = self.trie.to(device)
        return self

    def numbers(self, item_ids: Sequence[str], *, what: str = "Recommender: item") -> list[int]:
        """Outside names -> item ids; ``what`` says in an error whose names they are.

        Raises:
            InvalidValueError: a name that is not in the catalog.
        """
        if self._numbers is None:
            self._numbers = {name: number for number, name in enumerate(self.item_ids)}
        for name in item_ids:
            if name not in self._numbers:
                raise InvalidValueError(
                    f"{what} must be one of the catalog's {self.num_items} names "
                    f"(such as {self.item_ids[0]!r}), got {name!r:.80}"
                )
        return [self._numbers[name] for name in item_ids]

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

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Within the block the modules are in eval mode and nothing is recorded for gradients."""
        with _ANSWERING:
            if not self._answering:
                parts = (self.layout, self.backbone)
                self._modes = [(module, module.training) for part in parts for module in part.modules()]
            self._answering += 1
            self.layout.eval()
            self.backbone.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            with _ANSWERING:
                self._answering -= 1
                if not self._answering:  # the last of several threads: dropout would spoil the others' answers
                    for module, mode in self._modes:
                        module.training = mode

    def search(self, question: Question, query: Query) -> Ranked:
        """Some users through layout and decoder; call within ``answering()``. Histories are not cut here."""
        batch, query = self.layout(as_batch(question).to(self.device)), query.to(self.device)
        options = {name: getattr(query, name) for name in ("num_beams", "exact", "allowed", "exclude")}
        return self.decoder.search(self.backbone, batch, self.trie, query.k, **options)

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
        question, query = ask(self.num_items, histories, k, options)
        parts = []
        with self.answering():
            for begin in range(0, len(question), size):
                some = question.slice(begin, begin + size).last(self.recipe.batching.max_items)
                parts.append(self.search(some, query.slice(begin, begin + size, of=len(question))).to("cpu"))
        return Ranked.cat(parts)

    def batcher(self, **settings: Any) -> Batcher:
        """Answers many threads at once; see ``batcher.Batcher`` for its settings."""
        from genrec_fast.batcher import Batcher

        return Batcher(self, **settings)

    def save(self, folder: str | Path) -> None:
        """Writes ``recipe.json``, ``weights.safetensors``, ``items.json``, and ``trie.safetensors`` where there is one.

        Every file is whole or not there; ``recipe.json`` comes last and carries the others' checksums.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"layout.{name}": tensor for name, tensor in module_tensors(self.layout).items()}
        tensors |= {f"backbone.{name}": tensor for name, tensor in module_tensors(self.backbone).items()}
        with atomic_path(folder / "weights.safetensors") as temporary:
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary)
        write_text(folder / "items.json", json.dumps({"item_ids": self.item_ids, "titles": self.titles}))
        names = ["weights.safetensors", "items.json"]
        if self.trie is not None:
            self.trie.to("cpu").save(folder / "trie.safetensors")
            names.append("trie.safetensors")
        card = {
            "format": "genrec_fast.recommender",
            "version": VERSION,
            "recipe": to_json(self.recipe),
            "num_items": self.num_items,
            "codebook_sizes": list(self.codebook_sizes),
            "num_levels": len(self.codebook_sizes),
            "feature_dim": feature_dim(self.layout),
            "sha256": {name: file_checksum(folder / name) for name in names},
        }
        write_text(folder / "recipe.json", json.dumps(card, indent=2) + "\n")


def _json(path: Path) -> Any:
    if not path.is_file():
        raise CorruptFileError(f"load: {path.parent} must hold a trained model, but {path.name} is missing")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"load: {path} is cut short or altered ({error})") from error


def load(folder: str | Path, device: torch.device | str = "cpu") -> Recommender:
    """Reads a folder that ``Recommender.save`` (or ``train``) wrote.

    Raises:
        CorruptFileError: a file is missing, cut short, altered, or of an unknown version.
        UnsupportedError: no such device here.
    """
    device = usable_device("load", device)
    folder = Path(folder)
    card = _json(folder / "recipe.json")
    if not isinstance(card, dict) or (card.get("format"), card.get("version")) != ("genrec_fast.recommender", VERSION):
        raise CorruptFileError(f"load: {folder / 'recipe.json'} must be a recommender's card of version {VERSION}")
    try:
        sizes, sums = tuple(int(size) for size in card["codebook_sizes"]), dict(card["sha256"])
        num_items, text = int(card["num_items"]), card["recipe"]
        width = None if card["feature_dim"] is None else int(card["feature_dim"])
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFileError(f"load: {folder / 'recipe.json'} lacks or misstates a key ({error})") from error
    if width is not None and width < 1:
        raise CorruptFileError(f"load: {folder / 'recipe.json'}: feature_dim must be at least 1, got {width}")
    for name in ("weights.safetensors", "items.json"):
        if name not in sums:
            raise CorruptFileError(f"load: {folder / 'recipe.json'} must hold the checksum of {name}, got none")
    recipe = from_json(text, str(folder / "recipe.json"))
    for name, checksum in sums.items():
        if not (folder / name).is_file():
            raise CorruptFileError(f"load: {folder} must hold a trained model, but {name} is missing")
        if file_checksum(folder / name) != checksum:
            raise CorruptFileError(f"load: {folder / name} is cut short or altered: its checksum is not recipe.json's")
    items = _json(folder / "items.json")
    if num_items != len(items["item_ids"]):
        raise CorruptFileError(
            f"load: {folder / 'recipe.json'}: num_items must be {len(items['item_ids'])} as in items.json, "
            f"got {num_items}"
        )
    path = folder / "weights.safetensors"
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, FileNotFoundError) as error:
        raise CorruptFileError(f"load: {path} is missing, cut short or altered ({error})") from error
    # The layout's tables come from the weights; the zeros only say how large they are.
    codes = torch.zeros(num_items, len(sizes), dtype=torch.int32)
    features = None if width is None else torch.zeros(num_items, width)
    layout = recipe.layout.build(codes, sizes, features)
    backbone = recipe.backbone.build(sizes, num_items, feature_dim(layout))
    for prefix, module in (("layout.", layout), ("backbone.", backbone)):
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        restore_module(module, own, str(path))
    trie = Trie.load(folder / "trie.safetensors") if "trie.safetensors" in sums else None
    model = Recommender(
        recipe,
        layout,
        backbone,
        recipe.decoder.build(),
        trie,
        item_ids=items["item_ids"],
        titles=items["titles"],
        codebook_sizes=sizes,
    )
    layout.eval()
    backbone.eval()
    return model.to(device)
