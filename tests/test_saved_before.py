"""What people saved at commit 96c562f still loads and still answers; ``fixtures/saved_96c562f/make.py`` wrote it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import genrec_fast as gf

SAVED = Path(__file__).parent / "fixtures" / "saved_96c562f"
MODELS = sorted(path.name for path in (SAVED / "models").iterdir() if path.is_dir())
TRIES = sorted(path.name.removesuffix(".answers.safetensors") for path in (SAVED / "tries").glob("*.answers.*"))
TOKENIZERS = sorted(
    path.name.removesuffix(".answers.safetensors") for path in (SAVED / "tokenizers").glob("*.answers.*")
)


def close(got, want):
    """Scores: torch's products differ between machines; -inf and beyond are what they were."""
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def questions():
    asked = json.loads((SAVED / "models" / "questions.json").read_text(encoding="utf-8"))
    for question in asked:
        lengths = torch.tensor([len(row) for row in question["histories"]])
        question["actions"] = gf.Jagged.from_lengths(torch.tensor(question["actions"]), lengths)
        if "allowed" in question:
            question["allowed"] = torch.tensor(question["allowed"])
            question["exclude"] = gf.Jagged.from_rows(question["exclude"])
    return asked


def test_every_recipe_of_that_day_is_there():
    assert set(MODELS) >= {
        "bert4rec",
        "gru4rec",
        "hstu",
        "hstu_ranking",
        "kuaiformer",
        "marius",
        "pinrec",
        "sasrec",
        "sasrec_bce",
        "sessionrec",
        "tbgrecall",
        "tiger",
    }


def data():
    columns = load_file(SAVED / "data.safetensors")
    events = gf.data.Interactions(
        gf.Jagged(columns["items"], columns["offsets"]),
        columns["timestamps"],
        [f"customer {user}" for user in range(len(columns["offsets"]) - 1)],
        [f"item {item}" for item in range(len(columns["features"]))],
        actions=columns["actions"],
        action_names=("rating>=4", "rating>=5"),
    )
    return gf.data.Dataset("shop", events, features=columns["features"])


def check_answers(model, answers):
    for number, question in enumerate(questions()):
        if f"{number}.items" not in answers:  # not every decoder takes every option
            continue
        found = model.recommend(**question)
        for name in ("items", "codes", "exact"):
            assert torch.equal(getattr(found, name), answers[f"{number}.{name}"]), (number, name)
        for name in ("scores", "bound"):
            close(getattr(found, name), answers[f"{number}.{name}"])


@pytest.mark.parametrize("name", MODELS)
def test_a_model_answers_as_before(name):
    check_answers(gf.load(SAVED / "models" / name), load_file(SAVED / "models" / name / "answers.safetensors"))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_is_saved_again_answers_as_before(name, tmp_path):
    gf.load(SAVED / "models" / name).save(tmp_path)
    check_answers(gf.load(tmp_path), load_file(SAVED / "models" / name / "answers.safetensors"))


def test_a_training_is_found_finished(tmp_path):
    """The same call as then, with the checkpoint that it left: not a step is taken, and the weights are the same."""
    out = Path(shutil.copytree(SAVED / "training", tmp_path / "out"))
    before, log = gf.load(out), (out / "log.jsonl").read_text(encoding="utf-8")
    after = gf.train(before.recipe, data(), seed=0, out=out, device="cpu", show_progress=False)
    assert (out / "log.jsonl").read_text(encoding="utf-8") == log
    for name, tensor in before.backbone.state_dict().items():
        assert torch.equal(tensor, after.backbone.state_dict()[name]), name


@pytest.mark.parametrize("name", TRIES)
def test_a_trie_holds_what_it_held(name):
    trie, answers = (
        gf.Trie.load(SAVED / "tries" / f"{name}.safetensors"),
        load_file(SAVED / "tries" / f"{name}.answers.safetensors"),
    )
    rows = trie.lookup(answers["codes"].int())
    assert torch.equal(rows, answers["rows"])
    items = trie.items(rows)
    assert torch.equal(items.values, answers["items"])
    assert torch.equal(items.offsets, answers["offsets"])
    assert torch.equal(trie.valid_codes(0, torch.zeros(1, dtype=torch.int64)), answers["first"])


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_gives_the_codes_it_gave(name):
    folder = SAVED / "tokenizers"
    tokenizer, answers = (
        gf.tokenizers.load(folder / f"{name}.safetensors"),
        load_file(folder / f"{name}.answers.safetensors"),
    )
    assert torch.equal(tokenizer.item_codes, answers["item_codes"])
    assert list(tokenizer.codebook_sizes) == answers["codebook_sizes"].tolist()
    if "encoded" in answers:
        features = load_file(SAVED / "data.safetensors")["features"]
        assert torch.equal(tokenizer.encode(features), answers["encoded"])
        close(tokenizer.decode(answers["encoded"]), answers["decoded"])
