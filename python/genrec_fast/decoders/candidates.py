"""Scores of given items: a few candidates per user instead of the whole catalog."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import Embedding
from genrec_fast.decoders.arguments import check_rows
from genrec_fast.ops.lanes import lane_sum

_BLOCK = 1 << 20  # float64 products held at once: 8 MiB


def scores_of_pairs(users: Tensor, table: Tensor, rows: Tensor, items: Tensor) -> Tensor:
    """float32 ``[T]``: inner products of ``users[rows]`` and ``table[items]``, as ``ops.topk_inner_product`` has them.

    Args:
        users: float ``[B, D]``.
        table: float ``[N, D]``.
        rows: int64 ``[T]`` in ``[0, B)``.
        items: int64 ``[T]`` in ``[0, N)``.
    """
    step = max(1, _BLOCK // max(1, table.shape[1]))
    out = torch.empty(items.numel(), device=users.device)
    for begin in range(0, items.numel(), step):
        part = slice(begin, begin + step)
        out[part] = lane_sum(users[rows[part]].float().double() * table[items[part]].float().double()).float()
    return out


@torch.inference_mode()
def score_candidates(backbone: Embedding, batch: Batch, candidates: Jagged) -> Jagged:
    """The inner product of each user's embedding with that of each of the user's candidates.

    Args:
        backbone: an ``Embedding``, in evaluation mode.
        batch: B users, through the backbone's layout.
        candidates: int64 item ids, B rows, in any order; rows may be empty, and an item may stand twice.

    Returns:
        float32 Jagged of the candidates' rows and order: the scores that ``retrieve`` gives the same items, bit for
        bit on the CPU.

    Raises:
        InvalidTypeError: the backbone is no ``Embedding``, or candidates are not int64 Jagged.
        InvalidValueError: another number of rows, an item outside ``[0, N)``, or embeddings that are not finite.

    Notes:
        Every history is read once, however many candidates there are: O(T D) beyond ``embed_users``.
    """
    if not isinstance(backbone, Embedding):
        raise InvalidTypeError(f"score_candidates: backbone must be Embedding, got {type(backbone).__name__}")
    dtype = getattr(candidates.values, "dtype", None) if isinstance(candidates, Jagged) else type(candidates).__name__
    if dtype != torch.int64:
        raise InvalidTypeError(f"score_candidates: candidates must be int64 Jagged, got {dtype}")
    candidates = check_rows("score_candidates", "candidates", candidates, len(batch))
    table = backbone.item_table()
    if candidates.values.numel():
        low, high = (int(v) for v in candidates.values.aminmax())
        if low < 0 or high >= table.shape[0]:
            raise InvalidValueError(
                f"score_candidates: candidates must be item ids in [0, {table.shape[0]}), "
                f"got {low if low < 0 else high}"
            )
    users = backbone.embed_users(batch)
    scores = scores_of_pairs(users, table, candidates.row_index(), candidates.values)
    if bool(scores.isnan().any()):
        place = int(scores.isnan().nonzero()[0])
        raise InvalidValueError(
            f"score_candidates: embeddings must be finite, got NaN for item {int(candidates.values[place])}"
        )
    return Jagged(scores, candidates.offsets)
