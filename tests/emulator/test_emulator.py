"""The emulator computes what a card would, and finds what a card would not say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genrec_fast.ops import _cuda

from .build import EmulatorError, entries, run

PROBES = Path(__file__).with_name("probes.cuh")
THREADS = ("-DEMULATOR_THREADS", "-fsanitize=thread")


def probe(name, *arguments, grid=1, block=32, shared=0, seed=0):
    run(PROBES, f"probe_{name}", (grid, 1, 1), (block, 1, 1), shared, arguments, seed=seed)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_sum_by_shuffles_and_a_barrier(seed):
    x, out = torch.arange(1000.0), torch.empty(3)
    probe("sum", x, _cuda.int32(1000), out, grid=3, block=128, seed=seed)
    assert out.tolist() == [499500.0] * 3


def test_what_never_ends_on_a_card_is_an_error():
    with pytest.raises(EmulatorError, match="threads wait for each other"):
        probe("divergence", torch.empty(1))
    with pytest.raises(EmulatorError, match=r"lane 16 is not in its own mask|a shuffle reads lane 20 outside its mask"):
        probe("mask", torch.empty(32, dtype=torch.int32))
    with pytest.raises(EmulatorError, match="a block has 1 to 1024 threads, got 2048"):
        probe("divergence", torch.empty(1), block=2048)
    with pytest.raises(EmulatorError, match="no card has so much shared memory"):
        probe("divergence", torch.empty(1), shared=1 << 20)
    with pytest.raises(EmulatorError, match="there is no such kernel"):
        probe("nothing")
    x, out = torch.arange(100.0), torch.empty(1)
    probe("sum", x, _cuda.int32(100), out)  # and the next one runs
    assert out.item() == 4950.0


def test_shared_memory_is_poisoned():
    fixed, dynamic = torch.empty(32), torch.empty(32)
    probe("poison", fixed, dynamic, shared=128)
    assert fixed.isnan().all()
    assert dynamic.isnan().all()


def test_votes():
    x = torch.tensor([i % 5 - 2 for i in range(32)], dtype=torch.int32)
    ballot, every, some = (torch.empty(32, dtype=torch.int32) for _ in range(3))
    probe("votes", x, ballot, every, some)
    expected = sum(1 << i for i, v in enumerate(x.tolist()) if v > 0)
    assert {word % (1 << 32) for word in ballot.tolist()} == {expected}
    assert set(every.tolist()) == {1}
    assert set(some.tolist()) == {2}


def test_atomics():
    x, counts = torch.arange(1000, dtype=torch.int32) % 7, torch.zeros(7, dtype=torch.int32)
    probe("histogram", x, _cuda.int32(1000), counts, grid=8, block=128)
    assert counts.equal(torch.bincount(x.long()).int())
    slots, others = torch.full((7,), -1, dtype=torch.int32), torch.empty(1000, dtype=torch.int32)
    numbers = torch.arange(1000, dtype=torch.int32)
    probe("slots", numbers, _cuda.int32(1000), slots, others, grid=8, block=128)
    assert (slots % 7).tolist() == list(range(7))
    assert int((others == -1).sum()) == 7
    assert others[others >= 0].equal(slots[numbers[others >= 0] % 7])


@pytest.mark.parametrize(("name", "dtype"), [("bfloat16", torch.bfloat16), ("half", torch.float16)])
def test_tensor_cores_multiply(name, dtype):
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(-8, 9, (16, 16), generator=generator).to(dtype)
    b = torch.randint(-8, 9, (16, 16), generator=generator).to(dtype)
    out = torch.empty(16, 16)
    probe(f"product_{name}", a, b, out)
    assert out.equal(a.float() @ b.float())


def test_a_copy_arrives_when_it_is_waited_for():
    x, early, late = torch.arange(128.0), torch.empty(32), torch.empty(32)
    probe("early", x, early, late, shared=512)
    assert early.isnan().all()
    assert late.equal(x[::4])


def test_halves_are_torchs():
    bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
    half, bfloat16 = torch.empty(1 << 16), torch.empty(1 << 16)
    probe("floats", bits, _cuda.int32(1 << 16), half, bfloat16, block=128)
    for found, dtype in ((half, torch.float16), (bfloat16, torch.bfloat16)):
        assert torch.equal(found.nan_to_num(7.5), bits.view(dtype).float().nan_to_num(7.5))
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(-(1 << 31), 1 << 31, (50_000,), generator=generator).int()
    edges = torch.tensor([0.0, -0.0, 65504.0, 65519.9, 65520.0, 65536.0, 2.0**-14, 2.0**-24, 2.0**-25, 3 * 2.0**-25])
    # Bits of a float whose half lies in the middle, and their neighbours.
    middles = (bits.view(torch.float16).float().view(torch.int32) + 0x1000).view(torch.float32)
    x = torch.cat([words.view(torch.float32), edges, -edges, middles, half.nan_to_num(1.0)])
    x = torch.where(x.isnan(), 1.0, x)
    found = [torch.empty(len(x), dtype=torch.int16) for _ in range(2)]
    probe("halves", x, _cuda.int32(len(x)), *found, block=128)
    for bits, dtype in zip(found, (torch.float16, torch.bfloat16), strict=True):
        assert bits.view(dtype).view(torch.int16).equal(x.to(dtype).view(torch.int16))


def test_every_kernel_of_a_source_is_found():
    text = PROBES.read_text()
    assert len(entries(text)) == text.count('extern "C" __global__') > 10
    for source in _cuda.sources().glob("*.cuh"):
        text = source.read_text()
        assert len(entries(text)) == text.count('extern "C" __global__'), source.name


RACE = """
import torch
from emulator.build import run
from emulator.test_emulator import PROBES, THREADS
from genrec_fast.ops import _cuda
x, out = torch.arange(64.0), torch.empty(64)
if {race}:
    run(PROBES, "probe_race", (1, 1, 1), (64, 1, 1), 0, (x, out), flags=THREADS)
else:
    run(PROBES, "probe_sum", (2, 1, 1), (64, 1, 1), 0, (x, _cuda.int32(64), out), flags=THREADS)
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("race", [True, False])
def test_a_missing_barrier_is_a_race_to_the_thread_sanitizer(race):
    tsan = subprocess.run(["g++", "-print-file-name=libtsan.so"], capture_output=True, text=True, check=True).stdout
    if not Path(tsan.strip()).is_absolute():
        pytest.skip("no thread sanitizer here")
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    env = {**os.environ, "LD_PRELOAD": tsan.strip(), "TSAN_OPTIONS": "exitcode=66", "PYTHONPATH": path}
    command = ["setarch", "-R", sys.executable, "-c", RACE.format(race=race)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300, check=False)
    own = any("ThreadSanitizer: data race" in part and "probes" in part for part in done.stderr.split("=" * 18))
    assert own == race, done.stderr[-2000:]
