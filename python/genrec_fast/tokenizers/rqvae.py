"""RQ-VAE: an autoencoder whose middle is coded level by level, trained as one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from genrec_fast import ops
from genrec_fast.catalog import Catalog
from genrec_fast.checks import check_fields
from genrec_fast.errors import InvalidValueError
from genrec_fast.nn.estimators import SINKHORN_FLOOR, Estimator
from genrec_fast.nn.quantize import Distance, check_quantizer
from genrec_fast.tokenizers.base import Tokenizer
from genrec_fast.tokenizers.collisions import resolve
from genrec_fast.tokenizers.dedup import CodebookDedup
from genrec_fast.tokenizers.groups import check_codebook_sizes
from genrec_fast.tokenizers.reassign import Reassign
from genrec_fast.tokenizers.regularisers.base import (
    RegulariserConfig,
    check_regularisers,
    from_plain,
    to_plain,
)
from genrec_fast.tokenizers.rqvae_model import RQVAEModel
from genrec_fast.tokenizers.rqvae_training import columns as history_columns
from genrec_fast.tokenizers.rqvae_training import train_rqvae
from genrec_fast.tokenizers.stored import numbers, take

if TYPE_CHECKING:
    from collections.abc import Callable

from genrec_fast.types import Jagged

__all__ = ["RQVAE", "RQVAEConfig"]

_BLOCK = 8192  # vectors encoded at once


@dataclass(frozen=True, kw_only=True)
class RQVAEConfig:
    """Settings of RQ-VAE (arXiv:2203.01941; for semantic IDs: TIGER, arXiv:2305.05065)."""

    codebook_sizes: tuple[int, ...] = (256, 256, 256)
    """codes per level, without the dedup level (3 x 256: TIGER)"""
    hidden_sizes: tuple[int, ...] = (512,)
    """widths of the encoder's hidden layers, the decoder's in reverse (TIGER: 512, 256, 128; measured: one layer
    reconstructs better in the same time)"""
    latent_dim: int = 128
    """width of what is coded (TIGER: 32; measured: 128 leaves a third less error at 3 x 256)"""
    estimator: Estimator = "straight_through"
    """how gradients pass the codes: straight_through (arXiv:1711.00937), rotation (arXiv:2410.06424) or gumbel
    (arXiv:1611.01144)"""
    distance: Distance = "l2"
    """nearest by l2, or by cosine: all codes of a level then have one length, which is learned"""
    decay: float | None = 0.95
    """of the codebooks' moving average, per step (arXiv:1711.00937, appendix A.1); None: they learn by gradient, as
    gumbel needs"""
    commitment: float = 0.25
    """weight of the commitment loss (0.25: arXiv:1711.00937)"""
    sinkhorn_epsilon: float = 0.0
    """of the last level's assignment in training (LC-Rec, arXiv:2311.09049: 0.003); 0: nearest code"""
    sinkhorn_iterations: int = 50
    """rounds of it (LC-Rec: 50)"""
    temperatures: tuple[float, float] = (1.0, 0.2)
    """of gumbel, at the first and at the last step, linear between (ours)"""
    steps: int = 1000
    """optimisation steps, those of the warm-up included (ours: time then hangs on no catalog's size)"""
    autoencoder_share: float = 0.2
    """part of the steps before there are codes: k-means then starts the codebooks from latents that mean something
    (ours)"""
    batch_size: int = 512
    """items per step; the whole catalog where it is smaller"""
    learning_rate: float = 2e-3
    """of AdamW, at the peak: linear warm-up over 50 steps, then cosine to 0"""
    weight_decay: float = 1e-4
    """of AdamW, on the autoencoder's matrices"""
    kmeans_iterations: int = 15
    """Lloyd iterations that start each codebook; 0: random latents"""
    reconstruction_weight: float = 1.0
    """of the reconstruction error; 0 where a regulariser (CoST) takes its place"""
    regularisers: tuple[RegulariserConfig, ...] = ()
    """further terms of the loss, see ``tokenizers.regularisers``"""
    restart_below: float = 0.05
    """codes chosen less often than this part of an even share are moved onto vectors of the batch; 0: never"""
    log_every: int = 50
    """steps between two rows of the history"""
    device: Literal["cpu", "auto"] = "cpu"
    """where it trains; auto: the device that accelerate picks (there, repeatable as far as the device is)"""
    dedup: CodebookDedup = "rank"
    """how items of equal codes are told apart, see ``resolve``"""

    def __post_init__(self) -> None:
        below_one = dict.fromkeys(("autoencoder_share", "restart_below", "decay"), "[0, 1)")
        above = ("learning_rate", "temperatures")
        check_fields(self, zero=("kmeans_iterations",), above=above, within=below_one, free=("codebook_sizes",))
        check_codebook_sizes("RQVAEConfig", self.codebook_sizes)
        check_quantizer("RQVAEConfig", self.estimator, self.distance, self.decay, self.commitment)
        if 0 < self.sinkhorn_epsilon < SINKHORN_FLOOR:
            raise InvalidValueError(
                f"RQVAEConfig: sinkhorn_epsilon must be 0 or at least {SINKHORN_FLOOR}, got {self.sinkhorn_epsilon}"
            )
        check_regularisers("RQVAEConfig", self.regularisers)
        for config in self.regularisers:
            if config.learned_codebooks and self.decay is not None:
                raise InvalidValueError(
                    f"RQVAEConfig: decay must be None (codebooks that learn by gradient) with {type(config).__name__}, "
                    f"got {self.decay}"
                )

    def build(self, catalog: Catalog) -> RQVAE:
        if catalog.feature_dim is None or catalog.feature_dim < 1:
            raise InvalidValueError(
                f"RQVAEConfig: feature_dim must be at least 1 (rqvae reads feature vectors), got {catalog.feature_dim}"
            )
        return RQVAE(self, catalog.feature_dim)


