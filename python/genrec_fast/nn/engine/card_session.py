"""A search on a card: beams share what was read of prompts, and no key or value is moved when they change places."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import TreeSession
from genrec_fast.nn.engine.rows import Rows
from genrec_fast.ops.beam_attention import beam_attention
from genrec_fast.ops.transformer_spec import TransformerSpec

KeysValues = tuple[Tensor, Tensor]
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""A layer's number, queries ``[R, H, D]``, keys and values ``[R, Hk, D]`` -> ``[R, H, D]``."""

_CALLS = 4  # that there is room for when memory is taken: the levels of most semantic IDs


class _Engine(Protocol):
    """What ``CardEngine`` is to its sessions."""

    spec: TransformerSpec
    embedding: Tensor

    def embed(self, tokens: Tensor, positions: Tensor, reach: int) -> Tensor: ...

    def run(self, x: Tensor, positions: Tensor, reach: int, attend: Attend) -> Tensor: ...

    def bias(self, reach: int) -> Tensor | None: ...

    def logits(self, hidden: Tensor, tokens: Tensor | slice, log_sums: bool) -> tuple[Tensor, Tensor | None]: ...


class Room:
    """Keys, values and parents of the rows that a search writes, in memory that is taken ahead of them.

    Sessions that follow each other share it: the first that extends one writes behind that one's rows, and another
    that extends the same finds them written over, and copies.

    Args:
        keys: ``[layers, B, R, Hk, D]``.
        values: like keys.
        parents: int32 ``[B, R]``: the row that each extends, -1 for the prompt.
    """

    def __init__(self, keys: Tensor, values: Tensor, parents: Tensor) -> None:
        self.keys, self.values, self.parents, self.used = keys, values, parents, 0

    @classmethod
    def none(cls, engine: _Engine, users: int) -> Room:
        """For no row yet."""
        spec, like = engine.spec, engine.embedding
        empty = like.new_empty(spec.num_layers, users, 0, spec.num_kv_heads, spec.head_width)
        return cls(empty, empty, like.new_empty(users, 0, dtype=torch.int32))

    def behind(self, rows: int, more: int) -> Room:
        """With room for ``more`` rows behind the first ``rows``, which are whole; those are taken."""
        room = self
        if self.used != rows or rows + more > self.parents.shape[1]:
            room = Room(*(_longer(part, dim, rows, _CALLS * more) for part, dim in self._parts()))
        room.used = rows + more
        return room

    def select(self, users: Tensor, rows: int) -> Room:
        """The first ``rows`` of some users."""
        room = Room(*(part.narrow(dim, 0, rows).index_select(dim - 1, users) for part, dim in self._parts()))
        room.used = rows
        return room

    def _parts(self) -> tuple[tuple[Tensor, int], ...]:
        """Each with the dimension of its rows; users stand before it."""
        return (self.keys, 2), (self.values, 2), (self.parents, 1)


def _longer(part: Tensor, dim: int, rows: int, more: int) -> Tensor:
    shape = list(part.shape)
    shape[dim] = rows + more
    out = part.new_empty(shape)
    out.narrow(dim, 0, rows).copy_(part.narrow(dim, 0, rows))
    return out


