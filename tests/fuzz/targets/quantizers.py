"""Vectors and codebooks: encoding, decoding, k-means, the largest inner products and sums of code scores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec_fast import ops
from genrec_fast.base.jagged import Jagged
from genrec_fast.ops.reference.completable_codes import completable_codes as _completable
from genrec_fast.ops.reference.graph_step import graph_step as _graph
from genrec_fast.ops.reference.kmeans_step import kmeans_step as _kmeans
from genrec_fast.ops.reference.rq_decode import rq_decode as _decode
from genrec_fast.ops.reference.rq_encode import rq_encode as _encode
from genrec_fast.ops.reference.topk_code_sums import topk_code_sums as _sums
from genrec_fast.ops.reference.topk_inner_product import topk_inner_product as _topk

from ..case import Case, Rng, Unasked, target

FLOATS = (torch.float32, torch.float32, torch.float32, torch.bfloat16, torch.float16)
DEPTHS = (1, 2, 3, 8, 15, 16, 17, 33)


def _vectors(rng: Rng, rows: int, depth: int) -> Tensor:
    """Often on a coarse grid, where ties are many."""
    dtype = rng.choice(FLOATS)
    return rng.whole(-2, 3, rows, depth).to(dtype) if rng.flip(0.3) else rng.normal(rows, depth, dtype=dtype)


def _books(rng: Rng, depth: int) -> list[Tensor]:
    return [_vectors(rng, rng.choice((1, 2, 5, 16, 33)), depth) for _ in range(rng.randint(1, 3))]


def _listed(codebooks: Any) -> list[Tensor]:
    return [book.float() for book in codebooks]


@target("rq_encode", share=0.7)
def rq_encode(rng: Rng) -> Case:
    depth = rng.choice(DEPTHS)
    books: Any = _books(rng, depth)
    if rng.flip(0.2):
        books = rng.normal(rng.randint(1, 3), 5, depth)
    args = {
        "x": _vectors(rng, rng.choice((0, 1, 3, 9)), depth),
        "codebooks": books,
        "num_beams": rng.choice((1, 1, 2, 4)),
        "precision": rng.choice(("float32", "bfloat16")),
    }

    def right(x: Tensor, codebooks: Any, num_beams: int, precision: str) -> Any:
        if int(num_beams) > 4096:
            raise Unasked
        return _encode(x, _listed(codebooks), int(num_beams))

    return Case(ops.rq_encode, args, right)


@target("rq_decode")
def rq_decode(rng: Rng) -> Case:
    books = _books(rng, rng.choice(DEPTHS))
    rows, more = rng.choice((0, 1, 3, 9)), rng.randint(0, 1)
    columns = [rng.whole(0, len(book), rows) for book in books] + [rng.whole(0, 9, rows)] * more
    args = {
        "codes": torch.stack(columns, 1).to(rng.choice((torch.int32, torch.int64))),
        "codebooks": books,
        "num_levels": rng.randint(1, len(books)) if more or rng.flip() else None,
    }

    def right(codes: Tensor, codebooks: Any, num_levels: int | None) -> Tensor:
        levels = codes.shape[1] if num_levels is None else int(num_levels)
        books = list(codebooks)[:levels]
        for level, book in enumerate(books):
            if len(codes) and (int(codes[:, level].min()) < 0 or int(codes[:, level].max()) >= len(book)):
                raise ValueError("a code outside")
        return _decode(codes[:, :levels], books)

    return Case(ops.rq_decode, args, right)


@target("kmeans_step", "KMeansStep", share=0.7)
def kmeans_step(rng: Rng) -> Case:
    depth = rng.choice(DEPTHS)
    centroids = _vectors(rng, rng.choice((1, 2, 5, 16, 33)), depth)
    after = ops.kmeans_step(_vectors(rng, 4, depth), centroids) if rng.flip(0.4) else None
    args = {
        "x": _vectors(rng, rng.choice((0, 1, 3, 9)), depth),
        "centroids": centroids,
        "after": after,
        "precision": rng.choice(("float32", "bfloat16")),
    }

    def right(x: Tensor, centroids: Tensor, after: Any, precision: str) -> Any:
        return ops.KMeansStep(
            *_kmeans(x, centroids, *(() if after is None else (after.sums, after.counts, after.inertia)))
        )

    return Case(ops.kmeans_step, args, right)


def _filters(rng: Rng, users: int, items: int) -> dict[str, Any]:
    """Which items a user may find."""
    allowed = rng.choice((None, None, (items,), (1, items), (users, items)))
    exclude = None
    if rng.flip(0.4):
        lengths = [rng.randint(0, 4) if items else 0 for _ in range(users)]
        exclude = Jagged(rng.whole(0, max(items, 1), sum(lengths)), rng.offsets(lengths, torch.int64))
    return {"allowed": None if allowed is None else rng.mask(*allowed), "exclude": exclude}


@target("topk_inner_product")
def topk_inner_product(rng: Rng) -> Case:
    depth, users, items = rng.choice(DEPTHS), rng.randint(0, 4), rng.choice((0, 1, 5, 17, 40, 70))
    args = {
        "queries": _vectors(rng, users, depth),
        "table": _vectors(rng, items, depth),
        "k": rng.choice((1, 3, 10, 60)),
        "bias": rng.normal(items) if rng.flip(0.3) else None,
        **_filters(rng, users, items),
    }

    def right(queries: Tensor, table: Tensor, k: int, bias: Any, allowed: Any, exclude: Any) -> Any:
        if int(k) > 1 << 16:
            raise Unasked
        lists = (None, None) if exclude is None else (exclude.values, exclude.offsets)
        return _topk(
            queries, table, int(k), bias, allowed if allowed is None or allowed.dim() == 2 else allowed[None], *lists
        )

    return Case(ops.topk_inner_product, args, right)


def _code_scores(rng: Rng, users: int, items: int) -> dict[str, Any]:
    sizes = [rng.choice((1, 2, 5, 17, 256)) for _ in range(rng.choice((1, 2, 7, 8, 9, 17)))]
    x = rng.whole(-2, 3, users, sum(sizes)).float() if rng.flip(0.3) else rng.normal(users, sum(sizes))
    if rng.flip(0.2):
        x = x.masked_fill(rng.mask(users, sum(sizes), probability=0.2), -torch.inf)
    codes = torch.stack([rng.whole(0, size, items) for size in sizes], 1)
    return {"logprobs": x, "item_codes": codes.to(rng.choice((torch.uint8, torch.int32))), "codebook_sizes": sizes}


def _require_codes(item_codes: Tensor, codebook_sizes: Any) -> list[int]:
    sizes = [int(size) for size in codebook_sizes]
    if bool(((item_codes < 0) | (item_codes >= torch.tensor(sizes))).any()):
        raise ValueError("a code outside")
    return sizes


@target("topk_code_sums")
def topk_code_sums(rng: Rng) -> Case:
    users, items = rng.choice((0, 1, 3, 5, 17)), rng.choice((0, 1, 5, 17, 70))
    args = {
        **_code_scores(rng, users, items),
        "k": rng.choice((1, 3, 10, 60)),
        **_filters(rng, users, items),
    }

    def right(logprobs: Tensor, item_codes: Tensor, codebook_sizes: Any, k: int, allowed: Any, exclude: Any) -> Any:
        if int(k) > 1 << 16:
            raise Unasked
        lists = (None, None) if exclude is None else (exclude.values, exclude.offsets)
        mask = allowed if allowed is None or allowed.dim() == 2 else allowed[None]
        if not len(logprobs):  # no code is followed
            return logprobs.new_zeros(0, int(k)), torch.zeros(0, int(k), dtype=torch.int64)
        return _sums(logprobs, item_codes, int(k), _require_codes(item_codes, codebook_sizes), mask, *lists)

    return Case(ops.topk_code_sums, args, right)


@target("graph_step", "GraphStep")
def graph_step(rng: Rng) -> Case:
    users, items = rng.choice((0, 1, 3)), rng.choice((1, 5, 17, 70))
    args = {
        **_code_scores(rng, users, items),
        "neighbours": rng.whole(-1, items, items, rng.choice((0, 1, 4, 9)), dtype=torch.int32),
        "items": rng.whole(-1, items, users, rng.choice((0, 1, 4)), dtype=torch.int32),
        "num_beams": rng.choice((1, 3, 10, 60)),
    }

    def right(
        logprobs: Tensor, item_codes: Tensor, codebook_sizes: Any, neighbours: Tensor, items: Tensor, num_beams: int
    ) -> Any:
        if int(num_beams) > 4096:
            raise Unasked
        sizes = [int(size) for size in codebook_sizes]  # codes that no step reaches are not looked at
        return ops.GraphStep(*_graph(logprobs, item_codes, neighbours, items, int(num_beams), sizes))

    return Case(ops.graph_step, args, right)


@target("completable_codes")
def completable_codes(rng: Rng) -> Case:
    users, beams, items = rng.choice((0, 1, 3)), rng.choice((0, 1, 4)), rng.choice((0, 1, 5, 17, 70))
    scores = _code_scores(rng, users, items)
    codes, sizes = scores["item_codes"], scores["codebook_sizes"]
    written = torch.stack([rng.whole(-1, size, users * beams, dtype=torch.int32) for size in sizes], 1)
    if items:  # of items that there are, so that some code is left
        own = codes[rng.whole(0, items, users * beams)].int()
        written = torch.where(rng.mask(*own.shape), own, -1) if rng.flip(0.8) else written
    args = {
        "written": written.view(users, beams, len(sizes)),
        "item_codes": codes,
        "codebook_sizes": sizes,
        **_filters(rng, users, items),
    }

    def right(written: Tensor, item_codes: Tensor, codebook_sizes: Any, allowed: Any, exclude: Any) -> Any:
        lists = (None, None) if exclude is None else (exclude.values, exclude.offsets)
        mask = allowed if allowed is None or allowed.dim() == 2 else allowed[None]
        sizes = [int(size) for size in codebook_sizes]
        if written.numel():
            _require_codes(item_codes, sizes)
        if bool(((written < -1) | (written >= torch.tensor(sizes))).any()):
            raise ValueError("a code outside")
        return _completable(written, item_codes, sizes, mask, *lists)

    return Case(ops.completable_codes, args, right)
