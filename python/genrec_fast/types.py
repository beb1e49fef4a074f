"""The words that all parts share: jagged data, batches, results, and the protocols that a backbone can speak.

Shape letters, everywhere: B users, S history length, E jagged total, L levels, K codebook size, V vocabulary,
W beams, D width, H heads, N items, M training targets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from genrec_fast.errors import InvalidTypeError, InvalidValueError

__all__ = [
    "ActionScoring",
    "Autoregressive",
    "Batch",
    "Embedding",
    "Interests",
    "Jagged",
    "Loss",
    "MaskedEmbedding",
    "Ranked",
    "Resumable",
    "State",
    "TeacherForced",
    "Tokens",
    "TrieTensors",
]

State = Any  # what a backbone keeps between the levels of one search; opaque to everyone else


@dataclass(frozen=True)
class Jagged:
    """Rows of unequal length, end to end.

    Args:
        values: ``[E, ...]``, all rows concatenated.
        offsets: int64 ``[B + 1]``, from 0, non-decreasing, ending at E; row b is ``values[offsets[b]:offsets[b+1]]``.

    Raises:
        InvalidTypeError: offsets are not int64 of one dimension.
        InvalidValueError: offsets do not start at 0, decrease, or do not end at E.
    """

    values: Tensor
    offsets: Tensor

    def __post_init__(self) -> None:
        if self.offsets.dtype != torch.int64 or self.offsets.dim() != 1 or self.offsets.numel() == 0:
            raise InvalidTypeError(
                f"Jagged: offsets must be int64 [B + 1], got {self.offsets.dtype} {list(self.offsets.shape)}"
            )
        if self.values.dim() == 0:
            raise InvalidValueError("Jagged: values must have at least one dimension, got none")
        if self.offsets.device.type != "cpu":  # a check would wait for the device
            return
        few = self.offsets.tolist() if self.offsets.numel() < 1024 else [1]  # faster than five calls of torch
        if few[0] == 0 and few[-1] == self.values.shape[0] and few == sorted(few):
            return
        if int(self.offsets[0]) != 0 or int(self.offsets[-1]) != self.values.shape[0]:
            raise InvalidValueError(
                f"Jagged: offsets must run from 0 to the number of values {self.values.shape[0]}, "
                f"got {int(self.offsets[0])} to {int(self.offsets[-1])}"
            )
        if (falls := (self.offsets[1:] < self.offsets[:-1]).nonzero()).numel():
            raise InvalidValueError(f"Jagged: offsets must not decrease, but do after row {int(falls[0])}")

    @classmethod
    def from_rows(cls, rows: Sequence[Tensor] | Sequence[Sequence[int]], dtype: torch.dtype = torch.int64) -> Jagged:
        """Packs one row per entry; empty rows stay."""
        tensors = [torch.as_tensor(row, dtype=dtype) for row in rows]
        lengths = torch.tensor([len(row) for row in tensors], dtype=torch.int64)
        values = torch.cat(tensors) if tensors else torch.empty(0, dtype=dtype)
        return cls.from_lengths(values, lengths)

    @classmethod
    def from_lengths(cls, values: Tensor, lengths: Tensor) -> Jagged:
        """Offsets from int64 ``lengths [B]``."""
        offsets = torch.zeros(lengths.numel() + 1, dtype=torch.int64, device=lengths.device)
        torch.cumsum(lengths, 0, out=offsets[1:])
        return cls(values, offsets)

    @property
    def lengths(self) -> Tensor:
        """int64 ``[B]``."""
        return self.offsets[1:] - self.offsets[:-1]

    def __len__(self) -> int:
        return self.offsets.numel() - 1

    def __getitem__(self, row: int) -> Tensor:
        if not -len(self) <= row < len(self):
            raise IndexError(f"Jagged: row must be in [0, {len(self)}), got {row}")
        row %= len(self)
        return self.values[int(self.offsets[row]) : int(self.offsets[row + 1])]

    def rows(self) -> list[Tensor]:
        """All rows, as views."""
        return list(torch.split(self.values, self.lengths.tolist()))

    def row_index(self) -> Tensor:
        """int64 ``[E]``: the row each value belongs to."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.offsets.device), self.lengths)

    def padded(self, fill: float = 0) -> Tensor:
        """``[B, S, ...]`` with S the longest row; row b is left-aligned, ``fill`` behind it."""
        longest = int(self.lengths.max()) if len(self) else 0
        out = self.values.new_full((len(self), longest, *self.values.shape[1:]), fill)
        if self.values.shape[0]:
            rows = self.row_index()
            columns = torch.arange(self.values.shape[0], device=rows.device) - self.offsets[rows]
            out[rows, columns] = self.values
        return out

    def to(self, device: torch.device | str) -> Jagged:
        return Jagged(self.values.to(device), self.offsets.to(device))


