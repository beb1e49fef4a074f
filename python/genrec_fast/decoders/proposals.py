"""Proposals: beams, successors and items of like texts are proposed, and compared once by the whole score."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from genrec_fast.base.batch import Batch, Ranked, proven
from genrec_fast.base.best_of import best_of
from genrec_fast.base.checks import check_flag
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.query import Query
from genrec_fast.base.summed import Summed, SummedScores
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.decoders.arguments import check_filter, check_k
from genrec_fast.decoders.base import Decoder, OneStep, Parts, run
from genrec_fast.decoders.beam import Beam, BeamConfig
from genrec_fast.decoders.candidates import scores_of_pairs
from genrec_fast.decoders.retrieve import nearest
from genrec_fast.decoders.search_pass import as_built

_ROUNDING = 1e-5  # of a bound: a hundred times what float32 sums of unit vectors lose


@dataclass(frozen=True, kw_only=True)
class ProposalsConfig:
    """Settings of ``Proposals``; where k is more than one of the numbers, it counts in its place."""

    num_beams: int = 50
    """prefixes kept per level, and items that the beam search proposes"""
    normalize: Literal["all", "valid"] = "all"
    """of the beam search, as in ``BeamConfig``"""
    num_known: int = 1000
    """items that are proposed of those of which something is known (successors of the last items, items that were
    taken): those of the highest values"""
    num_alike: int = 100
    """items whose texts are most like the last ones'"""

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, catalog: Catalog | None = None) -> Proposals:
        return Proposals(self)


