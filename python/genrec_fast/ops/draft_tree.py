"""Drafted prefixes as a tree below what a network has read (contract: ``draft_tree``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genrec_fast.base.checks import sequence
from genrec_fast.base.errors import InvalidValueError, door
from genrec_fast.ops._drafts import check_row_parents, require_shapes
from genrec_fast.ops._registry import core, define
from genrec_fast.ops.reference.draft_tree import draft_tree as _twin


class DraftTree(NamedTuple):
    """The prefixes that each user's network is to read, in one pass of ``TreeSession.extend_tree``.

    ``nodes`` int32, ``parents`` int64, ``codes`` int32 and ``levels`` int64, all ``[B, n]``: a user's first
    ``counts[b]`` are prefixes, level below level, those behind hold -1, 0, -1 and 0; n is the most that a user has.
    ``parents`` are numbers of rows: row r < R was read before, row R + i is number i of this tree. ``counts`` int64
    ``[B]``. ``numbers``: of each level int64 ``[B, n_d]``, the row of each drafted prefix; -1 where there is none.
    """

    nodes: Tensor
    parents: Tensor
    codes: Tensor
    levels: Tensor
    counts: Tensor
    numbers: tuple[Tensor, ...]


@door
def draft_tree(
    row_parents: Tensor,
    row_codes: Tensor,
    above: Tensor,
    levels: Tensor,
    nodes: Sequence[Tensor],
    parents: Sequence[Tensor],
    codes: Sequence[Tensor],
) -> DraftTree:
    """Keeps the levels of a draft's beam search as a tree, without the prefixes that were read before.

    ::

        for each user, for level, for prefix of the level (node >= 0):
            row = the one that wrote its code behind the row of its parent, if one did
            else the next new row, behind that row

    Users stand at levels of their own, and have as many new rows as they have.

    Args:
        row_parents: int64 ``[B, R]``: of each row that was read, the row that it extends.
        row_codes: int32 ``[B, R]``: what it wrote; -1: it is not looked up (a prompt, or no row).
        above: int64 ``[B, A]``: rows, which ``parents[0]`` stands for.
        levels: int64 ``[B]``: of the first level's codes.
        nodes: level below level, int32 ``[B, n_d]``: nodes of the trie; -1: no prefix.
        parents: likewise int64: places in the level above, of the first level in ``above``.
        codes: likewise int32: the prefixes' last codes.

    Returns:
        ``DraftTree``. Of rows that wrote the same, the first is found; prefixes of a level that are equal are rows of
        their own.

    Raises:
        InvalidTypeError: an argument of another kind or dtype.
        InvalidValueError: a shape or a device that does not fit, lists of different lengths, a parent that is no
            prefix, a code below 0, or a row's parent outside.

    Notes:
        One thread, microseconds: a look-up takes as many steps as there are rows behind its parent. Equal bits on every
        instruction set. Not differentiable.

    Source: AtSpeed (arXiv:2410.05165), section 3.1 (tree attention); rows that stay known are ours.

    Example:
        >>> import torch
        >>> from genrec_fast.ops import draft_tree
        >>> root = torch.tensor([[0]]), torch.tensor([[-1]], dtype=torch.int32)  # the prompt
        >>> first = torch.tensor([[4, 7]], dtype=torch.int32), torch.tensor([[0, 0]])
        >>> tree = draft_tree(*root, torch.tensor([[0]]), torch.tensor([0]), first[:1], first[1:], first[:1])
        >>> tree.parents.tolist(), tree.codes.tolist(), tree.numbers[0].tolist()
        ([[0, 0]], [[4, 7]], [[1, 2]])
    """
    op = "draft_tree"
    lists = {"nodes": nodes, "parents": parents, "codes": codes}
    given = {name: sequence(op, name, value) for name, value in lists.items()}
    if len({len(value) for value in given.values()}) != 1:
        got = ", ".join(f"{name} {len(value)}" for name, value in given.items())
        raise InvalidValueError(f"{op}: nodes, parents and codes must be of as many levels each, got {got}")
    tensors: dict[str, tuple[Any, torch.dtype, str]] = {
        "row_parents": (row_parents, torch.int64, "B R"),
        "row_codes": (row_codes, torch.int32, "B R"),
        "above": (above, torch.int64, "B A"),
        "levels": (levels, torch.int64, "B"),
    }
    for depth in range(len(given["nodes"])):
        for name, dtype in (("nodes", torch.int32), ("parents", torch.int64), ("codes", torch.int32)):
            tensors[f"{name}[{depth}]"] = given[name][depth], dtype, f"B n{depth}"
    require_shapes(op, tensors, {})
    arguments: Any = (row_parents, row_codes, above, levels, *(given[name] for name in lists))
    plain = all(type(value) is Tensor and value.is_cpu for value, _, _ in tensors.values())
    found: Any = (_cpu if plain and not torch.compiler.is_compiling() else _op)(*arguments)
    *rows, counts, numbers = found
    most = int(counts.max()) if counts.numel() else 0
    widths = [part.shape[1] for part in given["nodes"]]
    node, parent, code, level = (part[:, :most] for part in rows)
    return DraftTree(node, parent, code, level, counts, tuple(numbers.split(widths, 1)) if widths else ())


def _outputs(row_codes: Tensor, levels: Tensor, nodes: Sequence[Tensor]) -> tuple[Tensor, ...]:
    shape = len(row_codes), sum(part.shape[1] for part in nodes)
    found, number = row_codes.new_empty(shape), levels.new_empty(shape)
    many = torch.empty_like(number), torch.empty_like(found), torch.empty_like(number)
    return found, *many, torch.empty_like(levels), number


def _cpu(
    row_parents: Tensor,
    row_codes: Tensor,
    above: Tensor,
    levels: Tensor,
    nodes: Sequence[Tensor],
    parents: Sequence[Tensor],
    codes: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    out = _outputs(row_codes, levels, nodes)
    core.draft_tree(row_parents, row_codes, above, levels, nodes, parents, codes, *out)
    return out


def _check(row_parents: Tensor, row_codes: Tensor) -> None:
    check_row_parents("draft_tree", row_parents, row_codes)


_op = define(
    "draft_tree(Tensor row_parents, Tensor row_codes, Tensor above, Tensor levels, Tensor[] nodes, Tensor[] parents,"
    " Tensor[] codes) -> (Tensor nodes, Tensor parents, Tensor codes, Tensor levels, Tensor counts, Tensor numbers)",
    kernels={"cpu": _cpu},
    twin=_twin,
    fake=_outputs,
    check=_check,
)
