"""The interleaved layout: contexts, items each followed by what the user did with it, and candidates, in one stream."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from genrec_fast.base.batch import Batch, Tokens
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.catalog import Catalog


@dataclass(frozen=True, kw_only=True)
class InterleaveConfig:
    """Settings of ``Interleave``."""

    actions: Literal["tokens", "added", "before", "two_flows", "none"] = "tokens"
    """behind their items (HSTU), added to them (MTGR), added to the next event's item (GenRank), added to them and
    asked of a second flow that has none (DFGR), not read"""
    num_candidates: int = 0  # in training, so many last targets of a row become candidates; 0: every item is asked
    num_user_buckets: int = 0  # a contextual token per user, its id modulo this; 0: none
    use_features: bool = False  # hand the items' and candidates' feature vectors to the backbone

    def __post_init__(self) -> None:
        check_fields(self, zero=("num_candidates", "num_user_buckets"))
        if self.actions == "added" and not self.num_candidates:
            raise InvalidValueError(
                "InterleaveConfig: num_candidates must be at least 1 where actions are added to their items, "
                "which would tell the answers, got 0"
            )
        if self.actions == "two_flows" and self.num_candidates:
            raise InvalidValueError(
                "InterleaveConfig: num_candidates must be 0 with two flows, which ask every item, "
                f"got {self.num_candidates}"
            )

    def build(self, catalog: Catalog) -> Interleave:
        """Makes the layout of one catalog, with features where ``use_features`` wants them."""
        return Interleave(self, catalog)


class Interleave(nn.Module):
    """Makes the stream that ``Tokens`` describes.

    ::

        context ... context, item, action, item, action, ..., candidate ... candidate

    What is asked, and answered in ``tokens.labels``, is the action at:

    - no targets (recommending): ``batch.candidates``, in their order;
    - training, ``num_candidates = 0``: the item of every target. It stands at the next item, which sees nothing behind
      itself; the last target of a row becomes its one candidate, which stands and sees as an item would;
    - training, ``num_candidates = K``: the last K targets of each row. They become candidates that see the history
      before the first of them and themselves, so the history is cut there. Contexts then see the whole history.

    With ``actions="before"`` a token is the action before and the item at whose place the next one is written: half the
    tokens, and every event is asked without telling its own answer. With ``actions="two_flows"`` a token is an item and
    its own action, which tells the answer: a backbone of two flows (``DualFlow``) asks its second one.

    Args:
        config: settings.
        catalog: with features if ``config.use_features``.

    Raises:
        InvalidValueError: missing features.

    Notes:
        Vectorised, O(tokens). Times: an item's token is of its event and asks for its action at that time; an action
        asks for the next event, at its time; a candidate is of the time when it is asked for.

    Source: HSTU (arXiv:2402.17152), sections 2.2 and 4.1.1; candidates side by side: its production code and MTGR
    (arXiv:2505.18654); actions that items give their places: GenRank (arXiv:2505.04180); two flows: DFGR
    (arXiv:2505.16752).
    """

    features: Tensor | None

    def __init__(self, config: InterleaveConfig, catalog: Catalog) -> None:
        super().__init__()
        if config.use_features and catalog.features is None:
            raise InvalidValueError("Interleave: features must be given when use_features is set, got None")
        self.config, self.num_items = config, catalog.num_items
        features = catalog.features if config.use_features else None
        self.register_buffer("features", None if features is None else features.to(torch.float32), persistent=False)

    @property
    def feature_dim(self) -> int | None:
        """F, or ``None`` where the backbone gets no features."""
        return None if self.features is None else self.features.shape[1]

    def forward(self, batch: Batch) -> Batch:
        """Fills ``tokens``, ``contexts``, ``features``, and in training ``candidates``; cuts histories at candidates.

        Raises:
            InvalidValueError: an item outside ``[0, N)``, missing actions, candidates beside targets, or contexts or
                candidates that do not fit.
        """
        self._check("items", batch.items.values)
        for name in ("targets", "timestamps", "target_timestamps", "actions", "target_actions"):
            column = getattr(batch, name)
            if column is not None and column.shape[0] != batch.items.values.shape[0]:
                raise InvalidValueError(
                    f"Interleave: {name} must have one row per item = {batch.items.values.shape[0]}, "
                    f"got {column.shape[0]}"
                )
        batch = self._with_contexts(batch)
        if self.config.actions == "none":
            batch = dataclasses.replace(batch, actions=None)
        elif batch.actions is None:
            raise InvalidValueError(
                "Interleave: batch must have actions, got None; give data.load actions=('rating>=4',), say, "
                "or set actions to 'none'"
            )
        if batch.targets is None:
            if batch.candidates is not None:
                self._check("candidates", batch.candidates.values)
                if len(batch.candidates) != len(batch):
                    raise InvalidValueError(
                        f"Interleave: candidates must have {len(batch)} rows, got {len(batch.candidates)}"
                    )
            following, labels = None, None
        else:
            if batch.candidates is not None:
                raise InvalidValueError(
                    "Interleave: candidates must not be given with targets, which become candidates"
                )
            self._check("targets", batch.targets.clamp(min=0))
            batch, following, labels = self._with_candidates(batch)
        tokens = self._tokens(batch)
        asked = tokens.candidates_at
        if following is not None:  # a target stands at the next item; behind the last one, at the candidate
            asked = torch.cat([tokens.items_at[1:], tokens.items_at[:1]])
            ends = batch.items.offsets[1:] - 1
            has = tokens.num_targets > 0
            asked[ends[has]] = tokens.candidates_at
            asked = asked[following]
        features = self.features
        return dataclasses.replace(
            batch,
            tokens=dataclasses.replace(tokens, asked=asked, labels=labels),
            features=None if features is None else features[batch.items.values],
            candidate_features=(
                None if features is None or batch.candidates is None else features[batch.candidates.values]
            ),
        )

    def _with_contexts(self, batch: Batch) -> Batch:
        contexts = batch.contexts
        if contexts is None and self.config.num_user_buckets:
            users = torch.zeros(len(batch), dtype=torch.int64, device=batch.items.offsets.device)
            users = users if batch.users is None else batch.users
            contexts = (users % self.config.num_user_buckets)[:, None]
        if contexts is not None and (contexts.dim() != 2 or contexts.shape[0] != len(batch)):
            raise InvalidValueError(f"Interleave: contexts must be [{len(batch)}, C], got {list(contexts.shape)}")
        return dataclasses.replace(batch, contexts=contexts)

    def _with_candidates(self, batch: Batch) -> tuple[Batch, Tensor | None, Tensor | None]:
        """Training: the batch with its candidates; positions whose target is asked (``None``: the candidates alone)."""
        assert batch.targets is not None
        offsets, lengths = batch.items.offsets, batch.items.lengths
        rows = batch.items.row_index()
        from_end = offsets[1:][rows] - 1 - torch.arange(rows.numel(), device=rows.device)
        chosen = (batch.targets >= 0) & (from_end < max(self.config.num_candidates, 1))
        counts = torch.zeros_like(lengths).index_add_(0, rows, chosen.long())
        times = batch.target_timestamps
        if times is None and batch.timestamps is not None:
            times = batch.timestamps[offsets[1:][rows] - 1]  # unknown: at the last event
        found = dataclasses.replace(
            batch,
            candidates=Jagged.from_lengths(batch.targets[chosen], counts),
            candidate_timestamps=None if times is None else times[chosen],
        )
        answers = batch.target_actions
        if not self.config.num_candidates:
            following = batch.target_positions
            return found, following, None if answers is None else answers[following]
        # The first candidate's predecessor is the last item that may be seen.
        first = torch.zeros_like(lengths).scatter_reduce(
            0, rows, torch.where(chosen, from_end, 0), "amax", include_self=True
        )
        kept = from_end >= first[rows]
        cut = {
            name: None if (column := getattr(batch, name)) is None else column[kept]
            for name in ("targets", "timestamps", "target_timestamps", "actions", "target_actions")
        }
        items = Jagged.from_lengths(batch.items.values[kept], lengths - first)
        return dataclasses.replace(found, items=items, **cut), None, None if answers is None else answers[chosen]

    def _tokens(self, batch: Batch) -> Tokens:
        items, device = batch.items, batch.items.offsets.device
        count = len(items)
        num_contexts = 0 if batch.contexts is None else batch.contexts.shape[1]
        pace = 2 if self.config.actions == "tokens" else 1
        none = torch.zeros(count, dtype=torch.int64, device=device)
        num_targets = none if batch.candidates is None else batch.candidates.lengths
        offsets = torch.zeros(count + 1, dtype=torch.int64, device=device)
        torch.cumsum(num_contexts + pace * items.lengths + num_targets, 0, out=offsets[1:])
        rows = items.row_index()
        place = torch.arange(rows.numel(), device=device) - items.offsets[rows]
        items_at = offsets[rows] + num_contexts + pace * place
        contexts_at = (offsets[:-1, None] + torch.arange(num_contexts, device=device)).flatten()
        if batch.candidates is None:
            candidates_at = none[:0]
        else:
            owner = batch.candidates.row_index()
            index = torch.arange(owner.numel(), device=device) - batch.candidates.offsets[owner]
            candidates_at = offsets[1:][owner] - num_targets[owner] + index
        tokens = Tokens(
            offsets,
            contexts_at,
            items_at,
            items_at + 1 if pace == 2 else items_at[:0],
            candidates_at,
            num_targets,
            # Where every item is asked, a context that saw them all would tell the answers.
            num_contexts if self.config.num_candidates else 0,
            actions_before=self.config.actions == "before",
            two_flows=self.config.actions == "two_flows",
        )
        return self._timed(batch, tokens)

    def _timed(self, batch: Batch, tokens: Tokens) -> Tokens:
        times, items = batch.timestamps, batch.items
        if times is None:
            return tokens
        asked, some = batch.target_timestamps, items.lengths > 0
        ends = items.offsets[1:][some] - 1
        if asked is None:
            asked = torch.cat([times[1:], times[:1]])
            asked[ends] = times[ends]
        begins, now = (torch.zeros_like(items.lengths) for _ in range(2))
        begins[some], now[some] = times[items.offsets[:-1][some]], asked[ends]
        when = torch.zeros(int(tokens.offsets[-1]), dtype=torch.int64, device=times.device)
        query = when.clone()
        contexts = torch.repeat_interleave(begins, tokens.contexts_at.numel() // max(len(batch), 1))
        when[tokens.contexts_at] = query[tokens.contexts_at] = contexts
        when[tokens.items_at] = times
        query[tokens.items_at] = times if tokens.actions_at.numel() else asked
        when[tokens.actions_at] = times[: tokens.actions_at.numel()]
        query[tokens.actions_at] = asked[: tokens.actions_at.numel()]
        if batch.candidates is not None:
            scored = batch.candidate_timestamps
            scored = now[batch.candidates.row_index()] if scored is None else scored
            when[tokens.candidates_at] = query[tokens.candidates_at] = scored
        return dataclasses.replace(tokens, timestamps=when, query_timestamps=query)

    def _check(self, name: str, values: Tensor) -> None:
        if values.dtype not in (torch.int64, torch.int32):  # torch takes uint8 and bool for masks
            raise InvalidTypeError(f"Interleave: {name} must be item ids of int64, got {values.dtype}")
        if values.device.type != "cpu" or values.numel() == 0:  # a check would wait for the device
            return
        low, high = (int(v) for v in torch.aminmax(values))
        if low < 0 or high >= self.num_items:
            wrong = low if low < 0 else high
            raise InvalidValueError(f"Interleave: {name} must be item ids in [0, {self.num_items}), got {wrong}")
