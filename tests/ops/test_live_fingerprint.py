"""A fingerprint that is asked for again sees every write, by whatever means, wherever memory is watched or not."""

from __future__ import annotations

import ctypes
import gc
import mmap
import multiprocessing
import os
import subprocess
import sys
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_fast.base import errors
from genrec_fast.ops.fingerprint import LiveFingerprint, fingerprint, same_values, watches_memory


def weights():
    """Sizes around pages and blocks, some large enough to be watched."""
    sizes = [1, 300, 4096, 20_000, 65_536, 100_001, 1_000_000]
    return [torch.randn(size, generator=torch.Generator().manual_seed(size)) for size in sizes]


def in_memory(tensor: torch.Tensor, at: int, value: int) -> None:
    ctypes.memset(tensor.data_ptr() + at, value, 1)


def by_file(tensor: torch.Tensor, at: int, value: int) -> None:
    read, write = os.pipe()
    os.write(write, bytes([value]))
    buffer = (ctypes.c_char * 1).from_address(tensor.data_ptr() + at)
    assert os.readv(read, [buffer]) == 1  # the kernel writes, not this process
    os.close(read), os.close(write)


def by_numpy(tensor: torch.Tensor, at: int, value: int) -> None:
    tensor.numpy().view("uint8")[at] = value


def by_data(tensor: torch.Tensor, at: int, value: int) -> None:
    tensor.data.view(torch.uint8)[at] = value


def in_inference(tensor: torch.Tensor, at: int, value: int) -> None:
    with torch.inference_mode():
        tensor.view(torch.uint8)[at] = value


def by_a_thread(tensor: torch.Tensor, at: int, value: int) -> None:
    thread = threading.Thread(target=in_memory, args=(tensor, at, value))
    thread.start()
    thread.join()


WRITERS = [in_memory, by_numpy, by_data, in_inference, by_a_thread] + ([by_file] if hasattr(os, "readv") else [])


