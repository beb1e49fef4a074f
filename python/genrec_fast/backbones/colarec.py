"""ColaRec: one T5 that writes an item's codes from what is known of it, and the next item's from those of a history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from genrec_fast.backbones.t5 import T5, T5Config
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.histories import check_length
from genrec_fast.nn.item_inputs import ProjectedFeatures


@dataclass(frozen=True, kw_only=True)
class ColaRecConfig(T5Config):
    """Settings of ``ColaRec``."""

    needs_features: ClassVar[bool] = True  # no catalog without feature vectors will do
    num_user_tokens: int = 0  # always: a user is known by the history alone

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_user_tokens:
            raise InvalidValueError(f"ColaRecConfig: num_user_tokens must be 0, got {self.num_user_tokens}")

    def build(self, catalog: Catalog) -> ColaRec:
        """Makes the backbone of a catalog with features.

        Raises:
            InvalidValueError: it has none, or its layout does not hand them on.
        """
        if catalog.features is None:
            raise InvalidValueError("ColaRecConfig: catalog must have features (layout use_features), got None")
        return ColaRec(self, catalog.codebook_sizes, catalog.features)


class ColaRec(T5):
    """``T5`` that reads items, not their codes, and reads a single item as it reads a history.

    ::

        encoder reads   task, id_1, content_1, id_2, content_2, ..., end
        decoder writes  the codes: of the next item (task 0), of the one item that was read (task 1)
        summary         the encoder's state of the end

    id is a vector of the item's own, content a projection of its features. So what an item is, who chose it and its
    codes meet in one encoder, and a summary places users and items in one space (``objectives.ItemIndexing``).

    Speaks ``Autoregressive`` and ``TeacherForced``; torch runs it. Training asks for the last position of each history
    (``targets="last"``).

    Args:
        config: settings.
        codebook_sizes: of the L levels.
        features: float ``[N, F]`` of all items; kept, not saved (they are the catalog's).

    Source: ColaRec (arXiv:2403.18480), and its code for what the paper leaves open.
    """

    features: Tensor

    def __init__(self, config: ColaRecConfig, codebook_sizes: tuple[int, ...], features: Tensor) -> None:
        super().__init__(config, codebook_sizes)
        width = config.width
        self.items, self.tasks = nn.Embedding(len(features), width), nn.Embedding(2, width)
        self.contents = ProjectedFeatures(features.shape[1], width)
        self.register_buffer("features", features.to(torch.float32), persistent=False)
        for table in (self.items, self.tasks):
            nn.init.normal_(table.weight, std=1.0)  # as the tokens of T5
        nn.init.normal_(self.contents.weight, std=features.shape[1] ** -0.5)

    @property
    def longest(self) -> int:
        """Tokens of the longest history: two an item, the task and the end."""
        return 2 * self.config.max_items + 2

    def _encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        check_length("colarec", batch, self.config.max_items)
        if batch.codes is None:
            raise InvalidValueError("colarec: batch must have codes (let it pass a layout first), got None")
        return self.read(batch.items, task=0)

    def read(self, items: Jagged, *, task: int) -> tuple[Tensor, Tensor]:
        """The encoder's pass.

        Args:
            items: int64, B rows.
            task: 0: rows are histories; 1: each is one item.

        Returns:
            States ``[T, D]`` of the tokens, and their offsets ``[B + 1]``; a row's last is its summary.
        """
        ends = torch.arange(len(items) + 1, device=items.values.device)
        offsets = 2 * items.offsets + 2 * ends
        rows = torch.repeat_interleave(ends[:-1], items.lengths, output_size=items.values.shape[0])
        places = 2 * torch.arange(items.values.shape[0], device=ends.device) + 2 * rows + 1
        own, content = self.items(items.values), self.contents(self.features[items.values])
        x = own.new_zeros(2 * len(own) + 2 * len(items), own.shape[1])
        x = x.index_copy(0, places, own).index_copy(0, places + 1, content.to(own.dtype))
        x = x.index_copy(0, offsets[:-1], self.tasks.weight[task].expand(len(items), -1).to(own.dtype))
        x = x.index_copy(0, offsets[1:] - 1, self.tokens.weight[self.end_token].expand(len(items), -1).to(own.dtype))
        return self._encoded(self.dropout(x), offsets), offsets

    def told(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """Logits of the next item's codes, per level ``[B, K_l]``, and the users' summaries ``[B, D]``, of one reading.

        Every history must have its one target at its last position.
        """
        self._check_targets(batch)
        states, offsets = self._encode(batch)
        return self._level_logits(self._level_states(batch, states, offsets)), states[offsets[1:] - 1]

    def indexed(self, items: Tensor, codes: Tensor) -> tuple[list[Tensor], Tensor]:
        """Logits of the items' own codes, per level ``[n, K_l]``, and the items' summaries ``[n, D]``, of one reading.

        Args:
            items: int64 ``[n]``.
            codes: int64 ``[n, L]``: theirs.
        """
        alone = Jagged(items, torch.arange(len(items) + 1, device=items.device))
        states, offsets = self.read(alone, task=1)
        written = self._level_states(Batch(alone, target_codes=codes), states, offsets)
        return self._level_logits(written), states[offsets[1:] - 1]

    def summaries(self, items: Tensor) -> Tensor:
        """``[n, D]`` of items int64 ``[n]``."""
        states, offsets = self.read(Jagged(items, torch.arange(len(items) + 1, device=items.device)), task=1)
        return states[offsets[1:] - 1]

    def _native(self) -> None:
        return None
