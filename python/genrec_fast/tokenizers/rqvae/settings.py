"""Settings of RQ-VAE, apart from the tokenizer that is built from them: its network and its training read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.nn.estimators import SINKHORN_FLOOR, Estimator
from genrec_fast.nn.quantize import Distance, check_quantizer
from genrec_fast.tokenizers.codes import check_codebook_sizes
from genrec_fast.tokenizers.collisions.dedup import CodebookDedup
from genrec_fast.tokenizers.regularisers.base import RegulariserConfig, check_regularisers


@dataclass(frozen=True, kw_only=True)
class RQVAESettings:
    """The fields of ``RQVAEConfig``."""

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
    """optimisation steps, those of the warm-up included (ours: time is then
    independent of the catalog's size)"""
    autoencoder_share: float = 0.2
    """part of the steps before there are codes: k-means then starts the codebooks from latents that mean something
    (ours)"""
    curriculum: float = field(default=0.0, metadata={"absent": 0.0})
    """part of the steps with codes over which levels join, one after the other, the coarsest first (RecBase,
    arXiv:2509.03131); 0: all are there from the start"""
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
    """where it trains; auto: the device that accelerate picks (results repeat only as far as the device allows)"""
    dedup: CodebookDedup = "rank"
    """how items of equal codes are told apart, see ``resolve``"""

    def __post_init__(self) -> None:
        below_one = dict.fromkeys(("autoencoder_share", "restart_below", "decay", "curriculum"), "[0, 1)")
        above = ("learning_rate", "temperatures")
        check_fields(self, zero=("kmeans_iterations",), above=above, within=below_one, free=("codebook_sizes",))
        check_codebook_sizes("RQVAEConfig", self.codebook_sizes)
        check_quantizer("RQVAEConfig", self.estimator, self.distance, self.decay, self.commitment)
        if 0 < self.sinkhorn_epsilon < SINKHORN_FLOOR:
            raise InvalidValueError(
                f"RQVAEConfig: sinkhorn_epsilon must be 0 or at least {SINKHORN_FLOOR}, got {self.sinkhorn_epsilon}"
            )
        check_regularisers("RQVAEConfig", self.regularisers)
        if self.curriculum and self.regularisers:
            raise InvalidValueError(
                f"RQVAEConfig: curriculum must be 0 with regularisers, which look at every level, got {self.curriculum}"
            )
        for config in self.regularisers:
            if config.learned_codebooks and self.decay is not None:
                raise InvalidValueError(
                    f"RQVAEConfig: decay must be None (codebooks that learn by gradient) with {type(config).__name__}, "
                    f"got {self.decay}"
                )
