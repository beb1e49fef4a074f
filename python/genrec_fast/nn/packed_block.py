"""A transformer block over packed rows, in the forms that the item-level baselines were published in."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_fast import ops
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged, offsets_of
from genrec_fast.nn.dropout import Dropout
from genrec_fast.nn.packed import row_positions


class PackedBlock(nn.Module):
    """Softmax attention within each row, then an MLP; dropout on what both add.

    Args:
        width: channels D.
        num_heads: H, a divisor of width.
        hidden: channels inside the MLP.
        dropout: rate.
        causal: a token sees itself and what stands before it; else its whole row.
        form: "bert": norm after each sum, GELU (BERT4Rec, equations 3 to 6). "llama": RMS norm before each branch,
            no biases, SiLU-gated MLP (KuaiFormer, section 3).

    Raises:
        InvalidValueError: num_heads does not divide width, or an unknown form.

    Notes:
        Attention costs the pairs that see each other and memory of the rows' lengths, never of their squares.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        hidden: int,
        dropout: float,
        *,
        causal: bool,
        form: Literal["bert", "llama"],
    ) -> None:
        super().__init__()
        if width < 1 or num_heads < 1 or width % num_heads:
            raise InvalidValueError(f"PackedBlock: num_heads must divide width = {width}, got {num_heads}")
        if form not in ("bert", "llama"):
            raise InvalidValueError(f"PackedBlock: form must be 'bert' or 'llama', got {form!r}")
        self.num_heads, self.causal, self.form = num_heads, causal, form
        bias = form == "bert"
        self.attention_norm = nn.LayerNorm(width) if bias else nn.RMSNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.attention_out = nn.Linear(width, width, bias=bias)
        self.mlp_norm = nn.LayerNorm(width) if bias else nn.RMSNorm(width, eps=1e-6)
        self.mlp_in = nn.Linear(width, hidden if bias else 2 * hidden, bias=bias)
        self.mlp_out = nn.Linear(hidden, width, bias=bias)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        """``x [E, D]``, rows at int64 ``offsets [B + 1]`` -> ``[E, D]``."""
        if self.form == "llama":
            x = x + self.dropout(self._attended(self.attention_norm(x), offsets))
            out: Tensor = x + self.dropout(self._mlp(self.mlp_norm(x)))
            return out
        x = self.attention_norm(x + self.dropout(self._attended(x, offsets)))
        normed: Tensor = self.mlp_norm(x + self.dropout(self._mlp(x)))
        return normed

    def _attended(self, x: Tensor, offsets: Tensor) -> Tensor:
        tokens, width = x.shape
        split = self.qkv(x).view(tokens, 3, self.num_heads, width // self.num_heads)
        queries, keys, values = split.unbind(1)
        seen = ops.jagged_attention(queries, keys, values, offsets, kind="softmax", causal=self.causal)
        out: Tensor = self.attention_out(seen.reshape(tokens, width))
        return out

    def _mlp(self, x: Tensor) -> Tensor:
        inner = self.mlp_in(x)
        if self.form == "llama":
            gate, value = inner.chunk(2, -1)
            inner = F.silu(gate) * value
        else:
            inner = F.gelu(inner)
        out: Tensor = self.mlp_out(inner)
        return out


def appended(values: Tensor, offsets: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Packed rows with something behind each.

    Args:
        values: ``[E, ...]``, rows at ``offsets``.
        offsets: int64 ``[B + 1]``.
        tokens: ``[T, ...]`` for every row alike, or ``[B, T, ...]``: row b's own.

    Returns:
        ``[E + B T, ...]`` and its offsets.
    """
    count = offsets.shape[0] - 1
    if tokens.dim() == values.dim():
        tokens = tokens.expand(count, *tokens.shape)
    added = tokens.shape[1]
    here = torch.arange(count + 1, device=offsets.device) * added
    longer = offsets + here
    rows = torch.repeat_interleave(torch.arange(count, device=offsets.device), offsets.diff(), output_size=len(values))
    old = torch.arange(values.shape[0], device=offsets.device) + here[rows]
    new = (longer[1:, None] - added + torch.arange(added, device=offsets.device)).flatten()
    both = torch.cat([values, tokens.flatten(0, 1).to(values.dtype)])
    out = torch.empty_like(both).index_copy(0, torch.cat([old, new]), both)
    return out, longer


def before_targets(batch: Batch) -> Jagged:
    """M rows: for each target what came before it, for networks in which a whole row makes one state."""
    positions, offsets = batch.target_positions, batch.items.offsets
    starts = offsets[torch.searchsorted(offsets, positions, right=True) - 1]
    before = offsets_of(positions - starts + 1)
    index = row_positions(before) + torch.repeat_interleave(starts, before.diff())
    return Jagged(batch.items.values[index], before)


def codes_before_targets(op: str, batch: Batch) -> Jagged:
    """M rows of codes int64 ``[E', L]``: for each target those of the items that came before it.

    Raises:
        InvalidValueError: a batch without codes.
    """
    if batch.codes is None:
        raise InvalidValueError(f"{op}: batch must have codes (let it pass a layout first), got None")
    places = torch.arange(batch.items.values.shape[0], device=batch.items.offsets.device)
    before = before_targets(Batch(Jagged(places, batch.items.offsets), batch.targets))
    return Jagged(batch.codes[before.values], before.offsets)
