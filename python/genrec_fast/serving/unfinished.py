"""A run whose output is whole or not there, and which is gone on with after any end."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from genrec_fast.base.errors import CorruptFileError, InvalidValueError, MissingFolderError
from genrec_fast.base.files import storing, sync_folder, write_text
from genrec_fast.base.lock import NAME as LOCK_NAME
from genrec_fast.base.lock import FolderLock

__all__ = ["START_OVER", "Unfinished"]

_FORMAT = "genrec_fast.recommend"
START_OVER = "give --no-resume to start over"


class Unfinished:
    """The folder ``OUTPUT.unfinished``: what is there so far, and ``state.json``, which says of which run and how far.

    Args:
        output: what there will be in the end.
        identity: what the answers depend on: a run is gone on with only where all of it is equal.
        resume: false: what an earlier run left goes.

    Attributes:
        folder: to write to.
        state: as an earlier run noted it last; empty where there is none.

    Raises:
        MissingFolderError: the output's folder is not there.

    Notes:
        Within ``with`` the folder is this process's alone; entering it raises ``FolderInUseError`` where another run
        has it, ``InvalidValueError`` where there is an unfinished run of another identity, and ``CorruptFileError``
        where its state is cut short or altered.
    """

    def __init__(self, output: Path, identity: Mapping[str, str], *, resume: bool = True) -> None:
        if not output.parent.is_dir():
            raise MissingFolderError(f"recommend: the folder of --output must exist, got {output.parent}")
        self.output, self._identity, self._resume = output, dict(identity), resume
        self.folder = output.with_name(f"{output.name}.unfinished")
        self._path = self.folder / "state.json"
        self._lock = FolderLock(self.folder, "recommend")
        self.state: dict[str, Any] = {}

    def __enter__(self) -> Unfinished:
        with contextlib.ExitStack() as leaving:
            leaving.enter_context(self._lock)
            if not self._resume:
                self._clear()
            self.state = self._earlier() if self._path.exists() else {}
            leaving.pop_all()  # the lock stays
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.__exit__(kind, value, trace)

    def _clear(self) -> None:
        """Removes all but the lock, the state first: what is without it is not gone on with."""
        with storing(self.folder, "recommend"):
            self._path.unlink(missing_ok=True)
            for path in self.folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != LOCK_NAME:
                    path.unlink()

    def _earlier(self) -> dict[str, Any]:
        try:
            noted = json.loads(self._path.read_text(encoding="utf-8"))
            if noted["format"] != _FORMAT:
                raise ValueError(noted["format"])
            identity, state = dict(noted["identity"]), dict(noted["state"])
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptFileError(
                f"recommend: {self._path} must be as it was written, got {error!r:.80}; {START_OVER}"
            ) from error
        for name, now in self._identity.items():
            if identity.get(name) != now:
                raise InvalidValueError(
                    f"recommend: --output must have the {name} that it was begun with, but {self.folder} has "
                    f"{identity.get(name)!s:.100} and this run {now!s:.100}; run again what was begun, choose another "
                    f"--output, or {START_OVER}"
                )
        return state

    def note(self, state: Mapping[str, Any]) -> None:
        """Keeps ``state``, whole or not at all.

        Raises:
            StorageError: the disk is full, read-only or gone.
            FolderInUseError: another run has taken the folder.
        """
        self._lock.check()
        write_text(self._path, json.dumps({"format": _FORMAT, "identity": self._identity, "state": dict(state)}) + "\n")
        self.state = dict(state)

    def finish(self, whole: Path) -> None:
        """Puts what is whole in the output's place, and removes the folder."""
        with storing(self.output, "recommend"):
            whole.replace(self.output)
            sync_folder(self.output.parent)
        self.remove()

    def remove(self) -> None:
        """Removes the folder; nothing can be noted any more."""
        with storing(self.folder, "recommend"):
            shutil.rmtree(self.folder)
