"""Attention in a search: rows over those that they descend from, and over the prompt that a user's beams share.

On a card ``ops.beam_attention`` reads keys and values where they were written; elsewhere what each row sees is
gathered, end to end, for ``ops.jagged_attention``.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from genrec_fast.nn.packed import Packing, Past
from genrec_fast.ops import T5Bias, beam_attention, jagged_attention
from genrec_fast.ops.beam_attention import MOST_WIDTH

KeysValues = tuple[Tensor, Tensor]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # what `beam_attention` takes


@runtime_checkable
class Attends(Past, Protocol):
    """A past that may answer itself."""

    def attend(
        self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, *, alpha: float | None, bias: T5Bias | None
    ) -> Tensor | None:
        """What ``attended`` returns; ``None``: keys and values are to be joined."""
        ...


def attended(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    rows: Packing,
    layer: int = 0,
    *,
    causal: bool,
    alpha: float | None = None,
    bias: T5Bias | None = None,
    max_seq_len: int | None = None,
) -> Tensor:
    """Softmax attention of rows over their past and themselves.

    Args:
        queries: ``[E, H, D]`` of the rows' tokens.
        keys: like queries, of the same tokens; of ``rows.kv_offsets`` where there is no past.
        values: like keys.
        rows: where rows begin, and what came before.
        layer: under which number ``rows.past`` knows these keys and values; layers come in their order.
        causal: see ``ops.jagged_attention``, as for the rest.
        alpha: factor of the scores.
        bias: by distance.
        max_seq_len: tokens of the longest row.

    Returns:
        ``[E, H, Dv]``.
    """
    past = rows.past
    if isinstance(past, Attends):
        found = past.attend(layer, queries, keys, values, alpha=alpha, bias=bias)
        if found is not None:
            return found
    if past is not None:
        keys, values = past.join(layer, keys, values)
    return jagged_attention(
        queries,
        keys,
        values,
        rows.offsets,
        kind="softmax",
        causal=causal,
        alpha=alpha,
        max_seq_len=max_seq_len,
        bias=bias,
        kv_offsets=rows.kv_offsets,
    )


class Seen:
    """What each row of a search sees of what was made before, and of itself (``nn.packed.Past``).

    Args:
        known: per layer keys and values ``[B, N, H, D]`` of all rows made before this call.
        paths: int64 ``[B, W, t]``: which of its user's rows each row of this call sees, from the root to itself; rows
            of this call are N and up. -1 behind a row's last, where ``lengths`` says so.
        lengths: int64 ``[B * W]``: how many each of them sees.
        parents: int32 ``[B, N + W]``: which row each extends, -1 for a root: ``ops.beam_attention`` is called;
            ``None``: what is seen is gathered.
        equal: whether all see t rows.
    """

    def __init__(
        self,
        known: tuple[KeysValues, ...],
        paths: Tensor,
        lengths: Tensor,
        parents: Tensor | None = None,
        *,
        equal: bool = False,
    ) -> None:
        self.before, self.paths, self.lengths, self.parents, self.equal = known, paths, lengths, parents, equal
        self.known: tuple[KeysValues, ...] = ()

    def join_times(self, times: Tensor) -> Tensor:
        """Codes have no times."""
        return times

    def join(self, layer: int, keys: Tensor, values: Tensor) -> KeysValues:
        """Layers come in their order."""
        keys, values = self._grown(layer, keys, values)
        return keys.flatten(0, 1)[self._places], values.flatten(0, 1)[self._places]

    def attend(
        self,
        layer: int,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        alpha: float | None,
        bias: T5Bias | None,
        prompts: KeysValues | None = None,
        offsets: Tensor | None = None,
    ) -> Tensor | None:
        """See ``Attends``; ``prompts``: keys and values ``[T, H, D]`` at ``offsets [B + 1]``, in front of the roots."""
        if self.parents is None or not _fits(queries):
            return None
        users, beams, reach = self.paths.shape
        keys, values = self._grown(layer, keys, values)
        table = None
        if bias is not None:
            assert prompts is None
            by_distance = bias.tables(queries.shape[1], reach, cross=False)[0]
            assert by_distance is not None
            table = by_distance[:, :reach].flip(1)  # of keys 0, 1, ... tokens back
        prompt_keys, prompt_values = (None, None) if prompts is None else prompts
        found = beam_attention(
            queries.unflatten(0, (users, beams)),
            prompt_keys,
            prompt_values,
            offsets,
            keys=keys,
            values=values,
            parents=self.parents,
            bias=table,
            scale=alpha,
        )
        return found.flatten(0, 1)

    def _grown(self, layer: int, keys: Tensor, values: Tensor) -> KeysValues:
        """``[B, N + W, H, D]`` each."""
        users = len(self.paths)
        shape = (users, len(keys) // max(users, 1))
        keys, values = keys.unflatten(0, shape), values.unflatten(0, shape)
        if self.before:
            old_keys, old_values = self.before[layer]
            keys, values = torch.cat([old_keys, keys], 1), torch.cat([old_values, values], 1)
        self.known = (*self.known, (keys, values))
        return keys, values

    @functools.cached_property
    def _places(self) -> Tensor:
        """int64 ``[V]``: what the rows see, end to end, of all users' rows end to end."""
        users, rows = self.known[0][0].shape[:2]
        first = torch.arange(users, device=self.paths.device).view(-1, 1, 1) * rows
        places = self.paths + first
        return places.flatten() if self.equal else places[self.paths >= 0]


class _Prompted:
    """The prompt of a user, which queries of all his beams see, and nothing else (``Attends``)."""

    def __init__(self, offsets: Tensor) -> None:
        self.lengths = offsets.diff()
        self._offsets = offsets

    def join_times(self, times: Tensor) -> Tensor:
        """Prompts have no times."""
        return times

    def join(self, layer: int, keys: Tensor, values: Tensor) -> KeysValues:
        """They are whole."""
        return keys, values

    def attend(
        self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, *, alpha: float | None, bias: T5Bias | None
    ) -> Tensor | None:
        """See ``Attends``."""
        users = len(self.lengths)
        if bias is not None or not _fits(queries) or not users:
            return None
        found = beam_attention(queries.unflatten(0, (users, -1)), keys, values, self._offsets, scale=alpha)
        return found.flatten(0, 1)


def over_prompts(over: Packing, rows: Packing) -> Packing:
    """Cross-attention's rows, as those of self-attention are attended: on a card by ``ops.beam_attention``.

    Args:
        over: B rows of queries over ``kv_offsets`` of prompts, equally many for each user.
        rows: those of the search.
    """
    if not isinstance(rows.past, Seen) or rows.past.parents is None or over.kv_offsets is None:
        return over
    return dataclasses.replace(over, past=_Prompted(over.kv_offsets))


def _fits(queries: Tensor) -> bool:
    """Whether ``beam_attention`` takes them: it has no gradients."""
    graded = torch.is_grad_enabled() and queries.requires_grad
    return queries.dtype in _DTYPES and queries.shape[2] <= MOST_WIDTH and not graded
