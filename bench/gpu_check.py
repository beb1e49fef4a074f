"""Everything that needs a card, in one run of minutes: ``make gpu-check``, or ``python bench/gpu_check.py --only ROW``.

Ceilings first, then the suites of the ops with kernels, then each op against its rivals in the same run, equality
before time. A row that fails says so and the rest goes on; without a card every row says that. A table is printed last;
logs and ``gpu_check.json`` go to $OUT (build/gpu). ``--record`` writes what passed into csrc/cuda/ran.txt, which
``genrec-fast env`` reads. Needs torch, numpy, safetensors, CuPy, and pytest with hypothesis for the suites.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
OUT = Path(os.environ.get("OUT", ROOT / "build" / "gpu"))
SUITE_SECONDS = 150
WARM_CALLS, TIMED_CALLS = 5, 30


@dataclass
class Line:
    """One line of the table; times in microseconds."""

    row: str
    what: str
    ours: float | None = None
    rival: float | None = None
    against: str = ""
    wanted: str = ""
    verdict: str = ""


Row = Callable[[], Iterator[Line]]
ROWS: dict[str, Row] = {}
OPS: dict[str, tuple[str, ...]] = {}  # row -> the ops (modules of genrec_fast.ops) that it shows to be right


def row(*ops: str) -> Callable[[Row], Row]:
    """Registers a row by the function's name; it yields lines, and raises where something is wrong."""

    def register(function: Row) -> Row:
        ROWS[function.__name__], OPS[function.__name__] = function, ops
        return function

    return register


def microseconds(call: Callable[[], Any]) -> float:
    """The least time of one call by the card's own clock, back to back on torch's stream."""
    for _ in range(WARM_CALLS):
        call()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(TIMED_CALLS + 1)]
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    torch.cuda.synchronize()
    return min(1e3 * before.elapsed_time(after) for before, after in itertools.pairwise(marks))


def graphed(call: Callable[[], Any]) -> Callable[[], Any]:
    """The call as a CUDA graph: what is left is the card's work."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


@row()
def ceilings() -> Iterator[Line]:
    """What the card gives torch: the limits that the rows below are measured against."""
    source = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    copied = torch.empty_like(source)
    took = microseconds(lambda: copied.copy_(source))
    yield Line("ceilings", f"copy of 256 MiB: {2 * source.nbytes / took / 1e6:.2f} TB/s", took)
    for dtype in (torch.bfloat16, torch.float32):
        a = torch.randn(8192, 8192, device="cuda").to(dtype)
        took = microseconds(lambda a=a: a @ a)
        yield Line("ceilings", f"product of 8192^3 in {dtype}: {2 * 8192**3 / took / 1e6:.0f} TFLOP/s", took)


@row()
def suites() -> Iterator[Line]:
    """The ops' suites with tensors on the card, a file at a time, so that one that hangs costs its own time alone."""
    missing = [name for name in ("pytest", "hypothesis") if importlib.util.find_spec(name) is None]
    if missing:
        yield Line("suites", "tests/ops", verdict=f"not run: {', '.join(missing)} not installed")
        return
    until = time.monotonic() + SUITE_SECONDS
    for path in sorted((ROOT / "tests").glob("ops/test_*.py")):
        if not re.search(r"\b(device|card)\b", path.read_text()):  # no test of it knows a card
            continue
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", "cuda and not emulated"]
        log = OUT / f"{path.stem}.log"
        try:
            done = subprocess.run(
                [*command, str(path)],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=max(5.0, until - time.monotonic()),
                check=False,
            )
        except subprocess.TimeoutExpired:
            yield Line("suites", path.stem, verdict="FAILED: out of time")
            continue
        log.write_text(done.stdout + done.stderr)
        last = (done.stdout.strip().splitlines() or ["no output"])[-1]
        verdict = "nothing to run" if done.returncode == 5 else last if done.returncode == 0 else f"FAILED: {last}"
        yield Line("suites", path.stem, verdict=verdict)


