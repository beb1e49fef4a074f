"""Ranking: every candidate stands behind the history as a token of its own, and is judged by what the user would do."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.batch import Batch, Ranked, Tokens
from genrec_fast.base.checks import check_weights
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import ActionScoring
from genrec_fast.base.query import Query
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.decoders.arguments import check_excluded, check_filter, check_k
from genrec_fast.decoders.base import Decoder, OneStep
from genrec_fast.decoders.retrieve import keep_best


def with_candidates(batch: Batch, candidates: Tensor | Jagged, features: Tensor | None = None) -> Batch:
    """The batch with candidates behind every history, asked in their order.

    Args:
        batch: B users through ``layouts.Interleave``, without targets or candidates.
        candidates: item ids: int64 ``[C]``, the same for every user, or int64 Jagged of B rows.
        features: float ``[T, F]``, those of all T candidates, user by user, where the items have some.

    Returns:
        A batch whose ``tokens.asked`` are all candidates, user by user.

    Raises:
        InvalidValueError: no tokens, or candidates that are there already.
        UnsupportedError: items with features, and none given for candidates: a decoder cannot look them up.
    """
    tokens = batch.tokens
    if tokens is None or tokens.candidates_at.numel():
        raise InvalidValueError("rank: batch must have tokens without candidates (let it pass layouts.Interleave)")
    if batch.features is not None and features is None:
        raise UnsupportedError("rank: items must have no features, as a decoder knows none of the candidates")
    device = tokens.offsets.device
    if isinstance(candidates, Tensor):
        ends = torch.arange(len(batch) + 1, device=device) * candidates.numel()
        candidates = Jagged(candidates.repeat(len(batch)), ends)
    before, rows = candidates.offsets, candidates.row_index()  # candidates in front of each row
    offsets = tokens.offsets + before

    def moved(at: Tensor) -> Tensor:
        return at + before[torch.searchsorted(tokens.offsets, at, right=True) - 1]

    candidates_at = tokens.offsets[1:][rows] + torch.arange(rows.numel(), device=device)
    times: dict[str, Tensor | None] = {"timestamps": None, "query_timestamps": None}
    if tokens.timestamps is not None and tokens.query_timestamps is not None:
        own = moved(torch.arange(int(tokens.offsets[-1]), device=device))
        now = tokens.offsets.new_zeros(len(batch))
        some = tokens.offsets.diff() > 0
        now[some] = tokens.query_timestamps[tokens.offsets[1:][some] - 1]  # when the user asks
        for name, column in (("timestamps", tokens.timestamps), ("query_timestamps", tokens.query_timestamps)):
            whole = column.new_zeros(int(offsets[-1]))
            whole[own], whole[candidates_at] = column, now[rows]
            times[name] = whole
    return dataclasses.replace(
        batch,
        candidates=candidates,
        candidate_features=features,
        tokens=Tokens(
            offsets,
            moved(tokens.contexts_at),
            moved(tokens.items_at),
            moved(tokens.actions_at),
            candidates_at,
            candidates.lengths,
            tokens.contextual_seq_len,
            times["timestamps"],
            times["query_timestamps"],
            asked=candidates_at,
            actions_before=tokens.actions_before,
            two_flows=tokens.two_flows,
        ),
    )


@dataclass(frozen=True, kw_only=True)
class RankConfig:
    """Settings of ``Rank``."""

    weights: tuple[float, ...] = ()
    """of the actions' probabilities in an item's score; empty: all 1"""
    candidates_per_pass: int = 128
    """candidates behind one reading of the history; with it they must fit into the backbone's max_tokens"""

    def __post_init__(self) -> None:
        check_fields(self, free=("weights",))
        check_weights("RankConfig", "weights", self.weights)

    def build(self, catalog: Catalog | None = None) -> Rank:
        return Rank(self)


class Rank(Decoder):
    """Scores candidates by ``sum_a weights[a] * P(action a) / sum_a weights[a]`` and gives the k best, exactly.

    The candidates are all items, or those of ``allowed``: a ranking model is asked about a short list. Candidates see
    the history and themselves, never each other, so the scores do not depend on who else is asked about.

    Notes:
        The history is read once per ``candidates_per_pass`` candidates.

    Source: HSTU (arXiv:2402.17152), section 2.2; candidates side by side: its production code (M-FALCON).
    """

    needs = ActionScoring
    reads_trie = False

    def __init__(self, config: RankConfig) -> None:
        self.config = config

    def begin(self, system: Any, batch: Batch, query: Query) -> OneStep:
        """One step over all candidates; ``num_beams`` and ``exact`` are not read.

        Raises:
            InvalidTypeError: the backbone does not predict actions and embed items.
            InvalidValueError: k, a filter, the weights or the length of a row does not fit.
        """
        return OneStep(len(batch), lambda: self._scored(system.backbone, batch, query))

    def _scored(self, backbone: Any, batch: Batch, query: Query) -> Ranked:
        if not isinstance(backbone, ActionScoring) or not hasattr(backbone, "item_table"):
            raise InvalidTypeError(f"rank: backbone must be ActionScoring, got {type(backbone).__name__}")
        k, _ = check_k("rank", query.k)
        allowed, exclude = query.allowed, query.exclude
        count, num_items, device = len(batch), backbone.item_table().shape[0], batch.items.offsets.device
        check_filter("rank", count, num_items, allowed, exclude)
        check_excluded("rank", exclude, num_items)
        weights = torch.tensor(tuple(map(float, self.config.weights)) or (1.0,) * backbone.num_actions, device=device)
        if weights.numel() != backbone.num_actions:
            raise InvalidValueError(f"rank: weights must give {backbone.num_actions} actions, got {weights.numel()}")
        hidden = torch.zeros(count, num_items, dtype=torch.bool, device=device)
        if allowed is not None:
            hidden |= ~allowed
        if exclude is not None:
            hidden[exclude.row_index(), exclude.values.long()] = True
        asked = (~hidden).any(0).nonzero().squeeze(1)
        best = torch.full((count, k), -torch.inf, device=device)
        ids = torch.full((count, k), -1, dtype=torch.int64, device=device)
        for part in asked.split(self.config.candidates_per_pass) if asked.numel() else ():
            logits = backbone.action_logits(with_candidates(batch, part)).float()
            chances = (logits.sigmoid() @ weights / weights.sum()).view(count, part.numel())
            best, ids = keep_best(best, ids, chances.masked_fill(hidden[:, part], -torch.inf), part)
        return Ranked.of_items(ids, best)
