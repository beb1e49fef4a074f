"""A trie whose items have changed since it was built: some were appended, some are gone."""

from __future__ import annotations

import functools
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from typing_extensions import Self

from genrec_fast.base.checks import check_integers, device_of, shown, whole_number
from genrec_fast.base.errors import CorruptFileError, InvalidValueError, UnsupportedError, door
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.changes import checked_codes, checked_items, checked_rows
from genrec_fast.catalog.joint import Joint, Keeps, joined_items, mark_children
from genrec_fast.catalog.joint_filter import JointFilter, counts_of, require_items, within
from genrec_fast.ops.trie_filter import CatalogTrie, TrieFilter, excluding, filter_arguments, trie_filter
from genrec_fast.ops.trie_lookup import trie_lookup
from genrec_fast.ops.trie_offsets import fan_out
from genrec_fast.ops.trie_step import TrieStep, trie_step

_MOST = 2**31 - 1  # items, rows and nodes are int32


class BuiltTrie(CatalogTrie, Protocol):
    """A ``Trie``, for a file that it reads itself."""

    def like(self, item_codes: Any) -> Self: ...
    def item_codes(self) -> Tensor: ...
    def items(self, rows: Tensor) -> Jagged: ...
    def to(self, device: torch.device | str) -> Self: ...
    def save(self, path: Any) -> None: ...


T = TypeVar("T", bound=BuiltTrie)


