from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.objectives import GuidedThoughtsConfig
from genrec_fast.objectives.guided_thoughts import code_vectors, grouped
from shared.catalogs import coded, system_of
from shared.objective_suite import ObjectiveSuite


class TestGuidedThoughts(ObjectiveSuite):
    recipe = "s2gr"
    objective = GuidedThoughtsConfig()


# Four items, two codes a level: each code's vector is the mean of what is left of the features.
CODES = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
FEATURES = torch.tensor([[3.0, 1.0], [3.0, -1.0], [-3.0, 1.0], [-3.0, -1.0]])


def test_codes_are_known_by_what_they_add():
    first, second = code_vectors(CODES, FEATURES, (2, 2))
    assert first.tolist() == [[3.0, 0.0], [-3.0, 0.0]]
    assert second.tolist() == [[0.0, 1.0], [0.0, -1.0]]


def test_a_code_that_no_item_has_shapes_no_cluster():
    vectors = code_vectors(CODES, FEATURES, (3, 2))[0]
    assert vectors[2].isnan().all()
    labels, centres = grouped(vectors, 5)
    assert labels.tolist() == [0, 1, 0]
    assert centres.tolist() == [[3.0, 0.0], [-3.0, 0.0]]


def test_clusters_by_hand():
    vectors = torch.tensor([[0.0, 0], [10, 0], [1, 0], [11, 0], [12, 0]], dtype=torch.float64)
    labels, centres = grouped(vectors, 2)
    assert labels.tolist() == [0, 1, 0, 1, 1]
    assert centres.tolist() == [[0.5, 0.0], [11.0, 0.0]]


def test_the_loss_by_hand():
    """Two users; every cosine is known: thoughts along an axis, anchors as they are, interests and codes crossed."""
    catalog = coded(CODES, (2, 2), FEATURES)
    objective = GuidedThoughtsConfig(num_groups=2, temperature=0.5, weight=0.25).build(catalog)
    made = SimpleNamespace(
        logits=[torch.zeros(2, 2), torch.tensor([[math.log(3.0), 0.0]] * 2)],
        thoughts=torch.tensor([[[2.0, 0.0], [0.0, 5.0]], [[1.0, 0.0], [0.0, 1.0]]]),
        interest=torch.tensor([[0.0, 3.0], [1.0, 0.0]]),
        meant=torch.tensor([[0.0, 1.0], [4.0, 0.0]]),
    )
    backbone = SimpleNamespace(think=lambda batch: made, anchors=torch.nn.Identity())
    batch = Batch(Jagged.from_rows([[0], [1]]), torch.tensor([0, 3]), target_codes=CODES[[0, 3]])
    loss = objective(system_of(backbone), batch)
    near, far = math.log1p(math.exp(-4.0)), math.log1p(math.exp(4.0))  # cosines 1 and -1 over 0.5
    wanted = {
        "loss_codes": (math.log(2.0) + (math.log(4 / 3) + math.log(4.0)) / 2) / 2,
        "loss_align": (near + far) / 2 * 2,  # the first user's clusters are near, the second one's far, at both levels
        "loss_interest": math.log1p(math.exp(-2.0)),
        "loss_first": (1.0 + 0.0) / 2,
    }
    assert loss.figures == pytest.approx(wanted, rel=1e-6)
    total = wanted["loss_codes"] + wanted["loss_align"] + wanted["loss_interest"] + 0.25 * wanted["loss_first"]
    assert float(loss.value) == pytest.approx(total, rel=1e-6)


def test_what_is_meant_teaches_the_first_thought_and_not_the_other_way_round():
    thoughts, interest = (torch.randn(2, 2, requires_grad=True) for _ in range(2))
    made = SimpleNamespace(
        logits=[torch.zeros(2, 2)], thoughts=thoughts[:, None], interest=interest, meant=interest.detach()
    )
    backbone = SimpleNamespace(think=lambda batch: made, anchors=torch.nn.Identity())
    batch = Batch(Jagged.from_rows([[0], [1]]), torch.tensor([0, 3]), target_codes=CODES[[0, 3], :1])
    gradients = []
    for weight in (0.0, 1.0):
        objective = GuidedThoughtsConfig(weight=weight).build(coded(CODES[:, :1], (2,), FEATURES))
        value = objective(system_of(backbone), batch).value
        gradients.append(torch.autograd.grad(value, (thoughts, interest)))
    assert not torch.equal(gradients[0][0], gradients[1][0])
    torch.testing.assert_close(gradients[0][1], gradients[1][1])


@pytest.mark.parametrize("missing", ["features", "item_codes"])
def test_a_catalog_without_what_clusters_are_made_of_is_refused(missing):
    known = {"item_codes": CODES, "features": FEATURES} | {missing: None}
    with pytest.raises(InvalidValueError, match=f"^GuidedThoughts: catalog must have {missing}, got None"):
        GuidedThoughtsConfig().build(coded(known["item_codes"], (2, 2), known["features"], num_items=4))
