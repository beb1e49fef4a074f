"""What docs/quality.md says is drawn as it stands there: from a page, and from a folder of results."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

import quality_pictures
from genrec_fast import recipes
from pictures import described

ROOT = Path(__file__).resolve().parent.parent
PAGE = """
| answers | data | seen items | R@10 |
|---|---|---|---|
| not marked | shop | kept | .9000 |

<!-- measured: quality (begin) -->
| answers | data | seen items | R@5 | N@5 | R@10 | N@10 | seeds |
|---|---|---|---|---|---|---|---|
| counted | shop | kept | .0300 | .0200 | .0500 | .0300 | none needed |
| learned & <loud> | shop | kept | .0400 ± .0010 | .0300 | .0600 ± .0020 | .0400 | 0, 1 |
| counted | shop | removed | .0310 | .0210 | .0510 | .0310 | none needed |
<!-- measured: quality (end) -->

| channels of apex | shop, kept | shop, removed |
|---|---|---|
| network: `alone` | .0100 / .0050 | .0110 / .0060 |
"""


def draw(monkeypatch, *arguments):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(sys, "argv", ["bench/quality_pictures.py", *map(str, arguments)])
    quality_pictures.main()


def test_a_page_is_drawn_alike_each_time(tmp_path, monkeypatch):
    page, out = tmp_path / "page.md", tmp_path / "img"
    page.write_text(PAGE, encoding="utf-8")
    draw(monkeypatch, "--page", page, "--out", out)
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    assert sorted(first) == ["quality_channels.svg", "quality_recall.svg"]
    assert described(out / "quality_recall.svg") == (
        "shop, counted, kept: .0500; shop, learned & <loud>, kept: .0600 ± .0020; shop, counted, removed: .0510"
    )
    assert described(out / "quality_channels.svg") == (
        "apex, shop, network: alone, kept: .0100; apex, shop, network: alone, removed: .0110"
    )
    assert ".0600 ± .0020</text>" in first["quality_recall.svg"].decode("utf-8")
    draw(monkeypatch, "--page", page, "--out", out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first


def test_a_page_without_the_marks_is_refused():
    with pytest.raises(ValueError, match="page must have a table between"):
        quality_pictures.bars_of_page(PAGE.replace("measured: quality", "measured: other"))


def test_a_folder_has_bars_with_spreads_and_curves_of_what_ended(tmp_path, monkeypatch):
    def result(seed, split, recall):
        figures = {"recall": {"5": recall, "10": recall}, "ndcg": {"5": recall, "10": recall}}
        found = {
            "row": "sasrec",
            "changes": [],
            "split": split,
            "dataset": "shop",
            "seed": seed,
            "lines": [{"name": "loud sasrec", "seen": "kept", **figures}],
            "training": {"processor_s": 60.0},
        }
        end = "" if split == "test" else f".{split}"
        (tmp_path / f"loud-sasrec-shop-{seed}{end}.json").write_text(json.dumps(found))

    def log(seed, *recalls):
        folder = tmp_path / "runs" / f"loud-sasrec-shop-{seed}"
        folder.mkdir(parents=True)
        lines = [{"step": 1, "epoch": 0, "loss": 2.0}, {"step": 1, "epoch": 0, "validation": {"loss": 1.0}}]
        for epoch, recall in enumerate(recalls):
            lines.append({"step": epoch, "epoch": epoch, "validation": {"recall@10": recall}, "users": 1200})
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    result(0, "test", 0.1)
    result(1, "test", 0.2)
    result(0, "validation", 0.3)
    log(0, 0.05, 0.07)
    log(2, 0.5)  # still running: no result yet
    draw(monkeypatch, tmp_path, "--out", tmp_path / "img")
    assert described(tmp_path / "img" / "quality_recall.svg") == "shop, loud sasrec, kept: .1500 ± .0707"
    assert described(tmp_path / "img" / "quality_channels.svg") == "shop, validation, loud sasrec, kept: .3000"
    curve = described(tmp_path / "img" / "quality_training.svg")
    assert curve == "loud sasrec, shop, seed 0, 1,200 users: 1 0.0500, 2 0.0700"


def test_the_pictures_of_the_page_show_its_tables():
    """``python bench/quality_pictures.py --page docs/quality.md`` draws them anew."""
    bars, parts = quality_pictures.bars_of_page((ROOT / "docs" / "quality.md").read_text(encoding="utf-8"))
    for name, some in (("recall", bars), ("channels", parts)):
        assert described(ROOT / "docs" / "img" / f"quality_{name}.svg") == "; ".join(map(str, some)), name
    for path in (ROOT / "docs" / "img").glob("quality_*.svg"):
        assert path.stat().st_size < 60_000, path.name


def test_what_recipes_say_of_the_page_stands_on_it():
    page = (ROOT / "docs" / "quality.md").read_text(encoding="utf-8")
    sources = {name: recipes.get(name).measured for name in recipes.names()}
    named = {name: text for name, text in sources.items() if "docs/quality.md" in text}
    assert {"apex", "marius", "transitions"} <= set(named)
    for name, text in named.items():
        absent = [figure for figure in re.findall(r"(?<!\d)\.\d{4}", text) if figure not in page]
        assert absent == [], name
