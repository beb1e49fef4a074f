from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from genrec_fast.catalog.catalog import Catalog
from genrec_fast.cli import main
from genrec_fast.recipe.recommender import Recommender
from toy import toy_recipe

TITLES = [
    "Star Wars: The Clone Wars (episode 2)",
    "Star Wars: Attack of the Clones",
    "Toy Story",
    "Toy Story 2",
    "",
    "Amélie",
]
NAMES = [f"m{number}" for number in range(1, 7)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    catalog = Catalog(
        item_codes=torch.arange(6, dtype=torch.int32)[:, None],
        codebook_sizes=(6,),
        item_ids=NAMES,
        titles=TITLES,
        counts=torch.tensor([1, 5, 3, 0, 2, 4]),
    )
    model = Recommender(toy_recipe(), catalog)
    folder = tmp_path_factory.mktemp("model")
    model.save(folder)
    return folder, model


def told(saved, capsys, *options, code=0):
    assert main(["recommend", str(saved[0]), *options, "--json"]) == code
    out, error = capsys.readouterr()
    return (json.loads(out) if code == 0 else None), error


def items(answer):
    return [entry["id"] for entry in answer["items"]]


@pytest.mark.parametrize(
    ("words", "history", "said"),
    [
        (["m1", "m6"], [0, 5], ""),
        (["toy story", "AMELIE"], [2, 5], "--history 'toy story' is m3 (Toy Story)\n--history 'AMELIE' is m6 (Amélie)"),
        (["star clone episode"], [0], f"--history 'star clone episode' is m1 ({TITLES[0]})"),
        (["atack clones"], [1], "--history 'atack clones' is m2 (Star Wars: Attack of the Clones)"),
        (["M5"], [4], "--history 'M5' is m5"),
        (["id:3", "id:0"], [3, 0], ""),
    ],
)
def test_items_are_named_titled_numbered(saved, capsys, words, history, said):
    answer, error = told(saved, capsys, "--history", *words)
    assert items(answer) == saved[1].recommend([history], 6).items[0].tolist()
    assert (error.strip(), answer["basis"], answer["skipped"]) == (said, "history", 0)


def test_several_near_items_are_shown_and_none_is_taken(saved, capsys):
    _, error = told(saved, capsys, "--history", "star wars clone", code=2)
    *table, last = error.splitlines()
    assert table == ["name  title", *(f"{name}    {title}" for name, title in zip(NAMES[:2], TITLES[:2], strict=True))]
    assert last == (
        "genrec-fast: recommend: each word of --history must mean one item, got 'star wars clone', which may be any of "
        "2: give a name of the table above (such as 'm1') or more words of the title"
    )
    _, error = told(saved, capsys, "--history", "m1", "--exclude", "star trek", code=2)
    assert error.splitlines()[0] == "name  title"
    assert "each item of --exclude must be one of the catalog's 6 names (such as 'm1'), id:NUMBER or words" in error
    _, error = told(saved, capsys, "--history", "banana", code=2)
    assert error.count("\n") == 1
    assert error.endswith("got 'banana'\n")


def test_a_file_holds_an_item_a_line(saved, capsys, tmp_path):
    file = tmp_path / "items.txt"
    file.write_text("\ufeffm1\r\nToy Story\r\n\r\nid:5\n", encoding="utf-8")
    answer, _ = told(saved, capsys, "--history", f"@{file}", "m2")
    assert items(answer) == saved[1].recommend([[0, 2, 5, 1]], 6).items[0].tolist()
    (tmp_path / "times.txt").write_text("10\n20\n30\n")
    assert told(saved, capsys, "--history", f"@{file}", "--times", f"@{tmp_path / 'times.txt'}")[0] is not None
    file.write_bytes(b"\xff\xfe")
    for name, reason in (("items.txt", "it is no UTF-8"), ("none.txt", "No such file or directory")):
        _, error = told(saved, capsys, "--history", "m1", "--allowed", f"@{tmp_path / name}", code=2)
        assert f"--allowed must be items or @FILE with one a line, got '@{tmp_path / name}' ({reason})" in error


def test_what_may_be_recommended(saved, capsys):
    model = saved[1]
    for options, asked in (
        (["--allowed", "m1", "toy story"], {"allowed": [0, 2]}),
        (["--candidates", "m1", "id:3", "m5", "--exclude", "m5"], {"allowed": [0, 3]}),
        (["--exclude", "m1", "m2", "--exclude-seen"], {"exclude": [0, 1], "exclude_seen": True}),
        (["--allowed", "m1", "m2", "--candidates", "m2", "m3"], {"allowed": [1]}),
    ):
        answer, _ = told(saved, capsys, "--history", "m4", *options)
        expected = model.recommend([[3]], 6, **asked).items[0]
        assert items(answer) == expected[expected >= 0].tolist()
        assert all(entry["item"] == NAMES[entry["id"]] for entry in answer["items"])


def test_unknown_items_are_left_out_and_said(saved, capsys):
    options = ["--history", "m1", "banana", "id:77", "m2", "--exclude", "apple", "m3"]
    _, error = told(saved, capsys, *options, code=2)
    assert "each item of --history must be one of" in error
    answer, error = told(saved, capsys, *options, "--unknown", "skip", "--times", "1", "2", "3", "4")
    expected = saved[1].recommend([[0, 1]], 6, exclude=[2]).items[0]
    assert items(answer) == expected[expected >= 0].tolist()
    assert answer["skipped"] == 2
    assert error.splitlines() == [
        "--history 'banana' is not in the catalog, and is left out",
        "--history 'id:77' is not in the catalog, and is left out",
        "--exclude 'apple' is not in the catalog, and is left out",
    ]


def test_who_has_no_history_gets_what_is_popular(saved, capsys):
    for options in ([], ["--history"], ["--history", "banana", "--unknown", "skip"]):
        answer, error = told(saved, capsys, *options, "-k", "3")
        assert [entry["item"] for entry in answer["items"]] == ["m2", "m6", "m3"]
        assert answer["basis"] == "popular"
        assert "no history: the most popular items of the training data" in error
    assert main(["recommend", str(saved[0]), "-k", "2"]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [["1", "m2"], ["2", "m6"]]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--history", "m1", "-k", "0"], "recommend: -k must be at least 1, got 0"),
        (["--history", "m1", "--num-beams", "0"], "recommend: --num-beams must be at least 1, got 0"),
        (["--history", "m1", "--seed", "-1"], "recommend: --seed must be at least 0, got -1"),
        (["--history", "m1", "--user", "-1"], "recommend: --user must be at least 0, got -1"),
        (["--history", "m1", "--times", "1", "2"], "--times must be as many as items of --history, 1, got 2"),
        (["--history", "m1", "--times", "noon"], "--times must be numbers of seconds, got 'noon'"),
        (["--history", "m1", "m2", "--times", "2", "1"], "--times must not decrease within a history"),
        (["--history", "m1", "--at", "5"], "--at must come with --times, got 5 without"),
        (["--history", "m1", "--actions", "1"], "--actions must not be given as toy reads none"),
        (["--history", "id:6"], "--history must have ids of [0, 6), got 'id:6'"),
        (["--history", "id:x"], "--history must have ids of [0, 6), got 'id:x'"),
        (["--history", f"id:{'9' * 5000}"], "--history must have ids of [0, 6), got 'id:999"),
        (
            ["--history", "m1", "--history", "m2"],
            "recommend: --history must be given once, with all of its list behind",
        ),
        (["--allowed=m1", "--allowed", "m2"], "--allowed must be given once, with all of its list behind it, got it 2"),
        (["--device", "junk"], "load: --device must be one of this machine, got 'junk'"),
        (["--threads", "0"], "genrec-fast: --threads must be in [1, 4096], got 0"),
    ],
)
def test_errors_name_the_flag(saved, capsys, options, text):
    _, error = told(saved, capsys, *options, code=2)
    assert text in error
    assert error.count("\n") == 1


