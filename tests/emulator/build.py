"""Builds the kernels of ``csrc/cuda`` for the emulator, and runs them on CPU tensors."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import subprocess
from pathlib import Path

from genrec_fast.ops import _cuda

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EXTRA = (*os.environ.get("GENREC_EMULATOR_FLAGS", "").split(),)  # a sanitizer, in CI
CACHE = Path(os.environ.get("GENREC_EMULATOR_CACHE", ROOT / "build" / "emulator"))
FLAGS = (
    "-std=c++20",
    "-O2",
    "-g1",
    "-shared",
    "-fPIC",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-Wno-unknown-pragmas",
)
ENTRY = re.compile(r'extern "C" __global__ void(?:\s+__launch_bounds__\([^)]*\))?\s+(\w+)\s*\(')
HOST = """
#include <exception>
#include <string_view>
static const emulator::Kernel kernels[] = {%s};
extern "C" const char* emulate(const char* name, const unsigned* sizes, unsigned long shared, void** values) {
  static std::string wrong;
  try {
    for (const emulator::Kernel& kernel : kernels)
      if (std::string_view(kernel.name) == name) {
        kernel.run({sizes[0], sizes[1], sizes[2]}, {sizes[3], sizes[4], sizes[5]}, shared, values);
        return nullptr;
      }
    wrong = "there is no such kernel";
  } catch (const std::exception& error) {
    wrong = error.what();
  }
  return wrong.c_str();
}
extern "C" void set_seed(unsigned seed) { emulator::seed = seed; }
"""


class EmulatorError(Exception):
    """A kernel did what no card would do as it was meant."""


def entries(text: str) -> list[str]:
    """The names of the kernels in a source."""
    return ENTRY.findall(text)


@functools.cache
def library(source: str | Path, flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The built library of one source (a name in ``csrc/cuda``, or a path); built once per content."""
    path = source if isinstance(source, Path) else _cuda.sources() / f"{source}.cuh"
    folders = (path.parent, _cuda.sources(), HERE)
    files = sorted({file for folder in folders for file in (*folder.glob("*.cuh"), *folder.glob("*.h"))})
    content = hashlib.sha256(repr((FLAGS, EXTRA, flags, HOST)).encode())
    for file in files:
        content.update(file.name.encode() + file.read_bytes())
    CACHE.mkdir(parents=True, exist_ok=True)
    target = CACHE / f"{path.stem}-{content.hexdigest()[:16]}.so"
    if not target.exists():
        names = entries(path.read_text())
        table = ", ".join(f'emulator::kernel("{name}", {name})' for name in names)
        host = target.with_suffix(f".{os.getpid()}.cpp")
        made = target.with_suffix(f".{os.getpid()}.tmp")
        host.write_text(f'#include "{path}"\n' + HOST % table)
        includes = [f"-I{folder}" for folder in folders]
        subprocess.run(
            [os.environ.get("CXX", "g++"), *FLAGS, *EXTRA, *flags, *includes, str(host), "-o", str(made)], check=True
        )
        host.unlink()
        made.rename(target)
    loaded = ctypes.CDLL(str(target))
    loaded.emulate.restype = ctypes.c_char_p
    loaded.emulate.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p]
    return loaded


def run(
    source: str | Path,
    kernel: str,
    grid: _cuda.Size,
    block: _cuda.Size,
    shared: int,
    arguments: _cuda.Arguments,
    *,
    seed: int = 0,
    flags: tuple[str, ...] = (),
) -> None:
    """Runs one kernel as ``_cuda.launch`` would.

    Raises:
        EmulatorError: what the emulator found.
    """
    held, values = _cuda.packed(arguments)
    sizes = (ctypes.c_uint * 6)(*grid, *block)
    loaded = library(source, flags)
    loaded.set_seed(seed)
    wrong = loaded.emulate(kernel.encode(), sizes, shared, values)
    del held
    if wrong is not None:
        raise EmulatorError(f"{kernel}: {wrong.decode()}")
