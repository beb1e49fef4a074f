"""Bytes altered at random places of a file, one after the other: each must be found, or change nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from genrec_fast.base.errors import CorruptFileError


def check_flips(path: Path, read: Callable[[], object], same: Callable[[object], bool], count: int = 300) -> int:
    """Alters one bit, or one byte, of ``path`` and reads; puts it back. How many were found."""
    whole, draw, found = path.read_bytes(), random.Random(path.name), 0
    for number in range(count if whole else 0):
        content = bytearray(whole)
        place = draw.randrange(len(content))
        content[place] ^= 1 << draw.randrange(8) if number % 2 else draw.randrange(1, 256)
        path.write_bytes(content)
        try:
            answer = read()
        except CorruptFileError:
            found += 1
        else:
            assert same(answer), f"{path.name}: byte {place} {whole[place]:#x} -> {content[place]:#x} was not noticed"
    path.write_bytes(whole)
    return found
