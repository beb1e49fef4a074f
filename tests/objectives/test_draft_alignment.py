from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import genrec_fast as gf
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.decoders.drafted_search import Ahead, DraftedSearch
from genrec_fast.nn.engine.plan import Plan
from genrec_fast.objectives import DraftAlignmentConfig
from genrec_fast.objectives.draft_alignment import reverse_kl_of_top, total_variation
from proofs import shop
from shared.catalogs import system_of
from shared.objective_suite import ObjectiveSuite


class Started(ObjectiveSuite):
    recipe = "atspeed"
    draws = True  # the draft's dropout

    def system(self):
        system = super().system()
        system.keep_reference()
        return system

    def test_only_the_draft_learns(self):
        system = self.system()
        self.loss(system, self.batch(system)).value.backward()
        moved = {name.split(".")[0] for name, p in system.named_parameters() if p.grad is not None}
        assert moved == {"draft"}


class TestStrict(Started):
    objective = DraftAlignmentConfig()


class TestRelaxed(Started):
    objective = DraftAlignmentConfig(acceptance="relaxed", valid_only=True)


class TestBehindBeams(Started):
    objective = DraftAlignmentConfig(target_beams=3, valid_only=True)


def logits(seed, rows=5, codes=7):
    return torch.randn(rows, codes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("top", [1, 3, 7, 20])
def test_the_strict_loss_is_the_formula(top):
    student, teacher = logits(0).requires_grad_(), logits(1)
    wanted = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        q, p = ours.exp() / ours.exp().sum(), theirs.exp() / theirs.exp().sum()
        chosen = q.detach().argsort(descending=True)[:top].tolist()
        kth = sorted(p.tolist(), reverse=True)[min(top, 7) - 1]
        wanted = wanted + sum(q[i] * (q[i].log() - p[i].log()) - kth * q[i] * q[i].log() for i in chosen) / 5
    found = reverse_kl_of_top(student, teacher, top)
    torch.testing.assert_close(found, wanted)
    mine, theirs = (torch.autograd.grad(value, student, retain_graph=True)[0] for value in (found, wanted))
    torch.testing.assert_close(mine, theirs)


def test_the_relaxed_loss_is_the_formula():
    student, teacher = logits(0), logits(1)
    q, p = student.softmax(1), teacher.softmax(1)
    torch.testing.assert_close(total_variation(student, teacher), sum((q - p).abs().flatten()) / 10)
    assert float(total_variation(student, student)) == 0
    # What sampled acceptance refuses: 1 - sum min(p, q).
    torch.testing.assert_close(total_variation(student, teacher), (1 - torch.minimum(q, p).sum(1)).mean())


@pytest.mark.parametrize("top", [1, 2, 20])
def test_codes_that_are_not_compared_do_not_count(top):
    student, teacher = logits(0), logits(1)
    inside = [0, 3, 4]
    hidden = torch.ones(7, dtype=torch.bool)
    hidden[inside] = False
    pair = [x.masked_fill(hidden, -torch.inf).requires_grad_() for x in (student, teacher)]
    found = reverse_kl_of_top(*pair, top)
    if top <= 3:
        torch.testing.assert_close(found, reverse_kl_of_top(student[:, inside], teacher[:, inside], top))
    found.backward()
    assert bool(pair[0].grad.isfinite().all())
    torch.testing.assert_close(total_variation(*pair), total_variation(student[:, inside], teacher[:, inside]))


def test_a_batch_by_hand():
    """One user, one level of two codes; the target says 1 : 3."""

    class Says:
        def __init__(self, *values):
            self.values = values

        def level_logits(self, batch):
            return [torch.tensor([self.values])]

    system = system_of(None)
    system.draft, system.reference = Says(0.0, 0.0), Says(0.0, math.log(3.0))
    batch = Batch(Jagged.from_rows([[0]]), torch.tensor([1]), target_codes=torch.tensor([[1]]))
    objective = DraftAlignmentConfig(weight=0.25, top=2).build()
    loss = objective(system, objective.prepare(system, batch))
    aligned = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75) - 0.25 * math.log(0.5)
    assert float(loss.value) == pytest.approx(0.75 * math.log(2) + 0.25 * aligned)
    assert loss.figures == {
        "loss_codes": pytest.approx(math.log(2)),
        "loss_alignment": pytest.approx(aligned),
        "agreed": 0.0,
    }


