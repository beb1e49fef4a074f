"""Codes of vectors, means, and the best inner products."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gpu_rows.measure import Line, graphed, microseconds, row


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
