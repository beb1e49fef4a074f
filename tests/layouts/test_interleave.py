from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_fast.backbones import HSTUConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import ActionScoring
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.decoders.rank import with_candidates
from genrec_fast.layouts import InterleaveConfig
from shared.catalogs import sized

ITEMS, ACTIONS, FEATURES = 20, 2, 3
SMALL = {"width": 8, "num_heads": 2, "qk_dim": 4, "v_dim": 3, "num_layers": 2, "dropout": 0.0}


def layout(**changes):
    features = torch.randn(ITEMS, FEATURES, generator=torch.Generator().manual_seed(0))
    return InterleaveConfig(**changes).build(Catalog(features=features))


def backbone(**changes):
    torch.manual_seed(0)
    settings = {"bias": "time", "num_actions": ACTIONS, "max_items": 9, "max_tokens": 30, **SMALL, **changes}
    made = HSTUConfig(**settings).build(sized((), ITEMS)).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def history(lengths, seed=0, asked=None, users=True):
    """Random events, 100 s apart; every position of a row, or its last ``asked`` ones, has a target."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    items = Jagged.from_lengths(torch.randint(ITEMS, (total,), generator=generator), torch.tensor(lengths))
    wanted = torch.randint(ITEMS, (total,), generator=generator)
    actions, answers = torch.rand(2, total, ACTIONS, generator=generator) > 0.5
    rows = items.row_index()
    place = torch.arange(total) - items.offsets[rows]
    left = items.lengths[rows] - 1 - place
    inner = left > 0  # inside a row, the target is the next item and its action
    wanted[inner], answers[inner] = items.values[1:][inner[:-1]], actions[1:][inner[:-1]]
    if asked is not None:
        wanted[left >= asked] = -1
    return Batch(
        items,
        wanted,
        users=torch.arange(len(lengths)) if users else None,
        timestamps=1000 * rows + 100 * place,
        target_timestamps=1000 * rows + 100 * place + 100,
        actions=actions,
        target_actions=answers,
    )


def stream(batch):
    """Every row as words: c0, i7 (item 7), a3 (action of event 3), t5 (candidate 5)."""
    tokens = batch.tokens
    words = [""] * int(tokens.offsets[-1])
    contexts = [] if batch.contexts is None else batch.contexts.flatten().tolist()
    for name, at, values in (
        ("c", tokens.contexts_at, contexts),
        ("i", tokens.items_at, batch.items.values.tolist()),
        ("a", tokens.actions_at, range(len(tokens.actions_at))),
        ("t", tokens.candidates_at, [] if batch.candidates is None else batch.candidates.values.tolist()),
    ):
        assert len(at) == len(values)
        for place, value in zip(at.tolist(), values, strict=True):
            assert words[place] == ""  # each token once
            words[place] = f"{name}{value}"
    return [words[a:b] for a, b in zip(tokens.offsets.tolist(), tokens.offsets.tolist()[1:], strict=False)]


def test_items_and_actions_take_turns_behind_the_contexts():
    batch = Batch(
        Jagged.from_rows([[3, 4], [], [5]]),
        users=torch.tensor([7, 8, 9]),
        actions=torch.ones(3, ACTIONS).bool(),
        candidates=Jagged.from_rows([[6, 7], [8], []]),
    )
    made = layout(num_user_buckets=4)(batch)
    assert stream(made) == [["c3", "i3", "a0", "i4", "a1", "t6", "t7"], ["c0", "t8"], ["c1", "i5", "a2"]]
    assert made.tokens.num_targets.tolist() == [2, 1, 0]
    assert torch.equal(made.tokens.asked, made.tokens.candidates_at)
    assert made.tokens.labels is None
    added = layout(actions="added", num_candidates=1)(batch)
    assert stream(added) == [["i3", "i4", "t6", "t7"], ["t8"], ["i5"]]


def test_training_on_every_item_asks_for_each_target_where_it_stands():
    made = layout()(history([3, 1, 0, 2]))
    words = [word for row in stream(made) for word in row]
    assert [words[at][1:] for at in made.tokens.asked.tolist()] == [str(t) for t in made.targets.tolist()]
    assert [words[at][0] for at in made.tokens.asked.tolist()] == ["i", "i", "t", "t", "i", "t"]
    assert torch.equal(made.tokens.labels, made.target_actions)
    assert made.tokens.contextual_seq_len == 0


@given(
    st.lists(st.integers(0, 7), min_size=0, max_size=5),
    st.integers(1, 8),
    st.integers(1, 8),
    st.sampled_from(["tokens", "added", "none"]),
)
def test_the_last_targets_become_candidates_and_the_history_ends_before_them(lengths, asked, most, actions):
    batch = history(lengths, asked=asked)
    made = layout(num_candidates=most, actions=actions, num_user_buckets=2)(batch)
    targets, answers = (Jagged(t, batch.items.offsets).rows() for t in (batch.targets, batch.target_actions))
    labels = Jagged(made.tokens.labels, made.candidates.offsets).rows()
    for row, length in enumerate(lengths):
        count = min(length, asked, most)
        assert made.candidates[row].tolist() == targets[row][length - count :].tolist()
        assert torch.equal(labels[row], answers[row][length - count :])
        kept = length - max(count - 1, 0)
        assert made.items[row].tolist() == batch.items[row][:kept].tolist()
    stream(made)
    assert made.tokens.contextual_seq_len == 1
    assert torch.equal(made.tokens.asked, made.tokens.candidates_at)


def test_the_times_of_the_stream():
    made = layout(num_user_buckets=2)(history([2, 1]))
    assert stream(made)[0][0] == "c0"
    assert made.tokens.timestamps.tolist() == [0, 0, 0, 100, 100, 200, 1000, 1000, 1000, 1100]
    assert made.tokens.query_timestamps.tolist() == [0, 0, 100, 100, 200, 200, 1000, 1000, 1100, 1100]
    question = dataclasses.replace(
        history([2]), targets=None, target_timestamps=None, candidates=Jagged.from_rows([[1, 2]])
    )
    assert layout()(question).tokens.timestamps.tolist() == [0, 0, 100, 100, 100, 100]  # unknown: at the last event
    told = dataclasses.replace(question, candidate_timestamps=torch.tensor([300, 400]))
    assert layout()(told).tokens.query_timestamps.tolist()[-2:] == [300, 400]
    timeless = dataclasses.replace(question, timestamps=None)
    assert layout()(timeless).tokens.timestamps is None


@pytest.mark.parametrize("kind", ["silu", "softmax"])
def test_what_was_trained_at_every_item_is_what_a_candidate_is_asked(kind):
    """The state at an item of the history is that of the same item as the candidate of the history before it."""
    network, made = backbone(attention=kind), layout()
    batch = history([4, 1, 3])
    trained = network.action_logits(made(batch))
    row = 0
    for user, length in enumerate([4, 1, 3]):
        begin = int(batch.items.offsets[user])
        for seen in range(1, length + 1):
            span = slice(begin, begin + seen)
            question = Batch(
                Jagged.from_rows([batch.items.values[span]]),
                users=torch.tensor([user]),
                timestamps=batch.timestamps[span],
                target_timestamps=batch.target_timestamps[span],
                actions=batch.actions[span],
                candidates=Jagged.from_rows([[int(batch.targets[begin + seen - 1])]]),
            )
            torch.testing.assert_close(network.action_logits(made(question))[0], trained[row], rtol=1e-4, atol=1e-5)
            row += 1


@pytest.mark.parametrize("changes", [{}, {"positions": "end", "times": "end"}, {"rotary": True, "positions": "none"}])
def test_candidates_do_not_see_each_other(changes):
    network = backbone(num_contexts=3, **changes)
    made = layout(num_user_buckets=3, num_candidates=4)
    some = history([4, 2])
    some = dataclasses.replace(some, targets=None, candidates=Jagged.from_rows([[1, 2, 3], [4]]))
    together = network.action_logits(made(some))
    alone = []
    for user, items in enumerate(some.candidates.rows()):
        for item in items.tolist():
            one = Jagged.from_rows([[item] if u == user else [] for u in range(2)])
            alone.append(network.action_logits(made(dataclasses.replace(some, candidates=one))))
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-4, atol=1e-5)
    turned = Jagged.from_rows([[3, 2, 1], [4]])
    again = network.action_logits(made(dataclasses.replace(some, candidates=turned)))
    torch.testing.assert_close(again[[2, 1, 0, 3]], together, rtol=1e-4, atol=1e-5)


def test_no_answer_reaches_the_states_that_are_asked():
    """Changing one event's action, or anything later, changes no logit asked at or before that event."""
    network = backbone(num_contexts=3)
    for made in (layout(num_user_buckets=3), layout(num_candidates=2, num_user_buckets=3, actions="added")):
        batch = history([5])
        before = network.action_logits(made(batch))
        changed = dataclasses.replace(batch, target_actions=~batch.target_actions)
        assert torch.equal(network.action_logits(made(changed)), before)
        flipped = batch.actions.clone()
        flipped[3:] = ~flipped[3:]
        after = network.action_logits(made(dataclasses.replace(batch, actions=flipped)))
        asked = 3 if made.config.num_candidates == 0 else 0  # targets are events 1 to 5
        torch.testing.assert_close(after[:asked], before[:asked])
        assert not torch.allclose(after[asked:], before[asked:])


