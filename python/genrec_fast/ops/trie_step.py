"""One level of a trie-constrained beam search in one call (contract: ``trie_step``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genrec_fast.base.checks import INT64, choice, require_room, require_tensors, whole_number
from genrec_fast.base.errors import GenrecError, InvalidTypeError, InvalidValueError, refusal
from genrec_fast.base.jagged import Jagged
from genrec_fast.ops import _cuda
from genrec_fast.ops._cuda_trie_step import trie_step_on_card
from genrec_fast.ops._registry import core, define
from genrec_fast.ops._trie_arguments import num_levels, require_levels
from genrec_fast.ops.reference.trie_step import log_sum_exp
from genrec_fast.ops.reference.trie_step import trie_step as _reference
from genrec_fast.ops.trie_filter import CatalogTrie, TrieFilter, trie_filter

_NORMALIZE = ("all", "valid")
_MANY = 1 << 20  # beams: below, no result is too large for a machine
_FLOATS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # dtype -> LogitType of csrc/ops/trie/trie_step.h


class TrieStep(NamedTuple):
    """The beams after one level, best first.

    ``scores`` float32, ``codes``, ``parents``, ``nodes`` int32, all ``[B, num_beams]``; slots behind the last valid
    candidate hold score -inf, node -1, code 0, parent 0. ``bound`` float32 ``[B]``: the best score among the valid
    candidates that were not kept, -inf if none: no descendant of anything pruned here can score higher.
    """

    scores: Tensor
    codes: Tensor
    parents: Tensor
    nodes: Tensor
    bound: Tensor


def trie_step(
    trie: CatalogTrie,
    level: int,
    logits: Tensor,
    nodes: Tensor,
    scores: Tensor,
    *,
    num_beams: int,
    normalize: str = "all",
    log_sums: Tensor | None = None,
    allowed: Tensor | TrieFilter | None = None,
    exclude: Jagged | None = None,
) -> TrieStep:
    """Extends every beam by one code that the trie allows and keeps the best: log-softmax, mask, top-k, advance.

    For each user::

        for beam with node >= 0, for child (code, edge) of its node that passes the filter:
            score = scores[beam] + (logits[beam, code] - logsumexp(logits[beam]))
        keep the num_beams best; ties go to the lower beam * K + code

    The search starts with nodes = zeros ``[B, 1]`` (the root) and scores = zeros ``[B, 1]``.

    Args:
        trie: the catalog.
        level: level of the codes to choose, in ``[0, L)``.
        logits: float32, bfloat16 or float16 ``[B, W, K]``, K = ``codebook_sizes[level]``; a slice of a larger head is
            read in place if its last stride is 1. -inf masks a code. Rows of dead beams are never looked at.
        nodes: int32 ``[B, W]``: node of each beam within this level, -1 = no beam.
        scores: float32 ``[B, W]``: summed log-probabilities (natural log) so far; -inf = no beam.
        num_beams: beams to keep per user, at least 1.
        normalize: "all": log-softmax over the K logits (the score of HF's beam search); "valid": over the children
            that pass the filter.
        log_sums: float32 ``[B, W]``: what is subtracted from a beam's logits in the place of their own log-sum-exp, as
            where the K logits are part of a larger vocabulary; with "all". One below a beam's highest logit counts as
            that logit: no score rises above its beam's.
        allowed: a prepared ``TrieFilter``, or what ``trie_filter`` takes (prepare it once per search).
        exclude: see ``trie_filter``; not together with a prepared filter.

    Returns:
        A ``TrieStep``; its ``nodes`` belong to level + 1, or are rows of the catalog after the last level.

    Raises:
        InvalidTypeError: an argument of another kind or dtype than the above.
        InvalidValueError: level, a shape, a device, num_beams or normalize is wrong; a trie whose tensors do not fit
            together; a filter of another trie; a node is outside its level; a live beam has a NaN or +inf logit, score
            or log-sum; W * K reaches 2^32. A card cannot raise for a node or a number: all beams of such a user come
            back as node -2, which the next level refuses again, code 0, parent 0 and score NaN, its bound as +inf.
        UnsupportedError: not enough memory for num_beams.

    Notes:
        Cost: each live row of logits is read once from memory (two passes in cache); children are gathered or, where
        a node has many, the row is scanned against the running threshold. Equal inputs give equal bits on every
        instruction set, number of threads and card. logit - logsumexp is never above 0, so a prefix scores at least as
        high as all that follows it: the certificate of an exact search. Not differentiable.

    Source: ours; the scores of "all" are those of Hugging Face's constrained beam search.

    Example:
        >>> import torch
        >>> from genrec_fast.catalog.trie import build_trie
        >>> trie = build_trie(torch.tensor([[0, 1], [0, 2], [3, 1]]))
        >>> start = torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, 1)
        >>> step = trie_step(trie, 0, torch.tensor([[[0.5, 9.0, 9.0, 1.0]]]), *start, num_beams=3)
        >>> step.codes.tolist(), step.nodes.tolist()
        ([[3, 0, 0]], [[1, 0, -1]])
    """
    if hasattr(trie, "own_step"):  # one whose items have changed since it was built
        beams: Any = {"num_beams": num_beams, "normalize": normalize, "log_sums": log_sums}
        return _own_step(trie, level, logits, nodes, scores, beams, allowed, exclude)
    try:
        # What costs a microsecond stands in functions that are called only where something is out of the ordinary.
        if type(level) is not int or not -9 < level < 9:
            level = whole_number("trie_step", "level", level, *INT64)
        if type(num_beams) is not int or not 1 <= num_beams < 1 << 31:
            num_beams = whole_number("trie_step", "num_beams", num_beams, 1, 2**31 - 1)
        # The way through the dispatcher costs 8 us, as much as a small step: plain CPU tensors take the direct one.
        plain = type(logits) is type(nodes) is type(scores) is Tensor
        direct = plain and logits.is_cpu and nodes.is_cpu and scores.is_cpu
        direct = direct and not (torch.compiler.is_compiling() or _cuda.emulates())
        levels = len(trie.codebook_sizes)
        if not direct:
            require_levels("trie_step", trie)
            require_tensors("trie_step", trie.tokens[0].device, logits=logits, nodes=nodes, scores=scores)
            _require_beams(logits, nodes, scores)
        if not 0 <= level < levels:
            raise InvalidValueError(f"trie_step: level must be in [0, {levels}), got {level}")
        size = trie.codebook_sizes[level]
        given = logits.shape
        if len(given) != 3 or given[2] != size:
            _require_floats(logits)
            raise InvalidValueError(f"trie_step: logits must be [B, W, {size}] at level {level}, got {list(given)}")
        users, beams, _ = given
        if beams * size >= 1 << 32:
            raise InvalidValueError(f"trie_step: W * K must be below 2^32, got {beams} * {size}")
        if type(normalize) is not str or normalize not in _NORMALIZE:
            choice("trie_step", "normalize", normalize, _NORMALIZE)
        if log_sums is not None:
            require_tensors("trie_step", trie.tokens[0].device, log_sums=log_sums)
            if log_sums.dtype != torch.float32 or log_sums.shape != given[:2]:
                raise InvalidValueError(
                    f"trie_step: log_sums must be float32 [{users}, {beams}] like logits, got {_describe(log_sums)}"
                )
            if normalize != "all":
                raise InvalidValueError(f"trie_step: log_sums must be None with normalize={normalize!r}, got a tensor")
        if not isinstance(allowed, TrieFilter):
            chosen = (
                None if allowed is None and exclude is None else trie_filter(trie, allowed=allowed, exclude=exclude)
            )
        elif exclude is None:
            chosen = allowed
        else:
            raise InvalidValueError("trie_step: exclude must be part of the prepared filter, got both")
        if chosen is None:
            last = level + 1  # only a filter looks further down
            masks: tuple[Tensor | None, ...] = (None, None, None, None)
        else:
            last = levels
            masks = (chosen.bits, chosen.ranks, chosen.excluded, chosen.excluded_offsets)
            chosen.require_trie(trie)
            if chosen.num_users not in (None, users):
                raise InvalidValueError(
                    f"trie_step: allowed and exclude must be for {users} users like logits, got {chosen.num_users}"
                )
        try:
            found = (_cpu if direct else _op)(
                logits,
                nodes,
                scores,
                trie.tokens[level:last],
                trie.child_bases[level:last],
                trie.child_deltas[level:last],
                num_beams,
                normalize == "valid",
                log_sums,
                *masks,
            )
        except GenrecError:
            _require_beams(logits, nodes, scores)  # in the words of this function, if that is what the kernel refuses
            raise
        return TrieStep._make(found)
    except (RuntimeError, AttributeError, TypeError, LookupError, ValueError) as error:
        # Something else than a trie lacks these fields, and a sparse or nested tensor has no size or address for torch:
        # which of them it was is only looked at now.
        if isinstance(error, GenrecError):
            raise
        num_levels("trie_step", trie)
        require_tensors("trie_step", None, logits=logits, nodes=nodes, scores=scores)
        raise refusal("trie_step", error) from error


def valid_log_sums(logits: Tensor, valid: Tensor) -> Tensor:
    """What ``normalize="valid"`` takes from each beam's logits, with its bits: for valid children of several tries.

    Args:
        logits: ``[B, W, K]``.
        valid: bool, same shape: the children that pass the filter.

    Returns:
        float32 ``[B, W]``; -inf where nothing is valid, or all of it is masked.
    """
    # The lanes of the sum run over the children in the order of their codes, without gaps.
    most = int(valid.sum(-1).max()) if valid.numel() else 0
    order = torch.sort((~valid).to(torch.uint8), dim=-1, stable=True).indices[..., :most]
    return log_sum_exp(logits.float().where(valid, -torch.inf).gather(-1, order))


def _own_step(
    trie: Any, level: int, logits: Tensor, nodes: Tensor, scores: Tensor, beams: Any, allowed: Any, exclude: Any
) -> TrieStep:
    """Checks what the steps of the trie's parts cannot."""
    level = whole_number("trie_step", "level", level, *INT64)
    beams["num_beams"] = whole_number("trie_step", "num_beams", beams["num_beams"], 1, 2**31 - 1)
    require_tensors("trie_step", trie.device, logits=logits, nodes=nodes, scores=scores)
    if not 0 <= level < trie.num_levels:
        raise InvalidValueError(f"trie_step: level must be in [0, {trie.num_levels}), got {level}")
    size = trie.codebook_sizes[level]
    _require_floats(logits)
    if logits.dim() != 3 or logits.shape[2] != size:
        raise InvalidValueError(f"trie_step: logits must be [B, W, {size}] at level {level}, got {list(logits.shape)}")
    _require_beams(logits, nodes, scores)
    choice("trie_step", "normalize", beams["normalize"], _NORMALIZE)
    if beams["log_sums"] is not None and beams["normalize"] != "all":
        raise InvalidValueError("trie_step: log_sums must be None with normalize='valid', got a tensor")
    if isinstance(allowed, TrieFilter) and exclude is not None:
        raise InvalidValueError("trie_step: exclude must be part of the prepared filter, got both")
    if not isinstance(allowed, TrieFilter) and not (allowed is None and exclude is None):
        allowed = trie_filter(trie, allowed=allowed, exclude=exclude)
    found: TrieStep = trie.own_step(level, logits, nodes, scores, allowed=allowed, **beams)
    return found


