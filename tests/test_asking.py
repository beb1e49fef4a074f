"""One question, however it is said and on whichever road: the same answer, and a word on what it is based on."""

from __future__ import annotations

import asyncio
import dataclasses

import httpx
import pytest
import torch

from genrec_fast import recipes
from genrec_fast.backbones import SessionsConfig, TimelineConfig
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.recipe.recommender import Recommender, load
from genrec_fast.serving.http import create_app
from toy import toy_recipe

ITEMS = 30
NAMES = [f"thing {i}" for i in range(ITEMS)]
COUNTS = torch.tensor([3, 9, 9, 0, 5] + [1] * (ITEMS - 5))
MOST_FREQUENT = [1, 2, 4, 0]  # ties go to the lower id


def assembled(recipe, sizes=(ITEMS,), counts=COUNTS):
    torch.manual_seed(0)
    codes = torch.stack([torch.arange(ITEMS) // 6, torch.arange(ITEMS) % 6], 1)
    codes = torch.arange(ITEMS)[:, None] if len(sizes) == 1 else codes
    return Recommender(
        recipe, Catalog(item_codes=codes.int(), codebook_sizes=sizes, item_ids=NAMES, counts=counts)
    )  # fmt: skip


def toy(**options):
    return assembled(toy_recipe(), **options)


def marius():
    small = TimelineConfig(width=16, num_heads=2, hidden=16, depth_hidden=16, max_items=6)
    recipe = dataclasses.replace(recipes.marius(), backbone=small)
    recipe = dataclasses.replace(recipe, batching=dataclasses.replace(recipe.batching, max_items=6))
    return assembled(dataclasses.replace(recipe, layout=dataclasses.replace(recipe.layout, use_features=False)), (5, 6))


def sessions():
    recipe = recipes.get("sessionrec")
    small = SessionsConfig(width=16, num_heads=2, hidden=16, num_layers=1, max_items=8, form="pooled")
    return assembled(
        dataclasses.replace(
            recipe, backbone=small, batching=dataclasses.replace(recipe.batching, max_items=8, items_per_batch=64)
        )
    )


MODELS = {"toy": toy(), "marius": marius()}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


def same(left, right):
    assert left.items.tolist() == right.items.tolist()
    torch.testing.assert_close(left.scores, right.scores)


def by_batcher(model, *question, **options):
    with model.batcher() as batcher:
        return batcher.recommend(*question, **options)


def by_http(model, **body):
    app = create_app(model)

    async def go():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://here") as client:
            return await client.post("/recommend", json=body)

    answer = asyncio.run(go())
    app.state.server.close()
    return answer.json()


ROADS = (lambda model, *question, **options: model.recommend(*question, **options), by_batcher)


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ({"allowed": ["thing 3", 4, "thing 5"]}, {"allowed": torch.isin(torch.arange(ITEMS), torch.tensor([3, 4, 5]))}),
        ({"candidates": {"thing 3", 4, 5}}, {"allowed": torch.isin(torch.arange(ITEMS), torch.tensor([3, 4, 5]))}),
        ({"exclude": {"thing 3", "thing 4"}}, {"exclude": Jagged.from_rows([[3, 4], [3, 4]])}),
        ({"exclude": [["thing 3"], []]}, {"exclude": Jagged.from_rows([[3], []])}),
        ({"exclude": torch.arange(ITEMS) > 8}, {"allowed": torch.arange(ITEMS) < 9}),
        ({"allowed": range(9), "candidates": [[3, 20], range(30)]}, {"allowed": [[3], range(9)]}),
        ({"allowed": [[3, 4], [4, 5]], "candidates": [[4], [5]]}, {"candidates": [[4], [5]]}),
    ],
)
def test_items_may_be_said_in_any_form(model, road, said, meant):
    by_name = [["thing 1", "thing 2"], [7]]
    same(road(model, by_name, 5, **said), model.recommend([[1, 2], [7]], 5, **meant))


