"""DFGR's two flows: an event is asked as a candidate behind the events before it is, and its answer is not in it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from genrec_fast.backbones import DualFlowConfig, HSTUConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.layouts import InterleaveConfig
from genrec_fast.objectives import MultiTaskConfig
from shared.catalogs import sized

ITEMS = 9
SMALL = {"width": 16, "num_heads": 2, "qk_dim": 8, "v_dim": 6, "num_layers": 2, "dropout": 0.0, "max_items": 6}
SMALL |= {"num_actions": 2, "max_tokens": 20}
HISTORIES = [[3, 1, 4, 1, 5], [2], [], [6, 5]]
TIMES = [[0, 60, 65, 9000, 10**6], [7], [], [50, 4000]]


def dual(**changes):
    torch.manual_seed(0)
    backbone = DualFlowConfig(**{**SMALL, **changes}).build(sized((), ITEMS)).eval()
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return backbone


def rows(values, dtype):
    return torch.cat([torch.tensor(row, dtype=dtype) for row in values])


def training(done):
    """Every event but a row's first is a target; ``done [E, 2]`` of all events of the histories."""
    kept, ends = Jagged.from_rows([row[:-1] for row in HISTORIES]), [row[1:] for row in HISTORIES]
    lengths = torch.tensor([len(row) for row in HISTORIES])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    place = torch.arange(int(offsets[-1])) - torch.repeat_interleave(offsets[:-1], lengths)
    before = place < torch.repeat_interleave(lengths, lengths) - 1
    return Batch(
        kept,
        rows(ends, torch.int64),
        timestamps=rows(TIMES, torch.int64)[before],
        target_timestamps=rows([row[1:] for row in TIMES], torch.int64),
        actions=done[before],
        target_actions=done[place > 0],
    )


def layout():
    return InterleaveConfig(actions="two_flows").build(sized((), ITEMS))


def all_done(seed=0):
    return torch.rand(8, 2, generator=torch.Generator().manual_seed(seed)) < 0.5


@pytest.mark.parametrize("settings", [{}, {"bias": "none", "alpha": None, "norms_by_kind": False, "rotary": True}])
def test_an_event_is_asked_as_a_candidate_behind_its_history_is(settings):
    """Of all events at once, what a single flow says of each alone."""
    backbone, done = dual(**settings), all_done()
    batch = layout()(training(done))
    assert batch.tokens.asked.tolist() == [1, 2, 3, 4, 6]
    found = backbone.action_logits(batch)
    alone = []
    for row, (history, times) in enumerate(zip(HISTORIES, TIMES, strict=True)):
        first = sum(len(other) for other in HISTORIES[:row])
        for place in range(1, len(history)):
            asked = Batch(
                Jagged.from_rows([history[:place]]),
                timestamps=torch.tensor(times[:place]),
                target_timestamps=torch.tensor(times[1 : place + 1]),
                actions=done[first : first + place],
                candidates=Jagged.from_rows([[history[place], 8]]),
                candidate_timestamps=torch.tensor([times[place], times[place]]),
            )
            laid = layout()(asked)
            assert laid.tokens.labels is None
            alone.append(backbone.action_logits(laid)[0])
    torch.testing.assert_close(found, torch.stack(alone), rtol=1e-4, atol=1e-5)


def test_no_answer_is_in_its_question():
    """Another action of an event leaves the answers up to it as they were, to the bit, and moves those behind it."""
    backbone, done = dual(), all_done()
    before = backbone.action_logits(layout()(training(done)))
    other = done.clone()
    other[2] = ~other[2]  # the third event of the first row, which is the second that is asked
    after = backbone.action_logits(layout()(training(other)))
    assert torch.equal(before[:2], after[:2])
    assert bool((before[2:4] - after[2:4]).abs().amin(1).gt(1e-4).all())
    assert torch.equal(before[4:], after[4:])


def test_every_parameter_learns_and_a_handful_is_learned_by_heart():
    done = all_done(1)
    torch.manual_seed(0)
    backbone = DualFlowConfig(**SMALL).build(sized((), ITEMS))
    system = type("System", (), {"backbone": backbone})()
    objective, batch = MultiTaskConfig().build(), layout()(training(done))
    optimizer = torch.optim.AdamW(backbone.parameters(), 3e-3)
    first = objective(system, batch)
    first.value.backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []
    for _ in range(300):
        optimizer.zero_grad()
        loss = objective(system, batch).value
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.01 < float(first.value.detach())


def test_what_two_flows_cannot_have_is_named():
    for settings, text in (
        ({"bias": "both"}, "bias must be 'time' or 'none' with two flows, got 'both'"),
        ({"attention": "softmax"}, "attention must be 'silu' with two flows, got 'softmax'"),
        ({"attention_dropout": 0.1}, "attention_dropout must be 0.0 with two flows, got 0.1"),
        ({"max_attn_len": 3}, "max_attn_len must be 0 with two flows, got 3"),
        ({"num_actions": 0}, "num_actions must be at least 1, got 0"),
    ):
        with pytest.raises(InvalidValueError, match=f"^DualFlowConfig: {text}"):
            DualFlowConfig(**{**SMALL, **settings})
    batch = layout()(training(all_done()))
    plain = HSTUConfig(bias="time", **SMALL).build(sized((), ITEMS))
    with pytest.raises(InvalidValueError, match=r"^hstu: actions must not be 'two_flows'"):
        plain.action_logits(batch)
    single = dataclasses.replace(batch, tokens=dataclasses.replace(batch.tokens, two_flows=False))
    with pytest.raises(InvalidValueError, match=r"^dual_flow: actions must be 'two_flows' in InterleaveConfig"):
        dual().action_logits(single)
