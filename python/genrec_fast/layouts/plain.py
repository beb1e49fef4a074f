"""The plain layout: every item becomes its semantic ID and its features, in the order of the history."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from genrec_fast.base.batch import Batch
from genrec_fast.base.checks import check_integers
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.catalog.trie import Trie


@dataclass(frozen=True, kw_only=True)
class PlainConfig:
    """Settings of ``Plain``."""

    use_features: bool = False  # hand the items' feature vectors to the backbone
    use_users: bool = False  # hand the users to the backbone
    use_valid_codes: bool = False  # hand the objective the codes that may follow each prefix of a target
    # "read": every history must come with what was done at its events
    actions: Literal["none", "read"] = field(default="none", metadata={"absent": "none"})

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, catalog: Catalog) -> Plain:
        """Makes the layout of one catalog with semantic IDs, and with features where ``use_features`` wants them."""
        return Plain(self, catalog)


class Plain(nn.Module):
    """Looks up each item's codes and features.

    Args:
        config: settings.
        catalog: with semantic IDs; with features if ``config.use_features``.

    Raises:
        InvalidValueError: a catalog without semantic IDs, or without the features that are wanted.
    """

    item_codes: Tensor
    features: Tensor | None

    def __init__(self, config: PlainConfig, catalog: Catalog) -> None:
        super().__init__()
        if catalog.item_codes is None:
            raise InvalidValueError("Plain: catalog must have item_codes, got None")
        if config.use_features and catalog.features is None:
            raise InvalidValueError(
                "Plain: features must be given when use_features is set, got None; "
                "give the data set item embeddings or train with --layout.no-use-features"
            )
        self.use_users = config.use_users
        self.use_valid_codes = config.use_valid_codes
        self.reads_actions = config.actions == "read"
        self.catalog = catalog
        self.register_buffer("item_codes", catalog.item_codes.to(torch.int32), persistent=False)
        features = catalog.features if config.use_features else None
        self.register_buffer("features", None if features is None else features.to(torch.float32), persistent=False)

    @property
    def num_items(self) -> int:
        """N."""
        return self.item_codes.shape[0]

    @property
    def feature_dim(self) -> int | None:
        """F, or ``None`` where the backbone gets no features."""
        return None if self.features is None else self.features.shape[1]

    @functools.cached_property
    def _trie(self) -> Trie:
        return self.catalog.trie.to(self.item_codes.device)

    # The trie follows the codes to another device.
    def _apply(self, *args: Any, **kwargs: Any) -> Plain:
        self.__dict__.pop("_trie", None)
        moved: Plain = super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        return moved

    def _valid_codes(self, target_codes: Tensor) -> tuple[Tensor, ...]:
        trie = self._trie
        masks, nodes = [], torch.zeros(target_codes.shape[0], dtype=torch.int32, device=target_codes.device)
        for level in range(trie.num_levels):
            if level:
                nodes = trie.lookup(target_codes[:, :level].contiguous())
            masks.append(trie.valid_codes(level, nodes))
        return tuple(masks)

    def forward(self, batch: Batch) -> Batch:
        """Fills ``codes``, ``features``, and where there are targets ``target_codes`` and ``valid_codes``.

        Raises:
            InvalidValueError: an item id or a target outside ``[0, N)``, or no actions where they are read.
        """
        if self.reads_actions and batch.actions is None:
            raise InvalidValueError(
                "Plain: batch must have actions, got None; give data.load actions=('rating>=4',), say, "
                "or set actions to 'none'"
            )
        items = self._checked("items", batch.items.values)
        features = None if self.features is None else self.features[items]
        target_codes = valid_codes = None
        if batch.targets is not None:
            check_integers("Plain", "targets", batch.targets, "[E]")
            targets = self._checked("targets", batch.targets[batch.target_positions])
            target_codes = self.item_codes[targets].long()
            valid_codes = self._valid_codes(target_codes) if self.use_valid_codes else None
        return dataclasses.replace(
            batch,
            codes=self.item_codes[items].long(),
            target_codes=target_codes,
            features=features,
            valid_codes=valid_codes,
            users=batch.users if self.use_users else None,
        )

    def _checked(self, name: str, values: Tensor) -> Tensor:
        values = check_integers("Plain", name, values, "[E]")
        if values.dtype not in (torch.int64, torch.int32):  # torch takes uint8 and bool for masks
            raise InvalidTypeError(f"Plain: {name} must be item ids of int64, got {values.dtype}")
        if values.device.type != "cpu" or values.numel() == 0:  # a check would wait for the device
            return values
        low, high = (int(v) for v in torch.aminmax(values))
        if low < 0 or high >= self.num_items:
            wrong = low if low < 0 else high
            raise InvalidValueError(f"Plain: {name} must be item ids in [0, {self.num_items}), got {wrong}")
        return values
