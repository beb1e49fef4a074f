"""A user's kept state is what reading the whole history again gives."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from genrec_fast import UserCache, recipes
from genrec_fast.backbones import CausalConfig, GRUConfig, HSTUConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.layouts import PlainConfig
from genrec_fast.nn.pages import PagedPast, PagePool
from genrec_fast.recipe.recommender import Recommender
from shared.catalogs import coded
from shared.weight_changes import CHANGES

ITEMS, MOST = 30, 12
SMALL = {"width": 16, "num_heads": 2, "qk_dim": 8, "v_dim": 6, "num_layers": 3, "dropout": 0.1, "max_items": MOST}
FORMS = {
    "research": HSTUConfig.research(**SMALL),
    "time": HSTUConfig(bias="time", positions="none", num_time_buckets=20, **SMALL),
    "positions": HSTUConfig(bias="position", **SMALL),
    "gaps": HSTUConfig(bias="none", times="gap", activate="gate", norm="group", alpha=None, **SMALL),
    "rotary softmax": HSTUConfig(
        bias="none", positions="none", rotary=True, attention="softmax", alpha=None, max_attn_len=4, **SMALL
    ),
    "sasrec": CausalConfig(width=16, num_heads=2, num_layers=3, hidden=24, max_items=MOST),
    "both, softmax": HSTUConfig(bias="both", attention="softmax", alpha=None, **SMALL),
}


def recommender(config, features: bool = False, seed: int = 0) -> Recommender:
    torch.manual_seed(seed)
    recipe = recipes.hstu()
    batching = dataclasses.replace(recipe.batching, max_items=MOST)
    layout = PlainConfig(use_features=features)
    recipe = dataclasses.replace(recipe, backbone=config, batching=batching, layout=layout)
    vectors = torch.randn(ITEMS, 5)
    model = Recommender(recipe, coded(torch.arange(ITEMS)[:, None], (ITEMS,), vectors))
    for parameter in model.backbone.parameters():  # far from the start, where a mistake would show
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def anew(model: Recommender, history: list[int], times: list[int], asked: int | None) -> torch.Tensor:
    """``[D]``: the whole history, read at once."""
    history, times = history[-MOST:], times[-MOST:]
    following = [*times[1:], times[-1] if asked is None else asked] if times else []
    batch = Batch(
        Jagged.from_rows([history]),
        timestamps=torch.tensor(times, dtype=torch.int64),
        target_timestamps=torch.tensor(following, dtype=torch.int64),
    )
    with model.answering():
        return model.backbone.embed_users(model.layout(batch))[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", [0, 1])
def test_extending_equals_reading_anew(form, seed):
    """Several users, different numbers of new events, a window that slides, pages that run out."""
    model = recommender(FORMS[form], features=seed == 1)
    cache = UserCache(model, num_pages=15, page_size=3)
    generator = torch.Generator().manual_seed(seed)

    def number(high: int) -> int:
        return int(torch.randint(high, (), generator=generator))

    told: dict[str, tuple[list[int], list[int]]] = {name: ([], []) for name in "abcdef"}
    now, forgotten = 1000, 0
    for _ in range(20):
        users = [name for name in told if number(2)][:3]
        now += number(100000)
        rows, times = [], []
        for user in users:
            if user not in cache:  # new, or evicted: the caller begins again with what it knows
                forgotten += bool(told[user][0])
                history, when = told[user] if number(2) else ([], [])
                told[user] = ([], [])
            else:
                history, when = [], []
            more = [number(ITEMS) for _ in range(number(5))]
            rows.append(history + more)
            times.append(when + sorted(now + number(1000) for _ in more))
            told[user] = (told[user][0] + rows[-1], told[user][1] + times[-1])
        now += 1000
        asked = [now + number(500) for _ in users] if number(2) else None
        found = cache.extend(users, rows, timestamps=times, target_timestamps=asked)
        assert found.shape == (len(users), 16)
        for place, user in enumerate(users):
            expected = anew(model, *told[user], None if asked is None else asked[place])
            scale = float(expected.abs().max()) if form == "research" else 1.0  # divided by the temperature
            torch.testing.assert_close(found[place], expected, rtol=1e-5, atol=1e-5 * max(scale, 1.0))
            assert cache.history(user).tolist() == told[user][0][-MOST:]
    assert forgotten > 0
    cache.clear()
    assert (len(cache), cache.num_free_pages) == (0, 15)


def test_a_question_later_is_another_one_where_times_are_read():
    """The last event is open: nothing of it is in the pages, and asking again moves its query time."""
    model = recommender(FORMS["research"])
    cache = UserCache(model)
    cache.extend(["a"], [[1, 2, 3]], timestamps=[[10, 20, 400]], target_timestamps=[500])
    for later in (600, 10**6):
        again = cache.extend(["a"], [[]], target_timestamps=[later])
        torch.testing.assert_close(again[0], anew(model, [1, 2, 3], [10, 20, 400], later), rtol=1e-5, atol=1e-4)
    found = cache.extend(["a"], [[4]], timestamps=[[700]])  # the open event's query time is now 700
    torch.testing.assert_close(found[0], anew(model, [1, 2, 3, 4], [10, 20, 400, 700], None), rtol=1e-5, atol=1e-4)


def test_a_new_event_reads_no_old_one():
    """One event more is one token through the layers, two where the last one is open."""
    for form, tokens in (("positions", 1), ("research", 2)):
        model = recommender(FORMS[form])
        cache = UserCache(model)
        times = {"timestamps": [list(range(9))]} if form == "research" else {}
        read = []
        model.backbone.layers[0].register_forward_hook(lambda _, given, __, read=read: read.append(len(given[0])))
        cache.extend(["a"], [list(range(9))], **times)
        read.clear()
        cache.extend(["a"], [[9]], **({"timestamps": [[9]]} if times else {}))
        assert read == [tokens]


def test_recommending_is_the_recommenders_answer():
    model = recommender(FORMS["research"])
    cache = UserCache(model, page_size=2)
    histories, times = [[1, 2, 3, 4], [5], [6, 7]], [[1, 5, 9, 80], [3], [10, 20]]
    cache.extend([0, 1, 2], [row[:1] for row in histories], timestamps=[row[:1] for row in times])
    cache.extend([2, 0], [histories[2][1:], histories[0][1:3]], timestamps=[times[2][1:], times[0][1:3]])
    found = cache.recommend(
        [0, 1, 2], 5, items=[[4], [], []], timestamps=[[80], [], []], target_timestamps=[99, 99, 99], exclude_seen=True
    )
    expected = model.recommend(histories, 5, timestamps=times, target_timestamps=[99, 99, 99], exclude_seen=True)
    assert torch.equal(found.items, expected.items)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-4)
    allowed = torch.arange(ITEMS) < 9
    only = cache.recommend([1], 5, target_timestamps=[99], allowed=allowed, exclude=Jagged.from_rows([[5, 0]]))
    assert set(only.items[0].tolist()) <= {1, 2, 3, 4, 6, 7, 8}
    torch.testing.assert_close(cache.recommend([1], 5, target_timestamps=[99]).items.shape, torch.Size([1, 5]))


def test_pages_are_given_back_and_the_longest_unused_go_first():
    cache = UserCache(recommender(FORMS["positions"]), num_pages=4, page_size=2)
    cache.extend(["a", "b"], [[1, 2, 3], [4]])  # two pages and one
    assert (cache.num_free_pages, cache.users) == (1, ["a", "b"])
    cache.extend(["a"], [[]])
    assert cache.users == ["b", "a"]
    cache.extend(["c"], [[1, 2, 3]])  # one page more than is free: b goes
    assert (cache.num_free_pages, cache.users) == (0, ["a", "c"])
    assert cache.history("b").tolist() == []
    cache.free(["a", "nobody"])
    assert (cache.num_free_pages, "a" in cache, len(cache)) == (2, False, 1)


def test_no_room_changes_nothing():
    model = recommender(FORMS["positions"])
    for evict in (True, False):
        cache = UserCache(model, num_pages=3, page_size=2, evict=evict)
        first = cache.extend(["a"], [[1, 2, 3]])
        users = ["a", "b"] if evict else ["b"]
        with pytest.raises(InvalidValueError, match="num_pages must be enough for the users of a call: 2 more pages"):
            cache.extend(users, [[1, 2, 3]] if not evict else [[], [1, 2, 3]])
        assert (cache.users, cache.num_free_pages) == (["a"], 1)
        torch.testing.assert_close(cache.extend(["a"], [[]]), first)


def test_nobody_and_users_without_events():
    cache = UserCache(recommender(FORMS["research"]))
    assert cache.extend([], []).shape == (0, 16)
    assert torch.equal(cache.extend(["a"], [[]]), torch.zeros(1, 16))
    assert cache.recommend([], 3).items.shape == (0, 3)


def test_other_networks_and_settings_are_refused():
    with pytest.raises(UnsupportedError, match=r"model must have a backbone whose state goes on .*, got GRU"):
        UserCache(recommender(GRUConfig(max_items=MOST)))
    with pytest.raises(UnsupportedError, match="positions and times must not be counted from the end"):
        UserCache(recommender(HSTUConfig.production(**SMALL)))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        ({"users": "ann"}, InvalidTypeError, "users must be a list of names, got 'ann'"),
        ({"users": [[1]]}, InvalidTypeError, r"users must be hashable, got \[1\]"),
        ({"users": ["a", "a"], "items": [[], []]}, InvalidValueError, "users must be different, got 1 names for 2"),
        ({"items": [[1], [2]]}, InvalidValueError, "items must have one row for each of 1 users, got 2"),
        ({"items": [[ITEMS]]}, InvalidValueError, r"items must hold item ids in \[0, 30\), got 30"),
        ({"items": [[1.5]]}, InvalidTypeError, "items must be lists of item ids"),
        ({"timestamps": None}, InvalidValueError, "timestamps must be given, as the backbone reads times, got None"),
        ({"timestamps": [[5, 6]]}, InvalidValueError, "timestamps must have rows as long as the histories'"),
        ({"timestamps": [[5]]}, InvalidValueError, "timestamps must not be before the user's last event at 10, got 5"),
        ({"target_timestamps": [1.0, 2.0]}, InvalidValueError, r"target_timestamps must be \[1\]"),
    ],
)
def test_bad_calls_are_named_and_change_nothing(call, error, text):
    cache = UserCache(recommender(FORMS["research"]))
    cache.extend(["a"], [[1]], timestamps=[[10]])
    with pytest.raises(error, match=f"^UserCache: {text}"):
        cache.extend(**{"users": ["a"], "items": [[2]], "timestamps": [[20]], **call})
    assert cache.history("a").tolist() == [1]


@pytest.mark.parametrize(
    "option",
    [
        {"candidates": [1, 2, 3, 4]},
        {"candidates": [[4, 5], [1, 2, 3]], "allowed": torch.arange(ITEMS) < 5},
        {"exclude_seen": True, "exclude": [[0, 1], [2]]},
        {"exclude": {3}, "seed": 4},
    ],
)
def test_options_are_those_of_recommend(option):
    model = recommender(FORMS["positions"])
    cache = UserCache(model)
    cache.extend(["a", "b"], [[7], []])
    found = cache.recommend(["a", "b"], 3, items=[[8, 9], [3]], **option)
    expected = model.recommend([[7, 8, 9], [3]], 3, **option)
    assert torch.equal(found.items, expected.items)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-4)


def test_unknown_items_are_left_out_with_their_times():
    model = recommender(FORMS["research"])
    cache = UserCache(model)
    found = cache.recommend(
        ["a"],
        3,
        items=[[4, "nobody's", 5, ITEMS]],
        timestamps=[[1, 50, 60, 70]],
        target_timestamps=[99],
        unknown="skip",
    )
    assert cache.history("a").tolist() == [4, 5]
    expected = model.recommend([[4, 5]], 3, timestamps=[[1, 60]], target_timestamps=[99])
    assert torch.equal(found.items, expected.items)
    assert found.skipped.tolist() == [2]
    with pytest.raises(InvalidValueError, match="each item of items must be one of the catalog's"):
        cache.recommend(["a"], 3, items=[["nobody's"]], timestamps=[[99]])


def test_options_that_there_are_not_are_named():
    cache = UserCache(recommender(FORMS["positions"]))
    with pytest.raises(InvalidTypeError, match=r"^UserCache: options are num_beams, .*, got beams"):
        cache.recommend(["a"], items=[[1]], beams=3)
    with pytest.raises(UnsupportedError, match=r"^UserCache: actions must not be given"):
        cache.recommend(["a"], items=[[1]], actions=Jagged(torch.ones(1, 1, dtype=torch.bool), torch.tensor([0, 1])))
    assert "a" not in cache


def test_times_that_are_not_read_are_checked_as_recommend_does():
    cache = UserCache(recommender(FORMS["positions"]))
    with pytest.raises(InvalidValueError, match=r"^UserCache: timestamps must have rows as long as the histories'"):
        cache.recommend(["a"], items=[[1]], timestamps=[[5, 6]])
    with pytest.raises(InvalidValueError, match=r"^UserCache: timestamps must have rows as long as the histories'"):
        cache.replace(["a"], [[1]], timestamps=[[5, 6]])
    with pytest.raises(InvalidValueError, match=r"^UserCache: target_timestamps must be \[1\]"):
        cache.extend(["a"], [[1]], timestamps=[[5]], target_timestamps=[6, 7])
    assert "a" not in cache
    cache.recommend(["a"], items=[[1]], timestamps=[[5]], target_timestamps=[6])


def everything(cache):
    """All that a cache keeps, by value."""
    kept = {
        user: (e.items.tolist(), None if e.times is None else e.times.tolist(), list(e.pages), e.known, str(e.state))
        for user, e in cache._kept.entries.items()
    }
    return kept, list(kept), sorted(cache._kept.pages._free)


BAD = {
    "an item": {"items": [[1], [2], [ITEMS]]},
    "a time": {"timestamps": [[20], [20], [5]]},
    "a row of times": {"timestamps": [[20], [20], [30, 40]]},
    "a name": {"users": ["a", "b", ("c", [])]},
    "k": {"k": 0},
    "k's kind": {"k": "5"},
    "allowed": {"allowed": torch.ones(ITEMS + 1, dtype=torch.bool)},
    "allowed's kind": {"allowed": 3.5},
    "exclude": {"exclude": Jagged.from_rows([[1], [2], [-1]])},
    "exclude's rows": {"exclude": Jagged.from_rows([[1], [2]])},
    "exclude_seen": {"exclude_seen": "yes"},
    "unknown": {"unknown": "drop"},
    "an option": {"beams": 5},
    "num_beams": {"num_beams": 10},
    "no room": {"items": [list(range(12))] * 3, "timestamps": [list(range(20, 32))] * 3},
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_one_bad_user_or_option_changes_nothing(bad):
    cache = UserCache(recommender(FORMS["research"]), num_pages=9, page_size=2)
    cache.extend(["a", "c", "old"], [[1, 2], [3, 4], [5]], timestamps=[[1, 10], [2, 10], [3]])
    before = everything(cache)
    call = {"users": ["a", "b", "c"], "k": 5, "items": [[1], [2], [3]], "timestamps": [[20], [20], [20]]}
    with pytest.raises((InvalidValueError, InvalidTypeError), match=r"^UserCache: "):
        cache.recommend(**call | bad)
    assert everything(cache) == before
    cache.recommend(**call)
    assert cache.history("c").tolist() == [3, 4, 3]


@pytest.mark.parametrize("part", ["last_states", "user_vectors", "item_table"])
def test_a_network_that_fails_changes_nothing(monkeypatch, part):
    """Nobody is evicted for a question that has no answer, either."""
    model = recommender(FORMS["positions"])
    cache = UserCache(model, num_pages=4, page_size=2, frozen=True)
    cache.extend(["a", "b"], [[1, 2, 3], [4, 5, 6]])
    before = everything(cache)

    def broken(*_):
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(model.backbone, part, broken)
        with pytest.raises(RuntimeError, match="broken"):
            cache.recommend(["a", "c"], items=[[7, 8], [9]])
    assert everything(cache) == before
    cache.recommend(["a", "c"], items=[[7, 8], [9]])
    assert cache.users == ["a", "c"]


def test_a_word_is_not_a_list_of_users():
    cache = UserCache(recommender(FORMS["positions"]))
    cache.extend(["a", "n"], [[1], [2]])
    for users in ("an", [["a"]]):
        with pytest.raises(InvalidTypeError, match=r"^UserCache: users must be"):
            cache.free(users)
    assert cache.users == ["a", "n"]


def test_a_pool_hands_out_each_page_once():
    pool = PagePool([(1, 2, 3)], num_pages=3, page_size=4)
    taken = pool.take(2)
    assert (len(set(taken)), pool.num_free, pool.pages_for(9)) == (2, 1, 3)
    with pytest.raises(InvalidValueError, match="count must be at most 1, the free pages, got 2"):
        pool.take(2)
    pool.give_back(taken[:1])
    for pages in (taken[:1], [7], [taken[1], taken[1]]):
        with pytest.raises(InvalidValueError, match="pages must be taken ones of 3, got"):
            pool.give_back(pages)
    with pytest.raises(InvalidValueError, match="page_size must be at least 1, got 0"):
        PagePool([(1, 2, 3)], num_pages=3, page_size=0)


def test_a_past_joins_in_the_order_of_the_rows():
    pool = PagePool([(1, 1, 1)], num_pages=4, page_size=2)
    pages = [pool.take(2), [], pool.take(1)]
    lengths, new = torch.tensor([3, 0, 1]), torch.tensor([1, 2, 0])
    first = PagedPast(pool, [[], [], []], torch.zeros(3).long(), lengths)
    values = torch.tensor([10.0, 11, 12, 30]).view(4, 1, 1)
    first.join(0, values, -values)
    first.join_times(torch.tensor([1, 2, 3, 7]))
    first.keep(pages, lengths)
    past = PagedPast(pool, pages, lengths, new)
    more = torch.tensor([13.0, 20, 21]).view(3, 1, 1)
    keys, found = past.join(0, more, -more)
    assert keys.flatten().tolist() == [10, 11, 12, 13, 20, 21, 30]
    assert torch.equal(found, -keys)
    assert past.join_times(torch.tensor([4, 5, 6])).tolist() == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("change", ["data.copy_", "fused AdamW", "numpy view", "one number"])
def test_states_of_other_weights_are_made_anew(form, change):
    model, other = recommender(FORMS[form]), recommender(FORMS[form], seed=1)
    cache = UserCache(model)
    timed = model.backbone.reads_times
    cache.extend(["a", "b"], [[1, 2, 3], [4]], timestamps=[[10, 20, 400], [30]] if timed else None)
    CHANGES[change](model.backbone, other.backbone)
    found = cache.extend(["a"], [[5]], timestamps=[[500]] if timed else None)
    expected = anew(model, [1, 2, 3, 5], [10, 20, 400, 500], None)
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-4)
    found = cache.extend(["b"], [[]])
    torch.testing.assert_close(found[0], anew(model, [4], [30], None), rtol=1e-5, atol=1e-4)


def test_frozen_weights_are_not_looked_at():
    model = recommender(FORMS["positions"])
    cache = UserCache(model, frozen=True)
    before = cache.extend(["a"], [[1, 2, 3]])
    for parameter in model.backbone.parameters():
        parameter.data.mul_(0.5)
    assert torch.equal(cache.extend(["a"], [[]]), before)
    cache.clear()
    torch.testing.assert_close(cache.extend(["a"], [[1, 2, 3]])[0], anew(model, [1, 2, 3], [1, 2, 3], None))
