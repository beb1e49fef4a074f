"""TIGER's network: a T5 encoder over the codes of the history, a T5 decoder that writes the next item's codes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from genrec_fast.backbones._t5_native import native_t5
from genrec_fast.base.batch import Batch
from genrec_fast.base.config import check_fields
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import Session
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.branches import over_prompts
from genrec_fast.nn.dropout import Dropout
from genrec_fast.nn.engine.modules import ModuleSession
from genrec_fast.nn.engine.native import NativeEngine
from genrec_fast.nn.histories import codes_of, codes_of_targets
from genrec_fast.nn.packed import Packing, equal_rows, row_positions
from genrec_fast.nn.t5 import Attention, FeedForward, RelativePositionBias, RMSNorm
from genrec_fast.ops import T5Bias


@dataclass(frozen=True, kw_only=True)
class T5Config:
    """Settings of ``T5``; the defaults are TIGER's (arXiv:2305.05065, section 4)."""

    width: int = 128  # channels
    num_heads: int = 6
    head_width: int = 64  # channels of a head
    num_layers: int = 4  # of the encoder, and as many of the decoder
    hidden: int = 1024  # channels of the feed-forward
    dropout: float = 0.1  # rate
    num_user_tokens: int = 2000  # users are hashed into so many tokens; 0: no user token
    max_items: int = 20  # longest history, items
    may_be_zero: ClassVar[tuple[str, ...]] = ()  # fields of a config that has more
    tied: bool = field(default=False, metadata={"absent": False})  # logits by the embeddings times width ** -0.5

    def __post_init__(self) -> None:
        check_fields(self, zero=("num_user_tokens", *self.may_be_zero))

    def build(self, catalog: Catalog) -> T5:
        """Makes the backbone; it reads codes alone, so items and features are not used."""
        return T5(self, catalog.codebook_sizes)


class T5Layer(nn.Module):
    """One layer of the encoder, or of the decoder if ``cross``."""

    def __init__(self, config: T5Config, feed_forward: nn.Module, *, cross: bool) -> None:
        super().__init__()
        self.norm = RMSNorm(config.width)
        self.attention = Attention(config.width, config.num_heads, config.head_width)
        self.cross_norm = RMSNorm(config.width) if cross else None
        self.cross_attention = Attention(config.width, config.num_heads, config.head_width) if cross else None
        self.feed_norm = RMSNorm(config.width)
        self.feed_forward = feed_forward
        self.dropout = Dropout(config.dropout)

    def attend(self, x: Tensor, rows: Packing, bias: T5Bias, number: int, *, causal: bool) -> Tensor:
        """Self-attention; ``number``: under which ``rows.past`` knows this layer."""
        normed = self.norm(x)
        keys, values = self.attention.project(normed)
        seen = self.attention(normed, keys, values, rows, causal=causal, bias=bias, layer=number)
        added: Tensor = self.dropout(seen)
        return x + added

    def attend_cross(self, x: Tensor, keys: Tensor, values: Tensor, rows: Packing) -> Tensor:
        """Every query sees all of its user's history."""
        assert self.cross_norm is not None
        assert self.cross_attention is not None
        added: Tensor = self.dropout(self.cross_attention(self.cross_norm(x), keys, values, rows, causal=False))
        return x + added

    def feed(self, x: Tensor, *told: Tensor) -> Tensor:
        """The feed-forward; ``told``: what else it reads of each token."""
        added: Tensor = self.dropout(self.feed_forward(self.feed_norm(x), *told))
        return x + added


