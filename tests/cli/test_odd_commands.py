"""Odd command lines: each ends with status 2 and one line that names the flag or file, the rule and the value."""

from __future__ import annotations

import numpy as np
import pytest

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.cli import main
from genrec_fast.cli.tokenize_files import read_source, tokenize
from genrec_fast.tokenizers import RQVAEConfig
from genrec_fast.tokenizers.regularisers import TagSupervisionConfig

GOOD = "user,item,timestamp,rating\n" + "".join(
    f"u{user},i{(3 * user + time) % 9},{1500000000 + time},{1 + time % 5}\n" for user in range(20) for time in range(6)
)
FAST = ["--train.epochs", "1", "--device", "cpu", "--threads", "1", "--quiet"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a data set, a model that was trained on it, vectors, and files of other kinds."""
    root = tmp_path_factory.mktemp("odd")
    (root / "data").mkdir()
    (root / "data" / "interactions.csv").write_text(GOOD)
    np.save(root / "f.npy", np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32))
    np.save(root / "nan.npy", np.full((30, 8), np.nan, np.float32))
    np.save(root / "one.npy", np.ones((1, 8), np.float32))
    np.save(root / "short.npy", np.zeros(3, int))
    (root / "file").write_text("x")
    (root / "t.txt").write_text("tea\npot\n")
    assert main(["train", "sasrec", "--data", str(root / "data"), "--out", str(root / "model"), *FAST]) == 0
    return root


def names(place):
    return sorted(path.name for path in place.iterdir() if path.name != "out")


def said(place, monkeypatch, capsys, arguments):
    monkeypatch.chdir(place)
    before = names(place)
    capsys.readouterr()
    status = main(arguments)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert names(place) == before
    return status, error.splitlines()[-1] if error else ""


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--data", "/nope"], "data.load: folder must be an existing folder or file, got '/nope'"),
        (["--data", "/dev/null"], "got '/dev/null', which is a device; write what it gives to a file first"),
        (["--data", ""], "train: --data must name a file or folder, got ''"),
        (["--data", "x", "--out="], "train: --out must name a file or folder, got ''"),
        (["--data", "file"], "file:1: must have a column user, got x; user (--user) names another"),
        (["--data", "f.npy"], "f.npy: must be a table as text, but is an array of numpy, which has no columns"),
        (["--data", "data", "--k-core", "99"], "data.load: --k-core must leave some events, got 99 which leaves none"),
        (["--data", "data", "--min-rating", "nan"], "data.load: --min-rating must be a finite number, got nan"),
        (["--data", "data", "--user", "x"], "must have a column x, got user, item, timestamp, rating; user (--user)"),
        (["--data", "data", "--separator", "u"], "data.load: --separator must hold no letters, digits, quotes"),
        (["--data", "data", "--encoding", "rot13"], "encoding (--encoding) must be one that Python knows"),
        (["--data", "data", "--time-split", "90%", "80%"], "time_split: the second of --time-split must be at least"),
        (["--data", "data", "--time-split", "x", "80%"], "time_split: the first of --time-split must be a date"),
        (["--data", "data", "--seed", "-1"], "train: --seed must be in [0, 2^63), got -1"),
        (["--data", "data", "--device", "gpu"], "train: --device must be one of this machine, got 'gpu'"),
        (["--data", "data", "--threads", "0"], "--threads must be in [1, 4096], got 0"),
        (["--data", "data", "--train.epochs", "0"], "TrainConfig: --train.epochs must be at least 1, got 0"),
        (
            ["--data", "data", "--train.learning-rate", "1e30"],
            "train: scores must be finite, got NaN",
        ),
    ],
)
def test_train(options, text, place, monkeypatch, capsys):
    status, error = said(
        place, monkeypatch, capsys, ["train", "sasrec", "--out", "out", *without(FAST, options), *options]
    )
    assert status == 2
    assert text in error


def without(defaults, options):
    """The pairs of ``defaults`` whose flag ``options`` lacks."""
    pairs = [defaults[place : place + 2] for place in range(0, len(defaults), 2)]
    return [word for pair in pairs if pair[0] not in options for word in pair]


@pytest.mark.parametrize("out", ["", "file", "file/x", "/dev/null"])
def test_train_into_what_is_no_folder(out, place, monkeypatch, capsys):
    status, error = said(place, monkeypatch, capsys, ["train", "sasrec", "--data", "data", "--out", out, *FAST])
    assert status == 2
    assert ("--out must name" if out == "" else "choose a folder, not a file") in error


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["evaluate", "model", "--data", "data", "--ks", "0"], "evaluate: --ks must be whole numbers from 1"),
        (
            ["evaluate", "model", "--data", "data", "--time-split", "1", "2"],
            "evaluate: --data must have users to",
        ),
        (["evaluate", "model", "--data", "data", "--json", "/nope/x"], "the folder of /nope/x must exist"),
        (["evaluate", "/dev/null", "--data", "data"], "/dev/null must be the folder of a trained model"),
        (["evaluate", "/nope", "--data", "data"], "/nope must hold a trained model, but recipe.json is missing"),
        (["evaluate", "", "--data", "data"], "evaluate: its first argument must name a file or folder"),
        (["recommend", "model", "--history", "zz"], "each item of --history must be one of the catalog's 9 names"),
        (["recommend", "model", "--history", "id:99"], "--history must have ids of [0, 9), got 'id:99'"),
        (["recommend", "model", "--history", "@/nope"], "--history must be items or @FILE with one a line"),
        (["recommend", "model", "--history", "i1", "-k", "0"], "-k must be at least 1, got 0"),
        (["recommend", "model", "--history", "i1", "--times", "nan"], "--times must be numbers below 2^62"),
        (["recommend", "/dev/null", "--history", "i1"], "/dev/null must be the folder of a trained model"),
        (["recommend", "model", "--input", "/nope", "--output", "o.jsonl"], "--input must be a file that is there"),
        (["recommend", "model", "--input", "", "--output", "o.jsonl"], "--input must"),
        (["recommend", "model", "--input", "t.txt", "--output", "t.txt"], "--output must be another file than --input"),
        (["recommend", "model", "--input", "t.txt", "--output", "/nope/x"], "the folder of --output must exist"),
    ],
)
def test_evaluate_and_recommend(arguments, text, place, monkeypatch, capsys):
    status, error = said(place, monkeypatch, capsys, arguments)
    assert status == 2
    assert text in error


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["/nope"], "/nope: cannot be read: No such file or directory"),
        (["/dev/null"], "/dev/null: not a .npy array: No data left"),
        (["file"], "file: not a .npy array: it holds Python objects, or is another kind of file"),
        (["nan.npy"], "nan.npy: row 0 holds a value that is not finite"),
        (["one.npy"], "got 1; codebook_sizes (--tokenizer.codebook-sizes) may be smaller"),
        (["t.txt"], "--encoder must be a folder with a sentence-transformers model, as t.txt holds texts"),
        (
            ["t.txt", "--encoder", "/nope"],
            "--encoder must be a folder with a sentence-transformers model",
        ),
        (["data"], "source must hold item features for this kind, got none"),
        (["f.npy", "--kind", "nope"], "--kind must be one of atomic, collaborative"),
        (["f.npy", "--kind=pq", "--kind", "rqvae"], "--kind must be given once"),
        (
            ["f.npy", "--kind", "collaborative"],
            "histories must be given (of the training split), got None; give a",
        ),
        (["f.npy", "--tokenizer.codebook-sizes", "0"], "--tokenizer.codebook-sizes must be in [1, 65536]"),
        (["f.npy", "--categories", "short.npy"], "short.npy: must have a row for each of 300 items, got [3]"),
        (["f.npy", "--categories", "data"], "data: cannot be read: Is a directory"),
        (["f.npy", "--categories", ""], "tokenize: --categories must name a file or folder, got ''"),
        (["f.npy", "--category-columns", "x"], "--category-columns must not be given for f.npy"),
        (["f.npy", "--user", "x"], "--user must not be given for f.npy, which is no dataset"),
        (["f.npy", "--tokenizer.codebook-sizes", "4", "--out", "file"], "file must be written, got: File exists"),
    ],
)
def test_tokenize(arguments, text, place, monkeypatch, capsys):
    out = [] if "--out" in arguments else ["--out", "out"]
    status, error = said(place, monkeypatch, capsys, ["tokenize", *arguments, *out, "--threads", "1", "--quiet"])
    assert status == 2
    assert text in error


def test_tags_that_are_not_there_name_the_flag(place):
    config = RQVAEConfig(codebook_sizes=(4,), steps=2, regularisers=(TagSupervisionConfig(),))
    with pytest.raises(InvalidValueError, match="categories must be given to fit, got None; give --categories, or a"):
        tokenize(read_source(place / "f.npy"), place / "out", config)
