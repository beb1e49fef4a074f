"""The twin of ``ops.trie_step``: plain torch, slow, and the specification down to the last bit.

Everything is float32 in a fixed order, multiply-adds fused where ``fused`` stands and nowhere else, so that every
instruction set gives these bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.base.protocols import TrieTensors
from genrec_fast.ops.reference.trie_filter import alive_edges
from genrec_fast.ops.trie_offsets import unpack_offsets

LANES = 16  # running sums of a reduction: element i goes to lane i mod 16
LOG2_E, LN2_SINGLE = 1.44269502162933349609375, 0.693147182464599609375  # rounded to float32
EXP_SMALLEST = -86.0  # e^-86 is the last that stays clear of subnormal numbers; below it, exp gives no less
STEPS = 32  # powers of two in the table, from 1 to below 2
ROUND = 393216.0  # 1.5 * 2^18: adding and subtracting it rounds to the nearest 32nd, ties to even
SLOPE = 1.0000146627426147  # 1 + (ln(2) / 64)^2 / 8: halves and halves again what r^3 / 6 is at the ends, to 5.3e-8
PLAIN = (-40.0, 70.0)  # a row whose highest is within needs no shift: no sum overflows, e^-86 is nothing to e^-40
LN2 = 0.6931471805599453
SQRT_HALF = 0.7071067811865476


def fused(a: Tensor, b: Tensor | float, c: Tensor | float) -> Tensor:
    """float32 ``a * b + c``, rounded once: the product is exact in float64.

    The sum is rounded to float64 and then to float32, which may differ; in ``exp`` it does for no float32 (all tried).
    """
    return (a.double() * b + c).float()


def exp(x: Tensor) -> Tensor:
    """e^x for float32 x <= 88 (-inf allowed), exactly 1 at 0; below -86 what it is there."""
    x = torch.clamp(x, min=EXP_SMALLEST)
    n = fused(x, LOG2_E, ROUND) - ROUND
    r = fused(n, -LN2_SINGLE, x)
    step = (n * STEPS).to(torch.int32)
    powers = torch.tensor([2 ** (j / STEPS) for j in range(STEPS)], dtype=torch.float32, device=x.device)
    power = powers[step % STEPS] * ((step // STEPS + 127) << 23).view(torch.float32)
    return fused(power, r * (r * 0.5 + SLOPE), power)


def log(x: Tensor) -> Tensor:
    """Natural logarithm of float64 x >= 1, seven terms of artanh's series: relative error below 1e-12."""
    mantissa, exponent = torch.frexp(x)
    small = mantissa < SQRT_HALF
    mantissa = torch.where(small, mantissa * 2, mantissa)
    exponent = torch.where(small, exponent - 1, exponent)
    z = (mantissa - 1) / (mantissa + 1)
    square = z * z
    fourth = square * square
    first, second = 1 + square * (1 / 3), 1 / 5 + square * (1 / 7)
    third = 1 / 9 + square * (1 / 11) + fourth * (1 / 13)
    return (z * 2) * (first + fourth * (second + fourth * third)) + exponent.to(torch.float64) * LN2


def log_sum_exp(x: Tensor) -> Tensor:
    """float32 ``[..., n] -> [...]``; -inf where every element is. Never below the maximum."""
    if x.shape[-1] == 0:
        return x.new_full(x.shape[:-1], -torch.inf)
    x = torch.nn.functional.pad(x, (0, -x.shape[-1] % LANES), value=-torch.inf)
    highest = x.amax(-1)
    named = highest > -torch.inf
    plain = (highest >= PLAIN[0]) & (highest <= PLAIN[1])
    shift = torch.where(plain | ~named, 0.0, highest)
    terms = exp(x - shift.unsqueeze(-1)).unflatten(-1, (-1, LANES))
    lanes = terms[..., 0, :]
    for i in range(1, terms.shape[-2]):
        lanes = lanes + terms[..., i, :]
    while lanes.shape[-1] > 1:  # lane j + lane j + 8, then 4, 2, 1
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    own = exp(highest - shift)
    ratio = torch.where(named, lanes.squeeze(-1).double() / own.double(), 1.0)
    return highest + log(ratio).float()


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
