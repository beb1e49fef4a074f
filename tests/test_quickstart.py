from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from genrec_fast import quickstart
from genrec_fast.base.batch import Ranked
from genrec_fast.base.jagged import Jagged
from genrec_fast.data import leave_one_out
from genrec_fast.data.synthetic import Shop


class Oracle:
    """Stands in for a trained model: recommends what is truly likeliest, or, from the wrong end, the least likely."""

    def __init__(self, worst: bool) -> None:
        self.shop, self.worst = Shop(seed=0), worst

    def recommend(self, histories: Jagged, k: int) -> Ranked:
        items: Tensor = self.shop.best(histories, self.shop.num_items)
        items = items.flip(1)[:, :k] if self.worst else items[:, :k]
        empty = torch.empty(0)
        return Ranked(items, empty, empty, torch.ones(len(items), dtype=torch.bool), empty)


def run(monkeypatch: pytest.MonkeyPatch, width: int, *, worst: bool = False) -> tuple[quickstart.Outcome, str]:
    def train(*_: Any, **__: Any) -> Oracle:
        return Oracle(worst)

    monkeypatch.setattr(quickstart, "train", train)
    monkeypatch.setattr(quickstart, "writing", lambda model: model)
    out = io.StringIO()
    outcome = quickstart.run(num_users=200, console=Console(file=out, width=width))
    return outcome, out.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_prints_three_shoppers_and_the_figures_within_the_width(monkeypatch: pytest.MonkeyPatch, width: int):
    outcome, text = run(monkeypatch, width)
    assert max(len(line) for line in text.splitlines()) <= width
    shop = Shop(seed=0)
    data = shop.dataset(200, seed=1)
    test = leave_one_out(data.interactions).test
    first = shop.best(test.histories, 10)[:3, 0].tolist()
    assert all(f"1 {shop.titles[item][:20]}" in text for item in first)
    assert all(f"shopper {n}" in text for n in (1, 2, 3))
    assert all(shop.titles[int(test.targets[row])][:20] in text for row in range(3))
    assert f"{outcome.popularity:.3f}" in text
    assert f"{outcome.oracle:.3f}" in text
    assert f"by items {1000 * outcome.seconds_per_user:.1f} ms" in text
    assert f"by codes {1000 * outcome.seconds_written:.1f} ms, 100% proven best" in text
    assert "genrec-fast train" in text


def test_the_truth_as_a_model_reaches_the_oracle(monkeypatch: pytest.MonkeyPatch):
    outcome, _ = run(monkeypatch, 80)
    assert outcome.model == outcome.oracle
    assert outcome.oracle > 4 * outcome.popularity > 0


def test_the_worst_model_finds_nothing(monkeypatch: pytest.MonkeyPatch):
    outcome, text = run(monkeypatch, 80, worst=True)
    assert outcome.model < outcome.popularity
    assert "together 0% of" in text


def test_a_console_without_unicode_gets_plain_characters(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quickstart, "train", lambda *_, **__: Oracle(worst=False))
    monkeypatch.setattr(quickstart, "writing", lambda model: model)
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="latin-1")  # errors="strict": a character it lacks would raise
    quickstart.run(num_users=50, console=Console(file=file, width=80))
    file.flush()
    assert b"recall@10" in raw.getvalue()
    assert b"####" in raw.getvalue()


@pytest.mark.slow
def test_a_short_real_training_beats_popularity():
    out = io.StringIO()
    outcome = quickstart.run(num_users=600, max_epochs=12, console=Console(file=out, width=80))
    assert outcome.popularity < outcome.written < outcome.oracle
    assert outcome.popularity < outcome.model < outcome.oracle
    assert 0 < outcome.proven <= 1
    assert 0 < outcome.seconds_per_user < outcome.seconds_training


def test_the_codes_are_written_by_the_network_that_scores_the_items():
    data = Shop(seed=0).dataset(150, seed=1)
    model = quickstart.train(quickstart.best_recipe(1), data, seed=0, show_progress=False)
    writer = quickstart.writing(model)
    asked = leave_one_out(data.interactions).test.histories
    written = writer.recommend(asked, 10, exact=True)
    assert writer.backbone is model.backbone
    assert bool(written.exact.all())
    assert torch.equal(written.codes, model.catalog.item_codes[written.items])
    assert not torch.equal(written.items, model.recommend(asked, 10).items)