@row("trie_lookup")
def trie_lookup() -> Iterator[Line]:
    """A million prefixes among a million items; the twin in torch searches all edges of a level."""
    from genrec_fast.catalog.trie import build_trie
    from genrec_fast.ops import trie_lookup as lookup
    from genrec_fast.ops._registry import twins

    codes = torch.randint(0, 2048, (1_000_000, 4), generator=torch.Generator().manual_seed(0))
    trie = build_trie(codes, codebook_sizes=(2048,) * 4)
    right, there, on_card = lookup(trie, codes), trie.to("cuda"), codes.cuda()

    def ours() -> torch.Tensor:
        return lookup(there, on_card)

    def twin() -> torch.Tensor:
        parts = (list(there.tokens), list(there.child_bases), list(there.child_deltas), list(there.codebook_sizes))
        return twins["trie_lookup"](on_card, *parts)

    assert ours().cpu().equal(right), "other nodes than the CPU's"
    times = microseconds(graphed(ours)), microseconds(twin)  # the twin reads back: no graph can hold it
    yield Line("trie_lookup", "1M prefixes, 1M items", *times, "torch twin", "2x")


@row("trie_step", "trie_filter")
def trie_step() -> Iterator[Line]:
    """Levels of searches over 20M items, every bit held against the CPU's; torch: log-softmax, gather, top-k."""
    from genrec_fast.catalog.trie import build_trie
    from genrec_fast.ops import trie_filter
    from genrec_fast.ops import trie_step as step
    from genrec_fast.ops.trie_offsets import unpack_offsets, widen

    size, generator = 8192, torch.Generator().manual_seed(0)
    trie = build_trie(torch.randint(0, size, (20_000_000, 3), generator=generator), codebook_sizes=(size,) * 3)
    allowed, there = torch.rand(trie.num_items, generator=generator) < 0.5, trie.to("cuda")
    on_card, flt, filtered = (
        allowed.cuda(),
        trie_filter(trie, allowed=allowed),
        trie_filter(there, allowed=allowed.cuda()),
    )
    same = filtered.bits.cpu().equal(flt.bits) and filtered.ranks.cpu().equal(flt.ranks)
    assert same, "other bits or ranks than the CPU's"
    yield Line("trie_step", "a filter of 20M items", microseconds(graphed(lambda: trie_filter(there, allowed=on_card))))
    for users, beams, level, keep, dtype in (
        (1, 256, 1, None, torch.float32),
        (1, 256, 2, None, torch.float32),
        (1, 256, 1, flt, torch.float32),
        (16, 256, 1, None, torch.bfloat16),
        (64, 50, 1, None, torch.bfloat16),
    ):
        logits = (torch.randn(users, beams, size, generator=generator) * 2).to(dtype)
        nodes = torch.randint(0, trie.num_nodes(level), (users, beams), generator=generator, dtype=torch.int32)
        given = (logits, nodes, -torch.rand(users, beams, generator=generator))
        beams_there, chosen = tuple(x.cuda() for x in given), None if keep is None else filtered

        def ours(given=beams_there, level=level, beams=beams, chosen=chosen) -> Any:
            return step(there, level, *given, num_beams=beams, allowed=chosen)

        right = step(trie, level, *given, num_beams=beams, allowed=keep)
        for name, found, expected in zip(right._fields, ours(), right, strict=True):
            assert found.cpu().view(torch.int32).equal(expected.view(torch.int32)), f"other {name} than the CPU's"
        first, codes = unpack_offsets(there.child_bases[level], there.child_deltas[level]), widen(there.tokens[level])
        columns = torch.arange(int(first.diff().max()), device="cuda")

        def rival(given=beams_there, first=first, codes=codes, columns=columns) -> Any:
            logits, nodes, scores = given
            begin, end = first[nodes.long()].unsqueeze(2), first[nodes.long() + 1].unsqueeze(2)
            edges = (begin + columns).clamp_(max=codes.numel() - 1)
            children = codes[edges]
            total = torch.log_softmax(logits.float(), -1).gather(2, children).add_(scores.unsqueeze(2))
            total.masked_fill_(columns >= end - begin, -torch.inf)
            best, at = total.flatten(1).topk(min(scores.shape[1], total[0].numel()), -1)
            return best, children.flatten(1).gather(1, at), at // len(columns), edges.flatten(1).gather(1, at)

        what = f"{users} x {beams} x {size} {dtype}, level {level}, 20M items{', filtered' if keep else ''}"
        wanted = "25 us and 3x" if (users, level, keep) == (1, 1, None) else ""
        times = microseconds(graphed(ours)), microseconds(graphed(rival)) if keep is None else None
        yield Line("trie_step", what, *times, "torch log_softmax, gather, topk", wanted)


