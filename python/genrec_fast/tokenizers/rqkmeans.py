"""Residual k-means: each level codes what the levels before left over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from genrec_fast.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.tokenizers.base import Tokenizer, check_codebook_sizes
from genrec_fast.tokenizers.dedup import Dedup, add_dedup_level, check_dedup

__all__ = ["RQKMeans", "RQKMeansConfig"]

_BLOCK = 16384  # vectors encoded at once: 16 MiB of distances to 256 centroids


@dataclass(frozen=True, kw_only=True)
class RQKMeansConfig:
    """Settings of residual k-means (through faiss)."""

    codebook_sizes: tuple[int, ...] = (256, 256, 256)
    """codes per level, without the dedup level (3 x 256: TIGER, arXiv:2305.05065)"""
    iterations: int = 25
    """Lloyd iterations per level (25: faiss' own default)"""
    restarts: int = 1
    """k-means runs per level, of which the best is kept"""
    normalize: bool = False
    """scale every vector to length 1 first"""
    dedup: Dedup = "rank"
    """how items of equal codes are told apart, see ``add_dedup_level``"""

    def __post_init__(self) -> None:
        check_codebook_sizes("RQKMeansConfig", self.codebook_sizes)
        check_dedup("RQKMeansConfig", self.dedup)
        for name in ("iterations", "restarts"):
            if getattr(self, name) < 1:
                raise InvalidValueError(f"RQKMeansConfig: {name} must be at least 1, got {getattr(self, name)}")

    def build(self, feature_dim: int | None) -> RQKMeans:
        if feature_dim is None or feature_dim < 1:
            raise InvalidValueError(
                f"RQKMeansConfig: feature_dim must be at least 1 (rqkmeans reads feature vectors), got {feature_dim}"
            )
        return RQKMeans(self, feature_dim)


class RQKMeans(Tokenizer):
    """See ``RQKMeansConfig``.

    ::

        residual = features
        for level: code = nearest centroid of the residual; residual -= centroid

    ``codebooks`` holds a float32 ``[K_l, F]`` per level, ``mse`` the mean squared residual (per element, in the units
    of the features squared) after each level.
    """

    kind: ClassVar[str] = "rqkmeans"
    config_type: ClassVar[type] = RQKMeansConfig

    def __init__(self, config: RQKMeansConfig, feature_dim: int | None) -> None:
        super().__init__(config, feature_dim)
        self.codebooks: list[Tensor] = []
        self.mse: tuple[float, ...] = ()

    def fit(
        self,
        features: Tensor | None = None,
        *,
        num_items: int | None = None,
        seed: int = 0,
        progress: Callable[[int, int, float], None] | None = None,
    ) -> None:
        """Learns the codebooks and codes the catalog.

        Args:
            features: float ``[N, F]``, N at least the largest codebook size.
            num_items: N, checked.
            seed: of the first centroids; the same seed and number of threads give the same codes.
            progress: called after each level with (levels done, levels, mean squared residual).

        Raises:
            InvalidTypeError: features are not a float tensor.
            InvalidValueError: wrong shape, too few vectors, or a value that is not finite (naming its row).
            UnsupportedError: faiss is not installed.
        """
        residual = self._prepared(features)
        count = self._count(features, num_items)
        sizes = self.config.codebook_sizes
        if count < max(sizes):
            raise InvalidValueError(
                f"rqkmeans: features must have at least {max(sizes)} rows, one per code of a level, got {count}"
            )
        faiss = _faiss()
        codebooks, codes, errors = [], [], []
        for level, size in enumerate(sizes):
            kmeans = faiss.Kmeans(
                residual.shape[1],
                size,
                niter=self.config.iterations,
                nredo=self.config.restarts,
                seed=(seed + level) % (1 << 31),
                min_points_per_centroid=1,
                max_points_per_centroid=1 << 30,  # faiss would train on a sample of 256 vectors per centroid
            )
            kmeans.train(residual.numpy())
            codebook = torch.from_numpy(kmeans.centroids.copy())
            code = _nearest(residual, codebook)
            residual = residual - codebook[code]
            codebooks.append(codebook)
            codes.append(code)
            errors.append(float(residual.square().mean()))
            if progress is not None:
                progress(level + 1, len(sizes), errors[-1])
        self.codebooks, self.mse = codebooks, tuple(errors)
        self._item_codes, self._codebook_sizes = add_dedup_level(torch.stack(codes, 1), sizes, self.config.dedup)

    def encode(self, features: Tensor) -> Tensor:
        """Codes of any vectors: float ``[m, F]`` -> int32 ``[m, levels]``, without a dedup level.

        Equals ``item_codes`` on the vectors of the catalog. Ties go to the lower code.
        """
        self._fitted()
        residual = self._prepared(features)
        codes = []
        for codebook in self.codebooks:
            codes.append(_nearest(residual, codebook))
            residual = residual - codebook[codes[-1]]
        return torch.stack(codes, 1).to(torch.int32)

    def decode(self, codes: Tensor) -> Tensor:
        """Sum of the centroids of t levels: integer ``[m, t]`` -> float32 ``[m, F]``; a dedup level is not read.

        Raises:
            InvalidTypeError: codes are not integers.
            InvalidValueError: a wrong shape, or a code outside its codebook.
        """
        self._fitted()
        if codes.is_floating_point() or codes.dtype == torch.bool:
            raise InvalidTypeError(f"rqkmeans: codes must be integers [m, t], got {codes.dtype}")
        most = max(len(self._codebook_sizes), len(self.codebooks))
        if codes.dim() != 2 or not 1 <= codes.shape[1] <= most:
            raise InvalidValueError(f"rqkmeans: codes must be [m, 1 to {most}], got {list(codes.shape)}")
        out = torch.zeros(codes.shape[0], self.codebooks[0].shape[1])
        for level, (column, codebook) in enumerate(zip(codes.T.long(), self.codebooks, strict=False)):
            wrong = (column < 0) | (column >= codebook.shape[0])
            if bool(wrong.any()):
                raise InvalidValueError(
                    f"rqkmeans: codes of level {level} must be in [0, {codebook.shape[0]}), "
                    f"got {int(column[wrong][0])} in row {int(wrong.nonzero()[0])}"
                )
            out += codebook[column]
        return out

    def targets(self, features: Tensor) -> Tensor:
        """float32 ``[m, F]``: the features, of length 1 with ``normalize``."""
        return self._prepared(features)

    def report(self) -> dict[str, Any]:
        """Adds the mean squared residual after each level."""
        return {**super().report(), "mse": self.mse}

    def _fitted(self) -> None:
        if not self.codebooks:
            raise InvalidValueError("rqkmeans: codebooks must come from fit or load, got neither")

    def _prepared(self, features: Tensor | None) -> Tensor:
        vectors = self._vectors(features)
        if self.config.normalize:
            vectors = torch.nn.functional.normalize(vectors, dim=1)
        return vectors.contiguous()

    def _learned(self) -> dict[str, Tensor]:
        books = {f"codebooks.{level}": book for level, book in enumerate(self.codebooks)}
        return {**books, "mse": torch.tensor(self.mse, dtype=torch.float64)}

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        self.codebooks = [tensors[f"codebooks.{level}"] for level in range(len(self.config.codebook_sizes))]
        self.mse = tuple(tensors["mse"].tolist())


def _nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """int64 ``[m]``: index of the nearest centroid, the lower one among equals."""
    half_norms = codebook.square().sum(1) / 2  # |x - c|^2 = |x|^2 - 2 (x c - |c|^2 / 2)
    blocks = [(half_norms - block @ codebook.T).argmin(1) for block in vectors.split(_BLOCK)]
    return torch.cat(blocks) if blocks else torch.empty(0, dtype=torch.int64)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise UnsupportedError(
            "rqkmeans: fit needs faiss, which is not installed; pip install 'genrec-fast[tokenize]'"
        ) from error
    return faiss
