"""The twin of ``ops.trie_step``: plain torch, slow, and the specification down to the last bit.

Everything is float32 without fused multiply-add, in a fixed order, so that every instruction set gives these bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.ops.reference.trie_filter import alive_edges
from genrec_fast.ops.trie_offsets import unpack_offsets
from genrec_fast.types import TrieTensors

__all__ = ["exp", "log", "log_sum_exp", "trie_step"]

LANES = 16  # running sums of a reduction: element i goes to lane i mod 16
LOG2_E, LN2_SINGLE = 1.44269502162933349609375, 0.693147182464599609375  # rounded to float32
EXP_SMALLEST = -86.0  # e^-86 is the last that stays clear of subnormal numbers; below it, exp gives 0
ROUND = 12582912.0  # 1.5 * 2^23: adding and subtracting it rounds to the nearest integer, ties to even
# e^r for |r| <= ln(2)/2, highest power first: a minimax fit of the last four, relative error 1.1e-7.
EXP_COEFFICIENTS = (0.008312477730214596, 0.041890550404787064, 0.16667115688323975, 0.4999922811985016, 1.0, 1.0)
LN2 = 0.6931471805599453
SQRT_HALF = 0.7071067811865476
LOG_TERMS = 11  # of the series of artanh, |z| <= 0.1716: below double precision


def exp(x: Tensor) -> Tensor:
    """e^x for float32 x <= 0 (-inf allowed); exactly 1 at 0."""
    bounded = torch.clamp(x, min=EXP_SMALLEST)
    n = (bounded * LOG2_E + ROUND) - ROUND
    r = bounded - n * LN2_SINGLE  # the error of one constant grows with n, the term shrinks by 2^n
    p = torch.full_like(r, EXP_COEFFICIENTS[0])
    for coefficient in EXP_COEFFICIENTS[1:]:
        p = p * r + coefficient
    scale = ((n.to(torch.int32) + 127) << 23).view(torch.float32)
    return torch.where(x < EXP_SMALLEST, torch.zeros_like(p), p * scale)


def log(x: Tensor) -> Tensor:
    """Natural logarithm of float64 x >= 1, in plain double arithmetic: a platform's own differs in the last bit."""
    mantissa, exponent = torch.frexp(x)
    small = mantissa < SQRT_HALF
    mantissa = torch.where(small, mantissa * 2, mantissa)
    exponent = torch.where(small, exponent - 1, exponent)
    z = (mantissa - 1) / (mantissa + 1)
    square = z * z
    series = torch.full_like(z, 1 / (2 * LOG_TERMS + 1))
    for k in range(LOG_TERMS - 1, -1, -1):
        series = series * square + 1 / (2 * k + 1)
    return (z * 2) * series + exponent.to(torch.float64) * LN2


def log_sum_exp(x: Tensor) -> Tensor:
    """float32 ``[..., n] -> [...]``; -inf where every element is. Never below the maximum."""
    if x.shape[-1] == 0:
        return x.new_full(x.shape[:-1], -torch.inf)
    highest = x.amax(-1)
    shifted = x - torch.where(highest > -torch.inf, highest, torch.zeros_like(highest)).unsqueeze(-1)
    terms = torch.nn.functional.pad(exp(shifted), (0, -x.shape[-1] % LANES))
    terms = terms.view(*terms.shape[:-1], terms.shape[-1] // LANES, LANES)
    lanes = terms[..., 0, :]
    for i in range(1, terms.shape[-2]):
        lanes = lanes + terms[..., i, :]
    while lanes.shape[-1] > 1:  # lane j + lane j + 8, then 4, 2, 1
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    total = torch.where(highest > -torch.inf, lanes.squeeze(-1), torch.ones_like(highest))
    return highest + log(total.double()).float()


def trie_step(
    trie: TrieTensors,
    level: int,
    logits: Tensor,
    nodes: Tensor,
    scores: Tensor,
    num_beams: int,
    valid_only: bool,
    bits: Tensor | None = None,
    ranks: Tensor | None = None,
    excluded: Tensor | None = None,
    excluded_offsets: Tensor | None = None,
    log_sums: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See ``ops.trie_step``; four are the fields of a ``TrieFilter``. Arguments are taken as valid."""
    beams = logits.shape[1]
    live = (nodes >= 0) & (scores > -torch.inf)
    rows = torch.where(live.unsqueeze(-1), logits.float(), torch.zeros((), device=logits.device))
    node = torch.where(live, nodes, 0).long()
    first, end = (unpack_offsets(trie.child_bases[level], trie.child_deltas[level], n) for n in (node, node + 1))
    fan_out = torch.where(live, end - first, 0)

    # [B, W, widest]: the children of each beam in ascending order of code, padded at the end.
    column = torch.arange(max(int(fan_out.max()), 1) if fan_out.numel() else 1, device=logits.device)
    inside = column < fan_out.unsqueeze(-1)
    edge = torch.where(inside, first.unsqueeze(-1) + column, 0)
    code = trie.tokens[level].to(torch.int64)[edge]
    if ranks is not None or excluded is not None:
        inside = inside & alive_edges(trie, level, edge, bits, ranks, excluded, excluded_offsets)
    logit = torch.where(inside, rows.gather(-1, torch.where(inside, code, 0)), -torch.inf)

    if valid_only:  # the lanes of the sum run over the valid children, without gaps
        order = torch.sort((~inside).to(torch.uint8), dim=-1, stable=True).indices
        normaliser = log_sum_exp(logit.gather(-1, order))
    elif log_sums is not None:
        normaliser = torch.maximum(log_sums, rows.amax(-1))
    else:
        normaliser = log_sum_exp(rows)
    normaliser = torch.where(normaliser > -torch.inf, normaliser, torch.zeros_like(normaliser)).unsqueeze(-1)
    # + 0.0 turns -0.0 into +0.0, so that equal scores have equal bits
    score = torch.where(inside, (scores.unsqueeze(-1) + (logit - normaliser)) + 0.0, -torch.inf).flatten(1)

    # Candidates already stand in ascending order of beam * K + code, so a stable sort breaks ties as promised.
    best, position = torch.sort(score, dim=1, descending=True, stable=True)
    missing = num_beams + 1 - best.shape[1]
    if missing > 0:
        best = torch.nn.functional.pad(best, (0, missing), value=-torch.inf)
        position = torch.nn.functional.pad(position, (0, missing))
    kept, position = best[:, :num_beams], position[:, :num_beams]
    real = kept > -torch.inf

    def pick(values: Tensor, otherwise: int) -> Tensor:
        return torch.where(real, values.flatten(1).gather(1, position), otherwise).to(torch.int32)

    parent = torch.arange(beams, device=logits.device).view(1, beams, 1).expand_as(edge)
    return kept.contiguous(), pick(code, 0), pick(parent, 0), pick(edge, -1), best[:, num_beams].contiguous()
