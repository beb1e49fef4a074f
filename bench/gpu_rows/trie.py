"""The trie's ops over millions of items."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from gpu_rows.measure import Line, graphed, microseconds, row


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


@row("trie_places")
def trie_places() -> Iterator[Line]:
    """40,000 items among 20M."""
    from genrec_fast.catalog.trie import build_trie
    from genrec_fast.ops import trie_places as places

    generator = torch.Generator().manual_seed(0)
    base, added = (
        build_trie(torch.randint(0, 8192, (count, 3), generator=generator), codebook_sizes=(8192,) * 3)
        for count in (20_000_000, 40_000)
    )
    right, there, new = places(base, added), base.to("cuda"), added.to("cuda")
    found = places(there, new)
    for one, other in zip((*found.before, *found.shared), (*right.before, *right.shared), strict=True):
        assert one.cpu().equal(other), "other places than the CPU's"
    yield Line("trie_places", "40,000 of 20M items", microseconds(graphed(lambda: places(there, new))))


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


@row("expand_rows")
def expand_rows() -> Iterator[Line]:
    """The 50 best items of 50 beams, one to some items a row; torch sorts three times and waits for the card."""
    from genrec_fast.catalog.trie import build_trie
    from genrec_fast.ops import expand_rows as module

    generator = torch.Generator().manual_seed(0)
    for size in (64, 1024):  # a million items in 262,144 rows, and in nearly as many as there are items
        trie = build_trie(torch.randint(0, size, (1_000_000, 3), generator=generator), codebook_sizes=(size,) * 3)
        rows = torch.stack([torch.randperm(trie.num_rows, generator=generator)[:50] for _ in range(256)]).int()
        codes, scores = torch.zeros(256, 50, 3, dtype=torch.int32), torch.randn(256, 50, generator=generator)
        there, given = trie.to("cuda"), (rows.cuda(), codes.cuda(), scores.cuda())

        def ours(there=there, given=given) -> tuple[torch.Tensor, ...]:
            return module.expand_rows(there, *given, 50, None)

        def rival(there=there, given=given) -> tuple[torch.Tensor, ...]:
            leaves = there.leaf_bases, there.leaf_deltas, there.leaf_items
            return module._plain(*given, given[2], *leaves, 50, None, None, None)

        right = module.expand_rows(trie, rows, codes, scores, 50, None)
        for one, other in zip(ours(), right, strict=True):
            assert one.cpu().equal(other), "other items than the CPU's"
        what = f"256 x 50 beams, 1M items in {trie.num_rows:,} rows"
        yield Line("expand_rows", what, microseconds(graphed(ours)), microseconds(rival), "torch sorts", "3x")