@pytest.fixture(scope="module")
def target():
    return gf.train(shop.recipe(), shop.data(), device="cpu", show_progress=False)


def drafted(target, **settings):
    """A draft of one small layer for the shop's model."""
    recipe = dataclasses.replace(
        shop.changed(shop.recipe(), epochs=6),
        name="drafted",
        objective=DraftAlignmentConfig(**settings),
        decoder=gf.SpeculativeConfig(
            num_beams=10,
            drafts_per_beam=1,
            draft=gf.T5Config(width=8, num_heads=1, head_width=8, num_layers=1, hidden=16, num_user_tokens=0),
        ),
    )
    return gf.train(recipe, shop.data(), start=target, device="cpu", show_progress=False)


def accepted(model, draft):
    """Levels that a pass gained beyond one, over the users of the shop."""
    histories = gf.data.leave_one_out(shop.data().interactions).test.histories
    with model.answering():
        batch = model.batch(gf.Batch(histories))
        ahead = Ahead(model.backbone.prefill(batch), draft.prefill(batch), drafts_per_beam=1)
        return int(DraftedSearch(ahead, model.trie, Plan((3, 3, 3)), len(batch)).run().accepted.sum())


@pytest.mark.parametrize(
    "settings", [{}, {"acceptance": "relaxed"}, {"target_beams": 3}], ids=["strict", "relaxed", "beams"]
)
def test_a_trained_draft_is_accepted_more_often(target, settings):
    model = drafted(target, top=5, **settings)
    for name, tensor in target.backbone.state_dict().items():
        assert torch.equal(tensor, model.backbone.state_dict()[name]), name
    torch.manual_seed(0)
    fresh = model.recipe.decoder.draft.build(model.catalog.with_features(None)).eval()
    assert accepted(model, model.draft) > 1.2 * accepted(model, fresh)
    plain = model.recommend([[1, 2, 3], [70], [5, 9]], 5)
    wanted = target.recommend([[1, 2, 3], [70], [5, 9]], 5)
    assert torch.equal(plain.items, wanted.items)
    assert torch.equal(plain.scores, wanted.scores)


def test_what_is_validated_is_the_draft(target):
    model = drafted(target)
    alone = model.drafting()
    assert alone.backbone is model.draft
    histories = [[1, 2, 3], [70], [5, 9]]
    found, other = alone.recommend(histories, 5), model.recommend(histories, 5)
    assert not torch.equal(found.scores, other.scores)
    assert model.backbone is not model.draft
    with pytest.raises(UnsupportedError, match="drafting: decoder must have a draft, got Beam"):
        target.drafting()


def test_messages_name_argument_rule_and_value(target):
    with pytest.raises(InvalidValueError, match="start must be a trained model, as DraftAlignment compares"):
        drafted(None)
    recipe = dataclasses.replace(shop.recipe(), objective=DraftAlignmentConfig())
    with pytest.raises(InvalidTypeError, match="decoder must have a draft that is TeacherForced, got NoneType"):
        gf.train(recipe, shop.data(), start=target, device="cpu", show_progress=False)
    with pytest.raises(InvalidValueError, match=r"DraftAlignmentConfig: weight must be in \[0, 1\], got 2"):
        DraftAlignmentConfig(weight=2.0)
    model = drafted(target, target_beams=2)
    batch = model.layout(gf.Batch(Jagged.from_rows([[1, 2]]), torch.tensor([2, 3])))
    with pytest.raises(InvalidValueError, match="targets must be 'last' where target_beams is set, got 2 targets of 1"):
        model.objective.prepare(model, batch)
