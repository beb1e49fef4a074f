"""What is known of the items: everything else is built from it."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from genrec_fast.base.checks import check_dense, check_integers, shown, whole_number
from genrec_fast.base.errors import CorruptFileError, InvalidTypeError, InvalidValueError
from genrec_fast.base.files import checksum, file_checksum, read_tensors, save_tensors, write_text
from genrec_fast.catalog.categories import categories_by_level
from genrec_fast.catalog.changed import ChangedTrie
from genrec_fast.catalog.find import Finder, Found
from genrec_fast.catalog.stats import levels_of
from genrec_fast.catalog.trie import Trie, build_trie

_TEXTS = ("item_ids", "titles", "texts", "categories")
_TENSORS = ("item_codes", "features", "counts")


@dataclass(frozen=True, kw_only=True, eq=False)
class Catalog:
    """The items of a shop; ``None`` where something is not known.

    Args:
        num_items: N; 0: as many as the rest has rows.
        item_ids: N names the items have outside.
        titles: N short texts a person can read.
        texts: N longer ones (brand, description).
        categories: N lists of words, from the general to the special.
        features: float ``[N, F]``.
        item_codes: integer ``[N, L]``, the semantic IDs.
        codebook_sizes: of the L levels.
        counts: int64 ``[N]``: how often each item occurs in the training split.

    Raises:
        InvalidTypeError: a tensor of another kind.
        InvalidValueError: columns of different lengths, a code outside its codebook.

    Notes:
        Nothing is changed in place: ``with_codes`` and ``to`` give a new catalog. The trie is built when it is first
        asked for, and kept.
    """

    num_items: int = 0
    item_ids: Sequence[str] | None = None
    titles: Sequence[str] | None = None
    texts: Sequence[str] | None = None
    categories: Sequence[Sequence[str]] | None = None
    features: Tensor | None = None
    item_codes: Tensor | None = None
    codebook_sizes: tuple[int, ...] = ()
    counts: Tensor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.codebook_sizes, (tuple, list)):
            raise InvalidTypeError(f"Catalog: codebook_sizes must be a tuple of int, got {shown(self.codebook_sizes)}")
        sizes = tuple(whole_number("Catalog", "codebook_sizes", size) for size in self.codebook_sizes)
        object.__setattr__(self, "codebook_sizes", sizes)
        count = whole_number("Catalog", "num_items", self.num_items, 0)
        self._check_tensors()
        for name in (*_TEXTS, *_TENSORS):
            column = getattr(self, name)
            if column is None:
                continue
            count = count or len(column)
            if len(column) != count:
                raise InvalidValueError(f"Catalog: {name} must have one row per item = {count}, got {len(column)}")
        if count < 1:
            raise InvalidValueError("Catalog: num_items must be at least 1, got none")
        object.__setattr__(self, "num_items", count)

    def _check_tensors(self) -> None:
        if self.features is not None:
            if not isinstance(self.features, Tensor) or not self.features.is_floating_point():
                raise InvalidTypeError(f"Catalog: features must be a float tensor [N, F], got {shown(self.features)}")
            check_dense("Catalog", "features", self.features)
            if self.features.dim() != 2 or self.features.shape[1] < 1:
                raise InvalidValueError(f"Catalog: features must be [N, F], got {list(self.features.shape)}")
        if self.counts is not None and check_integers("Catalog", "counts", self.counts, "[N]").dim() != 1:
            raise InvalidValueError(f"Catalog: counts must be [N], got {list(self.counts.shape)}")
        if self.item_codes is None:
            return
        codes, sizes = check_integers("Catalog", "item_codes", self.item_codes, "[N, L]"), self.codebook_sizes
        if codes.dim() != 2 or codes.shape[0] == 0 or codes.shape[1] != len(sizes):
            raise InvalidValueError(
                f"Catalog: item_codes must be [N, {len(sizes)}] with N at least 1, got {list(codes.shape)}"
            )
        if codes.device.type != "cpu":  # they were checked where they came from
            return
        outside = (codes < 0) | (codes >= torch.tensor(sizes))
        if bool(outside.any()):
            item, level = outside.nonzero()[0].tolist()
            raise InvalidValueError(
                f"Catalog: item_codes of level {level} must be in [0, {sizes[level]}), "
                f"got {int(codes[item, level])} for item {item}"
            )

    def __repr__(self) -> str:
        known = [name for name in ("titles", "texts", "categories", "counts") if getattr(self, name) is not None]
        if self.features is not None:
            known.append(f"{self.feature_dim} features")
        if self.codebook_sizes:
            known.append(f"semantic IDs of {levels_of(self.codebook_sizes)}")
        return f"Catalog({self.num_items:,} items" + "".join(f", {what}" for what in known) + ")"

    @property
    def feature_dim(self) -> int | None:
        """F; ``None`` without features."""
        return None if self.features is None else self.features.shape[1]

    @functools.cached_property
    def names(self) -> Sequence[str]:
        """``item_ids``; without them, each item's number as text."""
        return [str(number) for number in range(self.num_items)] if self.item_ids is None else self.item_ids

    @functools.cached_property
    def numbers(self) -> dict[str, int]:
        """Item id of each name."""
        return {name: number for number, name in enumerate(self.names)}

    def find(self, text: str, k: int = 10) -> Found:
        """Items that a text may mean: by name, by title, by words of a title, or with a typing error.

        Args:
            text: what somebody typed.
            k: how many are listed at most.

        Returns:
            ``Found``; its ``item`` is the one that is meant, where there is no doubt.

        Raises:
            InvalidTypeError: no text, or k is no whole number.
            InvalidValueError: k below 1.

        Example:
            ``print(catalog.find("star wars clone"))``
        """
        if not isinstance(text, str):
            raise InvalidTypeError(f"find: text must be a text, got {shown(text)}")
        return self._finder(text, whole_number("find", "k", k))

    @functools.cached_property
    def _finder(self) -> Finder:
        return Finder(self.names, self.titles, self.numbers)

    @functools.cached_property
    def tags(self) -> Tensor | None:
        """int64 ``[N, depth]`` of the categories, as ``Tokenizer.fit`` reads them (``categories_by_level``)."""
        return categories_by_level(self.categories)

    @functools.cached_property
    def by_popularity(self) -> tuple[Tensor, Tensor]:
        """Item ids int64 ``[N]``, the most frequent first, and float32 ``[N]``: the log of each item's share.

        Every item counts once more than it occurs, so that none has a share of 0. Items that are gone (``without``) are
        left out of the first. Both are on the CPU.

        Raises:
            InvalidValueError: nothing is known of how often items occur.
        """
        if self.counts is None:
            raise InvalidValueError("Catalog: counts must be given to tell what is popular, got None")
        counts = self.counts.cpu().double() + 1
        order = torch.argsort(counts, descending=True, stable=True)
        return order[~torch.isin(order, self._gone())], (counts / counts.sum()).log().float()

    @functools.cached_property
    def trie(self) -> Trie | ChangedTrie:
        """Of the semantic IDs; a ``ChangedTrie`` after ``extended`` or ``without``, until ``merge``.

        Raises:
            InvalidValueError: there are none.
        """
        if self.item_codes is None:
            raise InvalidValueError("Catalog: item_codes must be given for a trie, got None")
        return build_trie(self.item_codes.cpu(), codebook_sizes=self.codebook_sizes).to(self.item_codes.device)

    def with_codes(self, item_codes: Tensor, codebook_sizes: Sequence[int]) -> Catalog:
        """The same items with other semantic IDs; those that are gone stay so."""
        catalog = dataclasses.replace(self, item_codes=item_codes, codebook_sizes=tuple(codebook_sizes))
        gone = self._gone()
        return catalog.without(gone) if gone.numel() else catalog

    def with_features(self, features: Tensor | None) -> Catalog:
        """The same items, and the same trie where it was made, with other features."""
        catalog = dataclasses.replace(self, features=features)
        if "trie" in self.__dict__:
            catalog.__dict__["trie"] = self.trie
        return catalog

    def _gone(self) -> Tensor:
        """int64 ids of the items that ``without`` took."""
        kept: Tensor | None = getattr(self.__dict__.get("trie"), "kept", None)
        return torch.empty(0, dtype=torch.int64) if kept is None else (~kept).nonzero().squeeze(1).cpu()

    def extended(self, new: Catalog) -> Catalog:
        """With more items behind the last one; those of the trie, where it was made, are searchable at once.

        Args:
            new: the items, with every column that this catalog has (what it has beside them is left out); where it has
                no ``counts``, none of them occurred yet.

        Returns:
            A catalog of both; new item n has id ``num_items + n``. This one stays as it is.

        Raises:
            InvalidTypeError: no catalog.
            InvalidValueError: a column is missing, a name is taken, codebook sizes or widths of features differ.

        Notes:
            Columns are copied, O(N); the trie is not (``Trie.extended``).
        """
        if not isinstance(new, Catalog):
            raise InvalidTypeError(f"extended: new must be a Catalog, got {shown(new)}")
        columns = {name: joined_column(self, new, name) for name in (*_TEXTS, *_TENSORS)}
        if self.codebook_sizes and new.codebook_sizes != self.codebook_sizes:
            raise InvalidValueError(
                f"extended: new must have the codebook sizes {self.codebook_sizes}, got {new.codebook_sizes}"
            )
        if new.item_ids is not None and self.item_ids is not None:
            taken = next((name for name in new.item_ids if name in self.numbers), None)
            if taken is not None or len(set(new.item_ids)) < new.num_items:
                raise InvalidValueError(f"extended: new must have names of its own, got {taken or 'one twice'!r:.80}")
        catalog = dataclasses.replace(self, num_items=self.num_items + new.num_items, **columns)
        if "trie" in self.__dict__:
            catalog.__dict__["trie"] = self.trie.extended(new.item_codes)
        gone = new._gone() + self.num_items
        return catalog.without(gone) if gone.numel() else catalog

    def without(self, items: Any) -> Catalog:
        """Whose searches over the trie, and popular items, are without some; they keep their ids, names and codes.

        Args:
            items: item ids, in any order.

        Raises:
            InvalidTypeError, InvalidValueError: as ``Trie.without``, or no semantic IDs.
        """
        catalog = dataclasses.replace(self)
        catalog.__dict__["trie"] = self.trie.without(items)
        return catalog

    def merge(self) -> None:
        """Puts the built trie of all items in the place of one that was extended: searches are faster from then on.

        For a thread of its own: searches that go on meanwhile, or were begun before, have the same results.
        """
        trie = self.__dict__.get("trie")
        if isinstance(trie, ChangedTrie):
            self.__dict__["trie"] = trie.merged()

    def to(self, device: torch.device | str) -> Catalog:
        """All tensors on a device; the trie, too, where it was made."""
        moved = {name: getattr(self, name).to(device) for name in _TENSORS if getattr(self, name) is not None}
        trie = self.trie.to(device) if "trie" in self.__dict__ else None
        if trie is self.__dict__.get("trie") and all(moved[name] is getattr(self, name) for name in moved):
            return self
        catalog = dataclasses.replace(self, **moved)
        if trie is not None:
            catalog.__dict__["trie"] = trie
        return catalog

    def save(self, folder: str | Path) -> list[str]:
        """Writes ``items.json``, ``trie.safetensors`` (where it was made) and ``catalog.safetensors``; their names.

        The last one carries the checksums of the others and its own, so that a trie of another catalog is not taken
        for this one's.

        Raises:
            StorageError: a file cannot be written.
        """
        folder = Path(folder)
        kept = {name: getattr(self, name) for name in _TENSORS if getattr(self, name) is not None}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in kept.items()}
        texts = {name: None if getattr(self, name) is None else list(getattr(self, name)) for name in _TEXTS}
        write_text(folder / "items.json", json.dumps(texts))
        names, trie = ["catalog.safetensors", "items.json"], None
        if "trie" in self.__dict__:
            self.trie.to("cpu").save(folder / "trie.safetensors")
            names.append("trie.safetensors")
            trie = file_checksum(folder / "trie.safetensors")
        numbers = {
            "num_items": self.num_items,
            "codebook_sizes": self.codebook_sizes,
            "trie": trie,
            "items": file_checksum(folder / "items.json"),
        }
        metadata = {"catalog": json.dumps(numbers)}
        metadata["checksum"] = checksum(metadata, tensors)
        save_tensors(folder / "catalog.safetensors", tensors, metadata)
        return names

    @classmethod
    def of_trie(cls, trie: Trie | ChangedTrie) -> Catalog:
        """Items of which nothing is known but their trie."""
        catalog = cls(num_items=trie.num_items, codebook_sizes=trie.codebook_sizes)
        catalog.__dict__["trie"] = trie
        return catalog

    @classmethod
    def load(cls, folder: str | Path) -> Catalog:
        """What ``save`` wrote.

        Raises:
            CorruptFileError: a file is missing, cut short or altered.
        """
        folder = Path(folder)
        path = folder / "catalog.safetensors"
        try:
            metadata, tensors = read_tensors(path)
            stored = metadata.pop("checksum", None)  # absent in files of before
            if stored is not None and stored != (computed := checksum(metadata, tensors)):
                raise CorruptFileError(f"load: {path} is cut short or altered: its checksum must be {computed}")
            numbers = json.loads(metadata["catalog"])
            if unknown := tensors.keys() - set(_TENSORS):
                raise CorruptFileError(f"load: {path} must hold no tensors but {_TENSORS}, got {min(unknown)!r:.80}")
            columns: dict[str, Any] = {**tensors, **read_texts(folder / "items.json")}
            if numbers.get("items", "") not in ("", file_checksum(folder / "items.json")):
                raise CorruptFileError(f"load: {folder / 'items.json'} must be this catalog's, got another file")
            catalog = cls(
                num_items=numbers["num_items"],
                codebook_sizes=tuple(numbers["codebook_sizes"]),
                **columns,
            )
            trie = numbers["trie"]
            if trie is not None and file_checksum(folder / "trie.safetensors") != trie:
                raise CorruptFileError(f"load: {folder / 'trie.safetensors'} must be this catalog's, got another file")
            return catalog if trie is None else catalog.with_trie_of(folder)
        except CorruptFileError:
            raise
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise CorruptFileError(f"load: {path} is missing, cut short or altered ({error})") from error

    def with_trie_of(self, folder: Path) -> Catalog:
        """Itself, with the trie that was saved beside it."""
        self.__dict__["trie"] = Trie.load(folder / "trie.safetensors")
        return self


