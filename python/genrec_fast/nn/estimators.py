"""Gradients past a code, and codes spread evenly over a batch."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidValueError

Estimator = Literal["straight_through", "rotation", "gumbel"]

SINKHORN_FLOOR = 0.003  # exp(-2 / 0.003) is still a normal float64
_TINY = 1e-12


def rotate_to(x: Tensor, target: Tensor) -> Tensor:
    """``target``, with the gradient of a rotation and rescaling of ``x`` onto it.

    ::

        u, v = x / |x|, target / |target|;  r = (u + v) / |u + v|         (all constants)
        out = |target| / |x| * (x - 2 (x r) r + 2 (x u) v)                = target

    Where ``x`` or ``target`` has no direction, or they point opposite ways, the gradient is straight through.

    Args:
        x: float ``[B, D]``.
        target: float ``[B, D]``; gets no gradient.

    Returns:
        float ``[B, D]``, equal to ``target`` bit for bit.

    Source: the rotation trick, arXiv:2410.06424, section 4.
    """
    target = target.detach()
    with torch.no_grad():
        length, goal = x.norm(dim=1, keepdim=True), target.norm(dim=1, keepdim=True)
        u, v = x / length.clamp_min(_TINY), target / goal.clamp_min(_TINY)
        middle = u + v
        spread = middle.norm(dim=1, keepdim=True)
        r = middle / spread.clamp_min(_TINY)
        scale = goal / length.clamp_min(_TINY)
        turns = (length > _TINY) & (goal > _TINY) & (spread > 1e-4)
    turned = scale * (x - 2 * (x * r).sum(1, keepdim=True) * r + 2 * (x * u).sum(1, keepdim=True) * v)
    out = torch.where(turns, turned, x)
    replaced = _Replace.apply(out, target)  # type: ignore[no-untyped-call]
    assert isinstance(replaced, Tensor)
    return replaced


class _Replace(torch.autograd.Function):
    """The value of one tensor with the gradient of another; ``x + (q - x).detach()`` rounds."""

    @staticmethod
    def forward(ctx: object, source: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def sinkhorn_codes(distances: Tensor, epsilon: float, iterations: int = 50) -> Tensor:
    """Codes of a batch, spread evenly over the codebook.

    ::

        P = exp(-scaled / epsilon), where scaled is the distances moved and stretched to [-1, 1]
        repeat: columns of P sum to B / K; rows of P sum to 1
        code = argmax of each row

    Args:
        distances: float ``[B, K]``.
        epsilon: from 0.003; the smaller, the nearer to the plain argmin where that is balanced.
        iterations: rounds, at least 1.

    Returns:
        int64 ``[B]``; ties go to the lower code.

    Raises:
        InvalidValueError: epsilon or iterations out of range.

    Notes:
        O(B K iterations), float64.

    Source: uniform semantic mapping of LC-Rec, arXiv:2311.09049; Sinkhorn-Knopp.
    """
    if not epsilon >= SINKHORN_FLOOR or not math.isfinite(epsilon):
        raise InvalidValueError(f"sinkhorn_codes: epsilon must be at least {SINKHORN_FLOOR}, got {epsilon}")
    if iterations < 1:
        raise InvalidValueError(f"sinkhorn_codes: iterations must be at least 1, got {iterations}")
    wide = distances.detach().double()
    if wide.numel() == 0:
        return wide.new_empty(wide.shape[0], dtype=torch.int64)
    low, high = wide.aminmax()
    scaled = (wide - low) / (high - low).clamp_min(_TINY) * 2  # in [0, 2]: a common shift changes nothing
    plan = torch.exp(-(scaled - scaled.amin(1, keepdim=True)) / epsilon)
    share = wide.shape[0] / wide.shape[1]
    for _ in range(iterations):
        plan *= share / plan.sum(0, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
        plan /= plan.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return plan.argmax(1)


def past(estimator: Estimator, x: Tensor, vector: Tensor, soft: Tensor | None) -> Tensor:
    """What stands for ``x``: the code's ``vector`` (or the ``soft`` mixture), with the estimator's gradient."""
    if soft is not None:
        return soft
    if estimator == "rotation":
        return rotate_to(x, vector)
    out = _Replace.apply(x, vector.detach())  # type: ignore[no-untyped-call]
    assert isinstance(out, Tensor)
    return out
