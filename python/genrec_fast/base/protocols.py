"""The words that all parts share: jagged data, batches, results, and the protocols that a backbone can speak.

Shape letters, everywhere: B users, S history length, E jagged total, L levels, K codebook size, V vocabulary,
W beams, D width, H heads, N items, M training targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from genrec_fast.base.batch import Batch, Loss, Question, Ranked, Tokens
from genrec_fast.base.jagged import Jagged

__all__ = [
    "ActionScoring",
    "AddedScores",
    "Autoregressive",
    "Batch",
    "BehaviourThenCodes",
    "CodesAndVectors",
    "CodesThenUsers",
    "CodesThenVectors",
    "Continuable",
    "Counted",
    "DualVectors",
    "Embedding",
    "FusedCodes",
    "Interests",
    "ItemScores",
    "Jagged",
    "KeptPrompt",
    "Loss",
    "MaskedCodes",
    "MaskedEmbedding",
    "MaskedRows",
    "Parallel",
    "PromptReader",
    "Question",
    "Ranked",
    "Resumable",
    "Session",
    "TeacherForced",
    "Tokens",
    "TreeSession",
    "TrieTensors",
]


class TrieTensors(Protocol):
    """What the trie ops read: a few integer tensors (see ``genrec_fast.catalog.trie.Trie`` for their meaning)."""

    @property
    def codebook_sizes(self) -> tuple[int, ...]: ...
    @property
    def tokens(self) -> tuple[Tensor, ...]: ...
    @property
    def child_bases(self) -> tuple[Tensor, ...]: ...
    @property
    def child_deltas(self) -> tuple[Tensor, ...]: ...


class Session(Protocol):
    """Where a search over a network stands: what it has read, and what every beam wrote.

    Sessions do not change: every call gives a new one, and an old one may be extended again (one over transformers'
    own cache gives its cache away when it is extended; what ``select`` gives is independent of it).

    Attributes:
        finite: whether no code is ever ruled out by a logit of -inf.
    """

    finite: ClassVar[bool] = False

    def scores(self, span: Any = None, *, log_sums: bool = False) -> tuple[Tensor, Tensor | None]:
        """Logits ``[B, W, K]`` behind the rows of the last call (W = 1 behind the prompts).

        Args:
            span: which tokens, int64 ``[K]`` or a slice, for a session over a vocabulary; ``None``: the codes of each
                row's next level.
            log_sums: whether the log-sum-exp over the whole vocabulary, ``[B, W]``, is wanted with a span.
        """
        ...

    def extend(self, codes: Tensor, parents: Tensor) -> Session:
        """Every beam by a code (a session over a vocabulary: a token): integers ``[B, W]`` each.

        Args:
            codes: what is written.
            parents: the beam of the last call that each one extends. Slots without a live beam carry code 0 and
                parent 0.
        """
        ...

    def select(self, users: Tensor) -> Session:
        """The session of users int64 ``[m]``, positions in the batch; nothing is encoded again."""
        ...

    def search(self, trie: Any, plan: Any, paid: Tensor) -> Any:
        """A whole decode in one call (``nn.engine.plan.Found``); ``None``: the search goes level by level.

        Args:
            trie: the catalog.
            plan: what is searched for (``nn.engine.plan.Plan``).
            paid: float32 ``[B, 1]``: the scores of the beams so far.
        """
        return None


@runtime_checkable
class TreeSession(Session, Protocol):
    """A session that reads drafts: rows at different depths in one pass.

    Every row that the calls of a search made has a number: the prompt is row 0 of each user, then call by call, beam
    by beam. Where rows of a call are at different levels, ``scores`` has the largest codebook's K, -inf behind a
    level's last code.
    """

    def extend_tree(self, codes: Tensor, parents: Tensor) -> TreeSession:
        """Several rows per beam and rows at different depths, each seeing the prompt and its ancestors.

        Args:
            codes: integers ``[B, W]``.
            parents: the numbers of the rows that they extend, those of this very call's earlier rows included.
        """
        ...

    def select(self, users: Tensor) -> TreeSession: ...

    @property
    def searches_best_first(self) -> bool:
        """Whether ``best_first`` is there; else such a search goes round by round."""
        return False

    def best_first(self, trie: Any, plan: Any, users: tuple[int, int], width: int) -> Any:
        """A whole best-first search in one call.

        Args:
            trie: the catalog.
            plan: what is searched for (``nn.engine.plan.BestFirstPlan``).
            users: which of them, from the first to before the last.
            width: semantic IDs that are returned for each.

        Returns:
            ``ops.transformer_best_first.BestFound``; ``None`` where it is not there.
        """
        return None


@runtime_checkable
class Autoregressive(Protocol):
    """A backbone that scores semantic IDs level by level; all beams of a user share what was read of the history."""

    codebook_sizes: tuple[int, ...]

    def prefill(self, batch: Batch) -> Session:
        """Reads the users' histories once."""
        ...


