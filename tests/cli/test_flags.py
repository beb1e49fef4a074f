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
