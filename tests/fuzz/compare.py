"""Whether two answers are the same: bit for bit, or within a bound."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def differs(found: Any, right: Any, within: float | Tensor = 0.0, at: str = "") -> str | None:
    """A complaint, or ``None``. NaN equals NaN; without a bound the bits count, the sign of a zero too."""
    if isinstance(right, Tensor):
        return _tensors(found, right, within, at)
    if dataclasses.is_dataclass(right) and not isinstance(right, type):
        if type(found) is not type(right):
            return f"{at or 'it'} is a {type(found).__name__}, not a {type(right).__name__}"
        right = {f.name: getattr(right, f.name) for f in dataclasses.fields(right)}
        found = {name: getattr(found, name) for name in right}
    if isinstance(right, dict):
        if not isinstance(found, dict) or found.keys() != right.keys():
            return f"{at or 'it'} has other names"
        return next((c for k in right if (c := differs(found[k], right[k], within, f"{at}.{k}"))), None)
    if isinstance(right, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != len(right):
            return f"{at or 'it'} has another length"
        pairs = enumerate(zip(found, right, strict=True))
        return next((c for i, (a, b) in pairs if (c := differs(a, b, within, f"{at}[{i}]"))), None)
    if isinstance(right, np.ndarray):
        same = isinstance(found, np.ndarray) and np.array_equal(found, right)
        return None if same else f"{at or 'it'} is another array"
    if isinstance(right, float):
        same = isinstance(found, float) and (
            found == right or abs(found - right) <= within or (found != found and right != right)
        )
        return None if same else f"{at or 'it'} is {found!r}, must be {right!r}"
    return (
        None
        if type(found) is type(right) and found == right
        else f"{at or 'it'} is {found!r:.60}, must be {right!r:.60}"
    )


def _tensors(found: Any, right: Tensor, within: float | Tensor, at: str) -> str | None:
    at = at or "it"
    if not isinstance(found, Tensor):
        return f"{at} is a {type(found).__name__}, not a tensor"
    if found.dtype != right.dtype:
        return f"{at} is {found.dtype}, must be {right.dtype}"
    if found.shape != right.shape:
        return f"{at} is {list(found.shape)}, must be {list(right.shape)}"
    if found.layout != right.layout:
        return f"{at} is {found.layout}, must be {right.layout}"
    if right.is_sparse:
        right = right.coalesce()
        found = found.coalesce()
        return _tensors(found.indices(), right.indices(), 0.0, f"{at}.indices") or _tensors(
            found.values(), right.values(), within, f"{at}.values"
        )
    a, b = found.detach().contiguous().resolve_neg(), right.detach().contiguous().resolve_neg()
    if a.element_size() == 1 and a.is_floating_point():
        a, b = a.float(), b.float()
    if a.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    if not isinstance(within, Tensor) and within == 0.0:
        kind = _BITS[a.element_size()] if not a.is_complex() else None
        if a.dtype == torch.bool or kind is None or a.numel() == 0:
            return None if torch.equal(a, b) else f"{at} has other values"
        if torch.equal(a.view(kind), b.view(kind)):
            return None
        if a.dtype.is_floating_point:
            wrong = ~((a.view(kind) == b.view(kind)) | (a.isnan() & b.isnan()))
            if not bool(wrong.any()):
                return None
        else:
            wrong = a != b
        place = tuple(wrong.nonzero()[0].tolist())
        return f"{at}{list(place)} is {a[place].item()!r}, must be {b[place].item()!r}"
    a, b = a.double(), b.double()
    limit = within.double() if isinstance(within, Tensor) else torch.full_like(b, within)
    judged = b.isfinite() & limit.isfinite()  # beyond: overflow may come earlier or later in another order of sums
    wrong = judged & ~((a - b).abs() <= limit)
    if bool(wrong.any()):
        place = tuple(wrong.nonzero()[0].tolist())
        ours, theirs, most = (x[place].item() for x in (a, b, limit))
        return f"{at}{list(place)} is {ours:.9g}, must be {theirs:.9g} within {most:.2g}"
    return None


def plain(value: Any) -> Any:
    """The same values in ordinary tensors: what a twin is given."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_quantized or value.is_nested or value.device.type != "cpu":
            return value
        usual = value.detach().as_subclass(Tensor).resolve_conj().resolve_neg().contiguous()
        if usual.numel() and 1 not in usual.shape:
            return usual
        # Where a dimension holds one element or none, contiguous() lets any strides be.
        return torch.empty(usual.shape, dtype=usual.dtype).copy_(usual)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(plain(v) for v in value))
    if isinstance(value, list | tuple):
        return type(value)(plain(v) for v in value)
    if hasattr(value, "__index__") and not isinstance(value, bool | np.generic | np.ndarray | Tensor):
        return operator.index(value)
    return value


