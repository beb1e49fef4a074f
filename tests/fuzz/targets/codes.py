"""Tokenizers and what stands around them: codes resolved, packed, written, read, reported; files with bytes changed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec_fast import tokenizers
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidTypeError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.layouts import PlainConfig

from ..case import Case, Rng, target
from .tries import Altered, _seeds, scratch

LONG = frozenset({"iterations", "restarts", "sweeps"})


def _catalog(rng: Rng) -> tuple[Tensor, tuple[int, ...]]:
    sizes = tuple(rng.choice((2, 3, 5, 8, 16)) for _ in range(rng.randint(1, 3)))
    codes = torch.stack([rng.whole(0, size, rng.choice((1, 2, 7, 20))) for size in sizes[:1]], 1)
    codes = torch.cat([codes, *(rng.whole(0, size, len(codes), 1) for size in sizes[1:])], 1)
    return codes.to(rng.choice((torch.int64, torch.int32))), sizes


def _inside(codes: Tensor, sizes: Any) -> list[int]:
    limits = [int(size) for size in sizes]
    if codes.dtype.is_floating_point or codes.dtype == torch.bool or codes.dim() != 2 or codes.shape[1] != len(limits):
        raise ValueError("codes")
    if codes.numel() and (int(codes.min()) < 0 or bool((codes.long() >= torch.tensor(limits)).any())):
        raise ValueError("a code outside")
    return limits


@target("tokenizers.add_dedup_level", gentle=True, share=0.4)
def add_dedup_level(rng: Rng) -> Case:
    codes, sizes = _catalog(rng)
    args = {
        "item_codes": codes,
        "codebook_sizes": sizes,
        "dedup": rng.choice(("rank", "rank_if_shared", "colliding_only", "none")),
    }

    def right(item_codes: Tensor, codebook_sizes: Any, dedup: str) -> Any:
        limits = _inside(item_codes, codebook_sizes)
        rows = [tuple(row) for row in item_codes.tolist()]
        counts = {row: rows.count(row) for row in rows}
        largest, shared = max(counts.values()), any(n > 1 for n in counts.values())
        if dedup == "none" or (dedup == "colliding_only" and not shared):
            return item_codes.int(), tuple(limits)
        seen: dict[Any, int] = {}
        digits, size = [], {"rank": largest, "rank_if_shared": largest + shared, "colliding_only": largest + 1}[dedup]
        for row in rows:
            rank = seen[row] = seen.get(row, -1) + 1
            alone = counts[row] == 1
            digits.append(
                {
                    "rank": rank,
                    "rank_if_shared": 0 if alone else rank + 1,
                    "colliding_only": largest if alone else rank,
                }[dedup]
            )
        return torch.cat([item_codes.int(), torch.tensor(digits, dtype=torch.int32)[:, None]], 1), (*limits, size)

    return Case(tokenizers.add_dedup_level, args, right)


@target("tokenizers.resolve", gentle=True, share=0.3)
def resolve(rng: Rng) -> Case:
    codes, sizes = _catalog(rng)
    books = [rng.normal(size, 4) for size in sizes]
    args: dict[str, Any] = {
        "item_codes": codes,
        "codebook_sizes": sizes,
        "dedup": rng.choice(("rank", "none", "nearest_free", "sinkhorn")),
    }
    if args["dedup"] in ("nearest_free", "sinkhorn"):
        args |= {"vectors": rng.normal(len(codes), 4), "codebooks": books}

    def call(**given: Any) -> Any:
        found = tokenizers.resolve(**given)
        return found[0], tuple(found[1])

    return Case(call, args, None, refuses=True)


@target("tokenizers.reassign", gentle=True, share=0.2)
def reassign(rng: Rng) -> Case:
    codes, sizes = _catalog(rng)
    args = {
        "item_codes": codes,
        "vectors": rng.normal(len(codes), 4),
        "codebooks": [rng.normal(size, 4) for size in sizes],
        "method": rng.choice(("nearest_free", "sinkhorn")),
        "when_full": rng.choice(("other_prefix", "share")),
        "epsilon": 0.01,
        "iterations": 5,
    }
    # So many rounds as asked for are made: 2^62 of them are no fault.
    return Case(lambda **given: tokenizers.reassign(**given)[0].shape, args, None, refuses=True, fixed=LONG)


@target("tokenizers.pack_codes", "tokenizers.unpack_codes", gentle=True, share=0.4)
def pack_codes(rng: Rng) -> Case:
    codes, sizes = _catalog(rng)

    def right(codes: Tensor, codebook_sizes: Any) -> Tensor:
        limits = _inside(codes, codebook_sizes)
        bits = [(size - 1).bit_length() for size in limits]
        out = []
        for row in codes.tolist():
            number = shift = 0
            for code, count in zip(row, bits, strict=True):
                number |= code << shift
                shift += count
            out.append(list(number.to_bytes((sum(bits) + 7) // 8, "little")))
        return torch.tensor(out, dtype=torch.uint8).view(len(codes), (sum(bits) + 7) // 8)

    return Case(tokenizers.pack_codes, {"codes": codes, "codebook_sizes": sizes}, right)


@target("tokenizers.unpack_codes", gentle=True, share=0.3)
def unpack_codes(rng: Rng) -> Case:
    codes, sizes = _catalog(rng)
    args = {"packed": tokenizers.pack_codes(codes, sizes), "codebook_sizes": sizes}

    def right(packed: Tensor, codebook_sizes: Any) -> Tensor:
        limits = [int(size) for size in codebook_sizes]
        bits = [(size - 1).bit_length() for size in limits]
        if packed.dtype != torch.uint8 or packed.dim() != 2 or packed.shape[1] < (sum(bits) + 7) // 8:
            raise ValueError("packed")  # bytes behind the last level are faiss' norms, and not read
        out = []
        for row in packed.tolist():
            number, found = int.from_bytes(bytes(row), "little"), []
            for count, limit in zip(bits, limits, strict=True):
                found.append(number & ((1 << count) - 1))
                number >>= count
                if found[-1] >= limit:
                    raise ValueError("a code outside")
            out.append(found)
        return torch.tensor(out, dtype=torch.int32).view(len(packed), len(limits))

    return Case(tokenizers.unpack_codes, args, right)


@target("tokenizers.to_text", "tokenizers.from_text", gentle=True, share=0.3)
def to_text(rng: Rng) -> Case:
    codes, _ = _catalog(rng)

    def call(codes: Any, style: Any) -> Tensor:
        return tokenizers.from_text(tokenizers.to_text(codes, style), style)

    def right(codes: Tensor, style: str) -> Tensor:
        if codes.dtype.is_floating_point or codes.dtype == torch.bool or codes.dim() != 2 or bool((codes < 0).any()):
            raise ValueError("codes")
        return codes.to(torch.int32) if len(codes) else torch.empty(0, 0, dtype=torch.int32)

    return Case(call, {"codes": codes, "style": rng.choice(("lcrec", "openonerec"))}, right)


@target("tokenizers.from_text", gentle=True, share=0.3)
def from_text(rng: Rng) -> Case:
    codes, _ = _catalog(rng)
    style = rng.choice(("lcrec", "openonerec"))
    return Case(tokenizers.from_text, {"texts": tokenizers.to_text(codes, style), "style": style}, None)


@target("tokenizers.report", gentle=True, share=0.2)
def report(rng: Rng) -> Case:
    codes, sizes = _catalog(rng)
    args: dict[str, Any] = {"item_codes": codes, "codebook_sizes": sizes}
    if rng.flip():
        args |= {"features": rng.normal(len(codes), 4)}
    if rng.flip():
        args |= {"labels": rng.whole(0, 3, len(codes))}
    return Case(lambda **given: str(tokenizers.report(**given))[:0], args, None, refuses=True)


@target("tokenizers.kmeans", gentle=True, share=0.15)
def kmeans(rng: Rng) -> Case:
    args = {
        "x": rng.normal(rng.randint(4, 12), rng.randint(1, 4)),
        "k": rng.randint(1, 4),
        "iterations": rng.randint(1, 3),
        "init": rng.choice(("kmeans++", "random")),
        "restarts": 1,
        "restart_empty": rng.flip(),
        "seed": rng.randint(0, 9),
    }
    return Case(lambda **given: tokenizers.kmeans(**given)[0].shape, args, None, refuses=True, fixed=LONG)


@target("tokenizers.balanced_assignment", gentle=True, share=0.2)
def balanced(rng: Rng) -> Case:
    args = {
        "x": rng.normal(rng.randint(2, 9), 3),
        "centroids": rng.normal(rng.randint(1, 4), 3),
        "method": rng.choice(("capacity", "sinkhorn")),
        "capacity": None,
        "epsilon": 0.01,
        "sweeps": 5,
    }
    return Case(lambda **given: tokenizers.balanced_assignment(**given).shape, args, None, refuses=True, fixed=LONG)


def _fitted(rng: Rng) -> Any:
    """A small tokenizer of features that has learned, of one of the cheap kinds."""
    kinds: tuple[Any, ...] = (
        lambda: tokenizers.RQKMeansConfig(codebook_sizes=(4, 3), iterations=2, refinements=1),
        lambda: tokenizers.PQConfig(codebook_sizes=(4, 3), iterations=2),
        lambda: tokenizers.HierarchicalConfig(codebook_sizes=(3, 3), iterations=2),
        lambda: tokenizers.RandomConfig(codebook_sizes=(4, 4)),
        tokenizers.AtomicConfig,
    )
    made = rng.choice(kinds)().build(_wide(4))
    made.fit(rng.normal(12, 4), num_items=12, seed=rng.randint(0, 9))
    return made


@target("Tokenizer.fit", gentle=True, share=0.12, calls=24)
def fit(rng: Rng) -> Case:
    config = rng.choice(
        (
            tokenizers.RQKMeansConfig(codebook_sizes=(4, 3), iterations=2, refinements=1),
            tokenizers.PQConfig(codebook_sizes=(4, 3), iterations=2),
        )
    )
    args = {
        "features": rng.normal(12, 4),
        "num_items": rng.choice((None, 12)),
        "seed": rng.randint(0, 99),
        "histories": None,
        "categories": None,
    }

    def call(**given: Any) -> Any:
        made = config.build(_wide(4))
        made.fit(**given)
        return made.item_codes.shape[0]

    return Case(call, args, None)


@target("Tokenizer.encode", gentle=True, share=0.15)
def encode(rng: Rng) -> Case:
    made = _fitted(rng)
    return Case(
        lambda features: made.encode(features).shape, {"features": rng.normal(rng.randint(0, 4), 4)}, None, refuses=True
    )


@target("Tokenizer.decode", gentle=True, share=0.15)
def decode(rng: Rng) -> Case:
    made = _fitted(rng)
    return Case(lambda codes: made.decode(codes).shape, {"codes": made.item_codes[:3]}, None, refuses=True)


@target("Tokenizer.load", gentle=True, share=0.15)
def load(rng: Rng) -> Case:
    """Files of ``save`` with bytes changed."""
    made = _fitted(rng)
    path = scratch("tokenizer.safetensors")
    made.save(path)
    file = Altered(path.read_bytes())

    def call(seed: int) -> Any:
        path.write_bytes(file.raw if seed == 0 else file.draw(seed))
        return tokenizers.load(path).item_codes.shape

    return Case(call, {"seed": 0}, None, vary=_seeds)


@target("tokenizers.read_index_json", gentle=True, share=0.15)
def read_index_json(rng: Rng) -> Case:
    codes, _ = _catalog(rng)
    path = scratch("index.json")
    tokenizers.write_index_json(path, codes)
    file = Altered(path.read_bytes())

    def call(seed: int) -> Any:
        path.write_bytes(file.raw if seed == 0 else file.draw(seed))
        return tokenizers.read_index_json(path).shape

    return Case(call, {"seed": 0}, None, vary=_seeds, refuses=True)


@target("Plain", gentle=True, share=0.3)
def plain_layout(rng: Rng) -> Case:
    codes, sizes = _catalog(rng)
    layout = PlainConfig(use_valid_codes=rng.flip()).build(_coded(codes, sizes))
    lengths = [rng.randint(1, 3) for _ in range(rng.randint(1, 3))]
    offsets = rng.offsets(lengths, torch.int64)
    values = rng.whole(0, len(codes), sum(lengths))
    args = {"values": values, "targets": rng.whole(-1, len(codes), sum(lengths))}

    def call(values: Any, targets: Any) -> Any:
        if not isinstance(values, Tensor) or not isinstance(targets, Tensor) or values.dim() != 1:
            raise InvalidTypeError("not a batch")
        if values.shape != (sum(lengths),) or targets.shape != values.shape:
            raise InvalidTypeError("not a batch")
        found = layout(Batch(Jagged(values, offsets), targets=targets))
        return found.codes, found.target_codes

    def right(values: Tensor, targets: Tensor) -> Any:
        if int(values.min()) < 0 or int(values.max()) >= len(codes) or int(targets.max()) >= len(codes):
            raise ValueError("an item outside")
        wide = codes.long()
        return wide[values.long()], wide[targets[targets >= 0].long()]

    return Case(call, args, right)


@target("PlainConfig.build", gentle=True, share=0.2)
def plain_build(rng: Rng) -> Case:
    codes, sizes = _catalog(rng)
    args = {"item_codes": codes, "codebook_sizes": sizes, "features": rng.normal(len(codes), 3) if rng.flip() else None}
    return Case(lambda **given: PlainConfig().build(Catalog(**given)).num_items, args, None)


def _wide(width: int) -> Catalog:
    return Catalog(num_items=1, features=torch.zeros(1, width))


def _coded(codes: Any, sizes: Any) -> Catalog:
    return Catalog(item_codes=codes, codebook_sizes=sizes)
