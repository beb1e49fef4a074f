"""fingerprint against its twin and a plain-integer definition; what changes it, what does not, and what is refused."""

from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_fast.base import errors
from genrec_fast.ops._registry import core
from genrec_fast.ops.fingerprint import fingerprint
from genrec_fast.ops.reference.fingerprint import fingerprint as twin
from shared.isas import every_isa

GOLDEN, WORD = 0x9E3779B97F4A7C15, 2**64 - 1
SIZES = [0, 1, 3, 4, 255, 256, 257, 1023, 1024, 1025, 2048, 5000]  # bytes


def mix(z):
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & WORD
    z = (z ^ z >> 27) * 0x94D049BB133111EB & WORD
    return z ^ z >> 31


def defined(arrays):
    """The header's definition, number by number."""
    keys = [mix((i + 1) * GOLDEN & WORD) >> 32 | 1 for i in range(256)]
    value = 0
    for data in arrays:
        total = mix(len(data))
        for b in range(-(-len(data) // 1024)):
            block = data[1024 * b : 1024 * (b + 1)].ljust(1024, b"\0")
            words = [int.from_bytes(block[4 * i : 4 * i + 4], "little") + k & 0xFFFFFFFF for i, k in enumerate(keys)]
            h = sum(words[2 * j] * words[2 * j + 1] for j in range(128))
            total += mix(h + b * GOLDEN & WORD)
        value = mix((value ^ total) & WORD) + GOLDEN & WORD
    return value


def noise(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator)


@given(st.lists(st.sampled_from(SIZES), max_size=4), st.integers(0, 2**30))
@settings(max_examples=25)
def test_equals_the_definition_and_the_twin_on_every_instruction_set(sizes, seed):
    tensors = [noise(size, seed + i) for i, size in enumerate(sizes)]
    expected = defined([bytes(t.tolist()) for t in tensors])
    assert twin(tensors) == expected
    for _ in every_isa():
        assert fingerprint(tensors) == expected


def test_a_worked_example():
    assert fingerprint([]) == 0
    assert fingerprint([torch.empty(0)]) == GOLDEN  # mix(0 ^ mix(0)) = 0
    assert fingerprint([torch.zeros(0), torch.zeros(0)]) == (mix(GOLDEN) + GOLDEN) & WORD


@pytest.mark.threads
def test_the_number_of_threads_changes_nothing(isa, threads):
    sizes = [3 << 20, 0, 1000, (1 << 20) + 17, 1, 2 << 20] + [777] * 50
    tensors = [noise(size, i) for i, size in enumerate(sizes)]
    threads(1)
    expected = fingerprint(tensors)
    assert expected == twin(tensors)
    for count in (2, 3, 4):
        threads(count)
        assert fingerprint(tensors) == expected


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.bool, torch.int8, torch.uint16),
        *(torch.int64, torch.complex64, torch.float8_e4m3fn),
    ],
)
def test_every_dtype_is_read_as_bytes(dtype):
    data = noise(1600) % 2 if dtype == torch.bool else noise(1600)
    tensor = data.view(dtype)
    assert fingerprint([tensor]) == twin([tensor]) == fingerprint([data])
    assert fingerprint([tensor.reshape(-1, 2)]) == fingerprint([data])  # shapes do not count


def test_any_byte_changes_it(isa):
    data = noise(3000)
    seen = {fingerprint([data])}
    for place in (0, 1, 1023, 1024, 2047, 2999):
        changed = data.clone()
        changed[place] ^= 1
        seen.add(fingerprint([changed]))
    assert len(seen) == 7


def test_order_length_and_blocks_count():
    a, b = noise(2048), noise(2048, 1)
    swapped = torch.cat([a[1024:], a[:1024]])
    lists = [[a, b], [b, a], [a], [b], [torch.cat([a, b])], [swapped], [a, b, a[:0]], [a[:0], a, b], [a[:2047]]]
    lists += [[torch.zeros(n, dtype=torch.uint8)] for n in (0, 1, 2, 1024, 1025)]
    assert len({fingerprint(tensors) for tensors in lists}) == len(lists)


