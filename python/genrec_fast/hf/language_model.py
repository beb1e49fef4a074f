"""A model of transformers as a backbone, and what reads its prompts on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError, UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import KeptPrompt, Session
from genrec_fast.hf.engine import Engine, TorchEngine, places_of
from genrec_fast.hf.places import check_room
from genrec_fast.nn.engine.card import CardEngine
from genrec_fast.nn.engine.native import NativeEngine
from genrec_fast.nn.engine.plan import Plan
from genrec_fast.nn.snapshot import Snapshot


class LanguageModel:
    """A model of transformers as a backbone: prompts are its histories (``Continuable`` where there is no encoder).

    Args:
        engine: gives what runs the model, as it is at the moment of the call: it looks at every weight.
        vocab_size: V.
        codebook_sizes: of the trie.
        plan: what a search writes.
        start: an encoder-decoder's first tokens; ``None``: there is no encoder.
        model: that the engine runs.
        frozen: nobody changes it.
    """

    def __init__(
        self,
        engine: Callable[[], Engine],
        vocab_size: int,
        codebook_sizes: tuple[int, ...],
        plan: Plan,
        start: list[int] | None,
        model: nn.Module,
        frozen: bool = False,
    ) -> None:
        self.engine, self.vocab_size, self.codebook_sizes = engine, vocab_size, codebook_sizes
        self.plan, self.start, self.name, self.frozen = plan, start, type(model).__name__, frozen
        self._model = model
        module: Any = model
        known = getattr(module.get_input_embeddings(), "num_embeddings", None)
        self.num_tokens = known if isinstance(known, int) else vocab_size
        """prompts hold numbers below this"""
        self._seen: tuple[Snapshot, int, object] | None = None

    def prefill(self, batch: Batch) -> Session:
        """Reads prompts.

        Raises:
            InvalidValueError: an empty one, or one that leaves no position for the answer.
        """
        rows = _not_empty(batch.items)
        start = None
        if self.start is not None:
            start = Jagged(torch.tensor(self.start * len(rows)), torch.arange(len(rows) + 1) * len(self.start))
        engine = self.engine()
        self._check_room(engine, rows, start)
        return engine.prefill(rows, start)

    def _check_room(self, engine: Engine, rows: Jagged, start: Jagged | None) -> None:
        answer = len(self.plan.prefix) + len(self.codebook_sizes)
        check_room("recommend", places_of(engine), rows, start, answer, encoded=False)

    def reader(self, *, frozen: bool = False) -> Reader:
        """See ``Continuable``."""
        if self.start is not None:
            raise UnsupportedError(
                f"UserCache: model must read prompts from left to right, got {self.name}, whose encoder sees a prompt "
                "from both sides: a new item changes the keys and values of all tokens, so none can be kept"
            )
        engine = self.engine()
        if isinstance(engine, NativeEngine):  # packed anew where anything has changed
            return Reader(engine, engine, self._check_room)
        if isinstance(engine, CardEngine):
            return Reader(engine, self._version(self._model, engine.device, frozen), self._check_room)
        assert isinstance(engine, TorchEngine)
        assert self.plan.tokens is not None
        engine.check_resumes(torch.cat([table[:16] for table in self.plan.tokens.known]).cpu())
        return Reader(engine, self._version(engine.model.owner, engine.model.device, frozen), self._check_room)

    def _version(self, owner: nn.Module, device: torch.device, frozen: bool) -> object:
        if frozen or self.frozen:
            return owner
        if device.type != "cpu":
            raise UnsupportedError(
                f"UserCache: frozen must be True where weights are not on the CPU, got False with {device}; "
                "call clear() when they change"
            )
        if self._seen is not None:
            snapshot, mark, version = self._seen
            if snapshot.same_parts(owner) and snapshot.mark() == mark:
                return version
        snapshot = Snapshot(owner)
        self._seen = (snapshot, snapshot.mark(), object())
        return self._seen[2]


class Reader:
    """Prompts read behind what was kept of them (``PromptReader``).

    Args:
        engine: runs a decoder.
        version: see ``PromptReader``.
        check_room: raises for prompts too long for an engine.
    """

    def __init__(
        self,
        engine: NativeEngine | CardEngine | TorchEngine,
        version: object,
        check_room: Callable[[Engine, Jagged, Jagged | None], None],
    ) -> None:
        self.engine, self.version, self._check_room = engine, version, check_room

    def read(self, prompts: Jagged, kept: Sequence[KeptPrompt | None]) -> tuple[Session, list[KeptPrompt]]:
        """See ``PromptReader``; of a prompt that is kept whole the last token is read again, but for a single user's.

        Raises:
            InvalidValueError: an empty prompt or one beyond the model's positions, a token outside the vocabulary.
        """
        self._check_room(self.engine, prompts, None)
        rows = _not_empty(prompts).rows()
        if len(rows) == 1 and kept[0] is not None and torch.equal(rows[0], kept[0].tokens):
            return kept[0].session.select(torch.tensor([0])), [kept[0]]
        known: list[Any] = [
            None if old is None else _begun(old, tokens) for old, tokens in zip(kept, rows, strict=True)
        ]
        session = self._read(prompts, rows, known)
        users = [session.select(torch.tensor([user])) for user in range(len(rows))]
        return session, [KeptPrompt(tokens.clone(), user) for tokens, user in zip(rows, users, strict=True)]

    def _read(self, prompts: Jagged, rows: list[Tensor], known: list[Any]) -> Session:
        if isinstance(self.engine, TorchEngine):
            return self.engine.resume(prompts, known)
        new = [tokens if old is None else tokens[old[1] :] for tokens, old in zip(rows, known, strict=True)]
        return self.engine.prefill(Jagged.from_rows(new, torch.int64), known=known)


def _begun(old: KeptPrompt, tokens: Tensor) -> tuple[Session, int] | None:
    """The session behind the old prompt, and with how many of its tokens the new one begins; one is left to read."""
    most = min(len(old.tokens), len(tokens) - 1)
    same = (old.tokens[:most] == tokens[:most]).long().cumprod(0).sum()
    return (old.session, int(same)) if int(same) else None


def _not_empty(rows: Jagged) -> Jagged:
    ends = rows.offsets.tolist()
    if len(set(ends)) < len(ends):
        user = next(user for user, (begin, end) in enumerate(itertools.pairwise(ends)) if begin == end)
        raise InvalidValueError(f"recommend: prompts must have a token each, but user {user} has none")
    return rows
