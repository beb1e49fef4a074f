"""DiscRec: a T5 whose tokens are mixed, code by code, with what an attention within each item makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_fast.backbones.t5 import T5, T5Config
from genrec_fast.base.checks import check_heads
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.branches import attended
from genrec_fast.nn.dropout import Dropout
from genrec_fast.nn.engine.native import NativeEngine
from genrec_fast.nn.packed import Packing, row_positions

_EPSILON = 1e-8  # of the branch's norms, as published


@dataclass(frozen=True, kw_only=True)
class DiscRecConfig(T5Config):
    """Settings of ``DiscRec``."""

    branch_heads: int = 2  # heads of the attention within an item, a divisor of width
    branch_hidden: int = 1024  # channels of the branch's feed-forward

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads("DiscRecConfig", self.width, self.branch_heads)

    def build(self, catalog: Catalog) -> DiscRec:
        """Makes the backbone; it reads codes alone, so items and features are not used."""
        return DiscRec(self, catalog.codebook_sizes)


class DiscRec(T5):
    """``T5`` that reads a mixture, in the encoder and in the decoder.

    ::

        n = norm(e + slot);  a = n + attention(n)          among the codes of one item; in the decoder causal
        b = norm(a);  c = b + mlp(b)                       the collaborative branch
        g = softmax(w_0 . e, w_1 . c);  x = g_0 e + g_1 c  what the network reads

    Keys and values of the branch are kept by a search as those of a layer in front of the decoder's. The user's token
    and the end token are items of their own.

    Source: DiscRec (arXiv:2506.15576).
    """

    first_layer = 1

    def __init__(self, config: DiscRecConfig, codebook_sizes: tuple[int, ...]) -> None:
        super().__init__(config, codebook_sizes)
        slots = len(codebook_sizes) + 2
        self.read_branch = _Branch(config, slots, causal=False)
        self.written_branch = _Branch(config, slots, causal=True)

    def _native(self) -> NativeEngine | None:
        """The native engine knows no branch."""
        return None

    def _read(self, x: Tensor, offsets: Tensor) -> Tensor:
        levels = len(self.codebook_sizes)
        place = row_positions(offsets)
        inside = place - (1 if self.config.num_user_tokens else 0)  # -1 at the user's token
        slots = inside % levels + 1
        slots[offsets[1:] - 1] = levels + 1
        slots[inside < 0] = 0
        starts = ((inside % levels == 0) | (place == 0)).nonzero().squeeze(1)
        items = torch.cat([starts, starts.new_tensor([len(x)])])
        mixed: Tensor = self.read_branch(x, slots, Packing(items, slots, levels))
        return mixed

    def _written(self, x: Tensor, rows: Packing) -> Tensor:
        mixed: Tensor = self.written_branch(x, rows.positions, rows)
        return mixed


class _Branch(nn.Module):
    """The mixture, of an encoder or a decoder."""

    def __init__(self, config: DiscRecConfig, slots: int, *, causal: bool) -> None:
        super().__init__()
        width = config.width
        self.causal, self.heads = causal, config.branch_heads
        self.slots = nn.Embedding(slots, width)
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width, eps=_EPSILON), nn.LayerNorm(width, eps=_EPSILON)
        self.qkv = nn.Linear(width, 3 * width)
        self.mlp_in, self.mlp_out = nn.Linear(width, config.branch_hidden), nn.Linear(config.branch_hidden, width)
        self.dropout = Dropout(config.dropout)
        self.gates = nn.Parameter(torch.empty(2, width))
        nn.init.normal_(self.gates)

    def forward(self, x: Tensor, slots: Tensor, rows: Packing) -> Tensor:
        """Embeddings ``[T, D]`` in ``slots [T]`` of ``rows`` -> ``[T, D]``."""
        width = x.shape[1]
        normed = self.attention_norm(x + self.slots(slots))
        queries, keys, values = self.qkv(normed).view(-1, 3, self.heads, width // self.heads).unbind(1)
        seen = attended(queries, keys, values, rows, causal=self.causal)
        inner = self.mlp_norm(normed + seen.reshape(-1, width))
        branch = inner + self.dropout(self.mlp_out(self.dropout(F.relu(self.mlp_in(inner)))))
        both = torch.stack([x.to(branch.dtype), branch], 1)
        shares = (both * self.gates).sum(2).softmax(1)
        mixed: Tensor = (both * shares[..., None]).sum(1)
        return mixed