def test_writes_that_torch_does_not_count_are_seen():
    weight = torch.nn.Parameter(torch.randn(64, 64))
    before, version = fingerprint([weight]), weight._version
    weight.data[3, 4] += 1
    first = fingerprint([weight])
    weight.detach().numpy()[5, 6] = 2
    assert weight._version == version
    assert len({before, first, fingerprint([weight])}) == 3


def test_views_are_read_as_they_look():
    z = torch.complex(torch.randn(3, 40), torch.randn(3, 40))
    for view in (z.real, z.imag, z.conj(), z.conj().imag, z.T, torch._neg_view(z.real.clone()), z.real.T[::2]):
        assert fingerprint([view]) == twin([view]) == fingerprint([view.resolve_conj().resolve_neg().clone()])
    assert fingerprint([z.conj().imag]) != fingerprint([z.imag])
    base = noise(4097)
    assert fingerprint([base[1:]]) == fingerprint([base[1:].clone()])  # at an odd address
    assert fingerprint([torch.ones(1).expand(500)]) == fingerprint([torch.ones(500)])


def test_parameters_inference_tensors_and_gradients_are_plain():
    data = torch.randn(10)
    with torch.inference_mode():
        inference = data.clone()
    wanted = fingerprint([data])
    for tensor in (
        torch.nn.Parameter(data),
        inference,
        data.clone().requires_grad_(),
        data.clone().requires_grad_()[:],
    ):
        assert fingerprint([tensor]) == wanted
    assert fingerprint(iter([data])) == wanted
    assert fingerprint([data[3], data[4]]) == fingerprint([data[3:4], data[4:5]])


def test_copies_live_until_they_have_been_read():
    wide = [torch.randn(300, 300).T for _ in range(20)]
    gc.collect()
    assert fingerprint(wide) == fingerprint([w.contiguous() for w in wide])


class Wrapped(torch.Tensor):
    """A subclass may hold its data anywhere."""


def freed():
    tensor = torch.zeros(5)
    tensor.untyped_storage().resize_(0)
    return tensor


@pytest.mark.filterwarnings("ignore:.*sparse.*", "ignore:.*quantize.*", "ignore:.*nested.*")
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: torch.zeros(3, device="meta"), "got one on meta"),
        (lambda: torch.zeros(3, 3).to_sparse(), r"got torch.sparse_coo"),
        (lambda: torch.zeros(3, 3).to_sparse_csr(), r"got torch.sparse_csr"),
        (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "got a quantized one"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "got a nested one"),
        (lambda: torch.ones(3).as_subclass(Wrapped), "got the subclass Wrapped"),
        (freed, "got one whose storage was freed"),
    ],
)
def test_what_it_cannot_read_is_refused(make, text):
    tensor = make()
    rule = r"fingerprint: tensors\[1\] must be a dense tensor on the CPU, "
    with pytest.raises(errors.UnsupportedError, match=rule + text):
        fingerprint([torch.ones(2), tensor])


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (torch.ones(3), "tensors must be a sequence of tensors, got a tensor"),
        (5, "tensors must be a sequence of tensors, got 5"),
        ([torch.ones(3), [1.0]], r"tensors\[1\] must be a tensor, got list"),
        ("ab", "tensors must be a sequence of tensors, got 'ab'"),
    ],
)
def test_what_is_no_tensor_is_refused(given, text):
    with pytest.raises(errors.InvalidTypeError, match=text):
        fingerprint(given)


def test_the_binding_leaves_to_python_what_it_cannot_read_as_it_lies():
    whole = torch.zeros(3, 3)
    for other in (whole.t()[:2], torch._neg_view(whole), whole.to_sparse(), whole.to("meta"), 5):
        for watch in ({}, {"watch": 1}):
            op = core.fingerprint_watched if watch else core.fingerprint
            assert op(**watch, tensors=[whole, other], num_threads=1) is None


def test_a_copy_that_no_memory_holds_is_refused():
    with pytest.raises(errors.UnsupportedError, match="fingerprint: torch cannot do this: "):
        fingerprint([torch.zeros(1).expand(2**45)])
