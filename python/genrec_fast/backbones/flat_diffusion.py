"""One bidirectional stack over the codes of a history and of the item that comes next, some of which are masked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from genrec_fast.base.batch import Batch
from genrec_fast.base.checks import check_heads
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.dropout import Dropout
from genrec_fast.nn.histories import check_length, codes_of
from genrec_fast.nn.packed import row_positions
from genrec_fast.nn.packed_block import PackedBlock, appended, codes_before_targets
from genrec_fast.nn.transformer import init_weights

MASKED = -1


@dataclass(frozen=True, kw_only=True)
class FlatDiffusionConfig:
    """Settings of ``FlatDiffusion``; the defaults are LLaDA-Rec's, but for ``masks``."""

    width: int = 256  # channels
    num_heads: int = 4  # a divisor of width
    num_layers: int = 4
    hidden: int = 1024  # channels inside the MLP of a block
    dropout: float = 0.1  # rate, on the input and on what each branch of a block adds
    temperature: float = 1.0  # divides the logits; LLaDA-Rec: .3, .7 or 1
    masks: Literal["level", "one"] = "level"  # a masked code's embedding is its level's own, or the same for all
    max_items: int = 20  # longest history, items

    def __post_init__(self) -> None:
        check_fields(self, zero=("num_layers",), above=("temperature",))
        check_heads("FlatDiffusionConfig", self.width, self.num_heads)

    def build(self, catalog: Catalog) -> FlatDiffusion:
        """Makes the backbone; features are not used."""
        return FlatDiffusion(self, catalog.codebook_sizes)


class FlatDiffusion(nn.Module):
    """A token per code; every token sees its whole row, and all tokens of an item share its position's embedding.

    ::

        x = embedding(code or mask) + position(item);  logits = norm(blocks(x)) W / temperature

    The item that comes next stands in the last position, ``max_items``, however long the history is. The softmax runs
    over the codes of all levels. With ``masks="one"`` nothing tells the masked codes of an item from each other, so
    they all get the same log-probabilities. Speaks ``MaskedCodes`` and ``MaskedRows``.

    Notes:
        Histories see what is written behind them: every partly written semantic ID costs a reading of its history.

    Source: LLaDA-Rec (arXiv:2511.06254), section 3.
    """

    def __init__(self, config: FlatDiffusionConfig, codebook_sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.config, self.codebook_sizes = config, codebook_sizes
        width, levels = config.width, len(codebook_sizes)
        total = sum(codebook_sizes)
        masks = torch.arange(levels) if config.masks == "level" else torch.zeros(levels, dtype=torch.int64)
        self.register_buffer("bases", torch.tensor([0, *codebook_sizes[:-1]]).cumsum(0), persistent=False)
        self.register_buffer("masks", total + masks, persistent=False)
        self.tokens = nn.Embedding(total + int(masks.max()) + 1, width)
        self.positions = nn.Embedding(config.max_items + 1, width)
        self.input_dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            PackedBlock(width, config.num_heads, config.hidden, config.dropout, causal=False, form="llama")
            for _ in range(config.num_layers)
        )
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.head = nn.Linear(width, total, bias=False)
        self.apply(init_weights)

    bases: Tensor
    masks: Tensor

    def read(self, batch: Batch) -> Jagged:
        """Embedded items ``[E, L, D]`` of B rows."""
        return self._embedded(Jagged(codes_of("flat_diffusion", batch, self.config.max_items), batch.items.offsets))

    def read_targets(self, batch: Batch) -> Jagged:
        """Embedded items of M rows: what came before each target."""
        check_length("flat_diffusion", batch, self.config.max_items)
        return self._embedded(codes_before_targets("flat_diffusion", batch))

    def code_logprobs(self, histories: Jagged, written: Tensor) -> list[Tensor]:
        """Per level float32 ``[R, W, K_l]``, of int64 ``written [R, W, L]``, -1 where a code is masked."""
        rows, beams, levels = written.shape
        again = histories.select(torch.arange(rows, device=written.device).repeat_interleave(beams))
        slots = self._embed(written.flatten(0, 1)) + self.positions.weight[-1]
        values, offsets = appended(again.values, again.offsets, slots.unsqueeze(1))
        states = self._states(values.flatten(0, 1), offsets * levels)
        ends = offsets[1:, None] * levels - levels + torch.arange(levels, device=offsets.device)
        every = self._logprobs(states[ends.flatten()]).view(rows, beams, levels, sum(self.codebook_sizes))
        parts = every.split(self.codebook_sizes, 3)
        return [part[:, :, level] for level, part in enumerate(parts)]

    def row_logprobs(self, codes: Jagged, at: Tensor) -> Tensor:
        """float32 ``[M, V]`` of the M codes that bool ``at [E, L]`` names; the last item of each row comes next."""
        lengths, longest = codes.lengths, self.config.max_items + 1
        if lengths.numel() and int(lengths.max()) > longest:
            raise InvalidValueError(
                f"flat_diffusion: rows must have at most max_items + 1 = {longest} items, got {int(lengths.max())}"
            )
        places = row_positions(codes.offsets)
        last = codes.offsets[1:][lengths > 0] - 1
        places = places.index_fill(0, last, self.config.max_items)
        x = self._embed(codes.values) + self.positions(places).unsqueeze(1)
        states = self._states(x.flatten(0, 1), codes.offsets * codes.values.shape[1])
        return self._logprobs(states[at.flatten()])

    def _embedded(self, codes: Jagged) -> Jagged:
        places = self.positions(row_positions(codes.offsets)).unsqueeze(1)
        return Jagged(self._embed(codes.values) + places, codes.offsets)

    def _embed(self, codes: Tensor) -> Tensor:
        found: Tensor = self.tokens(torch.where(codes == MASKED, self.masks, codes + self.bases))
        return found

    def _states(self, x: Tensor, offsets: Tensor) -> Tensor:
        x = self.input_dropout(x)
        for block in self.blocks:
            x = block(x, offsets)
        return x

    def _logprobs(self, states: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(states))
        return (logits.float() / self.config.temperature).log_softmax(-1)