class RQVAE(Tokenizer):
    """See ``RQVAEConfig``.

    ::

        latent = encoder((features - mean) / scale);  quantized = codes of latent, level by level
        loss = mean |decoder(quantized) - input|^2 + codebook and commitment losses of each level

    After ``fit``: ``history``, one dictionary per ``log_every`` steps (``step``, ``loss``, ``reconstruction``,
    ``quantization``, ``learning_rate``, ``restarts``, the unweighted ``loss.Kind`` of each regulariser, and ``use.l``,
    the share of level l's codes chosen since the row before; 0 before there are codes); ``mse``, the mean squared
    error of ``decode`` over the catalog, per element in the units of the features squared.
    """

    kind: ClassVar[str] = "rqvae"
    config_type: ClassVar[type] = RQVAEConfig
    config: RQVAEConfig

    def __init__(self, config: RQVAEConfig, feature_dim: int | None) -> None:
        super().__init__(config, feature_dim)
        self._model: RQVAEModel | None = None
        self.history: list[dict[str, float]] = []
        self.mse: float = math.nan

    def fit(
        self,
        features: Tensor | None = None,
        *,
        num_items: int | None = None,
        seed: int = 0,
        histories: Jagged | None = None,
        categories: Tensor | None = None,
        progress: Callable[[str, int, int, dict[str, float]], None] | None = None,
    ) -> None:
        """Trains the autoencoder and its codebooks, and codes the catalog.

        Args:
            features: float ``[N, F]``, N at least the largest codebook size.
            num_items: N, checked.
            seed: of the first weights, the batches, k-means and noise; the same seed and number of threads give the
                same codes.
            histories: item ids per user of the training split, for regularisers that read them.
            categories: int64 ``[N, depth]``, for regularisers that read them; -1: unknown.
            progress: called after each row of the history with ("rqvae", steps done, steps, the row).

        Raises:
            DivergedError: the loss is no longer finite.
            InvalidTypeError: features are not a float tensor.
            InvalidValueError: wrong shape, too few vectors, or a value that is not finite (naming its row).
        """
        self._generator(seed)  # checks it
        vectors = self._vectors(features)
        count = self._count(features, num_items)
        if count < max(self.config.codebook_sizes):
            raise InvalidValueError(
                f"rqvae: features must have at least {max(self.config.codebook_sizes)} rows, one per code of a level, "
                f"got {count}"
            )
        model, history = train_rqvae(self.config, vectors, seed, histories, categories, progress)
        self._model, self.history = model, history
        self._item_codes, self._codebook_sizes, self.resolution = resolve(
            self.encode(vectors),
            self.config.codebook_sizes,
            self.config.dedup,
            vectors=self.latents(vectors) if self.config.dedup in get_args(Reassign) else None,
            codebooks=self.codebooks,
        )
        error = sum(
            float((self.decode(part) - block).double().square().sum())
            for part, block in zip(self._item_codes.split(_BLOCK), vectors.split(_BLOCK), strict=True)
        )
        self.mse = error / vectors.numel()

    @property
    def codebooks(self) -> list[Tensor]:
        """float32 ``[K_l, latent_dim]`` per level; codes are the nearest by L2, for cosine too (one length a level)."""
        return [book.detach() for book in self._fitted().quantizer.codebooks]

    @torch.no_grad()
    def latents(self, features: Tensor) -> Tensor:
        """What is coded: float ``[m, F]`` -> float32 ``[m, latent_dim]``.

        Computed in float64 and rounded once, so that a vector's latent hangs on no other row of its block.
        """
        model, vectors = self._fitted(), self._vectors(features)
        blocks = [model.encode_exactly(block) for block in vectors.split(_BLOCK)]
        return torch.cat(blocks) if blocks else vectors.new_empty(0, self.config.latent_dim)

    def encode(self, features: Tensor) -> Tensor:
        """Codes of any vectors: float ``[m, F]`` -> int32 ``[m, levels]``, without a dedup level.

        Equals ``item_codes`` on the vectors of the catalog, but for items that a ``dedup`` of nearest_free or sinkhorn
        has moved. Ties go to the lower code.
        """
        latents = self.latents(features)
        return ops.rq_encode(latents, self.codebooks)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """The decoder's vectors of codes: integer ``[m, t]`` -> float32 ``[m, F]``.

        With fewer codes than levels, of the prefix's sum; a dedup level is not read.

        Raises:
            InvalidTypeError: codes are not integers.
            InvalidValueError: a wrong shape, or a code outside its codebook.
        """
        model, books = self._fitted(), self.codebooks
        columns = self._columns(codes, self.config.codebook_sizes)
        latents = torch.zeros(len(codes), self.config.latent_dim)
        for column, book in zip(columns, books, strict=False):
            latents += book[column]
        return (
            torch.cat([model.decode(block) for block in latents.split(_BLOCK)])
            if len(latents)
            else model.decode(latents)
        )

    def report(self) -> dict[str, Any]:
        """Adds ``mse`` and the last row of the history."""
        return {**super().report(), "mse": self.mse, "training": self.history[-1] if self.history else {}}

    def _fitted(self) -> RQVAEModel:
        if self._model is None:
            raise InvalidValueError("rqvae: codebooks must come from fit or load, got neither")
        return self._model

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "regularisers": to_plain(self.config.regularisers)}

    @classmethod
    def _config(cls, settings: dict[str, Any]) -> Any:
        return super()._config({**settings, "regularisers": from_plain(settings["regularisers"])})

    def _learned(self) -> dict[str, Tensor]:
        state = {f"model.{name}": value.detach() for name, value in self._fitted().state_dict().items()}
        rows = [[row[name] for name in history_columns(self.config)] for row in self.history]
        table = torch.tensor(rows, dtype=torch.float64).view(len(rows), len(history_columns(self.config)))
        return {**state, "history": table, "mse": torch.tensor([self.mse], dtype=torch.float64)}

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        assert self.feature_dim is not None
        model = RQVAEModel(self.config, self.feature_dim, torch.Generator())
        state = {
            name: take(tensors, f"model.{name}", like.dtype, tuple(like.shape))
            for name, like in model.state_dict().items()
        }
        model.load_state_dict(state)
        self._model = model.eval()
        table = take(tensors, "history", torch.float64, (None, len(history_columns(self.config))), finite=False)
        self.history = [dict(zip(history_columns(self.config), row, strict=True)) for row in table.tolist()]
        (self.mse,) = numbers(tensors, "mse", 1)