def _require_floats(logits: Tensor) -> None:
    if logits.dtype not in _FLOATS:
        raise InvalidTypeError(f"trie_step: logits must be float32, bfloat16 or float16, got {_describe(logits)}")


def _require_beams(logits: Tensor, nodes: Tensor, scores: Tensor) -> None:
    _require_floats(logits)
    if nodes.dtype != torch.int32:
        raise InvalidTypeError(f"trie_step: nodes must be int32 [B, W], got {_describe(nodes)}")
    if scores.dtype != torch.float32:
        raise InvalidTypeError(f"trie_step: scores must be float32 [B, W], got {_describe(scores)}")
    for name, tensor in (("nodes", nodes), ("scores", scores)):
        if tensor.shape != logits.shape[:2]:
            shape = list(logits.shape[:2])
            raise InvalidValueError(f"trie_step: {name} must be {shape} like logits, got {list(tensor.shape)}")


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


class _Levels(NamedTuple):
    """The levels of a trie from the one in question on: what the op is given."""

    codebook_sizes: tuple[int, ...]
    tokens: tuple[Tensor, ...]
    child_bases: tuple[Tensor, ...]
    child_deltas: tuple[Tensor, ...]


_Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # as in TrieStep


def _cpu(
    logits: Tensor,
    nodes: Tensor,
    scores: Tensor,
    tokens: Sequence[Tensor],
    child_bases: Sequence[Tensor],
    child_deltas: Sequence[Tensor],
    num_beams: int,
    valid_only: bool,
    log_sums: Tensor | None,
    bits: Tensor | None,
    ranks: Tensor | None,
    excluded: Tensor | None,
    excluded_offsets: Tensor | None,
) -> _Outputs:
    users = scores.shape[0]
    if users * num_beams > _MANY:
        require_room("trie_step", "nodes", (4, users, num_beams))
    out = _outputs(scores, nodes, num_beams)
    # Without names, unlike the other ops: called once per level of every search.
    core.trie_step(
        logits,
        nodes,
        scores,
        tokens,
        child_bases,
        child_deltas,
        valid_only,
        log_sums,
        bits,
        ranks,
        excluded,
        excluded_offsets,
        *out,
        torch.get_num_threads(),
    )
    return out


