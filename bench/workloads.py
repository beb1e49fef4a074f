"""Named shapes that the benchmarks run, each with its source.

A name in a table of docs/benchmarks.md is a name here; change a shape and it becomes another name.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Search:
    """A trie search over a random catalog.

    Args:
        codebook_size: K of every level.
        num_levels: L.
        num_items: N.
        users: B.
        beams: W.
        skewed: codes drawn from a Zipf law (weight of code c is 1 / (c + 1)) instead of uniformly.
        dtype: of the logits.
        source: where the shape comes from.
    """

    codebook_size: int
    num_levels: int
    num_items: int
    users: int
    beams: int
    skewed: bool = False
    dtype: torch.dtype = torch.float32
    source: str

    def item_codes(self) -> Tensor:
        """int64 ``[N, L]``, the same on every call."""
        generator = torch.Generator().manual_seed(0)
        size = self.codebook_size
        if not self.skewed:
            return torch.randint(0, size, (self.num_items, self.num_levels), generator=generator)
        cumulative = (1 / torch.arange(1, size + 1, dtype=torch.float64)).cumsum(0)
        drawn = torch.rand(self.num_items, self.num_levels, generator=generator, dtype=torch.float64) * cumulative[-1]
        return torch.searchsorted(cumulative, drawn).clamp_(max=size - 1)

    def logits(self) -> list[Tensor]:
        """``[B, W, K]`` per level (W = 1 at level 0): normal, scaled by 2 as a trained head's are."""
        generator = torch.Generator().manual_seed(1)
        return [
            (torch.randn(self.users, self.beams if level else 1, self.codebook_size, generator=generator) * 2).to(
                self.dtype
            )
            for level in range(self.num_levels)
        ]


