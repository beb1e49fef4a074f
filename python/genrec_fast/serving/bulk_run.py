"""A file of questions to a file of answers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrec_fast._version import __version__
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.files import storing
from genrec_fast.base.weights import module_tensors
from genrec_fast.ops.fingerprint import fingerprint
from genrec_fast.recipe.card import to_json
from genrec_fast.recipe.recommender import Recommender
from genrec_fast.serving.answer_file import AnswerFile, Tally, packed_lines, write_all
from genrec_fast.serving.bulk import Window
from genrec_fast.serving.question_file import Kept, Place, Table, is_table, open_questions
from genrec_fast.serving.unfinished import Unfinished
from genrec_fast.training.log import StageBar


@dataclass(frozen=True, kw_only=True)
class BulkConfig:
    """How a file is answered.

    Args:
        users_per_batch: users searched at once.
        strict: the first wrong line ends the run.
        resume: an unfinished run of the same questions is gone on with.
        show: progress on the standard error.
    """

    users_per_batch: int = 256
    strict: bool = False
    resume: bool = True
    show: bool = True


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Args:
        tally: of all lines, those that an earlier run had answered, too.
        lines: of this run.
        seconds: that these took, without reading the model.
    """

    tally: Tally
    lines: int
    seconds: float


def recommend_file(
    model: Recommender, questions: str, answers: str, defaults: Mapping[str, Any], config: BulkConfig
) -> Outcome:
    """Answers every line of a file, in order, one line for each.

    Args:
        model: who answers.
        questions: JSON lines (``.gz``: gzipped), Parquet, or "-": JSON lines of the standard input.
        answers: likewise; "-": the standard output. A device or a named pipe is written to as that is.
        defaults: fields of lines that do not have them.
        config: how.

    Returns:
        How many lines have items, how many an error, and how fast that went.

    Raises:
        InvalidValueError: a line is wrong and ``config.strict``; an unfinished run of other questions or another model.
        CorruptFileError: what an unfinished run left was altered.
        DataError: a file of questions that cannot be read, or was changed meanwhile.

    Notes:
        Killed at any point and started again, the output ends with the same bytes: windows of lines are searched
        together by their places alone, and the output appears when it is whole. Whatever comes from or goes to a pipe
        begins from the start.
    """
    source = open_questions(questions)
    window = Window(model, defaults, config.users_per_batch)
    begun = time.monotonic()
    output = Path(answers)
    if answers != "-":
        if output.is_dir():
            raise InvalidValueError(f"recommend: --output must be the name of a file, got the folder {output}")
        if questions != "-" and output.exists() and output.samefile(questions):
            raise InvalidValueError(f"recommend: --output must be another file than --input, got {output}")
    if answers == "-" or (output.exists() and not output.is_file()):
        tally = _to_pipe(window, source.windows(window.size, Place()), config, answers)
        return Outcome(tally, tally.lines, time.monotonic() - begun)
    kept = Kept(source, questions) if Path(questions).is_file() and questions != "-" else None
    input_is = "a pipe" if kept is None else kept.survey.checksum
    identity = {**identity_of(model, defaults, config, input_is), "form": "a file"}
    with (
        Unfinished(output, identity, resume=config.resume and kept is not None) as run,
        AnswerFile(run, mark_types(source)) as file,
    ):
        earlier = file.tally.lines
        try:
            if not file.whole:
                _to_file(window, source.windows(window.size, file.place), file, config, kept)
        except (InvalidTypeError, InvalidValueError):  # a wrong line: mended, it is another input
            run.remove()
            raise
        file.finish()
        return Outcome(file.tally, file.tally.lines - earlier, time.monotonic() - begun)


def _to_file(
    window: Window,
    windows: Iterator[tuple[list[tuple[int, Any]], Place]],
    file: AnswerFile,
    config: BulkConfig,
    kept: Kept | None,
) -> None:
    begun, first = time.monotonic(), file.place.lines
    total = kept.survey.lines if kept else 0
    try:
        with StageBar(config.show) as show:
            show("recommend", first, total, {})  # what was done before is no pace
            for lines, place in windows:
                answers = _answered(window, lines, config)
                if kept:
                    kept.check()
                file.append(answers, place)
                rate = (place.lines - first) / max(time.monotonic() - begun, 1e-9)
                show("recommend", place.lines, total, {"users/s": rate})
            if kept:
                kept.check()
    except KeyboardInterrupt as stop:
        again = "the same command begins again" if kept is None else "the same command goes on from there"
        raise KeyboardInterrupt(f"stopped behind line {file.place.lines}; {again}") from stop


def _answered(window: Window, lines: list[tuple[int, Any]], config: BulkConfig) -> list[dict[str, Any]]:
    return list(window.strictly(lines)) if config.strict else window(lines)


def _to_pipe(
    window: Window, windows: Iterator[tuple[list[tuple[int, Any]], Place]], config: BulkConfig, answers: str
) -> Tally:
    if is_table(answers):
        raise InvalidValueError(
            f"recommend: --output must be a file to be Parquet, got {answers}, a device or a pipe; JSON lines "
            "can go there"
        )
    tally = Tally()
    with contextlib.ExitStack() as leaving:
        if answers == "-":
            stream = sys.stdout.buffer
        else:
            with storing(answers, "recommend"):
                stream = leaving.enter_context(Path(answers).open("wb", buffering=0))
        for lines, _ in windows:
            found = _answered(window, lines, config)
            with contextlib.nullcontext() if answers == "-" else storing(answers, "recommend"):
                write_all(stream, packed_lines(found, answers))
                stream.flush()
            tally += Tally.of(found)
    return tally


def mark_types(source: Any) -> dict[str, Any]:
    """Polars' types of ``id`` and ``user``, where a table of questions has whole numbers there."""
    kinds = source.schema if isinstance(source, Table) else {}
    return {name: kinds[name] for name in ("id", "user") if name in kinds and kinds[name].is_integer()}


def identity_of(model: Recommender, defaults: Mapping[str, Any], config: BulkConfig, questions: str) -> dict[str, str]:
    """What the answers of a file depend on, by the names that an error has for them."""
    digest = hashlib.sha256(json.dumps(to_json(model.recipe), sort_keys=True).encode())
    catalog = model.catalog
    for texts in (catalog.item_ids, catalog.titles):
        digest.update(json.dumps(None if texts is None else list(texts)).encode())
    tensors = [*module_tensors(model).values(), catalog.item_codes, catalog.features]
    digest.update(f"{fingerprint([tensor.cpu() for tensor in tensors if tensor is not None]):016x}".encode())
    options = {**defaults, "users_per_batch": config.users_per_batch}
    return {
        "input": questions,
        "model": digest.hexdigest(),
        "options": json.dumps(options, sort_keys=True),
        "version": __version__,
    }
