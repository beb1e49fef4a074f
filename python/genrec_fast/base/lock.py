"""One writer at a time in a folder.

The lock is the operating system's, on the file ``.lock``: it ends with the process that holds it, so a file left behind
by a killed process is no obstacle. What stands in the file says who holds it, for messages and for ``check``.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import socket
import sys
import time
import warnings
from pathlib import Path
from types import TracebackType

from genrec_fast.base.errors import FolderInUseError, MissingFolderError, UnlockedFolderWarning
from genrec_fast.base.files import make_folder, storing

NAME = ".lock"
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
_POLL_SECONDS = 0.05

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # far behind what others read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class FolderLock:
    """Within the block this process alone writes to ``folder``, which is made where it is not there.

    Args:
        folder: what is locked.
        op: who asks, in messages: "train", "save".
        wait_s: seconds to wait for another holder, if that is not a training.

    Raises:
        FolderInUseError: another process (or another thread of this one) holds it; says which, and on which machine.
        StorageError: the folder cannot be made or written to.

    Notes:
        Where the file system has no locks there is an ``UnlockedFolderWarning``, and the last who came has the folder:
        ``check`` tells the others before they write.
    """

    def __init__(self, folder: Path, op: str, *, wait_s: float = 0.0) -> None:
        self.folder, self.op, self._wait = folder, op, wait_s
        self._path = folder / NAME
        self._descriptor = -1
        self._owner = b""

    def __enter__(self) -> FolderLock:
        make_folder(self.folder, self.op)
        until = time.monotonic() + self._wait
        while not self._taken():
            holder = _holder(self._path)
            if time.monotonic() >= until or "(train)" in holder:  # that may take days
                raise FolderInUseError(
                    f"{self.op}: {self.folder} must have one writer at a time, got {holder}; "
                    "wait for it, or choose another folder"
                )
            time.sleep(_POLL_SECONDS)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None) -> None:
        try:
            if self._mine():
                self._path.unlink()
        except OSError:  # the folder is read-only by now: a file without its lock is no obstacle
            pass
        finally:
            os.close(self._descriptor)

    def check(self) -> None:
        """Before a write: the folder is there, and still this process's.

        Raises:
            MissingFolderError: it was removed, or its disk is gone.
            FolderInUseError: another process took it, or removed the lock.
        """
        with storing(self.folder, self.op):
            mine, there = self._mine(), self.folder.is_dir()
        if mine:
            return
        if not there:
            raise MissingFolderError(
                f"{self.op}: {self.folder} must stay while it is written to, but it is gone; put it back "
                "(or mount it again) and run the same again: it goes on from what is there"
            )
        raise FolderInUseError(
            f"{self.op}: {self.folder} must have one writer at a time, but it was taken by {_holder(self._path)}; "
            "nothing more is written to it"
        )

    def _taken(self) -> bool:
        """One try; the file may be unlinked by its last holder between our opening and our locking it."""
        with storing(self.folder, self.op):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor)
            if not _same(descriptor, self._path):
                os.close(descriptor)
                return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                if error.errno in _BUSY:
                    return False
                with storing(self.folder, self.op):
                    raise
            warnings.warn(
                f"{self.op}: {self.folder} cannot be locked ({error.strerror}): see to it that no other process writes "
                "to it",
                UnlockedFolderWarning,
                stacklevel=4,
            )
        holder = {"op": self.op, "pid": os.getpid(), "host": socket.gethostname(), "token": secrets.token_hex(8)}
        self._owner = json.dumps(holder).encode()
        try:
            with storing(self._path, self.op):
                os.lseek(descriptor, 0, os.SEEK_SET)
                os.ftruncate(descriptor, 0)
                os.write(descriptor, self._owner)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def _mine(self) -> bool:
        try:
            return self._path.read_bytes() == self._owner
        except (FileNotFoundError, NotADirectoryError):
            return False


def _same(descriptor: int, path: Path) -> bool:
    """Whether a path still names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    """Who says in a lock file that it is his."""
    try:
        holder = json.loads(path.read_bytes())
        return f"process {int(holder['pid'])} on {holder['host']!s:.80} ({holder['op']!s:.20})"
    except (OSError, ValueError, KeyError, TypeError):  # gone by now, not yet written, or altered
        return "another process"
