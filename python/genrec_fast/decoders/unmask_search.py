"""Beams of partly written semantic IDs, whose codes are written in any order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.decoders.scan_codes import CodesOf
from genrec_fast.ops import completable_codes

_ROWS = 1 << 12  # partly written semantic IDs that the network reads in one call


class Beams(NamedTuple):
    """The whole semantic IDs of B users, best first: at most W of each.

    ``written`` int32 ``[B, W, L]``, ``scores`` float32 ``[B, W]``, -inf where there is none; ``bound`` float32 ``[B]``:
    no semantic ID that is not among them scores higher (-inf: none was left out).
    """

    written: Tensor
    scores: Tensor
    bound: Tensor


@dataclass(frozen=True)
class Unmasking:
    """What stays the same in a search.

    Args:
        backbone: a ``MaskedCodes``.
        histories: what it read of B users.
        codes: the catalog's.
        allowed: bool ``[U, N]``, on the CPU, or ``None``.
        exclude: of B rows, on the CPU, or ``None``.
        num_beams: kept after every code.
        codes_per_step: codes that are written between two readings of the network.
        confident: each row goes on at the level of its likeliest code; else at all of them.
    """

    backbone: Any
    histories: Any
    codes: CodesOf
    allowed: Tensor | None
    exclude: Jagged | None
    num_beams: int
    codes_per_step: int
    confident: bool


def unmasked(search: Unmasking, users: int, device: torch.device) -> Beams:
    """The best whole semantic IDs that a search of so many users finds.

    The score of a semantic ID is that of its best order: the sum of the log-probabilities that its codes had when they
    were written. What follows a partly written semantic ID is independent of how it was reached, so of several ways to
    it the best is kept.
    """
    sizes = search.codes.sizes
    levels = len(sizes)
    written = torch.full((users, 1, levels), -1, dtype=torch.int32)
    scores, bound = torch.zeros(users, 1), torch.full((users,), -torch.inf)
    origin = torch.zeros(users, 1, dtype=torch.int64)  # the row that the network has read
    logprobs = scores.new_zeros(users, 1, sum(sizes))
    for level in range(levels):
        if level % search.codes_per_step == 0:
            logprobs = _read(search, written, device)
            origin = torch.arange(written.shape[1]).expand(users, -1)
        open_ = completable_codes(
            written, search.codes.packed, codebook_sizes=sizes, allowed=search.allowed, exclude=search.exclude
        )
        read = logprobs.gather(1, origin.unsqueeze(2).expand(-1, -1, logprobs.shape[2]))
        read = read.masked_fill(~open_, -torch.inf)
        if search.confident:
            read = _most_confident(read, sizes)
        last = (level + 1) % search.codes_per_step == 0 or level + 1 == levels
        found = _best((scores.unsqueeze(2) + read).flatten(1), search.num_beams * _ways(search, level, last) + 1)
        parents = found.at.div(read.shape[2], rounding_mode="floor")
        written = _extended(written, parents, found.at % read.shape[2], sizes)
        origin = origin.gather(1, parents)
        keep, alive, left = _first_of_each(written, found.scores, None if last else origin, search.num_beams, sizes)
        bound = torch.maximum(bound, left)
        written, origin = written.gather(1, keep.unsqueeze(2).expand(-1, -1, levels)), origin.gather(1, keep)
        scores = found.scores.gather(1, keep).masked_fill(~alive, -torch.inf)
    return Beams(written, scores, bound)


def _ways(search: Unmasking, level: int, last: bool) -> int:
    """The most candidates of a level that are one row: so many for each beam and one more hold another row, if any.

    Of the codes written since the network read, any may be the last; where the next reading makes rows one, whatever
    was read before, any of all the codes may be, and any of the others written before them.
    """
    since = level % search.codes_per_step + 1
    return (level + 1) * math.comb(level, since - 1) if last else since


def _read(search: Unmasking, written: Tensor, device: torch.device) -> Tensor:
    """float32 ``[B, W, V]`` on the CPU: what the network says of every row's codes."""
    step = max(1, _ROWS // max(1, written.shape[0]))
    parts = [
        torch.cat(search.backbone.code_logprobs(search.histories, part.long().to(device)), 2).float().cpu()
        for part in written.split(step, 1)
    ]
    logprobs = torch.cat(parts, 1)
    if bool((logprobs.isnan() | (logprobs == torch.inf)).any()):
        user = int((logprobs.isnan() | (logprobs == torch.inf)).flatten(1).any(1).nonzero()[0])
        raise InvalidValueError(f"unmask: log-probabilities must be below infinity, got NaN or infinity in row {user}")
    return logprobs


def _most_confident(logprobs: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Each row's codes at the level of the likeliest alone; of levels that are as likely the first."""
    parts = logprobs.split(sizes, 2)
    chosen = torch.stack([part.amax(2) for part in parts], 2).argmax(2, keepdim=True)
    others = [part.masked_fill(chosen != level, -torch.inf) for level, part in enumerate(parts)]
    return torch.cat(others, 2)


class _Found(NamedTuple):
    scores: Tensor  # [B, n], best first
    at: Tensor  # int64 [B, n]


def _best(scores: Tensor, count: int) -> _Found:
    """The best of ``scores [B, C]``, ties to the lower column: in one order of whole numbers, as topk breaks none."""
    bits = (scores + 0.0).view(torch.int32).long()
    places = torch.arange(scores.shape[1])
    keys = (torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits) << 32) + (scores.shape[1] - places)
    at = keys.topk(min(count, scores.shape[1]), 1).indices
    return _Found(scores.gather(1, at), at)


def _extended(written: Tensor, parents: Tensor, columns: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """int32 ``[B, n, L]``: rows by the code that a column of ``[V]`` stands for."""
    ends = torch.tensor(sizes).cumsum(0)
    level = torch.searchsorted(ends, columns, right=True)
    code = columns - (ends - torch.tensor(sizes))[level]
    rows = written.gather(1, parents.unsqueeze(2).expand(-1, -1, len(sizes)))
    return rows.scatter(2, level.unsqueeze(2), code.int().unsqueeze(2))


def _first_of_each(
    written: Tensor, scores: Tensor, origin: Tensor | None, num_beams: int, sizes: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Which rows are kept, and the best score of those that are not and equal none that is.

    Between two readings of the network rows are the same where it read the same, too: ``origin``.

    Returns:
        int64 ``[B, W]``, W at most num_beams, the columns of different rows in their order; bool ``[B, W]``, whether a
        row stands there; and float32 ``[B]``.
    """
    users, count, _ = written.shape
    start = torch.arange(users).unsqueeze(1).expand(-1, count)
    if origin is not None:
        start = start * (int(origin.max()) + 1 if origin.numel() else 1) + origin
    numbers = _numbered(written, start, sizes)
    order = numbers.flatten().argsort(stable=True)
    ordered = numbers.flatten()[order]
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[1:] = ordered[1:] != ordered[:-1]
    first = torch.empty_like(new).index_copy(0, order, new).view(users, count) & (scores > -torch.inf)
    place = first.cumsum(1) - 1
    kept = first & (place < num_beams)
    left = scores.masked_fill(~(first & (place >= num_beams)), -torch.inf)
    number = kept.sum(1, keepdim=True)
    width = max(1, int(number.max())) if users else 1
    columns = torch.sort(kept.int(), dim=1, descending=True, stable=True).indices[:, :width]
    return columns, torch.arange(columns.shape[1]) < number, left.amax(1)


def _numbered(codes: Tensor, start: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """int64 ``[...]``: equal where ``codes [..., L]`` (-1 and up) and ``start [...]`` are, level by level."""
    numbers = start.long()
    for level, size in enumerate(sizes):
        keys = numbers * (size + 1) + codes[..., level].long() + 1
        numbers = torch.unique(keys, return_inverse=True)[1]
    return numbers
