"""Rows times a packed matrix: the micro-kernel of everything heavy, by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.base.checks import INT64, choice, require_tensors, whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, door
from genrec_fast.ops._registry import core, define
from genrec_fast.ops._tensors import MAX_INT8_DEPTH, allocate, require_matrix
from genrec_fast.ops.reference.gemm import gemm as _twin
from genrec_fast.ops.reference.gemm import gemm_pack as _pack_twin

ELEMENT_SIZES = {"float32": 4, "bfloat16": 2, "int8": 1}


@door
def gemm_pack(b: Tensor, *, precision: str = "float32") -> Tensor:
    """A matrix as ``gemm`` reads it, packed once and used many times.

    Args:
        b: float32, bfloat16 or float16 ``[N, D]``, one row per column of the product (as in ``nn.Linear.weight``).
        precision: "float32"; "bfloat16": products of rounded numbers, twice as many at a time; "int8": a scale per
            row of b, largest channel / 127, and whole numbers, four times as many at a time (up to D = 65536).

    Returns:
        uint8 ``[bytes]``: a header of 64 bytes and the panels. On a CPU it fits the instruction set that packed it;
        ``gemm`` refuses it under one of other panels.

    Raises:
        InvalidTypeError: b is not a float matrix.
        InvalidValueError: b is empty, the precision is not one of the three, or D is above 65536 in int8.
        UnsupportedError: bfloat16 on an instruction set that does not multiply it.

    Notes:
        Reads and writes b once; memory: its size, columns rounded up to 32. Not differentiable.

    Source:
        The panels: Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", TOMS 2008.
    """
    require_matrix("gemm_pack", "b", b, "[N, D]")
    if 0 in b.shape:
        raise InvalidValueError(f"gemm_pack: b must be [N, D] with at least one of each, got {list(b.shape)}")
    choice("gemm_pack", "precision", precision, tuple(ELEMENT_SIZES))
    if precision == "int8" and b.shape[1] > MAX_INT8_DEPTH:
        raise InvalidValueError(f"gemm_pack: D must be at most {MAX_INT8_DEPTH} in int8, got {b.shape[1]}")
    out: Tensor = _pack(b.detach().float(), precision)
    return out


@door
def gemm(
    a: Tensor, packed: Tensor, num_columns: int, *, start: Tensor | None = None, precision: str = "float32"
) -> Tensor:
    """``out[i, j] = start[j] + sum_d a[i, d] b[j, d]`` for a packed ``b``.

    Args:
        a: float32, bfloat16 or float16 ``[M, D]``.
        packed: from ``gemm_pack``, of the same D and precision.
        num_columns: N, the rows of the matrix that was packed.
        start: float32 ``[N]``, added first (a bias); ``None``: 0.
        precision: as given to ``gemm_pack``; "bfloat16" rounds ``a`` too, sums stay float32; "int8" gives each row of
            ``a`` a scale, largest element / 127, and sums whole numbers exactly.

    Returns:
        float32 ``[M, N]``.

    Raises:
        InvalidTypeError: a dtype is wrong.
        InvalidValueError: a shape does not fit, or packed is not a matrix of this size, precision and instruction set.
        UnsupportedError: bfloat16 on an instruction set that does not multiply it.

    Notes:
        2 M N D flops at 95 to 100 % of the fused multiply-add rate once D is above about 32 (docs/benchmarks.md). Every
        sum runs in the order of d; instruction sets agree to rounding (in int8 to the bit), threads to the bit. In
        int8 a row of a or b with a NaN or an infinity gives NaN, and one below 1e-30 counts as 0. Not differentiable.

    Source:
        As ``gemm_pack``; int8: Dettmers et al., "LLM.int8()", NeurIPS 2022, section 2 (a scale per row and column).

    Example:
        >>> import torch, genrec_fast as gf
        >>> packed = gf.ops.gemm_pack(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
        >>> gf.ops.gemm(torch.tensor([[1.0, 1.0]]), packed, 3, start=torch.tensor([0.5, 0.0, 0.0])).tolist()
        [[3.5, 7.0, 11.0]]
    """
    require_matrix("gemm", "a", a, "[M, D]")
    require_tensors("gemm", a.device, packed=packed)
    if packed.dtype != torch.uint8 or packed.dim() != 1:
        raise InvalidTypeError(f"gemm: packed must be uint8 [bytes], got {packed.dtype} {list(packed.shape)}")
    num_columns = whole_number("gemm", "num_columns", num_columns, *INT64)
    if num_columns < 1 or a.shape[1] < 1:
        raise InvalidValueError(
            f"gemm: num_columns and D must be at least 1, got {num_columns} columns, a {list(a.shape)}"
        )
    choice("gemm", "precision", precision, tuple(ELEMENT_SIZES))
    if precision == "int8" and a.shape[1] > MAX_INT8_DEPTH:
        raise InvalidValueError(f"gemm: D must be at most {MAX_INT8_DEPTH} in int8, got {a.shape[1]}")
    if num_columns * a.shape[1] > packed.numel():  # an element has a byte at least
        raise InvalidValueError(
            f"gemm: packed must be a matrix of {num_columns} columns and depth {a.shape[1]}, "
            f"got one of {packed.numel()} bytes"
        )
    if start is not None:
        require_tensors("gemm", a.device, start=start)
        if start.dtype != torch.float32 or start.shape != (num_columns,):
            raise InvalidValueError(
                f"gemm: start must be float32 [{num_columns}], got {start.dtype} {list(start.shape)}"
            )
    out: Tensor = _op(a.detach(), packed, num_columns, start, precision)
    return out


def _cpu_pack(b: Tensor, precision: str) -> Tensor:
    sizes = {"num_columns": b.shape[0], "depth": b.shape[1], "element_size": ELEMENT_SIZES[precision]}
    packed = allocate("gemm_pack", "packed", core.gemm_pack_size(**sizes), dtype=torch.uint8)
    core.gemm_pack(b=b, element_size=ELEMENT_SIZES[precision], packed=packed, num_threads=torch.get_num_threads())
    return packed


def _cpu(a: Tensor, packed: Tensor, num_columns: int, start: Tensor | None, precision: str) -> Tensor:
    depth = a.shape[1]
    if precision == "bfloat16":
        a = torch.nn.functional.pad(a.to(torch.bfloat16), (0, depth % 2))
    else:
        a = a.float()
    out = allocate("gemm", "out", a.shape[0], num_columns)
    core.gemm(
        element_size=ELEMENT_SIZES[precision],
        depth=depth,
        a=a,
        packed=packed,
        start=start,
        out=out,
        num_threads=torch.get_num_threads(),
    )
    return out


def _fake_pack(b: Tensor, precision: str) -> Tensor:
    size = core.gemm_pack_size(num_columns=b.shape[0], depth=b.shape[1], element_size=ELEMENT_SIZES[precision])
    return b.new_empty(size, dtype=torch.uint8)


_pack = define(
    "gemm_pack(Tensor b, str precision) -> Tensor", kernels={"cpu": _cpu_pack}, twin=_pack_twin, fake=_fake_pack
)
_op = define(
    "gemm(Tensor a, Tensor packed, int num_columns, Tensor? start, str precision) -> Tensor",
    kernels={"cpu": _cpu},
    twin=_twin,
    fake=lambda a, num_columns: a.new_empty((a.shape[0], num_columns), dtype=torch.float32),
)