@pytest.mark.parametrize("write", WRITERS)
def test_every_write_of_a_byte_is_seen(write):
    tensors = weights()
    live, other = LiveFingerprint(tensors), LiveFingerprint(tensors[::-1])
    for tensor in tensors:
        for at in sorted({0, tensor.nbytes // 2, tensor.nbytes - 1, max(0, tensor.nbytes - 4096)}):
            before = live.value()
            assert before == fingerprint(tensors)
            changed = tensor.view(torch.uint8)[at].item() ^ 0x55
            write(tensor, at, changed)
            assert live.value() == fingerprint(tensors) != before
            assert other.value() == fingerprint(tensors[::-1])  # who looks first takes nothing from who looks next


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_writes_at_random_places(data):
    tensors = weights()
    live = LiveFingerprint(tensors)
    for _ in range(8):
        tensor = data.draw(st.sampled_from(tensors))
        at = data.draw(st.integers(0, tensor.nbytes - 1))
        in_memory(tensor, at, data.draw(st.integers(0, 255)))
        if data.draw(st.booleans()):
            assert live.value() == fingerprint(tensors)
    assert live.value() == fingerprint(tensors)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_writes_where_one_array_follows_another(data):
    """Arrays cut out of one block, some bytes apart: a page may hold the end of one and the beginning of the next."""
    block, tensors, at = torch.zeros(600_000, dtype=torch.uint8), [], data.draw(st.integers(0, 5000))
    for size in data.draw(st.lists(st.sampled_from([512, 16_384, 17_000, 40_960, 100_001]), min_size=2, max_size=5)):
        tensors.append(block[at : at + size])
        at += size + data.draw(st.sampled_from([0, 1, 64, 128, 129, 5000]))
    live = LiveFingerprint(tensors)
    for _ in range(data.draw(st.integers(1, 6))):
        assert live.value() == fingerprint(tensors)
        tensor = tensors[data.draw(st.integers(0, len(tensors) - 1))]
        near = data.draw(st.sampled_from([0, tensor.numel() - 1, 1023, 1024, 4095, -4096, -1024]))
        near = max(-tensor.numel(), min(tensor.numel() - 1, near))
        in_memory(tensor, near % tensor.numel(), data.draw(st.integers(1, 255)))
    assert live.value() == fingerprint(tensors)


def test_an_optimizer_and_other_contents_are_seen():
    layer = torch.nn.Linear(500, 500)
    tensors = list(layer.parameters())
    live = LiveFingerprint(tensors)
    optimizer = torch.optim.AdamW(tensors, fused=True)
    seen = {live.value()}
    for _ in range(3):
        layer(torch.ones(2, 500)).sum().backward()
        optimizer.step()
        seen.add(live.value())
        assert live.value() == fingerprint(tensors)
    layer.weight.data = torch.zeros(500, 500)
    gc.collect()
    seen.add(live.value())
    layer.weight.data = layer.weight.data.t()  # the same memory and contents
    layer.weight.data[3, 5] = 1.0
    seen.add(live.value())
    assert live.value() == fingerprint(tensors)
    assert len(seen) == 6


def test_memory_that_is_mapped_anew_is_read_anew():
    tensors = [torch.zeros(1 << 20)]
    live = LiveFingerprint(tensors)
    for value in range(20):
        before = tensors[0].data_ptr()
        tensors[0].data = torch.zeros(0)
        tensors[0].data = torch.full((1 << 20,), float(value))  # often at the address of what was freed
        assert live.value() == fingerprint(tensors), before


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="this system does not take pages back so")
def test_pages_given_back_are_seen():
    memory = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    tensor = torch.frombuffer(memory, dtype=torch.uint8)
    tensor.fill_(7)
    live = LiveFingerprint([tensor])
    full = live.value()
    memory.madvise(mmap.MADV_DONTNEED, 1 << 16, 1 << 16)  # reads as zeros
    assert live.value() == fingerprint([tensor]) != full


def _write(tensor: torch.Tensor) -> None:
    tensor[12_345] = 5.0


def test_what_another_process_writes_is_seen():
    tensor = torch.zeros(1 << 18).share_memory_()
    live = LiveFingerprint([tensor])
    before = live.value()
    child = multiprocessing.get_context("spawn").Process(target=_write, args=(tensor,))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert live.value() == fingerprint([tensor]) != before


def test_a_file_that_is_mapped_twice(tmp_path):
    path = str(tmp_path / "weights")
    first = torch.from_file(path, shared=True, size=1 << 18)
    second = torch.from_file(path, shared=True, size=1 << 18)
    live = LiveFingerprint([first])
    before = live.value()
    second[99_999] = 1.0
    assert live.value() == fingerprint([first]) != before


FORK = """
import os, torch
from genrec_fast.ops.fingerprint import LiveFingerprint, fingerprint
torch.set_num_threads(1)
tensor = torch.zeros(1 << 18)
live = LiveFingerprint([tensor])
before = live.value()
def child(write):
    pid = os.fork()
    if pid == 0:
        if write:
            tensor.numpy()[777] = 1.0
        right = live.value() == fingerprint([tensor]) and (live.value() != before) == write
        tensor.numpy()[999] = 1.0
        os._exit(0 if right and live.value() == fingerprint([tensor]) else 3)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(child(False), child(True), live.value() == before)
tensor.numpy()[5] = 1.0
print(live.value() == fingerprint([tensor]) != before)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_watches_its_own_memory():
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=200, check=True)
    assert done.stdout.split() == ["0", "0", "True", "True"]


@pytest.mark.threads
def test_threads_ask_at_once():
    tensors = weights()
    lives = [LiveFingerprint(tensors) for _ in range(4)]
    right = fingerprint(tensors)
    wrong: list[int] = []

    def ask(live: LiveFingerprint) -> None:
        for _ in range(50):
            if live.value() != right:
                wrong.append(1)

    threads = [threading.Thread(target=ask, args=(live,)) for live in lives]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_cannot_be_read_is_refused():
    with pytest.raises(errors.InvalidTypeError, match="tensors must be a sequence of tensors, got a tensor"):
        LiveFingerprint(torch.ones(2))
    weight = torch.nn.Parameter(torch.ones(50_000))
    live = LiveFingerprint([weight])
    live.value()
    weight.untyped_storage().resize_(0)
    with pytest.raises(errors.UnsupportedError, match="whose storage was freed"):
        live.value()


UNWATCHED = """
import resource, torch
from genrec_fast.ops.fingerprint import LiveFingerprint, fingerprint, watches_memory
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (0, most))  # nothing can be opened, as where userfaultfd is forbidden
tensor = torch.zeros(1 << 18)
live = LiveFingerprint([tensor])
before = live.value()
tensor.numpy()[777] = 1.0
print(watches_memory(), live.value() == fingerprint([tensor]) != before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of this kind")
def test_where_nothing_is_watched_everything_is_read():
    done = subprocess.run([sys.executable, "-c", UNWATCHED], capture_output=True, text=True, timeout=200, check=True)
    assert done.stdout.split() == ["False", "True"]
    assert isinstance(watches_memory(), bool)


def test_values_are_compared_by_identity():
    class Kind:
        spare = None

    one, two = [1.0], [1.0]
    first, second, listed = {"a": one, "b": 5}, {}, [one]
    containers = [first, second, Kind, listed]
    own = [*vars(Kind).values()]
    sizes, values = torch.tensor([2, 0, len(own), 1]), [one, 5, *own, one]
    assert same_values(containers, sizes, values)
    second["c"] = None
    assert not same_values(containers, sizes, values)
    del second["c"]
    first["a"] = two
    assert not same_values(containers, sizes, values)
    first["a"] = one
    Kind.spare = two
    assert not same_values(containers, sizes, values)
    Kind.spare = None
    listed[0] = two
    assert not same_values(containers, sizes, values)
    listed.clear()
    assert not same_values(containers, sizes, values)
    listed.append(one)
    assert same_values(containers, sizes, values)
    assert not same_values([{"a": one}, {"b": 5}], torch.tensor([2, 0]), [one, 5])
    assert not same_values([{"a": one}], torch.tensor([1]), [one, 5])
    assert not same_values([{"a": one}], torch.tensor([1]), [])
    with pytest.raises(errors.InvalidTypeError, match="containers must be dictionaries, classes, lists and functions"):
        same_values([(1,)], torch.tensor([1]), [1])
    with pytest.raises(errors.InvalidValueError, match=r"sizes must be int64 \[1\]"):
        same_values([first], torch.tensor([], dtype=torch.int64), values)


def test_functions_are_compared_by_their_code_and_defaults():
    def one(x, y=1, *, z=2):
        return x + y + z + len(containers)

    def other(x, y=1):
        return len(containers)

    containers, sizes = [one], torch.tensor([4])
    values = [one.__code__, one.__defaults__, one.__kwdefaults__, one.__closure__]
    assert same_values(containers, sizes, values)
    for name in ("__code__", "__defaults__", "__kwdefaults__"):
        kept = getattr(one, name)
        setattr(one, name, getattr(other, name) if name == "__code__" else None)
        assert not same_values(containers, sizes, values)
        setattr(one, name, kept)
    assert same_values(containers, sizes, values)
    assert not same_values(containers, torch.tensor([3]), values[:3])
    plain = test_values_are_compared_by_identity
    assert same_values([plain], sizes, [plain.__code__, None, None, None])


def test_a_view_that_takes_a_tensors_place_is_seen():
    for view in (torch.t, torch._neg_view, lambda tensor: tensor[:200]):
        weight = torch.nn.Parameter(torch.randn(300, 300))
        live = LiveFingerprint([weight])
        before = live.value()
        weight.data = view(weight.data)  # of the same memory
        assert live.value() == fingerprint([weight]) != before
    weight = torch.nn.Parameter(torch.randn(300, 300, dtype=torch.complex64))
    live = LiveFingerprint([weight])
    before = live.value()
    weight.data = weight.data.conj()
    assert live.value() == fingerprint([weight]) != before
