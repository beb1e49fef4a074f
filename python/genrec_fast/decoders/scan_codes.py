"""Exact search where a backbone predicts all codes at once: the score of every item from its codes."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.batch import Batch, Ranked
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.protocols import Parallel
from genrec_fast.base.query import Query
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.decoders.arguments import check_filter, check_k
from genrec_fast.decoders.base import Decoder, OneStep
from genrec_fast.decoders.items_by_codes import ItemsByCodes
from genrec_fast.ops import topk_code_sums


@dataclass(frozen=True, kw_only=True)
class ScanCodesConfig:
    """Settings of ``ScanCodes``: there are none."""

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, catalog: Catalog | None = None) -> ScanCodes:
        return ScanCodes(self)


class ScanCodes(Decoder):
    """Looks at every item: its score is the sum of its codes' log-probabilities, exact however many levels there are.

    Runs on the CPU (``ops.topk_code_sums``), wherever the network does.
    """

    needs = Parallel
    reads_trie = False

    def __init__(self, config: ScanCodesConfig) -> None:
        self.config = config
        self._codes = PackedCodes()

    def begin(self, system: Any, batch: Batch, query: Query) -> OneStep:
        """One step; ``num_beams`` and ``exact`` are not read.

        Raises:
            InvalidTypeError: the backbone does not predict all codes at once.
            InvalidValueError: k or a filter does not fit, or the backbone's levels are not the catalog's.
        """
        return OneStep(len(batch), lambda: self._scanned(system, batch, query))

    def _scanned(self, system: Any, batch: Batch, query: Query) -> Ranked:
        codes = ask_parallel("scan_codes", system, batch, query, self._codes)
        return scan(code_logprobs(system.backbone.user_logits(batch)), codes, query, batch.items.offsets.device)


@dataclass(frozen=True, eq=False)
class CodesOf:
    """A catalog's codes as the ops read them.

    Args:
        item_codes: of the catalog, integers ``[N, L]``, on the CPU.
        packed: uint8 or int32 ``[N, L']``, on the CPU; L' is L + 1 where the last code is the item itself.
        sizes: L' codebook sizes.
        used: bool ``[V]``: which codes occur.
    """

    item_codes: Tensor
    packed: Tensor
    sizes: tuple[int, ...]
    used: Tensor

    @functools.cached_property
    def items(self) -> ItemsByCodes:
        """Which items have some codes; made when it is asked for first."""
        return ItemsByCodes(self.packed, self.sizes)


class PackedCodes:
    """``CodesOf`` the catalog that was asked for last; a copy knows nothing yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: tuple[Tensor, CodesOf] | None = None

    def __reduce__(self) -> tuple[type[PackedCodes], tuple[()]]:
        return PackedCodes, ()

    def of(self, op: str, system: Any) -> CodesOf:
        """Those of a system's layout, made once for a tensor.

        Raises:
            InvalidValueError: the backbone's levels are not the catalog's.
        """
        source, sizes = item_codes_of(op, system), tuple(system.backbone.codebook_sizes)
        with self._lock:
            if self._known is None or self._known[0] is not source or self._known[1].sizes != sizes:
                self._known = source, _packed(op, source, sizes)
            return self._known[1]


def _packed(op: str, item_codes: Tensor, sizes: tuple[int, ...]) -> CodesOf:
    count, levels = item_codes.shape
    codes = own = item_codes.detach().cpu()
    with_items = len(sizes) == levels + 1 and sizes[-1] == count
    if not with_items and len(sizes) != levels:
        raise InvalidValueError(
            f"{op}: backbone must predict the catalog's {levels} levels (and may predict the item), got {len(sizes)}"
        )
    if with_items:
        codes = torch.cat([codes.int(), torch.arange(count, dtype=torch.int32).unsqueeze(1)], 1)
    low, high = (part.tolist() for part in codes.aminmax(dim=0))
    for level, size in enumerate(sizes):  # before codes are narrowed: they would wrap around
        if low[level] < 0 or high[level] >= size:
            raise InvalidValueError(
                f"{op}: item_codes of level {level} must be in [0, {size}), as the backbone predicts them, "
                f"got {low[level] if low[level] < 0 else high[level]}"
            )
    packed = codes.to(torch.uint8 if max(sizes) <= 256 else torch.int32).contiguous()
    used = torch.zeros(sum(sizes), dtype=torch.bool)
    bases = torch.tensor([0, *sizes[:-1]]).cumsum(0)
    for base, column in zip(bases.tolist(), packed.unbind(1), strict=True):
        used[base + column.long()] = True
    return CodesOf(own, packed, sizes, used)


def item_codes_of(op: str, system: Any) -> Tensor:
    """The catalog's codes ``[N, L]``: those of the layout, or where there is none those of the trie.

    Raises:
        InvalidValueError: neither is there.
    """
    found = getattr(getattr(system, "layout", None), "item_codes", None)
    if isinstance(found, Tensor):
        return found
    trie = system.trie
    if trie is None:
        raise InvalidValueError(f"{op}: system must have a layout with item_codes, or a trie, got neither")
    codes: Tensor = trie.item_codes()
    return codes


def ask_parallel(op: str, system: Any, batch: Batch, query: Query, known: PackedCodes) -> CodesOf:
    """The codes that a query is about, once it is checked.

    Raises:
        InvalidTypeError: the backbone does not predict all codes at once.
        InvalidValueError: k or a filter does not fit, or the backbone's levels are not the catalog's.
    """
    if not isinstance(system.backbone, Parallel):
        raise InvalidTypeError(f"{op}: backbone must be Parallel, got {type(system.backbone).__name__}")
    check_k(op, query.k)
    codes = known.of(op, system)
    check_filter(op, len(batch), len(codes.packed), query.allowed, query.exclude)
    return codes


def code_logprobs(logits: Sequence[Tensor]) -> Tensor:
    """float32 ``[B, V]``, on the CPU: each level's log-softmax, side by side."""
    return torch.cat([part.float().log_softmax(1) for part in logits], 1).cpu()


def scan(logprobs: Tensor, codes: CodesOf, query: Query, device: torch.device) -> Ranked:
    """The exact answer, from log-probabilities ``[B, V]`` on the CPU, as it is to be on a device."""
    allowed = None if query.allowed is None else query.allowed.cpu()
    exclude = None if query.exclude is None else query.exclude.to("cpu")
    scores, ids = topk_code_sums(
        logprobs, codes.packed, int(query.k), codebook_sizes=codes.sizes, allowed=allowed, exclude=exclude
    )
    exact = torch.ones(len(ids), dtype=torch.bool)
    return ranked(codes, ids, scores, exact, torch.full((len(ids),), -torch.inf)).to(device)


def ranked(codes: CodesOf, ids: Tensor, scores: Tensor, exact: Tensor, bound: Tensor) -> Ranked:
    """With the codes of items int64 ``[B, k]``, -1 behind the last."""
    written = codes.item_codes[ids.clamp(min=0)].int().masked_fill((ids < 0).unsqueeze(2), -1)
    return Ranked(ids, written, scores, exact, bound)