class KeptPrompt(NamedTuple):
    """What is kept of a user's prompt.

    Args:
        tokens: int64 ``[S]``.
        session: of this user alone, behind them; never extended itself (``select`` gives one for that).
    """

    tokens: Tensor
    session: Session


class PromptReader(Protocol):
    """A language model with the weights of one moment."""

    @property
    def version(self) -> object:
        """One and the same object as long as what was kept may be used: the weights are what they were."""
        ...

    def read(self, prompts: Jagged, kept: Sequence[KeptPrompt | None]) -> tuple[Session, list[KeptPrompt]]:
        """The session behind prompts, of which only what is not kept is read, and what is now to be kept.

        Args:
            prompts: int64 token ids of B users, none empty.
            kept: of each of them, by a reader of the same version.
        """
        ...


@runtime_checkable
class Continuable(Autoregressive, Protocol):
    """A language model that reads from left to right: what it made of a prompt serves any that begins like it."""

    plan: Any
    """what a search writes (``nn.engine.plan.Plan``)"""

    def reader(self, *, frozen: bool = False) -> PromptReader:
        """What reads prompts now; ``frozen``: the weights are not looked at.

        Raises:
            UnsupportedError: a model of which nothing can be kept; weights that cannot be looked at.
        """
        ...


@runtime_checkable
class TeacherForced(Protocol):
    """A backbone that learns semantic IDs level by level; the same backbone searches as an ``Autoregressive``."""

    def level_logits(self, batch: Batch) -> list[Tensor]:
        """One float ``[M, K_l]`` per level, given the true codes of the levels before."""
        ...


