"""The score of every item, by hand; a graph that does not know what it is asked; a training that learns the rest."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

import genrec_fast as gf
from genrec_fast.backbones import TransitionsConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.data.synthetic import Shop
from genrec_fast.nn.item_inputs import whitened
from genrec_fast.recipe.recommender import Recommender, load

SIZES, ITEMS = (4, 5), 20
CODES = torch.stack([torch.arange(ITEMS) // 5, torch.arange(ITEMS) % 5], 1)
HISTORIES = [[1, 2, 3, 4], [4, 7], [7, 7, 19, 0, 3, 4], [2, 3, 9, 4, 1]]
TIMELINE = gf.TimelineConfig(width=16, num_heads=2, num_layers=1, num_depth_layers=1, hidden=16, depth_hidden=16)


def recipe(**settings):
    backbone = gf.FusedConfig(timeline=TIMELINE, text_width=6, gate_hidden=4, **settings)
    return dataclasses.replace(gf.recipes.apex(), backbone=backbone)


def model(**settings):
    torch.manual_seed(0)
    features = torch.randn(ITEMS, 8)
    catalog = Catalog(item_codes=CODES.int(), codebook_sizes=SIZES, counts=torch.ones(ITEMS).long(), features=features)
    made = Recommender(recipe(**settings), catalog)
    made.backbone.count(Jagged.from_rows(HISTORIES))
    if made.backbone.gate is not None:
        for parameter in made.backbone.gate.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


def items_of(backbone):
    return backbone.items if backbone.config.residual else backbone.timeline.items


def expected(some, history):
    """Item by item, in Python."""
    backbone, config = some.backbone, some.backbone.config
    with some.answering():
        batch = some.batch(Batch(Jagged.from_rows([history])))
        state = backbone.timeline.user_states(batch)[0]
        table = F.normalize(items_of(backbone).table(), dim=1)
    weight = {}
    for row in HISTORIES:
        for at, item in enumerate(row):
            for distance in range(1, min(config.graph.max_distance, len(row) - 1 - at) + 1):
                pair = (item, row[at + distance])
                weight[pair] = weight.get(pair, 0) + round(1024 / distance) / 1024
    text, events = whitened(some.catalog.features, 6), [item for row in HISTORIES for item in row]
    last = history[::-1][: config.graph.last_items]
    mass = sum(
        config.graph.decay**n * math.log1p(w) for n, i in enumerate(last) for pair, w in weight.items() if pair[0] == i
    )
    known = [
        math.log(len(history)) - 1,
        math.log1p(events.count(last[0])) - 3,
        math.log1p(mass) - 3,
        float(text[last[0]] @ text[history[-2] if len(history) > 1 else last[0]]),
    ]
    gates = torch.tensor(config.weights)
    if config.residual:
        gates = gates * backbone.gate(torch.tensor(known)).exp()
    scores = gates[0] * table @ F.normalize(state, dim=0) / config.temperature
    for n, item in enumerate(last):
        scores += gates[2] * config.graph.decay**n * text @ text[item]
        for (first, second), w in weight.items():
            if first == item:
                scores[second] += gates[1] * config.graph.decay**n * math.log1p(w)
    for item in set(history):
        scores[item] += gates[3] * backbone.graph.repeat_logit()
    return scores


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.5, 1.0), (0.0, 2.0, 0.5, 0.0)])
def test_every_item_has_the_score_that_the_formula_gives(weights, residual):
    some = model(weights=weights, residual=residual)
    asked = [[1, 2, 3], [7], [19, 0, 19, 7, 3, 4, 1, 2, 5, 9]]
    with some.answering():
        found = some.backbone.score_items(some.batch(Batch(Jagged.from_rows(asked))))
        for row, history in zip(found, asked, strict=True):
            torch.testing.assert_close(row, expected(some, history), rtol=1e-4, atol=1e-4)
    ranked = some.recommend(asked, k=4)
    assert torch.equal(ranked.items, found.sort(descending=True, stable=True).indices[:, :4])
    assert bool(ranked.exact.all())


def test_training_scores_a_target_as_if_its_history_had_ended_there():
    """Of the graph: the other users', and this one's up to the question; of the network: the same state."""
    some = model()
    rows = Jagged.from_rows([row[:-1] for row in HISTORIES])
    targets = torch.tensor([item for row in HISTORIES for item in row[1:]])
    with some.answering():
        _, vectors, table, (items, values) = some.backbone.added_scores(some.batch(Batch(rows, targets=targets)))
        products = vectors @ table.T
        products.view(-1).index_add_(0, items.row_index() * ITEMS + items.values, values)
        asked = 0
        for user, row in enumerate(HISTORIES):
            for length in range(1, len(row)):
                honest = model()
                honest.backbone.graph = TransitionsConfig(text_weight=0.0, repeat_weight=1.0).build(
                    Catalog(num_items=ITEMS)
                )
                others = [other if other_user != user else row[:length] for other_user, other in enumerate(HISTORIES)]
                honest.backbone.graph.count(Jagged.from_rows(others))
                honest.backbone.graph.counts.copy_(some.backbone.counts)  # the gate reads them as they are
                honest.backbone.graph.repeats.copy_(some.backbone.graph.repeats)
                with honest.answering():
                    alone = honest.backbone.score_items(honest.batch(Batch(Jagged.from_rows([row[:length]]))))
                torch.testing.assert_close(products[asked], alone[0], rtol=1e-4, atol=1e-4)
                asked += 1
    assert asked == len(targets)


def test_a_network_that_reads_its_own_item_vectors():
    some = model(residual=False)
    with some.answering():
        batch = some.batch(Batch(Jagged.from_rows([[1, 2, 3]])))
        before = some.backbone.timeline.user_states(batch)
        some.backbone.timeline.items.ids.weight[2, ::2] += 1.0
        assert not torch.allclose(some.backbone.timeline.user_states(batch), before)
    names = [name for name, _ in some.backbone.named_parameters() if "ids" in name]
    assert names == ["timeline.items.ids.weight"]  # once, so that it is saved once


def test_a_network_that_learns_alone_sees_nothing_of_the_counts():
    some = model(residual=False, weights=(3.0, 1.0, 1.5, 1.0))
    rows, targets = Jagged.from_rows([[1, 2, 3], [4, 7]]), torch.tensor([2, 3, 4, 7, 0])
    with some.answering():
        batch = some.batch(Batch(rows, targets=targets))
        levels, vectors, table, (items, values) = some.backbone.added_scores(batch)
        states = some.backbone.timeline.target_states(batch)
    assert len(levels) == len(SIZES) and len(items) == len(vectors) == 5 and not len(values)
    cosines = F.normalize(states, dim=1) @ F.normalize(items_of(some.backbone).table(), dim=1).T
    torch.testing.assert_close(vectors @ table.T, cosines / some.backbone.config.temperature)
    assert not any(name.startswith("gate") for name, _ in some.backbone.named_parameters())


def test_a_target_that_is_not_asked_for_has_no_row_and_history_still_counts():
    some = model()
    rows, targets = Jagged.from_rows([[1, 2, 3], [4]]), torch.tensor([-1, -1, 4, 7])
    with some.answering():
        levels, vectors, _, (items, _) = some.backbone.added_scores(some.batch(Batch(rows, targets=targets)))
    assert vectors.shape[0] == len(items) == levels[0].shape[0] == 2


@pytest.mark.parametrize("residual", [True, False])
@torch.no_grad()
def test_the_table_is_made_once_and_again_when_a_weight_was_written(residual):
    some = model(residual=residual)
    made = []
    some.backbone._made = lambda: made.append(0) or type(some.backbone)._made(some.backbone)
    before = some.recommend([[1, 2, 3]], 3)
    some.recommend([[4]], 3)
    assert len(made) == 1
    table = items_of(some.backbone).ids.weight
    table.data[:, 0] += 1000.0  # no counter of torch's sees this
    after = some.recommend([[1, 2, 3]], 3)
    assert len(made) == 2
    assert not torch.equal(before.scores, after.scores)
    some.backbone.text.data[::2] *= -1.0  # a buffer that no part of ``items`` holds
    texts = some.recommend([[1, 2, 3]], 3)
    assert len(made) == 3
    assert not torch.equal(texts.scores, after.scores)
    some.backbone.text.data[::2] *= -1.0
    del some.backbone._made
    again = copy.deepcopy(some)  # which knows nothing of the kept table
    items_of(again.backbone).ids.weight.data.mul_(-1.0)
    assert not torch.equal(again.recommend([[1, 2, 3]], 3).scores, after.scores)
    assert torch.equal(some.recommend([[1, 2, 3]], 3).scores, after.scores)


def test_what_is_missing_is_named():
    with pytest.raises(InvalidValueError, match="FusedConfig: weights must be 4 numbers, not all 0"):
        gf.FusedConfig(weights=(1.0, 1.0))
    with pytest.raises(InvalidValueError, match="FusedConfig: graph must have a repeat_weight above 0"):
        gf.FusedConfig(graph=TransitionsConfig())
    with pytest.raises(InvalidValueError, match="FusedConfig: catalog must have features"):
        gf.FusedConfig().build(Catalog(item_codes=CODES.int(), codebook_sizes=SIZES))


def test_a_training_beats_the_graph_it_starts_from_and_comes_back_from_disk(tmp_path):
    data = Shop(num_items=120).dataset(num_users=400)
    splits = gf.data.leave_one_out(data.interactions)
    some = recipe()
    some = dataclasses.replace(
        some,
        tokenizer=gf.tokenizers.RQKMeansConfig(codebook_sizes=(8, 8)),
        train=dataclasses.replace(some.train, epochs=6, warmup_steps=5, learning_rate=5e-3, bf16=False),
    )
    untrained = dataclasses.replace(some, train=dataclasses.replace(some.train, epochs=1, learning_rate=1e-9))
    before = gf.train(untrained, data, show_progress=False, device="cpu")
    trained = gf.train(some, data, out=tmp_path / "run", show_progress=False, device="cpu")
    figures = [gf.evaluate(one, splits.test, ks=10, seen="kept").ndcg[10] for one in (before, trained)]
    assert figures[1] > 1.1 * figures[0]
    assert torch.equal(before.backbone.graph.weights, trained.backbone.graph.weights)  # counted, never trained
    again = load(tmp_path / "run")
    histories = [row.tolist() for row in splits.test.histories.rows()[:20]]
    assert torch.equal(again.recommend(histories, 5).items, trained.recommend(histories, 5).items)
    written = gf.BeamConfig(num_beams=20).build()
    with trained.answering():
        batch = trained.batch(Batch(Jagged.from_rows(histories)))
        assert bool((written.search(trained.backbone, batch, trained.catalog.trie, 5).items >= 0).all())


@pytest.mark.parametrize("residual", [True, False])
def test_proposals_of_the_whole_catalog_are_the_scan(residual):
    """Beams, successors and texts propose every item; a few of each are a part of it, and the bound says so."""
    some = model(weights=(1.0, 2.5, 3.75, 2.5), residual=residual)
    whole = some.recommend(HISTORIES, k=ITEMS)
    for alike, proven in ((ITEMS, True), (1, False)):
        decoder = gf.ProposalsConfig(num_beams=1, num_known=1, num_alike=alike)
        wanted = dataclasses.replace(some.recipe, decoder=decoder)
        proposing = Recommender(wanted, some.catalog).eval()
        proposing.backbone = some.backbone
        found = proposing.recommend(HISTORIES, k=5)
        assert found.exact.tolist() == [proven] * len(HISTORIES)
        place = (whole.items.unsqueeze(1) == found.items.unsqueeze(2)).int().argmax(2)
        torch.testing.assert_close(found.scores, whole.scores.gather(1, place))
        if proven:
            assert torch.equal(found.items, whole.items[:, :5])
        else:
            assert bool(found.bound.isfinite().all())
