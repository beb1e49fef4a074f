from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_fast import ops
from genrec_fast.base.errors import DataError, InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.tokenizers import (
    PublishedConfig,
    add_dedup_level,
    from_faiss,
    from_text,
    pack_codes,
    read_index_json,
    reassign,
    resolve,
    to_faiss,
    to_text,
    unpack_codes,
    write_index_json,
)


@pytest.mark.parametrize("first", [0, 1, 7])
def test_index_json_comes_back_and_published_reads_it(tmp_path, first):
    codes = torch.randint(300, (20, 4), generator=torch.Generator().manual_seed(0))
    write_index_json(tmp_path / "index.json", codes, first=first)
    assert torch.equal(read_index_json(tmp_path / "index.json", first=first), codes.int())
    tokenizer = PublishedConfig(path=str(tmp_path / "index.json"), first=first).build()
    tokenizer.fit(num_items=20)
    assert torch.equal(tokenizer.item_codes, codes.int())
    assert not list(tmp_path.glob(".*"))


def test_index_json_errors(tmp_path):
    path = tmp_path / "index.json"
    codes = torch.zeros(2, 27, dtype=torch.int64)
    with pytest.raises(InvalidValueError, match="write_index_json: item_codes must have at most 26 levels"):
        write_index_json(path, codes)
    with pytest.raises(InvalidValueError, match="write_index_json: first must be at least 0, got -1"):
        write_index_json(path, codes[:, :2], first=-1)
    with pytest.raises(InvalidTypeError, match="read_index_json: first must be an int, got 'a'"):
        read_index_json(path, first="a")
    with pytest.raises(InvalidTypeError, match=r"write_index_json: item_codes must be integers \[N, L\], got torch.fl"):
        write_index_json(path, codes.float())
    assert not path.exists()
    with pytest.raises(DataError, match=r"index.json: cannot be read"):
        read_index_json(path)
    path.write_text('{"0": ["<a_1>"], "1": ["<a_1>", "<b_2>"]}')
    with pytest.raises(DataError, match=r"index.json: item '1' has 2 codes, the items before it have 1"):
        read_index_json(path)


@given(st.integers(0, 10_000), st.lists(st.sampled_from([2, 3, 4, 37, 256, 1000, 65536]), min_size=1, max_size=5))
def test_packed_codes_come_back(seed, sizes):
    generator = torch.Generator().manual_seed(seed)
    rows = seed % 7
    codes = torch.stack([torch.randint(size, (rows,), generator=generator) for size in sizes], 1).int()
    packed = pack_codes(codes, sizes)
    assert torch.equal(unpack_codes(packed, sizes), codes)
    for row, code in zip(packed.tolist(), codes.tolist(), strict=True):  # one long number, low bits first
        number = place = 0
        for value, size in zip(code, sizes, strict=True):
            number += value << place
            place += (size - 1).bit_length()
        assert bytes(row) == number.to_bytes(len(row), "little")


def test_faiss_and_ours_agree_both_ways():
    pytest.importorskip("faiss")
    generator = torch.Generator().manual_seed(0)
    books = [torch.randn(size, 12, generator=generator) / (level + 1) for level, size in enumerate((16, 4, 64))]
    x = torch.randn(500, 12, generator=generator)
    rq = to_faiss(books)
    assert [torch.equal(a, b) for a, b in zip(from_faiss(rq), books, strict=True)] == [True] * 3
    codes = ops.rq_encode(x, books)
    packed = rq.compute_codes(x.numpy())
    assert torch.equal(unpack_codes(torch.from_numpy(packed), (16, 4, 64)), codes)
    assert torch.equal(pack_codes(codes, (16, 4, 64)), torch.from_numpy(packed))
    decoded = torch.from_numpy(rq.decode(packed))
    assert torch.allclose(decoded, ops.rq_decode(codes, books), atol=1e-5)


