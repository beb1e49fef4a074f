"""Items written as codes: every one of them scored, and a walk over a graph of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gpu_rows.measure import Line, graphed, microseconds, row

_LEVELS, _SIZE = 32, 256


@row("topk_code_sums")
def topk_code_sums() -> Iterator[Line]:
    """The 100 best of a million items of 32 codes; torch gathers and adds level by level, and selects."""
    from genrec_fast.ops import topk_code_sums as topk

    sizes, generator = (_SIZE,) * _LEVELS, torch.Generator().manual_seed(0)
    codes = torch.randint(0, _SIZE, (1_000_000, _LEVELS), generator=generator, dtype=torch.uint8)
    logprobs = (torch.randn(256, _LEVELS, _SIZE, generator=generator) * 4).log_softmax(2).flatten(1)
    there, allowed = codes.cuda(), torch.rand(len(codes), generator=generator) < 0.5
    for keep in (None, allowed):
        found = topk(
            logprobs[:5].cuda(), there, 100, codebook_sizes=sizes, allowed=None if keep is None else keep.cuda()
        )
        right = topk(logprobs[:5], codes, 100, codebook_sizes=sizes, allowed=keep)
        for one, other in zip(found, right, strict=True):
            assert one.cpu().equal(other), "other items or scores than the CPU's"
    columns = there.long() + torch.arange(_LEVELS, device="cuda") * _SIZE
    for count in (1, 16, 256):
        x = logprobs[:count].cuda()

        def rival(x=x) -> torch.Tensor:
            total = torch.zeros(len(x), len(columns), device="cuda")
            for column in columns.T:
                total += x[:, column]
            return total.topk(100, dim=1).indices

        ours = microseconds(graphed(lambda x=x: topk(x, there, 100, codebook_sizes=sizes)))
        yield Line(
            "topk_code_sums",
            f"{count} of 1M x {_LEVELS} codes, k 100",
            ours,
            microseconds(graphed(rival)) if count <= 16 else None,
            "torch gather, add and topk",
            "3x",
        )


@row("graph_step")
def graph_step() -> Iterator[Line]:
    """A step of 256 users from 50 items with 100 neighbours each; torch has no set of each user's ids to compare."""
    from genrec_fast.ops import graph_step as step

    sizes, generator = (_SIZE,) * _LEVELS, torch.Generator().manual_seed(0)
    items = 200_000
    codes = torch.randint(0, _SIZE, (items, _LEVELS), generator=generator, dtype=torch.uint8)
    near = torch.randint(0, items, (items, 100), generator=generator, dtype=torch.int32)
    start = torch.randint(0, items, (256, 50), generator=generator, dtype=torch.int32)
    logprobs = (torch.randn(256, _LEVELS, _SIZE, generator=generator) * 4).log_softmax(2).flatten(1)
    given = tuple(part.cuda() for part in (logprobs, codes, near, start))
    for one, other in zip(
        step(*given, 50, codebook_sizes=sizes),
        step(logprobs, codes, near, start, 50, codebook_sizes=sizes),
        strict=True,
    ):
        assert one.cpu().equal(other), "other items or scores than the CPU's"
    took = microseconds(graphed(lambda: step(*given, 50, codebook_sizes=sizes)))
    yield Line("graph_step", f"256 users, 50 x 100 neighbours of {_LEVELS} codes", took)


@row("completable_codes")
def completable_codes() -> Iterator[Line]:
    """Of 50 half-written rows for each of 16 users, over 12,101 items of 32 codes; torch compares every item."""
    from genrec_fast.ops import completable_codes as completable

    sizes, generator = (_SIZE,) * _LEVELS, torch.Generator().manual_seed(0)
    codes = torch.randint(0, _SIZE, (12_101, _LEVELS), generator=generator, dtype=torch.uint8)
    own = codes[torch.randint(len(codes), (16, 50), generator=generator)].int()
    written = own.masked_fill(torch.rand(own.shape, generator=generator) < 0.5, -1)
    given = written.cuda(), codes.cuda()
    found = completable(*given, codebook_sizes=sizes)
    assert found.cpu().equal(completable(written, codes, codebook_sizes=sizes)), "other codes than the CPU's"
    rows, items = given[0].flatten(0, 1), given[1].int()
    places = items + torch.arange(_LEVELS, device="cuda", dtype=torch.int32) * _SIZE

    def rival() -> torch.Tensor:
        fits = torch.ones(len(rows), len(items), dtype=torch.bool, device="cuda")
        for level in range(_LEVELS):
            mine = rows[:, level : level + 1]
            fits &= (mine == -1) | (mine == items[:, level])
        free = (rows == -1).repeat_interleave(_SIZE, 1)
        counts = (
            fits.half() @ torch.zeros(len(items), _LEVELS * _SIZE, device="cuda").scatter_(1, places.long(), 1).half()
        )
        return (counts > 0) & free

    assert rival().equal(found.flatten(0, 1)), "other codes than torch's"
    ours = microseconds(graphed(lambda: completable(*given, codebook_sizes=sizes)))
    theirs = microseconds(graphed(rival))
    yield Line(
        "completable_codes", f"800 rows, 12,101 items of {_LEVELS} codes", ours, theirs, "torch compare and product"
    )