def test_lists_for_each_user_follow_their_users(model):
    """Also where users are searched a few at a time, and other users of a group have none."""
    rows = [[user, user + 1] for user in range(7)]
    allowed = [[user, 20, 21] for user in range(7)]
    found = model.recommend(rows, 2, allowed=allowed, users_per_batch=3)
    for user, items in enumerate(found.items.tolist()):
        assert set(items) <= set(allowed[user])
    with model.batcher() as batcher:
        futures = [batcher.submit([row], 2, allowed=[own]) for row, own in zip(rows, allowed, strict=True)]
        free = batcher.submit([[1, 2]], 2)
        assert [future.result(20).items.tolist()[0] for future in futures] == found.items.tolist()
        same(free.result(20), model.recommend([[1, 2]], 2))


@pytest.mark.parametrize("road", ROADS)
def test_unknown_items_are_refused_or_skipped_and_counted(model, road):
    rows = [["thing 1", "nothing", "thing 2", 99, -1], ["thing 7"]]
    with pytest.raises(InvalidValueError, match=r"each item of histories must be one of .* got 'nothing'"):
        road(model, rows, 5)
    with pytest.raises(InvalidValueError, match="unknown must be 'refuse' or 'skip', got 'drop'"):
        road(model, rows, 5, unknown="drop")
    found = road(model, rows, 5, unknown="skip", allowed=["thing 3", "?", 4], exclude={"!", 3})
    same(found, model.recommend([[1, 2], [7]], 5, allowed=[4]))
    assert found.skipped.tolist() == [3, 0]
    assert found.based_on == ["history", "history"]
    assert model.recommend([[1]], 2).skipped.tolist() == [0]


@pytest.mark.parametrize("road", ROADS)
def test_who_has_no_history_gets_what_is_popular(model, road):
    found = road(model, [[1, 2], [], ["?"]], 4, unknown="skip")
    assert found.based_on == ["history", "popular", "popular"]
    assert found.skipped.tolist() == [0, 0, 1]
    assert found.items[1:].tolist() == [MOST_FREQUENT] * 2
    shares = (COUNTS + 1.0) / (COUNTS + 1.0).sum()
    torch.testing.assert_close(found.scores[1], shares[found.items[1]].log())
    assert found.codes[1].tolist() == model.catalog.item_codes[found.items[1]].tolist()
    assert found.exact.tolist()[1:] == [True, True]
    same(found.slice(0, 1), model.recommend([[1, 2]], 4))
    filtered = road(model, [[], []], 3, allowed=[[1, 4], range(3)], exclude=["thing 1"])
    assert filtered.items.tolist() == [[4, -1, -1], [2, 0, -1]]
    assert [[entry.item for entry in row] for row in model.named(filtered)] == [["thing 4"], ["thing 2", "thing 0"]]


def test_what_is_popular_is_saved_with_the_model(model, tmp_path):
    model.save(tmp_path)
    again = load(tmp_path).recommend([[]], 4)
    assert (again.items.tolist(), again.based_on) == ([MOST_FREQUENT], ["popular"])


def test_without_counts_an_empty_history_is_refused():
    bare = toy(counts=None)
    for road in ROADS:
        with pytest.raises(InvalidValueError, match=r"row 1 is: this model learned no start .* \(Catalog.counts\)"):
            road(bare, [[1], []], 3)
        with pytest.raises(InvalidValueError, match="row 0 is, once unknown items are skipped: this model learned no"):
            road(bare, [["?"]], 3, unknown="skip")


def test_an_empty_history_has_the_start_where_a_model_learned_one():
    model = sessions()
    for road in ROADS:
        found = road(model, [[]], 4)
        assert found.based_on == ["start"]
        with model.answering():
            state = model.backbone.norm(_first(model))
            best = (state @ model.backbone.item_table().T).topk(4)
        assert found.items.tolist() == [best.indices.tolist()]
        torch.testing.assert_close(found.scores[0], best.values)
        both = road(model, [["thing 3"], ["?"]], 4, unknown="skip", timestamps=[[10], [20]])
        assert both.based_on == ["history", "start"]
        assert both.items[1].tolist() == found.items[0].tolist()