@dataclass(frozen=True)
class Tokens:
    """Where everything about a user stands in one stream: contexts, then items (each with its action), then candidates.

    Every token of the stream is named exactly once by the four index tensors, each in the order of what it places.

    Args:
        offsets: int64 ``[B + 1]`` of the rows of the stream, Et tokens in all.
        contexts_at: int64 ``[B * C]``: the contextual tokens, C in front of every row.
        items_at: int64 ``[E]``: the items of ``batch.items``.
        actions_at: int64 ``[E]``: their actions; ``[0]`` where actions have no tokens of their own.
        candidates_at: int64 ``[T]``: the items of ``batch.candidates``.
        num_targets: int64 ``[B]``: how many candidates each row has.
        contextual_seq_len: C where contexts see the whole history, 0 where they see only what stands before them.
        timestamps: int64 ``[Et]``: when each token was (a candidate: when it is asked for); ``None``: not known.
        query_timestamps: int64 ``[Et]``: when each token's successor was; a candidate's own time.
        asked: int64 ``[M]``: the tokens whose action is asked for.
        labels: bool ``[M, A]``: the actions that were taken there; ``None`` when recommending.
    """

    offsets: Tensor
    contexts_at: Tensor
    items_at: Tensor
    actions_at: Tensor
    candidates_at: Tensor
    num_targets: Tensor
    contextual_seq_len: int = 0
    timestamps: Tensor | None = None
    query_timestamps: Tensor | None = None
    asked: Tensor | None = None
    labels: Tensor | None = None

    def to(self, device: torch.device | str) -> Tokens:
        moved: dict[str, Any] = {
            field.name: value.to(device)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **moved)


@dataclass(frozen=True)
class Batch:
    """Some users' histories, and what their models are asked about them.

    Data gives ``items``, ``targets`` and ``users``, and times and actions where it knows them; a layout adds what its
    backbones read (``codes``, ``target_codes``, ``features``), so that a backbone never knows the catalog.

    Args:
        items: int64 values ``[E]``: item ids in ``[0, N)``, oldest first; rows may be empty.
        targets: int64 ``[E]``, aligned with ``items.values``: the item that follows each position, -1 where nothing
            is to be predicted; ``None`` when recommending. M counts the entries that are not -1.
        users: int64 ``[B]``, or ``None``.
        codes: int64 ``[E, L]``, the semantic IDs of the items.
        target_codes: int64 ``[M, L]``, the semantic IDs of the targets, in order of position.
        features: float ``[E, F]``, the items' feature vectors, or ``None``.
        valid_codes: per level bool ``[M, K_l]``: the codes that lead to an item of the catalog after the target's
            codes of the levels before; ``None`` unless the layout was asked for them.
        timestamps: int64 ``[E]``, aligned with ``items.values``: when each event was, in seconds (the whole part; a
            source with another unit keeps it); ``None`` where the data has no times.
        target_timestamps: int64 ``[E]``: when the item that follows each position is asked for, the time of the next
            event; ``None`` where that is not known.
        actions: bool ``[E, A]``, aligned with ``items.values``: what the user did with each item; ``None`` where the
            data does not say.
        target_actions: bool ``[E, A]``: what the user did with the item that follows each position; of meaning where
            ``targets`` is not -1.
        candidates: int64 values ``[T]``: items to be scored for each user, B rows; ``None``: none.
        candidate_timestamps: int64 ``[T]``: when each candidate is asked for; ``None``: after the last event.
        candidate_features: float ``[T, F]``, the candidates' feature vectors, or ``None``.
        contexts: int64 ``[B, C]``: ids of the contextual tokens (who the user is).
        tokens: where all of these stand in one stream, from layouts that make one.
    """

    items: Jagged
    targets: Tensor | None = None
    users: Tensor | None = None
    codes: Tensor | None = None
    target_codes: Tensor | None = None
    features: Tensor | None = None
    valid_codes: tuple[Tensor, ...] | None = None
    timestamps: Tensor | None = None
    target_timestamps: Tensor | None = None
    actions: Tensor | None = None
    target_actions: Tensor | None = None
    candidates: Jagged | None = None
    candidate_timestamps: Tensor | None = None
    candidate_features: Tensor | None = None
    contexts: Tensor | None = None
    tokens: Tokens | None = None

    def __len__(self) -> int:
        return len(self.items)

    @property
    def target_positions(self) -> Tensor:
        """int64 ``[M]``: indices into ``items.values`` where a target stands."""
        if self.targets is None:
            raise InvalidValueError("Batch: targets must be given to train or evaluate, got None")
        return (self.targets >= 0).nonzero().squeeze(1)

    def to(self, device: torch.device | str) -> Batch:
        moved: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                moved[field.name] = tuple(tensor.to(device) for tensor in value)
            elif value is not None:
                moved[field.name] = value.to(device)
        return dataclasses.replace(self, **moved)


