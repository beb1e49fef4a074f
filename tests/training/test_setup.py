from __future__ import annotations

import dataclasses

import torch

from genrec_fast.data import Dataset, leave_one_out
from genrec_fast.objectives import SampledSoftmaxConfig
from genrec_fast.recipe.card import register_config
from genrec_fast.recipes import sasrec
from genrec_fast.training import train
from genrec_fast.training.log import StageBar
from genrec_fast.training.setup import coded_catalog
from toy import toy_data, toy_recipe

SEEN: list = []
TAGS: list = []


class Spy:
    """Atoms; keeps what it was given."""

    def fit(self, features, *, num_items, seed, histories, categories, progress):
        SEEN.append(histories)
        TAGS.append(categories)
        progress("spy", 1, 2, {"mse": 0.5})
        self.item_codes = torch.arange(num_items, dtype=torch.int32)[:, None]
        self.codebook_sizes = (num_items,)


@register_config
@dataclasses.dataclass(frozen=True)
class SpyConfig:
    def build(self, catalog):
        return Spy()


def test_a_tokenizer_sees_the_training_split_alone():
    data = toy_data()
    recipe = dataclasses.replace(toy_recipe(), tokenizer=SpyConfig())
    SEEN.clear()
    train(recipe, data, device="cpu", show_progress=False)
    splits = leave_one_out(data.interactions)
    assert len(SEEN) == 1
    assert torch.equal(SEEN[0].values, splits.train.items.values)
    assert torch.equal(SEEN[0].offsets, splits.train.items.offsets)
    whole = data.interactions.items
    for user, kept in enumerate(SEEN[0].rows()):
        assert torch.equal(kept, whole[user][: max(0, len(whole[user]) - 2)])


class Tagged(Dataset):
    """A dataset whose catalog has categories."""

    @property
    def catalog(self):
        words = [
            ["odd", "low" if number < 3 else "high"] if number % 2 else ["even"] for number in range(self.num_items)
        ]
        return dataclasses.replace(super().catalog, categories=words)


def test_a_tokenizer_sees_the_tags_of_the_catalog():
    data, recipe = toy_data(), dataclasses.replace(toy_recipe(), tokenizer=SpyConfig())
    histories = data.interactions.items
    TAGS.clear()
    for known in (data, Tagged(**vars(data))):
        coded_catalog(recipe, known, 0, None, reuse=False, histories=histories, progress=lambda *told: None)
    assert TAGS[0] is None
    assert TAGS[1].tolist() == [[1, int(n >= 3)] if n % 2 else [0, -1] for n in range(data.num_items)]


def test_a_stage_tells_a_line_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr("genrec_fast.training.log.LINE_SECONDS", 0.0)
    with StageBar(True) as bar:
        bar("rqvae", 3, 40, {"loss": 0.123456})
        assert capsys.readouterr().err == "rqvae  3/40  loss 0.1235  0:00 left\n"
        bar("users", 900, 0, {"users/s": 5.0})  # from a pipe, whose end nobody knows
    assert capsys.readouterr().err == "users  900  users/s 5\n"
    with StageBar(False) as bar:
        bar("rqvae", 3, 40, {})
    assert capsys.readouterr().err == ""


def test_the_time_left_is_told_from_the_pace_of_this_run(capsys, monkeypatch):
    """A run that goes on has begun with most of it done."""
    now = 100.0
    monkeypatch.setattr("genrec_fast.training.log.LINE_SECONDS", 0.0)
    monkeypatch.setattr("genrec_fast.training.log.time.monotonic", lambda: now)
    bar = StageBar(True)
    bar("recommend", 800, 1000, {})
    now = 110.0
    bar("recommend", 900, 1000, {})
    assert capsys.readouterr().err.splitlines()[-1] == "recommend  900/1000    0:10 left"


def test_an_objective_that_samples_is_told_how_popular_items_are():
    data = toy_data()
    recipe = dataclasses.replace(sasrec(), objective=SampledSoftmaxConfig(sampling="popularity"))
    histories = data.interactions.items
    catalog = coded_catalog(recipe, data, 0, None, reuse=False, histories=histories)
    objective = recipe.objective.build(catalog)
    _, log_q = objective._draw((1,), data.num_items, torch.device("cpu"))
    counts = torch.bincount(data.interactions.items.values, minlength=data.num_items) + 1.0
    torch.testing.assert_close(log_q.exp(), (counts / counts.sum()).double())
