"""A balanced tree of clusters: the codes of an item are its path."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.tokenizers.base import Fit, Tokenizer, width_of
from genrec_fast.tokenizers.clustering.tree import Level, Stage, descend, grow
from genrec_fast.tokenizers.codes import check_codebook_sizes
from genrec_fast.tokenizers.collisions.dedup import Dedup
from genrec_fast.tokenizers.stored import numbers, take


@dataclass(frozen=True, kw_only=True)
class HierarchicalConfig:
    """Settings of a balanced tree."""

    codebook_sizes: tuple[int, ...] = (64, 64)
    """children of a node, per level, without the dedup level"""
    iterations: int = 10
    """rounds of two-means per cut, at most"""
    normalize: bool = False
    """scale every vector to length 1 first"""
    dedup: Dedup = "rank"
    """how the items of one leaf are told apart, see ``add_dedup_level`` ("rank": DSI's number within the leaf)"""

    def __post_init__(self) -> None:
        check_fields(self, free=("codebook_sizes",))
        check_codebook_sizes("HierarchicalConfig", self.codebook_sizes)

    def build(self, catalog: Catalog) -> Hierarchical:
        return Hierarchical(self, width_of("HierarchicalConfig", "hierarchical", catalog))


class Hierarchical(Tokenizer):
    """See ``HierarchicalConfig``.

    Every node's items are dealt to its children in parts that differ by at most one item, near together by k-means with
    two centres, halving until each child has its part (``balanced_tree.grow``). So a level of K codes over n items uses
    all K if n is at least K, and ``codebook_sizes`` whose product reaches N give every item an ID of its own.

    ``levels`` is the tree, ``mse`` the mean squared distance (per element) of the catalog to its nodes' means after
    each level.

    ``fit`` takes any number of rows; the same seed and features give the same codes. A tree has at most N cuts, each
    with F numbers of float32: with a last level that singles out items, as much as the features themselves. Progress is
    ("hierarchical", levels done, levels, {"mse": ...}).

    Source: trees of clusters as IDs: DSI (arXiv:2202.06991, section 3.3); balanced: SEATER (arXiv:2309.13375). Cutting
    at the share instead of constrained k-means with K centres is ours: exact parts, and time that does not grow with
    the number of nodes.
    """

    kind: ClassVar[str] = "hierarchical"
    config_type: ClassVar[type] = HierarchicalConfig
    reads_features: ClassVar[bool] = True

    def __init__(self, config: HierarchicalConfig, feature_dim: int | None) -> None:
        super().__init__(config, feature_dim)
        self.levels: list[Level] = []
        self.mse: tuple[float, ...] = ()

    def _fit(self, fit: Fit) -> None:
        errors: list[float] = []

        def tell(done: int, total: int, mse: float) -> None:
            errors.append(mse)
            fit.progress("hierarchical", done, total, {"mse": mse})

        sizes = self.config.codebook_sizes
        self.levels, codes = grow(
            fit.features, sizes, iterations=self.config.iterations, generator=fit.generator(), progress=tell
        )
        self.mse = tuple(errors)
        self._keep(codes, sizes)

    def encode(self, features: Tensor) -> Tensor:
        """Codes of any vectors: float ``[m, F]`` -> int32 ``[m, levels]``, the way down the tree, cut by cut.

        The ``item_codes`` on the vectors of the catalog, except for equal vectors, which a cut may have separated.
        """
        self._fitted()
        return descend(self._features(features), self.levels)

    def decode(self, codes: Tensor) -> Tensor:
        """Means of nodes: integer ``[m, t]`` -> float32 ``[m, F]``; a dedup level is not read.

        Raises:
            InvalidTypeError: codes are not integers.
            InvalidValueError: a wrong shape, or a path that the tree does not have (naming its row).
        """
        self._fitted()
        columns = self._columns(codes, self.config.codebook_sizes)
        node = torch.zeros(len(codes), dtype=torch.int64)
        for column, level, size in zip(columns, self.levels, self.config.codebook_sizes, strict=False):
            keys = level.parents.long() * size + level.codes.long()  # ascending
            wanted = node * size + column
            node = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
            missing = keys[node] != wanted
            if bool(missing.any()):
                row = int(missing.nonzero()[0])
                raise InvalidValueError(
                    f"hierarchical: codes must be a path of the tree, got {codes[row].tolist()} in row {row}"
                )
            found = level
        vectors: Tensor = found.centroids[node]
        return vectors

    def targets(self, features: Tensor) -> Tensor:
        """float32 ``[m, F]``: the features, of length 1 with ``normalize``."""
        return self._features(features)

    def _fitted(self) -> None:
        if not self.levels:
            raise InvalidValueError("hierarchical: levels must come from fit or load, got neither")

    def _features(self, features: Tensor | None) -> Tensor:
        rows = self._vectors(features).contiguous()
        return torch.nn.functional.normalize(rows, dim=1) if self.config.normalize else rows

    def _learned(self) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {"mse": torch.tensor(self.mse, dtype=torch.float64)}
        for number, level in enumerate(self.levels):
            for name in ("parents", "codes", "centroids"):
                out[f"levels.{number}.{name}"] = getattr(level, name).contiguous()
            for cut, stage in enumerate(level.stages):
                for name, tensor in stage._asdict().items():
                    out[f"levels.{number}.stages.{cut}.{name}"] = tensor.contiguous()
        return out

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        sizes = self.config.codebook_sizes
        self.mse = numbers(tensors, "mse", len(sizes))
        self.levels = []
        before = 1
        for number, size in enumerate(sizes):
            level = _stored_level(tensors, f"levels.{number}.", before, size, self.feature_dim)
            self.levels.append(level)
            before = len(level.codes)


def _stored_level(tensors: dict[str, Tensor], at: str, before: int, size: int, width: int | None) -> Level:
    """A level below ``before`` groups, every index of it within what it points at."""
    counts, number = [], 0  # of groups that a stage cuts
    while (name := f"{at}stages.{number}.left") in tensors:
        counts.append(tensors[name].numel())
        number += 1
    centroids = take(tensors, f"{at}centroids", torch.float32, (None, width))
    groups = len(centroids)
    if [*counts, groups][0] != before:
        raise InvalidValueError(f"load: {at}stages must begin with {before} groups, got {[*counts, groups][0]}")
    stages = []
    for number, (count, following) in enumerate(itertools.pairwise([*counts, groups])):
        here = f"{at}stages.{number}."
        normals = take(tensors, f"{here}normals", torch.float32, (None, width))
        plane = take(tensors, f"{here}plane", torch.int32, (count,), within=(-1, len(normals)))
        threshold = take(tensors, f"{here}threshold", torch.float64, (count,), finite=False)
        left = take(tensors, f"{here}left", torch.int32, (count,), within=(0, following))
        cut = plane >= 0
        if following != count + int(cut.sum()) or bool((cut & ((left == following - 1) | threshold.isnan())).any()):
            raise InvalidValueError(f"load: {here}plane must cut {following - count} of {count} groups, got others")
        stages.append(Stage(normals, plane, threshold, left))
    parents = take(tensors, f"{at}parents", torch.int32, (groups,), within=(0, before))
    codes = take(tensors, f"{at}codes", torch.int32, (groups,), within=(0, size))
    keys = parents.long() * size + codes.long()
    if not groups or bool((keys[1:] <= keys[:-1]).any()):
        raise InvalidValueError(f"load: {at}codes must ascend, got others")
    return Level(stages, parents, codes, centroids)
