"""No op reads the address of anything but a tensor with data here: unchecked, the process dies or returns noise."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch

from genrec_fast.base.errors import CorruptFileError, InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.trie import Trie, build_trie
from genrec_fast.ops.trie_filter import trie_filter
from genrec_fast.ops.trie_step import trie_step

CODES = torch.tensor([[0, 1], [1, 0], [1, 2], [0, 1]])
TRIE = build_trie(CODES, codebook_sizes=(2, 3))
START = {"logits": torch.zeros(1, 1, 2), "nodes": torch.zeros(1, 1, dtype=torch.int32), "scores": torch.zeros(1, 1)}


def step(trie=TRIE, level=0, num_beams=2, allowed=None, exclude=None, **change):
    return trie_step(trie, level, *{**START, **change}.values(), num_beams=num_beams, allowed=allowed, exclude=exclude)


@pytest.mark.parametrize("name", ["logits", "nodes", "scores"])
def test_a_step_refuses_other_devices_and_other_things(name):
    with pytest.raises(InvalidValueError, match=f"trie_step: {name} must be on cpu like the trie, got meta"):
        step(**{name: START[name].to("meta")})
    with pytest.raises(InvalidTypeError, match=f"trie_step: {name} must be a tensor, got list"):
        step(**{name: START[name].tolist()})
    with pytest.raises(InvalidTypeError, match=f"trie_step: {name} must be a tensor, got ndarray"):
        step(**{name: START[name].numpy()})


def test_a_trie_on_another_device_is_refused():
    away = TRIE.to("meta")
    with pytest.raises(
        InvalidValueError, match="tokens of level 0 must be contiguous on the CPU, got a tensor on meta"
    ):
        step(trie=away)
    with pytest.raises(InvalidValueError, match=r"trie_lookup: tokens\[0\] must have data, got a tensor on meta"):
        away.lookup(CODES)


@pytest.mark.parametrize("value", [1.5, "1", None])
def test_numbers_are_whole(value):
    with pytest.raises(InvalidTypeError, match=r"trie_step: level must be an int, got"):
        step(level=value)
    with pytest.raises(InvalidTypeError, match=r"trie_step: num_beams must be an int, got"):
        step(num_beams=value)
    with pytest.raises(InvalidTypeError, match=r"Trie.valid_codes: level must be an int, got"):
        TRIE.valid_codes(value, torch.tensor([0]))
    with pytest.raises(InvalidTypeError, match=r"build_trie: codebook_sizes must be an int, got"):
        build_trie(CODES, codebook_sizes=[2, value])
    assert step(num_beams=np.int64(2)).scores.shape == (1, 2)


def test_a_filter_refuses_what_it_cannot_read():
    with pytest.raises(InvalidValueError, match=r"trie_filter: allowed must be on cpu like the trie, got meta"):
        step(allowed=torch.ones(4, dtype=torch.bool, device="meta"))
    with pytest.raises(InvalidTypeError, match=r"trie_filter: allowed must be a tensor, got list"):
        step(allowed=[True] * 4)
    for values, offsets in (("meta", "cpu"), ("cpu", "meta")):
        away = Jagged(torch.zeros(1, dtype=torch.int64, device=values), torch.tensor([0, 1], device=offsets))
        with pytest.raises(InvalidValueError, match=r"trie_filter: .* must be on cpu like the trie, got meta"):
            step(exclude=away)
    with pytest.raises(InvalidTypeError, match=r"trie_filter: exclude must be Jagged .*, got list"):
        step(exclude=[[1]])


def test_a_filter_of_no_users_serves_none():
    with pytest.raises(InvalidValueError, match=r"must be for 1 users like logits, got 0"):
        step(allowed=torch.ones(0, 4, dtype=torch.bool))


def test_a_filter_of_another_trie_of_the_same_size_is_refused():
    other = build_trie(CODES.flip(0), codebook_sizes=(2, 3))
    assert other.num_rows == TRIE.num_rows
    with pytest.raises(InvalidValueError, match=r"allowed must be a filter of this trie, got one of another trie"):
        step(allowed=trie_filter(other, allowed=torch.ones(4, dtype=torch.bool)))
    twin = build_trie(CODES, codebook_sizes=(2, 3))  # the same catalog in other memory
    assert step(allowed=trie_filter(twin, allowed=torch.ones(4, dtype=torch.bool))).nodes.tolist() == [[0, 1]]


def test_keeps_refuses_strangers():
    flt = trie_filter(TRIE, exclude=Jagged.from_rows([[1], []]))
    one = torch.tensor([1])
    assert flt.keeps(torch.tensor([0, 1]), torch.tensor([1, 1])).tolist() == [False, True]
    with pytest.raises(InvalidValueError, match=r"TrieFilter.keeps: items must be in \[0, 4\), got 4"):
        flt.keeps(one, torch.tensor([4]))
    with pytest.raises(InvalidValueError, match=r"TrieFilter.keeps: items must be in \[0, 4\), got -1"):
        flt.keeps(one, torch.tensor([-1]))
    with pytest.raises(InvalidValueError, match=r"TrieFilter.keeps: users must be in \[0, 2\), got 2"):
        flt.keeps(torch.tensor([2]), one)
    with pytest.raises(
        InvalidValueError, match=r"TrieFilter.keeps: users and items must be \[M\], got \[1\] and \[2\]"
    ):
        flt.keeps(one, torch.tensor([1, 2]))
    with pytest.raises(InvalidTypeError, match=r"TrieFilter.keeps: users and items must be int64, got int32 and int64"):
        flt.keeps(one.int(), one)


def test_a_trie_is_built_and_asked_with_dense_tensors_only():
    with pytest.raises(InvalidTypeError, match=r"build_trie: item_codes must be a dense tensor, got torch.sparse_coo"):
        build_trie(CODES.to_sparse())
    with pytest.raises(InvalidValueError, match=r"build_trie: item_codes must have data, got a tensor on meta"):
        build_trie(CODES.to("meta"))
    with pytest.raises(InvalidTypeError, match=r"build_trie: codebook_sizes must be a sequence of ints, got 5"):
        build_trie(CODES, codebook_sizes=5)
    with pytest.raises(InvalidTypeError, match=r"trie_lookup: codes must be a tensor, got ndarray"):
        TRIE.lookup(CODES.numpy())
    with pytest.raises(InvalidTypeError, match=r"Trie.items: rows must be a tensor, got int"):
        TRIE.items(0)
    with pytest.raises(InvalidValueError, match=r"Trie.valid_codes: nodes must be \[M\], got \[1, 2\]"):
        TRIE.valid_codes(1, torch.tensor([[0, 1]]))


@pytest.mark.parametrize("sizes", ["[Infinity, 1]", "[" * 100_000])
def test_a_header_no_reader_can_follow_is_a_corrupt_file(tmp_path, sizes):
    path = tmp_path / "a.safetensors"
    TRIE.save(path)
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header["__metadata__"]["codebook_sizes"] = sizes
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])
    with pytest.raises(CorruptFileError, match=r"must be a whole trie file, got: unreadable metadata"):
        Trie.load(path)


def test_a_trie_is_a_file_in_a_folder_that_is_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Trie.load: path must name a file"):
        Trie.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"write: the folder of .* must exist, got"):
        TRIE.save(tmp_path / "none" / "a.safetensors")