@dataclass(frozen=True)
class Ranked:
    """The k best items of each user, best first.

    Args:
        items: int64 ``[B, k]``, -1 behind the last result.
        codes: int32 ``[B, k, L]``, -1 behind the last result.
        scores: float32 ``[B, k]``: summed log-probabilities (natural log) or inner products; -inf behind the last.
        exact: bool ``[B]``: true where the k items are proven to be the best of the whole catalog under ``scores``.
        bound: float32 ``[B]``: no item outside the beams scores higher than this (-inf: nothing was pruned).
    """

    items: Tensor
    codes: Tensor
    scores: Tensor
    exact: Tensor
    bound: Tensor


@dataclass(frozen=True)
class Loss:
    """What an objective returns: the mean to minimise, the number of terms in it, and figures for the log."""

    value: Tensor
    count: int
    figures: dict[str, float] = dataclasses.field(default_factory=dict)


class TrieTensors(Protocol):
    """What the trie ops read: a few integer tensors (see ``genrec_fast.trie.Trie`` for their meaning)."""

    @property
    def codebook_sizes(self) -> tuple[int, ...]: ...
    @property
    def tokens(self) -> tuple[Tensor, ...]: ...
    @property
    def child_bases(self) -> tuple[Tensor, ...]: ...
    @property
    def child_deltas(self) -> tuple[Tensor, ...]: ...


@runtime_checkable
class Autoregressive(Protocol):
    """A backbone that scores semantic IDs level by level.

    ``prefill`` reads each user's history once, ``step`` returns the logits of the next level for every beam. All beams
    of a user share the user's prefix: nothing is encoded once per beam.
    """

    codebook_sizes: tuple[int, ...]

    def prefill(self, batch: Batch) -> State:
        """Encodes the users' histories."""
        ...

    def step(self, state: State, codes: Tensor | None, parents: Tensor | None) -> tuple[Tensor, State]:
        """Logits of the next level.

        Args:
            state: from ``prefill`` or the previous ``step``; not modified.
            codes: int32 ``[B, W]``, the codes chosen at the previous level; ``None`` at level 0.
            parents: int32 ``[B, W]``, the beam of the previous call each one extends; ``None`` at level 0. Slots
                without a live beam carry code 0 and parent 0.

        Returns:
            ``[B, W, K_l]`` (W = 1 at level 0) and the new state.
        """
        ...


@runtime_checkable
class TeacherForced(Protocol):
    """A backbone that learns semantic IDs level by level; the same backbone searches as an ``Autoregressive``."""

    def level_logits(self, batch: Batch) -> list[Tensor]:
        """One float ``[M, K_l]`` per level, given the true codes of the levels before."""
        ...


@runtime_checkable
class ActionScoring(Protocol):
    """A backbone that says what a user will do with an item: one logit per action."""

    @property
    def num_actions(self) -> int:
        """A."""
        ...

    def action_logits(self, batch: Batch) -> Tensor:
        """``[M, A]``, one row per ``batch.tokens.asked``, in its order."""
        ...


class _ItemTable(Protocol):
    def item_table(self) -> Tensor:
        """``[N, D]``: what the vectors of users are multiplied with."""
        ...


@runtime_checkable
class Resumable(_ItemTable, Protocol):
    """An ``Embedding`` over packed rows that can read new events of a history alone, given what it knew of the past."""

    @property
    def cache_shapes(self) -> list[tuple[int, int, int]]:
        """Per layer: heads, channels of a key and of a value."""
        ...

    @property
    def first_tokens(self) -> int:
        """How many tokens stand in front of a row's first event (a start: 1)."""
        ...

    @property
    def open_events(self) -> int:
        """How many last events of a row may still change, as they depend on what comes next (0 or 1)."""
        ...

    @property
    def reads_times(self) -> bool:
        """Whether batches must have timestamps."""
        ...

    def last_states(self, batch: Batch, past: Any = None) -> Tensor:
        """``[B, D]``: the state after each row's last token of this pass, 0 where it has none.

        Args:
            batch: the new events of each row; a row may have none.
            past: ``nn.packed.Past``, what is known of the rows; a row that it does not know begins here.
        """
        ...

    def user_vectors(self, states: Tensor) -> Tensor:
        """What is multiplied with ``item_table``, from states."""
        ...


@runtime_checkable
class Embedding(_ItemTable, Protocol):
    """A backbone that places users and items in one space; a score is an inner product."""

    def embed_targets(self, batch: Batch) -> Tensor:
        """``[M, D]``: the state that predicts each training target."""
        ...

    def embed_users(self, batch: Batch) -> Tensor:
        """``[B, D]``: the state after each whole history."""
        ...


@runtime_checkable
class Interests(_ItemTable, Protocol):
    """A backbone that places a user in several places; a score is the largest of their inner products."""

    def embed_interests(self, batch: Batch) -> Tensor:
        """``[B, I, D]``."""
        ...


@runtime_checkable
class MaskedEmbedding(_ItemTable, Protocol):
    """A backbone that tells hidden items from the rest of their row."""

    def embed_masked(self, items: Jagged, at: Tensor) -> Tensor:
        """``[M, D]``: the states of positions int64 ``at [M]`` of rows in which -1 stands for a hidden item."""
        ...
