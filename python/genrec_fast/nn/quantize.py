"""Vector quantization that trains: gradients past the nearest code, codebooks that stay in use."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.nn.estimators import Estimator, past, sinkhorn_codes

Distance = Literal["l2", "cosine"]

_TINY = 1e-12
_EVIDENCE = 16  # vectors per code before a code counts as dead: an even code is left out with chance e^-16


@dataclass(frozen=True)
class Quantized:
    """What one pass gives.

    Args:
        vectors: float ``[B, D]``: what stands for the input; gradients reach the input (and, with ``"gumbel"``, the
            codebooks) through it.
        codes: int64 ``[B, L]``.
        prefixes: L floats ``[B, D]``: the sum of the code vectors of levels 0 .. l. Their gradient goes straight
            through to the input and, where codebooks learn by gradient, to the code vectors too.
        residuals: L floats ``[B, D]``, detached: what each level had to code.
        loss: 0-d: codebook loss plus weighted commitment loss, a mean over elements, summed over levels.
    """

    vectors: Tensor
    codes: Tensor
    prefixes: tuple[Tensor, ...]
    residuals: tuple[Tensor, ...]
    loss: Tensor


@dataclass(frozen=True)
class Chosen:
    """One level's choice: codes int64 ``[B]``, their vectors and a soft mixture (or none) ``[B, D]``, the loss."""

    codes: Tensor
    vector: Tensor
    soft: Tensor | None
    loss: Tensor


def check_quantizer(op: str, estimator: str, distance: str, decay: float | None, commitment: float) -> None:
    """Settings of a level that go together.

    Raises:
        InvalidValueError: they do not.
    """
    if estimator not in get_args(Estimator):
        raise InvalidValueError(f"{op}: estimator must be one of {_names(Estimator)}, got {estimator!r}")
    if distance not in get_args(Distance):
        raise InvalidValueError(f"{op}: distance must be one of {_names(Distance)}, got {distance!r}")
    if decay is not None and not 0 <= decay < 1:
        raise InvalidValueError(f"{op}: decay must be in [0, 1), got {decay}")
    if decay is not None and estimator == "gumbel":
        raise InvalidValueError(f"{op}: decay must be None with gumbel, which learns by gradient")
    if not commitment >= 0 or not math.isfinite(commitment):
        raise InvalidValueError(f"{op}: commitment must be at least 0, got {commitment}")


