"""Users per second in training: our packed SASRec against the same network, same weights, on padded torch SDPA.

Both sides take a batch of users drawn at random, as trainers do, and make the same step: forward, loss, backward,
AdamW. Losses and gradients are equal, asserted before the steps are timed in turn in one process; dropout is off.
`pytest bench/bench_train_throughput.py -s --benchmark-json=run.json && python bench/report.py run.json`
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_fast.backbones import Causal, CausalConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.objectives._contrast import contrast
from genrec_fast.objectives.full_softmax import cross_entropy
from timing import in_turn

# Events of a user at these shares of the users, from the data sets of those names, and their number of items.
LENGTHS = {
    "beauty": ((0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1), (5, 5, 6, 9, 14, 21, 43, 99, 204), 12_101),
    "ml-100k": ((0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1), (20, 33, 65, 148, 245, 311, 448, 737, 737), 1_682),
}
SHAPES = {  # lengths, longest history, users
    "beauty, 50 events": ("beauty", 50, 256),
    "beauty, 20 events": ("beauty", 20, 256),
    "ml-100k, 200 events": ("ml-100k", 200, 64),
}
WIDTH, HEADS, LAYERS = 64, 2, 2  # SASRec's, but for the width of 50


def batch_of(name: str, longest: int, users: int) -> tuple[Batch, int]:
    """Histories without their last two events (leave-one-out), cut to the last ``longest``."""
    shares, lengths, num_items = LENGTHS[name]
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(users, generator=generator)
    at = torch.searchsorted(torch.tensor(shares), drawn, right=True).clamp(1, len(shares) - 1)
    low, high = torch.tensor(shares)[at - 1], torch.tensor(shares)[at]
    events = torch.tensor(lengths, dtype=torch.float32)
    counts = (events[at - 1] + (drawn - low) / (high - low) * (events[at] - events[at - 1])).long() - 3
    items = [torch.randint(num_items, (min(int(n), longest),), generator=generator) for n in counts.clamp(min=1)]
    rows = Jagged.from_rows(items)
    targets = torch.randint(num_items, (rows.values.shape[0],), generator=generator)
    return Batch(rows, targets), num_items


class Padded(nn.Module):
    """The layers of a ``Causal``, on rows padded to the batch's longest."""

    def __init__(self, ours: Causal) -> None:
        super().__init__()
        self.ours = ours

    def embed_targets(self, batch: Batch) -> Tensor:
        ours, items = self.ours, batch.items
        lengths = items.lengths
        inside = torch.arange(int(lengths.max()))[None] < lengths[:, None]
        padded = torch.zeros(inside.shape, dtype=torch.int64).masked_scatter(inside, items.values)
        x = ours.items(padded) * math.sqrt(WIDTH)
        x = torch.cat([ours.start.expand(len(items), 1, WIDTH), x], 1)
        x = x + ours.positions.weight[: x.shape[1]]
        for block in ours.blocks:
            assert isinstance(block, nn.Module)
            q, k, v = block.qkv(block.attention_norm(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
            x = x + block.attention_out(seen)
            x = x + block.mlp_out(F.relu(block.mlp_in(block.mlp_norm(x))))
        states: Tensor = ours.norm(x)[:, 1:][inside]
        return states


def full(states: Tensor, table: Tensor, targets: Tensor, packed: bool) -> Tensor:
    """Softmax over every item: our blocked one, and torch's."""
    return cross_entropy(states, table, targets) if packed else F.cross_entropy(states @ table.t(), targets)


def blocked(states: Tensor, table: Tensor, targets: Tensor, packed: bool) -> Tensor:
    """Our blocked softmax on both sides, so that what differs is the packing alone."""
    return cross_entropy(states, table, targets)


def bce(states: Tensor, table: Tensor, targets: Tensor, packed: bool) -> Tensor:
    """One sampled negative per position, as SASRec was published: what our objective calls, and torch."""
    negatives = (targets * 7919 + 1) % table.shape[0]
    if packed:
        none = torch.zeros(1, 1, dtype=torch.bool)
        return contrast(states, table, targets, negatives[:, None], kind="bce", hits=lambda *_: none)
    right, wrong = (states * table[targets]).sum(-1), (states * table[negatives]).sum(-1)
    return F.softplus(-right).mean() + F.softplus(wrong).mean()


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("loss", [bce, full, blocked])
def test_training_step(benchmark, loss, name):
    data, longest, users = SHAPES[name]
    batch, num_items = batch_of(data, longest, users)
    config = CausalConfig(width=WIDTH, num_heads=HEADS, num_layers=LAYERS, hidden=WIDTH, dropout=0.0, max_items=longest)
    torch.manual_seed(0)
    ours = config.build(Catalog(num_items=num_items))
    theirs = config.build(Catalog(num_items=num_items))
    theirs.load_state_dict(ours.state_dict())
    sides: list[tuple[nn.Module, nn.Module, torch.optim.Optimizer]] = []
    for model, network in ((ours, ours), (theirs, Padded(theirs))):
        sides.append((model, network, torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)))

    def backward(side: int) -> Tensor:
        model, network, _ = sides[side]
        value = loss(network.embed_targets(batch), model.items.weight, batch.targets, side == 0)
        value.backward()
        return value.detach()

    def step(side: int) -> Callable[[], None]:
        def run() -> None:
            backward(side)
            sides[side][2].step()
            sides[side][2].zero_grad(set_to_none=True)

        return run

    values = [backward(0), backward(1)]
    torch.testing.assert_close(values[0], values[1], rtol=1e-5, atol=1e-5)
    for (key, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        bound = 1e-4 * max(other.grad.abs().max().item(), 1e-3)
        torch.testing.assert_close(
            mine.grad, other.grad, rtol=0, atol=bound, msg=lambda text, key=key: f"{key}: {text}"
        )
    for _, _, optimizer in sides:
        optimizer.zero_grad(set_to_none=True)
    mine, other = in_turn(step(0), step(1), seconds=2.0)
    lengths = batch.items.lengths
    share = lengths.sum().item() / (len(lengths) * int(lengths.max()))
    benchmark.extra_info.update(
        workload=f"{name}, {users} users",
        level=f"{loss.__name__}, training step",
        ours_us=mine,
        rival_us=other,
        rival="the same on padded SDPA",
        users_per_second=1e6 * users / mine,
    )
    print(
        f"\n{name}, {loss.__name__}: {1e6 * users / mine:,.0f} users/s against {1e6 * users / other:,.0f} "
        f"({other / mine:.2f} times), {share:.0%} of the padded positions are events"
    )
    benchmark.pedantic(step(0), rounds=3)
