"""RecGPT: a causal transformer over codes; those of one item see each other and write the next item at once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_fast.base.batch import Batch
from genrec_fast.base.checks import check_heads
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.protocols import Session
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.dropout import Dropout
from genrec_fast.nn.histories import codes_of
from genrec_fast.nn.transformer import init_weights


@dataclass(frozen=True, kw_only=True)
class RecGPTConfig:
    """Settings of ``RecGPT``; the published model is 768 wide, with 12 heads and 3 layers."""

    width: int = 128  # channels
    num_heads: int = 4  # a divisor of width
    num_layers: int = 3
    hidden: int = 512  # channels inside the MLP of a block
    dropout: float = 0.1  # rate, on the input and on what each half of a block adds
    max_items: int = 20  # longest history, items

    def __post_init__(self) -> None:
        check_fields(self, zero=("num_layers",))
        check_heads("RecGPTConfig", self.width, self.num_heads)

    def build(self, catalog: Catalog) -> RecGPT:
        """Makes the backbone; ``feature_dim`` is that of ``batch.features``, ``None`` where there are none."""
        return RecGPT(self, catalog.codebook_sizes, catalog.feature_dim)


class RecGPT(nn.Module):
    """Tokens are the L codes of each item; a token sees the items before its own, and its own whole item.

    ::

        input   norm(embedding of the code) + norm(W part l of the item's features) + position
        output  the state at code l of an item gives the logits of code l of the next

    One table and one head serve all levels. As no code of an item is read before the others are chosen, a level's
    logits do not depend on the codes before it: a search reads the network once. Speaks ``Autoregressive`` and
    ``TeacherForced``; an empty history has the state 0, as nothing is known of it.

    Notes:
        Features are cut into L parts, the last filled up with zeros. Rows are padded: attention takes memory of
        ``B (L S)^2``.

    Source: RecGPT (arXiv:2506.06270), its published code.
    """

    def __init__(self, config: RecGPTConfig, codebook_sizes: tuple[int, ...], feature_dim: int | None) -> None:
        super().__init__()
        width, levels, most = config.width, len(codebook_sizes), max(codebook_sizes)
        self.config, self.codebook_sizes = config, codebook_sizes
        self.codes = nn.Embedding(most, width)
        self.code_norm = nn.LayerNorm(width)
        self.positions = nn.Embedding(config.max_items * levels, width)
        self.features = None if feature_dim is None else nn.Linear(-(-feature_dim // levels), width, bias=False)
        self.feature_norm = None if feature_dim is None else nn.LayerNorm(width)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, most, bias=False)
        self.apply(init_weights)

    def _tokens(self, batch: Batch) -> Tensor:
        """``[E, L, D]``: what is read of each code."""
        x: Tensor = self.code_norm(self.codes(codes_of("recgpt", batch, self.config.max_items)))
        if self.features is not None and self.feature_norm is not None:
            if batch.features is None:
                raise InvalidValueError("recgpt: batch must have features, as in training, got None")
            levels, part = len(self.codebook_sizes), self.features.in_features
            filled = F.pad(batch.features, (0, levels * part - batch.features.shape[1]))
            x = x + self.feature_norm(self.features(filled.view(-1, levels, part)))
        return x

    def _states(self, batch: Batch) -> Tensor:
        """``[E, L, D]``: the state at every code."""
        tokens, items = self._tokens(batch), batch.items
        lengths, levels, width = items.lengths, len(self.codebook_sizes), self.config.width
        longest = int(lengths.max()) if lengths.numel() else 0
        if not tokens.shape[0]:
            return tokens
        rows = items.row_index()
        places = torch.arange(tokens.shape[0], device=rows.device) - items.offsets[rows]
        x = tokens.new_zeros(len(items), longest, levels, width).index_put((rows, places), tokens)
        x = self.dropout(x.flatten(1, 2) + self.positions.weight[: longest * levels])
        at = torch.arange(longest, device=rows.device).repeat_interleave(levels)
        mask = at[None, None, :] <= at[None, :, None]  # by items: a code sees those of its own, too
        mask = (mask & (at < lengths[:, None])[:, None, :]) | torch.eye(len(at), dtype=torch.bool, device=rows.device)
        for block in self.blocks:
            x = block(x, mask)
        normed: Tensor = self.norm(x)
        return normed.view(len(items), longest, levels, width)[rows, places]

    def _logits(self, states: Tensor) -> list[Tensor]:
        """Per level, ``[M, K_l]`` of states ``[M, L, D]``."""
        weights = [self.head.weight[:size] for size in self.codebook_sizes]
        return [F.linear(states[:, level], weight) for level, weight in enumerate(weights)]

    def level_logits(self, batch: Batch) -> list[Tensor]:
        """Per level, ``[M, K_l]``."""
        return self._logits(self._states(batch)[batch.target_positions])

    def prefill(self, batch: Batch) -> Session:
        """Reads each history once; there is nothing more to read."""
        states, some = self._states(batch), batch.items.lengths > 0
        last = states.new_zeros(len(batch), *states.shape[1:])
        last[some] = states[batch.items.offsets[1:][some] - 1]
        return _AtOnce(tuple(self._logits(last)), 0, 1)


class _Block(nn.Module):
    """GPT-2's: a norm in front of attention and MLP, GELU."""

    def __init__(self, config: RecGPTConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.num_heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp_in, self.mlp_out = nn.Linear(width, config.hidden), nn.Linear(config.hidden, width)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``x [B, T, D]``, where query i of a row sees key j by ``mask [B, T, T]``."""
        users, tokens, width = x.shape
        split = self.qkv(self.attention_norm(x)).view(users, tokens, 3, self.heads, width // self.heads)
        queries, keys, values = split.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask[:, None])
        x = x + self.dropout(self.out(seen.transpose(1, 2).reshape(users, tokens, width)))
        inner = F.gelu(self.mlp_in(self.mlp_norm(x)), approximate="tanh")
        out: Tensor = x + self.dropout(self.mlp_out(inner))
        return out


@dataclass(frozen=True)
class _AtOnce(Session):
    """Logits ``[B, K_l]`` of every level, whatever was written before."""

    logits: tuple[Tensor, ...]
    level: int
    beams: int

    def scores(self, span: Any = None, *, log_sums: bool = False) -> tuple[Tensor, Tensor | None]:
        return self.logits[self.level].unsqueeze(1).expand(-1, self.beams, -1).contiguous(), None

    def extend(self, codes: Tensor, parents: Tensor) -> _AtOnce:
        return dataclasses.replace(self, level=self.level + 1, beams=codes.shape[1])

    def select(self, users: Tensor) -> _AtOnce:
        users = users.to(self.logits[0].device)
        return dataclasses.replace(self, logits=tuple(level[users] for level in self.logits))