def test_what_faiss_trained_is_read():
    faiss = pytest.importorskip("faiss")
    x = torch.randn(400, 8, generator=torch.Generator().manual_seed(1))
    rq = faiss.ResidualQuantizer(8, 3, 4)
    with pytest.raises(InvalidValueError, match="from_faiss: quantizer must be trained, got one without codebooks"):
        from_faiss(rq)
    rq.max_beam_size = 1
    rq.train(x.numpy())
    books = from_faiss(rq)
    assert [list(book.shape) for book in books] == [[16, 8]] * 3
    found = unpack_codes(torch.from_numpy(rq.compute_codes(x.numpy())), (16, 16, 16))
    assert torch.equal(found, ops.rq_encode(x, books))
    index = faiss.IndexResidualQuantizer(8, 3, 4)
    with pytest.raises(InvalidTypeError, match=r"must be a faiss.ResidualQuantizer, got IndexResidualQuantizer"):
        from_faiss(index)


BOOK = torch.ones(4, 2)


@pytest.mark.parametrize(
    ("books", "error", "text"),
    [
        (
            [torch.ones(3, 2)],
            InvalidValueError,
            r"sizes must be powers of two from 2 to 65536, .* got \(3,",
        ),
        ([BOOK[:1]], InvalidValueError, r"sizes must be powers of two from 2 to 65536, .* got \(1,"),
        ([], InvalidValueError, "codebooks must be one per level, got none"),
        ([BOOK.int()], InvalidTypeError, r"codebooks must be float tensors \[K, D\], got torch.int32 at level 0"),
        ([BOOK, BOOK[:, :1]], InvalidValueError, r"codebooks must be \[K, D\] of one D, got \[4, 1\] at level 1"),
        ([BOOK / 0], InvalidValueError, "codebooks must be finite, got NaN or infinity at level 0"),
    ],
)
def test_codebooks_that_faiss_cannot_have(books, error, text):
    pytest.importorskip("faiss")
    with pytest.raises(error, match=f"to_faiss: .*{text}"):
        to_faiss(books)


def test_packing_errors(monkeypatch):
    codes = torch.tensor([[3, 2]])
    with pytest.raises(InvalidValueError, match=r"pack_codes: codes of level 1 must be in \[0, 2\), got 2"):
        pack_codes(codes, (4, 2))
    with pytest.raises(InvalidValueError, match=r"pack_codes: codebook sizes must be integers from 2 .* got \(4, 1\)"):
        pack_codes(codes, (4, 1))
    with pytest.raises(InvalidValueError, match=r"unpack_codes: packed must be \[m, 2\], got \[1, 1\]"):
        unpack_codes(torch.zeros(1, 1, dtype=torch.uint8), (256, 4))
    with pytest.raises(InvalidTypeError, match=r"unpack_codes: packed must be uint8 \[m, 1\], got torch.int64"):
        unpack_codes(codes, (4, 4))
    with pytest.raises(InvalidValueError, match=r"unpack_codes: codes of level 0 must be in \[0, 3\), got 3"):
        unpack_codes(torch.from_numpy(np.array([[3]], dtype=np.uint8)), (3,))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UnsupportedError, match="to_faiss: needs faiss, which is not installed"):
        to_faiss([BOOK])


@pytest.mark.parametrize("wrong", [None, 3, True, 2.5, "x", [[1]], {}, object()])
def test_other_kinds_are_named(wrong):
    codes = torch.zeros(2, 1, dtype=torch.int64)
    books, sizes = [torch.randn(4, 3)], (4,)
    calls = [
        lambda: to_text(wrong),
        lambda: from_text([wrong]) if isinstance(wrong, str) else from_text(wrong if wrong != {} else [wrong]),
        lambda: pack_codes(codes, wrong),
        lambda: unpack_codes(torch.zeros(1, 1, dtype=torch.uint8), wrong),
        lambda: resolve(codes, wrong, "rank"),
        lambda: resolve(codes, sizes, wrong),
        lambda: add_dedup_level(codes, wrong, "rank"),
        lambda: reassign(codes, torch.randn(2, 3), wrong),
        lambda: reassign(codes, torch.randn(2, 3).to_sparse(), books),
        lambda: reassign(codes, torch.randn(2, 3), books, method=wrong),
        lambda: to_faiss(wrong),
    ]
    for call in calls:
        with pytest.raises((InvalidTypeError, InvalidValueError), match=r"must (be|have)"):
            call()
