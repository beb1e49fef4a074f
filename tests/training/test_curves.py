from __future__ import annotations

import json

import pytest

from genrec_fast.training.curves import draw_curves


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """``drawn(entries)``: the matplotlib figure that was saved."""
    figures = pytest.importorskip("matplotlib.figure")
    saved = []
    original = figures.Figure.savefig
    monkeypatch.setattr(
        figures.Figure, "savefig", lambda self, *args, **options: (saved.append(self), original(self, *args, **options))
    )

    def draw(entries):
        log = tmp_path / "log.jsonl"
        log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        assert draw_curves(log, tmp_path / "curves.png")
        assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
        return saved[-1]

    return draw


def test_one_axis_for_each_kind_of_figure_and_names_beside_the_lines(drawn):
    steps = [{"step": step, "loss": 9 / step, "lr": 1e-3 / step, "targets": 60.0} for step in range(1, 30)]
    figures = {"recall@10": 0.5, "recall@5": 0.4, "ndcg@10": 0.3, "auc": 0.6}
    checks = [{"step": step, "validation": figures, "best": step == 20} for step in (10, 20, 29)]
    figure = drawn([*steps, *checks])
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "training loss", "validation, auc", "validation, lists", "learning rate",
    ]  # fmt: skip
    lists = figure.axes[2]
    assert [text.get_text() for text in lists.get_legend().get_texts()] == [
        "ndcg@10", "recall@5", "recall@10", "best, step 20",
    ]  # fmt: skip
    for axes in figure.axes:  # no line can run behind a legend
        assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1


def test_a_training_that_has_only_begun(drawn):
    assert [axes.get_ylabel() for axes in drawn([]).axes] == ["training loss"]
    assert len(drawn([{"step": 1, "loss": 2.0}]).axes) == 1
