"""Attention of one level of a beam search: a prompt that a user's beams share, and each beam's chain of ancestors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genrec_fast.base.checks import FLOAT32, real_number, require_tensors
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, door
from genrec_fast.ops import _cuda, _cuda_beam_attention
from genrec_fast.ops._registry import define
from genrec_fast.ops._tensors import FLOATS, check_offsets, require_offsets
from genrec_fast.ops.reference.beam_attention import beam_attention as _twin

_OP = "beam_attention"
MOST_WIDTH = 256
"""columns of a head"""


@door
def beam_attention(
    q: Tensor,
    prompt_keys: Tensor | None = None,
    prompt_values: Tensor | None = None,
    offsets: Tensor | None = None,
    *,
    keys: Tensor | None = None,
    values: Tensor | None = None,
    parents: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Each query attends to its user's prompt and to the rows that it descends from, itself among them.

    ::

        chain(w) = N - W + w, then parents[user][that], and so on until -1
        out[user, w] = sum_j softmax_j(scale * q[user, w] k[j] + bias[distance]) * v[j]
                       over the prompt's tokens and the chain

    Keys and values are read where they were written: no beam's are ever copied, moved or put in another order.

    Args:
        q: float32, bfloat16 or float16 ``[B, W, H, D]``: the queries of one level.
        prompt_keys: like q, ``[T, Hk, D]``, of all users' prompts, end to end; Hk divides H, and query head h reads key
            head ``h // (H // Hk)``. ``None`` (all three): users have no prompts.
        prompt_values: like q, ``[T, Hk, Dv]``.
        offsets: int64 or int32 ``[B + 1]``: where prompts begin; from 0, non-decreasing, ending at T.
        keys: like q, ``[B, N, Hk, D]``: of the rows written so far, level after level; the last W are the queries' own.
            A slice of a longer cache is read in place. ``None`` (all three): queries see their prompts alone.
        values: like q, ``[B, N, Hk, Dv]``.
        parents: int32 ``[B, N]``: the number of the row that each row extends, lower than its own; -1: none.
        bias: float ``[H, R]``: added to the score of a key so many tokens before the query (a row's own key: 0, its
            parent's: 1, the prompt's last: the chain's length); keys farther than ``R - 1`` take the last one. T5's
            buckets, and ALiBi, are such tables.
        scale: of the products; ``None``: ``1 / sqrt(D)``. T5: 1.

    Returns:
        ``[B, W, H, Dv]`` in q's dtype. A query that sees nothing gives 0.

    Raises:
        InvalidTypeError: an argument of another kind or dtype than the above.
        InvalidValueError: a wrong shape or device; D or Dv above 256; offsets that break their rule; a parent that is
            no earlier row. A card cannot raise for a value: there wrong offsets make every result NaN, and a wrong
            parent that of the queries below it.

    Notes:
        Cost: ``2 (D + Dv)`` flops for each key that a query and head see; a prompt's keys and values are read once for
        64 queries. Sums are float32; where they are 16-bit floats, a card rounds the prompt's weights to that type
        before the second product. A query's bits depend on its user's prompt and its own chain alone, not on other
        users, on the number of beams or on the run. Waits for nothing on a card, so a graph can capture it. On the CPU
        plain torch runs. Not differentiable.

    Source:
        Attention: arXiv:1706.03762, equation 1. A prompt that many queries share, read once for all of them and joined
        with the rest by log-sum-exp: Hydragen (arXiv:2402.05099), section 3.

    Example:
        >>> import torch, genrec_fast as gf
        >>> q = torch.zeros(1, 2, 1, 1)
        >>> prompt, offsets = torch.tensor([1.0, 3.0]).view(2, 1, 1), torch.tensor([0, 2])
        >>> rows = torch.tensor([8.0, 5.0, 0.0]).view(1, 3, 1, 1)
        >>> parents = torch.tensor([[-1, -1, 0]], dtype=torch.int32)
        >>> out = gf.ops.beam_attention(q, prompt, prompt, offsets, keys=rows, values=rows, parents=parents)
        >>> out.flatten().tolist()
        [3.0, 3.0]
    """
    require_tensors(_OP, None, q=q)
    if q.dtype not in FLOATS:
        raise InvalidTypeError(f"{_OP}: q must be float32, bfloat16 or float16 [B, W, H, D], got {q.dtype}")
    if q.dim() != 4 or q.shape[2] < 1 or not 1 <= q.shape[3] <= MOST_WIDTH:
        rule = f"[B, W, H, D] with H at least 1 and D in [1, {MOST_WIDTH}]"
        raise InvalidValueError(f"{_OP}: q must be {rule}, got {list(q.shape)}")
    has_prompts = _is_given(prompt_keys=prompt_keys, prompt_values=prompt_values, offsets=offsets)
    has_rows = _is_given(keys=keys, values=values, parents=parents)
    if not (has_prompts or has_rows):
        raise InvalidValueError(f"{_OP}: prompt_keys or keys must be given, got neither")
    if prompt_keys is not None and prompt_values is not None:
        _check_pair(q, "T", prompt_keys=prompt_keys, prompt_values=prompt_values)
        offsets = require_offsets(_OP, "offsets", offsets, q.device)
        if offsets.shape[0] != q.shape[0] + 1:
            raise InvalidValueError(f"{_OP}: offsets must be [{q.shape[0] + 1}], got {list(offsets.shape)}")
    if keys is not None and values is not None:
        _check_pair(q, "B, N", keys=keys, values=values)
        _check_rows(q, keys, parents)
    if prompt_values is not None and values is not None and prompt_values.shape[1:] != values.shape[2:]:
        wanted = f"[..., {prompt_values.shape[1]}, {prompt_values.shape[2]}] like prompt_values"
        raise InvalidValueError(f"{_OP}: values must be {wanted}, got {list(values.shape)}")
    if bias is not None:
        require_tensors(_OP, q.device, bias=bias)
        if bias.dtype not in FLOATS:
            raise InvalidTypeError(f"{_OP}: bias must be float32, bfloat16 or float16 [H, R], got {bias.dtype}")
        if bias.dim() != 2 or bias.shape[0] != q.shape[2] or bias.shape[1] < 1:
            raise InvalidValueError(f"{_OP}: bias must be [{q.shape[2]}, R] with R at least 1, got {list(bias.shape)}")
    factor = 1.0 / math.sqrt(q.shape[3]) if scale is None else real_number(_OP, "scale", scale, FLOAT32)
    given = (q, prompt_keys, prompt_values, offsets, keys, values, parents, bias)
    found: Tensor = _op(*(None if part is None else part.detach() for part in given), factor)
    return found