def _twin(
    logits: Tensor,
    nodes: Tensor,
    scores: Tensor,
    tokens: Sequence[Tensor],
    child_bases: Sequence[Tensor],
    child_deltas: Sequence[Tensor],
    num_beams: int,
    valid_only: bool,
    **filters: Tensor | None,
) -> _Outputs:
    levels = _Levels((0,) * len(tokens), tuple(tokens), tuple(child_bases), tuple(child_deltas))
    return _reference(levels, 0, logits, nodes, scores, num_beams, valid_only, **filters)


def _check(
    logits: Tensor, nodes: Tensor, scores: Tensor, child_deltas: Sequence[Tensor], log_sums: Tensor | None
) -> None:
    last = child_deltas[0].numel() - 2
    refuse_beams((nodes < -1) | (nodes > last), f"nodes must be -1 or in [0, {last}]", nodes)
    live = (nodes >= 0) & (scores != -torch.inf)
    refuse_beams((nodes >= 0) & ~(scores < torch.inf), "scores must not be NaN or +inf", scores)
    highest = logits.float().amax(-1)
    refuse_beams(live & ~(highest < torch.inf), "logits must not be NaN or +inf", highest)
    if log_sums is not None:
        named = live & (highest > -torch.inf)
        refuse_beams(named & ~(log_sums < torch.inf), "log_sums must not be NaN or +inf", log_sums)


