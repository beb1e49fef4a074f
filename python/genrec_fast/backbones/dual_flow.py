"""DFGR's two flows: a real one of items with their actions, and one without actions that is asked what they were."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_fast.backbones.hstu import HSTU, HSTUConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.hstu import HSTULayer
from genrec_fast.nn.packed import Packing


@dataclass(frozen=True, kw_only=True)
class DualFlowConfig(HSTUConfig):
    """Settings of ``DualFlow``: those of ``HSTU`` in which a key may be put in front of a row unseen."""

    bias: Literal["none", "position", "time", "both"] = "time"  # distances would count the key in front

    def __post_init__(self) -> None:
        super().__post_init__()
        rules = (
            ("attention", self.attention, "silu"),
            ("attention_dropout", self.attention_dropout, 0.0),
            ("max_attn_len", self.max_attn_len, 0),
        )
        for name, value, wanted in rules:
            if value != wanted:
                raise InvalidValueError(f"DualFlowConfig: {name} must be {wanted!r} with two flows, got {value!r}")
        if self.bias not in ("time", "none"):
            raise InvalidValueError(f"DualFlowConfig: bias must be 'time' or 'none' with two flows, got {self.bias!r}")
        if not self.num_actions:
            raise InvalidValueError("DualFlowConfig: num_actions must be at least 1, got 0")

    def build(self, catalog: Catalog) -> DualFlow:
        """Makes the backbone; it reads what ``items`` names, and projects ``batch.features`` where there are any."""
        return DualFlow(self, catalog)


class DualFlow(HSTU):
    """``HSTU`` over items with their actions, and in training once more over the same items without them.

    ::

        real:  r_i = item_i + action_i           reads r_0 .. r_i
        fake:  f_i = item_i + placeholder        queries of its own; keys and values of r_0 .. r_{i-1}, and its own
        what the user did with item i is read from f_i

    Both flows have the same weights. Where candidates are asked there is one flow: a candidate is a fake token, reads
    the history and itself, and says what f_i says of an event with that history. So every event of a row is trained in
    two passes over it, and no answer can be read from its question.

    Notes:
        Twice the work of ``HSTU`` over the same tokens, in training alone. The fake flow's keys are the real ones moved
        on by one place behind a key whose value is 0, which adds nothing to a sum that no softmax divides.

    Source: DFGR (arXiv:2505.16752).
    """

    flows = 2

    def __init__(self, config: DualFlowConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.placeholder = nn.Parameter(torch.empty(config.width))
        nn.init.normal_(self.placeholder, std=0.02)

    def _embedded(self, batch: Batch) -> Tensor:
        """A candidate has the placeholder where an item has its action."""
        embedded = super()._embedded(batch)
        if batch.tokens is None or batch.candidates is None:
            return embedded
        return embedded.index_add(0, batch.tokens.candidates_at, self._placeholders(batch.tokens.candidates_at))

    def _placeholders(self, at: Tensor) -> Tensor:
        return self.placeholder.expand(at.shape[0], -1)

    def _without_actions(self, batch: Batch) -> Tensor:
        assert batch.tokens is not None
        items_at = batch.tokens.items_at
        embedded = self._embedded(dataclasses.replace(batch, actions=None))
        return embedded.index_add(0, items_at, self._placeholders(items_at))

    def asked_states(self, batch: Batch) -> Tensor:
        """``[Et, D]``: the fake flow's state at every token, of which those at ``tokens.asked`` are answers.

        Raises:
            InvalidValueError: as ``states``.
        """
        rows = self._packing(batch, None)
        fakes = self._fakes(rows)
        real, fake, placed = self._embedded(batch), self._without_actions(batch), self._placed(rows, batch)
        if placed is not None:
            real, fake = real + placed, fake + placed
        real, fake = self.input_dropout(real), self.input_dropout(fake)
        for layer in self.layers:
            assert isinstance(layer, HSTULayer)
            gates, q, k, v = layer.project(real, rows)
            real = layer.gated(real, gates, layer.attend(q, k, v, rows), rows)
            gates, q, own_k, own_v = layer.project(fake, rows)
            attended = layer.attend(q, _moved(k, rows.offsets), _moved(v, rows.offsets), fakes)
            fake = layer.gated(fake, gates, attended + _own(layer, q, own_k, own_v, rows), rows)
        normed: Tensor = self.norm(fake)
        return normed

    def _fakes(self, rows: Packing) -> Packing:
        """As the fake flow's queries see the moved keys: each asked at its own time."""
        times = rows.timestamps
        if times is not None:
            starts = rows.offsets[:-1][rows.offsets.diff() > 0]
            moved = times.roll(1, 0).index_copy(0, starts, times[starts])
            return dataclasses.replace(rows, timestamps=moved, query_timestamps=times)
        return rows

    def action_logits(self, batch: Batch) -> Tensor:
        """As ``HSTU``'s; where a batch has labels, from the fake flow.

        Raises:
            InvalidValueError: as ``HSTU``'s; a layout of one flow whose items' actions are asked in training.
        """
        tokens = batch.tokens
        if tokens is None or tokens.asked is None or tokens.labels is None:
            return super().action_logits(batch)
        if not tokens.two_flows:
            raise InvalidValueError("dual_flow: actions must be 'two_flows' in InterleaveConfig, got another layout")
        assert self.action_head is not None
        logits: Tensor = self.action_head(self.asked_states(batch)[tokens.asked])
        return logits


def _moved(x: Tensor, offsets: Tensor) -> Tensor:
    """Each row of ``x [E, H, D]`` one place on, 0 in front, its last left out."""
    return x.roll(1, 0).index_fill(0, offsets[:-1][offsets.diff() > 0], 0.0)


def _own(layer: HSTULayer, q: Tensor, k: Tensor, v: Tensor, rows: Packing) -> Tensor:
    """What each token's own key and value add, at a gap of 0."""
    alpha = layer.config.alpha
    scores = (q * k).sum(2) * (1 / math.sqrt(layer.qk_dim) if alpha is None else alpha)
    if layer.bias is not None and layer.bias.ts_w is not None:
        scores = scores + layer.bias.ts_w[0]
    return (F.silu(scores) / rows.max_seq_len)[..., None] * v
