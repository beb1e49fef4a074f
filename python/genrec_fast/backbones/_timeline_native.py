"""``Timeline``'s weights as the native engine runs them: a stack over items, and a stack over one item's codes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from genrec_fast.base.errors import UnsupportedError
from genrec_fast.nn.engine.native import NativeEngine, NativeSession, Prompts
from genrec_fast.nn.native import native_backbone, runs_natively
from genrec_fast.nn.packed import Packing
from genrec_fast.nn.stack_weights import StackWeights, check_all_read, one_value
from genrec_fast.ops.transformer import transformer_prefill
from genrec_fast.ops.transformer_pack import pack_stacks
from genrec_fast.ops.transformer_spec import TransformerSpec


def native_timeline(model: Any, kind: type) -> NativeEngine | None:
    """The engine where it gives what torch's modules give (``runs_natively``); not for a stack without blocks.

    Args:
        model: a ``Timeline``.
        kind: ``Timeline`` itself.
    """
    if not (model.blocks and model.depth_blocks and runs_natively(model, model.start)):
        return None
    return native_backbone(model, kind, lambda: _pack(model))


def last_states(engine: NativeEngine, rows: Tensor, packing: Packing) -> Tensor:
    """``[B, D]``: the state after each row's last item, of rows ``[E + B, D]`` with their starts and positions."""
    assert engine.encoder is not None
    states, _ = transformer_prefill(engine.encoder, rows, packing.offsets)
    return states


def begin_item(engine: NativeEngine, rows: Tensor, codebook_sizes: tuple[int, ...]) -> NativeSession:
    """A search behind the depth stack's first position ``[B, D]``, one per user."""
    offsets = torch.arange(len(rows) + 1)
    hidden, cache = transformer_prefill(engine.decoder, rows, offsets)
    ends = itertools.accumulate(codebook_sizes, initial=0)
    levels = tuple(slice(*span) for span in itertools.pairwise(ends))
    return NativeSession(engine, Prompts(offsets, cache), hidden.unsqueeze(1), levels)


def _pack(model: Any) -> Tensor:
    config = model.config
    blocks = [*model.blocks, *model.depth_blocks]
    causal = one_value(model, "direction", (block.causal for block in blocks))
    if not causal:
        raise UnsupportedError(f"{type(model).__name__}: the native engine reads forward, and these blocks both ways")
    heads = one_value(model, "number of heads", (config.num_heads, *(block.num_heads for block in blocks)))
    common: dict[str, Any] = {
        "width": config.width,
        "num_heads": heads,
        "num_kv_heads": config.num_heads,
        "head_width": config.width // config.num_heads,
        "score_scale": (config.width // config.num_heads) ** -0.5,
        "activation": "relu",
        "norm": "layer",
        "epsilon": one_value(model, "epsilon", (norm.eps for norm in _norms(model))),
    }
    items = TransformerSpec(num_layers=len(model.blocks), ff_width=config.hidden, **common)
    sizes = sum(model.codebook_sizes)
    codes = TransformerSpec(num_layers=len(model.depth_blocks), ff_width=config.depth_hidden, head_size=sizes, **common)
    read: list[Tensor] = []
    weights = [
        _weights(model.blocks, model.norm, read),
        _weights(model.depth_blocks, model.depth_norm, read),
    ]
    weights[1].put("head", *model.heads)
    tables = [weights[1].table(table.weight) for table in model.depth_embeddings if isinstance(table, nn.Embedding)]
    none = model.start.new_empty(0, config.width)  # an item of one code has none to embed
    tensors = {
        "embedding": torch.cat([none, *tables]),
        "positions": weights[1].table(model.depth_positions.weight),
    }
    # What of the model runs in torch on every call (``Timeline._rows``), and so is never kept.
    rows = [model.code_embeddings, model.positions, model.features, model.items]
    check_all_read(model, [*read, model.start, *(p for part in rows if part is not None for p in part.parameters())])
    return pack_stacks(list(zip((items, codes), weights, strict=True)), "float32", tensors)


def _norms(model: Any) -> Iterator[nn.LayerNorm]:
    """Every norm that the stacks run."""
    for part in (model.blocks, model.norm, model.depth_blocks, model.depth_norm):
        yield from (module for module in part.modules() if isinstance(module, nn.LayerNorm))


def _weights(blocks: nn.ModuleList, norm: nn.LayerNorm, read: list[Tensor]) -> StackWeights:
    out = StackWeights(read, "LayerNorm")
    out.put("last_norm", norm)
    for number, block in enumerate(blocks):
        of = {
            "before_attention": block.attention_norm,
            "qkv": block.qkv,
            "attended": block.attention_out,
            "before_feed_forward": block.mlp_norm,
            "up": block.mlp_in,
            "down": block.mlp_out,
        }
        for part, module in of.items():
            out.put(f"layers.{number}.{part}", module)
    return out
