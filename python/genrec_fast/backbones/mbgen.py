"""MBGen: what was done stands in front of each item's codes, and decides what is written of the next one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_fast.backbones.t5 import T5, T5Config
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.dropout import Dropout
from genrec_fast.nn.engine.native import NativeEngine
from genrec_fast.nn.packed import Packing, equal_rows, row_positions


@dataclass(frozen=True, kw_only=True)
class MBGenConfig(T5Config):
    """Settings of ``MBGen``."""

    num_actions: int = 2  # A: what users do; a behaviour is the last action that holds of an event, or none
    wanted: int = 2  # the behaviour whose items answers are: 0 none of the actions, i the i-th
    behaviour_width: int = 64  # channels of a behaviour in a feed-forward
    injected_layers: int = 2  # so many first layers of encoder and decoder read it there
    may_be_zero: ClassVar[tuple[str, ...]] = ("wanted", "injected_layers")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.wanted > self.num_actions:
            raise InvalidValueError(
                f"MBGenConfig: wanted must be at most num_actions = {self.num_actions}, got {self.wanted}"
            )

    def build(self, catalog: Catalog) -> MBGen:
        """Makes the backbone; it reads codes and actions alone, so items and features are not used."""
        return MBGen(self, catalog.codebook_sizes)


class MBGen(T5):
    """``T5`` over ``(behaviour, codes) x items``; the decoder writes a behaviour, then the codes of an item of it.

    ::

        encoder   [user] (b, c_1 .. c_L) x S, end       its feed-forwards are shared by all tokens
        decoder   start                  -> behaviour of the next item
                  b, c_1 .. c_{L-1}      -> its codes: given the true behaviour in training, ``wanted`` in a search
        feed-forward of the decoder: one per place (start, behaviour, code 1 .. code L-1), no router
        of an injected layer: reads [x, e_b], e_b an embedding of the item's behaviour, of none at b itself

    Speaks ``BehaviourThenCodes``. The behaviour stands where the start does in ``T5``: what is written sees no start
    token behind it.

    Source: MBGen (arXiv:2405.16871): position- and behaviour-aware transformer, and its public code.
    """

    config: MBGenConfig

    def __init__(self, config: MBGenConfig, codebook_sizes: tuple[int, ...]) -> None:
        super().__init__(config, codebook_sizes)
        self.behaviour_token = self.end_token + 1 + config.num_user_tokens  # of behaviour 0
        self.behaviour_head = nn.Linear(config.width, config.num_actions + 1, bias=False)
        nn.init.normal_(self.behaviour_head.weight, std=config.width**-0.5)

    def _more_tokens(self) -> int:
        return self.config.num_actions + 1

    def _feed_forward(self, number: int, *, cross: bool) -> nn.Module:
        places = len(self.codebook_sizes) + 1 if cross else 1
        return _ByPlace(self.config, places, injected=number < self.config.injected_layers)

    def _init_weights(self) -> None:
        super()._init_weights()
        for module in self.modules():
            if isinstance(module, _ByPlace):
                module.begin()

    def _native(self) -> NativeEngine | None:
        """The native engine knows no feed-forwards by place."""
        return None

    @property
    def longest(self) -> int:
        """Tokens of the longest history: behaviours and codes, the end, and perhaps the user."""
        return self.config.max_items * (len(self.codebook_sizes) + 1) + 2

    def _item_tokens(self, batch: Batch, codes: Tensor) -> Tensor:
        if batch.actions is None:
            raise InvalidValueError("mbgen: batch must have actions, got None")
        behaviours = behaviours_of(batch.actions, self.config.num_actions)
        return torch.cat([behaviours[:, None] + self.behaviour_token, super()._item_tokens(batch, codes)], 1)

    def _told_read(self, tokens: Tensor, offsets: Tensor) -> tuple[Tensor, ...]:
        each, place = len(self.codebook_sizes) + 1, row_positions(offsets)
        place = place - (1 if self.config.num_user_tokens else 0)
        slots = place % each
        own = tokens[(torch.arange(len(tokens), device=tokens.device) - slots).clamp(min=0)] - self.behaviour_token + 1
        none = (place < 0) | (slots == 0)
        none[offsets[1:] - 1] = True  # the end
        return torch.zeros_like(slots), own.masked_fill(none, 0)

    def _told_written(self, rows: Packing, batch: Batch | None) -> tuple[Tensor, ...]:
        behaviours = torch.full_like(rows.positions, self.config.wanted)
        if batch is not None:
            behaviours = self.target_behaviours(batch).repeat_interleave(len(self.codebook_sizes))
        return rows.positions + 1, behaviours + 1

    def _starts(self, batch: Batch, *, asked: bool) -> Tensor:
        if asked:
            wanted = self.behaviour_token + self.config.wanted
            return torch.full((len(batch),), wanted, device=batch.items.offsets.device)
        return self.target_behaviours(batch) + self.behaviour_token

    def target_behaviours(self, batch: Batch) -> Tensor:
        """int64 ``[M]``: what was done with each target.

        Raises:
            InvalidValueError: a batch without the actions of its targets.
        """
        if batch.target_actions is None:
            raise InvalidValueError("mbgen: batch must have target_actions, got None")
        return behaviours_of(batch.target_actions[batch.target_positions], self.config.num_actions)

    def behaviour_and_level_logits(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """Of one reading: the behaviour's logits ``[B, A + 1]``, and ``level_logits`` given the true behaviour."""
        self._check_targets(batch)
        states, offsets = self._encode(batch)
        rows = equal_rows(len(batch), 1, states.device)
        starts = torch.full((len(batch),), self.start_token, device=states.device)
        told = torch.zeros_like(rows.positions), torch.zeros_like(rows.positions)
        first = self._decoded(self.tokens(starts), rows, states, offsets, told)
        return self.behaviour_head(first), self._level_logits(self._level_states(batch, states, offsets))