@row("jagged_attention")
def jagged_attention() -> Iterator[Line]:
    """HSTU's shape (16 users, 4 heads of 64, causal silu, bfloat16) beside padded torch, and a mix of lengths."""
    from genrec_fast.ops import jagged_attention as attention

    for lengths in ((128,) * 16, (256,) * 16, (1024,) * 16, (4096,) * 4, tuple(8 * n for n in range(1, 65))):
        elements, longest = sum(lengths), max(lengths)
        offsets = torch.tensor([0, *itertools.accumulate(lengths)])
        q, k, v, grad = torch.randn(4, elements, 4, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
        leaves = [x.cuda().requires_grad_() for x in (q, k, v)]
        places, slope = offsets.cuda(), grad.cuda()
        small = offsets[1]  # the first user, on the CPU
        expected = attention(q[:small], k[:small], v[:small], offsets[:2], kind="silu", max_seq_len=longest)
        found = attention(*leaves, places, kind="silu", max_seq_len=longest)
        torch.testing.assert_close(found[:small].cpu(), expected, rtol=2e-2, atol=2e-2 * expected.abs().max().item())
        wide = [x.new_zeros(len(lengths), longest, 4, 64) for x in (q, k, v)]
        for padded, values in zip(wide, (q, k, v), strict=True):
            for user, rows in enumerate(values.split(lengths)):
                padded[user, : len(rows)] = rows
        padded_leaves = [x.cuda().transpose(1, 2).requires_grad_() for x in wide]
        mask = torch.ones(longest, longest, dtype=torch.bool, device="cuda").tril()

        def ours(leaves=leaves, places=places, longest=longest) -> torch.Tensor:
            return attention(*leaves, places, kind="silu", max_seq_len=longest)

        def torchs(leaves=padded_leaves, mask=mask, longest=longest) -> torch.Tensor:
            scores = torch.nn.functional.silu(leaves[0] @ leaves[1].transpose(2, 3) / 8) / longest
            return (scores * mask) @ leaves[2]

        def backward(call=ours, leaves=leaves, slope=slope) -> None:
            torch.autograd.grad(call(), leaves, slope)

        def torchs_backward(call=torchs, leaves=padded_leaves) -> None:
            found = call()
            torch.autograd.grad(found, leaves, found.detach())

        what = f"{len(lengths)} x {lengths[0]}" if len(set(lengths)) == 1 else f"{len(lengths)} x 8..{longest}"
        flops = 2 * 2 * 64 * 4 * sum(n * (n + 1) / 2 for n in lengths)
        with torch.no_grad():
            took = microseconds(graphed(ours))
            line = f"forward {what}: {flops / took / 1e6:.0f} TFLOP/s"
            yield Line("jagged_attention", line, took, microseconds(graphed(torchs)), "padded torch", "5x on the mix")
        took = microseconds(backward)
        line = f"and backward {what}: {3.5 * flops / took / 1e6:.0f} TFLOP/s"
        yield Line("jagged_attention", line, took, microseconds(torchs_backward), "padded torch")


@row("jagged_pad", "jagged_join", "segment_sum")
def jagged_rows() -> Iterator[Line]:
    """Moves and sums of 4096 rows of 1 to 128 elements of 64 floats, held against the CPU's bits."""
    from genrec_fast import ops

    lengths = torch.randint(1, 129, (4096,), generator=torch.Generator().manual_seed(0))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    values = torch.randn(int(offsets[-1]), 64)
    there, places = values.cuda(), offsets.cuda()
    ids = torch.randint(0, 100_000, (len(values),), generator=torch.Generator().manual_seed(1))
    table = torch.randn(100_000, 64).cuda().requires_grad_()
    calls = {
        "to_padded": lambda x, o: ops.to_padded(x, o, 128),
        "segment_sum": ops.segment_sum,
        "jagged_concat": lambda x, o: ops.jagged_concat([x, x], [o, o])[0],
    }
    for name, call in calls.items():
        found = call(there, places)
        assert found.cpu().equal(call(values, offsets)), f"{name}: other bits than the CPU's"
        took = microseconds(graphed(lambda call=call: call(there, places)))
        moved = (values.nbytes if name != "jagged_concat" else 2 * values.nbytes) + found.nbytes
        yield Line("jagged_rows", f"{name}: {moved / took / 1e6:.2f} TB/s", took)
    there_ids = ids.cuda()

    def gradient(look_up=ops.embedding) -> None:
        torch.autograd.grad(look_up(table, there_ids), table, there)

    def torchs() -> None:
        torch.autograd.grad(torch.nn.functional.embedding(there_ids, table), table, there)

    yield Line("jagged_rows", "embedding and its gradient", microseconds(gradient), microseconds(torchs), "torch")


@row("rq_decode")
def rq_decode() -> Iterator[Line]:
    """A million semantic IDs to vectors of 128; torch gathers and adds level by level."""
    from genrec_fast.ops import rq_decode as decode

    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (1_000_000, 4), generator=generator, dtype=torch.int32)
    books = [torch.randn(256, 128, generator=generator) for _ in range(4)]
    on_card, there = codes.cuda(), [book.cuda() for book in books]

    def rival() -> torch.Tensor:
        return sum(book[column] for book, column in zip(there, on_card.T, strict=True))  # type: ignore[return-value]

    assert decode(on_card, there).cpu().equal(decode(codes, books)), "other vectors than the CPU's"
    times = microseconds(graphed(lambda: decode(on_card, there))), microseconds(graphed(rival))
    yield Line("rq_decode", "1M IDs of 4 levels, D 128", *times, "torch gather and add", "2x")


