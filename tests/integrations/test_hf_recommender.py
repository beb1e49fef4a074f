"""A model of transformers is a recommender like any other: batched, served, evaluated, proven."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import torch

import genrec_fast as gf
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.data import Evaluation
from genrec_fast.serving.http import create_app
from integrations.models import make_model as make

ITEMS, OFFSET = 40, 3
CODES = torch.stack([torch.arange(ITEMS) // 8, torch.arange(ITEMS) % 8], 1)
NAMES = [f"thing {i}" for i in range(ITEMS)]
CATALOG = gf.Catalog(item_codes=CODES, codebook_sizes=(8, 8), item_ids=NAMES, titles=[n.title() for n in NAMES])
HISTORIES = [[3, 14, 15], [9], [2, 6, 5, 35], [8, 9]]


@pytest.fixture(scope="module", params=["t5", "qwen2"])
def compiled(request):
    return gf.hf.compile(make(request.param), CATALOG, token_offset=OFFSET, reads="items", after=(1,))


def test_it_is_a_recommender(compiled):
    assert isinstance(compiled, gf.Recommender)
    assert compiled.num_items == ITEMS
    assert compiled.title(3) == "Thing 3"
    assert compiled.numbers(["thing 7"]) == [7]
    assert repr(compiled).splitlines()[:3] == [
        "CompiledRecommender",
        "  items        40, with titles",
        "  semantic IDs 2 levels of 8 codes",
    ]
    with pytest.raises(UnsupportedError, match="save: save the model by its save_pretrained"):
        compiled.save("nowhere")
    with pytest.raises(UnsupportedError, match="move the model and compile it again"):
        compiled.to("cpu")


def test_it_recommends_some_items_no_more(compiled):
    best = compiled.recommend(HISTORIES, 6, exact=True)
    gone = best.items[:, 0].unique()
    left = compiled.without(gone).recommend(HISTORIES, 5, exact=True)
    wanted = compiled.recommend(HISTORIES, 5, exact=True, exclude=[gone.tolist()] * len(HISTORIES))
    assert torch.equal(left.items, wanted.items)
    assert torch.equal(compiled.recommend(HISTORIES, 6, exact=True).items, best.items)


def test_a_catalog_that_moved_is_compiled():
    model = make("qwen2")
    whole = gf.hf.compile(model, CATALOG, token_offset=OFFSET, reads="items").without([3, 35])
    moved = gf.build_trie(CODES[:30], codebook_sizes=(8, 8)).extended(CODES[30:]).without([35, 3])
    for some in (moved, gf.Catalog.of_trie(moved), CATALOG.without([3]).without([35])):
        found = gf.hf.compile(model, some, token_offset=OFFSET, reads="items").recommend(HISTORIES, ITEMS)
        assert torch.equal(found.items, whole.recommend(HISTORIES, ITEMS).items)
        assert not {3, 35} & set(found.items.flatten().tolist())


def test_a_batcher_gives_what_each_caller_would_get_alone(compiled):
    alone = [compiled.recommend([history], 5, num_beams=8) for history in HISTORIES]
    with compiled.batcher() as batcher, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda history: batcher.recommend([history], 5, num_beams=8), HISTORIES))
        proven = batcher.recommend([HISTORIES[0]], 5, num_beams=5, exact=True)
        filtered = batcher.recommend([HISTORIES[0]], 5, exclude_seen=True)
    for one, other in zip(alone, answers, strict=True):
        assert torch.equal(one.items, other.items)
        torch.testing.assert_close(one.scores, other.scores)
    assert proven.exact.all()
    assert not set(filtered.items[0].tolist()) & set(HISTORIES[0])


@pytest.mark.parametrize(
    "option",
    [
        {"exclude_seen": True},
        {"exclude_seen": True, "exclude": [0, 1, 2]},
        {"candidates": [1, 2, "thing 3", 20]},
        {"candidates": [[1, 2, 3]] * 4, "allowed": [2, 3, 4]},
        {"unknown": "skip"},
        {"num_beams": (8, 20)},
        {"num_beams": torch.tensor([8, 9, 10, 11])},
        {"timestamps": [[1, 2, 3], [4], [5, 6, 7, 8], [9, 9]], "users": [0, 1, 2, 3]},
    ],
)
def test_every_option_goes_every_road(compiled, option):
    """Named items, and such as there are not, too."""
    histories = [[3, 14, "thing 15"], [9], [2, 6, 5, 35], [8, 9]]
    if "unknown" in option:
        histories[1] = [99, 9, "nothing"]
    found = compiled.recommend(histories, 3, **option)
    with compiled.batcher() as batcher:
        assert torch.equal(batcher.recommend(histories, 3, **option).items, found.items)
    if "users" not in option and compiled.language.start is None:
        cached = gf.UserCache(compiled).recommend(["a", "b", "c", "d"], 3, items=histories, **option)
        assert torch.equal(cached.items, found.items)
        assert torch.equal(cached.skipped, found.skipped)
    if "exclude_seen" in option:
        assert not set(found.items[2].tolist()) & {2, 6, 5, 35}
    if "candidates" in option:
        assert set(found.items.flatten().tolist()) <= {1, 2, 3, 20, -1}
    if "unknown" in option:
        assert found.skipped.tolist() == [0, 2, 0, 0]
        assert torch.equal(found.items, compiled.recommend(HISTORIES, 3).items)


def test_bad_options_are_named_on_every_road(compiled):
    with pytest.raises(InvalidTypeError, match=r"recommend: options are num_beams, .*, got beams"):
        compiled.recommend([[3]], 3, beams=4)
    with pytest.raises(InvalidValueError, match="recommend: timestamps must have rows as long as the histories'"):
        compiled.recommend([[3]], 3, timestamps=[[4, 5]])
    with pytest.raises(InvalidTypeError, match=r"recommend: num_beams must be an int, got \(8, 9\)"):
        compiled.recommend([[3]], 3, num_beams=(8, 9), num_groups=2)


def test_tokens_are_not_seen_items():
    model = gf.hf.compile(make("qwen2"), CATALOG, token_offset=OFFSET)
    with pytest.raises(InvalidValueError, match="exclude_seen must be False for a model that reads tokens"):
        model.recommend([[5, 6]], 3, exclude_seen=True)
    with model.batcher() as batcher, pytest.raises(InvalidValueError, match="for a model that reads tokens"):
        batcher.recommend([[5, 6]], 3, exclude_seen=True)


def test_exact_widens_to_the_best_of_the_whole_catalog(compiled):
    found = compiled.recommend(HISTORIES, 5, num_beams=5, exact=True)
    everything = compiled.recommend(HISTORIES, 5, num_beams=ITEMS)
    assert found.exact.all()
    assert torch.equal(found.items, everything.items)
    torch.testing.assert_close(found.scores, everything.scores)
    with pytest.raises(InvalidValueError, match="exact must be False with a seed or groups"):
        compiled.recommend(HISTORIES, 4, num_beams=8, num_groups=2, exact=True)


def test_items_may_be_said_in_any_form(compiled):
    mask = torch.isin(torch.arange(len(NAMES)), torch.tensor([3, 4, 5]))
    expected = compiled.recommend(HISTORIES, 3, allowed=mask)
    for allowed in ({3, 4, 5}, [NAMES[3], NAMES[4], 5], [[3, 4, 5]] * len(HISTORIES)):
        assert torch.equal(compiled.recommend(HISTORIES, 3, allowed=allowed).items, expected.items)
    rows = gf.Jagged.from_rows([[3, 4]] * len(HISTORIES))
    expected = compiled.recommend(HISTORIES, 5, exclude=rows)
    assert torch.equal(compiled.recommend(HISTORIES, 5, exclude=[NAMES[3], 4]).items, expected.items)
    with pytest.raises(InvalidValueError, match=r"each item of allowed must be one of the catalog's \d+ names"):
        compiled.recommend(HISTORIES, 3, allowed=["nothing"])


def test_it_is_evaluated(compiled):
    rows = gf.Jagged.from_rows(HISTORIES)
    best = compiled.recommend(rows, 10).items
    asked = Evaluation(rows, best[:, 0], torch.arange(len(rows)))
    result = gf.evaluate(compiled, asked)
    assert result.recall == {5: 1.0, 10: 1.0}
    assert result.ndcg[10] == 1.0


def test_prompts_of_tokens_are_evaluated_too():
    model = gf.hf.compile(make("qwen2"), CATALOG, token_offset=OFFSET)
    prompts = [[3, ITEMS + 10], [model.num_inputs - 1]]
    questions = Evaluation(gf.Jagged.from_rows(prompts), torch.tensor([1, 2]), torch.arange(2))
    best = model.recommend(prompts, 5).items
    assert gf.evaluate(model, questions, ks=5).recall[5] == gf.metrics.recall(best, questions.targets, 5)


def test_it_is_served_by_the_names_of_the_catalog(compiled):
    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(compiled)), base_url="http://here") as c:
            return await c.post("/recommend", json={"histories": [["thing 3", "thing 14", "thing 15"]], "k": 3})

    answer = asyncio.run(ask())
    assert answer.status_code == 200, answer.text
    expected = compiled.recommend([HISTORIES[0]], 3).items[0].tolist()
    (row,) = answer.json()["results"]
    assert [entry["item"] for entry in row["items"]] == [NAMES[item] for item in expected]


def test_a_history_may_be_empty_where_something_stands_around_it(compiled):
    with compiled.batcher() as batcher:
        assert batcher.recommend([[]], 3).items.min() >= 0
    bare = gf.hf.compile(make("qwen2"), CATALOG, token_offset=OFFSET, reads="items")
    with bare.batcher() as batcher, pytest.raises(InvalidValueError, match="histories must not be empty"):
        batcher.recommend([[]], 3)