@dataclass(frozen=True)
class CardSession(TreeSession):
    """A search over a ``CardEngine`` (``TreeSession``), extended by tokens.

    Nothing waits for the card but trees, whose rows are numbered on the CPU; a token or parent that there is not is
    not looked for.

    Args:
        engine: what runs it.
        prompts: per layer keys and values ``[T, Hk, D]``, which all beams of a user share.
        offsets: int64 ``[B + 1]`` of the T tokens.
        longest: tokens of the longest prompt.
        hidden: ``[B, W, D]`` of the rows of the last call.
        room: of the rows of all calls.
        count: rows of all calls, the prompts left out.
        depth: tokens of the longest chain.
        parents: int64 ``[B, W]`` of every call: beams of the call before.
        rows: once a call made a tree, which rows descend from which.
    """

    finite: ClassVar[bool] = True

    engine: _Engine
    prompts: tuple[KeysValues, ...]
    offsets: Tensor
    longest: int
    hidden: Tensor
    room: Room
    count: int = 0
    depth: int = 0
    parents: tuple[Tensor, ...] = ()
    rows: Rows | None = None

    def scores(self, span: Tensor | slice | None = None, *, log_sums: bool = False) -> tuple[Tensor, Tensor | None]:
        """Logits ``[B, W, K]`` of tokens (``None``: of the whole vocabulary), and their sums if wanted."""
        return self.engine.logits(self.hidden, slice(None) if span is None else span, log_sums)

    def extend(self, codes: Tensor, parents: Tensor) -> CardSession:
        """Every beam by a token: integers ``[B, W]`` each."""
        if self.rows is not None:
            return self.extend_tree(codes, parents + self.rows.first_of_last)
        parents = parents.to(self.hidden.device).long()
        above = parents + (self.count - self.hidden.shape[1])  # behind the prompts alone: -1
        places = (self.offsets.diff() + self.depth).unsqueeze(1).expand(-1, codes.shape[1])
        after = self._read(codes, above, places, self.depth + 1)
        return dataclasses.replace(after, parents=(*self.parents, parents))

    def extend_tree(self, codes: Tensor, parents: Tensor) -> CardSession:
        """See ``TreeSession``.

        Raises:
            InvalidValueError: a parent that is no row made before.
        """
        rows = (Rows.of(len(codes), self.parents) if self.rows is None else self.rows).grown(parents.long())
        depths, device = rows.paths()[1], self.hidden.device
        places = self.offsets.diff().unsqueeze(1) + (depths - 1).to(device)
        above = parents.to(device) - 1  # the prompt, number 0 of a tree, has no row here
        after = self._read(codes, above, places, max(self.depth, int(depths.max()) if depths.numel() else 0))
        return dataclasses.replace(after, rows=rows)

    def select(self, users: Tensor) -> CardSession:
        """The session of users int64 ``[m]``; keys and values are copied, nothing is computed."""
        users = users.to(self.hidden.device)
        at = Jagged(self.prompts[0][0], self.offsets).positions(users)
        return dataclasses.replace(
            self,
            prompts=tuple((keys[at.values], values[at.values]) for keys, values in self.prompts),
            offsets=at.offsets,
            hidden=self.hidden[users],
            room=self.room.select(users, self.count),
            parents=tuple(call[users] for call in self.parents),
            rows=None if self.rows is None else self.rows.select(users.cpu()),
        )

    def _read(self, codes: Tensor, above: Tensor, places: Tensor, depth: int) -> CardSession:
        """Behind rows of tokens ``[B, W]`` more, that extend rows ``above`` and stand at ``places`` of their texts."""
        (users, beams), begin, end = codes.shape, self.count, self.count + codes.shape[1]
        room, reach = self.room.behind(begin, beams), self.longest + depth
        room.parents[:, begin:end] = above
        parents, bias = room.parents[:, :end], self.engine.bias(reach)

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            room.keys[layer, :, begin:end] = keys.unflatten(0, (users, beams))
            room.values[layer, :, begin:end] = values.unflatten(0, (users, beams))
            return beam_attention(
                queries.unflatten(0, (users, beams)),
                *self.prompts[layer],
                self.offsets,
                keys=room.keys[layer, :, :end],
                values=room.values[layer, :, :end],
                parents=parents,
                bias=bias,
                scale=self.engine.spec.score_scale,
            ).flatten(0, 1)

        positions = places.flatten()
        x = self.engine.embed(codes.to(positions.device).long().flatten(), positions, reach)
        hidden = self.engine.run(x, positions, reach, attend).view(users, beams, -1)
        return dataclasses.replace(self, hidden=hidden, room=room, count=end, depth=depth)
