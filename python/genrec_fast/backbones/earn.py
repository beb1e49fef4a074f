"""EARN: registers at both ends of the prompt; behind the first layers they stand for the whole history."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genrec_fast.base.batch import Batch
from genrec_fast.base.checks import check_heads
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import Session
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.behind import BehindPrompts, Recorded
from genrec_fast.nn.dropout import Dropout
from genrec_fast.nn.engine.modules import ModuleSession
from genrec_fast.nn.histories import codes_of, codes_of_targets, with_start
from genrec_fast.nn.packed import Packing, equal_rows, row_positions
from genrec_fast.nn.packed_block import appended
from genrec_fast.nn.transformer import Block, init_weights

KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class EarnConfig:
    """Settings of ``Earn``; the published network is a language model."""

    width: int = 128  # channels
    num_heads: int = 4  # a divisor of width
    num_layers: int = 6
    num_history_layers: int = 2  # k: so many first layers read the history; those behind, registers and codes alone
    hidden: int = 512  # channels inside the MLP of a block
    dropout: float = 0.1  # rate, on the input and on what each half of a block adds
    max_items: int = 20  # longest history, items

    def __post_init__(self) -> None:
        check_fields(self)
        check_heads("EarnConfig", self.width, self.num_heads)
        if self.num_history_layers > self.num_layers:
            raise InvalidValueError(
                f"EarnConfig: num_history_layers must be at most num_layers = {self.num_layers}, "
                f"got {self.num_history_layers}"
            )

    def build(self, catalog: Catalog) -> Earn:
        """Makes the backbone; it reads codes alone, so items and features are not used."""
        return Earn(self, catalog.codebook_sizes)


class Earn(nn.Module):
    """A causal transformer over codes, whose layers behind the k-th see two registers in the place of the history.

    ::

        row         first register | codes of the history, item by item | last register | codes that are written
        layer < k   a token sees all that stands before it
        layer >= k  only registers and written codes go on: each sees those before it
        logits      of level 0 from the last register, of level l from the code of level l - 1

    So a history of S items leaves keys and values of ``S L + 1`` tokens in k layers in place of all, and behind them a
    beam attends to at most ``L + 1`` tokens. With ``num_history_layers = num_layers`` it is a plain transformer. The
    first register sees itself alone, so it is the same for everyone and kept once. Speaks ``Autoregressive`` and
    ``TeacherForced``, and reads trees; training asks for the last position of each history (``targets="last"``).

    Notes:
        A code of the history has a position, counted from the newest one; registers and written codes have their own.
        Torch's modules run it: the native engine has no stack whose layers keep different tokens. The k-th layer makes
        nothing but keys and values of the history, as nothing else of it goes on.

    Source: EARN (arXiv:2507.00715), of which we know the abstract and public summaries.
    """

    def __init__(self, config: EarnConfig, codebook_sizes: tuple[int, ...]) -> None:
        super().__init__()
        width, levels = config.width, len(codebook_sizes)
        self.config, self.codebook_sizes = config, codebook_sizes
        offsets = torch.tensor((0, *codebook_sizes)).cumsum(0)
        self.register_buffer("level_offsets", offsets[:-1], persistent=False)
        self.codes = nn.Embedding(int(offsets[-1]), width)
        self.positions = nn.Embedding(config.max_items * levels, width)
        self.first = nn.Parameter(torch.empty(width))
        self.behind = nn.Embedding(levels, width)  # the last register, and the places of the codes behind it
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(width, config.num_heads, config.hidden, config.dropout) for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, size, bias=False) for size in codebook_sizes)
        self.apply(init_weights)
        nn.init.normal_(self.first, std=0.02)

    level_offsets: Tensor

    def level_logits(self, batch: Batch) -> list[Tensor]:
        """Per level, ``[B, K_l]``, given the target's codes of the levels before.

        Raises:
            InvalidValueError: a batch that passed no layout, too long a history, or one whose only target is not at its
                last position.
        """
        targets = codes_of_targets("earn", batch, last=True)
        read, prompt = self._prompt(batch)
        levels = len(self.codebook_sizes)
        known = targets[:, :-1] + self.level_offsets[:-1]
        written = [self.behind.weight[:1].expand(len(batch), 1, -1), self.codes(known) + self.behind.weight[1:]]
        x, offsets = appended(read, prompt.offsets, torch.cat(written, 1))
        x, rows = self.dropout(x), Packing(offsets, row_positions(offsets), self._longest)
        history = self.config.num_history_layers
        for block in self.blocks[:history]:
            x = block(x, rows)
        ends = offsets[1:, None] - levels + torch.arange(levels, device=x.device)
        x = x[torch.cat([offsets[:-1, None], ends], 1).flatten()]
        rows = equal_rows(len(batch), levels + 1, x.device)
        for block in self.blocks[history:]:
            x = block(x, rows)
        states = self.norm(x).view(len(batch), levels + 1, -1)
        return [head(states[:, level + 1]) for level, head in enumerate(self.heads)]

    def prefill(self, batch: Batch) -> Session:
        """Reads each history once, through the first k layers.

        Raises:
            InvalidValueError: a batch that passed no layout, or too long a history.
        """
        x, rows = self._prompt(batch)
        history = self.config.num_history_layers
        kept = self._recorded(self.dropout(x), rows.offsets, history)
        alone = rows.offsets.new_tensor([0, 1])
        first = self._recorded(self.dropout(self.first.unsqueeze(0)), alone, len(self.blocks))
        last = self.behind.weight[:1].expand(len(batch), -1)
        return ModuleSession.begin(_Behind(self, first), self.dropout(last), kept, rows.offsets)

    @property
    def _longest(self) -> int:
        """Tokens of the longest row: registers and codes."""
        return (self.config.max_items + 1) * len(self.codebook_sizes) + 1

    def _prompt(self, batch: Batch) -> tuple[Tensor, Packing]:
        """``[E L + B, D]``: each row's first register and the codes of its history."""
        read = (codes_of("earn", batch, self.config.max_items) + self.level_offsets).flatten()
        codes = Jagged(read, batch.items.offsets * len(self.codebook_sizes))
        from_newest = codes.lengths[codes.row_index()] - 1 - row_positions(codes.offsets)
        embedded = self.codes(codes.values) + self.positions(from_newest)
        return with_start(embedded, codes, self.first, self._longest)

    def _recorded(self, x: Tensor, offsets: Tensor, layers: int) -> tuple[KeysValues, ...]:
        """Of so many first layers, keys and values of rows that see nothing but themselves."""
        past = Recorded()
        rows = Packing(offsets, row_positions(offsets), self._longest, past=past, kv_offsets=offsets)
        for number, block in enumerate(self.blocks[: layers - 1]):
            x = block(x, rows, number)
        last = self.blocks[layers - 1]
        assert isinstance(last, Block)
        return (*past.known, last.keys_values(x))


