"""Files that are either whole or not there: written under a temporary name in the same folder, then renamed.

What the operating system refuses is a ``StorageError``, which names the file and what to do.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from genrec_fast.base.errors import GenrecError, MissingFolderError, StorageError

# A file under its temporary name: ours (atomic_path), and what safetensors writes before it renames to ours.
_TEMPORARY = re.compile(r"\.(.+\.\d+\.[0-9a-f]{8}\.tmp(\..+)?|tmp[0-9A-Za-z]{6})")
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # as Rust writes it
_REMEDIES = {
    errno.ENOSPC: "free some space and run the same again",
    errno.EDQUOT: "free some space within the quota and run the same again",
    errno.EFBIG: "this process may not write files of that size (ulimit -f)",
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: "choose a folder that can be written to",
    errno.EPERM: "choose a folder that can be written to",
    errno.ENOENT: "put its folder back (or mount it again) and run the same again",
    errno.ENOTDIR: "choose a folder, not a file",
    errno.EEXIST: "choose a folder, not a file",
}


@contextlib.contextmanager
def storing(path: str | os.PathLike[str], op: str = "write") -> Iterator[None]:
    """Within the block, what the operating system refuses is raised as the library's own error.

    Raises:
        StorageError: naming ``op``, ``path``, the reason and what to do; a MissingFolderError where a folder is gone.
    """
    try:
        yield
    except GenrecError:
        raise
    except OSError as error:
        raise _storage_error(op, path, error.errno, error.strerror or str(error)) from error
    except SafetensorError as error:  # its writer gives every error of the system this type
        found = _OS_ERROR.search(str(error))
        if found is None:
            raise
        number = int(found[1])
        raise _storage_error(op, path, number, os.strerror(number)) from error


def _storage_error(op: str, path: str | os.PathLike[str], number: int | None, reason: str) -> StorageError:
    kind = MissingFolderError if number == errno.ENOENT else StorageError
    remedy = _REMEDIES.get(number or 0, "see to the disk and run the same again")
    error = kind(f"{op}: {os.fspath(path)} must be written, got: {reason}; {remedy}")
    error.errno = number
    return error


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary name beside ``path``, which is renamed to ``path`` if the block ends without an error.

    The temporary file keeps the suffix of ``path``; if the block raises, it is removed and ``path`` stays as it was.
    Where ``path`` is a link, what it points to is replaced; the new file has the permissions of the old.

    Raises:
        MissingFolderError: the folder does not exist.
        StorageError: the disk is full, read-only, or refuses for another reason; ``path`` is a device or a pipe, which
            cannot be replaced.

    Example:
        >>> import tempfile, pathlib
        >>> from genrec_fast.base.files import atomic_path
        >>> target = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
        >>> with atomic_path(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text()
        'whole'
    """
    target = Path(path)
    if target.is_symlink():
        target = Path(os.path.realpath(target))
    if not target.parent.is_dir():
        raise MissingFolderError(f"write: the folder of {target} must exist, got {target.parent}")
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.{secrets.token_hex(4)}.tmp{target.suffix}")
    with storing(target):
        before = mode_of(target)
        if before is not None and not (target.is_file() or target.is_dir()):
            raise StorageError(
                f"write: {target} must be a file or a new name, got a device or a pipe, which a file would replace"
            )
        try:
            temporary.touch()
            # As the old file's, else as the user's umask wants it; some writers make it private.
            mode = stat.S_IMODE(temporary.stat().st_mode) if before is None else before
            temporary.chmod(mode | stat.S_IRUSR | stat.S_IWUSR)  # what only its owner may read is so from the start
            yield temporary
            with temporary.open("rb+") as written:  # on disk before the name points to it: a crash leaves the old file
                temporary.chmod(mode)
                os.fsync(written.fileno())
            temporary.replace(target)
            sync_folder(target.parent)
        finally:
            with contextlib.suppress(OSError):  # what keeps it from going is what was raised already
                temporary.unlink(missing_ok=True)


def mode_of(path: str | os.PathLike[str]) -> int | None:
    """The permissions of what is there (of a link: of what it points to); ``None``: nothing is."""
    try:
        return stat.S_IMODE(Path(path).stat().st_mode)
    except FileNotFoundError:
        return None


def sync_folder(folder: Path) -> None:
    """Waits until the names in ``folder`` are on disk, so that later changes cannot get there before them."""
    if os.name != "posix":  # others open no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems do it by themselves
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path, op: str) -> None:
    """Makes ``folder`` and those above it, where they are not there.

    Raises:
        StorageError: it cannot be made.
    """
    with storing(folder, op):
        folder.mkdir(parents=True, exist_ok=True)


def sweep(folder: Path) -> None:
    """Removes what killed processes left under temporary names; only for who has the folder to himself."""
    with storing(folder, "sweep"):
        for path in folder.iterdir():
            if is_temporary(path) and path.is_file():
                path.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Whether a name is one of those that ``sweep`` removes."""
    return _TEMPORARY.fullmatch(path.name) is not None


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 ``text`` to ``path``, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def save_tensors(
    path: str | os.PathLike[str], tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Writes contiguous tensors of the CPU as safetensors, whole or not at all."""
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata)


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file, mapped into memory.

    Raises:
        SafetensorError: it is cut short or altered.
        OSError: it is missing or cannot be read.
    """
    with safe_open(path, framework="pt", device="cpu") as file:
        return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)


def checksum(metadata: dict[str, str], tensors: dict[str, Tensor]) -> str:
    """SHA-256 over metadata, names, dtypes, shapes and bytes, in order of name; the tensors are on the CPU."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


def json_checksum(content: object) -> str:
    """SHA-256 of what JSON says, in hexadecimal: spaces and the order of keys do not count."""
    plain = json.loads(json.dumps(content))  # tuples are lists there
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def file_checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
