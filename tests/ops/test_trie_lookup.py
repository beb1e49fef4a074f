from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, SlowPathWarning, UnsupportedError
from genrec_fast.catalog.trie import Trie, build_trie
from genrec_fast.ops import _registry
from genrec_fast.ops.reference.trie_lookup import trie_lookup as twin
from genrec_fast.ops.trie_lookup import trie_lookup


def run_twin(trie: Trie, codes: torch.Tensor) -> torch.Tensor:
    return twin(codes, trie.tokens, trie.child_bases, trie.child_deltas, trie.codebook_sizes)


@pytest.fixture(scope="module")
def trie() -> Trie:
    generator = torch.Generator().manual_seed(0)
    return build_trie(torch.randint(0, 300, (20_000, 4), generator=generator), codebook_sizes=[300, 301, 512, 300])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 5), st.sampled_from([1, 2, 6, 300, 65536]), st.integers(0, 2**31), st.data())
def test_equals_its_twin(device: str, num_levels: int, size: int, seed: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(seed)
    item_codes = torch.randint(0, size, (data.draw(st.integers(1, 200)), num_levels), generator=generator)
    trie = build_trie(item_codes)
    length = data.draw(st.integers(1, num_levels))
    near = item_codes[torch.randint(0, len(item_codes), (100,), generator=generator), :length]
    noise = torch.randint(-2, 3, near.shape, generator=generator)
    codes = near + noise * (torch.rand(near.shape, generator=generator) < 0.2)
    there = trie.to(device)
    found = trie_lookup(there, codes.to(device)).cpu()
    assert found.dtype == torch.int32
    assert found.equal(run_twin(trie, codes))
    assert found.equal(trie_lookup(there, codes.to(device, torch.int32)).cpu())
    prefixes = {tuple(prefix) for prefix in item_codes[:, :length].tolist()}
    assert (found >= 0).tolist() == [tuple(code) in prefixes for code in codes.tolist()]


def test_nodes_are_numbered_in_sorted_order(trie: Trie) -> None:
    generator = torch.Generator().manual_seed(0)
    item_codes = torch.randint(0, 300, (20_000, 4), generator=generator)
    for length in range(1, 5):
        prefixes, numbers = torch.unique(item_codes[:, :length], dim=0, return_inverse=True)
        assert trie_lookup(trie, prefixes).equal(torch.arange(len(prefixes), dtype=torch.int32))
        assert trie_lookup(trie, item_codes[:, :length]).equal(numbers.to(torch.int32))


def test_codes_out_of_range_are_absent(device: str, trie: Trie) -> None:
    big = 2**40  # would pass for code 0 if it were cut to 32 bits
    first = int(trie.tokens[0][0])
    codes = torch.tensor([[first], [-1], [300], [big + first], [-big], [2**63 - 1], [-(2**63)]])
    there = trie.to(device)
    assert trie_lookup(there, codes.to(device)).tolist() == [0, -1, -1, -1, -1, -1, -1]
    assert trie_lookup(there, torch.tensor([[-1, first]], device=device)).tolist() == [-1]


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3), (1, 2, 1, 2)])
def test_any_batch_shape_and_strides(device: str, trie: Trie, shape: tuple[int, ...]) -> None:
    codes = torch.randint(0, 300, (*shape, 6), generator=torch.Generator().manual_seed(2))[..., ::3]
    found = trie_lookup(trie.to(device), codes.to(device)).cpu()
    assert found.shape == shape
    assert found.equal(run_twin(trie, codes))


@pytest.mark.threads
def test_threads_give_the_same(threads, trie: Trie) -> None:
    codes = torch.randint(0, 300, (20_001, 3), generator=torch.Generator().manual_seed(3))
    alone = trie_lookup(trie, codes)
    threads(4)
    for _ in range(20):
        assert trie_lookup(trie, codes).equal(alone)


def test_opcheck(trie: Trie) -> None:
    codes = torch.randint(0, 300, (5, 3))
    arguments = (codes, trie.tokens, trie.child_bases, trie.child_deltas, trie.codebook_sizes)
    torch.library.opcheck(torch.ops.genrec_fast.trie_lookup.default, arguments)


@pytest.mark.parametrize(
    ("codes", "error", "text"),
    [
        (
            torch.zeros(2, 3),
            InvalidTypeError,
            r"trie_lookup: codes must be int32 or int64 \[..., t\], got torch.float32",
        ),
        (torch.zeros(2, 3, dtype=torch.int16), InvalidTypeError, "got torch.int16"),
        (torch.zeros(2, 5, dtype=torch.int64), InvalidValueError, r"t in \[1, 4\], got \[2, 5\]"),
        (torch.zeros(2, 0, dtype=torch.int64), InvalidValueError, r"t in \[1, 4\], got \[2, 0\]"),
        (torch.tensor(1), InvalidValueError, r"t in \[1, 4\], got \[\]"),
    ],
)
def test_bad_codes_are_named(trie: Trie, codes: torch.Tensor, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        trie_lookup(trie, codes)


def test_a_slow_path_is_said_once_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedError, match="trie_lookup: no kernel for cuda"):
        _registry.warn_slow_path("trie_lookup", "cuda")
    monkeypatch.setenv("GENREC_FAST_STRICT", "0")
    monkeypatch.setattr(_registry, "_warned", set())
    with pytest.warns(SlowPathWarning, match="trie_lookup: no kernel for cuda"):
        _registry.warn_slow_path("trie_lookup", "cuda")
    _registry.warn_slow_path("trie_lookup", "cuda")  # a second warning would be an error here
