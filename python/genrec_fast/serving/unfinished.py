"""A run whose output is whole or not there, and which is gone on with after any end."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from genrec_fast.base.errors import CorruptFileError, InvalidValueError, MissingFolderError
from genrec_fast.base.files import is_temporary, mode_of, storing, sweep, sync_folder, write_text
from genrec_fast.base.lock import NAME as LOCK_NAME
from genrec_fast.base.lock import FolderLock

_FORMAT = "genrec_fast.recommend"
_STATE = "state.json"
_GOING = "going"  # what a folder is called while it is removed
_OURS = (_STATE, _GOING, "answers", "parts", "table.parquet", LOCK_NAME)  # nothing else in the folder is ever removed
_PATIENCE = 10.0  # seconds
START_OVER = "give --no-resume to start over"


class Unfinished:
    """The folder ``OUTPUT.unfinished``: what is there so far, and ``state.json``, which says of which run and how far.

    Args:
        output: what there will be in the end; of a link, what it points to.
        identity: what the answers depend on: a run is gone on with only where all of it is equal.
        resume: false: what an earlier run left goes.

    Attributes:
        folder: to write to.
        output: where the output will be.
        state: as an earlier run noted it last; empty where there is none.
        moved: that run had put the output in its place, and ended before the folder was removed.

    Raises:
        MissingFolderError: the output's folder is not there.

    Notes:
        Within ``with`` the folder is this process's alone; entering it raises ``FolderInUseError`` where another run
        has it, ``InvalidValueError`` where there is an unfinished run of another identity or somebody else's files, and
        ``CorruptFileError`` where its state is cut short or altered.
    """

    def __init__(self, output: Path, identity: Mapping[str, str], *, resume: bool = True) -> None:
        if output.is_symlink():
            output = Path(os.path.realpath(output))
        if not output.parent.is_dir():
            raise MissingFolderError(f"recommend: the folder of --output must exist, got {output.parent}")
        self.output, self._identity, self._resume = output, dict(identity), resume
        self.folder = output.with_name(f"{output.name}.unfinished")
        self._path = self.folder / _STATE
        self._lock = FolderLock(self.folder, "recommend")
        self.state: dict[str, Any] = {}
        self.moved = False

    def __enter__(self) -> Unfinished:
        self._check_own()
        with contextlib.ExitStack() as leaving:
            leaving.enter_context(self._lock)
            sweep(self.folder)
            if not self._resume:
                self._clear()
            if self._path.exists():
                self.state = self._earlier()
            else:
                self._hide()
            leaving.pop_all()  # the lock stays
        return self

    def _check_own(self) -> None:
        """Raises where a folder of this name was not made by this class."""
        with storing(self.folder, "recommend"):
            there = list(self.folder.iterdir()) if self.folder.is_dir() else []
        strange = [path.name for path in there if path.name not in _OURS and not is_temporary(path)]
        if strange:
            raise InvalidValueError(
                f"recommend: {self.folder} must be free for unfinished answers, but it holds {min(strange)!r:.80}; "
                "move that away, or choose another --output"
            )

    def _hide(self) -> None:
        """An output that only its owner may read is not to be read here either."""
        mode = mode_of(self.output)
        if mode is not None:
            with storing(self.folder, "recommend"):
                self.folder.chmod(mode | stat.S_IRWXU)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.__exit__(kind, value, trace)

    def _clear(self) -> None:
        """Removes all of ours but the lock, the state first: what is without it is not gone on with."""
        with storing(self.folder, "recommend"):
            for name in _OURS:
                path = self.folder / name
                if path.is_dir():
                    _remove_folder(path)
                elif name != LOCK_NAME:
                    path.unlink(missing_ok=True)

    def _earlier(self) -> dict[str, Any]:
        try:
            noted = json.loads(self._path.read_text(encoding="utf-8"))
            if noted["format"] != _FORMAT:
                raise ValueError(noted["format"])
            identity, state = dict(noted["identity"]), dict(noted["state"])
            whole = state.get("whole") or ""
            moved = whole != "" and not (self.folder / whole).exists()
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptFileError(
                f"recommend: {self._path} must be as it was written, got {error!r:.80}; {START_OVER}"
            ) from error
        others = [name for name, now in self._identity.items() if identity.get(name) != now]
        if moved and (others or not self.output.exists()):  # it came to its end: there is nothing to go on with
            self._clear()
            return {}
        for name in others:
            raise InvalidValueError(
                f"recommend: --output must have the {name} that it was begun with, but {self.folder} has "
                f"{identity.get(name)!s:.100} and this run {self._identity[name]!s:.100}; run again what was begun, "
                f"choose another --output, or {START_OVER}"
            )
        self.moved = moved
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

    def move(self, whole: Path) -> None:
        """Puts what is whole, a file or a folder of ours, in the output's place."""
        self.note({**self.state, "whole": whole.name})
        with storing(self.output, "recommend"):
            mode = mode_of(self.output)
            if mode is not None:
                whole.chmod(mode)
            whole.replace(self.output)
            sync_folder(self.output.parent)

    def finish(self, whole: Path) -> None:
        """The same, and removes the folder."""
        self.move(whole)
        self.remove()

    def remove(self) -> None:
        """Removes the folder; nothing can be noted any more. What somebody else has put there stays."""
        self._clear()
        with storing(self.folder, "recommend"):
            (self.folder / LOCK_NAME).unlink(missing_ok=True)
            try:
                self.folder.rmdir()
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise


def _remove_folder(folder: Path) -> None:
    """Removes a folder that a worker which was told to stop may still write to.

    Its name goes first, so that nobody finds it any more; a file that was being made at that moment is waited for.
    """
    going = folder.with_name(_GOING)
    if folder != going:
        folder.replace(going)
    until = time.monotonic() + _PATIENCE
    while going.exists():
        try:
            shutil.rmtree(going)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT) or time.monotonic() > until:
                raise
            time.sleep(0.01)
