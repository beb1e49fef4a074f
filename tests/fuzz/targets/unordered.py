"""A search that writes codes in any order, against every order tried in plain Python."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.batch import Batch, Ranked
from genrec_fast.base.errors import InvalidTypeError
from genrec_fast.decoders import UnmaskConfig

from ..case import Case, Rng, target
from .searches import _question, kept

Codes = tuple[int, ...]


class Masked:
    """What it says of a code depends on the history and on all that is written; sums are exact in float32."""

    def __init__(self, codebook_sizes: tuple[int, ...]) -> None:
        self.codebook_sizes = codebook_sizes

    def read(self, batch: Batch) -> Tensor:
        return torch.tensor([int(row.sum()) * 7 + len(row) for row in batch.items.rows()], dtype=torch.int64)

    read_targets = read

    def code_logprobs(self, histories: Tensor, written: Tensor) -> list[Tensor]:
        rows = sum((written[..., level] + 1) * 7**level for level in range(written.shape[2]))
        return [
            self.said(histories.view(-1, 1, 1), rows.unsqueeze(2), level, torch.arange(size))
            for level, size in enumerate(self.codebook_sizes)
        ]

    @staticmethod
    def said(state: Any, row: Any, level: int, code: Any) -> Any:
        """For tensors and for whole numbers."""
        return -((state * 37 + row * 11 + code * 101 + code * row * 5 + level * 17) % 97) / 32


def orders(state: int, items: list[Codes], alive: list[int], confident: bool, per_step: int) -> dict[int, float]:
    """The best score of every item that the search may reach, by all ways to it."""
    levels, best = len(items[0]) if items else 0, dict[int, float]()

    def go(written: Codes, read: Codes, score: float) -> None:
        step = sum(code >= 0 for code in written)
        if step == levels:
            for item in alive:
                if items[item] == written:
                    best[item] = max(score, best.get(item, score))
            return
        read = written if step % per_step == 0 else read
        row = sum((code + 1) * 7**level for level, code in enumerate(read))
        fits = [items[i] for i in alive if all(w in (-1, c) for w, c in zip(written, items[i], strict=True))]
        said = {
            (level, codes[level]): Masked.said(state, row, level, codes[level])
            for codes in fits
            for level in range(levels)
            if written[level] < 0
        }
        if confident and said:
            level = min(
                range(levels), key=lambda n: (-max((v for (m, _), v in said.items() if m == n), default=-9e9), n)
            )
            said = {(m, code): value for (m, code), value in said.items() if m == level}
        for (level, code), value in said.items():
            go((*written[:level], code, *written[level + 1 :]), read, score + value)

    go((-1,) * levels, (-1,) * levels, 0.0)
    return best


def _complaint(found: Ranked, true: Tensor, keep: Tensor, k: int, confident: bool, wide: bool) -> str | None:
    """Scores are those of a way to the item, what is proven is the best, and the bound is above all that is missing."""
    if tuple(found.items.shape) != (len(true), k):
        return f"items are {list(found.items.shape)}"
    for user, row in enumerate(found.items):
        shown = row[row >= 0]
        if len(shown.unique()) != len(shown) or not bool(keep[user, shown].all()):
            return f"user {user}: an item twice, or a forbidden one"
        own, best = found.scores[user][: len(shown)].double(), true[user, shown]
        if bool((own > best + 1e-5).any()) or (confident and bool(((own - best).abs() > 1e-5).any())):
            return f"user {user}: scores {own.tolist()}, the best ways have {best.tolist()}"
        top = true[user].sort(descending=True).values[:k]
        top = top[top > -torch.inf]
        if wide and confident and len(shown) != len(top):
            return f"user {user}: {len(shown)} items of {len(top)}, though nothing was left out"
        if bool(found.exact[user]) and (len(top) != len(shown) or bool(((own - top).abs() > 1e-5).any())):
            return f"user {user}: called exact, {own.tolist()} against {top.tolist()}"
        missing = true[user].clone()
        missing[shown] = -torch.inf
        least = max(float(found.bound[user]), float(own[-1]) if len(shown) == k else -torch.inf)
        if len(missing) and float(missing.max()) > least + 1e-5:
            return f"user {user}: an item of {float(missing.max())} is above the bound {least}"
    return None


@target("Unmask.search", "decoders.unmask", gentle=True, share=0.15)
def unmask(rng: Rng) -> Case:
    args, other, codes, batch = _question(rng)
    model = Masked(other.codebook_sizes)
    config = UnmaskConfig(
        num_beams=rng.choice((1, 4, 50)), codes_per_step=rng.randint(1, 3), order=rng.choice(("confident", "any"))
    )
    args |= {"num_beams": rng.choice((None, 1, 5, 50)), "exact": rng.flip(0.3)}
    if args["num_beams"] == 1:
        args["k"] = 1
    items = [tuple(row) for row in codes.tolist()]
    confident = config.order == "confident"

    def call(**given: Any) -> Ranked:
        if isinstance(given["num_beams"], list):  # a number per level is no setting of it
            raise InvalidTypeError("a list")
        given = dict(given)
        return config.build().search(model, batch, given.pop("trie"), given.pop("k"), **given)

    def right(**given: Any) -> Any:
        keep = kept(len(batch), len(codes), given["allowed"], given["exclude"])
        true = torch.full(keep.shape, -torch.inf, dtype=torch.float64)
        for user, state in enumerate(model.read(batch).tolist()):
            alive = keep[user].nonzero().flatten().tolist()
            for item, score in orders(state, items, alive, confident, config.codes_per_step).items():
                true[user, item] = score
        return true, keep

    def judge(found: Any, expected: Any, given: dict[str, Any]) -> str | None:
        beams = config.num_beams if given["num_beams"] is None else given["num_beams"]
        wide = isinstance(beams, int) and beams >= len(codes)
        return _complaint(found, *expected, int(given["k"]), confident, wide)

    return Case(call, args, right, judge, fixed=frozenset({"trie"}))
