"""The network of RQ-VAE: scaled input, encoder, residual quantizer, decoder."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from genrec_fast.nn.quantize import ResidualQuantizer
from genrec_fast.tokenizers.rqvae.settings import RQVAESettings

_BLOCK = 65536  # rows held in float64 at once


class RQVAEModel(nn.Module):
    """Encoder and decoder are mirror images: linear layers with SiLU between.

    Inputs are moved and scaled by one number for all elements: settings do not depend on the unit of the features.

    Args:
        config: the settings.
        feature_dim: F.
        generator: of the first weights.
    """

    def __init__(self, config: RQVAESettings, feature_dim: int, generator: torch.Generator) -> None:
        super().__init__()
        widths = (feature_dim, *config.hidden_sizes, config.latent_dim)
        self.encoder = _mlp(widths, generator)
        self.decoder = _mlp(widths[::-1], generator)
        self.quantizer = ResidualQuantizer(
            config.codebook_sizes,
            config.latent_dim,
            estimator=config.estimator,
            distance=config.distance,
            decay=config.decay,
            commitment=config.commitment,
            sinkhorn_epsilon=config.sinkhorn_epsilon,
            sinkhorn_iterations=config.sinkhorn_iterations,
        )
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(feature_dim))
        self.register_buffer("scale", torch.ones(()))

    def fit_scale(self, features: Tensor) -> None:
        """Takes the mean per element and the one standard deviation of ``features [N, F]`` (1 where all are equal)."""
        blocks = features.split(_BLOCK)
        mean = torch.stack([block.double().sum(0) for block in blocks]).sum(0) / features.shape[0]
        squares = torch.stack([(block.double() - mean).square().sum() for block in blocks]).sum()
        spread = (squares / features.numel()).sqrt()
        least = 1e-6 * features.abs().amax().double()  # what float32 leaves of equal values is no spread
        self.mean.copy_(mean)
        self.scale.copy_(spread if bool(spread > least) else torch.ones_like(spread))

    def scaled(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.scale

    def encode_exactly(self, features: Tensor) -> Tensor:
        """float32 ``[m, latent_dim]`` of float32 ``[m, F]``, computed in float64 and rounded once."""
        out = (features.double() - self.mean.double()) / self.scale.double()
        for layer in self.encoder:
            if isinstance(layer, nn.Linear):
                out = nn.functional.linear(out, layer.weight.double(), layer.bias.double())
            else:
                out = layer(out)
        return out.float()

    def decode(self, latents: Tensor) -> Tensor:
        """Float ``[m, F]``, in the units of the features."""
        out: Tensor = self.decoder(latents) * self.scale + self.mean
        return out


def _mlp(widths: tuple[int, ...], generator: torch.Generator) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out)  # nothing from the global generator
        nn.init.xavier_normal_(linear.weight, generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.SiLU()]
    return nn.Sequential(*layers[:-1])
