from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.ops.reference.trie_build import trie_build as twin
from genrec_fast.ops.trie_build import TrieParts, trie_build

TORCH_DTYPES = (
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
)
NUMPY_DTYPES = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i4", ">u2")


def assert_equal(a: TrieParts, b: TrieParts) -> None:
    assert a.codebook_sizes == b.codebook_sizes
    assert a.num_items == b.num_items
    tensors_a = [*a.tokens, *a.child_bases, *a.child_deltas, *a[5:]]
    tensors_b = [*b.tokens, *b.child_bases, *b.child_deltas, *b[5:]]
    assert len(tensors_a) == len(tensors_b)
    for x, y in zip(tensors_a, tensors_b, strict=True):
        assert x.dtype == y.dtype
        assert x.numpy().tolist() == y.numpy().tolist()


@st.composite
def catalogs(draw: st.DrawFn) -> tuple[torch.Tensor, list[int] | None]:
    num_levels = draw(st.integers(1, 8))
    sizes = draw(
        st.lists(st.sampled_from([1, 2, 3, 7, 256, 257, 2048, 65536]), min_size=num_levels, max_size=num_levels)
    )
    num_items = draw(st.integers(1, 400))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([2, 5, 65536]))  # few different codes: long shared prefixes and duplicates
    codes = np.stack([rng.integers(0, min(size, spread), num_items) for size in sizes], axis=1)
    if draw(st.booleans()):  # the far end of each codebook
        codes = np.array(sizes) - 1 - codes
    return torch.from_numpy(codes), draw(st.sampled_from([None, sizes]))


@given(catalogs())
def test_equals_its_twin(catalog: tuple[torch.Tensor, list[int] | None]) -> None:
    codes, sizes = catalog
    assert_equal(trie_build(codes, sizes), twin(codes, sizes))


@pytest.mark.parametrize("fan_out", [255, 256, 65535, 65536])
def test_offsets_are_as_wide_as_they_must_be(fan_out: int) -> None:
    codes = torch.zeros(fan_out, 2, dtype=torch.int64)
    codes[:, 1] = torch.randperm(fan_out)
    parts = trie_build(codes)
    assert_equal(parts, twin(codes))
    assert parts.child_deltas[1].element_size() == (1 if fan_out < 256 else 2 if fan_out < 65536 else 4)
    repeated = trie_build(torch.zeros(fan_out, 1, dtype=torch.int64))
    assert repeated.leaf_deltas.element_size() == parts.child_deltas[1].element_size()
    assert repeated.leaf_items.tolist() == list(range(fan_out))


def test_eight_levels_of_65536_codes_need_two_words() -> None:
    codes = torch.randint(0, 65536, (3000, 8), generator=torch.Generator().manual_seed(0))
    codes[1000:2000, :4] = codes[:1000, :4]  # the words must both count
    codes[2000:, 4:] = codes[:1000, 4:]
    codes[0], codes[1] = 0, 65535
    assert_equal(trie_build(codes), twin(codes))


@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=str)
def test_every_torch_integer(dtype: torch.dtype) -> None:
    codes = torch.randint(0, 128, (200, 3), generator=torch.Generator().manual_seed(1))
    assert_equal(trie_build(codes.to(dtype)), twin(codes))


@pytest.mark.parametrize("dtype", NUMPY_DTYPES)
def test_every_numpy_integer(dtype: str) -> None:
    codes = np.random.default_rng(2).integers(0, 128, (200, 3))
    assert_equal(trie_build(codes.astype(dtype)), twin(torch.from_numpy(codes)))


def test_any_strides_and_read_only_memory() -> None:
    wide = np.random.default_rng(3).integers(0, 300, (6, 400)).astype(np.uint16)
    packed = np.zeros(200, dtype=[("flag", "u1"), ("codes", "<i4", (3,))])  # codes at odd addresses
    packed["codes"] = wide[:3, :200].T
    wide.setflags(write=False)
    for codes in (wide[::2, ::2].T, wide[::-1, ::-3].T, np.broadcast_to(wide[:4, 0], (5, 4)), packed["codes"]):
        assert_equal(trie_build(codes), twin(torch.from_numpy(codes.astype(np.int64))))
    tensor = torch.from_numpy(wide.astype(np.int64))[1:5, 3::7].T
    assert_equal(trie_build(tensor), twin(tensor.contiguous()))
    assert_equal(trie_build(tensor.tolist()), twin(tensor.contiguous()))


def test_one_item_and_one_level() -> None:
    parts = trie_build([[7]])
    assert parts.codebook_sizes == (8,)
    assert [t.tolist() for t in parts.tokens] == [[7]]
    assert parts.leaf_items.tolist() == [0]
    assert_equal(trie_build([[0, 0, 0]]), twin(torch.zeros(1, 3, dtype=torch.int64)))


@pytest.mark.parametrize(
    ("codes", "sizes", "error", "text"),
    [
        ([[0, 1], [2, -1]], None, InvalidValueError, r"in \[0, 65536\) at level 1, got -1 for item 1"),
        ([[0, 65536]], None, InvalidValueError, r"in \[0, 65536\) at level 1, got 65536 for item 0"),
        ([[0, 1], [3, 0], [4, 9]], [4, 2], InvalidValueError, r"in \[0, 4\) at level 0, got 4 for item 2"),
        (np.array([[2**64 - 1]], "u8"), None, InvalidValueError, r"got 18446744073709551615 for item 0"),
        (np.array([[1], [-128]], "i1"), None, InvalidValueError, r"got -128 for item 1"),
        ([[0.5]], None, InvalidTypeError, r"must be integers \[N, L\], got float64 \[1, 1\]"),
        (torch.ones(2, 2, dtype=torch.bool), None, InvalidTypeError, r"must be integers \[N, L\], got torch.bool"),
        ([1, 2], None, InvalidValueError, r"must be \[N, L\] with L in \[1, 8\], got \[2\]"),
        (np.zeros((2, 9), int), None, InvalidValueError, r"L in \[1, 8\], got \[2, 9\]"),
        (np.zeros((2, 0), int), None, InvalidValueError, r"L in \[1, 8\], got \[2, 0\]"),
        (np.zeros((0, 2), int), None, InvalidValueError, r"must have 1 to 2147483647 items, got 0"),
        ([[1, 2], [3]], None, InvalidValueError, r"item_codes must be \[N, L\]"),
        ([[1, 2]], [4], InvalidValueError, r"codebook_sizes must have 2 entries, got 1"),
        ([[1, 2]], [4, 65537], InvalidValueError, r"codebook_sizes must be in \[1, 65536\], got 65537 at level 1"),
        ([[0, 2]], [0, 4], InvalidValueError, r"codebook_sizes must be in \[1, 65536\], got 0 at level 0"),
    ],
)
def test_bad_input_is_named(codes: object, sizes: list[int] | None, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match="build_trie: .*" + text):
        trie_build(codes, sizes)


def test_the_bad_item_is_found_far_into_the_catalog() -> None:
    codes = np.zeros((10_000, 2), dtype=np.int32)
    codes[7_777, 1] = 3
    codes[9_000, 0] = 3
    with pytest.raises(InvalidValueError, match="at level 1, got 3 for item 7777"):
        trie_build(codes, [2, 2])
