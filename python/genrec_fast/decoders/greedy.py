"""One beam: the cheapest search, with the same honest bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from genrec_fast.catalog import Catalog
from genrec_fast.checks import check_flag, whole_number
from genrec_fast.config import check_fields
from genrec_fast.decoders._pass import BeamPass, beam_pass, check_search
from genrec_fast.decoders._users import check_k
from genrec_fast.errors import InvalidValueError
from genrec_fast.ops.trie_filter import CatalogTrie
from genrec_fast.types import Autoregressive, Batch, Jagged, Ranked

__all__ = ["Greedy", "GreedyConfig", "search"]


@torch.inference_mode()
def search(
    backbone: Autoregressive,
    batch: Batch,
    trie: CatalogTrie,
    num_beams: int = 1,
    k: int = 1,
    *,
    normalize: str = "all",
    allowed: Tensor | None = None,
    exclude: Jagged | None = None,
) -> Ranked:
    """Follows the best valid code of each level to one semantic ID and returns its items, up to k of them.

    Args:
        backbone: see ``decoders.beam.search``, as for all others.
        batch: B users.
        trie: the catalog.
        num_beams: 1; it stands here so that every search over a trie is called alike.
        k: columns of the result; a semantic ID that belongs to fewer items leaves -1 behind them.
        normalize: "all" or "valid".
        allowed: bool ``[N]`` or ``[B, N]``.
        exclude: item ids per user.

    Returns:
        ``Ranked``; ``exact[b]`` is true where the k items are proven to be the best k of the catalog.

    Raises:
        InvalidTypeError: the backbone is not ``Autoregressive``.
        InvalidValueError: num_beams is not 1, or as ``decoders.beam.search``.

    Notes:
        The scores and the bound are those of a beam search with one beam.

    Source: ours.

    Example:
        ``search(backbone, layout(batch), trie).items[:, 0]``
    """
    if whole_number("greedy", "num_beams", num_beams) != 1:
        raise InvalidValueError(f"greedy: num_beams must be 1, got {num_beams}")
    k, _ = check_k("greedy", k)
    check_search("greedy", backbone, batch, trie, allowed, exclude)
    return beam_pass(backbone, batch, trie, k, 1, normalize, allowed, exclude)


@dataclass(frozen=True, kw_only=True)
class GreedyConfig:
    """Settings of the greedy search."""

    needs: ClassVar[str] = "Autoregressive"

    normalize: Literal["all", "valid"] = "all"
    """as in ``BeamConfig``"""

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, catalog: Catalog | None = None) -> Greedy:
        return Greedy(self)


class Greedy:
    """A configured greedy search."""

    def __init__(self, config: GreedyConfig) -> None:
        self.config = config

    def search(
        self,
        backbone: Autoregressive,
        batch: Batch,
        trie: CatalogTrie,
        k: int,
        *,
        num_beams: int | None = None,
        allowed: Tensor | None = None,
        exclude: Jagged | None = None,
        exact: bool = False,
    ) -> Ranked:
        """See ``search``; has one beam and cannot widen.

        Raises:
            InvalidValueError: num_beams is neither ``None`` nor 1, or exact is true.
        """
        if check_flag("greedy", "exact", exact):
            raise InvalidValueError("greedy: exact must be False as one beam cannot widen (beam can), got True")
        normalize = self.config.normalize
        beams = 1 if num_beams is None else num_beams
        return search(backbone, batch, trie, beams, k, normalize=normalize, allowed=allowed, exclude=exclude)

    can_widen: ClassVar[bool] = False

    def width(self, k: int, num_beams: int | None) -> int:
        """The beams of a search, 1.

        Raises:
            InvalidValueError: num_beams is neither ``None`` nor 1.
        """
        check_k("greedy", k)
        if num_beams is not None and whole_number("greedy", "num_beams", num_beams) != 1:
            raise InvalidValueError(f"greedy: num_beams must be 1, got {num_beams}")
        return 1

    def begin(
        self,
        backbone: Autoregressive,
        batch: Batch,
        trie: CatalogTrie,
        num_beams: int,
        *,
        allowed: Tensor | None = None,
        exclude: Jagged | None = None,
    ) -> BeamPass:
        """A search that goes level by level; at least one user, under ``torch.inference_mode``."""
        check_search("greedy", backbone, batch, trie, allowed, exclude)
        return BeamPass(backbone, batch, trie, num_beams, self.config.normalize, allowed, exclude)
