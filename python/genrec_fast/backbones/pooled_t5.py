"""SpecGR++'s network: TIGER's, whose encoder also places histories and items in one space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genrec_fast.backbones.t5 import T5, T5Config
from genrec_fast.base.batch import Batch
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.kept_table import KeptTable
from genrec_fast.ops import segment_mean

_ITEMS = 4096  # items that the encoder reads in one pass


@dataclass(frozen=True, kw_only=True)
class PooledT5Config(T5Config):
    """Settings of ``PooledT5``; the defaults are those of SpecGR's code."""

    width: int = 64  # channels
    num_heads: int = 4
    head_width: int = 16  # channels of a head
    num_user_tokens: int = 0  # users are hashed into so many tokens; 0: no user token
    vector_width: int = 64  # channels of the vectors of users and items

    def __post_init__(self) -> None:
        check_fields(self, zero=("num_user_tokens",))

    def build(self, catalog: Catalog) -> PooledT5:
        """Makes the backbone of a catalog with semantic IDs.

        Raises:
            InvalidValueError: it has none.
        """
        if catalog.item_codes is None:
            raise InvalidValueError("PooledT5Config: catalog must have item_codes, got None")
        return PooledT5(self, catalog)


class PooledT5(T5):
    """``T5``, and vectors that its encoder makes: of a history, and of an item as the history that holds it alone.

    ::

        vector(history) = unit(mean over the tokens of project(encoder state)),    vector(i) = vector([i])

    An item needs no weights of its own, so one that no history has is placed by its semantic ID. Speaks
    ``Autoregressive``, ``TeacherForced``, ``Embedding`` and ``CodesAndVectors``; torch runs it.

    Args:
        config: settings.
        catalog: with semantic IDs; they are kept, not saved (they are the catalog's).

    Notes:
        ``item_table`` reads all N items: N (L + 1) tokens of the encoder. In evaluation mode and without gradients it
        is made once for the weights of the moment. An item is read without a user token's user (bucket 0).

    Source: SpecGR (arXiv:2410.02939), SpecGR++; code Jamesding000/SpecGR, commit ce74660.
    """

    item_codes: Tensor

    def __init__(self, config: PooledT5Config, catalog: Catalog) -> None:
        super().__init__(config, catalog.codebook_sizes)
        self.project = nn.Linear(config.width, config.vector_width)
        self._kept = KeptTable()
        self.register_buffer("item_codes", None, persistent=False)
        self.take_codes(catalog)

    def take_codes(self, catalog: Catalog) -> None:
        """Other semantic IDs of the same items.

        Raises:
            InvalidValueError: none, or of other codebook sizes.
        """
        if catalog.item_codes is None or catalog.codebook_sizes != self.codebook_sizes:
            raise InvalidValueError(
                f"PooledT5: codebook_sizes must stay {self.codebook_sizes}, got {catalog.codebook_sizes}"
            )
        self.item_codes = catalog.item_codes.long().to(self.tokens.weight.device)

    def predictions(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """See ``CodesAndVectors``; every history must have its one target at its last position."""
        self._check_targets(batch)
        states, offsets = self._encode(batch)
        return self._level_logits(self._level_states(batch, states, offsets)), self._pooled(states, offsets)

    def embed_targets(self, batch: Batch) -> Tensor:
        """``[B, D]``: of length 1, for the one target of each history."""
        self._check_targets(batch)
        return self.embed_users(batch)

    def embed_users(self, batch: Batch) -> Tensor:
        """``[B, D]``: of length 1."""
        return self._pooled(*self._encode(batch))

    def item_vectors(self, items: Tensor) -> Tensor:
        """``[M, D]`` of items int64 ``[M]``: of length 1.

        Raises:
            InvalidValueError: an id that no item has.
        """
        if items.numel() and not 0 <= int(items.min()) <= int(items.max()) < len(self.item_codes):
            wrong = int(items.min()) if int(items.min()) < 0 else int(items.max())
            raise InvalidValueError(f"PooledT5: items must be in [0, {len(self.item_codes)}), got {wrong}")
        parts = []
        for part in items.split(_ITEMS):
            ends = torch.arange(len(part) + 1, device=part.device)
            parts.append(self.embed_users(Batch(Jagged(part, ends), codes=self.item_codes[part])))
        return torch.cat(parts) if parts else self.project.weight.new_empty(0, self.project.out_features)

    def item_table(self) -> Tensor:
        """``[N, D]``: of length 1."""
        if self.training or torch.is_grad_enabled():
            return self._made()
        return self._kept.of(self, self._made)

    def _made(self) -> Tensor:
        return self.item_vectors(torch.arange(len(self.item_codes), device=self.item_codes.device))

    def _native(self) -> None:
        return None

    def _pooled(self, states: Tensor, offsets: Tensor) -> Tensor:
        # The mean of projections, as the code has it, is the projection of the mean.
        return nn.functional.normalize(self.project(segment_mean(states, offsets)).float(), dim=1)