class VectorQuantizer(nn.Module):
    """One level: the nearest code of each vector, and a gradient that passes it.

    ::

        code = argmin_k |x - c_k|^2
        loss = mean |sg(x) - c|^2 + commitment * mean |x - sg(c)|^2       (the first term not with ``decay``)

    With ``distance="cosine"`` all codes of the level have one length, learned: then the nearest code is the one of the
    largest cosine, and whatever encodes by L2 encodes right.

    Args:
        size: K.
        width: D.
        estimator: how gradients pass: ``"straight_through"`` (arXiv:1711.00937), ``"rotation"`` (arXiv:2410.06424) or
            ``"gumbel"`` (arXiv:1611.01144): in training a mixture of codes, weighted by a Gumbel-softmax over
            ``-|x - c|^2 / (2 s^2)`` with s^2 the batch's mean squared distance to the nearest code per dimension.
        distance: ``"l2"`` or ``"cosine"``.
        decay: ``None``: the codebook learns by gradient. Else the codebook is the moving average, of this decay per
            step, of what it codes (arXiv:1711.00937, appendix A.1).
        commitment: weight of the commitment loss.
        sinkhorn_epsilon: 0: nearest code. Else codes in training come from ``sinkhorn_codes`` over the batch.
        sinkhorn_iterations: of these.

    Raises:
        InvalidValueError: an argument out of range, or ``"gumbel"`` with ``decay``.
    """

    def __init__(
        self,
        size: int,
        width: int,
        *,
        estimator: Estimator = "straight_through",
        distance: Distance = "l2",
        decay: float | None = None,
        commitment: float = 0.25,
        sinkhorn_epsilon: float = 0.0,
        sinkhorn_iterations: int = 50,
    ) -> None:
        super().__init__()
        if size < 1 or width < 1:
            raise InvalidValueError(f"VectorQuantizer: size and width must be at least 1, got {size} and {width}")
        check_quantizer("VectorQuantizer", estimator, distance, decay, commitment)
        self.estimator, self.distance, self.decay = estimator, distance, decay
        self.commitment = commitment
        self.sinkhorn_epsilon, self.sinkhorn_iterations = sinkhorn_epsilon, sinkhorn_iterations
        learned = decay is None
        self.weight = nn.Parameter(torch.zeros(size, width), requires_grad=learned)
        self.length = nn.Parameter(torch.ones(()), requires_grad=learned and distance == "cosine")
        self.register_buffer("counts", torch.ones(size))  # moving average of each code's vectors per step
        self.register_buffer("sums", torch.zeros(size, width))
        self.register_buffer("window", torch.zeros(size))  # how often each code was chosen since the last restart
        self.counts: Tensor
        self.sums: Tensor
        self.window: Tensor

    @property
    def codebook(self) -> Tensor:
        """Float ``[K, D]``: the code vectors, with gradient where they learn by it."""
        if self.distance == "l2":
            return self.weight
        return nn.functional.normalize(self.weight, dim=1, eps=_TINY) * self.length

    @torch.no_grad()
    def start(self, centroids: Tensor, counts: Tensor | None = None) -> None:
        """Takes the codes from a clustering: float ``[K, D]``; ``counts [K]`` weighs them in the moving average."""
        if centroids.shape != self.weight.shape:
            raise InvalidValueError(
                f"VectorQuantizer: centroids must be {list(self.weight.shape)}, got {list(centroids.shape)}"
            )
        self.weight.copy_(centroids)
        if self.distance == "cosine":
            self.length.copy_(centroids.norm(dim=1).mean().clamp_min(_TINY))
        self.counts.fill_(1.0)
        self.sums.copy_(self.codebook)
        self.window.zero_()

    def forward(self, x: Tensor, *, noise: Tensor | None = None, temperature: float = 1.0) -> Quantized:
        """Codes ``x`` float ``[B, D]``; see ``Quantized``.

        Args:
            x: what to code.
            noise: uniform float ``[B, K]`` in (0, 1); read in training with ``"gumbel"`` alone.
            temperature: of the Gumbel-softmax; towards 0 the mixture becomes one code.
        """
        one = self.choose(x, noise, temperature)
        return Quantized(
            past(self.estimator, x, one.vector, one.soft),
            one.codes[:, None],
            _prefixes(x, [one]),
            (x.detach(),),
            one.loss,
        )

    def choose(self, x: Tensor, noise: Tensor | None = None, temperature: float = 1.0) -> Chosen:
        """The code of each vector and its losses, before any gradient passes it; arguments as ``forward``."""
        codebook = self.codebook
        distances = _distances(x, codebook)
        soft = None
        if self.estimator == "gumbel" and self.training:
            if noise is None:
                raise InvalidValueError("VectorQuantizer: noise must be given in training with gumbel, got None")
            variance = distances.detach().amin(1).mean().clamp_min(_TINY) / x.shape[1]
            gumbel = -torch.log(-torch.log(noise.clamp(1e-9, 1 - 1e-7)))
            weights = torch.softmax((gumbel - distances / (2 * variance)) / temperature, 1)
            codes, soft = weights.argmax(1), weights @ codebook
        elif self.training and self.sinkhorn_epsilon:
            codes = sinkhorn_codes(distances, self.sinkhorn_epsilon, self.sinkhorn_iterations)
        else:
            codes = distances.detach().argmin(1)
        vector = codebook[codes]
        loss = self.commitment * (x - vector.detach()).square().mean()
        if self.decay is None:
            loss = loss + (x.detach() - vector).square().mean()
        if self.training:
            self._observe(x.detach(), codes)
        return Chosen(codes, vector, soft, loss)

    @torch.no_grad()
    def _observe(self, x: Tensor, codes: Tensor) -> None:
        counts = torch.bincount(codes, minlength=self.weight.shape[0]).to(x.dtype)
        self.window += counts
        if self.decay is None:
            return
        if self.distance == "cosine":
            along = (x * nn.functional.normalize(self.weight[codes], dim=1, eps=_TINY)).sum(1).mean()
            self.length.lerp_(along.clamp_min(_TINY), 1 - self.decay)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(torch.zeros_like(self.sums).index_add_(0, codes, x), 1 - self.decay)
        heard = self.counts > 1e-3  # a code that nothing chose for long keeps its place until it is restarted
        means = self.sums / self.counts.clamp_min(1e-3)[:, None]
        self.weight.copy_(torch.where(heard[:, None], means, self.weight))

    @torch.no_grad()
    def restart(self, x: Tensor, order: Tensor, *, below: float) -> Tensor:
        """Moves codes that were hardly used since the last call onto vectors of the batch.

        Args:
            x: float ``[B, D]``, what this level had to code.
            order: int64 ``[B]``, a permutation of the batch: which vectors are taken first.
            below: codes chosen less often than this part of an even share are moved.

        Returns:
            int64: the codes that were moved, at most B; none before 16 K vectors were seen, as chance alone would
            leave codes out.
        """
        seen, size = float(self.window.sum()), self.weight.shape[0]
        if seen < _EVIDENCE * size:
            return order.new_empty(0)
        dead = (self.window < below * seen / size).nonzero().squeeze(1)[: x.shape[0]]
        self.window.zero_()
        if len(dead):
            chosen = x[order[: len(dead)]]
            self.weight[dead] = chosen
            self.sums[dead] = chosen
            self.counts[dead] = 1.0
        return dead


