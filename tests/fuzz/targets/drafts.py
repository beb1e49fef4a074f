"""Drafts as trees, and how far a target's search goes on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec_fast import ops
from genrec_fast.ops import _registry
from genrec_fast.ops.reference import draft_tree as tree_twin

from ..case import Case, Rng, Unasked, target
from .tries import _filter_arguments, _masks, some_trie


@target("draft_tree", "DraftTree")
def draft_tree(rng: Rng) -> Case:
    users, rows, above = rng.randint(0, 3), rng.choice((1, 2, 5, 9)), rng.choice((1, 1, 3))
    nodes: list[Tensor] = []
    parents: list[Tensor] = []
    codes: list[Tensor] = []
    live = torch.ones(users, above, dtype=torch.bool)
    for _ in range(rng.choice((0, 1, 2, 3))):
        width = rng.choice((0, 1, 2, 5)) if live.shape[1] else 0
        place = rng.whole(0, max(1, live.shape[1]), users, width)
        live = rng.mask(users, width, probability=0.8) & (live.gather(1, place) if live.shape[1] else place > 0)
        nodes.append(rng.whole(0, 9, users, width).where(live, -1).int())
        parents.append(place)
        codes.append(rng.whole(0, 4, users, width, dtype=torch.int32))
    args: dict[str, Any] = {
        "row_parents": rng.whole(0, rows, users, rows),
        "row_codes": rng.whole(-1, 4, users, rows, dtype=torch.int32),
        "above": rng.whole(0, rows, users, above),
        "levels": rng.whole(0, 5, users),
        "nodes": nodes,
        "parents": parents,
        "codes": codes,
    }
    return Case(ops.draft_tree, args, _tree)


def _tree(**given: Any) -> Any:
    if bool(((given["row_codes"] >= 0) & _outside(given["row_parents"], given["row_codes"].shape[1])).any()):
        raise ValueError("a parent outside")
    *rows, counts, numbers = tree_twin.draft_tree(**given)
    most = int(counts.max()) if counts.numel() else 0
    widths = [part.shape[1] for part in given["nodes"]]
    return ops.DraftTree(*(part[:, :most] for part in rows), counts, tuple(numbers.split(widths, 1)) if widths else ())


def _outside(values: Tensor, size: int) -> Tensor:
    return (values < 0) | (values >= size)


@target("draft_verify", "DraftRows", "DraftBeams", share=2.0, calls=64)
def draft_verify(rng: Rng) -> Case:
    trie, _ = some_trie(rng)
    sizes, levels = trie.codebook_sizes, trie.num_levels
    users, width, rows = rng.randint(0, 3), rng.choice((1, 1, 3, 6)), rng.choice((1, 3, 8))
    normalize = rng.choice(("all", "all", "valid"))
    dtype = rng.choice((torch.float32, torch.float32, torch.bfloat16, torch.float16))
    logits = rng.normal(users, rows, max(sizes), dtype=dtype)
    if rng.flip(0.3):
        logits = rng.whole(-2, 3, users, rows, max(sizes)).to(dtype)
    at = rng.whole(0, levels + 1, users)
    nodes = torch.zeros(users, width, dtype=torch.int32)
    for user, level in enumerate(at.tolist()):
        nodes[user] = rng.whole(0, trie.num_nodes(level), width, dtype=torch.int32)
    nodes = nodes.masked_fill(rng.mask(users, width, probability=0.2), -1)
    sums = logits.float().logsumexp(2) + rng.choice((0.0, 1.0)) if normalize == "all" and rng.flip(0.3) else None
    args: dict[str, Any] = {
        "trie": trie,
        "rows": ops.DraftRows(
            rng.whole(0, rows, users, rows), rng.whole(-1, 4, users, rows, dtype=torch.int32), logits, sums
        ),
        "standing": ops.DraftBeams(
            at,
            nodes,
            -torch.rand(users, width, generator=rng.torch),
            rng.whole(0, 4, users, width, levels, dtype=torch.int32),
            rng.whole(0, rows, users, width),
            rng.whole(-1 if rng.flip(0.3) else 0, rows, users, width),
            -torch.rand(users, generator=rng.torch),
        ),
        "num_beams": [rng.randint(1, width) for _ in sizes],
        "normalize": normalize,
    }
    if rng.flip(0.3):
        args["widths"] = rng.whole(1, width + 1, users)
    if rng.flip(0.4):
        args["allowed"] = ops.trie_filter(trie, **_filter_arguments(rng, trie, users))
    return Case(ops.draft_verify, args, _verified)


def _verified(**given: Any) -> Any:
    trie, rows, beams = given["trie"], given["rows"], given["standing"]
    num_beams = [int(count) for count in given["num_beams"]]
    if max(num_beams, default=0) > 4096:
        raise Unasked
    levels = list(trie.tokens), list(trie.child_bases), list(trie.child_deltas)
    masks = _masks(trie, given.get("allowed"), None)
    shape = given.get("widths"), list(trie.codebook_sizes), *levels, num_beams, given["normalize"] == "valid"
    return ops.DraftBeams(*_registry.twins["draft_verify"](*rows, *beams, *shape, *masks))
