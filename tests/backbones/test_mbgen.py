"""MBGen: behaviours among the codes, feed-forwards by place, and a search for what shall be done."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from genrec_fast.backbones import MBGenConfig
from genrec_fast.backbones.mbgen import _ByPlace, behaviours_of
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import BehaviourCodesConfig
from shared.backbone_suite import SIZES, batch_of, catalog_layout
from shared.catalogs import sized, system_of

SMALL = {"width": 16, "num_heads": 2, "head_width": 8, "num_layers": 2, "hidden": 24, "dropout": 0.0, "max_items": 6}
SMALL |= {"num_user_tokens": 4, "behaviour_width": 5, "injected_layers": 1}


def made(**changes):
    torch.manual_seed(0)
    backbone = MBGenConfig(**{**SMALL, **changes}).build(sized(SIZES, 30)).eval()
    return backbone, PlainConfig(use_users=True, actions="read").build(catalog_layout().catalog)


def acted(lengths, seed=0, target=None):
    """Histories with what was done at each event; ``target``: what is done with every target."""
    batch = batch_of(lengths, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    count = batch.items.values.shape[0]
    done, following = (torch.rand(count, 2, generator=generator) < 0.5 for _ in range(2))
    if target is not None:
        following = torch.tensor(target).expand(count, 2)
    return dataclasses.replace(batch, actions=done, target_actions=following)


def test_behaviours_are_the_last_actions_that_hold():
    actions = torch.tensor([[False, False], [True, False], [False, True], [True, True]])
    assert behaviours_of(actions, 2).tolist() == [0, 1, 2, 2]
    with pytest.raises(InvalidValueError, match=r"^mbgen: actions must be \[E, 3\], got \[4, 2\]"):
        behaviours_of(actions, 3)


def test_the_stream_is_user_behaviour_codes_end():
    backbone, layout = made()
    batch = layout(acted([2, 1]))
    tokens, offsets = backbone._tokens(batch)
    first, end = backbone.behaviour_token, backbone.end_token
    assert offsets.tolist() == [0, 10, 16]
    behaviours = behaviours_of(batch.actions, 2).tolist()
    starts = backbone.level_offsets
    items = [
        [first + done, *(int(code) + start for code, start in zip(codes, starts, strict=False))]
        for done, codes in zip(behaviours, batch.codes, strict=True)
    ]
    assert tokens.tolist() == [end + 1, *items[0], *items[1], end, end + 2, *items[2], end]
    assert backbone.tokens.num_embeddings == first + 3
    places, told = backbone._told_read(tokens, offsets)
    assert places.tolist() == [0] * 16
    one, two, three = (done + 1 for done in behaviours)
    assert told.tolist() == [0, 0, one, one, one, 0, two, two, two, 0, 0, 0, three, three, three, 0]


def test_every_place_has_a_feed_forward_of_its_own():
    torch.manual_seed(0)
    part = _ByPlace(MBGenConfig(**SMALL), 3, injected=True)
    part.begin()
    x, places, behaviours = torch.randn(6, 16), torch.tensor([2, 0, 1, 0, 2, 2]), torch.tensor([0, 1, 3, 2, 1, 0])
    wanted = [
        part.out[place](torch.relu(part.into[place](torch.cat([row, part.behaviours.weight[done]]))))
        for row, place, done in zip(x, places.tolist(), behaviours.tolist(), strict=True)
    ]
    torch.testing.assert_close(part(x, places, behaviours), torch.stack(wanted))


@pytest.mark.parametrize("wanted", [0, 2])
def test_a_search_writes_codes_of_the_wanted_behaviour(wanted):
    """Level by level the logits that training has where the target's behaviour is the wanted one."""
    backbone, layout = made(wanted=wanted)
    batch = layout(acted([3, 6, 1], target=[wanted == 1, wanted == 2]))
    _, levels = backbone.behaviour_and_level_logits(batch)
    session, parents = backbone.prefill(dataclasses.replace(batch, target_actions=None)), torch.zeros(3, 1).int()
    for level, logits in enumerate(levels):
        found, _ = session.scores()
        torch.testing.assert_close(found[:, 0], logits, rtol=1e-4, atol=1e-5)
        if level + 1 < len(levels):
            session = session.extend(batch.target_codes[:, level : level + 1].int(), parents)
    other = layout(acted([3, 6, 1], target=[wanted != 1, False]))
    assert not torch.allclose(backbone.level_logits(other)[0], levels[0])
    torch.testing.assert_close(
        backbone.behaviour_and_level_logits(other)[0], backbone.behaviour_and_level_logits(batch)[0]
    )


def test_what_was_done_is_read():
    backbone, layout = made()
    batch = layout(acted([3]))
    moved = dataclasses.replace(batch, actions=~batch.actions)
    assert not torch.allclose(backbone.level_logits(batch)[0], backbone.level_logits(moved)[0])


def test_the_loss_is_the_mean_over_a_behaviour_and_the_codes_and_a_handful_is_learned_by_heart():
    backbone, layout = made()
    batch, objective = layout(acted([3, 2, 4])), BehaviourCodesConfig(actions=("seen", "bought")).build()
    first, levels = backbone.behaviour_and_level_logits(batch)
    done = behaviours_of(batch.target_actions[batch.target_positions], 2)
    terms = [torch.nn.functional.cross_entropy(first, done)]
    terms += [
        torch.nn.functional.cross_entropy(p, c) for p, c in zip(levels, batch.target_codes.unbind(1), strict=True)
    ]
    loss = objective(system_of(backbone), batch)
    torch.testing.assert_close(loss.value, sum(terms) / 4)
    loss.value.backward()
    missing = [name for name, p in backbone.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert missing == []
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=3e-3, weight_decay=0.0)
    for _ in range(60):
        optimizer.zero_grad()
        value = objective(system_of(backbone), batch).value
        value.backward()
        optimizer.step()
    assert float(value.detach()) < 0.3 * float(loss.value.detach())


def test_what_it_lacks_is_named():
    backbone, layout = made()
    with pytest.raises(InvalidValueError, match=r"^Plain: batch must have actions, got None; give data.load actions"):
        layout(batch_of([2]))
    with pytest.raises(InvalidValueError, match=r"^mbgen: batch must have target_actions, got None"):
        backbone.level_logits(layout(dataclasses.replace(acted([2]), target_actions=None)))
    with pytest.raises(InvalidValueError, match=r"^MBGenConfig: wanted must be at most num_actions = 2, got 3"):
        MBGenConfig(wanted=3)
    with pytest.raises(InvalidValueError, match=r"^BehaviourCodesConfig: actions must name at least one, got none"):
        BehaviourCodesConfig(actions=())