def test_every_part_of_the_stream_learns():
    network, made = backbone(num_contexts=3).train(), layout(num_user_buckets=3, num_candidates=2)
    batch = made(history([5, 3]))
    assert isinstance(network, ActionScoring)
    assert network.num_actions == ACTIONS
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        network.action_logits(batch), batch.tokens.labels.float()
    )
    loss.backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not bool(p.grad.any())] == []


def test_retrieval_reads_the_stream_behind_each_action():
    """The state that predicts a target is that of the user whose history ends there."""
    network, made = backbone(num_contexts=3), layout(num_user_buckets=3)
    batch = history([3, 2])
    states = network.embed_targets(made(batch))
    users = network.embed_users(made(dataclasses.replace(batch, targets=None)))
    torch.testing.assert_close(states[[2, 4]], users)


def test_features_of_items_and_candidates():
    made = layout(use_features=True)
    assert made.feature_dim == FEATURES
    torch.manual_seed(0)
    network = (
        HSTUConfig(bias="none", num_actions=ACTIONS, max_tokens=100, **SMALL).build(sized((), ITEMS, FEATURES)).eval()
    )
    batch = made(history([3, 2]))
    assert torch.equal(batch.features, made.features[batch.items.values])
    assert torch.equal(batch.candidate_features, made.features[batch.candidates.values])
    assert network.action_logits(batch).shape == (5, ACTIONS)