@runtime_checkable
class Parallel(Protocol):
    """A backbone that predicts all codes of the next item at once, from the history alone.

    ``codebook_sizes`` are those of what it predicts: the catalog's levels, and where there is one more, the last is the
    item itself, N codes.
    """

    codebook_sizes: tuple[int, ...]

    def target_logits(self, batch: Batch) -> list[Tensor]:
        """One float ``[M, K_l]`` per level, before each training target."""
        ...

    def user_logits(self, batch: Batch) -> list[Tensor]:
        """One float ``[B, K_l]`` per level, after each whole history."""
        ...

    def code_tables(self) -> list[Tensor]:
        """One float ``[K_l, D]`` per level: vectors of codes, alike where codes are."""
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
class BehaviourThenCodes(Autoregressive, TeacherForced, Protocol):
    """A backbone that writes what is done next, then the semantic ID of the item that it is done with."""

    def behaviour_and_level_logits(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """Of one reading: logits of the behaviour ``[M, A + 1]``, and ``level_logits`` given the true one."""
        ...

    def target_behaviours(self, batch: Batch) -> Tensor:
        """int64 ``[M]``: the true ones, 0 where none of the A actions holds."""
        ...


@runtime_checkable
class FusedCodes(Embedding, Protocol):
    """An ``Embedding`` whose items are made of their codes, some of which may be hidden and told from the others."""

    def code_tokens(self, items: Tensor) -> Tensor:
        """int64 ``[E, L]``: the codes of items ``[E]``, counted through all levels."""
        ...

    def item_vectors(self, items: Tensor) -> Tensor:
        """``[E, D]``: rows of ``item_table``, of these items alone."""
        ...

    def embed_hidden(self, batch: Batch, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """``embed_targets`` with the codes ``hidden [E, L]`` hidden, and the logits of each hidden code ``[H, V]``."""
        ...


@runtime_checkable
class DualVectors(Embedding, Protocol):
    """An ``Embedding`` whose items have vectors of their own and vectors of their codes."""

    def id_vectors(self, items: Tensor) -> Tensor:
        """``[n, D]`` of items ``[n]``: their own."""
        ...

    def code_vectors(self, items: Tensor) -> Tensor:
        """``[n, D]``: their codes'."""
        ...

    def masked_users(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """At the targets, ``[M, D]`` each: states of the histories' codes, with all levels and with some hidden."""
        ...


@runtime_checkable
class CodesAndVectors(Autoregressive, TeacherForced, _ItemTable, Protocol):
    """A backbone that writes the next item's semantic ID, and says in the items' space where it lies."""

    def predictions(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """For M targets, of one reading: logits per level, as ``level_logits``, and vectors ``[M, D]`` of length 1.

        Items' vectors (``item_table``) have length 1, too: an inner product is a cosine.
        """
        ...


@runtime_checkable
class AddedScores(Autoregressive, TeacherForced, Protocol):
    """A backbone that writes semantic IDs, and scores items by inner products to which something known is added."""

    def added_scores(self, batch: Batch) -> tuple[list[Tensor], Tensor, Tensor, tuple[Jagged, Tensor]]:
        """For M targets, of one reading.

        Returns:
            Logits per level, as ``level_logits``; vectors ``[M, D]`` and the items' ``[N, D]``; int64 items, M rows,
            and float32 values of the same order, which are added to the products. An item may stand in a row several
            times.
        """
        ...


@runtime_checkable
class CodesThenUsers(Autoregressive, Embedding, Protocol):
    """A backbone that writes semantic IDs, and places users and items in one space."""


@runtime_checkable
class CodesThenVectors(Autoregressive, _ItemTable, Protocol):
    """A backbone that writes a semantic ID, and then says where among the items the one that is meant lies."""

    def vectors_behind(self, session: Session) -> Tensor:
        """``[B, W, D]`` of length 1, of beams that a session of ``prefill`` wrote whole semantic IDs of."""
        ...


@runtime_checkable
class Interests(_ItemTable, Protocol):
    """A backbone that places a user in several places; a score is the largest of their inner products."""

    def embed_interests(self, batch: Batch) -> Tensor:
        """``[B, I, D]``."""
        ...


@runtime_checkable
class MaskedEmbedding(_ItemTable, Protocol):
    """A backbone that predicts hidden items from the rest of their row."""

    def embed_masked(self, items: Jagged, at: Tensor) -> Tensor:
        """``[M, D]``: the states of positions int64 ``at [M]`` of rows in which -1 stands for a hidden item."""
        ...


@runtime_checkable
class MaskedCodes(Protocol):
    """A backbone that tells masked codes of an item from the rest of its codes and from what came before it.

    Log-probabilities are over whatever the network chooses among: a level's codes, or those of all levels.
    """

    codebook_sizes: tuple[int, ...]

    def read(self, batch: Batch) -> Any:
        """The histories of B users, once for all that is asked about them."""
        ...

    def read_targets(self, batch: Batch) -> Any:
        """What came before each of M training targets."""
        ...

    def code_logprobs(self, histories: Any, written: Tensor) -> list[Tensor]:
        """One float32 ``[R, W, K_l]`` per level, where a code is masked and where it is not.

        Args:
            histories: of R rows, from ``read`` or ``read_targets``.
            written: int64 ``[R, W, L]``: W partly written semantic IDs for each row, -1 where a level is masked.
        """
        ...


@runtime_checkable
class MaskedRows(MaskedCodes, Protocol):
    """... and masked codes anywhere in a history."""

    def row_logprobs(self, codes: Jagged, at: Tensor) -> Tensor:
        """float32 ``[M, V]``: over the codes of all levels, V the sum of their sizes.

        Args:
            codes: int64 values ``[E, L]``, -1 where a code is masked; the last item of each row is the one that comes
                next.
            at: bool ``[E, L]``, M of them: which codes are asked for.
        """
        ...


@runtime_checkable
class ItemScores(Protocol):
    """A backbone that scores every item by itself, not by vectors that a search could compare."""

    num_items: int

    def score_items(self, batch: Batch) -> Tensor:
        """Float ``[B, N]``, the caller's to change: the higher, the likelier comes the item next."""
        ...


@runtime_checkable
class Counted(Protocol):
    """A backbone that learns by counting."""

    def count(self, histories: Jagged) -> None:
        """Adds what these histories tell, in place.

        Where the backbone has ``counts``, int64 ``[N]`` events of each item, they tell what is popular.
        """
        ...
