"""The trie: a catalog's semantic IDs as a handful of integer tensors.

Sort the unique semantic IDs (the rows). A prefix is then a range of rows, and a trie needs no tree: the edges that
leave the nodes of level l are numbered 0, 1, ... in sorted order; edge e carries the code ``tokens[l][e]`` and *is*
node e of level l + 1. The edges of the last level are the rows. Node n owns the edges from ``off(n)`` to
``off(n + 1)``; offsets are packed as ``off(n) = bases[n >> 4] + deltas[n]``.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor

from genrec_fast.base.checks import (
    INT64,
    device_of,
    numbers,
    require_tensors,
    sequence,
    shown,
    whole_number,
)
from genrec_fast.base.errors import CorruptFileError, InvalidTypeError, InvalidValueError, UnsupportedError, door
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.changed import ChangedTrie
from genrec_fast.catalog.changes import checked_rows
from genrec_fast.catalog.stats import TrieStats
from genrec_fast.catalog.trie_codes import item_codes, valid_codes
from genrec_fast.catalog.trie_file import LEAF_FIELDS, LEVEL_FIELDS, read_trie, write_trie
from genrec_fast.ops.trie_build import TrieParts, trie_build, trie_check
from genrec_fast.ops.trie_lookup import trie_lookup
from genrec_fast.ops.trie_offsets import children_of, fan_outs, require_packed, require_whole

__all__ = ["Trie", "TrieStats", "build_trie"]


@dataclass(frozen=True, eq=False)
class Trie:
    """A catalog's semantic IDs, ready to be searched. Made by ``build_trie`` or ``Trie.load``.

    Two tries are equal only if they are the same object. Pickling, copying and sharing between processes work: there
    is nothing inside but tensors.

    Args:
        codebook_sizes: L sizes; the codes of level l are in ``[0, codebook_sizes[l])``.
        num_items: N.
        tokens: per level uint8 (codebooks of at most 256 codes) or uint16 ``[edges]``, ascending within a node.
        child_bases: per level int32 ``[(nodes >> 4) + 1]``.
        child_deltas: per level uint8, uint16 or int32 ``[nodes + 1]``.
        leaf_bases: int32 ``[(rows >> 4) + 1]``.
        leaf_deltas: uint8, uint16 or int32 ``[rows + 1]``.
        leaf_items: int32 ``[N]``: item ids by row, ascending within a row.

    Raises:
        InvalidTypeError: a tensor has the wrong dtype.
        InvalidValueError: the first rule that the tensors break.
    """

    codebook_sizes: tuple[int, ...]
    num_items: int
    tokens: tuple[Tensor, ...]
    child_bases: tuple[Tensor, ...]
    child_deltas: tuple[Tensor, ...]
    leaf_bases: Tensor
    leaf_deltas: Tensor
    leaf_items: Tensor

    def __post_init__(self) -> None:
        for name in LEVEL_FIELDS:
            object.__setattr__(self, name, tuple(sequence("Trie", name, getattr(self, name))))
        object.__setattr__(self, "codebook_sizes", tuple(numbers("Trie", "codebook_sizes", self.codebook_sizes)))
        object.__setattr__(self, "num_items", whole_number("Trie", "num_items", self.num_items, *INT64))
        self._check()

    def _check(self) -> None:
        """Raises unless the tensors are those of a trie: the kernels follow them."""
        require_tensors("Trie", None, leaf_items=self.leaf_items)
        for name, tensor in self._named_tensors():
            require_tensors("Trie", None, **{name: tensor})
            if tensor.device != self.device:
                raise InvalidValueError(f"Trie: {name} must be on {self.device} like the rest, got {tensor.device}")
        here = self if self.leaf_items.device.type == "cpu" else self.to("cpu")
        trie_check(here, here.leaf_bases, here.leaf_deltas, here.leaf_items, here.num_items)

    @classmethod
    def _unchecked(cls, parts: TrieParts) -> Trie:
        trie = object.__new__(cls)
        trie.__dict__.update(parts._asdict())
        return trie

    def __getstate__(self) -> dict[str, Any]:
        # torch cannot pickle uint16: such tensors travel as int16, which no field of a trie otherwise has.
        narrow = self._map(lambda t: t.view(torch.int16) if t.dtype == torch.uint16 else t)
        return dict(narrow.__dict__)  # without item_rows, a cache

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What ``__getstate__`` gave, checked as ``load`` checks a file: a pickle may come from anywhere."""
        try:
            self._restore(state)
        except (InvalidTypeError, InvalidValueError) as error:
            raise CorruptFileError(f"Trie: a pickle or copy must hold a whole trie, got: {error}") from error

    def _restore(self, state: Any) -> None:
        names = {*LEVEL_FIELDS, *LEAF_FIELDS, "codebook_sizes", "num_items"}
        if not isinstance(state, dict) or set(state) != names:
            got = sorted(map(str, state)) if isinstance(state, dict) else shown(state)
            raise InvalidValueError(f"fields must be {sorted(names)}, got {got}")
        for name in LEVEL_FIELDS:
            self.__dict__[name] = tuple(_widened(part) for part in sequence("Trie", name, state[name]))
        for name in LEAF_FIELDS:
            self.__dict__[name] = _widened(state[name])
        self.__dict__["codebook_sizes"] = tuple(numbers("Trie", "codebook_sizes", state["codebook_sizes"]))
        self.__dict__["num_items"] = whole_number("Trie", "num_items", state["num_items"], *INT64)
        if not (isinstance(self.leaf_items, Tensor) and self.leaf_items.is_meta):  # which no op follows
            self._check()

    def __repr__(self) -> str:
        return (
            f"Trie(num_items={self.num_items}, num_rows={self.num_rows}, codebook_sizes={self.codebook_sizes}, "
            f"device={self.device})"
        )

    @property
    def num_levels(self) -> int:
        """L."""
        return len(self.codebook_sizes)

    @property
    def num_rows(self) -> int:
        """Unique semantic IDs."""
        return self.tokens[-1].numel()

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.leaf_items.device

    def num_nodes(self, level: int) -> int:
        """Nodes of a level in ``[0, L]``: one root at level 0, the rows at level L."""
        level = whole_number("Trie.num_nodes", "level", level, 0, self.num_levels)
        return 1 if level == 0 else self.tokens[level - 1].numel()

    @functools.cached_property
    def item_rows(self) -> Tensor:
        """int32 ``[N]``: the row of each item; made on first use and kept (4 bytes an item).

        Raises:
            InvalidValueError: the tensors were written to after they had been checked.
        """
        require_packed("leaf", self.leaf_bases, self.leaf_deltas, self.num_rows)
        require_tensors("Trie", self.device, leaf_items=self.leaf_items)
        if self.leaf_items.dtype != torch.int32 or self.leaf_items.shape != (self.num_items,):
            raise InvalidValueError(f"Trie: leaf_items must be int32 [{self.num_items}], got {shown(self.leaf_items)}")
        counts = torch.empty(self.num_rows, dtype=torch.int32, device=self.device)
        for begin, end, fan_out in fan_outs(self.leaf_bases, self.leaf_deltas):
            require_whole("leaf", fan_out, 1, self.num_items)
            counts[begin:end] = fan_out
        require_whole("leaf", self.leaf_items, 0, self.num_items - 1)
        require_whole("leaf", counts.sum(dtype=torch.int64), self.num_items, self.num_items)
        rows = torch.repeat_interleave(torch.arange(self.num_rows, dtype=torch.int32, device=self.device), counts)
        out = torch.full((self.num_items,), -1, dtype=torch.int32, device=self.device)
        out[self.leaf_items] = rows
        require_whole("leaf_items", out, 0, self.num_rows - 1)  # one that is missing was there twice
        return out

    def lookup(self, codes: Tensor) -> Tensor:
        """The node that each prefix leads to, -1 where the trie has none.

        Args:
            codes: int32 or int64 ``[..., t]``, the first t codes of semantic IDs, t in [1, L].

        Returns:
            int32 ``[...]``: the node of level t; the row where t = L.

        Raises:
            InvalidTypeError: codes are not int32 or int64.
            InvalidValueError: t is not in [1, L].
        """
        return trie_lookup(self, codes)

    @door
    def items(self, rows: Tensor) -> Jagged:
        """The items of each row.

        Args:
            rows: int32 or int64, any shape, each in ``[0, num_rows)``; read in order, repeated rows allowed.

        Returns:
            One row of ascending int64 item ids per entry of ``rows``.

        Raises:
            InvalidTypeError: rows are not int32 or int64.
            InvalidValueError: a row is out of range.
        """
        require_tensors("Trie.items", self.device, rows=rows)
        if rows.dtype not in (torch.int32, torch.int64):
            raise InvalidTypeError(f"Trie.items: rows must be int32 or int64, got {rows.dtype}")
        flat = checked_rows(rows, self.num_rows)
        begin, end, (_, at) = children_of("leaf", self.leaf_bases, self.leaf_deltas, flat, self.num_items)
        return Jagged.from_lengths(self.leaf_items[at].to(torch.int64), end - begin)

    @door
    def valid_codes(self, level: int, nodes: Tensor) -> Tensor:
        """Which codes may follow each node: the mask of a softmax over valid children, as training needs it.

        Args:
            level: in ``[0, L - 1]``.
            nodes: int32 or int64 ``[M]``, each a node of that level.

        Returns:
            bool ``[M, codebook_sizes[level]]``.

        Raises:
            InvalidTypeError: nodes are not int32 or int64.
            InvalidValueError: the level, or a node, is out of range.

        Notes:
            O(M K + children). A search never calls it: ``ops.trie_step`` reads the trie itself.
        """
        return valid_codes(self, level, nodes)

    @door
    def item_codes(self) -> Tensor:
        """The semantic ID of each item: uint8 ``[N, L]``, or int32 where a codebook has more than 256 codes.

        Notes:
            O(N L).
        """
        return item_codes(self)

    def like(self, item_codes: Any) -> Trie:
        """``build_trie`` of other items, with the same codebooks."""
        return build_trie(item_codes, codebook_sizes=self.codebook_sizes)

    @door
    def extended(self, new_codes: Any) -> Trie | ChangedTrie:
        """With items behind the last one, at once: nothing of the catalog's size is read or written.

        Searches, look-ups and numbers of nodes and rows are those of a trie built of all items, bit for bit; what is
        returned may be extended again. ``ChangedTrie.merged`` gives that trie, which searches faster.

        Args:
            new_codes: integers ``[M, L]``, each below its codebook's size: the semantic IDs of items N, N + 1, ...

        Returns:
            The extended trie; itself where M = 0. This one stays as it is.

        Raises:
            InvalidTypeError: new_codes are not integers.
            InvalidValueError: wrong shape, a code out of range (item and level are named), or too many items.

        Notes:
            O(M L log K): milliseconds for 10,000 items beside 20M (docs/benchmarks.md).
        """
        return cast("Trie | ChangedTrie", ChangedTrie(self, _no_codes(self.codebook_sizes)).extended(new_codes))

    @door
    def without(self, items: Any) -> Trie | ChangedTrie:
        """Without some items: they keep their ids, and no search returns them or follows a prefix of theirs alone.

        Scores are those of a trie built of what is left, log-sums over valid children too.

        Args:
            items: item ids in ``[0, N)``, in any order, repeats allowed.

        Returns:
            The trie without them; itself where there are none. This one stays as it is.

        Raises:
            InvalidTypeError: items are not integers.
            InvalidValueError: an id out of range.

        Notes:
            N bytes are written here, and a bit per row in the first search.
        """
        return cast("Trie | ChangedTrie", ChangedTrie(self, _no_codes(self.codebook_sizes)).without(items))

    def to(self, device: torch.device | str) -> Trie:
        """The same trie with its tensors on ``device``; itself where they already are.

        Raises:
            UnsupportedError: a device that this machine lacks.
        """
        wanted = device_of("Trie.to", "device", device)
        if wanted == self.device:
            return self
        if self.device.type == "meta":
            raise InvalidValueError(f"Trie.to: trie must have data to be moved to {wanted}, got one on meta")
        try:
            return self._map(lambda tensor: tensor.to(wanted))
        except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch built without it
            raise UnsupportedError(f"Trie.to: device must be one of this machine, got {wanted}") from error

    def stats(self) -> TrieStats:
        """Counts and sizes; reads every offset once."""
        fan_out = [
            max(int(f.max()) for _, _, f in fan_outs(bases, deltas))
            for bases, deltas in zip(self.child_bases, self.child_deltas, strict=True)
        ]
        num_bytes = {name: t.numel() * t.element_size() for name, t in self._named_tensors()}
        return TrieStats(
            items=self.num_items,
            rows=self.num_rows,
            nodes=tuple(self.num_nodes(level) for level in range(self.num_levels)),
            mean_fan_out=tuple(self.num_nodes(v + 1) / self.num_nodes(v) for v in range(self.num_levels)),
            max_fan_out=tuple(fan_out),
            search_bytes=sum(size for name, size in num_bytes.items() if not name.startswith("leaf_")),
            total_bytes=sum(num_bytes.values()),
            collision_rate=1.0 - self.num_rows / self.num_items,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a safetensors file with format version, codebook sizes and checksum, whole or not at all."""
        write_trie(path, self.codebook_sizes, self.num_items, dict(self.to("cpu")._named_tensors()))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, verify: bool = True) -> Trie:
        """Maps a file of ``save`` into memory: pages are read when they are first used, and shared by processes.

        Args:
            path: the file; it must not be changed in place while the trie is in use.
            verify: compare the checksum (SHA-256). The structure is checked in any case, so that no file can make a
                search read outside its tensors.

        Raises:
            CorruptFileError: cut short, altered, of another version, or not a trie.
            FileNotFoundError: no such file.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"Trie.load: path must name a file, got {path}")
        try:
            return cls(*read_trie(path, verify))
        except (SafetensorError, InvalidTypeError, InvalidValueError) as error:
            raise CorruptFileError(f"Trie.load: {path} must be a whole trie file, got: {error}") from error

    def _named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        for name in LEVEL_FIELDS:
            for level, tensor in enumerate(getattr(self, name)):
                yield f"{name}.{level}", tensor
        for name in LEAF_FIELDS:
            yield name, getattr(self, name)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Trie:
        levels = [tuple(change(t) for t in getattr(self, name)) for name in LEVEL_FIELDS]
        leaves = [change(getattr(self, name)) for name in LEAF_FIELDS]
        return Trie._unchecked(TrieParts(self.codebook_sizes, self.num_items, levels[0], levels[1], levels[2], *leaves))