class _ByPlace(nn.Module):
    """``FeedForward`` of its own for each place, which may read a behaviour beside its token."""

    def __init__(self, config: MBGenConfig, num_places: int, *, injected: bool) -> None:
        super().__init__()
        self.width, self.hidden, more = config.width, config.hidden, config.behaviour_width if injected else 0
        self.behaviours = nn.Embedding(config.num_actions + 2, more) if injected else None
        self.into = nn.ModuleList(nn.Linear(config.width + more, config.hidden, bias=False) for _ in range(num_places))
        self.out = nn.ModuleList(nn.Linear(config.hidden, config.width, bias=False) for _ in range(num_places))
        self.dropout = Dropout(config.dropout)

    def begin(self) -> None:
        """T5's scales."""
        for part, fan_in in ((self.into, self.width), (self.out, self.hidden)):
            for linear in part:
                assert isinstance(linear, nn.Linear)
                nn.init.normal_(linear.weight, std=fan_in**-0.5)

    def forward(self, x: Tensor, places: Tensor, behaviours: Tensor) -> Tensor:
        """``x [R, D]`` at places int64 ``[R]``, of behaviours int64 ``[R]`` from 1 on, 0 for none -> ``[R, D]``."""
        if self.behaviours is not None:
            x = torch.cat([x, self.behaviours(behaviours).to(x.dtype)], 1)
        if len(self.into) == 1:
            return self._one(x, 0)
        parts, at = [], []
        for place in range(len(self.into)):
            at.append((places == place).nonzero().squeeze(1))
            parts.append(self._one(x[at[-1]], place))
        joined = torch.cat(parts)
        return torch.empty_like(joined).index_copy(0, torch.cat(at), joined)

    def _one(self, x: Tensor, place: int) -> Tensor:
        out: Tensor = self.out[place](self.dropout(F.relu(self.into[place](x))))
        return out


def behaviours_of(actions: Tensor, num_actions: int) -> Tensor:
    """int64 ``[E]`` of bool ``[E, A]``: i + 1 for the last action i that holds, 0 where none does.

    Raises:
        InvalidValueError: another number of actions.
    """
    if actions.shape[1] != num_actions:
        raise InvalidValueError(f"mbgen: actions must be [E, {num_actions}], got {list(actions.shape)}")
    order = torch.arange(1, num_actions + 1, device=actions.device)
    return (actions.long() * order).amax(1)
