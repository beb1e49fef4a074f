"""Sampled softmax, in-batch contrastive and sampled BCE: what they draw, correct and mask."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.objectives import InBatchConfig, SampledBCEConfig, SampledSoftmaxConfig
from genrec_fast.objectives.full_softmax import cross_entropy
from shared.catalogs import system_of
from shared.objective_suite import ObjectiveSuite

ITEMS = 12


class Vectors:
    """A backbone that is two tables: a state per position and a vector per item."""

    def __init__(self, positions, items=ITEMS, dim=4, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.states = torch.randn(positions, dim, generator=generator, dtype=torch.float64).requires_grad_()
        self.table = torch.randn(items, dim, generator=generator, dtype=torch.float64).requires_grad_()

    def embed_targets(self, batch):
        return self.states[batch.target_positions]

    def embed_users(self, batch):
        return self.states[batch.items.offsets[1:] - 1]

    def item_table(self):
        return self.table


def example():
    """Three rows, one empty; six targets, item 3 twice."""
    batch = Batch(
        Jagged.from_rows([[0, 1, 2], [], [4, 5, 6, 7]]),
        torch.tensor([1, 3, -1, 3, 6, 7, 8]),
    )
    return Vectors(7), batch, batch.targets[batch.target_positions]


@pytest.mark.parametrize("sampling", ["uniform", "popularity"])
def test_the_estimate_of_the_normaliser_is_unbiased(monkeypatch, sampling):
    """With one draw, exp(loss) = (sum under the fraction) / exp(positive): its mean over all draws is the full one."""
    backbone = Vectors(1, items=5)
    batch = Batch(Jagged.from_rows([[0]]), torch.tensor([2]))
    objective = SampledSoftmaxConfig(num_negatives=1, sampling=sampling, temperature=0.8).build()
    objective.take_counts(torch.tensor([0, 3, 9, 1, 20]))
    _, log_q = objective._draw((1,), 5, torch.device("cpu"))
    mean = 0.0
    for item in range(5):
        monkeypatch.setattr(objective, "_draw", lambda *_, item=item: (torch.tensor([item]), log_q))
        mean += float(log_q[item].exp() * objective(system_of(backbone), batch).value.detach().exp())
    full = cross_entropy(backbone.states / 0.8, backbone.table, torch.tensor([2])).detach()
    assert mean == pytest.approx(math.exp(full), rel=1e-9)


@pytest.mark.parametrize("correction", ["negatives", "all", "none"])
@pytest.mark.parametrize("share", ["batch", "row"])
def test_equals_the_formula_on_the_items_that_were_drawn(share, correction):
    backbone, batch, targets = example()
    counts = torch.arange(ITEMS)
    objective = SampledSoftmaxConfig(
        num_negatives=6, sampling="popularity", power=0.5, share=share, temperature=0.3, correction=correction
    ).build()
    objective.take_counts(counts)
    torch.manual_seed(7)
    loss = objective(system_of(backbone), batch)
    torch.manual_seed(7)
    drawn = objective._draw((6,) if share == "batch" else (6, 6), ITEMS, torch.device("cpu"))[0].expand(6, 6)
    q = (counts + 1.0).double().sqrt() / (counts + 1.0).double().sqrt().sum()
    scores = backbone.embed_targets(batch) @ backbone.table.T / 0.3
    shift = (6 * q).log() * (correction != "none")
    negative = (scores - shift).gather(1, drawn).masked_fill(drawn == targets[:, None], -torch.inf)
    positive = (scores - shift * (correction == "all")).gather(1, targets[:, None])
    wanted = F.cross_entropy(torch.cat([positive, negative], 1), torch.zeros(6, dtype=torch.int64))
    torch.testing.assert_close(loss.value, wanted)
    assert loss.count == 6
    grads = [torch.autograd.grad(value, (backbone.states, backbone.table)) for value in (loss.value, wanted)]
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_popularity_draws_each_item_as_often_as_its_probability():
    objective = SampledSoftmaxConfig(sampling="popularity").build()
    counts = torch.tensor([0, 9, 0, 29])
    objective.take_counts(counts)
    torch.manual_seed(0)
    drawn, log_q = objective._draw((20000,), 4, torch.device("cpu"))
    share = torch.bincount(drawn, minlength=4) / 20000
    torch.testing.assert_close(log_q.exp(), (counts + 1).double() / 42)
    assert float((share - log_q.exp()).abs().max()) < 0.02


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("counted", [True, False])
def test_in_batch_equals_the_formula(corrected, counted):
    backbone, batch, targets = example()
    objective = InBatchConfig(temperature=0.5, correct_log_q=corrected).build()
    counts = torch.arange(ITEMS) * 3
    if counted:
        objective.take_counts(counts)
    loss = objective(system_of(backbone), batch)
    shares = counts.clamp(min=1).double() if counted else torch.bincount(targets, minlength=ITEMS).double()
    shares = (shares / shares.sum())[targets]
    scores = backbone.embed_targets(batch) @ backbone.table[targets].T / 0.5 - shares.log() * corrected
    same = (targets[:, None] == targets) & ~torch.eye(6, dtype=torch.bool)
    wanted = F.cross_entropy(scores.masked_fill(same, -torch.inf), torch.arange(6))
    torch.testing.assert_close(loss.value, wanted)
    assert loss.figures == {"in_batch_negatives": 4.0}  # 1, 6, 7, 8 against 3
    grads = [torch.autograd.grad(value, (backbone.states, backbone.table)) for value in (loss.value, wanted)]
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_one_target_alone_has_nothing_to_tell():
    batch = Batch(Jagged.from_rows([[0]]), torch.tensor([2]))
    assert float(InBatchConfig().build()(system_of(Vectors(1)), batch).value.detach()) == 0.0


@pytest.mark.parametrize("share", ["batch", "row"])
@pytest.mark.parametrize("calibration", [0.0, 0.75, 1.0])
def test_bce_equals_the_formula_and_knows_the_rows_own_items(share, calibration):
    backbone, batch, targets = example()
    objective = SampledBCEConfig(num_negatives=9, share=share, calibration=calibration).build()
    torch.manual_seed(3)
    loss = objective(system_of(backbone), batch)
    torch.manual_seed(3)
    drawn = torch.randint(ITEMS, (9,) if share == "batch" else (6, 9)).expand(6, 9)
    known = [{0, 1, 2, 3}, {0, 1, 2, 3}, *[{3, 4, 5, 6, 7, 8}] * 4]
    scores = backbone.embed_targets(batch) @ backbone.table.T
    a = 9 / (ITEMS - 1)
    beta = a * (calibration * (1 - 1 / a) + 1 / a)
    total, masked = 0.0, 0
    for row in range(6):
        total = total - beta * F.logsigmoid(scores[row, targets[row]])
        for item in drawn[row].tolist():
            if item in known[row]:
                masked += 1
            else:
                total = total - F.logsigmoid(-scores[row, item])
    assert masked > 0
    torch.testing.assert_close(loss.value, total / 6)
    grads = [torch.autograd.grad(value, (backbone.states, backbone.table)) for value in (loss.value, total / 6)]
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_more_negatives_come_closer_to_the_full_softmax():
    backbone, batch, targets = example()
    full = float(cross_entropy(backbone.embed_targets(batch), backbone.table, targets).detach())
    far, near = (
        abs(float(SampledSoftmaxConfig(num_negatives=k).build()(system_of(backbone), batch).value.detach()) - full)
        for k in (2, 20000)
    )
    assert near < 0.02 < far


def test_messages_name_argument_rule_and_value():
    backbone, batch, _ = example()
    for kind, settings, text in (
        (SampledSoftmaxConfig, {"num_negatives": 0}, "num_negatives must be at least 1, got 0"),
        (SampledSoftmaxConfig, {"temperature": 0.0}, "temperature must be above 0 and finite, got 0.0"),
        (SampledSoftmaxConfig, {"correction": "some"}, "correction must be 'negatives', 'all' or 'none', got 'some'"),
        (SampledSoftmaxConfig, {"share": "user"}, "share must be 'batch' or 'row', got 'user'"),
        (SampledBCEConfig, {"sampling": "hard"}, "sampling must be 'uniform' or 'popularity', got 'hard'"),
        (SampledBCEConfig, {"mask": "none"}, "mask must be 'target' or 'history', got 'none'"),
        (SampledBCEConfig, {"power": math.nan}, r"power must be in \[0, 8\], got nan"),
        (SampledBCEConfig, {"calibration": 1.5}, r"calibration must be in \[0, 1\], got 1.5"),
        (InBatchConfig, {"temperature": math.nan}, "temperature must be above 0 and finite, got nan"),
        (InBatchConfig, {"mask": "none"}, "mask must be 'target' or 'history', got 'none'"),
    ):
        with pytest.raises(InvalidValueError, match=f"^{kind.__name__}: {text}"):
            kind(**settings)
    popular = SampledSoftmaxConfig(sampling="popularity").build()
    with pytest.raises(InvalidValueError, match="counts must be taken before a draw by popularity"):
        popular(system_of(backbone), batch)
    with pytest.raises(InvalidTypeError, match=r"counts must be integers \[N\], got torch.float32"):
        popular.take_counts(torch.ones(3))
    with pytest.raises(InvalidValueError, match="counts must be at least 0, got -1"):
        popular.take_counts(torch.tensor([1, -1]))
    with pytest.raises(InvalidValueError, match=r"counts must be \[N\] with N at least 1, got \[0\]"):
        popular.take_counts(torch.zeros(0, dtype=torch.int64))
    for objective in (popular, InBatchConfig().build()):
        objective.take_counts(torch.ones(3, dtype=torch.int64))
        with pytest.raises(InvalidValueError, match="counts must be of 12 items, got 3"):
            objective(system_of(backbone), batch)


class TestSampledSoftmax(ObjectiveSuite):
    recipe, objective, draws = "sasrec", SampledSoftmaxConfig(num_negatives=20), True


class TestSampledBCE(ObjectiveSuite):
    recipe, objective, draws = "sasrec_bce", SampledBCEConfig(), True


class TestInBatch(ObjectiveSuite):
    recipe, objective = "kuaiformer", InBatchConfig()
