"""Several of the next items, predicted at once from one state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from genrec_fast.base.batch import Batch, Loss
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.objective import Objective
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.objectives.sampled_softmax import SampledSoftmaxConfig


class MultiEmbedding(Protocol):
    """A backbone whose states predict several items to come, each by a token of its own."""

    @property
    def num_tokens(self) -> int:
        """I."""
        ...

    def embed_tokens(self, batch: Batch) -> Tensor:
        """``[M, I, D]``: per training target the tokens of the state in front of it."""
        ...

    def item_table(self) -> Tensor:
        """``[N, D]``."""
        ...


@dataclass(frozen=True, kw_only=True)
class MultiTokenConfig:
    """Settings of ``MultiToken``; those of the sampling are ``SampledSoftmaxConfig``'s."""

    num_negatives: int = 512  # items drawn with replacement, once for the batch
    sampling: Literal["uniform", "popularity"] = "popularity"  # how likely an item is to be drawn
    power: float = 1.0  # popularity: probability ~ (count + 1) ** power
    temperature: float = 1.0  # scores are divided by it

    def __post_init__(self) -> None:
        check_fields(self, above=("temperature",), within={"power": "[0, 8]"})

    def build(self, catalog: Catalog | None = None) -> MultiToken:
        objective = MultiToken(self)
        if catalog is not None and catalog.counts is not None:
            objective.take_counts(catalog.counts)
        return objective


def window_of(batch: Batch, num_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which tokens have an item to predict: int64 ``[P]`` places in M, tokens in ``[0, num_tokens)``, and items.

    Token i of target m is asked for the item i places behind that target, where the row goes on and asks for it.
    """
    assert batch.targets is not None
    positions = batch.target_positions
    rows = torch.searchsorted(batch.items.offsets, positions, right=True) - 1
    ahead = positions[:, None] + torch.arange(num_tokens, device=positions.device)
    inside = ahead < batch.items.offsets[1:][rows][:, None]
    items = torch.where(inside, batch.targets[ahead.clamp(max=batch.targets.numel() - 1)], -1)
    places, tokens = (items >= 0).nonzero(as_tuple=True)
    return places, tokens, items[places, tokens]


class MultiToken(Objective):
    """Mean over all pairs of a target's state and an item of the window behind it of a sampled softmax.

    ::

        loss = mean over m, i of SampledSoftmax(token_i(state_m), item m + i)      i < I, where the row has that item

    Negatives are shared by the batch and corrected by log-Q. Memory: M I D for the tokens, and a block of logits.

    Source: PinRec (arXiv:2504.10507): sampled softmax with log-Q over several tokens of one state.
    """

    needs = MultiEmbedding

    def __init__(self, config: MultiTokenConfig) -> None:
        self.config = config
        self._softmax = SampledSoftmaxConfig(
            num_negatives=config.num_negatives,
            sampling=config.sampling,
            power=config.power,
            temperature=config.temperature,
        ).build()

    def take_counts(self, counts: Tensor) -> None:
        """Integer ``[N]``: how often each item occurs in the training data."""
        self._softmax.take_counts(counts)

    def __call__(self, system: Any, batch: Batch) -> Loss:
        """Loss over the pairs of a batch; draws from torch's generator. ``count`` is their number."""
        if batch.target_positions.numel() == 0:
            raise InvalidValueError("MultiToken: batch must have targets, got none")
        places, tokens, items = window_of(batch, system.backbone.num_tokens)
        pairs = Batch(Jagged(items, torch.tensor([0, items.numel()], device=items.device)), items)
        states = system.backbone.embed_tokens(batch)[places, tokens]
        return self._softmax.of_states(states, system.backbone.item_table(), pairs)
