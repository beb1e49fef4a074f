"""Known public data sets by name: fetched with resume, checked, and put into a form that ``load`` reads."""

from __future__ import annotations

import contextlib
import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from genrec_fast.base.errors import DataError, InvalidValueError
from genrec_fast.base.files import file_checksum, write_text

_BLOCK = 1 << 16  # bytes read at a time: small enough for a bar that moves on a slow line


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a public data set lies.

    Args:
        url: of one file.
        file: the name it gets here.
        size: bytes; ``None`` where nobody published it.
        sha256: hex; ``None`` where nobody published it: then the first download is trusted and its checksum written
            beside the file, and later ones must equal it.
        unpack: makes files that ``load`` reads from the one that was fetched; ``None`` if it is one itself.
        licence: what the publisher says about use, in short.
    """

    url: str
    file: str
    size: int | None
    sha256: str | None
    unpack: Callable[[Path], None] | None
    licence: str


def fetch(
    name: str,
    folder: str | os.PathLike[str],
    *,
    url: str | None = None,
    sha256: str | None = None,
    progress: bool = True,
) -> Path:
    """Fetches a known data set into a folder, from where ``load`` reads it; a second call only checks.

    Args:
        name: one of ``SOURCES``.
        folder: made if missing; give each data set its own.
        url: a mirror to use instead of the publisher's address (checked against the same checksum).
        sha256: the checksum to insist on, for a source whose publisher gives none.
        progress: show a bar.

    Returns:
        The folder.

    Raises:
        InvalidValueError: an unknown name, or a ``sha256`` that contradicts the known one.
        DataError: see ``fetch_file``; or an archive that does not hold what it should.
    """
    if name not in SOURCES:
        raise InvalidValueError(f"data.fetch: name must be one of {', '.join(SOURCES)}, got {name!r}")
    source = SOURCES[name]
    if sha256 is not None and source.sha256 is not None and sha256.lower() != source.sha256:
        raise InvalidValueError(f"data.fetch: sha256 of {name} must be {source.sha256}, got {sha256}")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    path = target / source.file
    fetch_file(url or source.url, path, sha256=sha256 or source.sha256, size=source.size, progress=progress)
    if source.unpack is not None:
        source.unpack(path)
    return target


def fetch_file(
    url: str,
    path: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    size: int | None = None,
    progress: bool = True,
    timeout: float = 30.0,
) -> None:
    """Fetches one file, whole and checked or not at all.

    What has arrived lies in ``PATH.part``; a call after a cut or a kill goes on from there (HTTP Range) if the
    checksum is known or the server can say that its file is still the same (ETag or Last-Modified), and from the
    beginning otherwise. A file that is there already and has the right checksum is left alone.

    Args:
        url: http or https.
        path: where the file goes.
        sha256: hex. ``None``: the checksum written to ``PATH.sha256`` by the first call, which trusts what it got.
        size: bytes, if known.
        progress: show a bar.
        timeout: seconds without any byte after which the connection counts as cut.

    Raises:
        InvalidValueError: url is neither http nor https, or sha256 is not 64 hex digits.
        DataError: the server refuses (with its status), the connection is cut, or size or checksum are wrong.
    """
    target = Path(path)
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise InvalidValueError(f"data.fetch: url must begin with http:// or https://, got {url!r}")
    if sha256 is not None and not (len(sha256) == 64 and set(sha256.lower()) <= set("0123456789abcdef")):
        raise InvalidValueError(f"data.fetch: sha256 must be 64 hex digits, got {sha256!r}")
    recorded = target.with_name(target.name + ".sha256")
    if sha256 is None and recorded.is_file():
        sha256 = recorded.read_text(encoding="utf-8").split()[0]
    expected = None if sha256 is None else sha256.lower()
    if target.is_file():
        found = file_checksum(target)
        if expected is None:
            write_text(recorded, f"{found}  {target.name}\n")
        elif found != expected:
            raise DataError(f"{target}: sha256 must be {expected}, got {found}; remove the file to fetch it again")
        return

    part = target.with_name(target.name + ".part")
    tag = target.with_name(target.name + ".part.tag")  # the server's word for this version of its file
    resumed = _receive(url, part, tag, size=size, checked=expected is not None, progress=progress, timeout=timeout)
    found = file_checksum(part)
    if expected is not None and found != expected and resumed:  # the beginning was of another version: once more, whole
        part.unlink()
        _receive(url, part, tag, size=size, checked=True, progress=progress, timeout=timeout)
        found = file_checksum(part)
    if expected is not None and found != expected:
        part.unlink()
        raise DataError(f"{url}: sha256 must be {expected}, got {found}; what was fetched has been removed")
    with part.open("rb+") as written:
        os.fsync(written.fileno())
    if expected is None:
        write_text(recorded, f"{found}  {target.name}\n")
    part.replace(target)
    tag.unlink(missing_ok=True)


def _receive(
    url: str, part: Path, tag: Path, *, size: int | None, checked: bool, progress: bool, timeout: float
) -> bool:
    """Fills ``part``; true if it went on from an earlier beginning."""
    have = part.stat().st_size if part.is_file() else 0
    version = tag.read_text(encoding="utf-8") if tag.is_file() else ""
    if size is not None and have == size:
        return True
    if have and (have > (size or have) or not (checked or version)):
        have = 0  # too much, or nothing could tell whether the rest belongs to it
    request = urllib.request.Request(url, headers={"User-Agent": "genrec-fast", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if version:
            request.add_header("If-Range", version)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            if have and answer.status != 206:
                have = 0  # a server without Range, or another version: it sends everything
            elif have and not (answer.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
                raise DataError(
                    f"{url}: the server must send from byte {have}, got {answer.headers['Content-Range']!r}"
                )
            if not have:
                tag.unlink(missing_ok=True)
                word = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
                if word and not word.startswith("W/"):
                    write_text(tag, word)
            length = answer.headers.get("Content-Length")
            total = have + int(length) if length is not None and length.isdigit() else size
            if size is not None and total is not None and total != size:
                raise DataError(f"{url}: must have {size} bytes, but the server offers {total}")
            with part.open("ab" if have else "wb") as out, _bar(part.name[:-5], have, total, progress) as advance:
                while block := answer.read(_BLOCK):
                    out.write(block)
                    advance(len(block))
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:  # nothing behind what is there: a shorter file, or one already complete
            if size is None and checked:
                return True
            part.unlink()
            return _receive(url, part, tag, size=size, checked=checked, progress=progress, timeout=timeout)
        raise DataError(f"{url}: the server answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise DataError(f"{url}: cannot be reached: {error.reason}") from error
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _cut(url, part, type(error).__name__) from error
    got = part.stat().st_size
    if total is not None and got < total:
        raise _cut(url, part, f"{got} of {total} bytes came")
    return have > 0


def _cut(url: str, part: Path, reason: str) -> DataError:
    have = part.stat().st_size if part.is_file() else 0
    return DataError(f"{url}: the connection was cut ({reason}); the first {have} bytes are kept, call again to go on")


@contextlib.contextmanager
def _bar(name: str, have: int, total: int | None, shown: bool) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task(name, total=total, completed=have)
        yield lambda count: bar.update(task, advance=count)


def _members(path: Path, *names: str) -> list[list[str]]:
    """Lines of an archive's members, read by name: the archive's own paths are never used as paths."""
    stem = path.name.removesuffix(".zip")
    try:
        with zipfile.ZipFile(path) as archive:
            return [archive.read(f"{stem}/{name}").decode("latin-1").splitlines() for name in names]
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{path}: must be a zip archive with {', '.join(names)} in {stem}/: {error}") from error


def _write_atomic_files(path: Path, events: list[list[str]], films: list[list[str]]) -> None:
    """MovieLens as RecBole's ``.inter`` and ``.item`` beside the archive."""
    for rows, width, what in ((events, 4, "a rating"), (films, 3, "a film")):
        for number, row in enumerate(rows, 1):
            if len(row) != width:
                raise DataError(f"{path}: {what} must have {width} fields, but number {number} has {len(row)}")
    films = [["item_id:token", "movie_title:token_seq", "genres:token_seq"], *films]
    events = [["user_id:token", "item_id:token", "rating:float", "timestamp:float"], *events]
    stem = path.name.removesuffix(".zip")
    # The interactions last: a folder that has them has everything.
    write_text(path.with_name(f"{stem}.item"), "".join("\t".join(row) + "\n" for row in films))
    write_text(path.with_name(f"{stem}.inter"), "".join("\t".join(row) + "\n" for row in events))


