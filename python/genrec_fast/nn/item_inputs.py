"""What a network reads of an item and scores it by: a vector of its own, its codes, its features, or a sum of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_fast.base.config import check_fields, register_config
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.catalog.catalog import Catalog

_SPREAD = 0.02  # standard deviation of embeddings at the start, as ``nn.transformer.init_weights`` draws them


@register_config
@dataclass(frozen=True, kw_only=True)
class ItemInputsConfig:
    """What is read of an item; where several parts are, their sum, or with ``id_width`` its id beside the sum."""

    ids: bool = True  # a vector of its own
    codes: Literal["none", "sum", "mean"] = "none"  # of the embeddings of its codes
    features: bool = False  # a projection of its feature vector, which the layout must hand on
    start: Literal["random", "features"] = "random"  # vectors of its own begin drawn, or as its features' components
    id_width: int = 0  # channels of the vector of its own, the others are the rest's; 0: all, and they are added
    learned_ids: bool = True  # vectors of its own are trained; else they stay what they were

    def __post_init__(self) -> None:
        check_fields(self, zero=("id_width",))
        if not (self.ids or self.features or self.codes != "none"):
            raise InvalidValueError("ItemInputsConfig: ids must be set where neither codes nor features are read")
        if not self.ids and (self.start != "random" or not self.learned_ids):
            raise InvalidValueError("ItemInputsConfig: ids must be set where start or learned_ids is, got False")
        if self.id_width and not (self.ids and (self.features or self.codes != "none")):
            raise InvalidValueError(
                f"ItemInputsConfig: id_width must be 0 unless an item is read by its id and more, got {self.id_width}"
            )


ITEMS = ItemInputsConfig()


def item_inputs(config: ItemInputsConfig, catalog: Catalog, width: int) -> ItemIds | ItemInputs:
    """The module of some settings: ``forward(items [E]) -> [E, D]`` and ``table() -> [N, D]``.

    Args:
        config: what is read.
        catalog: with semantic IDs or features where they are.
        width: channels D.

    Raises:
        InvalidValueError: a catalog without what is read.
    """
    wants_features = config.features or config.start == "features"
    if wants_features and catalog.features is None:
        raise InvalidValueError(
            "ItemInputs: features must be given where items are read or started by them, got None; "
            "set use_features in the layout"
        )
    if config.codes != "none" and catalog.item_codes is None:
        raise InvalidValueError("ItemInputs: item_codes must be given where items are read by their codes, got None")
    plain = config.ids and config.codes == "none" and not config.features
    return _ids(config, catalog, width) if plain else ItemInputs(config, catalog, width)


def _ids(config: ItemInputsConfig, catalog: Catalog, width: int) -> ItemIds:
    return ItemIds(
        catalog.num_items,
        width,
        start=catalog.features if config.start == "features" else None,
        learned=config.learned_ids,
    )


class ItemIds(nn.Embedding):
    """A vector per item.

    Args:
        num_items: N.
        width: channels D.
        start: float ``[N, F]`` whose principal components the vectors begin as; ``None``: they are drawn.
        learned: whether they are trained.

    Source: begun from vectors of a language model: LLM2BERT4Rec (Harte et al., RecSys 2023).
    """

    def __init__(self, num_items: int, width: int, *, start: Tensor | None = None, learned: bool = True) -> None:
        super().__init__(num_items, width)
        self.num_items = num_items
        self.start = start
        self.weight.requires_grad_(learned)

    @torch.no_grad()
    def begin(self) -> None:
        """Once weights are drawn: puts the principal components in their place."""
        if self.start is not None:
            found = principal_components(self.start, self.embedding_dim)
            self.weight[:, : found.shape[1]] = found.to(self.weight)
            self.start = None

    def table(self) -> Tensor:
        """``[N, D]``."""
        return self.weight


class CodeEmbeddings(nn.ModuleList):
    """A table per level; an item's vector is the sum or the mean of its codes' rows.

    Args:
        codebook_sizes: K of each level.
        width: channels D.
        mean: the mean in place of the sum.
    """

    def __init__(self, codebook_sizes: Sequence[int], width: int, *, mean: bool = False) -> None:
        super().__init__(nn.Embedding(size, width) for size in codebook_sizes)
        self.mean = mean

    def forward(self, codes: Tensor) -> Tensor:
        """Int64 ``[E, L]`` -> ``[E, D]``."""
        total = sum(table(codes[:, level]) for level, table in enumerate(self))
        assert isinstance(total, Tensor)
        return total / len(self) if self.mean else total


class ProjectedFeatures(nn.Linear):
    """A projection of feature vectors of any scale, which reach it as vectors of mean 0 and length sqrt(F).

    Args:
        feature_dim: F.
        width: channels D.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Float ``[E, F]`` -> ``[E, D]``."""
        return super().forward(F.layer_norm(features, (self.in_features,)))


class ItemInputs(nn.Module):
    """The sum of what ``config`` names; with ``id_width`` the vector of its own stands in front of the sum of the rest.

    Raises:
        InvalidValueError: ``id_width`` leaves no channel for the rest.

    Notes:
        Codes and features of all items are kept as buffers that are not saved: they are the catalog's. A table is made
        anew at every call, O(N (L + F) D).
    """

    item_codes: Tensor | None
    vectors: Tensor | None

    def __init__(self, config: ItemInputsConfig, catalog: Catalog, width: int) -> None:
        super().__init__()
        if config.id_width >= width:
            raise InvalidValueError(f"ItemInputs: id_width must be below width = {width}, got {config.id_width}")
        self.num_items = catalog.num_items
        self.beside = config.id_width > 0
        self.ids = _ids(config, catalog, config.id_width or width) if config.ids else None
        width -= config.id_width
        self.codes = None
        self.register_buffer("item_codes", None, persistent=False)
        if config.codes != "none":
            self.codes = CodeEmbeddings(catalog.codebook_sizes, width, mean=config.codes == "mean")
            self.take_codes(catalog)
        features = catalog.features if config.features else None
        self.features = None if features is None else ProjectedFeatures(features.shape[1], width)
        self.register_buffer("vectors", None if features is None else features.float(), persistent=False)

    def take_codes(self, catalog: Catalog) -> None:
        """Other semantic IDs of the same items.

        Raises:
            InvalidValueError: of other codebook sizes.
        """
        if self.codes is None:
            return
        known = tuple(table.num_embeddings for table in self.codes if isinstance(table, nn.Embedding))
        if catalog.item_codes is None or catalog.codebook_sizes != known:
            raise InvalidValueError(f"ItemInputs: codebook_sizes must stay {known}, got {catalog.codebook_sizes}")
        self.item_codes = catalog.item_codes.long()

    def forward(self, items: Tensor) -> Tensor:
        """Item ids int64 ``[E]`` -> ``[E, D]``."""
        return self._sum(items)

    def table(self) -> Tensor:
        """``[N, D]``."""
        return self._sum(None)

    def _sum(self, items: Tensor | None) -> Tensor:
        """Of these items; ``None``: of all."""
        parts = []
        if self.ids is not None:
            parts.append(self.ids.table() if items is None else self.ids(items))
        if self.codes is not None and self.item_codes is not None:
            parts.append(self.codes(self.item_codes if items is None else self.item_codes[items]))
        if self.features is not None and self.vectors is not None:
            parts.append(self.features(self.vectors if items is None else self.vectors[items]))
        own = parts.pop(0) if self.beside else None
        total = sum(parts[1:], parts[0])
        assert isinstance(total, Tensor)
        return total if own is None else torch.cat([own, total], 1)


def principal_components(vectors: Tensor, width: int) -> Tensor:
    """The first ``min(F, width)`` principal components of ``vectors [N, F]``, scaled alike to the spread of a start.

    Returns:
        float32 ``[N, min(F, width)]`` of standard deviation 0.02 over all elements; 0 where all vectors are equal.

    Notes:
        In float64; O(N F^2). A component's sign is that of its direction's largest entry.
    """
    centred = vectors.detach().double() - vectors.detach().double().mean(0)
    _, directions = torch.linalg.eigh(centred.T @ centred)
    directions = directions.flip(1)[:, :width]
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    found = centred @ (directions * largest.sign())
    spread = found.square().mean().sqrt()
    out: Tensor = found * (_SPREAD / spread if bool(spread > 0) else 0.0)
    return out.float()


def whitened(vectors: Tensor, width: int) -> Tensor:
    """Principal components of ``vectors [N, F]``, each over the fourth root of its variance, scaled to length 1.

    The first ``min(F, width)`` of them. Directions in which all texts are alike count less, and rare ones are not blown
    up to the noise that they are.

    Returns:
        float32 ``[N, min(F, width)]``; a vector that is the mean of all stays 0.

    Notes:
        In float64; O(N F^2).
    """
    centred = vectors.detach().double() - vectors.detach().double().mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred / max(1, len(centred)))
    variances, directions = variances.flip(0)[:width], directions.flip(1)[:, :width]
    least = max(float(variances.amax()) * 1e-9, torch.finfo(torch.float32).tiny)
    found: Tensor = F.normalize(centred @ directions / variances.clamp(min=least).pow(0.25), dim=1)
    return found.float()