def build_trie(item_codes: Any, *, codebook_sizes: Sequence[int] | None = None) -> Trie:
    """Sorts a catalog's semantic IDs into a trie.

    Args:
        item_codes: ``[N, L]``, row n the semantic ID of item n: any integer dtype and strides, numpy or torch (or
            nested lists); N in [1, 2^31 - 1], L in [1, 8]. Items may share a semantic ID.
        codebook_sizes: L sizes in [1, 65536]; ``None``: the largest code of each level plus one. Give them when the
            model's logits are wider than the codes in use.

    Returns:
        A trie on the CPU.

    Raises:
        InvalidTypeError: item_codes are not integers.
        InvalidValueError: wrong shape; a code out of range, naming item and level.

    Notes:
        One thread, O(N L); see ``ops.trie_build`` for the cost and docs/benchmarks.md for figures.

    Example:
        >>> import torch
        >>> from genrec_fast.catalog.trie import build_trie
        >>> trie = build_trie(torch.tensor([[1, 0], [0, 2], [1, 0]]))
        >>> rows = trie.lookup(torch.tensor([[1, 0], [0, 2], [0, 0]]))
        >>> rows.tolist(), trie.items(rows[:2]).values.tolist()
        ([1, 0, -1], [0, 2, 1])
    """
    return Trie._unchecked(trie_build(item_codes, codebook_sizes))


def _no_codes(sizes: Sequence[int]) -> Tensor:
    return torch.empty(0, len(sizes), dtype=torch.int32)


def _widened(part: Any) -> Any:
    plain = isinstance(part, Tensor) and part.layout == torch.strided and not part.is_nested
    return part.view(torch.uint16) if plain and part.dtype == torch.int16 else part
