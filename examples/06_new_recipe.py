"""A system of your own in one file: a new backbone, joined with parts that are there already.

The backbone averages the vectors of what a user bought. It speaks the Embedding protocol, so that the loss over all
items, the search, the training loop and the evaluation work with it as they are.

Run: python examples/06_new_recipe.py     (seconds; nothing is downloaded)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import genrec_fast as gf
from genrec_fast.data.synthetic import Shop


@gf.register_config  # so that a saved model finds its settings again
@dataclass(frozen=True, kw_only=True)
class AverageConfig:
    """Settings of ``Average``."""

    width: int = 32  # channels
    decay: float = 0.6  # weight of a purchase beside that of the one after it

    def build(self, catalog: gf.Catalog) -> Average:
        return Average(self, catalog.num_items)


class Average(nn.Module):
    """A user is the decaying sum of the vectors of past items; items to come have vectors of their own."""

    def __init__(self, config: AverageConfig, num_items: int) -> None:
        super().__init__()
        self.decay = config.decay
        self.past = nn.Embedding(num_items, config.width)
        self.coming = nn.Embedding(num_items, config.width)
        nn.init.normal_(self.past.weight, std=0.1)
        nn.init.normal_(self.coming.weight, std=0.1)

    def _states(self, items: gf.Jagged) -> Tensor:
        """[E, D]: the state after every position of every history."""
        vectors = self.past(items.padded().long())  # [B, S, D]
        place = torch.arange(vectors.shape[1])
        ago = (place[:, None] - place).clamp(min=0)
        weights = torch.where(place <= place[:, None], self.decay**ago, 0.0)  # [S, S], no look ahead
        return (weights @ vectors)[place < items.lengths[:, None]]

    def embed_targets(self, batch: gf.Batch) -> Tensor:
        return self._states(batch.items)[batch.target_positions]

    def embed_users(self, batch: gf.Batch) -> Tensor:
        return self._states(batch.items)[batch.items.offsets[1:] - 1]

    def item_table(self) -> Tensor:
        return self.coming.weight


recipe = gf.Recipe(
    name="average",
    source="this file",
    tokenizer=None,  # items are atoms
    layout=gf.PlainConfig(),
    backbone=AverageConfig(),
    objective=gf.FullSoftmaxConfig(),
    decoder=gf.RetrieveConfig(),
    train=gf.TrainConfig(epochs=10, learning_rate=1e-2, warmup_steps=10, evaluate_every=5, evaluate_users=300),
)

shop = Shop(num_items=300, seed=0)
data = shop.dataset(num_users=1000, seed=1)
model = gf.train(recipe, data, seed=0)
test = gf.data.leave_one_out(data.interactions).test
found = gf.metrics.recall(model.recommend(test.histories, k=10).items, test.targets, 10)
best = gf.metrics.recall(shop.best(test.histories, 10), test.targets, 10)
print(f"recall@10: {found:.3f}; nobody can do better than about {best:.3f}")
