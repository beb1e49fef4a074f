"""Tensors made hostile: another layout of the same values, or other values, shapes and kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .case import Rng
from .hostile import OTHER, SAME, WILD, Change, bag

_ELEMENTS = (
    *(float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 3.4e38, -3.4e38, 1e-45, 1e-38, 1e30, 65504.0, 1e308),
    *(-1.0, 1.0),
)
_WHOLES = (
    *(-1, 0, 1, 2, 3, 2**31 - 1, 2**31, -(2**31), 2**32, 2**63 - 1, -(2**63), 127, 128, 255, 256, 65535, 65536),
    *(-2, 2**62),
)
_DTYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64, torch.complex128),
    torch.float8_e4m3fn,
)


class Sub(Tensor):
    """A subclass that changes nothing."""


# ---- tensors of the same values


def _strided(rng: Rng, x: Tensor) -> Tensor:
    room = x.new_zeros([2 * s + 1 for s in x.shape])
    view = room[tuple(slice(1, 2 * s + 1, 2) for s in x.shape)]
    view.copy_(x)
    return view


def _turned(rng: Rng, x: Tensor) -> Tensor:
    if x.dim() < 2:
        raise ValueError("one dimension")
    return x.transpose(0, -1).contiguous().transpose(0, -1)


def _behind(rng: Rng, x: Tensor) -> Tensor:
    flat = x.new_zeros(x.numel() + 3)
    flat[3:].copy_(x.reshape(-1))
    return flat[3:].view(x.shape)


def _negated(rng: Rng, x: Tensor) -> Tensor:
    if not x.is_floating_point():
        raise ValueError("torch negates views of floats alone (z.conj().imag)")
    return torch._neg_view(-x)


def _imaginary(rng: Rng, x: Tensor) -> Tensor:
    return torch.complex(torch.zeros_like(x), -x).conj().imag


def _misaligned(rng: Rng, x: Tensor) -> Tensor:
    raw = x.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    shift = rng.choice((1, 2, 3, 4))
    return torch.frombuffer(bytearray(shift) + bytearray(raw), dtype=x.dtype, offset=shift).view(x.shape)


def _far(rng: Rng, x: Tensor) -> Tensor:
    if 1 not in x.shape:
        raise ValueError("no dimension of one")
    far = rng.choice((2**40, 2**62, 7, 0))
    return x.contiguous().as_strided(
        x.shape, [far if n == 1 else s for n, s in zip(x.shape, x.contiguous().stride(), strict=True)]
    )


def _inference(rng: Rng, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return x.clone()


def _shared(rng: Rng, x: Tensor) -> Tensor:
    return torch.from_numpy(x.numpy().copy())


_SAME_TENSORS: tuple[tuple[str, Callable[[Rng, Tensor], Any]], ...] = (
    ("strided", _strided),
    ("strided", _strided),
    ("transposed in memory", _turned),
    ("behind the storage's begin", _behind),
    ("negative bit", _negated),
    ("negative bit", _negated),
    ("imaginary part of a conjugate", _imaginary),
    ("misaligned", _misaligned),
    ("misaligned", _misaligned),
    ("strides of a dimension of one", _far),
    ("requires grad", lambda rng, x: x.clone().requires_grad_()),
    ("a parameter", lambda rng, x: torch.nn.Parameter(x.clone(), requires_grad=x.is_floating_point())),
    ("a subclass", lambda rng, x: x.clone().as_subclass(Sub)),
    ("made in inference mode", _inference),
    ("numpy's memory", _shared),
)


# ---- other tensors


def _dtype(rng: Rng, x: Tensor) -> Change:
    kind = rng.choice(_DTYPES)
    if kind == x.dtype:
        raise ValueError("the same")
    return x.to(kind), f"dtype {str(kind).removeprefix('torch.')}", OTHER


def _element(rng: Rng, x: Tensor) -> Change:
    if not x.numel():
        raise ValueError("empty")
    x = x.clone(memory_format=torch.contiguous_format)
    flat = x.view(-1)
    times = 1 if rng.flip(0.7) else rng.randint(1, x.numel())
    value: Any = None
    for _ in range(times):
        if x.dtype == torch.bool:
            value = rng.flip()
        elif x.is_floating_point():
            value = rng.choice(_ELEMENTS)
        else:
            limits = torch.iinfo(x.dtype)
            value = rng.choice(_WHOLES) if rng.flip(0.7) else int(flat[rng.randrange(x.numel())]) + rng.randint(-2, 2)
            value = min(max(value, limits.min), limits.max)
        flat[rng.randrange(x.numel())] = value
    return x, "other elements", OTHER


def _fill(rng: Rng, x: Tensor) -> Change:
    if x.is_floating_point():
        value: Any = rng.choice(_ELEMENTS)
    elif x.dtype == torch.bool:
        value = rng.flip()
    else:
        limits = torch.iinfo(x.dtype)
        value = min(max(rng.choice(_WHOLES), limits.min), limits.max)
    return torch.full_like(x, value, memory_format=torch.contiguous_format), f"all {value}", OTHER


def _shape(rng: Rng, x: Tensor) -> Change:
    ways: tuple[Callable[[], tuple[Any, str]], ...] = (
        lambda: (x.unsqueeze(rng.randint(0, x.dim())), "one more dimension"),
        lambda: (x.select(rng.randrange(x.dim()), 0), "one dimension fewer"),
        lambda: (x.flatten(), "flat"),
        lambda: (x.narrow(d := rng.randrange(x.dim()), 0, max(x.shape[d] - 1, 0)), "cut by one"),
        lambda: (x.narrow(rng.randrange(x.dim()), 0, 0), "of no size"),
        lambda: (torch.cat([x, x.narrow(d := rng.randrange(x.dim()), 0, 1)], d), "grown by one"),
        lambda: (torch.cat([x, x], rng.randrange(x.dim())), "twice"),
        lambda: (x.transpose(0, -1), "transposed"),
        lambda: (x.flip(0), "turned around"),
        lambda: (x.new_zeros(()), "0-d"),
        lambda: (x.new_zeros(0), "empty"),
        lambda: (x.new_zeros((1,) * rng.randint(1, 7)), "of ones"),
        lambda: (x.new_zeros((0,) * x.dim()), "all sizes 0"),
        lambda: (x.new_zeros((2**62, 0)) if rng.flip() else x.new_zeros((0, 2**62)), "0 times 2^62"),
    )
    value, how = rng.choice(ways)()
    return value, how, OTHER


def _expanded(rng: Rng, x: Tensor) -> Change:
    d = rng.randrange(x.dim())
    size = rng.choice((x.shape[d], x.shape[d], 2**10, 2**31, 2**33, 2**40))
    return (
        x.narrow(d, 0, 1).expand([size if i == d else s for i, s in enumerate(x.shape)]),
        f"expanded to {size}",
        OTHER,
    )


def _overlapping(rng: Rng, x: Tensor) -> Change:
    return x.contiguous().as_strided(x.shape, [rng.choice((0, 1)) for _ in x.shape]), "overlapping", OTHER


def _layout(rng: Rng, x: Tensor) -> Change:
    ways: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("on meta", lambda: x.to("meta")),
        ("on meta", lambda: x.to("meta")),
        ("sparse", x.to_sparse),
        ("sparse csr", x.to_sparse_csr),
        ("mkldnn", x.to_mkldnn),
        ("nested", lambda: torch.nested.nested_tensor([x, x])),
        ("nested", lambda: torch.nested.as_nested_tensor([x])),
        ("nested jagged", lambda: torch.nested.nested_tensor([x, x], layout=torch.jagged)),
        ("quantized", lambda: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8)),
        ("complex conjugate", lambda: x.to(torch.complex64).conj()),
        ("a list", x.tolist),
        ("a numpy array", lambda: x.numpy().copy()),
        ("a tuple of tensors", lambda: tuple(x)),
    )
    how, make = rng.choice(ways)
    return make(), how, OTHER


def _emptied(rng: Rng, x: Tensor) -> Change:
    if not x.numel():
        raise ValueError("empty")
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x, "storage let go", WILD


def changed_tensor(rng: Rng, x: Tensor) -> Change:
    """A changed tensor."""
    draw = rng.random()
    if draw < 0.40:
        how, make = rng.choice(_SAME_TENSORS)
        return make(rng, x), how, SAME
    if draw < 0.53:
        return _element(rng, x)
    if draw < 0.57:
        return _fill(rng, x)
    if draw < 0.67:
        return _dtype(rng, x)
    if draw < 0.80:
        return _shape(rng, x)
    if draw < 0.83:
        return _expanded(rng, x)
    if draw < 0.86:
        return _overlapping(rng, x)
    if draw < 0.863:
        return _emptied(rng, x)
    if draw < 0.97:
        return _layout(rng, x)
    return bag(rng)
