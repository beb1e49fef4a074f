"""The protocol of the field's published tables, and what of a data set and a model its figures depend on."""

from __future__ import annotations

import hashlib
from typing import Any

from genrec_fast.data import Dataset, Evaluation
from genrec_fast.recipe.recommender import Recommender

KS = (5, 10)
"""where published tables cut their lists"""

PROTOCOL = (
    "leave-one-out: each user's last item is asked for, all before it but the last for validation is the training data",
    "every user with three events or more is asked, and every item of the catalog is ranked",
    "with the items of the user's whole history kept among the answers, and with these removed",
    "equal scores count as in any order: a target tied with m others stands on each of m + 1 places alike",
    "items of one semantic ID are items of one score: a target is found as itself, never as its semantic ID",
)
"""what is held, a sentence each"""


def protocol_facts(model: Recommender, dataset: Dataset, asked: Evaluation) -> dict[str, Any]:
    """What must be equal, or known, where two figures are compared.

    Args:
        model: trained on this data set.
        dataset: whole.
        asked: the test questions.

    Returns:
        Plain JSON: ``users_asked``, ``users`` and ``items`` of the data set, ``events``, ``longest_history`` (items
        that the model reads), ``sharing_items`` (items that have their semantic ID with another; 0 where items are
        atoms) and ``interactions`` (16 hexadecimal digits of a SHA-256 over all histories: equal for equal files).
    """
    items = dataset.interactions.items
    digest = hashlib.sha256()
    for tensor in (items.values, items.offsets):
        digest.update(tensor.contiguous().numpy().data)
    sharing, codes = 0, model.catalog.item_codes
    if model.recipe.tokenizer is not None and codes is not None:
        _, counts = codes.cpu().unique(dim=0, return_counts=True)
        sharing = int(counts[counts > 1].sum())
    return {
        "rules": list(PROTOCOL),
        "users_asked": len(asked),
        "users": len(items),
        "items": dataset.num_items,
        "events": int(items.values.numel()),
        "longest_history": model.max_items,
        "sharing_items": sharing,
        "interactions": digest.hexdigest()[:16],
    }
