"""How far a target's own search goes on what was drafted, in one call (contract: ``draft_verify``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genrec_fast.base.checks import choice, numbers, shown
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, door
from genrec_fast.ops._drafts import check_numbers, check_row_parents, require_shapes
from genrec_fast.ops._registry import core, define, twins
from genrec_fast.ops._search_call import described, masks_of
from genrec_fast.ops._trie_arguments import require_levels
from genrec_fast.ops.reference.draft_verify import draft_verify as _reference
from genrec_fast.ops.trie_filter import CatalogTrie, TrieFilter
from genrec_fast.ops.trie_step import trie_step

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


class DraftRows(NamedTuple):
    """Every row that a network has read, and what it says of the next level.

    ``parents`` int64 ``[B, R]``: the row that each extends. ``codes`` int32 ``[B, R]``: what it wrote; -1: it is not
    looked up. ``logits`` float32, bfloat16 or float16 ``[B, R, K]``, K the largest codebook. ``log_sums`` float32
    ``[B, R]``: see ``trie_step``; ``None``: of the logits themselves.
    """

    parents: Tensor
    codes: Tensor
    logits: Tensor
    log_sums: Tensor | None = None


class DraftBeams(NamedTuple):
    """Where each user's search stands; a slot without a beam has node -1, score -inf and codes 0.

    ``levels`` int64 ``[B]``: codes that were written. ``nodes`` int32 and ``scores`` float32 ``[B, W]``: as in
    ``trie_step``. ``codes`` int32 ``[B, W, L]``. ``above`` int64 ``[B, W]``: the row from which each beam was chosen.
    ``numbers`` int64 ``[B, W]``: the row that wrote its last code; -1: it was not read. ``bound`` float32 ``[B]``: the
    best score among what was pruned.
    """

    levels: Tensor
    nodes: Tensor
    scores: Tensor
    codes: Tensor
    above: Tensor
    numbers: Tensor
    bound: Tensor

    def select(self, users: Tensor) -> DraftBeams:
        """Of users int64 ``[m]``."""
        return DraftBeams(*(part[users] for part in self))


_BEAMS = {
    "levels": (torch.int64, "B"),
    "nodes": (torch.int32, "B W"),
    "scores": (torch.float32, "B W"),
    "codes": (torch.int32, "B W L"),
    "above": (torch.int64, "B W"),
    "numbers": (torch.int64, "B W"),
    "bound": (torch.float32, "B"),
}


@door
def draft_verify(
    trie: CatalogTrie,
    rows: DraftRows,
    standing: DraftBeams,
    *,
    num_beams: Sequence[int],
    normalize: str = "all",
    widths: Tensor | None = None,
    allowed: TrieFilter | None = None,
) -> DraftBeams:
    """Compares a target's own best beams with what was drafted, and goes down for as long as all of them were.

    ::

        for each user:
            while the user is not at the end, and all his beams are rows that were read:
                beams = the num_beams best of their children (trie_step, of the target's logits), one level further
                number of each = the row that wrote its code behind its parent's row, if one did

    So a user whose next d levels were drafted with all of the target's beams gains d + 1 levels: d accepted ones, and
    the bonus level, which is known and not read. The survivors are the target's own beams, whatever was drafted.

    Args:
        trie: the catalog.
        rows: what the target has read.
        standing: where the searches stand; users need not be at one level.
        num_beams: beams to keep, for each of the L levels, in ``[1, W]``.
        normalize: as ``trie_step``.
        widths: int64 ``[B]``: each user's own number of beams; the others are cut and count in the bound.
        allowed: a prepared filter.

    Returns:
        The beams behind the last level that each user reached, in slots of W.

    Raises:
        InvalidTypeError: an argument of another kind or dtype.
        InvalidValueError: a shape, a device or a number that does not fit; a node, score or logit: as
            ``trie_step``, by whose name the message begins.

    Notes:
        The cost of ``trie_step`` for each level that somebody gains, and a copy of the beams' logits. Equal bits on
        every instruction set and for any number of threads: those of ``trie_step`` level by level. Not differentiable.

    Source: AtSpeed (arXiv:2410.05165), section 3.1, strict; users of a batch at levels of their own are ours.

    Example:
        >>> import torch
        >>> from genrec_fast.catalog.trie import build_trie
        >>> from genrec_fast.ops import DraftBeams, DraftRows, draft_verify
        >>> trie = build_trie([[0, 1], [1, 0]], codebook_sizes=(2, 2))
        >>> logits = torch.tensor([[[0.0, 2.0], [5.0, 0.0]]])  # behind the prompt, and behind the draft: code 1
        >>> rows = DraftRows(torch.tensor([[0, 0]]), torch.tensor([[-1, 1]], dtype=torch.int32), logits)
        >>> number, node = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int32)
        >>> start = number[0], node, torch.zeros(1, 1), torch.zeros(1, 1, 2).int(), number, number, torch.zeros(1)
        >>> found = draft_verify(trie, rows, DraftBeams(*start), num_beams=(1, 1))
        >>> found.levels.tolist(), found.codes.tolist()
        ([2], [[[1, 0]]])
    """
    op = "draft_verify"
    own = hasattr(trie, "own_step")  # one whose items have changed since it was built
    sizes = list(trie.codebook_sizes) if own else require_levels(op, trie)
    for name, value, kind in (("rows", rows, DraftRows), ("standing", standing, DraftBeams)):
        if not isinstance(value, kind):
            raise InvalidTypeError(f"{op}: {name} must be {kind.__name__}, got {shown(value)}")
    _require(op, rows, standing, widths, len(sizes))
    beams_at = numbers(op, "num_beams", num_beams, 1, 2**31 - 1)
    choice(op, "normalize", normalize, ("all", "valid"))
    if rows.log_sums is not None and normalize == "valid":
        raise InvalidValueError(f"{op}: log_sums must be None with normalize='valid', got a tensor")
    _check_counts(op, beams_at, standing, rows, sizes)
    users = len(standing.levels)
    if own:

        def step(level: int, logits: Tensor, nodes: Tensor, scores: Tensor, most: int, sums: Tensor | None) -> Any:
            settings: Any = {"num_beams": most, "normalize": normalize, "log_sums": sums, "allowed": allowed}
            return trie_step(trie, level, logits, nodes, scores, **settings)

        _check(rows.parents, rows.codes, standing.levels, standing.numbers, sizes)
        return DraftBeams(*_reference(step, rows, standing, beams_at, sizes, widths))
    masks = masks_of(op, trie, allowed, users)
    if trie.tokens[0].device != standing.levels.device:
        raise InvalidValueError(
            f"{op}: standing must be on {trie.tokens[0].device} like the trie, got {standing.levels.device}"
        )
    levels = (list(part) for part in (trie.tokens, trie.child_bases, trie.child_deltas))
    plain = all(type(part) is Tensor and part.is_cpu for part in (*rows[:3], *standing))
    run = _cpu if plain and not torch.compiler.is_compiling() else _op
    return DraftBeams(*run(*rows, *standing, widths, sizes, *levels, beams_at, normalize == "valid", *masks))


def _require(op: str, rows: DraftRows, beams: DraftBeams, widths: Tensor | None, levels: int) -> None:
    given: dict[str, tuple[Any, torch.dtype, str]] = {
        "row_parents": (rows.parents, torch.int64, "B R"),
        "row_codes": (rows.codes, torch.int32, "B R"),
    }
    kind = getattr(rows.logits, "dtype", torch.float32)
    if kind not in _FLOATS:
        raise InvalidTypeError(f"{op}: logits must be float32, bfloat16 or float16, got {described(rows.logits)}")
    given["logits"] = (rows.logits, kind, "B R K")
    if rows.log_sums is not None:
        given["log_sums"] = (rows.log_sums, torch.float32, "B R")
    given |= {name: (getattr(beams, name), *form) for name, form in _BEAMS.items()}
    if widths is not None:
        given["widths"] = (widths, torch.int64, "B")
    require_shapes(op, given, {"L": levels})


def _check_counts(op: str, num_beams: list[int], beams: DraftBeams, rows: DraftRows, sizes: list[int]) -> None:
    width, codes = beams.nodes.shape[1], rows.logits.shape[2]
    if len(num_beams) != len(sizes):
        raise InvalidValueError(f"{op}: num_beams must have {len(sizes)} numbers, one a level, got {len(num_beams)}")
    if max(num_beams) > width:
        raise InvalidValueError(f"{op}: num_beams must be at most the {width} slots of beams, got {max(num_beams)}")
    if codes < max(sizes):
        raise InvalidValueError(f"{op}: logits must have {max(sizes)} codes, the largest codebook, got {codes}")


def _outputs(
    levels: Tensor, nodes: Tensor, scores: Tensor, codes: Tensor, above: Tensor, numbers: Tensor, bound: Tensor
) -> tuple[Tensor, ...]:
    beams = levels, nodes, scores, codes, above, numbers, bound
    return tuple(part.clone(memory_format=torch.contiguous_format) for part in beams)


_ARGUMENTS = (
    "Tensor row_parents, Tensor row_codes, Tensor logits, Tensor? log_sums, Tensor levels, Tensor nodes, Tensor scores,"
    " Tensor codes, Tensor above, Tensor numbers, Tensor bound, Tensor? widths, int[] codebook_sizes, Tensor[] tokens,"
    " Tensor[] child_bases, Tensor[] child_deltas, int[] num_beams, bool valid_only, Tensor? bits, Tensor? ranks,"
    " Tensor? excluded, Tensor? excluded_offsets"
)


def _cpu(*values: Any) -> tuple[Tensor, ...]:
    """The kernel goes on from the beams in their place."""
    rows, out, others = values[:4], _outputs(*values[4:11]), values[11:]
    core.draft_verify(*rows, *out, *others, num_threads=torch.get_num_threads())
    return out


def _twin(
    row_parents: Tensor,
    row_codes: Tensor,
    logits: Tensor,
    log_sums: Tensor | None,
    tokens: Sequence[Tensor],
    child_bases: Sequence[Tensor],
    child_deltas: Sequence[Tensor],
    codebook_sizes: list[int],
    num_beams: list[int],
    valid_only: bool,
    **others: Any,
) -> tuple[Tensor, ...]:
    masks = [others[name] for name in ("bits", "ranks", "excluded", "excluded_offsets")]

    def step(level: int, logits: Tensor, nodes: Tensor, scores: Tensor, most: int, sums: Tensor | None) -> Any:
        parts = tokens[level:], child_bases[level:], child_deltas[level:]
        return twins["trie_step"](logits, nodes, scores, *parts, most, valid_only, sums, *masks)

    beams = tuple(others[name] for name in _BEAMS)
    rows = row_parents, row_codes, logits, log_sums
    return _reference(step, rows, beams, num_beams, codebook_sizes, others["widths"])


def _check(
    row_parents: Tensor, row_codes: Tensor, levels: Tensor, numbers: Tensor, codebook_sizes: Sequence[int]
) -> None:
    check_row_parents("draft_verify", row_parents, row_codes)
    check_numbers("draft_verify", "levels", levels, 0, len(codebook_sizes))
    check_numbers("draft_verify", "numbers", numbers, -1, row_codes.shape[1] - 1)


_op = define(
    f"draft_verify({_ARGUMENTS}) -> (Tensor levels, Tensor nodes, Tensor scores, Tensor codes, Tensor above,"
    " Tensor numbers, Tensor bound)",
    kernels={"cpu": _cpu},
    twin=_twin,
    fake=_outputs,
    check=_check,
)
