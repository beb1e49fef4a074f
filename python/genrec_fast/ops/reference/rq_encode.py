"""The twin of ``ops.rq_encode``: plain torch, slow, and the specification of every code.

The winner of a level is defined in float64, where the product of two float32 numbers is exact, and in a fixed order of
additions. A kernel may find it as it likes (float32, bfloat16); it gives these codes and no others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.ops.lanes import lane_sum

_BLOCK = 1 << 22  # float64 products held at once


def half_norms(codebook: Tensor) -> Tensor:
    """|c|^2 / 2 of float32 ``[K, D]``: float64 ``[K]``."""
    wide = codebook.double()
    return lane_sum(wide * wide) * 0.5


def scores(vectors: Tensor, codebook: Tensor) -> Tensor:
    """|c|^2 / 2 - x c of float32 ``[M, D]`` and ``[K, D]``: float64 ``[M, K]``; the smallest is the nearest."""
    wide, norms = codebook.double(), half_norms(codebook)
    rows = max(1, _BLOCK // max(1, codebook.numel()))
    blocks = [norms - lane_sum(block.double().unsqueeze(1) * wide) for block in vectors.split(rows)]
    return torch.cat(blocks) if blocks else norms.new_empty(0, codebook.shape[0])


def rq_encode(x: Tensor, codebooks: list[Tensor], num_beams: int = 1, precision: str = "float32") -> Tensor:
    """See ``ops.rq_encode``; ``precision`` changes no code.

    With beams, level by level: every beam times every code, the ``num_beams`` lowest
    ``|r|^2 / 2 + (|c|^2 / 2 - r c)`` stay, in order; ties to the lower ``beam * K + code``.
    """
    residual = x.float()
    if num_beams == 1:
        levels = []
        for codebook in codebooks:
            levels.append(scores(residual, codebook.float()).argmin(1) if len(residual) else residual.new_empty(0))
            residual = residual - codebook.float()[levels[-1].long()]
        return torch.stack(levels, 1).to(torch.int32)
    rows = torch.arange(len(residual)).to(residual.device)[:, None]
    beams = residual[:, None]  # [N, W, D]
    codes = torch.empty(len(x), 1, 0, dtype=torch.int32, device=x.device)
    for codebook in codebooks:
        book = codebook.float()
        own = half_norms(beams.flatten(0, 1)).view(beams.shape[:2])
        table = own[:, :, None] + scores(beams.flatten(0, 1), book).view(*beams.shape[:2], len(book))
        order = torch.sort(table.flatten(1), dim=1, stable=True).indices[:, :num_beams]
        parent, code = order // len(book), order % len(book)
        beams = beams[rows, parent] - book[code]
        codes = torch.cat([codes[rows, parent], code.to(torch.int32)[:, :, None]], 2)
    return codes[:, 0].contiguous()
