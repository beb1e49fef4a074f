from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest
import torch

from genrec_fast import tokenizers
from genrec_fast.base.errors import CorruptFileError, DataError
from genrec_fast.cli import main
from genrec_fast.cli.tokenize_files import kinds
from shared.catalogs import wide
from shared.flips import check_flips


@pytest.fixture
def vectors(tmp_path):
    values = np.random.default_rng(0).normal(size=(60, 8))
    np.save(tmp_path / "x.npy", values.astype(np.float16))
    return tmp_path / "x.npy"


def test_features_to_codes_tokenizer_and_report(vectors, tmp_path, capsys):
    out = tmp_path / "out"
    np.save(tmp_path / "kinds.npy", np.arange(60) % 5)
    options = ["--tokenizer.codebook-sizes", "4", "6", "--categories", str(tmp_path / "kinds.npy"), "--quiet"]
    assert main(["tokenize", str(vectors), "--out", str(out), *options]) == 0
    said = capsys.readouterr().out
    assert "collision rate" in said
    assert "by chance" in said
    assert {path.name for path in out.iterdir()} == {
        "item_codes.npy",
        "item_codes.json",
        "tokenizer.safetensors",
        "report.txt",
        "report.json",
        "report.png",
    }
    codes = torch.from_numpy(np.load(out / "item_codes.npy"))
    tokenizer = tokenizers.load(out / "tokenizer.safetensors")
    assert torch.equal(tokenizer.item_codes, codes)
    assert torch.equal(tokenizers.read_index_json(out / "item_codes.json"), codes)
    told = json.loads((out / "report.json").read_text())
    assert told["kind"] == "rqkmeans"
    assert told["num_items"] == 60
    assert told["levels"][0]["codebook_size"] == 4
    assert told["levels"][1]["mse"] < told["variance"]
    assert (out / "report.txt").read_text().splitlines()[1] in said


def test_every_flip_in_a_tokenizers_folder_is_found_or_harmless(vectors, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["tokenize", str(vectors), "--out", str(out), "--tokenizer.codebook-sizes", "4", "6", "--quiet"]) == 0
    capsys.readouterr()
    codes = torch.from_numpy(np.load(out / "item_codes.npy"))

    def read():
        learned = tokenizers.load(out / "tokenizer.safetensors").item_codes
        try:
            return learned, tokenizers.read_index_json(out / "item_codes.json")
        except DataError as error:  # a file of others says so
            raise CorruptFileError(str(error)) from error

    for name in ("item_codes.json", "tokenizer.safetensors", "report.json"):
        found = check_flips(out / name, read, lambda both: all(torch.equal(one, codes) for one in both))
        assert found > (0 if name == "report.json" else 200)  # a report is mostly figures, which nobody reads here
    text = (out / "item_codes.json").read_text().replace("<a_1>", "<a_2>")
    (out / "item_codes.json").write_text(text)
    with pytest.raises(CorruptFileError, match=r"item_codes\.json: must be as 'genrec-fast tokenize' wrote it"):
        tokenizers.read_index_json(out / "item_codes.json")
    (out / "report.json").unlink()
    assert not torch.equal(tokenizers.read_index_json(out / "item_codes.json"), codes)


@pytest.mark.parametrize("kind", ["random", "rqkmeans"])
def test_the_kind_decides_the_options(vectors, tmp_path, kind, capsys):
    assert set(kinds()) >= {"atomic", "random", "rqkmeans", "rqvae"}
    options = [f"--kind={kind}", "--tokenizer.codebook-sizes", "8", "8", "--seed", "3"]
    assert main(["tokenize", str(vectors), "--out", str(tmp_path / kind), *options, "--quiet"]) == 0
    capsys.readouterr()
    config = kinds()[kind](codebook_sizes=(8, 8))
    tokenizer = config.build(wide(8))
    tokenizer.fit(torch.from_numpy(np.load(vectors).astype(np.float32)), seed=3)
    assert np.array_equal(np.load(tmp_path / kind / "item_codes.npy"), tokenizer.item_codes.numpy())


def test_every_kind_lists_its_settings(capsys):
    for kind in kinds():
        with pytest.raises(SystemExit) as done:
            main(["tokenize", "--kind", kind, "--help"])
        assert done.value.code == 0
        assert "--kind" in capsys.readouterr().out


class Encoder:
    def __init__(self, folder, device, local_files_only):
        self.folder = folder

    def encode(self, texts, **options):
        return torch.tensor([[len(text), text.count(" "), text.count("e")] for text in texts]).double()


def test_texts_through_an_encoder(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=Encoder))
    (tmp_path / "modules.json").write_text("[]")
    rows = [f"{'pen ' * (i % 7)}no {i * 111}\t{'ab'[i % 2]}" for i in range(20)]
    (tmp_path / "items.tsv").write_text("title\tkind\n" + "\n".join(rows) + "\n")
    arguments = ["tokenize", str(tmp_path / "items.tsv"), "--out", str(tmp_path / "out"), "--quiet"]
    assert main(arguments) == 2
    assert "encoder must be a folder with a sentence-transformers model, as items.tsv holds texts" in (
        capsys.readouterr().err
    )
    arguments += ["--encoder", str(tmp_path), "--category-columns", "kind", "--tokenizer.codebook-sizes", "3", "3"]
    assert main(arguments) == 0
    assert "purity" in capsys.readouterr().out
    assert np.load(tmp_path / "out" / "item_codes.npy").shape[0] == 20


def test_what_the_caller_can_mend_is_one_line(vectors, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out"), "--quiet"]
    for arguments, text in (
        ([str(vectors), "--kind", "magic"], "tokenize: --kind must be one of atomic,"),
        ([str(vectors), "--text-columns", "title"], "columns must not be given for"),
        ([str(tmp_path / "no.npy")], "no.npy: cannot be read: No such file"),
        ([str(vectors), "--categories", str(vectors)], "must be integers [items] or [items, depth], got float16"),
        ([str(vectors), "--threads", "0"], "threads must be in [1, 4096], got 0"),
    ):
        assert main(["tokenize", *arguments, *out]) == 2
        error = capsys.readouterr().err
        assert text in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
