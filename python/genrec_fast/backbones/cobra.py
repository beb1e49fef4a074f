"""COBRA's network: a causal transformer over each item's codes and, behind them, its vector."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from genrec_fast.base.batch import Batch
from genrec_fast.base.checks import check_heads
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import Session
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.behind import BehindPrompts, Recorded
from genrec_fast.nn.dropout import Dropout
from genrec_fast.nn.engine.modules import ModuleSession
from genrec_fast.nn.histories import check_length
from genrec_fast.nn.packed import Packing, row_positions
from genrec_fast.nn.text import TextVectors
from genrec_fast.nn.transformer import Block, init_weights


@dataclass(frozen=True, kw_only=True)
class CobraConfig:
    """Settings of ``Cobra``; the defaults are those of the public re-implementation, but for the width (768 there)."""

    needs_features: ClassVar[bool] = True  # no catalog without feature vectors will do
    width: int = 128  # channels
    num_heads: int = 4  # a divisor of width
    num_layers: int = 2
    hidden: int = 512  # channels inside the MLP of a block
    dropout: float = 0.1  # rate
    text_hidden: tuple[int, ...] = (256,)  # channels of the layers between an item's features and its vector
    max_items: int = 20  # longest history, items

    def __post_init__(self) -> None:
        check_fields(self)
        check_heads("CobraConfig", self.width, self.num_heads)

    def build(self, catalog: Catalog) -> Cobra:
        """Makes the backbone of a catalog with features.

        Raises:
            InvalidValueError: it has none, or its layout does not hand them on.
        """
        if catalog.features is None:
            raise InvalidValueError("CobraConfig: catalog must have features (layout use_features), got None")
        return Cobra(self, catalog.codebook_sizes, catalog.features)


class Cobra(nn.Module):
    """A stream per history: a start, then of each item its codes and its vector, each token seeing those before it.

    ::

        start  s_0 .. s_(L-1) v   s_0 .. s_(L-1) v  ...
        code 0 of the next item is read at the last v (or the start), code l at code l - 1,
        and where among the items' vectors the next one lies at its last code.

    A vector is an MLP of the item's features (``item_table``), of length 1. Speaks ``Autoregressive``,
    ``TeacherForced``, ``CodesAndVectors`` and ``CodesThenVectors``; torch runs it.

    Args:
        config: settings.
        codebook_sizes: of the L levels.
        features: float ``[N, F]`` of all items; kept, not saved (they are the catalog's).

    Source: COBRA (arXiv:2503.02453).
    """

    def __init__(self, config: CobraConfig, codebook_sizes: tuple[int, ...], features: Tensor) -> None:
        super().__init__()
        width = config.width
        self.config, self.codebook_sizes = config, codebook_sizes
        self.code_embeddings = nn.ModuleList(nn.Embedding(size, width) for size in codebook_sizes)
        self.texts = TextVectors(features, config.text_hidden, width)
        self.vector_in = nn.Linear(width, width)
        self.positions = nn.Embedding((config.max_items + 1) * (len(codebook_sizes) + 1), width)
        self.start = nn.Parameter(torch.empty(width))
        self.input_dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(width, config.num_heads, config.hidden, config.dropout) for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in codebook_sizes)
        self.vector_out = nn.Linear(width, width)
        self.apply(init_weights)
        nn.init.normal_(self.start, std=0.02)

    def item_table(self) -> Tensor:
        """``[N, D]``: of length 1."""
        return self.texts.table()

    def level_logits(self, batch: Batch) -> list[Tensor]:
        """Per level, ``[M, K_l]``, given the target's codes of the levels before."""
        return self.predictions(batch)[0]

    def predictions(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """See ``CodesAndVectors``; a target must be the item that follows its position in the row.

        Raises:
            InvalidValueError: no targets, or one that does not stand behind its position.
        """
        if batch.target_codes is None:
            raise InvalidValueError("cobra: batch must have target_codes (let it pass a layout first), got None")
        positions, levels = batch.target_positions, len(self.codebook_sizes)
        lasts = batch.items.offsets[1:] - 1
        ends = torch.isin(lasts, positions) & (batch.items.lengths > 0)  # rows whose next item is not in the stream
        self._require_next(batch, positions, lasts)
        behind = batch.target_codes[torch.isin(positions, lasts)]
        x, rows = self._stream(batch, behind, ends)
        for block in self.blocks:
            x = block(x, rows)
        x = self.norm(x)
        owner = torch.searchsorted(batch.items.offsets, positions, right=True) - 1
        place = positions - batch.items.offsets[owner]
        at = rows.offsets[owner] + (place + 1) * (levels + 1)  # each position's vector: there code 0 is read
        logits = [head(x[at + level]) for level, head in enumerate(self.heads)]
        return logits, nn.functional.normalize(self.vector_out(x[at + levels]).float(), dim=1)

    @staticmethod
    def _require_next(batch: Batch, positions: Tensor, lasts: Tensor) -> None:
        assert batch.targets is not None
        inner = positions[~torch.isin(positions, lasts)]
        if not torch.equal(batch.targets[inner], batch.items.values[inner + 1]):
            raise InvalidValueError("cobra: a target must be the item behind its position, got another")

    def prefill(self, batch: Batch) -> Session:
        """Reads each history once; torch runs the search."""
        check_length("cobra", batch, self.config.max_items)
        none = torch.zeros(len(batch), dtype=torch.bool, device=batch.items.offsets.device)
        x, rows = self._stream(batch, None, none)
        last = rows.offsets[1:] - 1
        before = torch.ones(len(x), dtype=torch.bool, device=x.device)
        before[last] = False
        recorded = Recorded()
        rows = dataclasses.replace(rows, past=recorded, kv_offsets=rows.offsets)
        states = x
        for number, block in enumerate(self.blocks):
            states = block(states, rows, number)
        prompts = tuple((keys[before], values[before]) for keys, values in recorded.known)
        ends = rows.offsets - torch.arange(len(batch) + 1, device=x.device)
        return ModuleSession.begin(_Behind(self), x[last], prompts, ends)

    def vectors_behind(self, session: Session) -> Tensor:
        """See ``CodesThenVectors``.

        Raises:
            InvalidTypeError: a session that is not of this backbone's ``prefill``.
        """
        if not isinstance(session, ModuleSession):
            raise InvalidTypeError(f"cobra: session must be of prefill, got {type(session).__name__}")
        return nn.functional.normalize(self.vector_out(session.hidden).float(), dim=2)

    def _stream(self, batch: Batch, behind: Tensor | None, ends: Tensor) -> tuple[Tensor, Packing]:
        """Tokens ``[T, D]`` and their rows; ``behind``: codes of the next item, for rows where bool ``ends [B]``."""
        check_length("cobra", batch, self.config.max_items)
        if batch.codes is None or batch.features is None:
            raise InvalidValueError("cobra: batch must have codes and features (let it pass a layout first), got None")
        levels, lengths, device = len(self.codebook_sizes), batch.items.lengths, batch.codes.device
        codes = torch.stack([table(batch.codes[:, level]) for level, table in enumerate(self.code_embeddings)], 1)
        vectors = self.vector_in(nn.functional.normalize(self.texts(batch.features), dim=1))
        items = torch.cat([codes, vectors.unsqueeze(1).to(codes.dtype)], 1)  # [E, L + 1, D]
        counts = 1 + lengths * (levels + 1) + ends.long() * levels
        offsets = Jagged.from_lengths(torch.empty(int(counts.sum()), 0, device=device), counts).offsets
        x = self.start.to(items.dtype).repeat(int(offsets[-1]), 1)
        first = offsets[:-1].repeat_interleave(lengths) + 1
        first = first + row_positions(batch.items.offsets) * (levels + 1)
        at = first.unsqueeze(1) + torch.arange(levels + 1, device=device)
        x = x.index_copy(0, at.flatten(), items.flatten(0, 1))
        if behind is not None and behind.numel():
            written = [table(behind[:, level]) for level, table in enumerate(self.code_embeddings)]
            at = offsets[1:][ends].unsqueeze(1) - levels + torch.arange(levels, device=device)
            x = x.index_copy(0, at.flatten(), torch.stack(written, 1).flatten(0, 1))
        places = row_positions(offsets)
        longest = (self.config.max_items + 1) * (levels + 1)
        return self.input_dropout(x + self.positions(places)), Packing(offsets, places, longest)


class _Behind:
    """What a ``ModuleSession`` runs: the network, behind prompts that its rows see."""

    def __init__(self, model: Cobra) -> None:
        self.model, self.codebook_sizes = model, model.codebook_sizes

    def embed_codes(self, codes: Tensor, level: int) -> Tensor:
        embedded: Tensor = self.model.code_embeddings[level](codes)
        return embedded

    def decode(
        self, x: Tensor, rows: Packing, prompts: tuple[tuple[Tensor, Tensor], ...], offsets: Tensor | None
    ) -> Tensor:
        assert offsets is not None
        each = len(x) // max(len(offsets) - 1, 1)
        users = torch.arange(len(offsets) - 1, device=x.device).repeat_interleave(each)
        if bool((rows.positions > 0).any()):  # codes: the first row of a search has its position already
            x = x + self.model.positions(offsets.diff()[users] + rows.positions)
        behind = BehindPrompts(rows, prompts, offsets, users)
        rows = dataclasses.replace(rows, past=behind, kv_offsets=behind.offsets)
        for number, block in enumerate(self.model.blocks):
            x = block(x, rows, number)
        normed: Tensor = self.model.norm(x)
        return normed

    def logits(self, hidden: Tensor, level: int) -> Tensor:
        found: Tensor = self.model.heads[level](hidden)
        return found