def test_a_stream_of_nobody():
    network, made = backbone(), layout()
    empty = Batch(Jagged.from_rows([]), torch.zeros(0).long(), actions=torch.zeros(0, ACTIONS).bool())
    nobody = made(dataclasses.replace(empty, timestamps=torch.zeros(0).long()))
    assert network.action_logits(nobody).shape == (0, ACTIONS)
    assert network.embed_users(nobody).shape == (0, 8)


@pytest.mark.parametrize(
    ("settings", "change", "text"),
    [
        ({}, {"actions": None}, "batch must have actions, got None"),
        ({}, {"candidates": Jagged.from_rows([[1], [2]])}, "candidates must not be given with targets"),
        ({}, {"targets": None, "candidates": Jagged.from_rows([[1]])}, "candidates must have 2 rows, got 1"),
        ({}, {"targets": None, "candidates": Jagged.from_rows([[1], [99]])}, r"candidates must be item ids .*, got 99"),
        ({}, {"targets": torch.full((3,), 20)}, r"targets must be item ids in \[0, 20\), got 20"),
        ({}, {"timestamps": torch.zeros(2).long()}, "timestamps must have one row per item = 3, got 2"),
        ({}, {"target_actions": None, "actions": torch.zeros(4, 2).bool()}, "actions must have one row per item = 3"),
        ({}, {"contexts": torch.zeros(3, 1).long()}, r"contexts must be \[2, C\], got \[3, 1\]"),
        ({}, {"items": Jagged.from_rows([[1, 2], [-3]])}, r"items must be item ids in \[0, 20\), got -3"),
    ],
)
def test_what_does_not_fit_is_named(settings, change, text):
    with pytest.raises(InvalidValueError, match=f"^Interleave: {text}"):
        layout(**settings)(dataclasses.replace(history([2, 1]), **change))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"actions": "all"}, "actions must be 'tokens', 'added', 'before', 'two_flows' or 'none', got 'all'"),
        ({"actions": "added"}, "num_candidates must be at least 1 where actions are added"),
        ({"actions": "two_flows", "num_candidates": 1}, "num_candidates must be 0 with two flows, .* got 1"),
        ({"num_candidates": -1}, "num_candidates must be at least 0, got -1"),
    ],
)
def test_bad_settings_are_named(settings, text):
    with pytest.raises(InvalidValueError, match=f"^InterleaveConfig: {text}"):
        InterleaveConfig(**settings)