_RIVALS = "shared design notes, 'What stands today', section 1: the shapes the CSR-gather method is published for"
SEARCHES = {
    "v2048-1m-1x50": Search(codebook_size=2048, num_levels=4, num_items=1_000_000, users=1, beams=50, source=_RIVALS),
    "v2048-1m-1x20": Search(codebook_size=2048, num_levels=4, num_items=1_000_000, users=1, beams=20, source=_RIVALS),
    "v2048-1m-10x50": Search(codebook_size=2048, num_levels=4, num_items=1_000_000, users=10, beams=50, source=_RIVALS),
    "v2048-1m-1x50-bf16": Search(
        codebook_size=2048,
        num_levels=4,
        num_items=1_000_000,
        users=1,
        beams=50,
        dtype=torch.bfloat16,
        source=_RIVALS + "; logits as a bfloat16 head gives them",
    ),
    "v2048-1m-1x50-zipf": Search(
        codebook_size=2048,
        num_levels=4,
        num_items=1_000_000,
        users=1,
        beams=50,
        skewed=True,
        source=_RIVALS + "; popularity-skewed",
    ),
    "v8192-1m-1x50": Search(codebook_size=8192, num_levels=3, num_items=1_000_000, users=1, beams=50, source=_RIVALS),
    "v2048-20m-1x50": Search(codebook_size=2048, num_levels=4, num_items=20_000_000, users=1, beams=50, source=_RIVALS),
    "v8192-20m-10x50": Search(
        codebook_size=8192, num_levels=3, num_items=20_000_000, users=10, beams=50, source=_RIVALS
    ),
    "v8192-20m-1x500": Search(
        codebook_size=8192, num_levels=3, num_items=20_000_000, users=1, beams=500, source=_RIVALS
    ),
    "v256-12k-1x50": Search(
        codebook_size=256, num_levels=4, num_items=12_101, users=1, beams=50, source="Amazon Beauty with 4 x 256 codes"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """Random vectors and the codebooks of a residual quantizer.

    Args:
        num_rows: N.
        depth: D.
        codebook_size: K of every level.
        num_levels: L.
        source: where the shape comes from.
    """

    num_rows: int
    depth: int
    codebook_size: int
    num_levels: int = 3
    source: str

    def rows(self) -> Tensor:
        """float32 ``[N, D]``, normal."""
        return torch.randn(self.num_rows, self.depth, generator=torch.Generator().manual_seed(0))

    def codebooks(self) -> list[Tensor]:
        """float32 ``[K, D]`` per level: normal, each level half as long as the one before."""
        generator = torch.Generator().manual_seed(1)
        shape = (self.codebook_size, self.depth)
        return [torch.randn(shape, generator=generator) / 2**level for level in range(self.num_levels)]

    def codes(self) -> Tensor:
        """int32 ``[N, L]``, uniform."""
        shape, generator = (self.num_rows, self.num_levels), torch.Generator().manual_seed(2)
        return torch.randint(0, self.codebook_size, shape, generator=generator, dtype=torch.int32)


_ISSUE = "the shapes that residual quantization is asked to be fast at"
VECTORS = {
    "d64-k256": Vectors(num_rows=50_000, depth=64, codebook_size=256, source=_ISSUE),
    "d64-k1024": Vectors(num_rows=50_000, depth=64, codebook_size=1024, source=_ISSUE),
    "d768-k256": Vectors(num_rows=12_000, depth=768, codebook_size=256, source=_ISSUE),
    "d768-k1024": Vectors(num_rows=12_000, depth=768, codebook_size=1024, source="a larger codebook of the same width"),
    "d64-k8192": Vectors(num_rows=6_000, depth=64, codebook_size=8192, source=_RIVALS),
    "d768-k8192": Vectors(num_rows=2_000, depth=768, codebook_size=8192, source=_RIVALS),
    "d384-k256-12k": Vectors(
        num_rows=12_101, depth=384, codebook_size=256, source="Amazon Beauty by a small sentence encoder"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A batch of histories for attention.

    Args:
        users: B.
        mean: of the lengths, drawn from a log-normal law and cut at ``longest``.
        longest: of the rows; N of HSTU.
        heads: H.
        width: channels of a query, key and value per head.
        source: where the shape comes from.
    """

    users: int
    mean: int
    longest: int
    heads: int = 4
    width: int = 64
    source: str

    def offsets(self) -> Tensor:
        """int64 ``[B + 1]``, the same on every call; one row is as long as rows may be."""
        lengths = torch.exp(torch.randn(self.users, generator=torch.Generator().manual_seed(0)) * 0.9)
        for _ in range(50):  # cutting lowers the mean: stretch until it is met
            lengths = (lengths / lengths.mean() * self.mean).clamp(1, self.longest)
        whole = lengths.round().long()
        whole[whole.argmax()] = self.longest
        return torch.cat([torch.zeros(1, dtype=torch.int64), whole.cumsum(0)])

    def vectors(self, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """q, k, v and a gradient, ``[E, H, width]`` each."""
        generator, rows = torch.Generator().manual_seed(1), int(self.offsets()[-1])
        return [torch.randn(rows, self.heads, self.width, generator=generator).to(dtype) for _ in range(4)]


_ATTENTION = "shared design notes, 'What stands today', section 4"
ROWS = {
    "s": Rows(users=32, mean=50, longest=200, source=_ATTENTION),
    "l": Rows(users=32, mean=200, longest=1024, source=_ATTENTION),
}

TABLES = {
    "12,101 x 128": Vectors(
        num_rows=12_101, depth=128, codebook_size=1, source="Amazon Beauty with the item table of `sasrec`"
    ),
    "1,000,000 x 64": Vectors(num_rows=1_000_000, depth=64, codebook_size=1, source="a catalog that fills no cache"),
}


@dataclass(frozen=True, kw_only=True)
class Decode:
    """A whole decode: prompts in, items out.

    Args:
        model: a builder of ``decode_models.BUILDERS``.
        prompt: tokens of every prompt.
        users: B.
        beams: W.
        codebook_size: K of every level.
        num_levels: L.
        num_items: N.
        source: where the shape comes from.
    """

    model: str
    prompt: int
    users: int
    beams: int
    codebook_size: int
    num_levels: int = 4
    num_items: int = 12_101
    source: str

    def item_codes(self) -> Tensor:
        """int64 ``[N, L]``, no row twice, the same on every call."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.num_items + 100, self.num_levels)
        return torch.randint(0, self.codebook_size, shape, generator=generator).unique(dim=0)[: self.num_items]

    def prompts(self, vocab_size: int) -> Tensor:
        """int64 ``[B, S]``, the same on every call."""
        generator = torch.Generator().manual_seed(1)
        return torch.randint(3, vocab_size, (self.users, self.prompt), generator=generator)


_WHOLE = "shared design notes, 'What stands today', section 2"
DECODES = {
    **{
        f"t5-{users}x{beams}": Decode(
            model="t5", prompt=81, users=users, beams=beams, codebook_size=256, source=_WHOLE + ": TIGER's shape"
        )
        for users, beams in ((1, 20), (1, 50), (32, 20), (32, 50))
    },
    **{
        f"qwen3-1x{beams}": Decode(
            model="qwen3", prompt=256, users=1, beams=beams, codebook_size=2048, source=_WHOLE + ": a small Qwen3"
        )
        for beams in (20, 50)
    },
    "smollm2-1x20": Decode(
        model="smollm2", prompt=256, users=1, beams=20, codebook_size=256, source="SmolLM2-135M-Instruct"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Codes:
    """Random items of many codes, and what users say of these.

    Args:
        num_items: N.
        num_levels: L.
        codebook_size: K of every level.
        source: where the shape comes from.
    """

    num_items: int
    num_levels: int
    codebook_size: int = 256
    source: str

    def codes(self) -> Tensor:
        """uint8 ``[N, L]``: half of an item's codes are those of one of N / 50 kinds, the others uniform."""
        generator = torch.Generator().manual_seed(0)
        kinds = max(1, self.num_items // 50)
        kind = torch.randint(kinds, (self.num_items,), generator=generator)
        own = torch.randint(self.codebook_size, (kinds, self.num_levels), generator=generator).to(torch.uint8)
        out = torch.empty(self.num_items, self.num_levels, dtype=torch.uint8)
        for level in range(self.num_levels):  # level by level: no int64 of all
            free = torch.randint(self.codebook_size, (self.num_items,), generator=generator).to(torch.uint8)
            out[:, level] = torch.where(torch.rand(self.num_items, generator=generator) < 0.5, free, own[kind, level])
        return out

    def tables(self) -> list[Tensor]:
        """float32 ``[K, 64]`` per level, normal."""
        generator = torch.Generator().manual_seed(1)
        return [torch.randn(self.codebook_size, 64, generator=generator) for _ in range(self.num_levels)]

    def logprobs(self, users: int) -> Tensor:
        """float32 ``[B, L K]``: cosines of a noisy item's vectors over 0.1, each level's log-softmax."""
        generator = torch.Generator().manual_seed(2)
        wanted = self.codes()[torch.randint(self.num_items, (users,), generator=generator)].long()
        parts = []
        for table, column in zip(self.tables(), wanted.unbind(1), strict=True):
            unit = torch.nn.functional.normalize(table, dim=1)
            state = torch.nn.functional.normalize(
                unit[column] + 0.15 * torch.randn(users, 64, generator=generator), dim=1
            )
            parts.append((state @ unit.T / 0.1).log_softmax(1))
        return torch.cat(parts, 1)


CODES = {
    "12,101 x 32 codes": Codes(num_items=12_101, num_levels=32, source="Amazon Beauty as RPG codes it"),
    "1,000,000 x 32 codes": Codes(
        num_items=1_000_000, num_levels=32, source="a catalog that no N x N matrix is made of"
    ),
}
