"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import genrec_fast

PACKAGE = Path(genrec_fast.__file__).resolve().parent
CSRC = Path(__file__).resolve().parent.parent / "csrc"


def imported_names(path: Path) -> set[str]:
    """Every dotted name that a file imports, the names taken out of a module included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def included(path: Path) -> set[str]:
    return set(re.findall(r'^#include [<"]([^>"]+)[>"]', path.read_text(encoding="utf-8"), re.MULTILINE))


def test_the_compiled_module_is_imported_in_two_places_only():
    importers = {
        str(path.relative_to(PACKAGE)).replace("\\", "/")
        for path in PACKAGE.rglob("*.py")
        if "genrec_fast._core" in imported_names(path)
    }
    assert importers <= {"ops/_registry.py", "env.py"}


def test_ops_and_core_in_cpp_know_neither_python_nor_torch():
    files = [path for folder in ("core", "ops") for path in (CSRC / folder).rglob("*.*")]
    assert files
    foreign = {
        (path.name, header)
        for path in files
        for header in included(path)
        if re.match(r"(pybind11|torch|ATen|c10|Python\.h|bindings/)", header)
        or (path.parent.name == "core" and header.startswith("ops/"))
    }
    assert foreign == set()


def test_per_isa_bodies_include_no_std_templates():
    bodies = sorted((CSRC / "ops").rglob("*_cpu.cpp"))
    assert bodies
    allowed = {"cstdint", "cstddef", "cmath", "cstring", "immintrin.h", "arm_neon.h"}
    stray = {
        (path.name, header)
        for path in bodies
        for header in included(path)
        if header not in allowed and not header.startswith(("core/", "ops/"))
    }
    assert stray == set()


def test_every_op_has_a_twin():
    files = (PACKAGE / "ops").glob("[a-z]*.py")
    ops = {path.stem for path in files if " = define(" in path.read_text(encoding="utf-8")}
    assert ops
    twins = {path.stem for path in (PACKAGE / "ops" / "reference").glob("*.py")}
    assert ops <= twins


def test_a_list_of_names_stands_where_names_are_handed_on():
    """In packages' faces; elsewhere an underscore says what is a file's own, and a list would say the others twice."""
    files = {path: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    taken = {name for text in files.values() for name in re.findall(r"^from ([\w.]+) import \*", text, re.MULTILINE)}
    stray = []
    for path, text in files.items():
        listed = re.search(r"^__all__ = (\[.*?\])", text, re.MULTILINE | re.DOTALL)
        module = ".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts))
        if listed is None or module in taken:
            continue
        handed_on = {name.rpartition(".")[2] for name in imported_names(path)}
        if handed_on.isdisjoint(ast.literal_eval(listed[1])):
            stray.append(module)
    assert stray == []


def test_no_function_but_an_op_and_its_twin_has_more_than_ten_parameters():
    """What belongs together is one thing: a config, a query, ``**options`` described and checked in one place."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not path.is_relative_to(PACKAGE / "ops"):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                names = [argument.arg for argument in given if argument.arg not in ("self", "cls", "ctx")]
                rest = [argument for argument in (node.args.vararg, node.args.kwarg) if argument is not None]
                found.append((len(names) + len(rest), path.name, node.name))
    assert found
    assert [function for function in found if function[0] > 10] == []