def test_what_the_backbone_cannot_read_is_named():
    made, batch = layout(num_user_buckets=2), history([3])
    with pytest.raises(InvalidValueError, match=r"^hstu: actions must be \[3, 1\], one column .* got \[3, 2\]"):
        backbone(num_actions=1).action_logits(made(batch))
    with pytest.raises(InvalidValueError, match=r"^hstu: num_contexts must be above 0 for contextual tokens"):
        backbone().action_logits(made(batch))
    with pytest.raises(
        InvalidValueError, match=r"^hstu: contexts must be in \[0, 1\), the settings' num_contexts, got 1 to"
    ):
        backbone(num_contexts=1).action_logits(made(dataclasses.replace(batch, users=torch.tensor([1]))))
    with pytest.raises(InvalidValueError, match=r"^hstu: rows must have at most max_tokens = 9 tokens"):
        backbone(max_tokens=0, num_contexts=2).action_logits(made(history([5])))
    several = dataclasses.replace(batch, targets=None, candidates=Jagged.from_rows([[1, 2]]))
    with pytest.raises(InvalidValueError, match=r"^hstu: bias must be 'time' or 'none' where a user has several"):
        backbone(bias="both", num_contexts=2).action_logits(made(several))


def test_actions_before_tell_nothing_of_the_answer():
    """GenRank: a token's input is the action before it and its item; the action of its own event changes later ones."""
    torch.manual_seed(0)
    backbone = HSTUConfig(
        width=8, num_heads=1, num_layers=1, qk_dim=4, v_dim=4, bias="none", num_actions=2, max_items=6, max_tokens=20
    ).build(sized((), 9))
    layout = InterleaveConfig(actions="before").build(sized((), 9))
    done = torch.tensor([[True, False], [False, True], [True, True]])
    items, targets = Jagged.from_rows([[1, 2], [3]]), torch.tensor([2, 5, 7])
    batch = layout(Batch(items, targets, actions=done, target_actions=done.roll(-1, 0)))
    assert batch.tokens.actions_at.numel() == 0
    assert batch.tokens.items_at.tolist() == [0, 1, 3]
    assert batch.tokens.candidates_at.tolist() == [2, 4]
    assert batch.tokens.asked.tolist() == [1, 2, 4]
    assert torch.equal(batch.tokens.labels, done.roll(-1, 0))
    acted, scaled = backbone.actions(done.float()), backbone.items.weight * 8**0.5
    wanted = torch.stack(
        [
            scaled[1],
            scaled[2] + acted[0],
            scaled[5] + acted[1],
            scaled[3],
            scaled[7] + acted[2],
        ]
    )
    torch.testing.assert_close(backbone._embedded(batch), wanted)
    asked = with_candidates(layout(Batch(items, actions=done)), torch.tensor([5, 7]))
    found = backbone._embedded(asked)
    torch.testing.assert_close(found[2:4], scaled[[5, 7]] + acted[1])
    torch.testing.assert_close(found[5:7], scaled[[5, 7]] + acted[2])
