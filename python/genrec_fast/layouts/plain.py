"""The plain layout: every item becomes its semantic ID and its features, in the order of the history."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genrec_fast.checks import check_dense, check_integers, shown, whole_number
from genrec_fast.config import check_fields
from genrec_fast.errors import InvalidTypeError, InvalidValueError
from genrec_fast.trie import Trie, build_trie
from genrec_fast.types import Batch

__all__ = ["Plain", "PlainConfig"]


@dataclass(frozen=True, kw_only=True)
class PlainConfig:
    """Settings of ``Plain``."""

    use_features: bool = False  # hand the items' feature vectors to the backbone
    use_users: bool = False  # hand the users to the backbone
    use_valid_codes: bool = False  # hand the objective the codes that may follow each prefix of a target

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, item_codes: Tensor, codebook_sizes: tuple[int, ...], features: Tensor | None) -> Plain:
        """Makes the layout of one catalog: integer ``item_codes [N, L]``, float ``features [N, F]`` or ``None``."""
        return Plain(self, item_codes, codebook_sizes, features)


class Plain(nn.Module):
    """Looks up each item's codes and features.

    Args:
        config: settings.
        item_codes: integer ``[N, L]``.
        codebook_sizes: of the L levels.
        features: float ``[N, F]``; needed if ``config.use_features``.

    Raises:
        InvalidTypeError: item_codes are not integers.
        InvalidValueError: shapes that do not fit, a code outside its codebook, or missing features.
    """

    item_codes: Tensor
    features: Tensor | None

    def __init__(
        self, config: PlainConfig, item_codes: Tensor, codebook_sizes: tuple[int, ...], features: Tensor | None
    ) -> None:
        super().__init__()
        item_codes = check_integers("Plain", "item_codes", item_codes, "[N, L]")
        if not isinstance(codebook_sizes, (tuple, list)):
            raise InvalidTypeError(f"Plain: codebook_sizes must be a tuple of int, got {shown(codebook_sizes)}")
        codebook_sizes = tuple(whole_number("Plain", "codebook_sizes", size) for size in codebook_sizes)
        if features is not None and (not isinstance(features, Tensor) or not features.is_floating_point()):
            raise InvalidTypeError(f"Plain: features must be a float tensor [N, F], got {shown(features)}")
        if features is not None:
            check_dense("Plain", "features", features)
            if features.dim() != 2:
                raise InvalidValueError(f"Plain: features must be [N, F], got {list(features.shape)}")
        if item_codes.dim() != 2 or item_codes.shape[0] == 0 or item_codes.shape[1] != len(codebook_sizes):
            raise InvalidValueError(
                f"Plain: item_codes must be [N, {len(codebook_sizes)}] with N at least 1, got {list(item_codes.shape)}"
            )
        sizes = torch.tensor(codebook_sizes)
        outside = (item_codes < 0) | (item_codes >= sizes)
        if bool(outside.any()):
            item, level = outside.nonzero()[0].tolist()
            raise InvalidValueError(
                f"Plain: item_codes of level {level} must be in [0, {codebook_sizes[level]}), "
                f"got {int(item_codes[item, level])} for item {item}"
            )
        if config.use_features and features is None:
            raise InvalidValueError(
                "Plain: features must be given when use_features is set, got None; "
                "give the data set item embeddings or train with --layout.no-use-features"
            )
        if features is not None and features.shape[0] != item_codes.shape[0]:
            raise InvalidValueError(
                f"Plain: features must have one row per item = {item_codes.shape[0]}, got {features.shape[0]}"
            )
        self.use_users = config.use_users
        self.use_valid_codes = config.use_valid_codes
        self.codebook_sizes = codebook_sizes
        self.register_buffer("item_codes", item_codes.to(torch.int32))
        self.register_buffer(
            "features", features.to(torch.float32) if features is not None and config.use_features else None
        )

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
        return build_trie(self.item_codes.cpu(), codebook_sizes=self.codebook_sizes).to(self.item_codes.device)

    # The trie is made of item_codes and follows it: to another device, and to another catalog.
    def _apply(self, *args: Any, **kwargs: Any) -> Plain:
        self.__dict__.pop("_trie", None)
        moved: Plain = super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        return moved

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.__dict__.pop("_trie", None)
        super()._load_from_state_dict(*args, **kwargs)

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
            InvalidValueError: an item id or a target outside ``[0, N)``.
        """
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
