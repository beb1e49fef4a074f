"""Which rows of a search descend from which: the bookkeeping of trees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidValueError


@dataclass(frozen=True)
class Rows:
    """Every row that the calls of a search have made, numbered user by user: 0 is the root, then call after call.

    Args:
        parents: int64 ``[B, N]``: the number of each row's parent; of the root: 0.
        widths: rows per user of each call, the root's 1 first.
    """

    parents: Tensor
    widths: tuple[int, ...]

    @classmethod
    def of(cls, users: int, parents: tuple[Tensor, ...]) -> Rows:
        """The rows of searches whose every call extends the call before: int64 ``[B, W]`` beams of it."""
        widths, numbers, first = [1], [torch.zeros(users, 1, dtype=torch.int64)], 0
        for call in parents:
            numbers.append(call.cpu() + first)
            first += widths[-1]
            widths.append(call.shape[1])
        return cls(torch.cat(numbers, 1), tuple(widths))

    @property
    def first_of_last(self) -> int:
        """The number of the last call's first row."""
        return sum(self.widths[:-1])

    def grown(self, parents: Tensor) -> Rows:
        """With the rows of another call: int64 ``[B, W]`` numbers, those of this very call's earlier rows included.

        Raises:
            InvalidValueError: a parent that is no row made before.
        """
        parents, known = parents.cpu(), self.parents.shape[1]
        before = torch.arange(known, known + parents.shape[1])
        if parents.numel() and not bool(((parents >= 0) & (parents < before)).all()):
            raise InvalidValueError(
                f"extend_tree: parents must be rows made before, in [0, {known}) or earlier ones of this call, "
                f"got {int(parents.min())} to {int(parents.max())}"
            )
        return Rows(torch.cat([self.parents, parents], 1), (*self.widths, parents.shape[1]))

    def paths(self) -> tuple[Tensor, Tensor]:
        """Of the last call's rows: numbers ``[B, W, d]`` from the root to the parent, -1 behind it, and depths."""
        walked, at = [], self.parents[:, self.first_of_last :]
        while True:
            walked.append(at)
            if not bool((at > 0).any()):
                break
            at = self.parents.gather(1, at)
        up = torch.stack(walked, 2)  # the parent first, the root again and again behind the root
        depths = (up > 0).sum(2) + 1
        place = depths.unsqueeze(2) - 1 - torch.arange(up.shape[2])
        return up.gather(2, place.clamp(min=0)).where(place >= 0, -1), depths

    def calls(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Which call made each row of int64 ``[B, ...]`` numbers, and its place among the B * W rows of that call."""
        ends = torch.tensor(self.widths).cumsum(0)
        call = torch.searchsorted(ends, numbers.clamp(min=0), right=True)
        width = torch.tensor(self.widths)[call]
        user = torch.arange(len(numbers)).view(-1, *[1] * (numbers.dim() - 1))
        return call, user * width + numbers - (ends[call] - width)

    def select(self, users: Tensor) -> Rows:
        """Those of some users."""
        return Rows(self.parents[users], self.widths)


def level_scores(
    logits_of: Callable[[Tensor, int], Tensor], levels: Tensor, sizes: Sequence[int]
) -> tuple[Tensor, None]:
    """Logits ``[B, W, K]`` of rows at different levels; -inf behind a level's last code, and behind the last level.

    Args:
        logits_of: of the rows where bool ``[B, W]``, all at one level: ``[n, K_l]``, in their order.
        levels: int64 ``[B, W]``.
        sizes: of every level.
    """
    parts = [(at, logits_of(at, level)) for level in range(len(sizes)) if bool((at := levels == level).any())]
    like = parts[0][1] if parts else torch.empty(0)
    out = like.new_full((*levels.shape, max(sizes)), -torch.inf)
    for at, logits in parts:
        out[at.to(out.device)] = torch.nn.functional.pad(logits, (0, max(sizes) - logits.shape[1]), value=-torch.inf)
    return out, None
