"""Residual k-means: each level codes what the levels before left over."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from genrec_fast import ops
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.tokenizers.base import Fit, Tokenizer, width_of
from genrec_fast.tokenizers.clustering.balance import Balance
from genrec_fast.tokenizers.clustering.kmeans import squared_length
from genrec_fast.tokenizers.clustering.residual import BLOCK, next_residual, train_codebooks
from genrec_fast.tokenizers.co_occurrence import collaborative_vectors
from genrec_fast.tokenizers.codes import check_codebook_sizes
from genrec_fast.tokenizers.collisions.dedup import CodebookDedup
from genrec_fast.tokenizers.stored import numbers, take

Init = Literal["auto", "kmeans++", "random", "progressive"]


@dataclass(frozen=True, kw_only=True)
class RQKMeansConfig:
    """Settings of residual k-means."""

    codebook_sizes: tuple[int, ...] = (256, 256, 256)
    """codes per level, without the dedup level (3 x 256: TIGER, arXiv:2305.05065)"""
    iterations: int = 25
    """k-means passes per level (25: faiss' own default)"""
    init: Init = "auto"
    """"kmeans++", "random" rows, "progressive" (k-means in few principal directions starts k-means in more), or
    "auto": k-means++ as it is or drawn in to the mean, whichever is better after a pass"""
    restarts: int = 1
    """k-means runs per level, of which the best is kept"""
    restart_empty: bool = True
    """a code without vectors goes to the farthest vector of the worst cluster"""
    batch_size: int | None = None
    """vectors per update of the centroids; ``None``: all"""
    max_train_rows: int | None = None
    """vectors that the codebooks learn from, drawn by the seed; ``None``: all. All are coded, block by block"""
    refinements: int = 15
    """rounds over all levels together after the last, each a joint update of all centroids and a new coding"""
    shrinkage: float = 0.3
    """part of each centroid's sampling noise that is taken off, by moving it to its level's mean: 0 is best on the
    vectors of the fit, 1 on new ones"""
    normalize: bool = False
    """scale every vector to length 1 first"""
    normalize_residuals: bool = False
    """scale what each level leaves over to length 1 before the next (and the vectors before the first)"""
    balance: Balance | None = None
    """"sinkhorn" or "capacity": the catalog's codes of a level are used about, or at most, equally often; see
    ``balanced_assignment``. ``encode`` ignores it and gives the nearest code"""
    balance_levels: Literal["all", "last"] = "all"
    """levels that ``balance`` is for (the last: LC-Rec)"""
    num_beams: int = 1
    """beams of ``encode``, and of the codes of the catalog without ``balance``; see ``ops.rq_encode``"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """"float32" or "bfloat16" (faster, equal codes); see ``ops.rq_encode``"""
    dedup: CodebookDedup = "rank"
    """how items of equal codes are told apart, see ``resolve``"""
    collaborative_width: int = field(default=0, metadata={"absent": 0})
    """columns beside the features that say who is chosen together with whom, see ``collaborative_vectors``; 0: none"""
    collaborative_weight: float = field(default=1.0, metadata={"absent": 1.0})
    """length of an item's row of these; that of its features is then 1"""

    def __post_init__(self) -> None:
        check_fields(
            self,
            zero=("refinements", "collaborative_width"),
            above=("collaborative_weight",),
            within={"shrinkage": "[0, 1]"},
            free=("codebook_sizes",),
        )
        check_codebook_sizes("RQKMeansConfig", self.codebook_sizes)
        if self.balance is not None and self.batch_size is not None:
            raise InvalidValueError(
                f"RQKMeansConfig: batch_size must be None with balance {self.balance!r}, got {self.batch_size}"
            )
        if self.balance is not None and self.max_train_rows is not None:
            raise InvalidValueError(
                f"RQKMeansConfig: max_train_rows must be None with balance {self.balance!r}, got {self.max_train_rows}"
            )
        if self.num_beams > 1 and (self.balance is not None or self.normalize_residuals):
            raise InvalidValueError(
                f"RQKMeansConfig: num_beams must be 1 with balance or normalize_residuals, got {self.num_beams}"
            )

    def balanced(self, level: int) -> bool:
        """Whether ``balance`` is for this level."""
        return self.balance is not None and (self.balance_levels == "all" or level == len(self.codebook_sizes) - 1)

    def build(self, catalog: Catalog) -> RQKMeans:
        return RQKMeans(self, width_of("RQKMeansConfig", "rqkmeans", catalog))


class RQKMeans(Tokenizer):
    """See ``RQKMeansConfig``.

    ::

        residual = features
        for level: code = nearest centroid of the residual; residual -= centroid

    With ``collaborative_width`` C, what is coded is ``[features / |features|, collaborative_weight v / |v|]``, v an
    item's collaborative vector from the histories, which ``fit`` needs then. ``encode`` has no histories: it codes
    zeros in their place, as for an item that nobody has chosen yet, and ``decode`` leaves these columns out.

    ``codebooks`` holds a float32 ``[K_l, F + C]`` per level, ``scales`` a factor per level that its centroids are
    decoded with (1 but with ``normalize_residuals``), ``mse`` the mean squared error of the catalog's codes after each
    level (per element, in the units of the features squared).

    ``fit`` needs a row per code of the largest codebook; features may be memory-mapped. The same seed and features give
    the same codes (for any number of threads, unless ``balance`` or "progressive" is set). Memory beside the features:
    two float32 copies of the vectors learned from (``max_train_rows`` of them), one more for "progressive"; one less
    where the features are float32 in memory and not normalised. All vectors are coded in blocks of 65,536. Progress is
    ("rqkmeans level 0", passes done, passes, {"mse": ...}), ("rqkmeans together", ...) and at the end ("rqkmeans",
    levels done, levels, ...).

    Source: Chen, Guan and Wang, "Approximate nearest neighbor search by residual vector quantization", 2010; balance:
    LC-Rec (arXiv:2311.09049), OneRec (arXiv:2502.18965); the rounds over all levels are Lloyd's iteration with the
    least-squares centroids of additive quantization (Babenko and Lempitsky, 2014); shrinkage: James and Stein, 1961.
    """

    kind: ClassVar[str] = "rqkmeans"
    config_type: ClassVar[type] = RQKMeansConfig
    reads_features: ClassVar[bool] = True

    def __init__(self, config: RQKMeansConfig, feature_dim: int | None) -> None:
        super().__init__(config, feature_dim)
        self.codebooks: list[Tensor] = []
        self.scales: tuple[float, ...] = ()
        self.mse: tuple[float, ...] = ()

    def _fit(self, fit: Fit) -> None:
        self._check_enough(fit.num_items)
        features, count, sizes = fit.features, fit.num_items, self.config.codebook_sizes
        if self.config.collaborative_width:
            features = self._beside(features, self._collaborative(fit))
        limit = self.config.max_train_rows
        if limit is not None and limit < max(sizes):
            raise InvalidValueError(
                f"rqkmeans: max_train_rows must leave at least {max(sizes)} rows, one per code of a level, got {limit}"
            )
        chosen = features
        if limit is not None and limit < count:
            chosen = features[torch.randperm(count, generator=fit.generator())[:limit].sort().values]
        found = train_codebooks(self._coded(chosen), self.config, fit.seed, fit.progress)
        self.codebooks, self.scales = found.codebooks, tuple(found.scales)
        codes = []
        for first in range(0, count, BLOCK):
            if self.config.balance is None:
                codes.append(self._codes(self._coded(features[first : first + BLOCK])))
            else:
                codes.append(torch.stack([column[first : first + BLOCK] for column in found.labels], 1).to(torch.int32))
        self._keep(
            torch.cat(codes),
            sizes,
            vectors=self._coded(features) if self._reassigns else None,
            codebooks=[book * scale for book, scale in zip(self.codebooks, self.scales, strict=True)],
        )
        errors = [0.0] * len(sizes)
        for first in range(0, count, BLOCK):
            left = self._coded(features[first : first + BLOCK])
            for level, (codebook, scale) in enumerate(zip(self.codebooks, self.scales, strict=True)):
                left = next_residual(left, codebook * scale, self.item_codes[first : first + BLOCK, level].long())
                errors[level] += squared_length(left)
        self.mse = tuple(error / features.numel() for error in errors)
        for level, error in enumerate(self.mse):
            fit.progress("rqkmeans", level + 1, len(sizes), {"mse": error})

    def encode(self, features: Tensor) -> Tensor:
        """Codes of any vectors: float ``[m, F]`` -> int32 ``[m, levels]``, without a dedup level.

        Without ``balance`` these are the ``item_codes`` on the vectors of the catalog, but for items that a ``dedup``
        of nearest_free or sinkhorn has moved. Ties go to the lower code.
        Blocks of 65,536 rows: no copy of the features is made.
        """
        self._fitted()
        blocks = self._features(features).split(BLOCK)
        if self.config.collaborative_width:
            blocks = [self._beside(b, torch.zeros(len(b), self.config.collaborative_width)) for b in blocks]
        return torch.cat([self._codes(self._coded(block)) for block in blocks])

    def _codes(self, rows: Tensor) -> Tensor:
        config = self.config
        if not config.normalize_residuals:
            return ops.rq_encode(rows, self.codebooks, num_beams=config.num_beams, precision=config.precision)
        codes = []
        for codebook in self.codebooks:
            rows = torch.nn.functional.normalize(rows, dim=1)
            codes.append(ops.rq_encode(rows, [codebook], precision=config.precision))
            rows = next_residual(rows, codebook, codes[-1][:, 0].long())
        return torch.cat(codes, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Sum of the centroids of t levels: integer ``[m, t]`` -> float32 ``[m, F]``; a dedup level is not read.

        Raises:
            InvalidTypeError: codes are not integers.
            InvalidValueError: a wrong shape, or a code outside its codebook.
        """
        self._fitted()
        columns = self._columns(codes, self.config.codebook_sizes)
        books = [book * scale for book, scale in zip(self.codebooks, self.scales, strict=True)]
        return ops.rq_decode(torch.stack(columns, 1), books, num_levels=len(columns))[:, : self.feature_dim]

    def targets(self, features: Tensor) -> Tensor:
        """float32 ``[m, F]``: the features, of length 1 with ``normalize`` or ``collaborative_width``."""
        return self._prepare(self._features(features))

    def report(self) -> dict[str, Any]:
        """Adds the mean squared residual after each level."""
        return {**super().report(), "mse": self.mse}

    def _fitted(self) -> None:
        if not self.codebooks:
            raise InvalidValueError("rqkmeans: codebooks must come from fit or load, got neither")

    def _features(self, features: Tensor | None) -> Tensor:
        """Checked as ``_vectors`` does, a block at a time: nothing of the features' size is made."""
        if (
            not isinstance(features, Tensor)
            or features.dim() != 2
            or not len(features)
            or (features.is_meta or features.layout != torch.strided)
        ):
            return self._vectors(features)
        features = features.detach()
        for first, block in enumerate(features.split(BLOCK)):
            if block.shape[1] != self.feature_dim or not block.is_floating_point():
                self._vectors(features)  # raises
            finite = block.float().isfinite().all(1)
            if not bool(finite.all()):
                row = first * BLOCK + int((~finite).nonzero()[0])
                raise InvalidValueError(f"{self.kind}: features must be finite, got NaN or infinity in row {row}")
        return features

    def _prepare(self, rows: Tensor) -> Tensor:
        """float32, contiguous, on the CPU; of length 1 where they are to be (zeros stay)."""
        rows = rows.detach().to("cpu", torch.float32).contiguous()
        scaled = self.config.normalize or self.config.collaborative_width
        return torch.nn.functional.normalize(rows, dim=1) if scaled else rows

    def _coded(self, rows: Tensor) -> Tensor:
        """What is coded: rows as ``_beside`` made them, or features."""
        return rows if self.config.collaborative_width else self._prepare(rows)

    def _beside(self, features: Tensor, collaborative: Tensor) -> Tensor:
        return torch.cat([self._prepare(features), collaborative], 1)

    def _collaborative(self, fit: Fit) -> Tensor:
        if fit.histories is None:
            raise InvalidValueError(
                "rqkmeans: histories must be given (of the training split) with collaborative_width, got None"
            )
        found = collaborative_vectors(
            fit.histories, fit.num_items, width=self.config.collaborative_width, seed=fit.seed
        )
        return torch.nn.functional.normalize(found, dim=1) * float(self.config.collaborative_weight)

    def _learned(self) -> dict[str, Tensor]:
        books = {f"codebooks.{level}": book for level, book in enumerate(self.codebooks)}
        return {**books, "mse": _f64(self.mse), "scales": _f64(self.scales)}

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        sizes, width = self.config.codebook_sizes, (self.feature_dim or 0) + self.config.collaborative_width
        self.codebooks = [
            take(tensors, f"codebooks.{level}", torch.float32, (size, width)) for level, size in enumerate(sizes)
        ]
        self.mse = numbers(tensors, "mse", len(sizes))
        # files written before scales were kept have none
        self.scales = numbers(tensors, "scales", len(sizes)) if "scales" in tensors else (1.0,) * len(sizes)


def _f64(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
