from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from genrec_fast import recipes
from genrec_fast.base.jagged import Jagged
from genrec_fast.cli import main
from genrec_fast.data import load as load_data
from genrec_fast.data.synthetic import Shop
from genrec_fast.training import train

FAST = ["--train.epochs", "1", "--batching.items-per-batch", "256", "--threads", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A dataset folder in S3-Rec's form (ids from 1), with features."""
    folder = tmp_path_factory.mktemp("shop")
    data = Shop(80).dataset(60)
    lines = [
        " ".join([str(user), *(str(item + 1) for item in row.tolist())])
        for user, row in enumerate(data.interactions.items.rows(), start=1)
    ]
    (folder / "interactions.txt").write_text("\n".join(lines) + "\n")
    titles = ["item_id\ttext", *(f"{item + 1}\t{title}" for item, title in enumerate(data.titles))]
    (folder / "items.tsv").write_text("\n".join(titles) + "\n")
    np.save(folder / "item_embeddings.npy", data.features.numpy())
    return folder


@pytest.fixture(scope="module")
def trained(shop, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    assert main(["train", "sasrec", "--data", str(shop), "--out", str(out), "--backbone.width", "16", *FAST]) == 0
    return out


def test_help_and_version(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in ("quickstart", "train", "evaluate", "recommend", "serve", "tokenize", "recipes", "env"):
        assert f"\n  {command} " in text
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("0.")
    assert main([]) == 2


def test_an_unknown_command_or_recipe_is_one_line(capsys):
    assert main(["fly"]) == 2
    assert "genrec-fast: unknown command 'fly'" in capsys.readouterr().err
    assert main(["train", "bert"]) == 2
    names = ", ".join(recipes.names())
    assert capsys.readouterr().err == f"genrec-fast: recipes: name must be one of {names}, got 'bert'\n"
    assert main(["train"]) == 2
    assert "the first argument must be a recipe" in capsys.readouterr().err


def test_every_nested_setting_is_an_option(capsys):
    with pytest.raises(SystemExit) as done:
        main(["train", "marius", "--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    for option in ("--backbone.num-layers", "--train.max-minutes", "--tokenizer.codebook-sizes", "--seed", "--threads"):
        assert option in text


def test_train_evaluate_recommend(trained, shop, capsys):
    test = json.loads((trained / "test.json").read_text())
    assert test["num_users"] == 60
    assert json.loads((trained / "recipe.json").read_text())["recipe"]["backbone"]["width"] == 16
    assert main(["evaluate", str(trained), "--data", str(shop), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["recall"] == test["recall"]
    assert main(["evaluate", str(trained), "--data", str(shop), "--split", "validation"]) == 0
    text = capsys.readouterr().out
    assert "recall = hit rate" in text
    assert max(map(len, text.splitlines())) <= 100
    target = trained.parent / "figures.json"
    assert main(["evaluate", str(trained), "--data", str(shop), "--ks", "1,5", "20", "--json", str(target)]) == 0
    assert "@20" in capsys.readouterr().out
    written = json.loads(target.read_text())
    assert list(written["recall"]) == ["1", "5", "20"]
    assert {line["name"] for line in written["lines"] if line["seen"] == "removed"} >= {
        "popularity",
        "transition graph",
    }
    assert main(["evaluate", str(trained), "--data", str(shop), "--seen", "kept", "--no-baselines", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["lines"] == []
    names = load_data(shop).interactions.item_ids[:3]
    assert main(["recommend", str(trained), "--history", *names, "-k", "5", "--exclude-seen", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["items"]
    assert len(found) == 5
    assert not {entry["item"] for entry in found} & set(names)
    assert main(["recommend", str(trained), "--history", *names, "-k", "4"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_the_protocol_says_what_its_figures_depend_on(trained, shop, capsys):
    assert main(["evaluate", str(trained), "--data", str(shop), "--protocol", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    facts = found["protocol"]
    assert (facts["users_asked"], facts["users"], facts["items"], facts["sharing_items"]) == (60, 60, 80, 0)
    assert facts["longest_history"] == 20
    assert facts["events"] == int(load_data(shop).interactions.items.values.numel())
    assert list(found["recall"]) == ["5", "10"]
    assert {line["seen"] for line in found["lines"]} == {"kept", "removed"}
    assert main(["evaluate", str(trained), "--data", str(shop), "--protocol"]) == 0
    assert "users asked: 60" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [
        ("--split", "validation"),
        ("--ks", "10"),
        ("--seen", "kept"),
        ("--allowed", "id:1"),
        ("--time-split", "10%", "20%"),
        ("--min-rating", "3"),
        ("--k-core", "2"),
    ],
)
def test_the_protocol_refuses_what_would_change_it(trained, shop, options, capsys):
    assert main(["evaluate", str(trained), "--data", str(shop), "--protocol", *options]) == 2
    assert f"evaluate: {options[0]} must be left out with --protocol" in capsys.readouterr().err


def test_what_the_caller_can_mend_is_one_line_and_code_2(trained, shop, tmp_path, capsys):
    assert main(["recommend", str(trained), "--history", "nothing"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("genrec-fast: recommend: each item of --history must be one of the catalog's 80 names")
    assert error.count("\n") == 1
    assert main(["evaluate", str(trained), "--data", str(shop), "--ks", "5,0"]) == 2
    assert "--ks must be whole numbers from 1 such as 1,5,10, got '5,0'" in capsys.readouterr().err
    assert main(["evaluate", str(trained), "--data", str(shop), "--json", str(tmp_path)]) == 2
    assert "json must be a file or -, got the folder" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path), "--data", str(shop)]) == 2
    assert "recipe.json is missing" in capsys.readouterr().err
    assert main(["train", "sasrec", "--data", str(tmp_path / "no"), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["train", "sasrec", "--data", str(shop), "--out", str(trained), "--seed", "8", *FAST]) == 2
    assert "one of the same training" in capsys.readouterr().err


def test_published_ids_take_the_place_of_the_tokenizer(shop, tmp_path, capsys):
    options = ["--tokenizer.codebook-sizes", "4", "4"]
    assert main(["tokenize", str(shop), "--out", str(tmp_path / "ids"), *options]) == 0
    assert "collision rate          0.0000" in capsys.readouterr().out
    codes = np.load(tmp_path / "ids" / "item_codes.npy")
    assert codes.shape == (80, 3)
    text = json.loads((tmp_path / "ids" / "item_codes.json").read_text())
    assert text["7"] == [f"<{letter}_{code}>" for letter, code in zip("abc", codes[7], strict=True)]
    run = ["train", "marius", "--data", str(shop), "--out", str(tmp_path / "run"), "--quiet", "--no-test", *FAST]
    small = ["--backbone.width", "16", "--backbone.hidden", "16", "--backbone.depth-hidden", "16"]
    assert main([*run, *small, "--semantic-ids", str(tmp_path / "ids" / "item_codes.json")]) == 0
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["recipe"]["tokenizer"]["kind"] == "Published"


@pytest.mark.parametrize("command", [["recipes"], ["recipes", "--markdown"], ["env"], ["--help"], ["train", "--help"]])
def test_a_reader_that_is_gone_ends_a_command_silently(command):
    """As ``genrec-fast ... | head -1``: 141 is what a shell says of SIGPIPE."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "genrec_fast.cli", *command], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_features_that_are_none_are_named(tmp_path, capsys):
    (tmp_path / "x.npy").write_text("no numbers")
    assert main(["tokenize", str(tmp_path / "x.npy"), "--out", str(tmp_path)]) == 2
    assert "x.npy: not a .npy array" in capsys.readouterr().err
    np.save(tmp_path / "y.npy", np.arange(3))
    assert main(["tokenize", str(tmp_path / "y.npy"), "--out", str(tmp_path)]) == 2
    assert "must be float16, float32 or float64 [items, F], got int64 [3]" in capsys.readouterr().err


def test_recipes_lists_them_all(capsys):
    assert main(["recipes"]) == 0
    text = capsys.readouterr().out
    for name in ("marius", "sasrec", "tiger", "arXiv:2305.05065"):
        assert name in text


def test_ctrl_c_is_code_130(monkeypatch, capsys):
    def stopped(arguments):
        raise KeyboardInterrupt("stopped at step 3 of 9; the same command goes on from there")

    monkeypatch.setitem(sys.modules["genrec_fast.cli.main"]._COMMANDS, "recipes", ("", stopped))
    assert main(["recipes"]) == 130
    assert "the same command goes on from there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--device", "junk"], "load: --device must be one of this machine, got 'junk'"),
        (["--device", "meta"], "load: --device must be one of this machine, got 'meta'"),
        (["--threads", "100000000000"], "--threads must be in [1, 4096], got 100000000000"),
        (["--num-beams", "0"], "recommend: --num-beams must be at least 1, got 0"),
    ],
)
def test_a_place_or_a_number_that_is_none_is_one_line(trained, options, text, capsys):
    assert main(["recommend", str(trained), "--history", "1", *options]) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


def test_more_results_than_items_are_all_items(trained, capsys):
    assert main(["recommend", str(trained), "--history", "1", "-k", "99999999999"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 80


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--device", "junk"], "train: --device must be one of this machine, got 'junk'"),
        (["--seed", str(2**70)], f"train: --seed must be in [0, 2^63), got {2**70}"),
    ],
)
def test_a_training_that_cannot_begin_is_one_line(shop, tmp_path, options, text, capsys):
    run = ["train", "sasrec", "--data", str(shop), "--out", str(tmp_path), "--backbone.width", "16"]
    assert main([*run, *FAST, *options]) == 2
    assert text in capsys.readouterr().err


def test_the_quickstart_has_so_many_items(capsys):
    assert main(["quickstart", "--k", "100000"]) == 2
    assert "quickstart: --k must be in [1, 600], got 100000" in capsys.readouterr().err


@pytest.fixture(scope="module")
def ranking(tmp_path_factory):
    """A model that reads times and two actions per event."""
    data = Shop(80).dataset(30)
    recipe = recipes.get("hstu_ranking")
    events = data.interactions
    rated = torch.stack([events.items.values % 2 == 0, events.items.values % 6 == 0], 1)
    events = dataclasses.replace(events, actions=rated, action_names=recipe.objective.actions)
    out = tmp_path_factory.mktemp("ranking")
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, epochs=1))
    model = train(recipe, dataclasses.replace(data, interactions=events), out=out, device="cpu", show_progress=False)
    return out, model, events


def test_recommend_reads_actions(ranking, capsys):
    out, model, events = ranking
    items, times = events.items[0][:3], events.timestamps[:3]
    marks = torch.tensor([[True, True], [False, False], [True, False]])
    expected = model.recommend(
        [items.tolist()],
        4,
        timestamps=[times.tolist()],
        target_timestamps=[float(times[2]) + 5],
        actions=Jagged(marks, torch.tensor([0, 3])),
    )
    asked = ["recommend", str(out), "--history", *(model.item_ids[item] for item in items), "-k", "4", "--json"]
    asked += ["--times", *(str(float(time)) for time in times), "--at", str(float(times[2]) + 5)]
    assert main([*asked, "--actions", "11", "00", "10"]) == 0
    found = json.loads(capsys.readouterr().out)["items"]
    assert [entry["item"] for entry in found] == [model.item_ids[item] for item in expected.items[0]]
    for words, text in (
        (["11", "00"], "recommend: --actions must be one word per event, 3 of them, got 2"),
        (["11", "00", "1"], "recommend: --actions must be words of 2 digits 0 or 1 (rating>=4, rating>=5), got '1'"),
        (["11", "02", "10"], "recommend: --actions must be words of 2 digits 0 or 1 (rating>=4, rating>=5), got '02'"),
    ):
        assert main([*asked, "--actions", *words]) == 2
        assert text in capsys.readouterr().err

    assert main(asked) == 2
    assert "recommend: --actions must be given as hstu_ranking reads them (rating>=4, rating>=5), got None" in (
        capsys.readouterr().err
    )


def test_times_that_are_no_seconds_are_refused(ranking, capsys):
    out, model, _ = ranking
    asked = ["recommend", str(out), "--history", model.item_ids[3], "--actions", "11"]
    assert main([*asked, "--times", "1700000000"]) == 0
    for options, name in ((["1700000000000"], "--times"), (["1.7e9", "--at", "1.7e12"], "--at")):
        assert main([*asked, "--times", *options]) == 2
        assert (
            f"recommend: {name} must be in seconds, got 1700000000000; divide milliseconds" in capsys.readouterr().err
        )


def test_times_must_be_given_where_they_are_read(ranking, capsys):
    out, model, _ = ranking
    assert main(["recommend", str(out), "--history", model.item_ids[3], "--actions", "11"]) == 2
    assert "recommend: --times must be given, as hstu_ranking reads when events were" in capsys.readouterr().err
    assert main(["recommend", str(out), "-k", "3"]) == 0  # the popular items need none


def test_actions_are_refused_where_nobody_reads_them(trained, capsys):
    assert main(["recommend", str(trained), "--history", "1", "--actions", "1"]) == 2
    assert "recommend: --actions must not be given as sasrec reads none" in capsys.readouterr().err
