"""A table of questions answered by many machines: Ray Data hands out the windows, each worker keeps its model."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from genrec_fast.base.errors import CorruptFileError, DataError, InvalidValueError, UnsupportedError, install_hint
from genrec_fast.base.files import atomic_path
from genrec_fast.recipe.recommender import load
from genrec_fast.serving.answer_file import Tally, table_schema
from genrec_fast.serving.bulk import Window
from genrec_fast.serving.bulk_run import BulkConfig, Outcome, identity_of, mark_types
from genrec_fast.serving.question_file import Kept, Table, is_table
from genrec_fast.serving.unfinished import START_OVER, Unfinished
from genrec_fast.training.log import StageBar

_MOST_PARTS = 4096  # files of answers; with more windows each file has several


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Who works.

    Args:
        address: of a running cluster ("auto": the one that this machine belongs to), or "local": one on this machine.
        workers: copies of the model; ``None``: as many as the cluster has CPUs for.
        threads: of each worker; CPUs that it asks Ray for.
        device: of each worker; for "cuda" it asks Ray for a GPU.
    """

    address: str
    workers: int | None = None
    threads: int = 1
    device: str = "cpu"


@dataclass(frozen=True)
class _Job:
    """What a worker is told.

    Args:
        model: folder.
        questions: file.
        parts: folder of the answers.
        identity: of the model and the questions, which every worker must see as the driver does.
        size: bytes of the questions.
        windows: of a part.
        defaults: fields of rows that do not have them.
        config: as for one machine.
        cluster: who works.
    """

    model: Path
    questions: Path
    parts: Path
    identity: dict[str, str]
    size: int
    windows: int
    defaults: dict[str, Any]
    config: BulkConfig
    cluster: ClusterConfig


class _Worker:
    """One copy of the model; Ray makes it once for each actor, and again on another machine where one is lost."""

    def __init__(self, job: _Job) -> None:
        torch.set_num_threads(job.cluster.threads)
        model = load(job.model, job.cluster.device)
        seen = identity_of(model, job.defaults, job.config, job.identity["input"])
        if {**job.identity, **seen} != job.identity or job.questions.stat().st_size != job.size:
            raise CorruptFileError(
                f"recommend: every worker must see the model {job.model} and the questions {job.questions} as the one "
                "that began the run, got others on one of the machines"
            )
        self._job, self._table = job, Table(job.questions)
        self._window = Window(model, job.defaults, job.config.users_per_batch)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        tallies = [self._part(int(number)) for number in batch["part"]]
        return {
            "lines": [tally.lines for tally in tallies],
            "failed": [tally.failed for tally in tallies],
            "first_error": [tally.first_error for tally in tallies],
        }

    def _part(self, number: int) -> Tally:
        """Answers the rows of one part, and writes them whole or not at all."""
        import polars

        size = self._window.size
        first = number * size * self._job.windows
        lines = list(enumerate(self._table.rows(first, size * self._job.windows), start=first + 1))
        answers = [answer for at in range(0, len(lines), size) for answer in self._window(lines[at : at + size])]
        tally = Tally.of(answers)
        if not (tally.failed and self._job.config.strict):
            frame = polars.DataFrame(answers, schema=table_schema(mark_types(self._table)))
            with atomic_path(self._job.parts / _name(number)) as temporary:
                frame.write_parquet(temporary)
        return tally


