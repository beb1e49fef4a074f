"""Twins of ``jagged_products``' ops in plain torch; offsets and ids have been checked."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.ops.reference.segment_sum import spread


def dense_matmul(values: Tensor, dense: Tensor, offsets: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
    """``[E, M]``: every row's ``[n, D]`` times its matrix, plus its bias."""
    rows = values.split(offsets.diff().tolist())
    matrices = dense.transpose(1, 2) if transposed else dense
    out = torch.cat([values.new_zeros(0, matrices.shape[2]), *(x @ y for x, y in zip(rows, matrices, strict=True))])
    return out if bias is None else out + spread(bias, offsets)


def jagged_matmul(a: Tensor, b: Tensor, offsets: Tensor) -> Tensor:
    """``[B, K, M]``: the sum over a row's elements of the outer products of ``a`` and ``b``."""
    lengths = offsets.diff().tolist()
    products = [x.T @ y for x, y in zip(a.split(lengths), b.split(lengths), strict=True)]
    return torch.stack(products) if products else a.new_zeros(0, a.shape[1], b.shape[1])


def embedding(table: Tensor, ids: Tensor) -> Tensor:
    """``table[ids]``."""
    return table[ids]


def embedding_rows(grad: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The ids that occur, ascending, and the sum of ``grad`` where each does."""
    unique, places = ids.unique(return_inverse=True)
    exact = torch.promote_types(grad.dtype, torch.float32)
    sums = torch.zeros((len(unique), *grad.shape[1:]), dtype=exact, device=grad.device)
    return unique, sums.index_add(0, places, grad.to(exact))


def embedding_gradient(grad: Tensor, ids: Tensor, num_rows: int) -> Tensor:
    """The same, in the table's shape."""
    exact = torch.promote_types(grad.dtype, torch.float32)
    sums = torch.zeros((num_rows, *grad.shape[1:]), dtype=exact, device=grad.device)
    return sums.index_add(0, ids, grad.to(exact))
