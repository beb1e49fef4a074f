"""One beam: the cheapest search, with the same honest bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genrec_fast.base.checks import whole_number
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.decoders.arguments import check_k
from genrec_fast.decoders.search_pass import SearchDecoder


@dataclass(frozen=True, kw_only=True)
class GreedyConfig:
    """Settings of the greedy search."""

    normalize: Literal["all", "valid"] = "all"
    """as in ``BeamConfig``"""

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, catalog: Catalog | None = None) -> Greedy:
        return Greedy(self)


class Greedy(SearchDecoder):
    """Follows the best valid code of each level to one semantic ID and returns its items, up to k of them.

    A semantic ID that belongs to fewer items leaves -1 behind them. The scores and the bound are those of a beam search
    with one beam.

    Source: ours.
    """

    name = "greedy"
    no_proof = " as one beam cannot widen (beam can), got True"

    def width(self, k: int, num_beams: int | None) -> int:
        """1.

        Raises:
            InvalidValueError: num_beams is neither ``None`` nor 1.
        """
        if num_beams is not None and whole_number(self.name, "num_beams", num_beams) != 1:
            raise InvalidValueError(f"{self.name}: num_beams must be 1, got {num_beams}")
        check_k(self.name, k)
        return 1
