from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from genrec_fast import tokenizers
from genrec_fast.base.errors import CorruptFileError, InvalidTypeError, InvalidValueError
from genrec_fast.base.files import checksum
from genrec_fast.tokenizers import RandomConfig, load
from genrec_fast.tokenizers.base import Tokenizer


def saved(path):
    tokenizer = RandomConfig(codebook_sizes=(4, 3)).build()
    tokenizer.fit(num_items=9)
    tokenizer.save(path)
    return tokenizer


def rewrite(path, drop=(), **changes):
    """The file with other metadata, whole by its checksum."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = {name: tensor for name, tensor in load_file(path).items() if name not in drop}
    del metadata["checksum"]
    metadata |= changes
    save_file(tensors, path, metadata | {"checksum": checksum(metadata, tensors)})


def test_load_names_a_kind_it_does_not_know(tmp_path):
    path = tmp_path / "tok.safetensors"
    saved(path)
    rewrite(path, kind="genrec_fast.tokenizer.magic")
    with pytest.raises(CorruptFileError, match=r"load: kind in .* must be .* one of atomic, .*random.*, got .*magic"):
        load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(CorruptFileError, match=r"load: kind in .*tok.safetensors must be .*, got None"):
        load(path)
    path.write_bytes(b"text")
    with pytest.raises(CorruptFileError, match=r"load: .* must be a whole tokenizer file, got"):
        load(path)
    with pytest.raises(FileNotFoundError, match="load: path must name a file, got"):
        load(tmp_path / "no")


@pytest.mark.parametrize(
    ("drop", "changes"),
    [
        (("item_codes",), {}),
        ((), {"config": '{"codebook_sizes": [0]}'}),
        ((), {"config": '{"colour": 1}'}),
        ((), {"config": "no json"}),
        ((), {"codebook_sizes": "5"}),
    ],
)
def test_a_whole_file_of_another_content_is_named(tmp_path, drop, changes):
    path = tmp_path / "tok.safetensors"
    saved(path)
    rewrite(path, drop, **changes)
    with pytest.raises(CorruptFileError, match=r"random: .*tok.safetensors must hold what save wrote, got"):
        load(path)


def test_a_tokenizer_of_ones_own_loads_too(tmp_path):
    class Mine(tokenizers.Random):
        kind = "mine_of_the_test"

    tokenizer = Mine(RandomConfig(), None)
    tokenizer.fit(num_items=3)
    tokenizer.save(tmp_path / "tok.safetensors")
    assert type(load(tmp_path / "tok.safetensors")) is Mine


@pytest.mark.parametrize(
    ("seed", "kind"), [(-1, InvalidValueError), (1 << 63, InvalidValueError), (0.5, InvalidTypeError)]
)
def test_a_seed_that_cannot_be(seed, kind):
    with pytest.raises(kind, match=r"random: seed must be "):
        RandomConfig().build().fit(num_items=3, seed=seed)


def test_a_number_of_items_that_cannot_be():
    tokenizer = RandomConfig().build()
    with pytest.raises(InvalidTypeError, match=r"random: num_items must be an int, got 2.5"):
        tokenizer.fit(num_items=2.5)
    with pytest.raises(InvalidValueError, match=r"random: num_items must be at least 1, got 0"):
        tokenizer.fit(num_items=0)
    with pytest.raises(InvalidTypeError, match=r"random: features must be a tensor \[N, F\], got list"):
        tokenizer.fit([[1.0]])
    assert isinstance(tokenizer, Tokenizer)
