"""How a search behind ``generate`` chooses its beams: the best, a sample, or groups that keep apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from genrec_fast.base.checks import INT64, whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.decoders.diverse import Diverse
from genrec_fast.decoders.noise import seeds_of_rows
from genrec_fast.decoders.stochastic import Sampled
from genrec_fast.decoders.trie_search import BEST, Rule


@dataclass(frozen=True, kw_only=True)
class RuleSettings:
    """Checked settings, in the names of the public functions.

    Args:
        op: whose arguments these are.
        seed: draws beams without replacement; ``None``: does not.
        num_groups: of beams.
        diversity_penalty: see ``decoders.DiverseBeamConfig``.
        normalize: of the search.

    Raises:
        InvalidTypeError: an argument of another kind.
        InvalidValueError: an argument out of range, or two that exclude each other.
    """

    op: str
    seed: int | None
    num_groups: int
    diversity_penalty: float
    normalize: str

    def __post_init__(self) -> None:
        op, groups, penalty = (
            self.op,
            whole_number(self.op, "num_groups", self.num_groups, *INT64),
            self.diversity_penalty,
        )
        if groups < 1:
            raise InvalidValueError(f"{op}: num_groups must be at least 1, got {groups}")
        if isinstance(penalty, bool) or not isinstance(penalty, (int, float)) or not 0 <= penalty < math.inf:
            raise InvalidValueError(f"{op}: diversity_penalty must be at least 0 and finite, got {penalty!r:.40}")
        if self.seed is None:
            return
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise InvalidTypeError(f"{op}: seed must be an int or None, got {self.seed!r:.40}")
        if not -(1 << 63) <= self.seed < 1 << 63:
            raise InvalidValueError(f"{op}: seed must fit 64 bits, got {self.seed}")
        if groups > 1:
            raise InvalidValueError(f"{op}: num_groups must be 1 where a seed draws the beams, got {groups}")
        if self.normalize != "valid":
            raise InvalidValueError(
                f"{op}: normalize must be 'valid' where a seed draws the beams (from what the trie allows), "
                f"got {self.normalize!r}"
            )

    @property
    def plain(self) -> bool:
        """The best beams, as ever."""
        return self.seed is None and self.num_groups == 1

    def begin(self, num_beams: int, prompts: Jagged) -> Rule:
        """The rule for one search.

        Args:
            num_beams: W.
            prompts: what makes a user's draw his own: int64 token ids, or rows of an encoder; then his number does.
        """
        if self.plain:
            return BEST
        if self.seed is None:
            if num_beams % self.num_groups:
                raise InvalidValueError(
                    f"{self.op}: num_beams must be a multiple of num_groups = {self.num_groups}, got {num_beams}"
                )
            return Diverse(num_beams, self.num_groups, self.diversity_penalty)
        if prompts.values.dim() > 1:
            numbers = torch.arange(len(prompts) + 1)
            prompts = Jagged(numbers[:-1], numbers)
        return Sampled(seeds_of_rows(self.seed, prompts))
