"""The script that fills the table of sequential models runs, skips what is there, and says what it measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

import attention_models
from genrec_fast.data import Dataset, Interactions
from genrec_fast.data.synthetic import Shop


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = Shop(80).dataset(30).interactions
    lines = [
        " ".join([str(user + 1), *(str(item + 1) for item in row.tolist())])
        for user, row in enumerate(data.items.rows())
    ]
    path = tmp_path / "shop"
    path.mkdir()
    (path / "interactions.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_rows_are_measured_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    out = tmp_path / "rows"
    argv = ["x", str(folder), "--out", str(out), "--epochs", "1", "--threads", str(torch.get_num_threads())]
    monkeypatch.setattr(sys, "argv", [*argv, "--row", "GRU4Rec", "3"])
    attention_models.main()
    row = json.loads((out / "shop-gru4rec-3.json").read_text(encoding="utf-8"))
    assert (row["data"], row["model"], row["seed"], row["epochs_run"]) == ("shop", "GRU4Rec", 3, 1)
    assert 0.0 <= row["recall@10"] <= 1.0
    assert row["parameters"] > 0
    monkeypatch.setattr(sys, "argv", [*argv, "--models", "gru", "--seeds", "3"])
    monkeypatch.setattr(attention_models.subprocess, "run", lambda *_, **__: pytest.fail("the row is there"))
    attention_models.main()
    assert capsys.readouterr().out.splitlines()[2].startswith("| shop | GRU4Rec | 1 | ")


def test_what_follows_the_data() -> None:
    shop = Shop(80).dataset(30)
    names = list(attention_models.models(shop))
    untimed = Interactions(shop.interactions.items, None, shop.interactions.user_ids, shop.interactions.item_ids)
    assert "HSTU, relative bias (positions and times)" in names
    assert "HSTU, relative bias (positions)" in attention_models.models(Dataset("x", untimed))
    assert {recipe.batching.max_items for recipe in attention_models.models(shop).values()} == {20}


def test_several_seeds_are_one_line() -> None:
    row = {
        "data": "d",
        "model": "m",
        "best_epoch": 2,
        "epochs": 3,
        "train_cpu_s": 60.0,
        "users_per_cpu_s": 10.0,
        "peak_mib": 5.0,
    }
    rows = [
        row | {"seed": seed, "recall@10": value, "ndcg@10": value / 2} for seed, value in enumerate((0.1, 0.2, 0.3))
    ]
    assert attention_models.table(rows).splitlines()[2] == (
        "| d | m | 3 | 0.2000 ± 0.1000 | 0.1000 ± 0.0500 | 2 of 3, 2 of 3, 2 of 3 | 1.0 | 10 | 5 |"
    )