def recommend_on_cluster(
    model: Path, questions: str, answers: str, defaults: Mapping[str, Any], config: BulkConfig, cluster: ClusterConfig
) -> Outcome:
    """``recommend_file`` by many workers: Parquet to a folder of Parquet, whose files follow one another in order.

    Args:
        model: folder of the model; every worker reads it once.
        questions: a Parquet file.
        answers: the folder; it appears when it is whole.
        defaults: fields of rows that do not have them.
        config: as for one machine.
        cluster: who works.

    Returns:
        As ``recommend_file``.

    Raises:
        InvalidValueError: names that are no Parquet; a wrong row and ``config.strict``; as ``recommend_file``.
        CorruptFileError: a part of the answers was altered.
        UnsupportedError: Ray is not installed, there is no such cluster, or it gives up.

    Notes:
        Every machine must see the three paths (a shared file system). The unit of work is a file of answers, written
        whole or not at all, over windows that are those of one machine: the answers are equal, row for row, and what a
        lost worker had begun is done again. A run that ended early is gone on with from the files that are there.
    """
    for name, path in (("--input", questions), ("--output", answers)):
        if not is_table(path):
            raise InvalidValueError(f"recommend: {name} must end in .parquet with --ray, got {path}")
    _ray()  # before anything is begun
    table, begun = Table(Path(questions)), time.monotonic()
    kept, recommender = Kept(table, questions), load(model)
    survey = kept.survey
    identity = {**identity_of(recommender, defaults, config, survey.checksum), "form": "a folder of parts"}
    size = Window(recommender, defaults, config.users_per_batch).size
    del recommender  # the workers have their own
    windows = max(1, -(-survey.lines // (size * _MOST_PARTS)))
    with Unfinished(Path(answers), identity, resume=config.resume) as run:
        job = _Job(
            model=model.resolve(),
            questions=Path(questions).resolve(),
            parts=run.folder.resolve() / "parts",
            identity=identity,
            size=Path(questions).stat().st_size,
            windows=windows,
            defaults=dict(defaults),
            config=config,
            cluster=cluster,
        )
        done = 0 if run.moved else _answer(job, run, kept, size * windows)
        tally = _tally(run.output, survey.lines)
        run.remove()
    return Outcome(tally, done, time.monotonic() - begun)


def _answer(job: _Job, run: Unfinished, kept: Kept, rows: int) -> int:
    """Answers what no file of ``rows`` lines is there for, and puts the folder in its place; how many that were."""
    lines = kept.survey.lines
    if run.output.exists():
        raise InvalidValueError(f"recommend: --output must be a new name with --ray, got {run.output}")
    run.note({})
    job.parts.mkdir(exist_ok=True)
    names = [_name(number) for number in range(max(1, -(-lines // rows)))]
    there = {path.name for path in job.parts.iterdir()}
    missing = [number for number, name in enumerate(names) if name not in there]
    earlier = sum(min(rows, lines - number * rows) for number, name in enumerate(names) if name in there)
    done, wrong = 0, ""
    try:
        with StageBar(job.config.show) as show, _cluster(job.cluster) as ray:
            show("recommend", earlier, lines, {})
            for row in _work(ray, job, missing):
                if job.config.strict and row["failed"]:
                    wrong = row["first_error"]
                    break
                done += row["lines"]
                show("recommend", earlier + done, lines, {})
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"stopped behind {earlier + done} lines; the same command goes on from there") from stop
    if wrong:  # removed when the workers have been told to stop
        run.remove()
        raise InvalidValueError(wrong)
    for path in job.parts.iterdir():
        if path.name not in names:  # a killed worker's half a file
            path.unlink()
    try:
        kept.check()
    except DataError:  # some of the parts are answers to what stands there now
        run.remove()
        raise
    run.move(job.parts)
    return done


def _work(ray: Any, job: _Job, missing: list[int]) -> Iterator[dict[str, Any]]:
    """What became of each part, as they are done."""
    if not missing:
        return
    cluster = job.cluster
    needed = {"CPU": cluster.threads, **({"GPU": 1} if torch.device(cluster.device).type == "cuda" else {})}
    workers = min(cluster.workers or _room(ray, needed), len(missing))
    if not workers:
        text = " and ".join(f"{count} {kind}" for kind, count in needed.items())
        raise UnsupportedError(f"recommend: --ray {cluster.address} must have a machine with {text}, got none")
    strategy = ray.data.ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers)
    parts = ray.data.from_items([{"part": number} for number in missing], override_num_blocks=len(missing))
    parts.context.enable_progress_bars = False  # there is one already
    yield from parts.map_batches(
        _Worker,
        fn_constructor_kwargs={"job": job},
        batch_size=1,
        compute=strategy,
        num_cpus=needed["CPU"],
        num_gpus=needed.get("GPU"),
    ).iter_rows()


def _room(ray: Any, needed: Mapping[str, int]) -> int:
    """How many workers the cluster has room for as it is."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(min(int(has.get(kind, 0)) // count for kind, count in needed.items()) for has in machines)


def _ray() -> Any:
    """The package.

    Raises:
        UnsupportedError: it is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        hint = install_hint("ray")
        raise UnsupportedError(f"recommend: Ray Data must be installed for --ray ({hint}), {error}") from error
    return ray


@contextmanager
def _cluster(config: ClusterConfig) -> Iterator[Any]:
    """Ray, connected within the block; a connection that was there before stays.

    Raises:
        UnsupportedError: there is no such cluster, or it gave up.
    """
    ray = _ray()
    own, log = not ray.is_initialized(), logging.getLogger("ray.data")
    level = log.level
    log.setLevel(logging.WARNING)  # it tells of every data set that begins and ends
    try:
        if own:
            _reach(config.address)
            ray.init(address=config.address, log_to_driver=False, logging_level="warning")
        yield ray
    except (ConnectionError, ray.exceptions.RayError) as error:
        reason = str(error).strip().rpartition("\n")[2]
        text = f"recommend: --ray {config.address} must carry the run to its end, got: {reason}"
        raise UnsupportedError(text) from error
    finally:
        log.setLevel(level)
        if own:
            ray.shutdown()


def _reach(address: str) -> None:
    """Says within seconds that nobody listens at HOST:PORT; Ray itself tries for minutes.

    Raises:
        ConnectionError: nobody does.
    """
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not (colon and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(f"nobody listens at {address} ({error})") from error


def _tally(parts: Path, lines: int) -> Tally:
    """What became of all lines.

    Raises:
        CorruptFileError: there are more or fewer than there were questions.
    """
    import polars

    table = polars.scan_parquet(parts / "*.parquet")
    errors = polars.col("error").is_not_null()
    rows, failed = table.select(polars.len(), errors.sum()).collect().row(0)
    if rows != lines:
        raise CorruptFileError(f"recommend: {parts} must have {lines} rows, got {rows}; {START_OVER}")
    first = table.filter(errors).select("line", "error").head(1).collect().rows()
    return Tally(rows - failed, failed, "line {}: {}".format(*first[0]) if first else "")


def _name(number: int) -> str:
    """Of a part, so that names sort as the parts follow one another."""
    return f"part-{number:06}.parquet"
