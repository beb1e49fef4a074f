"""S2GR: a T5 whose decoder thinks before each code: a state that is read again, and only then a code."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from genrec_fast.backbones.t5 import T5, T5Config, T5Layer
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import Session
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.packed import Packing
from genrec_fast.nn.t5 import Attention, FeedForward, RMSNorm

KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class S2GRConfig(T5Config):
    """Settings of ``S2GR``."""

    needs_features: ClassVar[bool] = True  # thoughts are compared with clusters of items' feature vectors
    interest_layers: int = 2  # of the small decoder that says in one vector what is meant
    num_user_tokens: int = 0  # users are hashed into so many tokens; 0: no user token

    def build(self, catalog: Catalog) -> S2GR:
        """Makes the backbone of a catalog with features.

        Raises:
            InvalidValueError: it has none, or its layout does not hand them on.
        """
        if catalog.features is None:
            raise InvalidValueError("S2GRConfig: catalog must have features (layout use_features), got None")
        return S2GR(self, catalog.codebook_sizes, catalog.features.shape[1])


class Thoughts(NamedTuple):
    """What a teacher-forced pass over M targets made.

    Args:
        logits: per level float ``[M, K_l]``.
        thoughts: ``[M, L, D]``: t_l, read before each level's code was written.
        interest: ``[M, D]``: what the small decoder says is meant.
        meant: ``[M, D]``: the mean of the embeddings of the target's codes.
    """

    logits: list[Tensor]
    thoughts: Tensor
    interest: Tensor
    meant: Tensor


class S2GR(T5):
    """``T5`` whose decoder reads a thought of its own in front of every code.

    ::

        decoder reads   start, t_0, c_0, t_1, c_1, ..., t_{L-1}
        t_l             state behind c_{l-1} (behind the start: l = 0), plus a vector of the level
        logits of c_l   head of the state behind t_l

    A second decoder of ``interest_layers`` layers over the same history gives one vector per user, to which
    ``objectives.GuidedThoughts`` holds the first thought; answers have no part of it. ``anchors`` takes vectors of the
    features' space to that of the thoughts, for the same objective.

    Speaks ``Autoregressive`` and ``TeacherForced``; torch runs it. Training asks for the last position of each history
    (``targets="last"``).

    Notes:
        A thought depends on the one before, so training writes level by level as a search does: 2 L steps of the
        decoder, each over its own keys and values and those of what was kept. The small decoder reads one learned
        vector, over which self-attention would be a linear map: it has none.

    Source: S2GR (arXiv:2601.18664), its stepwise reasoning.
    """

    def __init__(self, config: S2GRConfig, codebook_sizes: tuple[int, ...], feature_dim: int) -> None:
        super().__init__(config, codebook_sizes)
        width = config.width
        self.level_places = nn.Embedding(len(codebook_sizes), width)
        self.asking = nn.Embedding(1, width)
        self.interest = nn.ModuleList(_Glance(config) for _ in range(config.interest_layers))
        self.interest_norm = RMSNorm(width)
        self.anchors = nn.Linear(feature_dim, width, bias=False)
        nn.init.normal_(self.level_places.weight, std=0.02)
        nn.init.normal_(self.asking.weight, std=1.0)
        self._init_weights()

    def think(self, batch: Batch) -> Thoughts:
        """The pass of a training; every history must have its one target at its last position.

        Raises:
            InvalidValueError: another place, too long a history, or a batch that passed no layout.
        """
        states, thoughts, memory, offsets = self._forced(batch)
        assert batch.target_codes is not None
        codes = batch.target_codes.unbind(1)
        meant = torch.stack([self.embed_codes(code, level) for level, code in enumerate(codes)]).mean(0)
        return Thoughts(self._level_logits(states), thoughts, self._interest(memory, offsets), meant)

    def level_states(self, batch: Batch) -> Tensor:
        """``[B, L, D]``: what ``logits`` makes each level's of, given the true codes before."""
        return self._forced(batch)[0]

    def _forced(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """States and thoughts ``[B, L, D]`` of the true codes, the histories' states ``[T, D]`` and their offsets."""
        self._check_targets(batch)
        assert batch.target_codes is not None
        memory, offsets = self._encode(batch)
        prompts, kept = self._prompts(memory), self._nothing_kept(len(batch), memory)
        x, states, thoughts = self._start_states(batch), [], []
        for level, codes in enumerate(batch.target_codes.unbind(1)):
            thought, state, kept = self.step(x, kept, prompts, offsets, level)
            thoughts.append(thought)
            states.append(state)
            x = self.embed_codes(codes, level)
        return torch.stack(states, 1), torch.stack(thoughts, 1), memory, offsets

    def step(
        self, x: Tensor, kept: tuple[KeysValues, ...], prompts: tuple[KeysValues, ...], offsets: Tensor, level: int
    ) -> tuple[Tensor, Tensor, tuple[KeysValues, ...]]:
        """Reads what was written last, thinks, and reads the thought.

        Args:
            x: ``[R, D]``: embeddings of what was written last, equally many for each of B users.
            kept: per layer keys and values ``[R, 2 l, H, head_width]`` of what each of them read before.
            prompts: per layer keys and values of the histories.
            offsets: int64 ``[B + 1]`` of the histories' tokens.
            level: l, of the code that is written next.

        Returns:
            The thoughts and the states that ``logits`` reads, ``[R, D]`` each, and what is kept now.
        """
        over = self._over(x, offsets)
        state, kept = self._advance(self.dropout(x), kept, prompts, over)
        thought = state + self.level_places.weight[level]
        state, kept = self._advance(thought, kept, prompts, over)
        return thought, self.dropout(state), kept

    def _advance(
        self, x: Tensor, kept: tuple[KeysValues, ...], prompts: tuple[KeysValues, ...], over: Packing
    ) -> tuple[Tensor, tuple[KeysValues, ...]]:
        """One token of each row through the decoder: its state ``[R, D]``."""
        past, ends = _Kept(kept), torch.arange(len(x) + 1, device=x.device)
        length = kept[0][0].shape[1] + 1
        rows = Packing(ends, past.lengths, length, past=past, kv_offsets=ends * length)
        bias = self.decoder_bias()
        for number, layer in enumerate(self.decoder):
            assert isinstance(layer, T5Layer)
            x = layer.attend(x, rows, bias, number, causal=True)
            x = layer.feed(layer.attend_cross(x, *prompts[number], over))
        return self.decoder_norm(x), past.now

    def _nothing_kept(self, rows: int, memory: Tensor) -> tuple[KeysValues, ...]:
        nothing = memory.new_empty(rows, 0, self.config.num_heads, self.config.head_width)
        return ((nothing, nothing),) * len(self.decoder)

    def _start_states(self, batch: Batch) -> Tensor:
        starts: Tensor = self.tokens.weight[self.start_token].expand(len(batch), -1)
        return starts

    def _interest(self, memory: Tensor, offsets: Tensor) -> Tensor:
        x = self.asking.weight.expand(len(offsets) - 1, -1)
        over = self._over(x, offsets)
        for layer in self.interest:
            x = layer(x, memory, over)
        interest: Tensor = self.interest_norm(x)
        return interest

    def prefill(self, batch: Batch) -> Session:
        """Encodes each history once, and thinks for the first time."""
        memory, offsets = self._encode(batch)
        prompts = self._prompts(memory)
        _, state, kept = self.step(
            self._start_states(batch), self._nothing_kept(len(batch), memory), prompts, offsets, 0
        )
        kept = tuple((keys.unsqueeze(1), values.unsqueeze(1)) for keys, values in kept)
        return _Beams(self, prompts, offsets, state.unsqueeze(1), kept, 0)


class _Glance(nn.Module):
    """A layer that looks at the history: cross-attention and feed-forward."""

    def __init__(self, config: S2GRConfig) -> None:
        super().__init__()
        self.norm, self.feed_norm = RMSNorm(config.width), RMSNorm(config.width)
        self.attention = Attention(config.width, config.num_heads, config.head_width)
        self.feed_forward = FeedForward(config.width, config.hidden, config.dropout)

    def forward(self, x: Tensor, memory: Tensor, over: Packing) -> Tensor:
        """``x [B, D]`` over each user's states of ``memory [T, D]``."""
        x = x + self.attention(self.norm(x), *self.attention.project(memory), over, causal=False)
        out: Tensor = x + self.feed_forward(self.feed_norm(x))
        return out


class _Kept:
    """Keys and values ``[R, t, H, head_width]`` of each row's tokens so far, layer by layer (``nn.packed.Past``)."""

    def __init__(self, before: tuple[KeysValues, ...]) -> None:
        self.before = before
        self.now: tuple[KeysValues, ...] = ()

    @property
    def lengths(self) -> Tensor:
        keys = self.before[0][0]
        return torch.full((keys.shape[0],), keys.shape[1], device=keys.device)

    def join_times(self, times: Tensor) -> Tensor:
        """Codes have no times."""
        return times

    def join(self, layer: int, keys: Tensor, values: Tensor) -> KeysValues:
        """Layers come in their order."""
        old_keys, old_values = self.before[layer]
        keys = torch.cat([old_keys.to(keys.dtype), keys.unsqueeze(1)], 1)
        values = torch.cat([old_values.to(values.dtype), values.unsqueeze(1)], 1)
        self.now = (*self.now, (keys, values))
        return keys.flatten(0, 1), values.flatten(0, 1)


@dataclass(frozen=True)
class _Beams(Session):
    """A search: every beam's state behind its last thought ``[B, W, D]``, and what it keeps ``[B, W, t, H, d]``."""

    finite: ClassVar[bool] = True

    model: S2GR
    prompts: tuple[KeysValues, ...]
    offsets: Tensor
    state: Tensor
    kept: tuple[KeysValues, ...]
    level: int

    def scores(self, span: Any = None, *, log_sums: bool = False) -> tuple[Tensor, Tensor | None]:
        return self.model.logits(self.state, self.level), None

    def extend(self, codes: Tensor, parents: Tensor) -> _Beams:
        users, beams = codes.shape
        rows = (torch.arange(users, device=self.state.device).unsqueeze(1) * self.state.shape[1] + parents).flatten()
        kept = tuple((keys.flatten(0, 1)[rows], values.flatten(0, 1)[rows]) for keys, values in self.kept)
        x = self.model.embed_codes(codes.flatten().long(), self.level)
        _, state, kept = self.model.step(x, kept, self.prompts, self.offsets, self.level + 1)
        kept = tuple((keys.unflatten(0, (users, beams)), values.unflatten(0, (users, beams))) for keys, values in kept)
        return dataclasses.replace(self, state=state.view(users, beams, -1), kept=kept, level=self.level + 1)

    def select(self, users: Tensor) -> _Beams:
        users = users.to(self.state.device)
        at = Jagged(self.prompts[0][0], self.offsets).positions(users)
        return dataclasses.replace(
            self,
            prompts=tuple((keys[at.values], values[at.values]) for keys, values in self.prompts),
            offsets=at.offsets,
            state=self.state[users],
            kept=tuple((keys[users], values[users]) for keys, values in self.kept),
        )