def runs_on_card(tensor: Tensor) -> bool:
    """Whether the kernels for cards run where the tensor is; elsewhere the twin goes from user to user."""
    return _cuda.emulates() or (tensor.is_cuda and _cuda.can_launch())


def _is_given(**tensors: Tensor | None) -> bool:
    """Whether they are there: all of them or none."""
    missing = [name for name, tensor in tensors.items() if tensor is None]
    if missing and len(missing) < len(tensors):
        raise InvalidValueError(f"{_OP}: {' and '.join(tensors)} must be given together, got no {missing[0]}")
    return not missing


def _check_pair(q: Tensor, rows: str, **pair: Tensor) -> None:
    """Keys and values, in this order."""
    require_tensors(_OP, q.device, **pair)
    for name, tensor in pair.items():
        if tensor.dtype != q.dtype:
            raise InvalidTypeError(f"{_OP}: {name} must be {q.dtype} like q, got {tensor.dtype}")
        if tensor.dim() != rows.count(",") + 3:
            raise InvalidValueError(f"{_OP}: {name} must be [{rows}, Hk, D], got {list(tensor.shape)}")
    (name, keys), (other, values) = pair.items()
    heads, width = q.shape[2:]
    if keys.shape[-1] != width or keys.shape[-2] < 1 or heads % keys.shape[-2]:
        rule = f"[{rows}, Hk, {width}] with Hk that divides {heads}"
        raise InvalidValueError(f"{_OP}: {name} must be {rule}, got {list(keys.shape)}")
    if values.shape[:-1] != keys.shape[:-1] or not 1 <= values.shape[-1] <= MOST_WIDTH:
        rule = f"[{', '.join(map(str, keys.shape[:-1]))}, Dv] with Dv in [1, {MOST_WIDTH}]"
        raise InvalidValueError(f"{_OP}: {other} must be {rule}, got {list(values.shape)}")


def _check_rows(q: Tensor, keys: Tensor, parents: Tensor | None) -> None:
    require_tensors(_OP, q.device, parents=parents)
    assert parents is not None
    users, beams = q.shape[:2]
    if keys.shape[0] != users or keys.shape[1] < beams:
        raise InvalidValueError(f"{_OP}: keys must be [{users}, N at least {beams}, ...], got {list(keys.shape)}")
    if parents.dtype != torch.int32:
        raise InvalidTypeError(f"{_OP}: parents must be int32 [B, N], got {parents.dtype}")
    if parents.shape != keys.shape[:2]:
        raise InvalidValueError(f"{_OP}: parents must be {list(keys.shape[:2])} like keys, got {list(parents.shape)}")


def _check(prompt_keys: Tensor | None, offsets: Tensor | None, parents: Tensor | None) -> None:
    if offsets is not None and prompt_keys is not None:
        check_offsets(_OP, "offsets", offsets, prompt_keys.shape[0])
    if parents is None:
        return
    wrong = (parents < -1) | (parents >= torch.arange(parents.shape[1], device=parents.device))
    if bool(wrong.any()):
        user, row = wrong.nonzero()[0].tolist()
        raise InvalidValueError(
            f"{_OP}: parents must be -1 or an earlier row, got {int(parents[user, row])} for row {row} of user {user}"
        )


def _plain(
    q: Tensor,
    prompt_keys: Tensor | None,
    prompt_values: Tensor | None,
    offsets: Tensor | None,
    keys: Tensor | None,
    values: Tensor | None,
    parents: Tensor | None,
    bias: Tensor | None,
    scale: float,
) -> Tensor:
    """On the CPU, where the native engine's own kernels run whole levels."""
    _check(prompt_keys, offsets, parents)
    return _twin(q, prompt_keys, prompt_values, offsets, keys, values, parents, bias, scale)


def _fake(q: Tensor, prompt_values: Tensor | None, values: Tensor | None) -> Tensor:
    wide = prompt_values if values is None else values
    assert wide is not None
    return q.new_empty(*q.shape[:3], wide.shape[-1])


_op = define(
    "beam_attention(Tensor q, Tensor? prompt_keys, Tensor? prompt_values, Tensor? offsets, Tensor? keys,"
    " Tensor? values, Tensor? parents, Tensor? bias, float scale) -> Tensor",
    kernels={"cpu": _plain, "cuda": _cuda_beam_attention.beam_attention},
    twin=_twin,
    fake=_fake,
    check=_check,
)