class Proposals(Decoder):
    """The best by the whole score of what a beam search, what is known of items, and their texts propose.

    ``Ranked.scores`` are those of ``Scan`` but for the order of sums. What was not looked at is bounded::

        bound = most + the last proposed text's similarity + the highest known value that was not proposed (at least 0)

    with ``most`` of ``Summed``: no other item scores higher. ``Ranked.exact`` is true where the k-th score is above it,
    or every item that may appear was looked at: ``bound`` is -inf then. A network whose part of a score is large makes
    the bound wide, so that few answers are proven; that says nothing about how many are right.

    Attributes:
        index: a faiss index of ``Summed.texts`` under the inner product, item n its vector n; ``None``: all texts are
            compared. With one that is not flat nothing is proven.

    Notes:
        The history is read twice, to write codes and to be compared. Beyond the beam search O(N F) for the texts
        without an index, and O(P D) for the P proposals: no ``[B, N]`` scores are made.

    Source: ours; candidates of several channels and one ranking of them are how large catalogs are served (Covington et
        al., RecSys 2016, section 2), and beams that propose LIGER's (arXiv:2411.18814, section 3.3).
    """

    needs = SummedScores
    by_k: ClassVar[bool] = True

    def __init__(self, config: ProposalsConfig) -> None:
        self.config = config
        self.beam = Beam(BeamConfig(num_beams=config.num_beams, normalize=config.normalize))
        self.index: Any = None

    def settled(self, query: Query) -> Query:
        """See ``Decoder``.

        Raises:
            InvalidValueError: exact: proposals are not all items; k does not fit.
        """
        if check_flag("proposals", "exact", query.exact):
            raise InvalidValueError("proposals: exact must be False: proposals are not all items (scan compares all)")
        return dataclasses.replace(query, k=check_k("proposals", query.k)[0])

    def begin(self, system: Any, batch: Batch, query: Query) -> OneStep:
        """One step; ``num_beams`` is not read: how wide a proposer searches is a setting.

        Raises:
            InvalidTypeError: the backbone does not sum scores and write codes, or there is no trie.
            InvalidValueError: k or a filter does not fit; NaN scores.
            UnsupportedError: items were appended to the catalog and not merged.
        """
        if not isinstance(system.backbone, SummedScores):
            kind = type(system.backbone).__name__
            raise InvalidTypeError(f"proposals: backbone must be SummedScores and Autoregressive, got {kind}")
        query = self.settled(query)
        check_filter("proposals", len(batch), system.backbone.num_items, query.allowed, query.exclude)
        trie, query = as_built("proposals", system.trie, query)
        parts = Parts(system.backbone, trie, system.layout)
        return OneStep(len(batch), lambda: self._compared(parts, batch, query))

    def _compared(self, parts: Parts, batch: Batch, query: Query) -> Ranked:
        users, num_items, k = len(batch), parts.backbone.num_items, query.k
        beams = max(self.config.num_beams, k)
        written = run(self.beam.begin(parts, batch, dataclasses.replace(query, k=beams, num_beams=beams)))
        if not users:
            return written.first(k)
        summed = parts.backbone.summed_scores(batch)
        alike = nearest(
            summed.wishes,
            summed.texts,
            max(self.config.num_alike, k),
            allowed=query.allowed,
            exclude=query.exclude,
            index=self.index,
            op="proposals",
        )
        keys, values = _known(summed, query, num_items)
        most = max(self.config.num_known, k)
        followed, ranked, _ = best_of(users, keys // num_items, keys % num_items, values, most + 1)
        found = torch.cat([_keys(items, num_items) for items in (written.items, alike.items, followed[:, :most])])
        union = found.unique()
        owner, items = union // num_items, union % num_items
        scores = scores_of_pairs(summed.vectors, summed.table, owner, items)
        scores += _values_of(union, keys, values)
        if not bool(scores.isfinite().all()):
            raise InvalidValueError("proposals: scores must be finite, got NaN or inf")
        best, highest, _ = best_of(users, owner, items, scores, k)
        # Above every item that nobody proposed.
        near = alike.scores[:, -1].where(alike.items[:, -1] >= 0, 0.0)
        unseen = ranked[:, -1].clamp(min=0.0)
        bound = summed.most + near + unseen + _ROUNDING * (summed.most.abs() + near.abs() + unseen)
        bound = bound.masked_fill(~alike.exact, torch.inf)
        bound = bound.masked_fill(_all_of(alike, num_items) | _all_of(written, num_items), -torch.inf)
        return Ranked(best, _codes_of(best, parts), highest, proven(highest, bound), bound)


def _known(summed: Summed, query: Query, num_items: int) -> tuple[Tensor, Tensor]:
    """Keys ``user * N + item`` int64, ascending, each once, of known items that may appear, and their summed values."""
    owner, items = summed.known.row_index(), summed.known.values
    keys, at = (owner * num_items + items).unique(return_inverse=True)
    values = summed.values.new_zeros(len(keys)).index_add_(0, at, summed.values)
    kept = torch.ones_like(keys, dtype=torch.bool)
    if query.allowed is not None:
        allowed = query.allowed.to(keys.device).view(-1, num_items)
        rows = keys // num_items if len(allowed) > 1 else torch.zeros_like(keys)
        kept &= allowed[rows, keys % num_items]
    if query.exclude is not None:
        out = query.exclude.row_index() * num_items + query.exclude.values
        kept &= ~torch.isin(keys, out.to(keys.device))
    return keys[kept], values[kept]


def _values_of(wanted: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """What is known of the wanted keys; 0 of those of which nothing is."""
    if not len(keys):
        return torch.zeros(len(wanted), device=wanted.device)
    at = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return values[at].where(keys[at] == wanted, 0.0)


def _keys(items: Tensor, num_items: int) -> Tensor:
    owner, place = (items >= 0).nonzero(as_tuple=True)
    return owner * num_items + items[owner, place]


def _all_of(found: Ranked, num_items: int) -> Tensor:
    """Bool ``[B]``: the list holds every item that may appear."""
    every = (found.items[:, -1] < 0) | torch.tensor(found.items.shape[1] >= num_items, device=found.items.device)
    return every & (found.bound == -torch.inf)


def _codes_of(items: Tensor, parts: Parts) -> Tensor:
    """int32 ``[B, k, L]``: the semantic IDs of items, -1 where there is none."""
    known: Tensor = parts.trie.item_codes() if parts.layout is None else parts.layout.item_codes
    codes = known[items.clamp(min=0).to(known.device)].to(items.device, torch.int32)
    return codes.masked_fill((items < 0).unsqueeze(2), -1)
