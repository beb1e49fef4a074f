"""A search that writes the codes of an item in any order: masked diffusion over semantic IDs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from genrec_fast.base.batch import Batch, Ranked, proven
from genrec_fast.base.best_of import best_of
from genrec_fast.base.checks import check_flag
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.protocols import MaskedCodes
from genrec_fast.base.query import Query
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.decoders.arguments import check_filter, check_k
from genrec_fast.decoders.base import Decoder, OneStep
from genrec_fast.decoders.scan_codes import CodesOf, PackedCodes, ranked
from genrec_fast.decoders.unmask_search import Beams, Unmasking, unmasked

_SCORES = 1 << 24  # of codes, of all users and beams, that are held at once: 64 MiB


@dataclass(frozen=True, kw_only=True)
class UnmaskConfig:
    """Settings of ``Unmask``; the defaults are LLaDA-Rec's."""

    num_beams: int = 50
    """partly written semantic IDs kept per user after every code; k if that is more"""
    codes_per_step: int = 1
    """codes written between two readings of the network"""
    order: Literal["confident", "any"] = "confident"
    """each beam writes the level whose best code is likeliest (LLaDA-Rec), or is tried at every level (DiffGRM)"""

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, catalog: Catalog | None = None) -> Unmask:
        return Unmask(self)


class Unmask(Decoder):
    """From nothing written to whole semantic IDs, a code at a time at whatever level.

    ::

        rows = {all levels masked}
        L times: candidates = each row with one more code, at its most confident level or at each that is masked,
                 with which it is still an item's that the query allows (ops.completable_codes)
                 score = the row's + the code's log-probability, given what was written at the last reading
                 rows = the num_beams best different ones

    Two orders that lead to the same codes are one row, which keeps the better score. A semantic ID's score is that of
    its best order. Items that share a semantic ID share its score. ``Ranked.bound`` is the best row that was left out,
    and ``Ranked.exact`` is k-th score > bound; with ``exact`` the search is made again with twice the beams, until it
    is or the search has ``query.max_num_beams``.

    Notes:
        L / codes_per_step readings of num_beams rows a user, and L calls of ``ops.completable_codes``. No trie: as many
        levels as there are. Codes are chosen on the CPU, wherever the network runs. Ties go to the better row, then to
        the lower level, then to the lower code; in the answer to the lower item id.

    Source: LLaDA-Rec (arXiv:2511.06254), adapted beam search; DiffGRM (arXiv:2510.21805), parallel denoising; that no
    row leads astray, rows that are the same, and the certificate are ours.
    """

    needs = MaskedCodes
    reads_trie = False

    def __init__(self, config: UnmaskConfig) -> None:
        self.config = config
        self._codes = PackedCodes()

    def settled(self, query: Query) -> Query:
        """See ``Decoder``.

        Raises:
            InvalidTypeError, InvalidValueError: k, num_beams or exact does not fit.
        """
        check_flag("unmask", "exact", query.exact)
        beams: Any = query.num_beams
        if isinstance(beams, tuple):
            raise InvalidValueError(f"unmask: num_beams must be one number or one per user, got {beams}")
        if isinstance(beams, Tensor):
            if beams.dtype != torch.int64 or beams.dim() != 1:
                kind = str(beams.dtype).removeprefix("torch.")
                raise InvalidTypeError(f"unmask: num_beams must be int64 [B], got {kind} {list(beams.shape)}")
            check_k("unmask", query.k, int(beams.min()) if beams.numel() else None)
            return query
        k, _ = check_k("unmask", query.k)
        _, width = check_k("unmask", k, max(self.config.num_beams, k) if beams is None else beams)
        return dataclasses.replace(query, k=k, num_beams=width)

    def begin(self, system: Any, batch: Batch, query: Query) -> OneStep:
        """One step.

        Raises:
            InvalidTypeError: the backbone tells no masked codes.
            InvalidValueError: k, num_beams or a filter does not fit, or the backbone's levels are not the catalog's.
        """
        return OneStep(len(batch), lambda: self._asked(system, batch, self.settled(query)))

    def _asked(self, system: Any, batch: Batch, query: Query) -> Ranked:
        if not isinstance(system.backbone, MaskedCodes):
            raise InvalidTypeError(f"unmask: backbone must be MaskedCodes, got {type(system.backbone).__name__}")
        codes = self._codes.of("unmask", system)
        check_filter("unmask", len(batch), len(codes.packed), query.allowed, query.exclude)
        beams: Any = query.num_beams
        widths = beams.cpu() if isinstance(beams, Tensor) else torch.full((len(batch),), beams)
        if len(widths) != len(batch):
            raise InvalidValueError(f"unmask: num_beams must be int64 [{len(batch)}], got {list(widths.shape)}")
        waiting = [(int(width), (widths == width).nonzero().squeeze(1)) for width in widths.unique()]
        asked, order, found = dataclasses.replace(query.to("cpu"), num_beams=None), [], []
        while waiting:
            width, users = waiting.pop(0)
            for part in users.split(max(1, _SCORES // (width * sum(codes.sizes)))):
                answer = self._found(system, batch, asked, codes, part, width)
                sure = answer.exact
                if not query.exact or width >= (query.max_num_beams or width + 1):
                    sure = torch.ones_like(sure)
                order.append(part[sure])
                found.append(answer.select(sure.nonzero().squeeze(1)))
                if not bool(sure.all()):
                    wider = 2 * width if query.max_num_beams is None else min(2 * width, query.max_num_beams)
                    waiting.append((wider, part[~sure]))
        if not found:
            return self._found(system, batch, asked, codes, torch.arange(0), 1).to(batch.items.offsets.device)
        return Ranked.cat(found).select(torch.cat(order).argsort()).to(batch.items.offsets.device)

    def _found(self, system: Any, batch: Batch, query: Query, codes: CodesOf, users: Tensor, num_beams: int) -> Ranked:
        """The answers of some users, searched alike."""
        device = batch.items.offsets.device
        histories, query = system.backbone.read(batch.select(users.to(device))), query.select(users)
        search = Unmasking(
            system.backbone,
            histories,
            codes,
            query.allowed,
            query.exclude,
            num_beams,
            self.config.codes_per_step,
            self.config.order == "confident",
        )
        beams = unmasked(search, len(users), device)
        ids, scores = _items(beams, codes, query, int(query.k))
        return ranked(codes, ids, scores, proven(scores, beams.bound), beams.bound)


def _items(beams: Beams, codes: CodesOf, query: Query, k: int) -> tuple[Tensor, Tensor]:
    """The k best items ``[B, k]`` of semantic IDs: higher score, then lower id; those that the query allows."""
    users, width = beams.scores.shape
    items = codes.items.of(beams.written.flatten(0, 1))
    rows = items.row_index()
    user, score, ids = rows // max(1, width), beams.scores.flatten()[rows], items.values
    there = score > -torch.inf
    if query.allowed is not None:
        there &= query.allowed.expand(users, len(codes.packed))[user, ids]
    if query.exclude is not None and query.exclude.values.numel():
        keys = query.exclude.row_index() * len(codes.packed) + query.exclude.values.long()
        there &= ~torch.isin(user * len(codes.packed) + ids, keys)
    best, found, _ = best_of(users, user[there], ids[there], score[there], k)
    return best, found