class ResidualQuantizer(nn.Module):
    """Levels of ``VectorQuantizer``: each codes what the levels before left over.

    ::

        residual = x
        for level: vector = nearest code of residual; out += vector; residual -= sg(vector)

    The estimator's gradient passes once, from the sum of all levels to ``x``.

    Args:
        sizes: K per level.
        width: D.
        sinkhorn_epsilon: of the last level (LC-Rec); 0: none.
        others: as ``VectorQuantizer``.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        width: int,
        *,
        estimator: Estimator = "straight_through",
        distance: Distance = "l2",
        decay: float | None = None,
        commitment: float = 0.25,
        sinkhorn_epsilon: float = 0.0,
        sinkhorn_iterations: int = 50,
    ) -> None:
        super().__init__()
        self.estimator = estimator
        self.levels = nn.ModuleList(
            VectorQuantizer(
                size,
                width,
                estimator=estimator,
                distance=distance,
                decay=decay,
                commitment=commitment,
                sinkhorn_epsilon=sinkhorn_epsilon if level == len(sizes) - 1 else 0.0,
                sinkhorn_iterations=sinkhorn_iterations,
            )
            for level, size in enumerate(sizes)
        )

    @property
    def codebooks(self) -> list[Tensor]:
        """L floats ``[K_l, D]``."""
        return [level.codebook for level in self.levels]  # type: ignore[misc]

    def forward(
        self, x: Tensor, *, noise: list[Tensor] | None = None, temperature: float = 1.0, levels: int | None = None
    ) -> Quantized:
        """Codes ``x`` float ``[B, D]`` by the first ``levels`` (``None``: all); ``noise`` has a tensor per level."""
        residual, soft, loss = x, None, x.new_zeros(())
        chosen: list[Chosen] = []
        residuals: list[Tensor] = []
        for index, level in enumerate(list(self.levels)[:levels]):
            assert isinstance(level, VectorQuantizer)
            one = level.choose(residual, None if noise is None else noise[index], temperature)
            residuals.append(residual.detach())
            if one.soft is not None:
                soft = one.soft if soft is None else soft + one.soft
            residual = residual - (one.vector if one.soft is None else one.soft).detach()
            loss = loss + one.loss
            chosen.append(one)
        prefixes = _prefixes(x, chosen)
        return Quantized(
            past(self.estimator, x, prefixes[-1], soft),
            torch.stack([one.codes for one in chosen], 1),
            prefixes,
            tuple(residuals),
            loss,
        )


def _prefixes(x: Tensor, chosen: list[Chosen]) -> tuple[Tensor, ...]:
    """See ``Quantized``: x - sg(x) is 0 and carries the gradient."""
    through, total = x - x.detach(), torch.zeros_like(x)
    out = []
    for one in chosen:
        total = total + one.vector
        out.append(total + through)
    return tuple(out)


def _distances(x: Tensor, codebook: Tensor) -> Tensor:
    """Squared distances float ``[B, K]``, not below 0."""
    squares = x.square().sum(1, keepdim=True) + codebook.square().sum(1)
    return (squares - 2 * x @ codebook.T).clamp_min(0)


def _names(kind: object) -> str:
    return ", ".join(get_args(kind))
