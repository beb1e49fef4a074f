"""Diverse beam search: groups of beams that keep out of each other's prefixes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from genrec_fast.catalog import Catalog
from genrec_fast.checks import whole_number
from genrec_fast.config import check_fields
from genrec_fast.decoders._choose import Choose, Diverse
from genrec_fast.decoders._pass import OnePass
from genrec_fast.errors import InvalidValueError
from genrec_fast.types import Batch

__all__ = ["DiverseBeam", "DiverseBeamConfig"]


@dataclass(frozen=True, kw_only=True)
class DiverseBeamConfig:
    """Settings of the diverse beam search."""

    needs: ClassVar[str] = "Autoregressive"

    num_beams: int = 50
    """of all groups together, a multiple of num_groups"""
    num_groups: int = 5
    """1 is a plain beam search"""
    penalty: float = 0.5
    """log-probability that a candidate loses for every beam of an earlier group at the same prefix"""
    normalize: Literal["all", "valid"] = "all"
    """as in ``BeamConfig``"""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.num_beams % self.num_groups:
            raise InvalidValueError(
                f"DiverseBeamConfig: num_beams must be a multiple of num_groups = {self.num_groups}, "
                f"got {self.num_beams}"
            )

    def build(self, catalog: Catalog | None = None) -> DiverseBeam:
        return DiverseBeam(self)


class DiverseBeam(OnePass):
    """A configured diverse beam search.

    The groups' items together, the likeliest first; none stands in two groups. ``Ranked.scores`` are log-probabilities
    without penalties, ``Ranked.exact`` is false.

    Notes:
        One native call per group and level.

    Source: Vijayakumar et al., "Diverse Beam Search" (arXiv:1610.02424), with a penalty on prefixes.
    """

    name = "diverse_beam"

    def __init__(self, config: DiverseBeamConfig) -> None:
        super().__init__(config.num_beams, config.normalize)
        self.config = config

    def width(self, k: int, num_beams: int | None) -> int:
        """As the other searches'; where it is not given, rounded up to whole groups.

        Raises:
            InvalidValueError: k is below 1 or above num_beams, or num_beams is no multiple of num_groups.
        """
        groups = self.config.num_groups
        num_beams = None if num_beams is None else whole_number(self.name, "num_beams", num_beams)
        if num_beams is not None and num_beams % groups:
            raise InvalidValueError(
                f"{self.name}: num_beams must be a multiple of num_groups = {groups}, got {num_beams}"
            )
        return -(-super().width(k, num_beams) // groups) * groups

    def choose(self, batch: Batch, num_beams: int) -> Choose:
        """Groups of equal width."""
        return Diverse(num_beams, self.config.num_groups, self.config.penalty)
