"""One Lloyd step: nearest centroids, and what the next centroids are made of."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genrec_fast.base.checks import choice, require_tensors
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, door
from genrec_fast.ops import _cuda, _rq_levels
from genrec_fast.ops._registry import core, define
from genrec_fast.ops._tensors import allocate, require_finite, require_matrix
from genrec_fast.ops.reference.kmeans_step import kmeans_step as _twin
from genrec_fast.ops.rq_encode import PRECISIONS

_MOST_CENTROIDS = 65536
_THREADS = 256  # of a block on a card
_SUMMED_ROWS = 1024  # that a block of the card adds the distances of, as in the twin


class KMeansStep(NamedTuple):
    """``labels`` int32 ``[N]``, ``sums`` float64 ``[K, D]``, ``counts`` int64 ``[K]``, ``inertia`` float64 scalar."""

    labels: Tensor
    sums: Tensor
    counts: Tensor
    inertia: Tensor


@door
def kmeans_step(
    x: Tensor, centroids: Tensor, *, after: KMeansStep | None = None, precision: str = "float32"
) -> KMeansStep:
    """The nearest centroid of every row, the sum and number of rows per centroid, and the squared distances' sum.

    ``for n: k = nearest(x[n]); labels[n] = k; sums[k] += x[n]; counts[k] += 1; inertia += |x[n] - centroids[k]|^2``

    The next centroids are ``sums / counts``. Rows that do not fit into memory come in blocks::

        step = None
        for block in blocks:  # [n, D], any n
            step = kmeans_step(block, centroids, after=step)

    Args:
        x: float32, bfloat16 or float16 ``[N, D]``, D at least 1; N may be 0.
        centroids: the same kinds of float ``[K, D]``, K in [1, 65536]; duplicates are allowed.
        after: the step over the rows before these, whose sums, counts and inertia are continued.
        precision: of the products that shortlist centroids, "float32" or "bfloat16", see ``rq_encode``; no bit of the
            result depends on it.

    Returns:
        A ``KMeansStep``: ``labels`` of these rows, the rest of all rows so far.

    Raises:
        InvalidTypeError: an argument is not such a tensor.
        InvalidValueError: a wrong shape or device, or a value that is not finite (naming its row). On a card such a row
            has label -1 and is left out of sums and counts, and the inertia is NaN; all rows are such where a centroid
            is not finite.

    Notes:
        Nearest as ``rq_encode`` defines it: float64, ties to the lower index. Sums are float64 and add row after row,
        distances are float64 and add in blocks of 1024 rows. Equal inputs give equal bits on every instruction set
        and number of threads. In blocks, labels, sums and counts have the bits of one call over all rows; the inertia
        too if each block but the last holds a multiple of 1024 rows. Not differentiable.

    Source:
        Lloyd, "Least squares quantization in PCM", 1982.

    Example:
        >>> import torch, genrec_fast as gf
        >>> step = gf.ops.kmeans_step(torch.tensor([[0.0], [1.0], [9.0]]), torch.tensor([[0.0], [8.0]]))
        >>> step.labels.tolist(), step.sums.tolist(), step.counts.tolist(), step.inertia.item()
        ([0, 0, 1], [[1.0], [9.0]], [2, 1], 2.0)
    """
    require_matrix("kmeans_step", "x", x, "[N, D]")
    require_matrix("kmeans_step", "centroids", centroids, "[K, D]", x.device)
    if x.shape[1] < 1:
        raise InvalidValueError(f"kmeans_step: x must be [N, D] with D at least 1, got {list(x.shape)}")
    if not 1 <= centroids.shape[0] <= _MOST_CENTROIDS or centroids.shape[1] != x.shape[1]:
        raise InvalidValueError(
            f"kmeans_step: centroids must be [K, {x.shape[1]}] with K in [1, {_MOST_CENTROIDS}], "
            f"got {list(centroids.shape)}"
        )
    choice("kmeans_step", "precision", precision, PRECISIONS)
    before = (None, None, None) if after is None else _continued(after, centroids)
    return KMeansStep(*_op(x.detach(), centroids.detach(), *before, precision))


def _continued(after: KMeansStep, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if not isinstance(after, KMeansStep):
        raise InvalidTypeError(f"kmeans_step: after must be a KMeansStep, got {type(after).__name__}")
    wanted = {
        "sums": (torch.float64, centroids.shape),
        "counts": (torch.int64, centroids.shape[:1]),
        "inertia": (torch.float64, torch.Size()),
    }
    require_tensors("kmeans_step", None, **{"after.labels": after.labels})
    for name, (dtype, shape) in wanted.items():
        part = getattr(after, name)
        require_tensors("kmeans_step", None, **{f"after.{name}": part})
        if part.dtype != dtype or part.shape != shape or part.device != centroids.device:
            raise InvalidValueError(
                f"kmeans_step: after.{name} must be {dtype} {list(shape)} on {centroids.device}, "
                f"got {part.dtype} {list(part.shape)} on {part.device}"
            )
    on_card = after.counts.is_cuda or _cuda.emulates()  # nothing is read back from there
    if after.counts.numel() and not after.counts.is_meta and not on_card:
        low, high = (int(bound) for bound in after.counts.aminmax())
        if low < 0 or high >= 2**62:
            got = low if low < 0 else high
            raise InvalidValueError(f"kmeans_step: after.counts must be in [0, 2^62), got {got}")
    return after.sums, after.counts, after.inertia


def _cpu(
    x: Tensor,
    centroids: Tensor,
    sums: Tensor | None,
    counts: Tensor | None,
    inertia: Tensor | None,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    require_finite("kmeans_step", "centroids", centroids)
    book = centroids.float()
    labels = allocate("kmeans_step", "labels", x.shape[0], dtype=torch.int32)
    sums = torch.zeros(book.shape, dtype=torch.float64) if sums is None else _copy(sums)
    counts = torch.zeros(book.shape[0], dtype=torch.int64) if counts is None else _copy(counts)
    inertia = torch.zeros((), dtype=torch.float64) if inertia is None else inertia.clone()
    core.kmeans_step(
        x=x,
        centroids=book,
        bfloat16=precision == "bfloat16",
        labels=labels,
        sums=sums,
        counts=counts,
        inertia=inertia,
        num_threads=torch.get_num_threads(),
    )
    return labels, sums, counts, inertia


def _card(
    x: Tensor,
    centroids: Tensor,
    sums: Tensor | None,
    counts: Tensor | None,
    inertia: Tensor | None,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, book = x.contiguous(), centroids.float().contiguous()
    (num_rows, depth), size, name = x.shape, len(book), _rq_levels.ELEMENTS[x.dtype]
    labels = _rq_levels.encode(x, _rq_levels.as_read("kmeans_step", [book], first_of_equals=True))[:, 0]
    sums, inertia = (None if part is None else part.contiguous() for part in (sums, inertia))
    totals = x.new_empty(-(-num_rows // _SUMMED_ROWS), dtype=torch.float64)
    number, width = _cuda.int64(num_rows), _cuda.int32(depth)
    _launch(f"kmeans_step_distances_{name}", len(totals), _THREADS, (x, book, labels, number, width, totals))
    distances = x.new_empty((), dtype=torch.float64)
    _launch("kmeans_step_inertia", 1, 32, (totals, _cuda.int64(len(totals)), inertia, distances))
    found, order = labels.sort(stable=True)
    starts = torch.searchsorted(found, torch.arange(size + 1, dtype=torch.int32, device=x.device))
    added = x.new_empty((size, depth), dtype=torch.float64)
    arguments = (x, order, starts, _cuda.int64(size), width, sums, added)
    _launch(f"kmeans_step_sums_{name}", -(-size * depth // _THREADS), _THREADS, arguments)
    lengths = starts[1:] - starts[:-1]
    return labels, added, lengths if counts is None else counts + lengths, distances


def _launch(kernel: str, blocks: int, threads: int, arguments: _cuda.Arguments) -> None:
    _cuda.launch("kmeans_step", kernel, (blocks, 1, 1), (threads, 1, 1), 0, arguments)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def _check(x: Tensor, centroids: Tensor) -> None:
    require_finite("kmeans_step", "x", x)
    require_finite("kmeans_step", "centroids", centroids)


def _fake(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        x.new_empty(x.shape[:1], dtype=torch.int32),
        centroids.new_empty(centroids.shape, dtype=torch.float64),
        x.new_empty(centroids.shape[:1], dtype=torch.int64),
        x.new_empty((), dtype=torch.float64),
    )


_op = define(
    "kmeans_step(Tensor x, Tensor centroids, Tensor? sums, Tensor? counts, Tensor? inertia, str precision)"
    " -> (Tensor labels, Tensor sums, Tensor counts, Tensor inertia)",
    kernels={"cpu": _cpu, "cuda": _card},
    twin=_twin,
    fake=_fake,
    check=_check,
)
