from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass

import pytest

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.query import Options
from genrec_fast.cli import main
from genrec_fast.cli.commands import serve
from genrec_fast.cli.evaluate import Evaluate
from genrec_fast.cli.flags import check_once, flags_of, in_flags
from genrec_fast.cli.recommend import FLAGS, recommend

KNOWN = {"num_beams": "--num-beams", "histories": "--history", "k": "-k", "TrainConfig: epochs": "--train.epochs"}


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("recommend: num_beams must be at least 1, got 0", "recommend: --num-beams must be at least 1, got 0"),
        ("num_beams must be at least 1, got 0", "--num-beams must be at least 1, got 0"),
        ("recommend: k must be an int, got 'k must be'", "recommend: -k must be an int, got 'k must be'"),
        ("recommend: each item of histories must be one", "recommend: each item of --history must be one"),
        ("recommend: options must be words", "recommend: options must be words"),
        ("data.load: k must be None or a column", "data.load: -k must be None or a column"),
        ("TrainConfig: epochs must be at least 1", "TrainConfig: --train.epochs must be at least 1"),
        ("HSTUConfig: epochs must be at least 1", "HSTUConfig: epochs must be at least 1"),
        ("load: /tmp/k must hold a trained model", "load: /tmp/k must hold a trained model"),
        ("k and num_beams do not fit", "k and num_beams do not fit"),
    ],
)
def test_an_error_names_the_flag(said, told):
    for kind in (InvalidValueError, InvalidTypeError):
        with pytest.raises(kind) as raised, in_flags(KNOWN):
            raise kind(said)
        assert str(raised.value) == told


def test_flags_are_those_of_the_command_and_its_groups():
    found = flags_of(recommend)
    assert (found["k"], found["exclude_seen"], found["threads"]) == ("--k", "--exclude-seen", "--threads")
    assert "model" not in found  # it stands alone
    assert flags_of(Evaluate)["timestamp"] == "--timestamp"
    assert flags_of(serve)["port"] == "--port"


def test_every_option_of_recommend_can_be_asked_from_the_command_line():
    assert {"histories", "k", *Options.__annotations__} <= set(FLAGS)
    assert set(FLAGS.values()) <= {"-k", *flags_of(recommend).values()}


def test_a_list_stands_behind_one_flag(capsys):
    check_once("recommend", ["--history", "a", "b", "--allowed=c"], ("--history", "--allowed"))
    assert main(["evaluate", "model", "--data", "data", "--allowed", "a", "--allowed=b"]) == 2
    assert capsys.readouterr().err == (
        "genrec-fast: evaluate: --allowed must be given once, with all of its list behind it, got it 2 times\n"
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--train.epochs", "0"], "TrainConfig: --train.epochs must be at least 1, got 0"),
        (["--backbone.num-heads", "7"], "CausalConfig: --backbone.num-heads must divide width = 128, got 7"),
        (["--objective.label-smoothing", "2"], "FullSoftmaxConfig: --objective.label-smoothing must be in [0, 1)"),
    ],
)
def test_a_setting_of_a_part_is_named_by_its_flag(capsys, tmp_path, options, text):
    assert main(["train", "sasrec", "--data", str(tmp_path), "--out", str(tmp_path / "out"), *options]) == 2
    assert capsys.readouterr().err.startswith(f"genrec-fast: {text}")


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("train sasrec --train.epochs x", "train: --train.epochs must be a whole number, got 'x'"),
        ("train sasrec --train.epochs=1.5 --seed 3", "train: --train.epochs must be a whole number, got '1.5'"),
        ("train sasrec --min-rating abc", "train: --min-rating must be a number, got 'abc'"),
        ("train sasrec --threads q", "train: --threads must be a whole number, got 'q'"),
        ("train sasrec --time-split 80%", "train: --time-split must have 2 values, got '80%'"),
        ("train sasrec --seed", "train: --seed must have a value, got none"),
        (
            "train sasrec --train.schedule x",
            "train: --train.schedule must be one of cosine, linear, inverse_sqrt, constant, got 'x'",
        ),
        (
            "tokenize f.npy --tokenizer.codebook-sizes 3 x",
            "--tokenizer.codebook-sizes must be whole numbers, got '3 x'",
        ),
        ("recommend model -k x", "recommend: --k must be a whole number, got 'x'"),
        ("recommend model --unknown z", "recommend: --unknown must be one of refuse, skip, got 'z'"),
        ("recommend model --input a --output b -k x", "recommend: --k must be a whole number, got 'x'"),
        ("evaluate model --data d --split z", "evaluate: --split must be one of test, validation, got 'z'"),
        ("serve model --port x", "serve: --port must be a whole number, got 'x'"),
        ("quickstart --k x", "quickstart: --k must be a whole number, got 'x'"),
    ],
)
def test_a_value_of_a_wrong_type_is_said_in_the_houses_words(capsys, command, text):
    words = command.split()
    out = {"train": ["--data", "d", "--out", "o"], "tokenize": ["--out", "o"]}.get(words[0], [])
    # before a flag that is tried last, so that it may lack its value
    place = 2 if len(words) > 2 else 1
    assert main([*words[:place], *out, *words[place:]]) == 2
    error = capsys.readouterr().err
    assert text in error and error.startswith("genrec-fast: ") and error.count("\n") == 1


def test_what_the_parser_says_is_said(capsys, tmp_path):
    with pytest.raises(SystemExit, match="2"):
        main(["train", "sasrec", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--train.epoch", "3"])
    assert "--train.epoch" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        main(["train", "sasrec", "--help"])
    assert "--train.epochs" in capsys.readouterr().out


@dataclass
class Inner:
    depth: int = 1


@dataclass
class Outer:
    inner: Inner = field(default_factory=Inner)


def test_configs_within_configs_have_flags():
    assert flags_of(make_dataclass("Command", [("part", Outer)]))["Inner: depth"] == "--part.inner.depth"