class ChangedTrie:
    """A trie with items appended to it, or without some: what ``Trie.extended`` and ``Trie.without`` give.

    Searched as a trie is, with the results that a trie built of all its items would give, bit by bit: scores, ties,
    log-sums, bounds. Nodes and rows have the numbers of that trie, too. What is appended is a small trie of its own
    beside the large one, which is not touched: nothing of the catalog's size is written. Pickled and copied as a trie.

    Args:
        base: the trie that was built.
        added: int32 ``[M, L]``: semantic IDs of the items appended since; item ``base.num_items + m`` has the m-th.
        kept: bool ``[N]`` on the base's device, N = ``base.num_items + M``: false for items that are gone; ``None``:
            all are there.

    Notes:
        A search is slower than on a built trie, as long as something is appended: each level asks both tries, from
        Python. ``merged()`` ends that, at the cost of a build; items that are gone cost what a filter costs.
    """

    def __init__(self, base: BuiltTrie, added: Tensor, kept: Tensor | None = None) -> None:
        self.base, self.added, self.kept = base, added, kept
        self.codebook_sizes = base.codebook_sizes
        self._joint: Joint | None = None
        if len(added):
            small = base.like(added).to(base.leaf_items.device)
            self._joint = Joint(base, small)
            _ = self._joint.places  # now, not in the first search

    def __repr__(self) -> str:
        gone = 0 if self.kept is None else int((~self.kept).sum())
        return f"ChangedTrie({self.base!r}, {len(self.added)} items appended, {gone} gone)"

    def __getstate__(self) -> tuple[BuiltTrie, Tensor, Tensor | None]:
        return self.base, self.added, self.kept

    def __setstate__(self, state: tuple[BuiltTrie, Tensor, Tensor | None]) -> None:
        """What ``__getstate__`` gave, checked: a pickle may come from anywhere."""
        base, added, kept = state
        count = (base.num_items + len(added),)
        if kept is not None and (kept.dtype != torch.bool or kept.shape != count or kept.device != base.device):
            raise CorruptFileError(f"Trie: a pickle or copy must hold a whole trie, got: kept must be bool {count}")
        ChangedTrie.__init__(self, base, checked_codes("Trie", base.codebook_sizes, added), kept)

    @property
    def num_levels(self) -> int:
        """L."""
        return len(self.codebook_sizes)

    @property
    def num_items(self) -> int:
        """N: item ids are below it, those of items that are gone too."""
        return self.base.num_items + len(self.added)

    @property
    def num_rows(self) -> int:
        """Unique semantic IDs, those of items that are gone too."""
        return self.num_nodes(self.num_levels)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.base.leaf_items.device

    @property
    def searched(self) -> Any:
        """What a search with the filter of ``filter`` goes over: the base, where nothing was appended."""
        return self.base if self._joint is None else self

    def num_nodes(self, level: int) -> int:
        """Nodes of a level in ``[0, L]``: one root at level 0, the rows at level L."""
        level = whole_number("Trie.num_nodes", "level", level, 0, self.num_levels)
        if level == 0:
            return 1
        return self.base.tokens[level - 1].numel() if self._joint is None else self._joint.num_nodes(level)

    def own_fan_out(self, level: int, nodes: Tensor) -> Tensor:
        """What ``ops.trie_offsets.fan_out`` calls."""
        return fan_out(self.base, level, nodes) if self._joint is None else self._joint.fan_out(level, nodes)

    def lookup(self, codes: Tensor) -> Tensor:
        """See ``Trie.lookup``; semantic IDs of items that are gone lead to their rows, too."""
        return self.own_lookup(codes)

    def own_lookup(self, codes: Tensor) -> Tensor:
        """What ``ops.trie_lookup`` calls."""
        return trie_lookup(self.base, codes) if self._joint is None else self._joint.lookup(codes)

    @door
    def items(self, rows: Tensor) -> Jagged:
        """See ``Trie.items``; items that are gone are left out."""
        if self._joint is None:
            found = self.base.items(rows)
        else:
            rows = check_integers("Trie.items", "rows", rows, "of any shape")
            base, added = self._joint.rows(checked_rows(rows, self.num_rows))
            own, more = _items_where(self.base, base), _items_where(self._joint.added, added)
            found = joined_items(own, more, self.base.num_items)
        if self.kept is None:
            return found
        here = self.kept[found.values]
        return Jagged.from_lengths(found.values[here], counts_of(found, here))

    def item_codes(self) -> Tensor:
        """See ``Trie.item_codes``; those of items that are gone, too."""
        codes = self.base.item_codes()
        return codes if self._joint is None else torch.cat([codes, self.added.to(codes)])

    @door
    def valid_codes(self, level: int, nodes: Tensor) -> Tensor:
        """See ``Trie.valid_codes``; a code below which every item is gone is not valid."""
        level = whole_number("Trie.valid_codes", "level", level, 0, self.num_levels - 1)
        nodes = check_integers("Trie.valid_codes", "nodes", nodes, "[M]")
        count = self.num_nodes(level)
        outside = (nodes < 0) | (nodes >= count)
        if nodes.dim() != 1 or bool(outside.any()):
            raise InvalidValueError(f"Trie.valid_codes: nodes must be [M] in [0, {count}), got {shown(nodes)}")
        keeps = self._keeps
        if self._joint is not None:
            return self._joint.children(level, nodes.unsqueeze(1), keeps).squeeze(1)
        shape = (len(nodes), 1, self.codebook_sizes[level])
        valid = torch.zeros(shape, dtype=torch.bool, device=self.device)
        mark_children(valid, self.base, level, nodes.long().unsqueeze(1), keeps[0])
        return valid.squeeze(1)

    @functools.cached_property
    def _keeps(self) -> Keeps:
        """Filters of what is gone, made once: bits of all rows."""
        if self.kept is None:
            return None, None
        count, joint = self.base.num_items, self._joint
        added = None if joint is None else trie_filter(joint.added, allowed=self.kept[count:])
        return trie_filter(self.base, allowed=self.kept[:count]), added

    @door
    def own_filter(self, allowed: Tensor | None, exclude: Jagged | None) -> TrieFilter:
        """What ``ops.trie_filter`` calls: one that drops what is gone, too."""
        allowed, exclude = filter_arguments(self.device, self.num_items, allowed, exclude)
        if exclude is not None:
            require_items(self.num_items, exclude)
        keeps: list[TrieFilter | None] = []
        tries = (self.base,) if self._joint is None else (self.base, self._joint.added)
        begin = 0
        for trie, gone in zip(tries, self._keeps, strict=False):
            end = begin + trie.num_items
            own = None if exclude is None else within(exclude, begin, end)
            if allowed is not None:
                mask = allowed[:, begin:end]
                keeps.append(
                    trie_filter(trie, allowed=mask if self.kept is None else mask & self.kept[begin:end], exclude=own)
                )
            elif gone is not None:
                keeps.append(gone if own is None else excluding(trie, gone, own))
            else:
                keeps.append(trie_filter(trie, exclude=own))
            begin = end
        if len(keeps) == 1 and keeps[0] is not None:
            return keeps[0]
        own_keeps = keeps[0], keeps[1]
        leaves = self.base.leaf_items
        return JointFilter(None, None, None, None, allowed, exclude, self.num_rows, leaves, own_keeps, self)

    def own_step(
        self,
        level: int,
        logits: Tensor,
        nodes: Tensor,
        scores: Tensor,
        *,
        num_beams: int,
        normalize: str,
        log_sums: Tensor | None,
        allowed: TrieFilter | None,
    ) -> TrieStep:
        """What ``ops.trie_step`` calls."""
        given: Any = {"num_beams": num_beams, "normalize": normalize, "log_sums": log_sums}
        if self._joint is None:
            keep = self._keeps[0] if allowed is None else allowed
            return trie_step(self.base, level, logits, nodes, scores, allowed=keep, **given)
        if allowed is None:
            keeps = self._keeps
        else:
            allowed.require_trie(self)  # type: ignore[arg-type]
            keeps = allowed.keeps_of_both if isinstance(allowed, JointFilter) else (None, None)
        return self._joint.step(level, logits, nodes, scores, keeps=keeps, **given)

    def extended(self, new_codes: Any) -> Any:
        """See ``Trie.extended``; what was appended before is placed again with it."""
        codes = checked_codes("extended", self.codebook_sizes, new_codes)
        if not len(codes):
            return self._plain()
        if self.num_items + len(codes) > _MOST:
            raise InvalidValueError(f"extended: new_codes must leave at most {_MOST} items, got {len(codes)} more")
        kept = self.kept
        if kept is not None:
            kept = torch.cat([kept, torch.ones(len(codes), dtype=torch.bool, device=kept.device)])
        return ChangedTrie(self.base, torch.cat([self.added, codes]), kept)

    def without(self, items: Any) -> Any:
        """See ``Trie.without``; what was gone before stays so."""
        gone = checked_items(self.num_items, items).to(self.device)
        if not gone.numel():
            return self._plain()
        kept = torch.ones(self.num_items, dtype=torch.bool, device=self.device)
        if self.kept is not None:
            kept &= self.kept
        kept[gone] = False
        return ChangedTrie(self.base, self.added, kept)

    def _plain(self) -> Any:
        return self.base if self._joint is None and self.kept is None else self

    def merged(self) -> Any:
        """The same items in one built trie: a ``Trie``; with a filter of what is gone, where something is.

        Node for node and bit for bit what ``build_trie`` of all semantic IDs gives. It may run in another thread while
        this trie is searched: nothing is changed, and Python's lock is free in the long parts.

        Notes:
            The time and memory of ``build_trie``, and of reading the semantic IDs back: ``[N, L]`` bytes, or int32
            where a codebook has more than 256 codes.
        """
        if self._joint is None:
            return self._plain()
        whole = self.base.like(self.item_codes().cpu()).to(self.device)
        none = self.added[:0]
        return whole if self.kept is None else ChangedTrie(whole, none, self.kept)

    def to(self, device: torch.device | str) -> Any:
        """See ``Trie.to``."""
        wanted = device_of("Trie.to", "device", device)
        if wanted == self.device:
            return self
        kept = None if self.kept is None else self.kept.to(wanted)
        return ChangedTrie(self.base.to(wanted), self.added, kept)

    def save(self, path: Any) -> None:
        """Writes the merged trie: ``Trie.load`` gives a built one.

        Raises:
            UnsupportedError: items are gone, which a trie's file does not know: it would bring them back.
        """
        if self.kept is not None:
            raise UnsupportedError(
                "Trie.save: trie must have all its items, since a file keeps no filter, got one without "
                f"{int((~self.kept).sum())}; save the trie before without(), and the ids beside it"
            )
        self.merged().save(path)


def _items_where(trie: BuiltTrie | Any, rows: Tensor) -> Jagged:
    """The items of each row; none for -1."""
    there = rows >= 0
    found = trie.items(rows[there])
    lengths = torch.zeros_like(rows)
    lengths[there] = found.lengths
    return Jagged.from_lengths(found.values, lengths)