class _Behind:
    """What a ``ModuleSession`` runs: rows of the last register and of codes.

    Args:
        model: whose.
        first: of every layer, keys and values ``[1, H, D / H]`` of the first register.
    """

    def __init__(self, model: Earn, first: tuple[KeysValues, ...]) -> None:
        self.model, self.first, self.codebook_sizes = model, first, model.codebook_sizes

    def embed_codes(self, codes: Tensor, level: int) -> Tensor:
        embedded: Tensor = self.model.codes(codes + self.model.level_offsets[level])
        return embedded + self.model.behind.weight[level + 1]

    def decode(self, x: Tensor, rows: Packing, prompts: tuple[KeysValues, ...], offsets: Tensor | None) -> Tensor:
        assert offsets is not None
        users = torch.arange(len(offsets) - 1, device=x.device)
        users = users.repeat_interleave(len(x) // max(len(users), 1))
        alone = offsets.new_tensor([0, 1])
        history = BehindPrompts(rows, prompts, offsets, users)
        registers = BehindPrompts(rows, self.first, alone, torch.zeros_like(users))
        for number, block in enumerate(self.model.blocks):
            seen = history if number < len(prompts) else registers
            x = block(x, dataclasses.replace(rows, past=seen, kv_offsets=seen.offsets), number)
        normed: Tensor = self.model.norm(x)
        return normed

    def logits(self, hidden: Tensor, level: int) -> Tensor:
        found: Tensor = self.model.heads[level](hidden)
        return found
