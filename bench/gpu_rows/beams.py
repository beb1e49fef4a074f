"""What a beam search does between its products."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gpu_rows.measure import Line, graphed, microseconds, row


@row("beam_attention")
def beam_attention() -> Iterator[Line]:
    """Levels in bfloat16, the first user held against the twin, the rest against torch over a copied prompt."""
    from beam_levels import SHAPES, repeated
    from genrec_fast.ops import beam_attention as attention

    for name, shape in SHAPES.items():
        level = shape.level(torch.bfloat16)
        there = {key: value.cuda() for key, value in level.items()}
        first = {key: value[:1] for key, value in level.items() if key in ("q", "keys", "values", "parents")}
        first |= {key: level[key][: shape.prompt] for key in ("prompt_keys", "prompt_values")}
        expected = attention(**first, offsets=level["offsets"][:2])

        def ours(there=there) -> torch.Tensor:
            return attention(**there)

        def torchs(there=there) -> torch.Tensor:
            return repeated(**there)

        found = ours()
        bound = 2e-2 * expected.abs().max().item()
        torch.testing.assert_close(found[:1].cpu(), expected, rtol=2e-2, atol=bound)
        torch.testing.assert_close(found, torchs(), rtol=2e-2, atol=bound)
        assert found.equal(ours()), "other bits the second time"
        took = microseconds(graphed(ours))
        line = (
            f"{name}: {shape.said}, {shape.flops / took / 1e6:.0f} TFLOP/s, {shape.bytes_of_keys / took / 1e6:.2f} TB/s"
        )
        yield Line("beam_attention", line, took, microseconds(graphed(torchs)), "torch, prompt repeated")
