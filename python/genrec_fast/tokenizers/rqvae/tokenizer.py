"""RQ-VAE: an autoencoder whose middle is coded level by level, trained as one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from genrec_fast import ops
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.tokenizers.base import Fit, Tokenizer, width_of
from genrec_fast.tokenizers.rqvae.model import RQVAEModel
from genrec_fast.tokenizers.rqvae.settings import RQVAESettings
from genrec_fast.tokenizers.rqvae.training import columns as history_columns
from genrec_fast.tokenizers.rqvae.training import train_rqvae
from genrec_fast.tokenizers.stored import numbers, take

_BLOCK = 8192  # vectors encoded at once


@dataclass(frozen=True, kw_only=True)
class RQVAEConfig(RQVAESettings):
    """Settings of RQ-VAE (arXiv:2203.01941; for semantic IDs: TIGER, arXiv:2305.05065)."""

    def build(self, catalog: Catalog) -> RQVAE:
        return RQVAE(self, width_of("RQVAEConfig", "rqvae", catalog))


class RQVAE(Tokenizer):
    """See ``RQVAEConfig``.

    ::

        latent = encoder((features - mean) / scale);  quantized = codes of latent, level by level
        loss = mean |decoder(quantized) - input|^2 + codebook and commitment losses of each level

    After ``fit``: ``history``, one dictionary per ``log_every`` steps (``step``, ``loss``, ``reconstruction``,
    ``quantization``, ``learning_rate``, ``restarts``, the unweighted ``loss.Kind`` of each regulariser, and ``use.l``,
    the share of level l's codes chosen since the row before; 0 before there are codes); ``mse``, the mean squared
    error of ``decode`` over the catalog, per element in the units of the features squared.

    ``fit`` needs a row per code of the largest codebook; regularisers read histories and categories. The same seed and
    number of threads give the same codes. Progress is ("rqvae", steps done, steps, the row of the history); a loss that
    is not finite raises ``DivergedError``.
    """

    kind: ClassVar[str] = "rqvae"
    config_type: ClassVar[type] = RQVAEConfig
    reads_features: ClassVar[bool] = True
    config: RQVAEConfig

    def __init__(self, config: RQVAEConfig, feature_dim: int | None) -> None:
        super().__init__(config, feature_dim)
        self._model: RQVAEModel | None = None
        self.history: list[dict[str, float]] = []
        self.mse: float = math.nan

    def _fit(self, fit: Fit) -> None:
        self._check_enough(fit.num_items)
        vectors = fit.features
        self._model, self.history = train_rqvae(self.config, fit)
        self._keep(
            self.encode(vectors),
            self.config.codebook_sizes,
            vectors=self.latents(vectors) if self._reassigns else None,
            codebooks=self.codebooks,
        )
        error = sum(
            float((self.decode(part) - block).double().square().sum())
            for part, block in zip(self.item_codes.split(_BLOCK), vectors.split(_BLOCK), strict=True)
        )
        self.mse = error / vectors.numel()

    @property
    def codebooks(self) -> list[Tensor]:
        """float32 ``[K_l, latent_dim]`` per level; codes are the nearest by L2, for cosine too (one length a level)."""
        return [book.detach() for book in self._fitted().quantizer.codebooks]

    @torch.no_grad()
    def latents(self, features: Tensor) -> Tensor:
        """What is coded: float ``[m, F]`` -> float32 ``[m, latent_dim]``.

        Computed in float64 and rounded once, so that a latent is independent of the other rows of its block.
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
