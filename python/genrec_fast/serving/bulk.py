"""Questions of more users than fit into memory: read, searched and answered a window at a time."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from genrec_fast.base.checks import MOST, whole_number
from genrec_fast.base.errors import GenrecError, InvalidTypeError, InvalidValueError
from genrec_fast.base.query import Query, ask
from genrec_fast.recipe.recommender import Recommender
from genrec_fast.serving.http_body import answer_of, question_of
from genrec_fast.serving.lines import checked_line, joined_lines, kind_of_line, marks_of_line, plain_field

# Histories are sorted by length within a window of so many batches. tiger on beauty, one thread, 256 users a batch: 265
# users a second sorted, 140 unsorted; marius and sasrec gain a few percent.
WINDOW_BATCHES = 8


@dataclass(frozen=True)
class _Limits:
    """Of a body made of lines: whoever asks by a file owns the machine."""

    timeout: float = 1e9
    max_users: int = MOST
    max_k: int = MOST


_LIMITS = _Limits()


def recommend_many(
    model: Recommender,
    questions: Iterable[Mapping[str, Any] | Sequence[int]],
    k: int = 10,
    *,
    users_per_batch: int = 256,
    strict: bool = True,
    **defaults: Any,
) -> Iterator[dict[str, Any]]:
    """Answers any number of questions, in their order, in memory that does not grow with them.

    Args:
        model: who answers.
        questions: one for each user: a history of item ids, or a mapping with the fields of a line of
            ``genrec-fast recommend --input`` (docs/serving.md): ``history`` (names) or ``history_ids``, ``id``,
            ``user``, ``times``, ``at``, ``actions``, ``exclude``, ``k``, ...; lists may be arrays and tensors, those of
            items sets, too.
        k: how many items, where a question does not say.
        users_per_batch: users searched at once: a matter of memory and speed. ``WINDOW_BATCHES`` times as many
            questions are read ahead.
        strict: a question that is wrong raises when its turn comes; else its answer is ``{"line": its number from 1,
            "error": text}``.
        defaults: more fields for questions that do not have them: ``exclude_seen=True``, ``num_beams=100``, ...

    Yields:
        An answer for each question: ``{"items": [{"item", "id", "score", "title"}, ...], "exact", ...}`` as over HTTP,
        with the question's ``id`` and ``user`` in front where it has some.

    Raises:
        InvalidTypeError: a question or a field of another type; the message has the question's number.
        InvalidValueError: an unknown field or item, a value that is not allowed.

    Notes:
        Equal to ``Recommender.recommend``, bit for bit where the backbone's numbers do not depend on the size of the
        batch, else up to rounding. Which questions are searched together depends on their places alone.

    Example:
        ``for answer in gf.recommend_many(model, ([3, 14] for _ in range(10**6)), k=10): ...``
    """
    window = Window(model, {"k": k, **defaults}, users_per_batch)
    numbered = enumerate(map(_as_line, questions), start=1)
    return (
        answer for part in _parts(numbered, window.size) for answer in (window.strictly if strict else window)(part)
    )


class Window:
    """Answers some lines together; called with pairs of a line's number and the line, or what is wrong with it.

    Args:
        model: who answers.
        defaults: fields of lines that do not have them.
        users_per_batch: users searched at once.

    Raises:
        InvalidTypeError: a default that no line may have.
        InvalidValueError: likewise.

    Attributes:
        size: how many lines to give it at once.
    """

    def __init__(self, model: Recommender, defaults: Mapping[str, Any], users_per_batch: int) -> None:
        self._batch = whole_number("recommend", "users_per_batch", users_per_batch)
        self.size = WINDOW_BATCHES * self._batch
        self.model = model
        self._defaults = {name: plain_field(name, value) for name, value in defaults.items() if value is not None}
        self._check_defaults()

    def _check_defaults(self) -> None:
        """Raises what would be wrong with every line."""
        given = self._arguments([checked_line({"history_ids": [], **self._defaults}, {})])
        asked = {name: given[name] for name in ("k", "num_beams", "exact") if name in given}
        self.model.decoder.settled(Query(**asked))

    def __call__(self, lines: Sequence[tuple[int, Any]]) -> list[dict[str, Any]]:
        """An answer for each line, in their order; where there is none, the line's number and the error."""
        found = self._found([line for _, line in lines])
        return [
            marks_of_line(line)
            | ({"line": number, "error": str(answer)} if isinstance(answer, GenrecError) else answer)
            for (number, line), answer in zip(lines, found, strict=True)
        ]

    def strictly(self, lines: Sequence[tuple[int, Any]]) -> Iterator[dict[str, Any]]:
        """The same, until a line that has no answer.

        Raises:
            InvalidTypeError: at its turn, with its number.
            InvalidValueError: likewise.
        """
        found = self._found([line for _, line in lines])
        for (number, line), answer in zip(lines, found, strict=True):
            if isinstance(answer, GenrecError):
                raise type(answer)(f"line {number}: {answer}") from answer
            yield marks_of_line(line) | answer

    def _found(self, lines: Sequence[Any]) -> list[Any]:
        """For each line its answer, or its error."""
        found: list[Any] = [None] * len(lines)
        asked: dict[int, dict[str, Any]] = {}
        kinds: dict[Hashable, list[int]] = {}
        for place, line in enumerate(lines):
            try:
                if isinstance(line, GenrecError):
                    raise line
                asked[place] = checked_line(line, self._defaults, self.model.reads_users)
                kinds.setdefault(kind_of_line(asked[place], self._defaults), []).append(place)
            except (InvalidTypeError, InvalidValueError) as error:
                found[place] = error
        for places in kinds.values():
            places.sort(key=lambda place: self._length(asked[place]))
            for begin in range(0, len(places), self._batch):
                some = places[begin : begin + self._batch]
                answers = self._answers([asked[place] for place in some])
                for place, answer in zip(some, answers, strict=True):
                    found[place] = answer
        return found

    def _length(self, line: Mapping[str, Any]) -> int:
        """How many events of a history are read."""
        history = line["history"] if "history" in line else line["history_ids"]
        return min(len(history), self.model.max_items) if isinstance(history, list) else 0

    def _answers(self, lines: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Lines of one kind, asked at once; if that is refused, without those that are refused alone."""
        try:
            return self._ask(lines)
        except (InvalidTypeError, InvalidValueError) as error:
            if len(lines) == 1:
                return [error]
        found = [self._refusal(line) for line in lines]
        good = [place for place, refused in enumerate(found) if refused is None]
        if len(good) == len(lines):  # refused by the search itself: by which of them, it alone can tell
            return [self._answers([line])[0] for line in lines]
        for place, answer in zip(good, self._answers([lines[place] for place in good]) if good else (), strict=True):
            found[place] = answer
        return found

    def _ask(self, lines: Sequence[Mapping[str, Any]]) -> list[Any]:
        ranked = self.model.recommend(**self._arguments(lines), users_per_batch=len(lines))
        return answer_of(ranked, self.model)

    def _arguments(self, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        arguments = question_of(joined_lines(lines), self.model, _LIMITS)
        del arguments["timeout"]
        return arguments

    def _refusal(self, line: Mapping[str, Any]) -> InvalidTypeError | InvalidValueError | None:
        """What is wrong with a line, as far as that can be told without a search."""
        try:
            options = self._arguments([line])
            _, query = ask(self.model, options.pop("histories"), options.pop("k"), options)  # type: ignore[arg-type]
            self.model.decoder.settled(query)
        except (InvalidTypeError, InvalidValueError) as error:
            return error
        return None


def _as_line(question: Any) -> Any:
    """A bare history as a line."""
    if isinstance(question, Mapping):
        return question
    if isinstance(question, (Tensor, np.ndarray)):
        question = question.tolist()
    is_row = isinstance(question, Sequence) and not isinstance(question, str)
    return {"history_ids": list(question)} if is_row else question


def _parts(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of ``size``, the last one shorter."""
    left = iter(items)
    while part := list(itertools.islice(left, size)):
        yield part
