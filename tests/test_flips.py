"""One altered byte in any file that the library saves: found, or without effect (models: recipe/test_saved.py)."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

import genrec_fast as gf
from genrec_fast.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from shared.flips import check_flips

SAVED = Path(__file__).parent / "fixtures" / "saved_96c562f"
CODES = torch.tensor([[0, 1], [2, 0], [0, 1], [1, 1]], dtype=torch.int32)


def kept(folder, tmp_path):
    return sorted(
        Path(shutil.copy(path, tmp_path))
        for path in (SAVED / folder).glob("*.safetensors")
        if "answers" not in path.name
    )


def tensors_of(trie):
    return dict(trie._named_tensors())


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_a_trie(tmp_path):
    paths = [*kept("tries", tmp_path), tmp_path / "new.safetensors"]
    gf.build_trie(CODES).save(paths[-1])
    assert len(paths) > 1
    for path in paths:
        wanted = gf.Trie.load(path)
        found = check_flips(
            path,
            lambda path=path: gf.Trie.load(path),
            lambda trie, wanted=wanted: (
                equal(tensors_of(trie), tensors_of(wanted)) and trie.codebook_sizes == wanted.codebook_sizes
            ),
            100,
        )
        assert found > 50


def test_a_tokenizer_of_every_kind(tmp_path):
    paths = kept("tokenizers", tmp_path)
    assert len(paths) > 5
    for path in paths:
        wanted = gf.tokenizers.load(path)
        found = check_flips(
            path,
            lambda path=path: gf.tokenizers.load(path),
            lambda read, wanted=wanted: (
                torch.equal(read.item_codes, wanted.item_codes)
                and read.config == wanted.config
                and equal(read._learned(), wanted._learned())
            ),
            100,
        )
        assert found > 50


def test_a_catalog(tmp_path):
    catalog = gf.Catalog(
        item_codes=CODES, codebook_sizes=(3, 2), titles=["a", "b", "c", "d"], features=torch.rand(4, 3)
    )
    _ = catalog.trie
    for name in catalog.save(tmp_path):
        found = check_flips(
            tmp_path / name,
            lambda: gf.Catalog.load(tmp_path),
            lambda read: (
                torch.equal(read.item_codes, catalog.item_codes)
                and torch.equal(read.features, catalog.features)
                and (read.titles, read.codebook_sizes) == (catalog.titles, catalog.codebook_sizes)
                and equal(tensors_of(read.trie), tensors_of(catalog.trie))
            ),
        )
        assert found > 200


def test_a_checkpoint(tmp_path):
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    path = tmp_path / "checkpoint.safetensors"
    weights = {name: tensor.detach() for name, tensor in module.named_parameters()}
    best = {name: tensor + 1 for name, tensor in weights.items()}
    save_checkpoint(path, Progress(step=3, loss_sum=0.1, identity={"seed": 1}), weights, best, optimizer)
    wanted = load_checkpoint(path)
    found = check_flips(
        path,
        lambda: load_checkpoint(path),
        lambda read: (
            read.progress == wanted.progress
            and equal(read.weights, wanted.weights)
            and equal(read.best or {}, wanted.best or {})
            and all(equal(read.optimizer[index], state) for index, state in wanted.optimizer.items())
        ),
    )
    assert found > 200
