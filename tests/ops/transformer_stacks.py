"""Random stacks of transformer layers, for the tests of the native ops."""

from __future__ import annotations

import torch

from genrec_fast.ops.transformer_spec import TransformerSpec


def random_weights(spec: TransformerSpec, generator: torch.Generator, biases: bool) -> dict[str, torch.Tensor]:
    def normal(*shape, scale=1.0):
        return torch.randn(*shape, generator=generator) * scale

    weights = {"last_norm.weight": 1 + normal(spec.width, scale=0.1)}
    if spec.head_size:
        weights["head.weight"] = normal(spec.head_size, spec.width, scale=spec.width**-0.5)
        if biases:
            weights["head.bias"] = normal(spec.head_size)
    for layer in range(spec.num_layers):
        for name in ("before_attention", "before_feed_forward", *(["before_cross"] if spec.cross_width else [])):
            weights[f"layers.{layer}.{name}.weight"] = 1 + normal(spec.width, scale=0.1)
            if spec.norm == "layer":
                weights[f"layers.{layer}.{name}.bias"] = normal(spec.width, scale=0.1)
        for name, (rows, columns, needed) in spec.linears().items():
            if needed:
                weights[f"layers.{layer}.{name}.weight"] = normal(rows, columns, scale=columns**-0.5)
                if biases:
                    weights[f"layers.{layer}.{name}.bias"] = normal(rows, scale=0.1)
        if spec.qk_norm:
            for name in ("q_norm", "k_norm"):
                weights[f"layers.{layer}.{name}.weight"] = 1 + normal(spec.head_width, scale=0.1)
    return weights


def offsets_of(lengths):
    return torch.tensor([0, *lengths]).cumsum(0)