def _first(model):
    """What the blocks make of a start alone."""
    from genrec_fast.nn.packed import Packing, row_positions

    offsets = torch.tensor([0, 1])
    x = (model.backbone.start + model.backbone.positions.weight[0])[None]
    packing = Packing(offsets, row_positions(offsets), model.backbone.positions.num_embeddings)
    for layer, block in enumerate(model.backbone.blocks):
        x = block(x, packing, layer)
    return x[0]


def test_times_and_actions_go_with_their_events():
    """What is skipped takes its time and its action along."""
    model = assembled(recipes.get("hstu_ranking"))
    with torch.no_grad():  # untrained, it hardly listens
        for weight in model.backbone.parameters():
            weight.mul_(5.0)
    marks = torch.tensor([[True, True], [False, True], [True, False], [False, False]])
    given = {"timestamps": [[10, 20, 30], [5]], "actions": Jagged(marks, torch.tensor([0, 3, 4]))}
    found = model.recommend([[3, "?", 5], ["?"]], 5, unknown="skip", **given)
    kept = {"timestamps": [[10, 30]], "actions": Jagged(marks[[0, 2]], torch.tensor([0, 2]))}
    same(found.slice(0, 1), model.recommend([[3, 5]], 5, **kept))
    assert found.based_on == ["history", "popular"]
    other = {"timestamps": [[10, 30]], "actions": Jagged(marks[[0, 1]], torch.tensor([0, 2]))}
    assert not torch.allclose(found.scores[:1], model.recommend([[3, 5]], 5, **other).scores)


def test_the_same_over_http(model):
    body = {"histories": [["thing 1", "nothing", "thing 2"], []], "k": 4}
    error = by_http(model, **body)["error"]
    assert error.startswith("recommend: each item of histories must be one of the catalog's 30 names")
    first, second = by_http(model, **body, unknown="skip")["results"]
    assert (first["basis"], first["skipped"], second["basis"], second["skipped"]) == ("history", 1, "popular", 0)
    assert [entry["id"] for entry in first["items"]] == model.recommend([[1, 2]], 4).items[0].tolist()
    assert [entry["item"] for entry in second["items"]] == [NAMES[item] for item in MOST_FREQUENT]
    by_ids = {"history_ids": [[1, 99, -1, 2], []], "k": 4, "unknown": "skip"}
    assert by_http(model, **by_ids)["results"][0]["items"] == first["items"]
    for option, ids in (("allowed", "allowed_ids"), ("candidates", "candidate_ids"), ("exclude", "exclude_ids")):
        for names, numbers in ((["thing 3", "thing 4"], [3, 4]), ([["thing 3"], []], [[3], []])):
            asked = {"history_ids": [[1], [2]], "k": 4}
            expected = model.recommend([[1], [2]], 4, **{option: numbers}).items.tolist()
            for field in ({option: names}, {ids: numbers}):
                found = by_http(model, **asked, **field)["results"]
                shown = [[entry["id"] for entry in row["items"]] for row in found]
                assert shown == [[item for item in row if item >= 0] for row in expected]
    assert "unknown must be 'refuse' or 'skip', got 'drop'" in by_http(model, **body, unknown="drop")["error"]
    assert "unknown must be 'refuse' or 'skip', got 3" in by_http(model, **body, unknown=3)["error"]


def test_what_stands_behind_the_last_result_is_named_nowhere(model):
    found = model.recommend([[1, 2]], 5, allowed=["thing 29", "thing 3"])
    assert -1 in found.items
    assert sorted(entry.item for entry in model.named(found)[0]) == ["thing 29", "thing 3"]
    results = by_http(model, histories=[["thing 1"]], k=5, allowed=["thing 3"])["results"]
    assert [entry["item"] for entry in results[0]["items"]] == ["thing 3"]


def test_items_are_found_by_text(model):
    assert model.find_items("thing 3").item == 3
    assert model.find_items("thing").count == ITEMS
