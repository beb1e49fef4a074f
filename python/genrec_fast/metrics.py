"""How good answers are: one relevant item per user, yes or no, and how well semantic IDs use their codebooks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.checks import INTEGERS, check_dense, check_integers, shown, whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError


def _integers(op: str, name: str, value: Any, dims: int, shape: str) -> None:
    if not isinstance(value, Tensor) or value.dtype not in INTEGERS:
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise InvalidTypeError(f"{op}: {name} must be an integer tensor {shape}, got {got}")
    check_integers(op, name, value, shape)
    if value.dim() != dims:
        raise InvalidValueError(f"{op}: {name} must be {shape}, got {list(value.shape)}")


def _check(op: str, items: Tensor, targets: Tensor, k: int) -> None:
    _integers(op, "items", items, 2, "[B, k]")
    _integers(op, "targets", targets, 1, "[B]")
    if items.shape[0] != targets.shape[0]:
        raise InvalidValueError(
            f"{op}: targets must be [{items.shape[0]}] as items has that many rows, got {list(targets.shape)}"
        )
    if targets.numel() == 0:
        raise InvalidValueError(f"{op}: targets must have at least one row, got none")
    if bool((targets < 0).any()):
        raise InvalidValueError(f"{op}: targets must be item ids from 0, got {int(targets.min())}")
    if not 1 <= whole_number(op, "k", k, least=0) <= items.shape[1]:
        raise InvalidValueError(f"{op}: k must be in [1, {items.shape[1]}], got {k}")


def ranks(items: Tensor, targets: Tensor) -> Tensor:
    """Place of each target in its list.

    Args:
        items: integer ``[B, k]``, best first; -1 where there is no result. Where an item stands twice, its first place
            counts.
        targets: integer ``[B]``.

    Returns:
        int64 ``[B]``, from 0; k where the target is not in the list.
    """
    _integers("ranks", "items", items, 2, "[B, k]")
    _check("ranks", items, targets, items.shape[1])
    hit = items == targets[:, None]
    return torch.where(hit.any(1), hit.to(torch.int8).argmax(1), items.shape[1])


def recall(items: Tensor, targets: Tensor, k: int) -> float:
    """Share of users whose target is among the first k.

    Args:
        items: integer ``[B, >= k]``, best first; -1 where there is no result.
        targets: integer ``[B]``.
        k: from 1 to the width of ``items``.

    Raises:
        InvalidTypeError: not integers.
        InvalidValueError: shapes or k that do not fit, no rows, or a negative target.

    Example:
        >>> recall(torch.tensor([[3, 1, 2], [0, 4, -1]]), torch.tensor([1, 5]), k=2)
        0.5
    """
    _check("recall", items, targets, k)
    return float((ranks(items, targets) < k).double().mean())


def ndcg(items: Tensor, targets: Tensor, k: int) -> float:
    """Mean of 1 / log2(rank + 2), rank from 0, and 0 beyond the first k: NDCG with one relevant item.

    Arguments and errors as ``recall``.
    """
    _check("ndcg", items, targets, k)
    rank = ranks(items, targets)
    gain = 1.0 / torch.log2(rank.double() + 2.0)
    return float(torch.where(rank < k, gain, 0.0).mean())


def mrr(items: Tensor, targets: Tensor, k: int) -> float:
    """Mean of 1 / (rank + 1), rank from 0, and 0 beyond the first k: the reciprocal rank.

    Arguments and errors as ``recall``.
    """
    _check("mrr", items, targets, k)
    rank = ranks(items, targets)
    return float(torch.where(rank < k, 1.0 / (rank.double() + 1.0), 0.0).mean())


def coverage(items: Tensor, num_items: int) -> float:
    """Share of the catalog's N items that stand in some list.

    Args:
        items: integer ``[B, k]``, ids below N; -1 where there is no result.
        num_items: N.

    Raises:
        InvalidTypeError: not integers.
        InvalidValueError: not ``[B, k]``, or an id beyond the catalog.

    Source: catalog coverage, Herlocker et al., "Evaluating collaborative filtering recommender systems", TOIS 2004.
    """
    _integers("coverage", "items", items, 2, "[B, k]")
    count = whole_number("coverage", "num_items", num_items)
    if items.numel() and int(items.max()) >= count:
        raise InvalidValueError(f"coverage: items must be ids below {count}, got {int(items.max())}")
    return int(torch.unique(items[items >= 0]).numel()) / count


def novelty(items: Tensor, counts: Tensor) -> float:
    """Mean of -log2 p(item) over the slots that hold an item, in bits: how little known the recommended items are.

    ``p(item) = count / sum of counts``, the item's share of the training events; an item that training never saw is
    taken for one that was seen once.

    Args:
        items: integer ``[B, k]``, ids below N; -1 where there is no result.
        counts: integer ``[N]``: training events of each item, at least one in all.

    Returns:
        Bits; NaN where no slot holds an item.

    Raises:
        InvalidTypeError: not integers.
        InvalidValueError: other shapes, an id beyond the catalog, negative counts or no event.

    Source: mean self-information, Zhou et al., PNAS 107 (2010), "Solving the apparent diversity-accuracy dilemma of
        recommender systems", equation 8; with shares of events, Vargas and Castells, RecSys 2011, section 4.1.
    """
    _integers("novelty", "items", items, 2, "[B, k]")
    _integers("novelty", "counts", counts, 1, "[N]")
    total = int(counts.sum())
    if counts.numel() == 0 or int(counts.min()) < 0 or total < 1:
        raise InvalidValueError("novelty: counts must be numbers from 0 with an event in all, got others")
    if items.numel() and int(items.max()) >= counts.numel():
        raise InvalidValueError(f"novelty: items must be ids below {counts.numel()}, got {int(items.max())}")
    return float((total / counts[items[items >= 0].long()].clamp(min=1).double()).log2().mean())


def invalid_rate(items: Tensor) -> float:
    """Share of the slots of ``items`` (integer ``[B, k]``) that hold no item of the catalog (-1).

    Raises:
        InvalidTypeError: not integers.
        InvalidValueError: not ``[B, k]``, or empty.
    """
    _integers("invalid_rate", "items", items, 2, "[B, k]")
    if items.numel() == 0:
        raise InvalidValueError(f"invalid_rate: items must not be empty, got {list(items.shape)}")
    return float((items < 0).double().mean())


def _codes(op: str, item_codes: Tensor) -> None:
    _integers(op, "item_codes", item_codes, 2, "[N, L]")
    if item_codes.numel() == 0:
        raise InvalidValueError(f"{op}: item_codes must not be empty, got {list(item_codes.shape)}")


def collision_rate(item_codes: Tensor) -> float:
    """(N - number of different semantic IDs) / N of integer ``item_codes [N, L]``.

    Raises:
        InvalidTypeError: not integers.
        InvalidValueError: not ``[N, L]``, or empty.
    """
    _codes("collision_rate", item_codes)
    count = item_codes.shape[0]
    return (count - int(torch.unique(item_codes, dim=0).shape[0])) / count


def codebook_use(item_codes: Tensor, codebook_sizes: tuple[int, ...]) -> list[float]:
    """Per level, the share of its codes that some item has.

    Args:
        item_codes: integer ``[N, L]``.
        codebook_sizes: L sizes; every code of level l is in ``[0, codebook_sizes[l])``.

    Raises:
        InvalidTypeError: not integers.
        InvalidValueError: not ``[N, L]``, empty, L sizes not given, or a code outside its codebook.
    """
    _codes("codebook_use", item_codes)
    if not isinstance(codebook_sizes, (tuple, list)):
        raise InvalidTypeError(f"codebook_use: codebook_sizes must be a tuple of int, got {shown(codebook_sizes)}")
    codebook_sizes = tuple(whole_number("codebook_use", "codebook_sizes", size) for size in codebook_sizes)
    if len(codebook_sizes) != item_codes.shape[1]:
        raise InvalidValueError(
            f"codebook_use: codebook_sizes must give {item_codes.shape[1]} levels, got {len(codebook_sizes)}"
        )
    use = []
    for level, size in enumerate(codebook_sizes):
        used = torch.unique(item_codes[:, level])
        if int(used[0]) < 0 or int(used[-1]) >= size:
            wrong = int(used[0]) if int(used[0]) < 0 else int(used[-1])
            raise InvalidValueError(f"codebook_use: codes of level {level} must be in [0, {size}), got {wrong}")
        use.append(used.numel() / size)
    return use


def _answers(op: str, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    check_dense(op, "logits", logits)
    check_dense(op, "labels", labels)
    if not logits.is_floating_point() or labels.dtype != torch.bool:
        raise InvalidTypeError(
            f"{op}: logits must be float [M] and labels bool [M], got {logits.dtype} and {labels.dtype}"
        )
    if logits.dim() != 1 or logits.shape != labels.shape:
        raise InvalidValueError(
            f"{op}: logits and labels must be [M] and [M], got {list(logits.shape)} and {list(labels.shape)}"
        )
    if bool(logits.isnan().any()):
        raise InvalidValueError(f"{op}: logits must not be NaN, got NaN in row {int(logits.isnan().nonzero()[0])}")
    positive = int(labels.sum())
    if not 0 < positive < labels.numel():
        raise InvalidValueError(
            f"{op}: labels must hold both yes and no, got {positive} yes and {labels.numel() - positive} no"
        )
    return logits.double(), labels


def auc(logits: Tensor, labels: Tensor) -> float:
    """Chance that a random yes is scored above a random no, ties counting half: the area under the ROC curve.

    Args:
        logits: float ``[M]``, or any score that grows with the answer's probability.
        labels: bool ``[M]``, both answers among them.

    Raises:
        InvalidTypeError: other dtypes.
        InvalidValueError: shapes that do not fit, NaN, or only one answer.

    Example:
        >>> auc(torch.tensor([0.1, 0.4, 0.4, 0.9]), torch.tensor([False, True, False, True]))
        0.875
    """
    scores, wanted = _answers("auc", logits, labels)
    # A yes beats every lower no, and half of those that tie: the mean of its first and last place among all.
    _, place, count = torch.unique(scores, return_inverse=True, return_counts=True)
    middle = (count.cumsum(0).double() - (count.double() - 1) / 2)[place]  # mid-rank, from 1
    positive = int(wanted.sum())
    above = float(middle[wanted].sum()) - positive * (positive + 1) / 2
    return above / (positive * (wanted.numel() - positive))


def normalized_entropy(logits: Tensor, labels: Tensor) -> float:
    """Mean binary cross-entropy over that of always saying the share of yes; below 1 is better than knowing nothing.

    Arguments and errors as ``auc``; the logits are natural, ``P(yes) = sigmoid(logit)``.

    Source: He et al., "Practical lessons from predicting clicks on ads at Facebook", ADKDD 2014, equation 1.
    """
    scores, wanted = _answers("normalized_entropy", logits, labels)
    share = wanted.double().mean()
    chance = -(share * share.log() + (1 - share) * (1 - share).log())
    return float(torch.nn.functional.binary_cross_entropy_with_logits(scores, wanted.double()) / chance)
