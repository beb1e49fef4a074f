"""The one line under a report: usable, weak or useless, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["usable", "weak", "useless", "unknown"]

# Shares of the features' variance that codes explain of items held out, above chance. Random IDs explain none; on
# sentence vectors of Amazon Beauty RQ k-means explains .62, OPQ .39, LETTER's published IDs .22; but RQ k-means on
# noise .12, and .8 where its columns are few, so features are compared with noise first.
_NOTHING, _LITTLE = 0.03, 0.1
_MERGED, _CROWDED = 0.9, 0.4  # collision rates
_COLLAPSED = 0.05  # perplexity, as a share of the codes that there could be in use


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a verdict goes by.

    Args:
        explained: share of the features' variance that the codes explain of items held out; ``None``: no features.
        by_chance: the most that codes explain when shuffled among the items.
        structure: whether the features are more than noise; ``None``: too few to tell, or no features.
        features: in words.
        purity: how far the best prefix's purity is on the way from chance to 1; ``None``: no categories.
        collision_rate: of the whole IDs.
        before_dedup: of the levels that describe items.
        collapsed: level, perplexity and possible codes of the level whose codes are used least evenly; ``None``:
            of a single item.
    """

    explained: float | None
    by_chance: float | None
    structure: Literal["yes", "perhaps", "no"] | None
    features: str | None
    purity: float | None
    collision_rate: float
    before_dedup: float
    collapsed: tuple[int, float, int] | None


def judge(evidence: Evidence) -> tuple[Verdict, str]:
    """The verdict and its reason."""
    told, meanings, doubts = [], [], []
    if evidence.explained is not None and evidence.by_chance is not None:
        shares = max(0.0, evidence.explained), max(0.0, evidence.by_chance)
        told.append(f"codes explain {shares[0]:.1%} of the features of items held out ({shares[1]:.1%} by chance)")
        meaning = evidence.explained - evidence.by_chance
        if meaning >= _NOTHING and evidence.structure != "yes":
            likely = {"no": "are", "perhaps": "may be", None: "are too few to be told from"}[evidence.structure]
            said = f": {evidence.features}" if evidence.features else ""
            doubts.append(f"but the features {likely} noise{said}")
            told[-1] += f", {doubts[0]}"
            meaning = 0.0 if evidence.structure == "no" else min(meaning, _NOTHING)
        meanings.append(meaning)
    if evidence.purity is not None:
        told.append(f"prefixes are {max(0.0, evidence.purity):.1%} of the way from chance to pure categories")
        meanings.append(evidence.purity)
    useless, weak = [], []
    rate, before = evidence.collision_rate, evidence.before_dedup
    collisions = f"{rate:.1%} collisions" + (f" ({before:.1%} before the dedup level)" if before != rate else "")
    if rate >= _MERGED:
        useless.append(collisions)
    elif rate >= _CROWDED or before >= _MERGED:
        weak.append(collisions)
    if meanings and max(meanings) < _NOTHING:
        useless.append("; ".join([*told, *([] if doubts else ["random IDs would do as well"])]))
    elif meanings and max(meanings) < _LITTLE:
        weak.append("; ".join(told))
    if evidence.collapsed is not None:
        level, perplexity, possible = evidence.collapsed
        if perplexity - 1 <= _COLLAPSED * (possible - 1):
            use = "all items have one code"
            if possible > 1:
                use = f"its {possible:,} codes are used like {perplexity:.1f}"
            weak.append(f"level {level} has collapsed: {use}")
    if useless or weak:
        return "useless" if useless else "weak", "; ".join([*useless, *weak])
    if not meanings:
        return "unknown", "without features or categories nothing says whether the codes mean anything"
    return "usable", "; ".join([*told, collisions])
