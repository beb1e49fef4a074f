"""LIGER's network: TIGER's, whose encoder reads texts beside codes and also says where the next item lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from genrec_fast.backbones.t5 import T5, T5Config
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.dropout import Dropout
from genrec_fast.nn.packed import row_positions
from genrec_fast.nn.text import TextVectors


@dataclass(frozen=True, kw_only=True)
class LigerConfig(T5Config):
    """Settings of ``Liger``; the defaults are those of LIGER's code."""

    needs_features: ClassVar[bool] = True  # no catalog without feature vectors will do
    num_layers: int = 6  # of the encoder, and as many of the decoder
    dropout: float = 0.2  # rate
    input_dropout: float = 0.5  # rate, on what the encoder reads
    text_hidden: tuple[int, ...] = (768, 512, 256)  # channels of the layers between an item's features and its vector
    num_user_tokens: int = 0  # users are hashed into so many tokens; 0: no user token

    def build(self, catalog: Catalog) -> Liger:
        """Makes the backbone of a catalog with features.

        Raises:
            InvalidValueError: it has none, or its layout does not hand them on.
        """
        if catalog.features is None:
            raise InvalidValueError("LigerConfig: catalog must have features (layout use_features), got None")
        return Liger(self, catalog.codebook_sizes, catalog.features)


class Liger(T5):
    """``T5`` over the sum of an item's code, its text, its place in the history and the code's level.

    ``item_table`` is an MLP of every item's features; a user's vector is the encoder's state of the last token. Both
    have length 1. An item needs no weights of its own, so one that no history has is placed as well as any other.
    Speaks ``Autoregressive``, ``TeacherForced``, ``Embedding`` and ``CodesAndVectors``; torch runs it.

    Args:
        config: settings.
        codebook_sizes: of the L levels.
        features: float ``[N, F]`` of all items; kept, not saved (they are the catalog's).

    Source: LIGER (arXiv:2411.18814), and its code for what the paper leaves open.
    """

    def __init__(self, config: LigerConfig, codebook_sizes: tuple[int, ...], features: Tensor) -> None:
        super().__init__(config, codebook_sizes)
        self.texts = TextVectors(features, config.text_hidden, config.width)
        self.item_positions = nn.Embedding(config.max_items, config.width)
        self.level_positions = nn.Embedding(len(codebook_sizes), config.width)
        self.input_norm = nn.LayerNorm(config.width)
        self.input_dropout = Dropout(config.input_dropout)
        for table in (self.item_positions, self.level_positions):
            nn.init.normal_(table.weight, std=0.02)

    def _embed(self, batch: Batch, tokens: Tensor) -> Tensor:
        if batch.features is None:
            raise InvalidValueError("liger: batch must have features (let it pass a layout first), got None")
        levels = len(self.codebook_sizes)
        places = row_positions(batch.items.offsets)
        of_items = self.texts(batch.features) + self.item_positions(places)
        added = of_items.unsqueeze(1) + self.level_positions.weight
        codes = (tokens < self.start_token).nonzero().squeeze(1)  # item by item, level by level
        embedded = super()._embed(batch, tokens)
        embedded = embedded.index_add(0, codes, added.reshape(-1, self.config.width).to(embedded.dtype))
        assert codes.numel() == places.numel() * levels
        read: Tensor = self.input_dropout(self.input_norm(embedded))
        return read

    def predictions(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """See ``CodesAndVectors``; every history must have its one target at its last position."""
        self._check_targets(batch)
        states, offsets = self._encode(batch)
        return self._level_logits(self._level_states(batch, states, offsets)), self._vectors(states, offsets)

    def embed_targets(self, batch: Batch) -> Tensor:
        """``[B, D]``: of length 1, for the one target of each history."""
        self._check_targets(batch)
        return self.embed_users(batch)

    def embed_users(self, batch: Batch) -> Tensor:
        """``[B, D]``: of length 1."""
        return self._vectors(*self._encode(batch))

    def item_table(self) -> Tensor:
        """``[N, D]``: of length 1."""
        return self.texts.table()

    def _native(self) -> None:
        return None

    def _vectors(self, states: Tensor, offsets: Tensor) -> Tensor:
        return nn.functional.normalize(states[offsets[1:] - 1].float(), dim=1)
