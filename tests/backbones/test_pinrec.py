from __future__ import annotations

import torch

from genrec_fast.backbones import PinRecConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import Embedding, Interests
from shared.backbone_suite import EmbeddingSuite
from shared.catalogs import sized

CONFIG = PinRecConfig(width=16, num_heads=2, num_layers=1, hidden=16, num_tokens=3, dropout=0.0, max_items=9)


class TestPinRec(EmbeddingSuite):
    config = CONFIG


def test_tokens_differ_and_the_first_is_the_embedding():
    torch.manual_seed(0)
    backbone = CONFIG.build(sized((20,), 20)).eval()
    assert isinstance(backbone, Embedding)
    assert isinstance(backbone, Interests)
    batch = Batch(Jagged.from_rows([[1, 2, 3], [], [4]]), torch.tensor([2, 3, -1, 7]))
    tokens, interests = backbone.embed_tokens(batch), backbone.embed_interests(batch)
    assert tokens.shape == (3, 3, 16)
    assert interests.shape == (3, 3, 16)
    torch.testing.assert_close(tokens[:, 0], backbone.embed_targets(batch))
    torch.testing.assert_close(interests[:, 0], backbone.embed_users(batch))
    assert not torch.allclose(tokens[:, 0], tokens[:, 1])