@row("rq_encode")
def rq_encode() -> Iterator[Line]:
    """Vectors to codes of 4 levels; torch multiplies, looks for the best and subtracts, level by level."""
    from genrec_fast.ops import rq_encode as encode

    for depth, rows in ((128, 1_000_000), (768, 200_000)):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(rows, depth, generator=generator)
        books = [torch.randn(256, depth, generator=generator) * 0.7**level for level in range(4)]
        on_card, there = x.cuda(), [book.cuda() for book in books]
        some = x[:20_000]
        for num_beams in (1, 4):
            found = encode(on_card[: len(some)], there, num_beams=num_beams)
            assert found.cpu().equal(encode(some, books, num_beams=num_beams)), "other codes than the CPU's"

        def rival(x=on_card, books=there) -> torch.Tensor:
            levels = []
            for book in books:
                levels.append(torch.addmm(-0.5 * book.square().sum(1), x, book.T).argmax(1))
                x = x - book[levels[-1]]
            return torch.stack(levels, 1)

        rounded, turned = on_card.bfloat16(), torch.cat(there).bfloat16().T

        def product(x=rounded, books=turned) -> torch.Tensor:
            return x @ books

        took = microseconds(graphed(lambda x=on_card, books=there: encode(x, books)))
        what = f"{rows:,} x {depth}, 4 levels of 256"
        yield Line("rq_encode", what, took, microseconds(graphed(rival)), "torch addmm, argmax, subtract", "3x")
        yield Line("rq_encode", what, took, microseconds(graphed(product)), "torch's bfloat16 product", "0.7x")
        took = microseconds(graphed(lambda x=on_card[:100_000], books=there: encode(x, books, num_beams=4)))
        yield Line("rq_encode", f"100,000 x {depth}, 4 beams", took)


@row("kmeans_step")
def kmeans_step() -> Iterator[Line]:
    """A Lloyd step of a million rows; torch multiplies, looks for the nearest and adds up by atomics in float64."""
    from genrec_fast.ops import kmeans_step as step

    generator = torch.Generator().manual_seed(0)
    x, centroids = torch.randn(1_000_000, 128, generator=generator), torch.randn(256, 128, generator=generator)
    on_card, there, some = x.cuda(), centroids.cuda(), x[:50_000]
    for found, expected in zip(step(on_card[: len(some)], there), step(some, centroids), strict=True):
        assert found.cpu().equal(expected), "other bits than the CPU's"

    def rival() -> tuple[torch.Tensor, ...]:
        scores, labels = torch.addmm(-0.5 * there.square().sum(1), on_card, there.T).max(1)
        sums = torch.zeros(256, 128, dtype=torch.float64, device="cuda").index_add_(0, labels, on_card.double())
        counts = torch.zeros(256, dtype=torch.int64, device="cuda").index_add_(0, labels, torch.ones_like(labels))
        return sums, counts, on_card.square().sum(dtype=torch.float64) - 2 * scores.sum(dtype=torch.float64)

    times = microseconds(graphed(lambda: step(on_card, there))), microseconds(graphed(rival))
    yield Line("kmeans_step", "1M x 128, 256 centroids", *times, "torch addmm, max, index_add", "3x")


