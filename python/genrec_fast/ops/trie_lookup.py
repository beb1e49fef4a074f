"""Prefixes of semantic IDs -> nodes of a trie."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from genrec_fast.base.checks import require_tensors
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, door
from genrec_fast.base.protocols import TrieTensors
from genrec_fast.ops import _cuda
from genrec_fast.ops._cuda_trie import card_trie
from genrec_fast.ops._registry import core, define
from genrec_fast.ops._tensors import allocate
from genrec_fast.ops._trie_arguments import require_levels
from genrec_fast.ops.reference.trie_lookup import trie_lookup as _twin

_THREADS = 128  # of a block


@door
def trie_lookup(trie: TrieTensors, codes: Tensor) -> Tensor:
    """The node that each prefix leads to.

    ``node = 0; for l in range(t): node = the edge of node that carries codes[..., l], or -1 for good``

    Args:
        trie: any trie; on the device of ``codes``.
        codes: int32 or int64 ``[..., t]``, t in [1, L]: the first t codes. Codes outside ``[0, codebook_sizes[l])``
            are absent, not an error.

    Returns:
        int32 ``[...]``: the node of level t (the row where t = L), -1 where the trie has none.

    Raises:
        InvalidTypeError: codes are not int32 or int64, or what is given as a trie is none.
        InvalidValueError: codes have no dimension, t is not in [1, L], or the trie's tensors do not fit together.

    Notes:
        One binary search per level; threads above 2048 prefixes. Deterministic. Not differentiable.

    Source:
        Ours.

    Example:
        >>> import torch, genrec_fast as gf
        >>> trie = gf.build_trie([[1, 0], [0, 2], [1, 0]])
        >>> gf.ops.trie_lookup(trie, torch.tensor([[1, 0], [0, 0]])).tolist()
        [1, -1]
    """
    if hasattr(trie, "own_lookup"):  # one whose items have changed since it was built
        return cast(Tensor, trie.own_lookup(codes))
    sizes = require_levels("trie_lookup", trie)
    require_tensors("trie_lookup", trie.tokens[0].device, codes=codes)
    if codes.dtype not in (torch.int32, torch.int64):
        raise InvalidTypeError(f"trie_lookup: codes must be int32 or int64 [..., t], got {codes.dtype}")
    num_levels = len(sizes)
    if codes.dim() == 0 or not 1 <= codes.shape[-1] <= num_levels:
        raise InvalidValueError(
            f"trie_lookup: codes must be [..., t] with t in [1, {num_levels}], got {list(codes.shape)}"
        )
    direct = type(codes) is Tensor and codes.is_cpu and not (torch.compiler.is_compiling() or _cuda.emulates())
    out: Tensor = (_cpu if direct else _op)(
        codes, list(trie.tokens), list(trie.child_bases), list(trie.child_deltas), sizes
    )
    return out


def _cpu(
    codes: Tensor,
    tokens: list[Tensor],
    child_bases: list[Tensor],
    child_deltas: list[Tensor],
    codebook_sizes: list[int],
) -> Tensor:
    out = allocate("trie_lookup", "nodes", *codes.shape[:-1], dtype=torch.int32)
    core.trie_lookup(
        codes=codes,
        codebook_sizes=codebook_sizes,
        tokens=tokens,
        child_bases=child_bases,
        child_deltas=child_deltas,
        nodes=out,
        num_threads=torch.get_num_threads(),
    )
    return out


def _card(
    codes: Tensor,
    tokens: list[Tensor],
    child_bases: list[Tensor],
    child_deltas: list[Tensor],
    codebook_sizes: list[int],
) -> Tensor:
    out = codes.new_empty(codes.shape[:-1], dtype=torch.int32)
    kernel = "trie_lookup_int32" if codes.dtype == torch.int32 else "trie_lookup_int64"
    codes = codes.contiguous()
    trie = card_trie("trie_lookup", tokens, child_bases, child_deltas)
    blocks = -(-out.numel() // _THREADS)
    arguments = (trie, codes, _cuda.int64(out.numel()), _cuda.int32(codes.shape[-1]), out)
    _cuda.launch("trie_lookup", kernel, (blocks, 1, 1), (_THREADS, 1, 1), 0, arguments)
    return out


_op = define(
    "trie_lookup(Tensor codes, Tensor[] tokens, Tensor[] child_bases, Tensor[] child_deltas, int[] codebook_sizes)"
    " -> Tensor",
    kernels={"cpu": _cpu, "cuda": _card},
    twin=_twin,
    fake=lambda codes: codes.new_empty(codes.shape[:-1], dtype=torch.int32),
)