class T5(nn.Module):
    """Encoder-decoder over code tokens: [user token] codes of the history, item by item -> codes of the next item.

    Speaks ``Autoregressive``. The encoder runs once per user; its keys and values are shared by all beams. The
    softmax of a level runs over that level's codes alone, in training and in the search (a T5 over one vocabulary
    would spend part of its probability on tokens that cannot stand there). Training asks for the last position of each
    history (``targets="last"``).

    Notes:
        Outside training and without gradients, float32 on a CPU, the search runs on the native engine, whose scores
        agree to rounding (``nn.native``); the weights are packed once, and again when anything has changed.
        Dropout as in T5 but for the attention weights, which are not dropped. A batch without ``users`` is read with
        the token of user bucket 0: there is no token for an unknown user.

    Source: TIGER (arXiv:2305.05065); T5 (arXiv:1910.10683).
    """

    def __init__(self, config: T5Config, codebook_sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.config = config
        self.codebook_sizes = codebook_sizes
        offsets = [0]
        for size in codebook_sizes:
            offsets.append(offsets[-1] + size)
        self.level_offsets = tuple(offsets)  # token = level_offsets[level] + code; then start, end, user tokens
        self.start_token, self.end_token = offsets[-1], offsets[-1] + 1
        self.tokens = nn.Embedding(offsets[-1] + 2 + config.num_user_tokens + self._more_tokens(), config.width)
        self.encoder, self.decoder = (
            nn.ModuleList(
                T5Layer(config, self._feed_forward(number, cross=cross), cross=cross)
                for number in range(config.num_layers)
            )
            for cross in (False, True)
        )
        self.encoder_bias = RelativePositionBias(config.num_heads, bidirectional=True)
        self.decoder_bias = RelativePositionBias(config.num_heads, bidirectional=False)
        self.encoder_norm, self.decoder_norm = RMSNorm(config.width), RMSNorm(config.width)
        self.head = None if config.tied else nn.Linear(config.width, offsets[-1], bias=False)
        self.dropout = Dropout(config.dropout)
        self._init_weights()

    def _more_tokens(self) -> int:
        """Tokens behind those of the users."""
        return 0

    def _feed_forward(self, number: int, *, cross: bool) -> nn.Module:
        """Of the encoder's layer of that number, or of the decoder's if ``cross``."""
        return FeedForward(self.config.width, self.config.hidden, self.config.dropout)

    def _init_weights(self) -> None:
        """T5's scales: every projection keeps the variance of its input; scores are not scaled, so queries are."""
        c = self.config
        for module in self.modules():
            if isinstance(module, Attention):
                nn.init.normal_(module.queries.weight, std=(c.width * c.head_width) ** -0.5)
                nn.init.normal_(module.keys_values.weight, std=c.width**-0.5)
                nn.init.normal_(module.out.weight, std=(c.num_heads * c.head_width) ** -0.5)
            elif isinstance(module, FeedForward):
                nn.init.normal_(module.into.weight, std=c.width**-0.5)
                nn.init.normal_(module.out.weight, std=c.hidden**-0.5)
            elif isinstance(module, RelativePositionBias):
                nn.init.normal_(module.table.weight, std=c.width**-0.5)
        nn.init.normal_(self.tokens.weight, std=1.0)
        if self.head is not None:
            nn.init.normal_(self.head.weight, std=c.width**-0.5)

    @property
    def head_weight(self) -> Tensor:
        """``[sum of K, D]``: what a state is multiplied with, level after level."""
        if self.head is None:
            weight: Tensor = self.tokens.weight[: self.level_offsets[-1]] * self.config.width**-0.5
        else:
            weight = self.head.weight
        return weight

    @property
    def longest(self) -> int:
        """Tokens of the longest history: its codes, the end, and perhaps the user."""
        return self.config.max_items * len(self.codebook_sizes) + 2

    def _tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Tokens ``[T]`` of the histories, and their offsets ``[B + 1]``."""
        codes = codes_of("t5", batch, self.config.max_items)
        device, tokens = codes.device, self._item_tokens(batch, codes)
        each, flat = tokens.shape[1], tokens.flatten()
        before = int(self.config.num_user_tokens > 0 or self.encoder_is_causal)
        more = before + (not self.encoder_is_causal)  # with the end token
        ends = torch.arange(len(batch) + 1, device=device)
        offsets = batch.items.offsets * each + ends * more
        rows = torch.repeat_interleave(ends[:-1], batch.items.lengths * each, output_size=flat.shape[0])
        places = torch.arange(flat.shape[0], device=device) + rows * more + before
        tokens = flat.new_full((flat.shape[0] + len(batch) * more,), self.end_token)
        tokens[places] = flat
        if self.config.num_user_tokens:
            users = torch.zeros_like(ends[:-1]) if batch.users is None else batch.users
            tokens[offsets[:-1]] = self.end_token + 1 + users % self.config.num_user_tokens
        return tokens, offsets

    def _item_tokens(self, batch: Batch, codes: Tensor) -> Tensor:
        """``[E, n]``: the tokens of each item of the histories, of its codes ``[E, L]``."""
        return codes + torch.tensor(self.level_offsets[:-1], device=codes.device)

    def _told_read(self, tokens: Tensor, offsets: Tensor) -> tuple[Tensor, ...]:
        """What the encoder's feed-forwards read beside each of the histories' tokens ``[T]``."""
        return ()

    def _told_written(self, rows: Packing, batch: Batch | None) -> tuple[Tensor, ...]:
        """What the decoder's read beside each row; ``batch``: whose targets are written, ``None`` in a search."""
        return ()

    def _starts(self, batch: Batch, *, asked: bool) -> Tensor:
        """int64 ``[B]``: the token in front of the codes that are written; ``asked``: in a search."""
        return torch.full((len(batch),), self.start_token, device=batch.items.offsets.device)

    def _embed(self, batch: Batch, tokens: Tensor) -> Tensor:
        """``[T, D]``: what the encoder reads of the histories' tokens."""
        embedded: Tensor = self.tokens(tokens)
        return embedded

    def _encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """States ``[T, D]`` of the histories' tokens, and their offsets ``[B + 1]``."""
        tokens, offsets = self._tokens(batch)
        x = self.dropout(self._read(self._embed(batch, tokens), offsets))
        return self._encoded(x, offsets, self._told_read(tokens, offsets)), offsets

    def _encoded(self, x: Tensor, offsets: Tensor, told: tuple[Tensor, ...] = ()) -> Tensor:
        """``[T, D]``: whole rows ``x`` through the encoder."""
        packing, bias = Packing(offsets, row_positions(offsets), self.longest), self.encoder_bias()
        for number, layer in enumerate(self.encoder):
            assert isinstance(layer, T5Layer)
            x = layer.feed(layer.attend(x, packing, bias, number, causal=self.encoder_is_causal), *told)
        encoded: Tensor = self.dropout(self.encoder_norm(x))
        return encoded

    def _read(self, x: Tensor, offsets: Tensor) -> Tensor:
        """Embeddings ``[T, D]`` of the histories' tokens, as the encoder reads them."""
        return x

    def _written(self, x: Tensor, rows: Packing) -> Tensor:
        """Embeddings ``[R, D]`` of what is written, as the decoder reads them."""
        return x

    def _stated(self, x: Tensor, embedded: Tensor, rows: Packing) -> Tensor:
        """What ``logits`` reads, of the decoder's states ``[R, D]`` and the embeddings of what was written."""
        return x

    first_layer = 0
    """under which number a search knows what the decoder's first layer left: before it stand those of ``_written``"""

    encoder_is_causal = False
    """whether what the encoder makes of a token depends on those before it alone"""

    def _native(self) -> NativeEngine | None:
        """The engine that runs a search in torch's place, where there is one."""
        return native_t5(self, T5)

    def _over(self, queries: Tensor, offsets: Tensor) -> Packing:
        """Rows of queries, equally many for each user, over the users' histories."""
        count = offsets.shape[0] - 1
        each = queries.shape[0] // max(count, 1)
        ends = torch.arange(count + 1, device=offsets.device) * each
        return Packing(ends, row_positions(ends), self.longest, kv_offsets=offsets)

    def level_logits(self, batch: Batch) -> list[Tensor]:
        """Per level, ``[B, K_l]``; every history must have its one target at its last position."""
        return self._level_logits(self.level_states(batch))

    def level_states(self, batch: Batch) -> Tensor:
        """``[B, L, D]``: what ``logits`` makes each level's of, given the true codes before."""
        self._check_targets(batch)
        return self._level_states(batch, *self._encode(batch))

    @staticmethod
    def _check_targets(batch: Batch) -> None:
        codes_of_targets("t5", batch, last=True)

    def _level_logits(self, states: Tensor) -> list[Tensor]:
        """``level_logits`` of ``level_states``."""
        return [self.logits(states[:, level], level) for level in range(states.shape[1])]

    def _level_states(self, batch: Batch, states: Tensor, offsets: Tensor) -> Tensor:
        """``level_states`` over histories that were read."""
        assert batch.target_codes is not None
        num_levels, device = len(self.codebook_sizes), states.device
        # The dtype is named as a target of one level has no codes before it: torch takes an empty list for floats.
        starts = torch.tensor(self.level_offsets[: num_levels - 1], dtype=torch.int64, device=device)
        before = batch.target_codes[:, :-1] + starts
        start = self._starts(batch, asked=False).unsqueeze(1)
        rows = equal_rows(start.shape[0], num_levels, device)
        embedded = self.tokens(torch.cat([start, before], 1).flatten())
        seen, offsets = self._seen(batch, offsets)
        x = self._decoded(embedded, rows, states, offsets, self._told_written(rows, batch), seen)
        return x.view(start.shape[0], num_levels, x.shape[1])

    def _seen(self, batch: Batch, offsets: Tensor) -> tuple[Tensor | None, Tensor]:
        """Which of the histories' states each target's decoder sees, and their offsets; ``None``: all, as they are."""
        return None, offsets

    def _decoded(
        self,
        embedded: Tensor,
        rows: Packing,
        states: Tensor,
        offsets: Tensor,
        told: tuple[Tensor, ...],
        seen: Tensor | None = None,
    ) -> Tensor:
        """``[R, D]``: whole rows ``embedded`` through the decoder, over histories that were read (``_seen``)."""
        x, bias = self.dropout(self._written(embedded, rows)), self.decoder_bias()
        over = self._over(x, offsets)
        for number, layer in enumerate(self.decoder):
            assert isinstance(layer, T5Layer)
            assert layer.cross_attention is not None
            x = layer.attend(x, rows, bias, number, causal=True)
            keys, values = layer.cross_attention.project(states)
            if seen is not None:  # behind the projection: many targets see the same states
                keys, values = keys.index_select(0, seen), values.index_select(0, seen)
            x = layer.feed(layer.attend_cross(x, keys, values, over), *told)
        return self._stated(self.dropout(self.decoder_norm(x)), embedded, rows)

    def prefill(self, batch: Batch) -> Session:
        """Encodes each history once and projects its keys and values once."""
        engine = self._native()
        if engine is not None and len(batch):
            start = Jagged.from_rows([[self.start_token]] * len(batch))
            spans = tuple(slice(*ends) for ends in itertools.pairwise(self.level_offsets))
            return engine.prefill(Jagged(*self._tokens(batch)), start, levels=spans)
        states, offsets = self._encode(batch)
        return ModuleSession.begin(self, self.tokens(self._starts(batch, asked=True)), self._prompts(states), offsets)

    def _prompts(self, states: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """What each layer of the decoder reads of histories' states ``[T, D]``: keys and values."""
        prompts = []
        for layer in self.decoder:
            assert isinstance(layer, T5Layer)
            assert layer.cross_attention is not None
            prompts.append(layer.cross_attention.project(states))
        return tuple(prompts)

    def embed_codes(self, codes: Tensor, level: int) -> Tensor:
        """Of codes ``[R]`` of a level: ``[R, D]`` (see ``nn.engine.modules.Decodes``, as for the next two)."""
        embedded: Tensor = self.tokens(codes + self.level_offsets[level])
        return embedded

    def decode(
        self, x: Tensor, rows: Packing, prompts: tuple[tuple[Tensor, Tensor], ...], offsets: Tensor | None
    ) -> Tensor:
        """Each row of a beam, and the beams of a user as the queries of one row over the history that they share."""
        assert offsets is not None
        over, bias, embedded = over_prompts(self._over(x, offsets), rows), self.decoder_bias(), x
        x, told = self._written(x, rows), self._told_written(rows, None)
        for number, layer in enumerate(self.decoder):
            assert isinstance(layer, T5Layer)
            x = layer.attend(x, rows, bias, self.first_layer + number, causal=True)
            x = layer.feed(layer.attend_cross(x, *prompts[number], over), *told)
        return self._stated(self.decoder_norm(x), embedded, rows)

    def logits(self, hidden: Tensor, level: int) -> Tensor:
        """``[R, K_l]``."""
        begin, end = self.level_offsets[level], self.level_offsets[level + 1]
        return nn.functional.linear(hidden, self.head_weight[begin:end])
