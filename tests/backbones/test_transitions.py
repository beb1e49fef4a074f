from __future__ import annotations

import math

import pytest
import torch

from genrec_fast import recipes
from genrec_fast.backbones import TransitionsConfig
from genrec_fast.backbones import transitions as module
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.recipe.recommender import Recommender, load


def graph_of(histories, num_items, known=None, **settings):
    graph = TransitionsConfig(**settings).build(Catalog(num_items=num_items))
    graph.count(Jagged.from_rows(histories), known)
    return graph


def edges(graph):
    rows = torch.repeat_interleave(torch.arange(graph.num_items), graph.offsets.diff())
    found = zip(rows.tolist(), graph.next_items.tolist(), graph.weights.tolist(), strict=True)
    return {(item, after): weight / 1024 for item, after, weight in found}


def drawn(seed, rows=40, num_items=7, longest=9):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, longest + 1, (rows,), generator=generator)
    values = torch.randint(0, num_items, (int(lengths.sum()),), generator=generator)
    return Jagged.from_lengths(values, lengths)


def counted_slowly(histories, max_distance):
    found = {}
    for row in histories.rows():
        items = row.tolist()
        for first, item in enumerate(items):
            for distance in range(1, max_distance + 1):
                if first + distance < len(items):
                    pair = item, items[first + distance]
                    found[pair] = found.get(pair, 0) + round(1024 / distance) / 1024
    return found


@pytest.mark.parametrize("pairs", [1, 20, 1 << 22])
def test_weights_are_sums_of_one_over_the_distance(monkeypatch, pairs):
    monkeypatch.setattr(module, "_PAIRS", pairs)
    histories = drawn(0)
    graph = graph_of(histories.rows(), 7, max_distance=3)
    assert edges(graph) == counted_slowly(histories, 3)
    assert graph.counts.tolist() == torch.bincount(histories.values, minlength=7).tolist()


def test_events_added_later_give_the_same_graph():
    whole = drawn(1)
    known = (whole.lengths.float() * torch.rand(len(whole), generator=torch.Generator().manual_seed(2))).long()
    first = Jagged.from_rows([row[:n] for row, n in zip(whole.rows(), known.tolist(), strict=True)])
    at_once, later = graph_of(whole.rows(), 7, max_distance=4), graph_of(first.rows(), 7, max_distance=4)
    later.count(whole, known)
    assert edges(at_once) == edges(later)
    assert torch.equal(at_once.counts, later.counts)


def test_the_heaviest_successors_are_kept():
    graph = graph_of([[0, 1], [0, 2], [0, 2], [0, 3], [0, 3], [1, 2]], 4, max_next=2)
    assert edges(graph) == {(0, 2): 2.0, (0, 3): 2.0, (1, 2): 1.0}


def test_the_scores_are_as_documented():
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    config = TransitionsConfig(last_items=2, decay=0.5, text_weight=0.25, popularity_weight=0.1)
    graph = config.build(Catalog(features=features))
    graph.count(Jagged.from_rows([[0, 1, 2], [1, 2]]))
    scores = graph.score_items(Batch(Jagged.from_rows([[0], [2, 0, 1]])))
    half = math.sqrt(0.5)
    counts = [0.1 * 1 / 2, 0.1 * 2 / 2, 0.1 * 2 / 2]
    alone = [counts[0] + 0.25, counts[1] + math.log(2), counts[2] + math.log(1.5) + 0.25 * half]
    both = [
        counts[0] + 0.5 * 0.25,
        counts[1] + 0.25 + 0.5 * math.log(2),
        counts[2] + math.log(3) + 0.25 * half + 0.5 * (math.log(1.5) + 0.25 * half),
    ]
    torch.testing.assert_close(scores, torch.tensor([alone, both]))


def test_an_empty_history_gets_what_is_popular():
    graph = graph_of([[0, 1], [1, 2, 1]], 3)
    assert graph.score_items(Batch(Jagged.from_rows([[]]))).argmax(1).tolist() == [1]


