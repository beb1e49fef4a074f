"""The smallest system that the training loop can train: a mean of item embeddings, scored against every item."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from genrec_fast.base.batch import Loss, Ranked
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.objective import Objective
from genrec_fast.base.protocols import Embedding
from genrec_fast.data import Dataset, Interactions
from genrec_fast.decoders.base import Decoder, OneStep
from genrec_fast.recipe.card import register_config
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig


class ToyLayout(nn.Module):
    def __init__(self, item_codes):
        super().__init__()
        self.register_buffer("item_codes", item_codes, persistent=False)

    def forward(self, batch):
        return batch


@register_config
@dataclass(frozen=True, kw_only=True)
class ToyLayoutConfig:
    def build(self, catalog):
        return ToyLayout(catalog.item_codes)


class ToyBackbone(nn.Module):
    def __init__(self, num_items, width, dropout):
        super().__init__()
        self.items = nn.Embedding(num_items, width)
        self.mix = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def _states(self, batch):
        """The running mean of what a user's items are, per position."""
        hidden = self.dropout(self.items(batch.items.values))
        total = hidden.cumsum(0)
        rows = batch.items.row_index()
        starts = batch.items.offsets[:-1][rows]
        before = torch.cat([hidden.new_zeros(1, hidden.shape[1]), total])[starts]
        count = torch.arange(len(rows)) - starts + 1
        return self.mix((total - before) / count[:, None])

    def embed_targets(self, batch):
        return self._states(batch)[batch.target_positions]

    def embed_users(self, batch):
        return self._states(batch)[batch.items.offsets[1:] - 1]

    def item_table(self):
        return self.items.weight


@register_config
@dataclass(frozen=True, kw_only=True)
class ToyBackboneConfig:
    width: int = 8
    dropout: float = 0.2

    def build(self, catalog) -> ToyBackbone:
        return ToyBackbone(catalog.num_items, self.width, self.dropout)


class ToyObjective(Objective):
    needs = Embedding

    def __init__(self, explode_at):
        self.explode_at, self.calls = explode_at, 0

    def __call__(self, system, batch):
        backbone = system.backbone
        logits = backbone.embed_targets(batch) @ backbone.item_table().T
        targets = batch.targets[batch.target_positions]
        value = nn.functional.cross_entropy(logits, targets)
        self.calls += 1
        if self.calls == self.explode_at:
            value = value * torch.inf
        return Loss(value, targets.numel(), {"targets": float(targets.numel())})


@register_config
@dataclass(frozen=True, kw_only=True)
class ToyObjectiveConfig:
    explode_at: int = 0

    def build(self, catalog=None) -> ToyObjective:
        return ToyObjective(self.explode_at)


class ToyDecoder(Decoder):
    needs = Embedding

    def begin(self, system, batch, query):
        return OneStep(len(batch), lambda: self.scored(system.backbone, batch, query))

    def scored(self, backbone, batch, query):
        scores = backbone.embed_users(batch) @ backbone.item_table().T
        if query.allowed is not None:
            scores = scores.masked_fill(~query.allowed, -torch.inf)
        if query.exclude is not None:
            scores[query.exclude.row_index(), query.exclude.values] = -torch.inf
        best, items = scores.topk(query.k)
        items = torch.where(best == -torch.inf, -1, items)
        count = len(batch)
        codes = items.to(torch.int32)[..., None]
        return Ranked(items, codes, best, torch.ones(count, dtype=torch.bool), torch.full((count,), -torch.inf))


@register_config
@dataclass(frozen=True, kw_only=True)
class ToyDecoderConfig:
    def build(self, catalog=None) -> ToyDecoder:
        return ToyDecoder()


def toy_recipe(*, explode_at=0, **train):
    settings = {
        "epochs": 3, "evaluate_every": 1, "warmup_steps": 5, "learning_rate": 0.05, "log_every": 7, "patience": 0
    } | train  # fmt: skip
    return Recipe(
        name="toy",
        source="ours",
        tokenizer=None,
        layout=ToyLayoutConfig(),
        backbone=ToyBackboneConfig(),
        objective=ToyObjectiveConfig(explode_at=explode_at),
        decoder=ToyDecoderConfig(),
        batching=BatchingConfig(max_items=8, items_per_batch=64),
        train=TrainConfig(**settings),
    )


def toy_data(users=120, items=30, seed=0):
    """Item i is followed by i + 1, nearly always."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(users):
        length = int(torch.randint(4, 12, (1,), generator=generator))
        start = int(torch.randint(0, items, (1,), generator=generator))
        rows.append([(start + step) % items for step in range(length)])
    names = [f"user {u}" for u in range(users)], [f"thing {i}" for i in range(items)]
    interactions = Interactions(Jagged.from_rows(rows), None, *names)
    return Dataset("toy", interactions, titles=[f"Title {i}" for i in range(items)])