def test_names_go_before_files_and_numbers(saved, capsys, tmp_path):
    model = saved[1]
    names = ["@items", "id:4", *NAMES[2:]]
    named = Recommender(model.recipe, dataclasses.replace(model.catalog, item_ids=names))
    named.load_state_dict(model.state_dict())
    named.save(tmp_path / "named")
    answer, _ = told((tmp_path / "named", named), capsys, "--history", "@items", "id:4")
    assert items(answer) == named.recommend([[0, 1]], 6).items[0].tolist()


def test_that_no_item_is_named_or_left_is_said(saved, capsys, tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    for options in (["--allowed"], ["--candidates", f"@{tmp_path / 'empty.txt'}"]):
        answer, error = told(saved, capsys, "--history", "m1", *options)
        assert items(answer) == []
        assert error.splitlines() == [f"{options[0]} names no item", "no items: nothing is left to recommend"]
    answer, error = told(saved, capsys, "--history", "m1", "--allowed", "m2", "--exclude", "m2")
    assert (items(answer), error) == ([], "no items: nothing is left to recommend\n")
    answer, error = told(saved, capsys, "--history", "m1", "--exclude")
    assert (len(items(answer)), error) == (6, "--exclude names no item\n")


@pytest.mark.parametrize("word", ["-1", "5-0", "1e0", "2.0", f"id:{'9' * 5000}"])
def test_a_number_is_no_other_item(saved, capsys, tmp_path, word):
    model = saved[1]
    numbered = Recommender(model.recipe, dataclasses.replace(model.catalog, item_ids=["1", "2", "20", "50", "10", "6"]))
    numbered.save(tmp_path / "numbered")
    asked = (tmp_path / "numbered", numbered)
    told(asked, capsys, "--history", word, code=2)
    answer, error = told(asked, capsys, "--history", "1", word, "--unknown", "skip")
    assert answer["skipped"] == 1
    assert error.endswith("is not in the catalog, and is left out\n")
    assert len(error) < 200
