from __future__ import annotations

import dataclasses

import pytest
import torch

from genrec_fast import recipes
from genrec_fast.backbones import CausalT5Config, T5Config
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.recipe.recommender import Recommender
from genrec_fast.training.setup import begin_with
from shared.autoregressive_suite import AutoregressiveSuite
from shared.backbone_suite import batch_of
from shared.catalogs import coded

SMALL = {"width": 16, "num_heads": 2, "head_width": 8, "num_layers": 2, "hidden": 32, "dropout": 0.0, "max_items": 6}


class TestCausalT5(AutoregressiveSuite):
    targets = "every"
    config = CausalT5Config(**SMALL, num_user_tokens=3)

    def test_every_target_is_as_if_its_history_ended_there(self):
        """One reading with all targets equals one reading of each prefix, as ``T5`` would be trained."""
        layout, backbone = self.parts()
        whole = batch_of([4, 1, 6], targets="every")
        users = torch.tensor([2, 0, 1])
        together = backbone.level_logits(layout(Batch(whole.items, whole.targets, users=users)))
        at = 0
        for row in range(3):
            items = whole.items.values[whole.items.offsets[row] : whole.items.offsets[row + 1]]
            targets = whole.targets[whole.items.offsets[row] : whole.items.offsets[row + 1]]
            for end in range(1, len(items) + 1):
                last = torch.full((end,), -1)
                last[-1] = targets[end - 1]
                alone = Batch(Jagged(items[:end], torch.tensor([0, end])), last, users=users[row : row + 1])
                for one, many in zip(backbone.level_logits(layout(alone)), together, strict=True):
                    torch.testing.assert_close(one[0], many[at], rtol=1e-4, atol=1e-4)
                at += 1
        assert at == together[0].shape[0] == 11

    def test_targets_may_stand_anywhere(self):
        layout, backbone = self.parts()
        batch = batch_of([4, 3], targets="every")
        every = backbone.level_logits(layout(batch))
        some = batch.targets.clone()
        some[[0, 2, 6]] = -1
        chosen = backbone.level_logits(layout(Batch(batch.items, some, users=batch.users)))
        for level, logits in enumerate(chosen):
            torch.testing.assert_close(logits, every[level][[1, 3, 4, 5]], rtol=1e-4, atol=1e-4)

    def test_targets_must_have_codes(self):
        _, backbone = self.parts()
        with pytest.raises(InvalidValueError, match="batch must have target_codes"):
            backbone.level_logits(batch_of([3, 2], targets="every"))


class TestWithoutUsers(AutoregressiveSuite):
    targets = "every"
    config = CausalT5Config(**SMALL, num_user_tokens=0, tied=True)


def test_training_and_search_read_the_same_tokens():
    """What is trained is what is asked: the loss of a last target and the scores of a search agree."""
    suite = TestCausalT5()
    layout, backbone = suite.parts()
    batch = layout(batch_of([5, 2], targets="last"))
    trained = backbone.level_logits(batch)
    asked, _ = backbone.prefill(batch).scores()
    torch.testing.assert_close(asked[:, 0].log_softmax(-1), trained[0].log_softmax(-1), rtol=1e-4, atol=1e-4)


def test_a_model_does_not_start_from_the_other_network():
    """Weights of the two have the same names and shapes, and mean something else."""
    codes = torch.tensor([[0, 0], [0, 1], [1, 0]]).int()
    recipe = dataclasses.replace(recipes.tiger(), backbone=CausalT5Config(**SMALL))
    one, same = (Recommender(recipe, coded(codes, (2, 2))) for _ in range(2))
    other = Recommender(dataclasses.replace(recipe, backbone=T5Config(**SMALL)), coded(codes, (2, 2)))
    with pytest.raises(InvalidValueError, match="start must have the recipe's backbone, a T5, got a CausalT5"):
        begin_with(other, one)
    begin_with(same, one)
    assert torch.equal(same.backbone.tokens.weight, one.backbone.tokens.weight)
