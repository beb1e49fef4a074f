"""A history that is read once, and slots for the codes of the next item, which see it and each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_fast.base.batch import Batch
from genrec_fast.base.checks import check_heads
from genrec_fast.base.config import check_fields
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.dropout import Dropout
from genrec_fast.nn.histories import check_length, codes_of
from genrec_fast.nn.packed import Packing, row_positions
from genrec_fast.nn.packed_block import codes_before_targets
from genrec_fast.nn.transformer import Block, init_weights
from genrec_fast.ops import jagged_attention

MASKED = -1


@dataclass(frozen=True, kw_only=True)
class SlotDiffusionConfig:
    """Settings of ``SlotDiffusion``; the defaults are DiffGRM's."""

    width: int = 256  # channels
    num_heads: int = 4  # a divisor of width
    num_encoder_layers: int = 1  # over the items of the history
    num_layers: int = 4  # over the slots
    hidden: int = 1024  # channels inside the MLP of a block
    dropout: float = 0.1  # rate, on the inputs and on what each branch of a block adds
    max_items: int = 50  # longest history, items

    def __post_init__(self) -> None:
        check_fields(self, zero=("num_encoder_layers", "num_layers"))
        check_heads("SlotDiffusionConfig", self.width, self.num_heads)

    def build(self, catalog: Catalog) -> SlotDiffusion:
        """Makes the backbone; features are not used."""
        return SlotDiffusion(self, catalog.codebook_sizes)


class SlotHistories(NamedTuple):
    """Per layer of the slots keys and values ``[E, H, D / H]`` of R histories, and where these lie."""

    keys: list[Tensor]
    values: list[Tensor]
    offsets: Tensor


class SlotDiffusion(nn.Module):
    """An item of the history is one token, a code of the next item one slot; one table of codes for all of it.

    ::

        item = MLP(its codes' embeddings, end to end) + position;   history = norm(encoder(items))
        slot l = e[l, code], or mask[l] where it is masked;         h = norm(decoder(slots, history))
        logits of level l = h_l . e[l]

    Nothing but their embeddings tells slots apart, and every slot sees the others and the whole history. A level's
    softmax runs over its own codes. Speaks ``MaskedCodes``.

    Notes:
        All partly written semantic IDs of a user share the keys and values of the history.

    Source: DiffGRM (arXiv:2510.21805) and its public code (liuzhao09/DiffGRM).
    """

    def __init__(self, config: SlotDiffusionConfig, codebook_sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.config, self.codebook_sizes = config, codebook_sizes
        width, levels = config.width, len(codebook_sizes)
        self.register_buffer("bases", torch.tensor([0, *codebook_sizes[:-1]]).cumsum(0), persistent=False)
        self.codes = nn.Embedding(sum(codebook_sizes), width)  # the levels one below the other
        self.masks = nn.Parameter(torch.empty(levels, width))
        self.item_in, self.item_out = nn.Linear(levels * width, width), nn.Linear(width, width)
        self.positions = nn.Embedding(config.max_items, width)
        self.input_dropout = Dropout(config.dropout)
        form = (width, config.num_heads, config.hidden, config.dropout)
        self.encoder = nn.ModuleList(Block(*form, causal=False) for _ in range(config.num_encoder_layers))
        self.slots = nn.ModuleList(_SlotBlock(*form) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(width)
        self.apply(init_weights)
        nn.init.normal_(self.masks, std=0.02)

    bases: Tensor

    def read(self, batch: Batch) -> SlotHistories:
        """What the slots see of B histories."""
        return self._read(Jagged(codes_of("slot_diffusion", batch, self.config.max_items), batch.items.offsets))

    def read_targets(self, batch: Batch) -> SlotHistories:
        """What the slots see of M histories: what came before each target."""
        check_length("slot_diffusion", batch, self.config.max_items)
        return self._read(codes_before_targets("slot_diffusion", batch))

    def _read(self, codes: Jagged) -> SlotHistories:
        embedded = self.codes(codes.values + self.bases).flatten(1)
        places = row_positions(codes.offsets)
        x = self.input_dropout(self.item_out(F.relu(self.item_in(embedded))) + self.positions(places))
        rows = Packing(codes.offsets, places, self.config.max_items)
        for block in self.encoder:
            x = block(x, rows)
        x = self.norm(x)
        both = [layer.seen(x) for layer in self.slots if isinstance(layer, _SlotBlock)]
        return SlotHistories([keys for keys, _ in both], [values for _, values in both], codes.offsets)

    def code_logprobs(self, histories: SlotHistories, written: Tensor) -> list[Tensor]:
        """Per level float32 ``[R, W, K_l]``, of int64 ``written [R, W, L]``, -1 where a code is masked."""
        rows, beams, levels = written.shape
        known = self.codes(written.clamp(min=0) + self.bases)
        x = torch.where((written == MASKED).unsqueeze(3), self.masks.to(known.dtype), known)
        x = self.input_dropout(x.view(rows * beams, levels, self.config.width))
        offsets = torch.arange(rows + 1, device=written.device) * (beams * levels)
        for block, keys, values in zip(self.slots, histories.keys, histories.values, strict=True):
            x = block(x, keys, values, offsets, histories.offsets)
        states = self.norm(x).view(rows, beams, levels, self.config.width)
        tables = self.codes.weight.split(self.codebook_sizes)
        return [(states[:, :, level] @ table.T).float().log_softmax(-1) for level, table in enumerate(tables)]


class _SlotBlock(nn.Module):
    """Slots see each other, then the history, then an MLP; norm before each branch."""

    def __init__(self, width: int, num_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.self_norm, self.cross_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.self_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.cross_out = nn.Linear(width, width)
        self.mlp_in, self.mlp_out = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = Dropout(dropout)

    def seen(self, history: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values ``[E, H, D / H]`` of ``history [E, D]``."""
        width = history.shape[1]
        keys, values = self.key_value(history).view(-1, 2, self.num_heads, width // self.num_heads).unbind(1)
        return keys, values

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, offsets: Tensor, kv_offsets: Tensor) -> Tensor:
        """``x [P, L, D]``: P semantic IDs, whose slots lie at ``offsets`` of the rows of the history."""
        count, levels, width = x.shape
        split = self.qkv(self.self_norm(x)).view(count, levels, 3, self.num_heads, width // self.num_heads)
        own = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in split.unbind(2)))
        x = x + self.dropout(self.self_out(own.transpose(1, 2).reshape(count, levels, width)))
        queries = self.query(self.cross_norm(x)).view(count * levels, self.num_heads, width // self.num_heads)
        told = jagged_attention(queries, keys, values, offsets, kind="softmax", causal=False, kv_offsets=kv_offsets)
        x = x + self.dropout(self.cross_out(told.reshape(count, levels, width)))
        out: Tensor = x + self.dropout(self.mlp_out(F.relu(self.mlp_in(self.mlp_norm(x)))))
        return out
