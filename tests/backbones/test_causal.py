from __future__ import annotations

from genrec_fast.backbones import CausalConfig
from shared.backbone_suite import EmbeddingSuite


class TestCausal(EmbeddingSuite):
    config = CausalConfig(width=16, num_heads=2, num_layers=2, hidden=32, dropout=0.0, max_items=6)
