"""Files that are either whole or not there: written under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["atomic_path", "checksum", "file_checksum", "write_text"]


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary name beside ``path``, which is renamed to ``path`` if the block ends without an error.

    The folder must exist (else FileNotFoundError). The temporary file keeps the suffix of ``path``; if the block
    raises, it is removed and ``path`` stays as it was.

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
    if not target.parent.is_dir():
        raise FileNotFoundError(f"write: the folder of {target} must exist, got {target.parent}")
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.{secrets.token_hex(4)}.tmp{target.suffix}")
    try:
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)  # as the user's umask wants it; some writers make files private
        yield temporary
        temporary.chmod(mode)
        with temporary.open("rb+") as written:  # on disk before the name points to it: a crash leaves the old file
            os.fsync(written.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 ``text`` to ``path``, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def checksum(metadata: dict[str, str], tensors: dict[str, Tensor]) -> str:
    """SHA-256 over metadata, names, dtypes, shapes and bytes, in order of name; the tensors are on the CPU."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


def file_checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
