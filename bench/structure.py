"""The figures of docs/architecture.md: lines, the widest function, and frames from ``recommend`` to its ops.

Run: python bench/structure.py [TREE]      (lines and functions of any tree, frames of the installed package)
"""

from __future__ import annotations

import ast
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import genrec_fast as gf
from genrec_fast.data.synthetic import Shop
from genrec_fast.ops._registry import core


def lines(folder: Path, *patterns: str) -> int:
    """Of all files that match."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for p in patterns for path in folder.rglob(p))


def functions(package: Path) -> Iterator[tuple[int, str, str]]:
    """Parameters, file and name of every function that is neither an op nor a twin."""
    for path in package.rglob("*.py"):
        if path.is_relative_to(package / "ops"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count = sum(argument.arg not in ("self", "cls") for argument in given)
                yield count, str(path.relative_to(package)), node.name


def frames() -> dict[str, list[str]]:
    """Per compiled op the functions of the package that stand above its call, for one question to a small tiger."""
    data, recipe = Shop(num_items=300, seed=0).dataset(60, seed=1), gf.recipes.tiger()
    settings = dataclasses.replace(recipe.train, epochs=1, evaluate_users=10)
    recipe = dataclasses.replace(recipe, train=settings, tokenizer=gf.RandomConfig(codebook_sizes=(16, 16)))
    model = gf.train(recipe, data, seed=0, show_progress=False)
    found: dict[str, list[str]] = {}

    def seen(frame: FrameType | None, event: str, what: Any) -> None:
        name = getattr(what, "__name__", "")
        if event != "c_call" or not name.startswith("transformer_") or not hasattr(core, name):
            return
        above = []
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            if module.startswith("genrec_fast."):
                above.append(f"{module.removeprefix('genrec_fast.')}.{frame.f_code.co_name}")
            frame = frame.f_back
        found[name] = above[::-1]

    model.recommend([[1, 2, 3]], 5)  # packs the weights
    sys.setprofile(seen)
    model.recommend([[1, 2, 3]], 5)
    sys.setprofile(None)
    return found


if __name__ == "__main__":
    tree = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    print(f"Python {lines(tree / 'python', '*.py'):,} lines, C++ {lines(tree / 'csrc', '*.cpp', '*.h'):,}")
    for count, file, name in sorted(functions(tree / "python" / "genrec_fast"), reverse=True)[:5]:
        print(f"{count:>3} parameters: {name} ({file})")
    for op, above in frames().items():
        until = next(i for i, name in enumerate(above) if name.startswith(("ops.", "base.errors")))
        print(f"{op}: {until} frames before the op: {' > '.join(above[:until])}")