def refuse_beams(wrong: Tensor, rule: str, values: Tensor) -> None:
    """Raises for the first of ``wrong [B, W]``, naming its value."""
    if bool(wrong.any()):
        user, beam = wrong.nonzero()[0].tolist()
        raise InvalidValueError(f"trie_step: {rule}, got {values[user, beam].item()} for user {user}, beam {beam}")


def _outputs(scores: Tensor, nodes: Tensor, num_beams: int) -> _Outputs:
    shape = scores.shape[0], num_beams
    if scores.shape == shape == nodes.shape and scores.is_contiguous() and nodes.is_contiguous():
        best, codes = torch.empty_like(scores), torch.empty_like(nodes)  # 0.4 us less than by a shape, each
    else:
        best, codes = scores.new_empty(shape), nodes.new_empty(shape)
    return best, codes, torch.empty_like(codes), torch.empty_like(codes), scores.new_empty(shape[0])


_op = define(
    "trie_step(Tensor logits, Tensor nodes, Tensor scores, Tensor[] tokens, Tensor[] child_bases,"
    " Tensor[] child_deltas, int num_beams, bool valid_only, Tensor? log_sums, Tensor? bits, Tensor? ranks,"
    " Tensor? excluded, Tensor? excluded_offsets)"
    " -> (Tensor scores, Tensor codes, Tensor parents, Tensor nodes, Tensor bound)",
    kernels={"cpu": _cpu, "cuda": trie_step_on_card},
    twin=_twin,
    fake=_outputs,
    check=_check,
)