@row("topk_inner_product")
def topk_inner_product() -> Iterator[Line]:
    """The 100 best of a million items of 64; torch writes all scores in float32 and selects."""
    from genrec_fast.ops import topk_inner_product as topk

    generator = torch.Generator().manual_seed(0)
    table, queries = torch.randn(1_000_000, 64, generator=generator), torch.randn(256, 64, generator=generator)
    there = table.cuda()
    for found, expected in zip(topk(queries[:16].cuda(), there, 100), topk(queries[:16], table, 100), strict=True):
        assert found.cpu().equal(expected), "other items than the CPU's"
    for count in (1, 16, 256):
        x = queries[:count].cuda()

        def rival(x=x) -> torch.Tensor:
            return (x @ there.T).topk(100, dim=1).indices

        times = microseconds(graphed(lambda x=x: topk(x, there, 100))), microseconds(graphed(rival))
        yield Line("topk_inner_product", f"{count} of 1M x 64, k 100", *times, "torch product and topk", "2x")


def machine() -> dict[str, str]:
    """What ran, and on what."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    cupy = importlib.util.find_spec("cupy")
    return {
        "card": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "capability": ".".join(map(str, torch.cuda.get_device_capability())) if torch.cuda.is_available() else "",
        "torch": torch.__version__,
        "cuda of torch": str(torch.version.cuda),
        "cupy": importlib.import_module("cupy").__version__ if cupy else "missing",
        "python": sys.version.split()[0],
        "commit": commit.stdout.strip() or os.environ.get("GENREC_COMMIT", "unknown"),
        "day": datetime.date.today().isoformat(),
    }


def checked(name: str) -> list[Line]:
    """The lines of one row, the last of which says what went wrong, if something did."""
    lines: list[Line] = []
    try:
        for line in ROWS[name]():
            if line.ours and line.rival and not line.verdict:
                line.verdict = f"{line.rival / line.ours:.2f}x"
            lines.append(line)
    except Exception as error:  # noqa: BLE001 - whatever one row raises, the others are still to run
        (OUT / f"{name}.log").write_text(traceback.format_exc())
        text = " ".join(str(error).split())
        lines.append(Line(name, "", verdict=f"FAILED: {type(error).__name__}: {text[:100]}"))
    return lines


def table(lines: list[Line]) -> str:
    """The lines as text, columns in line."""
    number = lambda value: "" if value is None else f"{value:,.1f}"  # noqa: E731
    head = ("row", "what", "ours, us", "rival, us", "rival", "wanted", "verdict")
    cells = [head, *((x.row, x.what, number(x.ours), number(x.rival), x.against, x.wanted, x.verdict) for x in lines)]
    widths = [max(len(cell[i]) for cell in cells) for i in range(len(head))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(cell, widths, strict=True)).rstrip() for cell in cells)


def record(names: list[str], failed: set[str], stamp: str) -> None:
    """Writes down the ops whose rows passed, drops those whose rows failed, and keeps those that were not asked for."""
    from genrec_fast.base.card import ran_on_card

    known = ran_on_card(ROOT / "csrc" / "cuda")
    for name in names:
        for op in OPS[name]:
            known.pop(op, None)
            if name not in failed:
                known[op] = stamp
    (ROOT / "csrc" / "cuda" / "ran.txt").write_text("".join(f"{op}: {known[op]}\n" for op in sorted(known)))


def main() -> int:
    parser = argparse.ArgumentParser(description="what needs a card, in one run")
    parser.add_argument("--only", default="", help=f"rows, comma-separated: {', '.join(ROWS)}")
    parser.add_argument("--record", action="store_true", help="write what passed into csrc/cuda/ran.txt")
    options = parser.parse_args()
    names = [name for name in options.only.split(",") if name] or list(ROWS)
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        parser.error(f"--only: no row is called {', '.join(unknown)}; there are {', '.join(ROWS)}")
    OUT.mkdir(parents=True, exist_ok=True)
    on = machine()
    print(json.dumps(on, indent=2), flush=True)
    lines: list[Line] = []
    for name in names:
        begin = time.monotonic()
        lines += checked(name) if torch.cuda.is_available() else [Line(name, "", verdict="no card")]
        print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)
        (OUT / "gpu_check.json").write_text(json.dumps({"machine": on, "lines": [asdict(x) for x in lines]}, indent=1))
    print(table(lines))
    failed = [line for line in lines if line.verdict.startswith("FAILED")]
    if options.record and torch.cuda.is_available():
        record(names, {line.row for line in failed}, f"{on['card']}, {on['day']}, {on['commit']}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