_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip


def _unpack_100k(path: Path) -> None:
    """``u.data``: tabs; ``u.item``: id, title, three more, and one flag for each genre."""
    events, films = _members(path, "u.data", "u.item")
    rows = [line.split("|") for line in films]
    named = [[*row[:2], " ".join(n for n, f in zip(_GENRES, row[5:], strict=False) if f == "1")] for row in rows]
    _write_atomic_files(path, [line.split("\t") for line in events], named)


def _unpack_1m(path: Path) -> None:
    """``ratings.dat`` and ``movies.dat``: fields between ``::``, genres between ``|``."""
    events, films = _members(path, "ratings.dat", "movies.dat")
    named = [line.replace("|", " ").split("::") for line in films]
    _write_atomic_files(path, [line.split("::") for line in events], named)


_MOVIELENS = "research only, cite Harper and Konstan 2015, no redistribution"
_AMAZON = "no licence stated; McAuley et al. 2015, prepared by Zhou et al. 2020 (S3-Rec)"
_S3REC = "https://raw.githubusercontent.com/RUCAIBox/CIKM2020-S3Rec/master/data/"

SOURCES: dict[str, Source] = {
    "ml-100k": Source(
        url="https://files.grouplens.org/datasets/movielens/ml-100k.zip",
        file="ml-100k.zip",
        size=4_924_029,
        sha256="50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
        unpack=_unpack_100k,
        licence=_MOVIELENS,
    ),
    "ml-1m": Source(
        url="https://files.grouplens.org/datasets/movielens/ml-1m.zip",
        file="ml-1m.zip",
        size=5_917_549,
        sha256="a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        unpack=_unpack_1m,
        licence=_MOVIELENS,
    ),
    # The file that most papers on generative recommendation report on.
    "beauty": Source(
        url=_S3REC + "Beauty.txt",
        file="interactions.txt",
        size=1_090_094,
        sha256="226cce9c3105299ca0db9615d7d3fb32b3175e90da43100ae352599f0f0107b8",
        unpack=None,
        licence=_AMAZON,
    ),
    "sports": Source(
        url=_S3REC + "Sports_and_Outdoors.txt",
        file="interactions.txt",
        size=1_707_483,
        sha256="2a095e0648872beb9982408958290f5d655db5be2911c3756b5446de9f0b8de2",
        unpack=None,
        licence=_AMAZON,
    ),
    # No checksum that we could confirm: the first download is trusted, see Source.sha256.
    "toys": Source(
        url=_S3REC + "Toys_and_Games.txt",
        file="interactions.txt",
        size=None,
        sha256=None,
        unpack=None,
        licence=_AMAZON,
    ),
}
"""Public data sets by name."""
