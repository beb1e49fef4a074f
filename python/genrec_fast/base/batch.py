"""What a network is asked, what it reads, and what it answers, as columns of users."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from genrec_fast.base.columns import Columns, column
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged

BASES = ("history", "start", "popular")
"""what an answer can be based on: the user's history; the state that the model learned for histories that are empty;
or, where it learned none, how often items occur in the training data"""


@dataclass(frozen=True)
class Tokens(Columns):
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
        actions_before: where actions have no tokens: each item and candidate reads the action of the event before it,
            in place of its own.
        two_flows: where actions have no tokens and are added to their items: what is asked is asked of a second flow,
            which has no actions.
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
    actions_before: bool = False
    two_flows: bool = False


@dataclass(frozen=True)
class Question(Columns):
    """Some users' histories, and what is asked about them.

    Args:
        items: int64 values ``[E]``: item ids in ``[0, N)``, oldest first; rows may be empty.
        users: int64 ``[B]``: who asks, by row of the training data; ``None``: not known.
        timestamps: int64 ``[E]``: when each event was, in seconds (the whole part; a source with another unit keeps
            it); ``None`` where the data has no times.
        target_timestamps: int64 ``[E]``: when the item that follows each position is asked for, the time of the next
            event; ``None`` where that is not known.
        actions: bool ``[E, A]``: what the user did with each item; ``None`` where the data does not say.
        candidates: int64 values ``[T]``: items to be scored for each user, B rows; ``None``: none.
        candidate_timestamps: int64 ``[T]``: when each candidate is asked for; ``None``: after the last event.
        contexts: int64 ``[B, C]``: ids of the contextual tokens (who the user is).
        skipped: int64 ``[B]``: how many items of each history the catalog does not have; they are left out.
    """

    items: Jagged = field(metadata={"axis": "user"})
    users: Tensor | None = column("user")
    timestamps: Tensor | None = column("event")
    target_timestamps: Tensor | None = column("event")
    actions: Tensor | None = column("event")
    candidates: Jagged | None = column("user")
    candidate_timestamps: Tensor | None = column("candidate")
    contexts: Tensor | None = column("user")
    skipped: Tensor | None = column("user")


@dataclass(frozen=True)
class Batch(Question):
    """A question as networks read it, and in training its answers.

    Data gives ``items``, ``targets`` and ``users``, and times and actions where it knows them; a layout adds what its
    backbones read (``codes``, ``target_codes``, ``features``), so that a backbone never knows the catalog.

    Args:
        targets: int64 ``[E]``: the item that follows each position, -1 where nothing is to be predicted; ``None`` when
            recommending. M counts the entries that are not -1.
        codes: int64 ``[E, L]``, the semantic IDs of the items.
        target_codes: int64 ``[M, L]``, the semantic IDs of the targets, in order of position.
        features: float ``[E, F]``, the items' feature vectors, or ``None``.
        valid_codes: per level bool ``[M, K_l]``: the codes that lead to an item of the catalog after the target's
            codes of the levels before; ``None`` unless the layout was asked for them.
        target_actions: bool ``[E, A]``: what the user did with the item that follows each position; of meaning where
            ``targets`` is not -1.
        candidate_features: float ``[T, F]``, the candidates' feature vectors, or ``None``.
        tokens: where all of these stand in one stream, from layouts that make one.
    """

    targets: Tensor | None = column("event", kw_only=False)
    codes: Tensor | None = column("event")
    target_codes: Tensor | None = column("target")
    features: Tensor | None = column("event")
    valid_codes: tuple[Tensor, ...] | None = column("target")
    target_actions: Tensor | None = column("event")
    candidate_features: Tensor | None = column("candidate")
    tokens: Tokens | None = column("made")

    @property
    def target_positions(self) -> Tensor:
        """int64 ``[M]``: indices into ``items.values`` where a target stands."""
        if self.targets is None:
            raise InvalidValueError("Batch: targets must be given to train or evaluate, got None")
        return (self.targets >= 0).nonzero().squeeze(1)


@dataclass(frozen=True)
class Ranked(Columns):
    """The k best items of each user, best first.

    Args:
        items: int64 ``[B, k]``, -1 behind the last result.
        codes: int32 ``[B, k, L]``, -1 behind the last result.
        scores: float32 ``[B, k]``: summed log-probabilities (natural log) or inner products; -inf behind the last.
        exact: bool ``[B]``: true where the k items are proven to be the best of the whole catalog under ``scores``.
        bound: float32 ``[B]``: no item outside the beams scores higher than this (-inf: nothing was pruned).
        basis: int64 ``[B]``: places in ``BASES``: what each answer is based on; ``None`` from a decoder, which cannot
            know.
        skipped: int64 ``[B]``: how many items of each history the catalog does not have, and were left out; likewise.
    """

    spines: ClassVar[dict[str, str]] = {"event": "items"}

    items: Tensor = field(metadata={"axis": "user"})
    codes: Tensor = field(metadata={"axis": "user"})
    scores: Tensor = field(metadata={"axis": "user"})
    exact: Tensor = field(metadata={"axis": "user"})
    bound: Tensor = field(metadata={"axis": "user"})
    basis: Tensor | None = column("user")
    skipped: Tensor | None = column("user")

    @classmethod
    def of_items(cls, items: Tensor, scores: Tensor, *, exact: bool = True, bound: float = float("-inf")) -> Ranked:
        """Items int64 ``[B, k]`` and their scores where an item is its own only code."""
        proof = scores.new_full((len(items),), exact, dtype=torch.bool)
        return cls(items, items.to(torch.int32).unsqueeze(2), scores, proof, scores.new_full((len(items),), bound))

    @property
    def based_on(self) -> list[str]:
        """Per user one of ``BASES``: "history", "start" or "popular"."""
        return ["history"] * len(self) if self.basis is None else [BASES[place] for place in self.basis.tolist()]

    def first(self, k: int) -> Ranked:
        """The k best of each user, with their own certificate: ``proven``."""
        if k >= self.items.shape[1]:
            return self
        scores = self.scores[:, :k]
        return dataclasses.replace(
            self, items=self.items[:, :k], codes=self.codes[:, :k], scores=scores, exact=proven(scores, self.bound)
        )


def proven(scores: Tensor, bound: Tensor) -> Tensor:
    """Whether nothing that was pruned can score as high as the last of ``scores [B, k]``: bool ``[B]``."""
    return (scores[:, -1] > bound) | (bound == float("-inf"))


@dataclass(frozen=True)
class Loss:
    """What an objective returns: the mean to minimise, the number of terms in it, and figures for the log."""

    value: Tensor
    count: int
    figures: dict[str, float] = field(default_factory=dict)
