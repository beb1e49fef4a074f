"""Timeline and depth: a causal transformer over items, then a small one that writes the next item's codes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_fast.backbones._timeline_native import begin_item, last_states, native_timeline
from genrec_fast.base.batch import Batch
from genrec_fast.base.checks import check_heads
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import Session
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.dropout import Dropout
from genrec_fast.nn.engine.modules import ModuleSession
from genrec_fast.nn.histories import at_last, at_targets, codes_of, with_start
from genrec_fast.nn.item_inputs import (
    CodeEmbeddings,
    ItemIds,
    ItemInputs,
    ItemInputsConfig,
    ProjectedFeatures,
    item_inputs,
)
from genrec_fast.nn.packed import Packing, equal_rows
from genrec_fast.nn.transformer import Block, init_weights


@dataclass(frozen=True, kw_only=True)
class TimelineConfig:
    """Settings of ``Timeline``."""

    width: int = 128  # channels of both transformers
    num_heads: int = 4  # a divisor of width
    num_layers: int = 3  # blocks over items
    num_depth_layers: int = 2  # blocks over the codes of one item
    hidden: int = 512  # channels inside the MLP of an item block
    depth_hidden: int = 512  # channels inside the MLP of a depth block
    dropout: float = 0.3  # rate, on the input and in the item blocks
    depth_dropout: float = 0.3  # rate, in the depth blocks
    max_items: int = 50  # longest history, items
    # What the states score every item by, while training, and read it by, beside its codes (features where the catalog
    # has some); None: codes are all.
    items: ItemInputsConfig | None = field(default=None, metadata={"absent": None})
    temperature: float = field(default=0.07, metadata={"absent": 0.07})  # divides the cosine of a state and an item

    def __post_init__(self) -> None:
        check_fields(self, zero=("num_layers", "num_depth_layers"), above=("temperature",))
        check_heads("TimelineConfig", self.width, self.num_heads)

    def build(self, catalog: Catalog) -> Timeline:
        """Makes the backbone; ``feature_dim`` is that of ``batch.features``, ``None`` where there are none."""
        items, config = None, self.items
        if config is not None:
            if config.ids and catalog.features is None:  # as the input does without them
                config = dataclasses.replace(config, features=False, start="random")
            items = item_inputs(config, catalog, self.width)
            items.apply(init_weights)
        return Timeline(self, catalog.codebook_sizes, catalog.feature_dim, items)


class Timeline(nn.Module):
    """One position per item; its input is the sum of its codes' embeddings and a projection of its features.

    Where there are vectors of items (``items(ids [E]) -> [E, D]`` and ``items.table()``), they are added to the input,
    and every state scores every item by the cosine over a temperature: a second task (``added_scores``). Items that
    were appended to the catalog later have none, and are read by their codes and features.

    At every position the state seeds the depth transformer, whose position 0 is that state and whose position l is
    the code of level l - 1; the logits of level l are read from position l. All positions train at once. Speaks
    ``Autoregressive`` and ``AddedScores``; a user's history is read once, and what a beam carries is L vectors per
    depth block. Outside training and without gradients, float32 on a CPU, the search runs on the native engine, whose
    scores agree to rounding (``nn.native``); the weights are packed once, and again when anything has changed.

    Source: MARIUS (arXiv:2508.14910).
    """

    grows = ("items.",)  # parts with weights for each item, without which new items are read

    def __init__(
        self,
        config: TimelineConfig,
        codebook_sizes: tuple[int, ...],
        feature_dim: int | None,
        items: ItemIds | ItemInputs | None = None,
    ) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.codebook_sizes = codebook_sizes
        self.code_embeddings = CodeEmbeddings(codebook_sizes, width)
        self.positions = nn.Embedding(config.max_items + 1, width)
        self.start = nn.Parameter(torch.empty(width))
        self.input_dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(width, config.num_heads, config.hidden, config.dropout) for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.depth_embeddings = nn.ModuleList(nn.Embedding(size, width) for size in codebook_sizes[:-1])
        self.depth_positions = nn.Embedding(len(codebook_sizes), width)
        self.depth_blocks = nn.ModuleList(
            Block(width, config.num_heads, config.depth_hidden, config.depth_dropout)
            for _ in range(config.num_depth_layers)
        )
        self.depth_norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in codebook_sizes)
        self.features = None if feature_dim is None else ProjectedFeatures(feature_dim, width)
        self.apply(init_weights)
        nn.init.normal_(self.start, std=0.02)
        self.items = items

    def _rows(self, batch: Batch) -> tuple[Tensor, Packing]:
        """``[E + B, D]``: what the blocks read of each row's start and items."""
        embedded: Tensor = self.code_embeddings(codes_of("timeline", batch, self.config.max_items))
        if self.features is not None:
            if batch.features is None:
                raise InvalidValueError("timeline: batch must have features, as in training, got None")
            embedded = embedded + self.features(batch.features)
        if self.items is not None:
            ids, known = batch.items.values, self.items.num_items
            own = self.items(ids.clamp(max=known - 1))
            embedded = embedded + own.masked_fill((ids >= known).unsqueeze(1), 0.0)
        x, rows = with_start(embedded, batch.items, self.start, self.config.max_items)
        return self.input_dropout(x + self.positions(rows.positions)), rows

    def _states(self, batch: Batch) -> Tensor:
        """``[E + B, D]``: each row's start, then its state after each item."""
        x, rows = self._rows(batch)
        for block in self.blocks:
            x = block(x, rows)
        normed: Tensor = self.norm(x)
        return normed

    def level_logits(self, batch: Batch) -> list[Tensor]:
        """Per level, ``[M, K_l]``, given the target's codes of the levels before."""
        return self.logits_behind(self.target_states(batch), batch)

    def target_states(self, batch: Batch) -> Tensor:
        """``[M, D]``: the state that predicts each target."""
        return at_targets(self._states(batch), batch)

    def user_states(self, batch: Batch) -> Tensor:
        """``[B, D]``: the state after each whole history."""
        return at_last(self._states(batch), batch)

    def logits_behind(self, states: Tensor, batch: Batch) -> list[Tensor]:
        """``level_logits`` from ``target_states``."""
        if batch.target_codes is None:
            raise InvalidValueError("timeline: batch must have target_codes (let it pass a layout first), got None")
        written = [states]
        written += [table(batch.target_codes[:, level]) for level, table in enumerate(self.depth_embeddings)]
        x = torch.stack([part.to(written[0].dtype) for part in written], 1) + self.depth_positions.weight
        targets, levels, width = x.shape
        rows = equal_rows(targets, levels, x.device)
        x = x.view(-1, width)
        for block in self.depth_blocks:
            x = block(x, rows)
        x = self.depth_norm(x).view(targets, levels, width)
        return [head(x[:, level]) for level, head in enumerate(self.heads)]

    def added_scores(self, batch: Batch) -> tuple[list[Tensor], Tensor, Tensor, tuple[Jagged, Tensor]]:
        """See ``AddedScores``: of one reading the codes, and the cosines over the temperature; nothing is added.

        Raises:
            InvalidValueError: a network without vectors of items.
        """
        if self.items is None:
            raise InvalidValueError("timeline: TimelineConfig must have items where every item is scored, got None")
        states = self.target_states(batch)
        levels = self.logits_behind(states, batch)
        nothing = Jagged.from_lengths(batch.items.values[:0], states.new_zeros(len(states), dtype=torch.int64))
        vectors = F.normalize(states.float(), dim=1) / self.config.temperature
        table = F.normalize(self.items.table().float(), dim=1)
        return levels, vectors, table, (nothing, vectors.new_zeros(0))

    def prefill(self, batch: Batch) -> Session:
        """Reads each history once."""
        engine = native_timeline(self, Timeline)
        if engine is not None and len(batch):
            states = last_states(engine, *self._rows(batch))
            return begin_item(engine, states + self.depth_positions.weight[0], self.codebook_sizes)
        states = self.user_states(batch)
        return ModuleSession.begin(self, states + self.depth_positions.weight[0])

    def embed_codes(self, codes: Tensor, level: int) -> Tensor:
        """Of codes ``[R]`` of a level: ``[R, D]`` (see ``nn.engine.modules.Decodes``, as for the next two)."""
        embedded: Tensor = self.depth_embeddings[level](codes) + self.depth_positions.weight[level + 1]
        return embedded

    def decode(
        self, x: Tensor, rows: Packing, prompts: tuple[tuple[Tensor, Tensor], ...], offsets: Tensor | None
    ) -> Tensor:
        """Through the depth transformer; a row's first token is its user's state, so nothing else is seen."""
        for number, block in enumerate(self.depth_blocks):
            x = block(x, rows, number)
        normed: Tensor = self.depth_norm(x)
        return normed

    def logits(self, hidden: Tensor, level: int) -> Tensor:
        """``[R, K_l]``."""
        found: Tensor = self.heads[level](hidden)
        return found
