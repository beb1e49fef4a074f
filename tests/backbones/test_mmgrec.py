from __future__ import annotations

import dataclasses

import pytest
import torch

from genrec_fast.backbones import MMGRecConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from shared.backbone_suite import FEATURES, ITEMS, SIZES, SearchedSuite, batch_of
from shared.catalogs import sized

CONFIG = MMGRecConfig(width=16, num_heads=2, head_width=8, num_layers=2, hidden=32, dropout=0.0, max_items=6)


class TestMMGRec(SearchedSuite):
    config = CONFIG
    targets = "last"
    features = True

    def test_the_order_of_a_history_matters(self):
        """Here it does not, but who is in it does."""
        layout, backbone = self.parts()
        rows = [[1, 2, 3], [3, 1, 2], [1, 2, 4]]
        one, same, other = (self.outputs(backbone, layout(Batch(Jagged.from_rows([row]))))[0] for row in rows)
        torch.testing.assert_close(one, same, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(one, other)


def test_a_layer_by_the_published_formula():
    """Each head's scores are its own and the user's, each value with what the user adds; one user after the other."""
    layout, backbone = TestMMGRec().parts()
    batch = layout(batch_of([4, 2]))
    layer, wanted = backbone.encoder[0], []
    x = backbone.contents(batch.features)
    users = torch.cat([x[:4].mean(0).expand(4, -1), x[4:].mean(0).expand(2, -1)])
    for row in (slice(0, 4), slice(4, 6)):
        items = x[row]
        s = float((layer.scalar.weight[0] @ items.mean(0)).detach())
        q, k, v = (part.unflatten(1, (2, 8)) for part in (items @ layer.qkv.weight.T).chunk(3, 1))
        uq, uk, uv = (items @ part.T * s for part in layer.related.weight.chunk(3))
        heads = []
        for head in range(2):
            scores = (q[:, head] @ k[:, head].T + uq @ uk.T) / 8**0.5
            heads.append(scores.softmax(1) @ (v[:, head] + uv))
        y = torch.nn.functional.layer_norm(items + torch.cat(heads, 1) @ layer.out.weight.T, (16,))
        y = torch.nn.functional.layer_norm(y + (y @ layer.into.weight.T).relu() @ layer.back.weight.T, (16,))
        wanted.append(y)
    torch.testing.assert_close(layer(x, users, batch.items.offsets), torch.cat(wanted), rtol=1e-4, atol=1e-5)
    states, offsets = backbone._encode(batch)
    torch.testing.assert_close(states, backbone.encoder[1](torch.cat(wanted), users, offsets), rtol=1e-4, atol=1e-5)


def test_what_it_cannot_be_made_of():
    with pytest.raises(InvalidValueError, match="MMGRecConfig: catalog must have features"):
        CONFIG.build(sized(SIZES, ITEMS))
    with pytest.raises(InvalidValueError, match="MMGRecConfig: num_user_tokens must be 0, got 5"):
        dataclasses.replace(CONFIG, num_user_tokens=5)
    backbone = CONFIG.build(sized(SIZES, ITEMS, FEATURES))
    with pytest.raises(InvalidValueError, match=r"mmgrec: batch must have features \(let it pass a layout first\)"):
        backbone.prefill(Batch(Jagged.from_rows([[1]])))
