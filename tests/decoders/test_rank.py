from __future__ import annotations

import dataclasses

import pytest
import torch

from genrec_fast.backbones import HSTUConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.decoders import RankConfig
from genrec_fast.decoders.rank import with_candidates
from genrec_fast.layouts import InterleaveConfig
from shared.catalogs import coded, sized

ITEMS, ACTIONS = 13, 2


def example(**changes):
    """A model of random weights and a batch of three users, one without events, before the layout."""
    torch.manual_seed(0)
    settings = {"bias": "time", "num_layers": 2, "num_actions": ACTIONS, "max_items": 8, "max_tokens": 40}
    config = HSTUConfig(width=16, num_heads=2, qk_dim=8, v_dim=8, **(settings | changes))
    backbone = config.build(sized((ITEMS,), ITEMS)).eval()
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    layout = InterleaveConfig().build(coded(torch.arange(ITEMS)[:, None], (ITEMS,)))
    items = Jagged.from_rows([[1, 5, 5], [], [2, 9, 0, 7, 3]])
    batch = Batch(
        items,
        timestamps=torch.tensor([10, 500, 90000, 0, 60, 61, 4000, 5000]),
        target_timestamps=torch.tensor([500, 90000, 95000, 60, 61, 4000, 5000, 700000]),
        actions=torch.rand(8, ACTIONS) < 0.5,
    )
    return backbone, layout, batch


@pytest.mark.parametrize("chunk", [1, 5, 13, 20])
@pytest.mark.parametrize("weights", [(), (0.2, 0.8)])
def test_equals_scoring_each_candidate_alone(chunk, weights):
    backbone, layout, batch = example()
    decoder = RankConfig(candidates_per_pass=chunk, weights=weights).build()
    found = decoder.search(backbone, layout(batch), None, ITEMS)
    own = torch.tensor(weights or (1.0, 1.0))
    wanted = torch.empty(3, ITEMS)
    with torch.inference_mode():
        for item in range(ITEMS):
            asked = dataclasses.replace(batch, candidates=Jagged.from_rows([[item]] * 3))
            wanted[:, item] = backbone.action_logits(layout(asked)).sigmoid() @ own / own.sum()
    scores = torch.empty(3, ITEMS).scatter_(1, found.items, found.scores)
    torch.testing.assert_close(scores, wanted, atol=1e-5, rtol=1e-5)
    assert bool((found.scores[:, 1:] <= found.scores[:, :-1]).all())
    assert bool(found.exact.all())


@pytest.mark.parametrize("each", [None, [[4, 0], [], [12]]])
def test_equals_the_layouts_own_candidates(each):
    """The same for everybody, or each user's own."""
    backbone, layout, batch = example()
    ids = torch.tensor([4, 0, 12])
    rows = Jagged.from_rows([ids] * 3 if each is None else each)
    asked = layout(dataclasses.replace(batch, candidates=rows))
    made = with_candidates(layout(batch), ids if each is None else rows)
    for field in dataclasses.fields(made.tokens):
        mine, theirs = getattr(made.tokens, field.name), getattr(asked.tokens, field.name)
        assert torch.equal(mine, theirs) if isinstance(theirs, torch.Tensor) else mine == theirs, field.name
    with torch.inference_mode():
        assert torch.equal(backbone.action_logits(made), backbone.action_logits(asked))


def test_filters():
    backbone, layout, batch = example()
    allowed = torch.zeros(ITEMS, dtype=torch.bool)
    allowed[[2, 4, 6]] = True
    exclude = Jagged.from_rows([[4], [], [2, 4, 6]])
    found = RankConfig().build().search(backbone, layout(batch), None, 4, allowed=allowed, exclude=exclude)
    assert found.items.sort(1).values.tolist() == [[-1, -1, 2, 6], [-1, 2, 4, 6], [-1, -1, -1, -1]]
    each = allowed.repeat(3, 1)
    each[0, 5] = True
    found = RankConfig().build().search(backbone, layout(batch), None, 4, allowed=each)
    assert found.items.sort(1).values.tolist() == [[2, 4, 5, 6], [-1, 2, 4, 6], [-1, 2, 4, 6]]
    none = layout(Batch(Jagged.from_rows([]), actions=torch.zeros(0, ACTIONS, dtype=torch.bool)))
    assert RankConfig().build().search(backbone, none, None, 4).items.shape == (0, 4)
    found = RankConfig().build().search(backbone, layout(batch), None, 4, allowed=torch.zeros_like(allowed))
    assert found.items.tolist() == [[-1] * 4] * 3
    small = Jagged(exclude.values.to(torch.int8), exclude.offsets)
    found, same = (RankConfig().build().search(backbone, layout(batch), None, 4, exclude=e) for e in (exclude, small))
    assert torch.equal(found.items, same.items)


def test_messages_name_argument_rule_and_value():
    backbone, layout, batch = example()
    decoder = RankConfig().build()
    with pytest.raises(InvalidTypeError, match="rank: backbone must be ActionScoring, got int"):
        decoder.search(3, batch, None, 1)
    with pytest.raises(InvalidValueError, match="rank: k must be at least 1, got 0"):
        decoder.search(backbone, layout(batch), None, 0)
    with pytest.raises(InvalidValueError, match="rank: batch must have tokens without candidates"):
        decoder.search(backbone, batch, None, 1)
    with pytest.raises(UnsupportedError, match="rank: items must have no features"):
        decoder.search(backbone, dataclasses.replace(layout(batch), features=torch.ones(8, 2)), None, 1)
    with pytest.raises(InvalidValueError, match="rank: weights must give 2 actions, got 3"):
        RankConfig(weights=(1.0, 1.0, 1.0)).build().search(backbone, layout(batch), None, 1)
    with pytest.raises(InvalidValueError, match="RankConfig: candidates_per_pass must be at least 1, got 0"):
        RankConfig(candidates_per_pass=0)
    with pytest.raises(InvalidValueError, match="RankConfig: weights must be finite, at least 0 and not all 0"):
        RankConfig(weights=(0.0,))