def joined_column(old: Catalog, new: Catalog, name: str) -> Any:
    """A column of two catalogs' items.

    Raises:
        InvalidValueError: only the first has it, or rows of another width.
    """
    known, more = getattr(old, name), getattr(new, name)
    if known is None:
        return None
    if more is None and name == "counts":
        more = known.new_zeros(new.num_items)
    if more is None:
        raise InvalidValueError(f"extended: new must have {name} like the catalog, got None")
    if not isinstance(known, Tensor):
        return [*known, *more]
    if more.shape[1:] != known.shape[1:]:
        raise InvalidValueError(f"extended: {name} must be [M, {known.shape[1]}], got {list(more.shape)}")
    if known.is_floating_point() or int(more.max()) <= torch.iinfo(known.dtype).max:
        more = more.to(known.dtype)
    return torch.cat([known, more.to(known.device)])  # else of the wider dtype: numbers would wrap around


def read_texts(path: Path) -> dict[str, Any]:
    """``items.json``.

    Raises:
        CorruptFileError: it is missing, cut short or altered.
    """
    try:
        texts = json.loads(path.read_text(encoding="utf-8"))
        columns = {name: texts.get(name) for name in _TEXTS}
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        raise CorruptFileError(f"load: {path} is missing, cut short or altered ({error})") from error
    for name, column in columns.items():
        kind = list if name == "categories" else str
        if column is not None and not (isinstance(column, list) and all(isinstance(text, kind) for text in column)):
            raise CorruptFileError(f"load: {path}: {name} must be a list of {kind.__name__}, got {column!r:.80}")
    return columns
