"""What a search over a trie is to find, and what it found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.ops.trie_filter import TrieFilter

# (tokens int64 [B * W, t] behind the prompt, log-probabilities [B * W, V]) -> log-probabilities
Processor = Callable[[Tensor, Tensor], Tensor]


class CodeTokens(Protocol):
    """Where a trie's codes stand in a language model's vocabulary."""

    @property
    def of(self) -> Sequence[Tensor]:
        """Per level int64 ``[K_l]``: each code's token, -1 where a code has none."""
        ...

    @property
    def known(self) -> Sequence[Tensor]:
        """The same with some token of the level for a code that has none."""
        ...

    def span(self, level: int) -> Tensor | slice:
        """The tokens of a level's codes."""
        ...

    def written(self, level: int, codes: Tensor) -> Tensor:
        """int64 tokens of int32 codes."""
        ...

    def decode(self, tokens: Tensor) -> Tensor:
        """int32 codes of int64 tokens ``[..., t]``, one level after the other."""
        ...


@dataclass(frozen=True)
class Plan:
    """What a search is to find: by default one item per beam, by its codes alone.

    Args:
        num_beams: beams kept at every level.
        normalize: "all": log-softmax over the codebook (with ``tokens``: over the vocabulary); "valid": over what the
            trie and the filter allow.
        keep: which items may appear; ``None``: all.
        tokens: where the codes stand in the vocabulary of a session that is extended by tokens; ``None``: the session
            is extended by codes.
        prefix: tokens that every item begins with, paid for as they are written.
        end_token: written, and paid for, behind the last item; ``None``: nothing is.
        num_items: items per beam, one after the other, none of them twice.
        processor: changes log-probabilities over the whole vocabulary before the trie looks at them.
    """

    num_beams: tuple[int, ...]
    normalize: str = "all"
    keep: TrieFilter | None = None
    tokens: CodeTokens | None = None
    prefix: tuple[int, ...] = ()
    end_token: int | None = None
    num_items: int = 1
    processor: Processor | None = None

    def __post_init__(self) -> None:
        if self.normalize not in ("all", "valid"):
            raise InvalidValueError(f"search: normalize must be 'all' or 'valid', got {self.normalize!r}")


@dataclass(frozen=True)
class BestFirstPlan:
    """What a best-first search over a trie is to find, and how it goes about it.

    Args:
        k: items.
        budget: rows of the network that a user may take; ``None``: as many as the proof needs.
        normalize: "all": log-softmax over the codebook; "valid": over what the trie and the filter allow.
        keep: which items may appear; ``None``: all.
        least_rows: open prefixes of a user that are extended in a round, at least, where he has as many.
        share: and at least as many as were extended before, divided by this.
    """

    k: int
    budget: int | None = None
    normalize: str = "all"
    keep: TrieFilter | None = None
    least_rows: int = 8
    share: int = 2


@dataclass(frozen=True)
class Found:
    """Beams after the last level, best first; a sample in the order of the draw.

    Args:
        rows: int32 ``[B, W]`` of the trie, the last item's; -1 = no beam.
        codes: int32 ``[B, W, L]`` of the last item.
        scores: float32 ``[B, W]``: summed log-probabilities, of an end token too; -inf = no beam.
        bound: float32 ``[B]``: nothing that was pruned scores higher.
        tokens: int64 ``[B, W, t]``: all that was written behind the prompt but the end token, for a session that is
            extended by tokens.
    """

    rows: Tensor
    codes: Tensor
    scores: Tensor
    bound: Tensor
    tokens: Tensor | None = None
