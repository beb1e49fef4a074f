"""Kernels' sources into what a card loads, by NVRTC as CuPy binds it; kept on disk.

``cupy.RawModule`` would do the same in one call, but adds ``-ftz=true`` behind every option: numbers below 2^-126 would
become 0, and the bits would not be those of the CPU.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from genrec_fast.base.card import sources
from genrec_fast.base.errors import UnsupportedError
from genrec_fast.base.files import atomic_path, make_folder, storing

# Nothing is fused behind our back: bits are those of the CPU. What is not said is NVRTC's default: no flush to 0.
OPTIONS = ("--std=c++17", "--fmad=false")


def image(source: str, capability: tuple[int, int]) -> bytes:
    """What a card of this capability loads of ``csrc/cuda/SOURCE.cuh``: from disk, or compiled and kept there.

    The folder is ``$GENREC_FAST_CACHE``, by default ``~/.cache/genrec_fast``.

    Raises:
        UnsupportedError: NVRTC refuses the source.
        StorageError: the folder cannot be written.
    """
    from cupy.cuda import nvrtc

    target = _target(nvrtc.getSupportedArchs(), capability)
    content = hashlib.sha256(repr((source, OPTIONS, target, nvrtc.getVersion())).encode())
    for path in sorted(sources().glob("*.cuh")):  # a source includes others
        content.update(path.name.encode() + path.read_bytes())
    folder = Path(os.environ.get("GENREC_FAST_CACHE") or Path.home() / ".cache" / "genrec_fast")
    kept = folder / f"{source}-{content.hexdigest()[:32]}.bin"
    if kept.exists():
        with storing(kept, "read"):
            return kept.read_bytes()
    made = compiled(source, target)
    make_folder(folder, "write")
    with atomic_path(kept) as path:
        path.write_bytes(made)
    return made


def compiled(source: str, target: str) -> bytes:
    """Machine code for a target like ``"sm_90"``, or PTX for one like ``"compute_90"``.

    Raises:
        UnsupportedError: NVRTC refuses the source; with what it says.
    """
    from cupy.cuda import nvrtc

    folder = sources()
    code = (folder / f"{source}.cuh").read_text(encoding="utf-8")
    program: Any = nvrtc.createProgram(code, f"{source}.cu", (), ())
    try:
        nvrtc.compileProgram(program, (*OPTIONS, f"-I{folder}", f"-arch={target}"))
        made: bytes = nvrtc.getCUBIN(program) if target.startswith("sm_") else nvrtc.getPTX(program)
        return made
    except nvrtc.NVRTCError as error:
        text = f"{source}: NVRTC refuses the kernels for {target}: {nvrtc.getProgramLog(program) or error}"
        raise UnsupportedError(text) from error
    finally:
        nvrtc.destroyProgram(program)


def _target(known: tuple[int, ...], capability: tuple[int, int]) -> str:
    """Machine code where NVRTC knows the card, else PTX of the newest it knows, which the driver finishes."""
    wanted = 10 * capability[0] + capability[1]
    if wanted in known:
        return f"sm_{wanted}"
    return f"compute_{max(number for number in known if number < wanted)}"