def fingerprint(value: Any, depth: int = 0) -> Any:
    """Changes where any tensor reachable from ``value`` changes: callers' arguments are not to be written to."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_quantized or value.is_nested or value.device.type != "cpu":
            return id(value)
        flat = value.detach().contiguous().view(-1)
        return (tuple(value.shape), bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b"")
    if isinstance(value, dict):
        return tuple((k, fingerprint(v, depth + 1)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return tuple(fingerprint(v, depth + 1) for v in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and depth < 4:
        return tuple(fingerprint(getattr(value, f.name), depth + 1) for f in dataclasses.fields(value))
    return None


def described(value: Any, depth: int = 0) -> str:
    """A short text that says everything odd about a value."""
    if isinstance(value, Tensor):
        try:
            return _described_tensor(value)
        except (RuntimeError, NotImplementedError, TypeError) as error:
            return f"<tensor: {type(error).__name__}>"
    if isinstance(value, np.ndarray):
        return f"np.{value.dtype}{list(value.shape)}"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        inner = ", ".join(f"{n}={described(v, depth + 1)}" for n, v in zip(value._fields, value, strict=True))
        return f"{type(value).__name__}({inner})"
    if isinstance(value, list | tuple):
        inner = ", ".join(described(v, depth + 1) for v in value[:12])
        return f"[{inner}{', ...' if len(value) > 12 else ''}]" if isinstance(value, list) else f"({inner},)"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {described(v, depth + 1)}" for k, v in list(value.items())[:12]) + "}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and depth < 4:
        inner = ", ".join(
            f"{f.name}={described(getattr(value, f.name, '<none>'), depth + 1)}" for f in dataclasses.fields(value)
        )
        return f"{type(value).__name__}({inner})"
    try:
        return f"{value!r:.80}"
    except Exception as error:  # noqa: BLE001 - a hostile repr
        return f"<{type(value).__name__}: {type(error).__name__}>"


def _described_tensor(x: Tensor) -> str:
    name = str(x.dtype).removeprefix("torch.")
    odd = []
    if type(x) is not Tensor:
        odd.append(type(x).__name__)
    if x.layout != torch.strided or x.is_nested or x.is_quantized:
        odd.append("nested" if x.is_nested else "quantized" if x.is_quantized else str(x.layout))
        return f"{name}<{' '.join(odd)}>"
    if x.device.type != "cpu":
        return f"{name}{list(x.shape)} on {x.device}"
    odd += [word for word, is_so in (("neg", x.is_neg()), ("conj", x.is_conj()), ("grad", x.requires_grad)) if is_so]
    if not x.is_contiguous():
        odd.append(f"strides {list(x.stride())}")
    if x.numel() and x.untyped_storage().nbytes() == 0:
        return f"{name}{list(x.shape)} <no storage>"
    if x.numel() and x.data_ptr() % x.element_size():
        odd.append("misaligned")
    text = f"{name}{list(x.shape)}" + (f"<{' '.join(odd)}>" if odd else "")
    if x.numel() <= 12 and max(x.shape, default=0) <= 12 and not x.is_conj():
        text += f"={x.tolist()}"
    return text