@pytest.mark.parametrize(
    ("rows", "known", "message"),
    [
        ([[0, 3]], None, r"histories must hold item ids in \[0, 3\), got 3"),
        ([[0, -1]], None, r"histories must hold item ids in \[0, 3\), got -1"),
        ([[0, 1]], torch.tensor([3]), "known must be within the length of each row"),
        ([[0, 1]], torch.tensor([0, 0]), "known must be within the length of each row"),
    ],
)
def test_what_cannot_be_counted_changes_nothing(rows, known, message):
    graph = graph_of([[0, 1]], 3)
    before = edges(graph)
    with pytest.raises(InvalidValueError, match=f"^Transitions: {message}"):
        graph.count(Jagged.from_rows(rows), known)
    assert edges(graph) == before
    assert graph.counts.tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("rows", "known", "message"),
    [
        ([[0, 1]], None, r"histories must be Jagged item ids \(Jagged.from_rows .*, got list"),
        (Jagged.from_rows([[0.0, 1.0]], torch.float32), None, "histories must be integers"),
        (Jagged.from_rows([[0, 1]]), torch.tensor([1.0]), r"known must be integers \[B\], got torch.float32"),
        (Jagged.from_rows([[0, 1]]), [1], r"known must be integers \[B\], got list"),
    ],
)
def test_what_is_no_history_is_refused(rows, known, message):
    graph = graph_of([[0, 1]], 3)
    with pytest.raises(InvalidTypeError, match=f"^Transitions: {message}"):
        graph.count(rows, known)
    assert graph.counts.tolist() == [1, 1, 0]


@pytest.mark.parametrize("counts", [None, torch.tensor([9, 0, 0, 0])])
def test_what_is_counted_later_is_popular(tmp_path, counts):
    catalog = Catalog(item_codes=torch.arange(4, dtype=torch.int32)[:, None], codebook_sizes=(4,), counts=counts)
    model = Recommender(recipes.get("transitions"), catalog)
    assert model.knows_popular == (counts is not None)
    model.backbone.count(Jagged.from_rows([[2, 3, 2]]))
    assert model.recommend([[]], 2).items.tolist() == [[2, 3]]
    model.backbone.count(Jagged.from_rows([[3, 1, 3, 1]]))
    model.save(tmp_path)
    with model.batcher() as batcher:
        for asked in (model, load(tmp_path), batcher):
            assert asked.recommend([[]], 3).items.tolist() == [[3, 1, 2]]
    shares = torch.tensor([4, 3, 3]).div(7 + 4).log()
    torch.testing.assert_close(model.recommend([[]], 3).scores[0], shares)


def test_a_graph_has_no_parameters():
    model = Recommender(recipes.get("transitions"), Catalog(item_codes=torch.arange(3)[:, None], codebook_sizes=(3,)))
    assert "weights      0 parameters, cpu" in repr(model)


def test_repeats_are_counted_in_any_order_and_move_what_was_seen():
    def graph():
        return TransitionsConfig(text_weight=0.0, repeat_weight=2.0).build(Catalog(num_items=50))

    rows = [[1, 2, 1, 1], [3], [4, 5], [6, 6, 7]]
    some, parts = graph(), graph()
    assert float(some.repeat_logit()) == 0.0
    some.count(Jagged.from_rows(rows))
    assert some.repeats.tolist() == [3, 6, 1 + 2 + 3 + 1 + 1 + 2]
    parts.count(Jagged.from_rows([row[:2] for row in rows]))
    parts.count(Jagged.from_rows(rows), known=torch.tensor([2, 1, 2, 2]))
    assert torch.equal(parts.repeats, some.repeats)
    chance = 10 / 6 / 50
    expected = math.log(4 / 8 / (1 - 4 / 8)) - math.log(chance / (1 - chance))
    assert float(some.repeat_logit()) == pytest.approx(expected, rel=1e-5)
    plain = TransitionsConfig(text_weight=0.0).build(Catalog(num_items=50))
    plain.count(Jagged.from_rows(rows))
    asked = Batch(Jagged.from_rows([[1, 2, 1], [6]]))
    moved = some.score_items(asked) - plain.score_items(asked)
    wanted = torch.zeros(2, 50)
    wanted[0, [1, 2]] = wanted[1, 6] = 2 * expected
    torch.testing.assert_close(moved, wanted, rtol=1e-5, atol=1e-5)
    assert "repeats" not in plain.state_dict()  # graphs from before have none either
