"""Product quantization: each level codes a slice of the vector, straight or after a learned rotation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from genrec_fast import ops
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.tokenizers.base import Fit, Tokenizer
from genrec_fast.tokenizers.clustering.kmeans import kmeans, squared_length
from genrec_fast.tokenizers.codes import check_codebook_sizes
from genrec_fast.tokenizers.collisions.dedup import CodebookDedup
from genrec_fast.tokenizers.stored import numbers, take

_BLOCK = 16384  # vectors turned at once
_INNER = 4  # Lloyd iterations between two rotations (faiss' OPQMatrix: 4)


@dataclass(frozen=True, kw_only=True)
class PQConfig:
    """Settings of product quantization (Jégou et al., 2011; as semantic IDs: VQ-Rec, arXiv:2210.12316; RPG)."""

    codebook_sizes: tuple[int, ...] = (256,) * 8
    """codes per level, without the dedup level; F is cut into as many slices, equal up to one element (VQ-Rec: 32
    slices, RPG, arXiv:2506.05781: 16 to 64)"""
    iterations: int = 25
    """Lloyd iterations per level (25: faiss' own default)"""
    dedup: CodebookDedup = "rank"
    """how items of equal codes are told apart, see ``resolve``"""

    def __post_init__(self) -> None:
        check_fields(self, free=("codebook_sizes",))
        check_codebook_sizes(type(self).__name__, self.codebook_sizes)

    def build(self, catalog: Catalog) -> PQ:
        return PQ(self, self._checked(catalog.feature_dim))

    def _checked(self, feature_dim: int | None) -> int:
        least = len(self.codebook_sizes)
        if feature_dim is None or feature_dim < least:
            raise InvalidValueError(
                f"{type(self).__name__}: feature_dim must be at least {least}, one element per level, got {feature_dim}"
            )
        return feature_dim


@dataclass(frozen=True, kw_only=True)
class OPQConfig(PQConfig):
    """``PQConfig`` with a rotation learned first (Ge et al., "Optimized product quantization", CVPR 2013)."""

    rotations: int = 20
    """rounds of codes, then the best rotation for them (faiss: 50)"""

    def build(self, catalog: Catalog) -> OPQ:
        return OPQ(self, self._checked(catalog.feature_dim))


class PQ(Tokenizer):
    """See ``PQConfig``.

    ::

        for level: code = nearest centroid of the level's slice of features @ rotation

    After ``fit``: ``codebooks``, float32 ``[K_l, F_l]`` per level, ``rotation``, orthogonal float32 ``[F, F]``
    (``None`` for PQ), ``mean``, float32 ``[F]``, the features' mean, turned, ``mse``, the mean squared error of
    ``decode`` over the catalog, per element.

    ``fit`` needs a row per code of the largest codebook. PQ gives the same codes for any number of threads; OPQ's
    rotation is a sum over all rows, whose last bits may depend on that number. Progress is (kind, levels done, levels,
    {"mse": ...}), while a rotation is learned ("opq rotation", rounds done, rounds, {"mse": ...}).

    Source: Jégou, Douze and Schmid, "Product quantization for nearest neighbor search", PAMI 2011, section 2.2.
    """

    kind: ClassVar[str] = "pq"
    config_type: ClassVar[type] = PQConfig
    reads_features: ClassVar[bool] = True
    turns: ClassVar[bool] = False
    """whether it learns a rotation"""

    def __init__(self, config: PQConfig, feature_dim: int) -> None:
        super().__init__(config, feature_dim)
        self.codebooks: list[Tensor] = []
        self.rotation: Tensor | None = None
        self.mean: Tensor | None = None
        self.mse: float = float("nan")

    def _fit(self, fit: Fit) -> None:
        self._check_enough(fit.num_items)
        vectors, sizes = fit.features, self.config.codebook_sizes
        rotation, starts = self._rotation(fit)
        books, labels, error = [], [], 0.0
        turned = _turned(self.kind, vectors, rotation)
        for level, part in enumerate(turned.tensor_split(len(sizes), 1)):
            start = "kmeans++" if starts is None else starts[level]
            found = kmeans(
                part.contiguous(),
                sizes[level],
                iterations=self.config.iterations,
                init=start,
                seed=_seed(fit.seed, level),
            )
            books.append(found.centroids)
            labels.append(found.labels)
            error += found.inertia
            fit.progress(self.kind, level + 1, len(sizes), {"mse": error / vectors.numel()})
        self.rotation, self.codebooks, self.mse = rotation, books, error / vectors.numel()
        self.mean = torch.stack([column.mean(dtype=torch.float64) for column in turned.unbind(1)]).float()
        codes = torch.stack(labels, 1)
        moves = self._reassigns
        self._keep(codes, sizes, vectors=turned if moves else None, codebooks=_widened(books) if moves else None)
        if not torch.equal(self.item_codes[:, : len(sizes)], codes):  # reassignment moved some
            columns = self.item_codes.long().unbind(1)
            slices = zip(turned.tensor_split(len(sizes), 1), books, columns, strict=False)
            error = sum(squared_length(part - book[column]) for part, book, column in slices)
            self.mse = error / vectors.numel()

    def _rotation(self, fit: Fit) -> tuple[Tensor | None, list[Tensor] | None]:
        """A rotation and the centroids to begin with."""
        return None, None

    def encode(self, features: Tensor) -> Tensor:
        """Codes of any vectors: float ``[m, F]`` -> int32 ``[m, levels]``, without a dedup level.

        Equals ``item_codes`` on the vectors of the catalog, but for items that a ``dedup`` of nearest_free or sinkhorn
        has moved. Ties go to the lower code.
        """
        self._fitted()
        parts = _turned(self.kind, self._vectors(features), self.rotation).tensor_split(len(self.codebooks), 1)
        pairs = zip(parts, self.codebooks, strict=True)
        return torch.cat([ops.rq_encode(part.contiguous(), [book]) for part, book in pairs], 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Centroids side by side, turned back: integer ``[m, t]`` -> float32 ``[m, F]``.

        Slices without a code are the mean of the catalog, the best guess; a dedup level is not read.

        Raises:
            InvalidTypeError: codes are not integers.
            InvalidValueError: a wrong shape, or a code outside its codebook.
        """
        mean = self._fitted()
        columns = self._columns(codes, self.config.codebook_sizes)
        parts = [book[column] for book, column in zip(self.codebooks, columns, strict=False)]
        unknown = mean.tensor_split(len(self.codebooks))[len(columns) :]
        parts += [part.expand(codes.shape[0], -1) for part in unknown]
        out = torch.cat(parts, 1)
        return out if self.rotation is None else (out.double() @ self.rotation.double().T).float()

    def report(self) -> dict[str, Any]:
        """Adds ``mse``."""
        return {**super().report(), "mse": self.mse}

    def _fitted(self) -> Tensor:
        """The mean."""
        if self.mean is None:
            raise InvalidValueError(f"{self.kind}: codebooks must come from fit or load, got neither")
        return self.mean

    def _learned(self) -> dict[str, Tensor]:
        learned = {f"codebooks.{level}": book.contiguous() for level, book in enumerate(self.codebooks)}
        learned["mean"] = self._fitted()
        if self.rotation is not None:
            learned["rotation"] = self.rotation.contiguous()
        return {**learned, "mse": torch.tensor([self.mse], dtype=torch.float64)}

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        width = self.feature_dim or 0
        parts = torch.empty(width, device="meta").tensor_split(len(self.config.codebook_sizes))
        self.codebooks = [
            take(tensors, f"codebooks.{level}", torch.float32, (size, len(part)))
            for level, (size, part) in enumerate(zip(self.config.codebook_sizes, parts, strict=True))
        ]
        self.rotation = take(tensors, "rotation", torch.float32, (width, width)) if self.turns else None
        self.mean = take(tensors, "mean", torch.float32, (width,))
        (self.mse,) = numbers(tensors, "mse", 1)


class OPQ(PQ):
    """See ``OPQConfig`` and ``PQ``.

    ::

        rotation = principal axes, dealt out so that every slice has about the same product of variances
        for round: codes of features @ rotation;  U S V' = SVD(features' decoded);  rotation = U V'

    Source: Ge et al., "Optimized product quantization", CVPR 2013, sections 3.1 (rounds) and 3.2 (the start).
    """

    kind: ClassVar[str] = "opq"
    config_type: ClassVar[type] = OPQConfig
    turns: ClassVar[bool] = True

    def _rotation(self, fit: Fit) -> tuple[Tensor | None, list[Tensor] | None]:
        vectors, sizes, rounds = fit.features, self.config.codebook_sizes, self.config.rotations
        rotation = _allocated(vectors, len(sizes))
        books: list[Tensor] | None = None
        for done in range(rounds):
            decoded, error, following = [], 0.0, []
            for level, part in enumerate(_turned(self.kind, vectors, rotation).tensor_split(len(sizes), 1)):
                found = kmeans(
                    part.contiguous(),
                    sizes[level],
                    iterations=_INNER,
                    init="kmeans++" if books is None else books[level],
                    seed=_seed(fit.seed, level),
                )
                following.append(found.centroids)
                decoded.append(found.centroids[found.labels.long()])
                error += found.inertia
            books = following
            product = torch.zeros(vectors.shape[1], vectors.shape[1], dtype=torch.float64)
            for block, near in zip(vectors.split(_BLOCK), torch.cat(decoded, 1).split(_BLOCK), strict=True):
                product += block.double().T @ near.double()
            left, _, right = torch.linalg.svd(product)
            rotation = (left @ right).float()
            fit.progress("opq rotation", done + 1, rounds, {"mse": error / vectors.numel()})
        return rotation, books


def _seed(seed: int, level: int) -> int:
    return (seed + 0x9E3779B9 * level) % (1 << 63)


def _widened(books: list[Tensor]) -> list[Tensor]:
    """float32 ``[K_l, F]``: codebooks with zeros outside their slice, so that they add up as residual ones do."""
    wide, first = [], 0
    width = sum(book.shape[1] for book in books)
    for book in books:
        wide.append(torch.nn.functional.pad(book, (first, width - first - book.shape[1])))
        first += book.shape[1]
    return wide


def _turned(op: str, vectors: Tensor, rotation: Tensor | None) -> Tensor:
    """Float32 of float64 products: codes are independent of the other rows of the block.

    Raises:
        InvalidValueError: a row leaves float32.
    """
    if rotation is None:
        return vectors
    turned = torch.empty_like(vectors)
    for block, out in zip(vectors.split(_BLOCK), turned.split(_BLOCK), strict=True):
        out.copy_(block.double() @ rotation.double())
    finite = turned.isfinite().all(1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise InvalidValueError(f"{op}: features must stay within float32 when rotated, got infinity from row {row}")
    return turned


def _allocated(vectors: Tensor, levels: int) -> Tensor:
    """float32 ``[F, F]``: principal axes, the strongest one left to the slice of the smallest product of variances."""
    mean = vectors.mean(0, dtype=torch.float64)
    product = torch.zeros(vectors.shape[1], vectors.shape[1], dtype=torch.float64)
    for block in vectors.split(_BLOCK):
        moved = block.double() - mean
        product += moved.T @ moved
    values, axes = torch.linalg.eigh(product / len(vectors))
    signs = torch.where(axes.gather(0, axes.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0)
    axes = axes * signs
    room = [part.numel() for part in torch.arange(vectors.shape[1]).tensor_split(levels)]
    chosen: list[list[int]] = [[] for _ in room]
    logs = values.clamp(min=max(float(values[-1]) * 1e-12, 1e-300)).log().tolist()
    weights = [0.0] * levels
    for axis in reversed(range(len(logs))):
        slot = min((s for s in range(levels) if len(chosen[s]) < room[s]), key=lambda s: (weights[s], s))
        chosen[slot].append(axis)
        weights[slot] += logs[axis] - logs[0] + 1.0  # from the smallest on, so that each axis adds weight
    dealt: Tensor = axes[:, [axis for part in chosen for axis in part]].float()
    return dealt
