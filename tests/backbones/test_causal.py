from __future__ import annotations

import pytest
import torch

from genrec_fast.backbones import CausalConfig
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.nn.item_inputs import ItemInputsConfig
from shared.backbone_suite import EmbeddingSuite, batch_of


class TestCausal(EmbeddingSuite):
    config = CausalConfig(width=16, num_heads=2, num_layers=2, hidden=32, dropout=0.0, max_items=6)


class TestCosine(EmbeddingSuite):
    config = CausalConfig(
        width=16, num_heads=2, num_layers=2, hidden=32, dropout=0.0, normalize=True, temperature=0.2, max_items=6
    )

    def test_scores_are_cosines_over_the_temperature(self):
        layout, backbone = self.parts()
        batch = layout(batch_of([4, 0, 6]))
        states = backbone.last_states(batch)
        cosines = torch.nn.functional.cosine_similarity(states[:, None], backbone.items.weight[None], dim=-1)
        torch.testing.assert_close(backbone.embed_users(batch) @ backbone.item_table().T, cosines / 0.2)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_the_temperature_is_checked(temperature):
    with pytest.raises(InvalidValueError, match="CausalConfig: temperature must be above 0 and finite, got"):
        CausalConfig(temperature=temperature)


class TestOfCodesAndFeatures(EmbeddingSuite):
    config = CausalConfig(
        width=16,
        num_heads=2,
        num_layers=1,
        hidden=32,
        dropout=0.0,
        max_items=6,
        items=ItemInputsConfig(ids=False, codes="mean", features=True),
    )
    features = True
    whole_catalog = True

    def test_state_dict_round_trip(self):
        layout, backbone = self.parts()
        torch.manual_seed(1)
        other = self.built(layout)
        other.load_state_dict(backbone.state_dict())
        assert torch.equal(other.item_table(), backbone.item_table())
