"""A row of docs/quality.md is trained once, asked once, and shown with its spread."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

import quality
from genrec_fast.data.synthetic import Shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    data = Shop(80).dataset(50)
    rows = (row.tolist() for row in data.interactions.items.rows())
    lines = [" ".join(map(str, [user, *(item + 1 for item in row)])) for user, row in enumerate(rows, start=1)]
    (folder / "interactions.txt").write_text("\n".join(lines) + "\n")
    np.save(folder / "item_embeddings.npy", data.features.numpy())
    return folder


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bench/quality.py", *map(str, arguments)])
    quality.main()


def test_baselines_are_four_rows_asked_once(shop, tmp_path, monkeypatch, capsys):
    run(monkeypatch, "baselines", "--data", shop, "--out", tmp_path)
    text = capsys.readouterr().out
    for name in ("popularity", "transition graph", "graph + features", "features of the last item"):
        assert text.count(f"| {name} |") == 2  # kept and removed
    (path,) = tmp_path.glob("*.json")
    found = json.loads(path.read_text())
    assert found["protocol"]["users_asked"] == 50
    assert found["training"]["runs"] == 1
    assert found["where"]["command"].startswith("python bench/quality.py baselines")
    before = path.stat().st_mtime_ns
    run(monkeypatch, "baselines", "--data", shop, "--out", tmp_path)
    assert "is there" in capsys.readouterr().err
    assert path.stat().st_mtime_ns == before


def test_settings_are_compared_on_validation(shop, tmp_path, monkeypatch, capsys):
    options = ("--data", shop, "--out", tmp_path, "--split", "validation", "--set", "backbone.text_weight=0.5")
    with pytest.raises(SystemExit):
        run(monkeypatch, "transitions", *options)
    assert "--name must be given with --set" in capsys.readouterr().err
    run(monkeypatch, "transitions", *options, "--set", "layout.use_features=true", "--name", "half text")
    assert "| half text | " in capsys.readouterr().out
    (path,) = tmp_path.glob("*.json")
    found = json.loads(path.read_text())
    assert path.name.endswith(".validation.json")
    assert (found["split"], found["recipe"]["backbone"]["text_weight"]) == ("validation", 0.5)


def test_a_trained_network_is_asked_again(shop, tmp_path, monkeypatch, capsys):
    options = ("--data", shop, "--out", tmp_path, "--split", "validation")
    run(monkeypatch, "transitions", *options)
    again = (*options, "--of", "transitions", "--name", "other")
    run(monkeypatch, "transitions", *again, "--set", "backbone.last_items=1")
    figures = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json"))]
    assert [one["recipe"]["backbone"]["last_items"] for one in figures] == [1, 8]
    assert figures[0]["lines"][0]["recall"] != figures[1]["lines"][0]["recall"]
    assert figures[0]["training"] == figures[1]["training"]
    with pytest.raises(SystemExit, match="--of transitions: --set may change settings of the backbone alone"):
        run(monkeypatch, "transitions", *again[:-1], "third", "--set", "batching.max_items=3")


def test_a_table_has_means_and_spreads_of_seeds():
    def result(seed, recall):
        line = {"name": "a", "seen": "kept", "recall": {"5": recall, "10": recall}, "ndcg": {"5": 0.01, "10": 0.02}}
        return {"dataset": "d", "split": "test", "seed": seed, "lines": [line], "training": {"processor_s": 90.0}}

    rows = quality.table([result(0, 0.1), result(1, 0.2)]).splitlines()
    assert rows[-1] == ("| a | d | kept | .1500 ± .0707 | .0100 ± .0000 | .1500 ± .0707 | .0200 ± .0000 | 0, 1 | 1.5 |")
    assert " | .1000 | .0100 | " in quality.table([result(0, 0.1)])


def test_tuples_and_numbers_are_set():
    changed = quality.recipe_of("sasrec", ["train.epochs=2", "backbone.temperature=0.1"])
    assert (changed.train.epochs, changed.backbone.temperature) == (2, 0.1)
    assert quality.recipe_of("marius", ["tokenizer.codebook_sizes=8,4"]).tokenizer.codebook_sizes == (8, 4)
