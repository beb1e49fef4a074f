"""A network of masked codes: of the next item's codes some are hidden, any of them, and told from the others.

The history is read once; an item's slots see it and each other in both directions, so that codes can be told in any
order. A search writes them level by level, and reads all slots anew at every level, as each changes with every code.

Source: LLaDA-Rec (arXiv:2511.06254), with slots over a history that is read once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import genrec_fast as gf
from genrec_fast.base.protocols import Session
from genrec_fast.nn.histories import check_length
from proofs import shop
from proofs.any_order import HIDDEN, AnyOrderConfig


@dataclass(frozen=True)
class Slots(Session):
    """What every beam has written."""

    model: Masked
    history: tuple[Tensor, Tensor]  # [B, S, D], and bool [B, S]: what is padding
    written: Tensor  # int64 [B, W, L]; HIDDEN where nothing is
    level: int = 0

    def scores(self, span: object = None, *, log_sums: bool = False) -> tuple[Tensor, None]:
        return self.model.slot_logits(self.history, self.written)[self.level], None

    def extend(self, codes: Tensor, parents: Tensor) -> Slots:
        written = self.written.gather(1, parents.long().unsqueeze(2).expand(-1, -1, self.written.shape[2]))
        written = written.index_copy(2, torch.tensor([self.level]), codes.long().unsqueeze(2))
        return dataclasses.replace(self, written=written, level=self.level + 1)

    def select(self, users: Tensor) -> Slots:
        history = self.history[0][users], self.history[1][users]
        return dataclasses.replace(self, history=history, written=self.written[users])


@gf.register_config
@dataclass(frozen=True, kw_only=True)
class MaskedConfig:
    """Settings of ``Masked``."""

    width: int = 16
    dropout: float = 0.1
    max_items: int = 20

    def build(self, catalog: gf.Catalog) -> Masked:
        return Masked(self, catalog.codebook_sizes)


class Masked(nn.Module):
    """A block over items, then one over slots that see the history and each other."""

    def __init__(self, config: MaskedConfig, codebook_sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.config, self.codebook_sizes = config, codebook_sizes
        self.codes = nn.ModuleList(nn.Embedding(size + 1, config.width) for size in codebook_sizes)  # the last: HIDDEN
        self.places = nn.Embedding(config.max_items + 1, config.width)  # a start, so that no history is empty
        form = (config.width, 2, 2 * config.width, config.dropout)
        settings = {"batch_first": True, "norm_first": True}
        self.encoder = nn.TransformerEncoderLayer(*form, **settings)
        self.decoder = nn.TransformerDecoderLayer(*form, **settings)
        self.heads = nn.ModuleList(nn.Linear(config.width, size) for size in codebook_sizes)

    def embed(self, codes: Tensor) -> Tensor:
        return torch.stack([table(codes[..., level]) for level, table in enumerate(self.codes)], -2)

    def read(self, batch: gf.Batch) -> tuple[Tensor, Tensor]:
        check_length("masked", batch, self.config.max_items)
        items = gf.Jagged(self.embed(batch.codes).sum(1), batch.items.offsets).padded()
        x = F.pad(items, (0, 0, 1, 0)) + self.places.weight[: items.shape[1] + 1]
        padding = torch.arange(x.shape[1]) > batch.items.lengths.unsqueeze(1)
        return self.encoder(x, src_key_padding_mask=padding), padding

    def slot_logits(self, history: tuple[Tensor, Tensor], written: Tensor) -> list[Tensor]:
        """Per level ``[B, W, K]``, whatever is hidden of int64 ``[B, W, L]``."""
        (users, beams, levels), sizes = written.shape, torch.tensor(self.codebook_sizes)
        slots = self.embed(torch.where(written == HIDDEN, sizes, written)).flatten(0, 1)
        states, padding = (part.repeat_interleave(beams, 0) for part in history)
        x = self.decoder(slots, states, memory_key_padding_mask=padding).view(users, beams, levels, -1)
        return [head(x[:, :, level]) for level, head in enumerate(self.heads)]

    def prefill(self, batch: gf.Batch) -> Slots:
        return Slots(self, self.read(batch), torch.full((len(batch), 1, len(self.codebook_sizes)), HIDDEN))


def recipe() -> gf.Recipe:
    parts = {"backbone": MaskedConfig(), "objective": AnyOrderConfig()}
    return dataclasses.replace(shop.recipe(), name="masked", **parts)
