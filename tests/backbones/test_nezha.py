from __future__ import annotations

import torch

from genrec_fast.backbones import NezhaConfig
from genrec_fast.decoders import BeamConfig
from shared.backbone_suite import LastTarget, ReadsCodes, SearchedSuite, batch_of, likeliest_of_all

CONFIG = NezhaConfig(width=16, num_heads=2, num_layers=2, hidden=24, dropout=0.0, max_items=6)


class TestNezha(LastTarget, ReadsCodes, SearchedSuite):
    config = CONFIG
    op = "nezha"


def test_the_head_is_the_formula():
    layout, backbone = TestNezha().parts()
    batch = layout(batch_of([3, 1, 5]))
    h, found = backbone.states(batch), backbone.level_logits(batch)
    assert h.shape == (3, 4, 16)
    r = h[:, 0]
    for level in range(3):
        torch.testing.assert_close(found[level], (r + h[:, level + 1]) @ backbone.heads[level].weight.T)
        if level < 2:
            cell, code = backbone.cells[level], backbone.written[level].weight[batch.target_codes[:, level]]
            r = torch.tanh(code @ cell.weight_ih.T + cell.bias_ih + r @ cell.weight_hh.T + cell.bias_hh)


def test_placeholders_see_the_history_and_those_before_them():
    """The states do not depend on what is written, and the end token's not on the placeholders."""
    layout, backbone = TestNezha().parts()
    batch = layout(batch_of([3, 1]))
    before = backbone.states(batch)
    with torch.no_grad():
        backbone.behind.weight[2] += 1.0  # placeholder 1
    after = backbone.states(batch)
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2], after[:, 2])
    assert not torch.allclose(before[:, 3], after[:, 3])


def test_a_wide_beam_is_the_enumeration_of_valid_tuples():
    """3 levels of 4 codes, of which 20 tuples are items; the network is asked once."""
    backbone, batch, trie, wanted = likeliest_of_all(CONFIG)
    found = BeamConfig(num_beams=20).build().search(backbone, batch, trie, 10)
    assert bool(found.exact.all())
    assert torch.equal(found.items, wanted.indices)
    torch.testing.assert_close(found.scores, wanted.values, rtol=1e-5, atol=1e-5)
