"""beam_attention on a card: the two kernels of ``csrc/cuda/beam_attention.cuh``, on how many blocks.

Nothing is read back: how many chunks prompts have is bounded by shapes alone, and a block looks up whose chunk it has.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from genrec_fast.base.errors import UnsupportedError
from genrec_fast.ops._cuda import launch

CHUNK = 512  # keys of a prompt that a block takes: `chunk` of csrc/cuda/beam_chain.cuh
_ROWS = 64  # queries of a block, and keys of a tile
_THREADS = 128
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
_MOST = (1 << 31) - 1

_POINTER, _LONG, _INT = ctypes.c_void_p, ctypes.c_longlong, ctypes.c_int


class _Args(ctypes.Structure):
    """``beam_attention::Args`` of ``csrc/cuda/beam_chain.cuh``."""

    _fields_ = (
        *((name, _POINTER) for name in ("q", "prompt_keys", "prompt_values", "keys", "values")),
        *((name, _LONG) for name in ("q_user", "q_beam", "q_head")),
        *((f"prompt_{name}", _LONG) for name in ("key_row", "key_head", "value_row", "value_head")),
        *((name, _LONG) for name in ("key_user", "key_row", "key_head", "value_user", "value_row", "value_head")),
        *((name, _POINTER) for name in ("offsets", "parents", "bias")),
        ("prompt_rows", _LONG),
        *((name, _INT) for name in ("users", "beams", "heads", "key_heads", "width", "value_width")),
        *((name, _INT) for name in ("num_rows", "bias_size")),
        ("scale", ctypes.c_float),
        ("whole_vectors", _INT),
    )


def beam_attention(
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
    """As ``genrec_fast::beam_attention``.

    Raises:
        UnsupportedError: more than 2^31 - 1 rows of prompts or blocks.
    """
    users, beams, heads, width = q.shape
    wide = prompt_values if values is None else values
    assert wide is not None
    key_heads, value_width = wide.shape[-2:]
    out = q.new_empty(users, beams, heads, value_width)
    if out.numel() == 0:
        return out
    prompt_keys, prompt_values, keys, values = map(_rows, (prompt_keys, prompt_values, keys, values))
    asked = _rows(q)
    assert asked is not None
    q = asked
    offsets, parents = (None if part is None else part.contiguous() for part in (offsets, parents))
    bias = None if bias is None else bias.float().contiguous()
    prompt_rows = 0 if prompt_keys is None else prompt_keys.shape[0]
    chunks = prompt_rows // CHUNK + users if prompt_rows else 0
    parts = -(-beams * heads // key_heads // _ROWS)
    blocks, warps = chunks * key_heads * parts, users * beams * heads
    if max(prompt_rows, blocks, warps) > _MOST:
        raise UnsupportedError(
            f"beam_attention: rows of prompts, blocks and queries must be at most {_MOST}, "
            f"got {prompt_rows}, {blocks} and {warps}"
        )
    sums = torch.empty(chunks, beams, heads, value_width, dtype=torch.float32, device=q.device)
    peaks = torch.empty(chunks, beams, heads, 2, dtype=torch.float32, device=q.device)
    prompt_strides = [(0, 0) if part is None else part.stride()[:2] for part in (prompt_keys, prompt_values)]
    strides = [(0, 0, 0) if part is None else part.stride()[:3] for part in (keys, values)]
    given = (q, prompt_keys, prompt_values, keys, values)
    args = _Args(
        *(None if part is None else part.data_ptr() for part in given),
        *q.stride()[:3],
        *(stride for part in prompt_strides for stride in part),
        *(stride for part in strides for stride in part),
        *(None if part is None else part.data_ptr() for part in (offsets, parents, bias)),
        prompt_rows,
        *(users, beams, heads, key_heads, width, value_width),
        *(0 if parents is None else parents.shape[1], 0 if bias is None else bias.shape[1]),
        scale,
        _whole_vectors(q, prompt_keys, prompt_values),
    )
    name = _NAMES[q.dtype]
    if chunks:
        slab = 128 if max(width, value_width) > 64 and q.dtype != torch.float32 else 64
        grid = (blocks, -(-value_width // slab), 1)
        kernel = f"beam_attention_prompt{slab}_{name}"
        launch("beam_attention", kernel, grid, (_THREADS, 1, 1), _shared_bytes(slab, q.dtype), (args, sums, peaks))
    kernel = f"beam_attention_chain{128 if max(width, value_width) <= 128 else 256}_{name}"
    launch("beam_attention", kernel, (-(-warps * 32 // _THREADS), 1, 1), (_THREADS, 1, 1), 0, (args, sums, peaks, out))
    return out


def _shared_bytes(slab: int, dtype: torch.dtype) -> int:
    """Of a block: queries, and one or two tiles of keys and values, as ``PromptShape`` counts them."""
    stages = 2 if slab == 64 and dtype != torch.float32 else 1
    return _ROWS * (1 + 2 * stages) * (slab * dtype.itemsize + 16)


def _rows(tensor: Tensor | None) -> Tensor | None:
    """The tensor, or a copy whose last dimension lies together (a slice of a longer cache does as it is)."""
    if tensor is None:
        return None
    if tensor.data_ptr() % tensor.element_size():
        return tensor.clone(memory_format=torch.contiguous_format)
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _whole_vectors(*tensors: Tensor | None) -> bool:
    """Every head's row begins at a multiple of 16 bytes and consists of such."""

    def fits(x: Tensor) -> bool:
        vector = 16 // x.element_size()
        strides = (stride for size, stride in zip(x.shape[:-1], x.stride()[:-1], strict=True) if size > 1)
        return x.data_ptr() % 16 == 0 and x.shape[-1] % vector == 0 and all(stride % vector == 0 for stride in strides)

    return all(fits(tensor) for tensor in tensors if tensor is not None)
