"""What this installation is and can do: ``python -m genrec_fast.env`` (or ``genrec-fast env``), ``--json`` for scripts.

The first thing to put into a bug report.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from genrec_fast._version import __version__
from genrec_fast.base.card import ran_on_card
from genrec_fast.base.errors import UnsupportedError, install_hint

REQUIRED = ("torch", "numpy", "safetensors", "accelerate", "tyro", "rich", "polars")
# Optional extra of the package -> the distributions it brings, and what works once they are there.
EXTRAS = {
    "tokenize": (("faiss-cpu",), "codebooks to and from faiss"),
    "plot": (("matplotlib",), "pictures of training curves"),
    "text": (("sentence-transformers",), "item text to feature vectors"),
    "serve": (("starlette", "uvicorn", "prometheus-client"), "a recommender over HTTP"),
    "ray": (("ray",), "many users over a cluster"),
    "hf": (("transformers",), "comparison with the search of transformers"),
    "cuda12": (("cupy-cuda12x",), "kernels on a card, where torch is built for CUDA 12"),
    "cuda13": (("cupy-cuda13x",), "kernels on a card, where torch is built for CUDA 13"),
}
ISA_FUNCTIONS = frozenset({"active_isa", "select_isa", "usable_isas"})


@dataclass(frozen=True, kw_only=True)
class Environment:
    """One installation on one machine.

    Args:
        versions: distribution -> version, of everything that the package requires.
        system: operating system, processor, Python.
        cpu_threads: threads that torch, and with it every kernel, uses now.
        isa: instruction set in use, by the ops that are built once per set; ``None`` where the compiled module or the
            wanted set is missing.
        usable_isas: what this build carries and this processor runs, weakest first.
        problem: why ``isa`` is ``None``; empty otherwise.
        cuda: name of each visible GPU; empty without one.
        kernels: op -> device -> what runs there.
        extras: optional extra -> "version, purpose" or "missing, purpose".
    """

    versions: dict[str, str]
    system: dict[str, str]
    cpu_threads: int
    isa: str | None
    usable_isas: list[str]
    problem: str
    cuda: list[str]
    kernels: dict[str, dict[str, str]]
    extras: dict[str, str]


def collect() -> Environment:
    """Asks this machine; never raises because something optional is missing.

    Example:
        >>> from genrec_fast.env import collect
        >>> collect().versions["genrec-fast"]
        '0.2.0'
    """
    isa, usable, names, problem = _compiled_module()
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return Environment(
        versions={"genrec-fast": __version__} | {name: _version(name) or "missing" for name in REQUIRED},
        system={
            "python": f"{platform.python_version()} ({sys.executable})",
            "platform": platform.platform(),
            "processor": platform.machine(),
            "cores": str(os.cpu_count() or 1),
            "weights": _weights(problem),
        },
        cpu_threads=torch.get_num_threads(),
        isa=isa,
        usable_isas=usable,
        problem=problem,
        cuda=gpus,
        kernels={op: {"cpu": _cpu_kernel(op, has, names), "cuda": _card_kernel(op)} for op, has in _ops().items()},
        extras={name: _describe_extra(*extra) for name, extra in EXTRAS.items()},
    )


def _compiled_module() -> tuple[str | None, list[str], list[str], str]:
    """Instruction set in use, usable ones, names of the compiled kernels, and what is wrong."""
    try:
        core = importlib.import_module("genrec_fast._core")
    except ImportError as error:
        return None, [], [], f"the compiled module cannot be imported: {error}"
    names = sorted(
        n for n in dir(core) if not n.startswith("_") and n not in ISA_FUNCTIONS and callable(getattr(core, n))
    )
    try:
        return core.active_isa(), core.usable_isas(), names, ""
    except UnsupportedError as error:  # GENREC_FAST_ISA names one that is not here
        return None, core.usable_isas(), names, str(error)


def _weights(problem: str) -> str:
    """How a search knows that weights are still those it packed."""
    if problem:
        return "not looked at: nothing is compiled"
    watched = importlib.import_module("genrec_fast._core").fingerprint_watches()
    return "watched by the page tables" if watched else "read at every call (Linux 6.7 or later could watch them)"


def _op_files() -> list[Path]:
    """The modules of the public ops; read, not imported: that needs a compiled module."""
    package = importlib.util.find_spec("genrec_fast.ops")
    folders = (package.submodule_search_locations if package else None) or []
    files = (path for folder in folders for path in Path(folder).glob("[a-z]*.py"))
    return sorted(path for path in files if (path.parent / "reference" / path.name).exists())  # an op has a twin


def _ops() -> dict[str, list[str]]:
    """The public ops, one module each, and the functions of each."""
    return {path.stem: _public_names(path) for path in _op_files()}


def _text(op: str) -> str:
    return next(path.read_text(encoding="utf-8") for path in _op_files() if path.stem == op)


def _card_kernel(op: str) -> str:
    """What runs on a card, and whether that kernel ever did."""
    if '"cuda":' not in _text(op):
        return "torch twin"
    ran = ran_on_card().get(op)
    return f"CuPy, ran on {ran}" if ran else "CuPy, has never run on a card"


def _public_names(path: Path) -> list[str]:
    made = ast.parse(path.read_text(encoding="utf-8")).body
    return [part.name for part in made if isinstance(part, ast.FunctionDef) and not part.name.startswith("_")]


def _cpu_kernel(op: str, functions: list[str], names: list[str]) -> str:
    """Compiled entries are named after the op or one of its functions: ``op`` or ``op_...``."""
    stems = {op, *functions}
    if any(name in stems or name.startswith(f"{op}_") for name in names):
        return "compiled"
    return "torch" if '"cpu": _plain' in _text(op) else "torch twin"  # one whose kernel is for cards alone


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _describe_extra(distributions: tuple[str, ...], purpose: str) -> str:
    found = [f"{name} {version}" for name in distributions if (version := _version(name))]
    return f"{', '.join(found) if len(found) == len(distributions) else 'missing'}: {purpose}"


def _lines(environment: Environment) -> list[str]:
    """The report for people, at most 80 columns wide wherever names allow it."""

    def section(title: str, entries: dict[str, str]) -> list[str]:
        width = max((len(name) for name in entries), default=0)
        return [title, *(f"  {name.ljust(width)}  {value}" for name, value in entries.items()), ""]

    lines = section("versions", environment.versions) + section("system", environment.system)
    lines += section(
        "compute",
        {
            "threads": str(environment.cpu_threads),
            "instruction set": environment.isa or environment.problem,
            "usable": ", ".join(environment.usable_isas) or "none",
            "CUDA": ", ".join(environment.cuda) or "not available",
        },
    )
    kernels = {
        name: " · ".join(f"{on}: {how}" for on, how in where.items()) for name, where in environment.kernels.items()
    }
    lines += section("kernels", kernels)
    return lines + section(f"optional extras: {install_hint('NAME')}", environment.extras)[:-1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the report. Returns 0, or 1 where the compiled module does not work."""
    parser = argparse.ArgumentParser(prog="genrec-fast env", description="versions, instruction set, live kernels")
    parser.add_argument("--json", action="store_true", help="one JSON object, for scripts and bug reports")
    environment = collect()
    if parser.parse_args(arguments).json:
        print(json.dumps(dataclasses.asdict(environment), indent=2))
    else:
        print("\n".join(_lines(environment)))
    return 0 if environment.isa else 1


if __name__ == "__main__":
    raise SystemExit(main())
