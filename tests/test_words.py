"""One word per thing, and sentences that an engineer reads once; each entry says what to write instead."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import genrec_fast

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(genrec_fast.__file__).resolve().parent

# Names of public classes, functions, arguments and fields.
NAMES = {
    r"sids?|sid_\w+|\w+_sids?": "item_codes, or semantic_id in words",
    r"hierarch(y|ies)|digits?|\w+_digits?": "level: a position in a semantic ID",
    r"beam_(width|size)|bw|n_beams|beams": "num_beams",
    r"ragged\w*|packed_rows": "jagged: values, offsets, lengths",
    r"accepted_tokens|num_draft": "draft, verify, accept",
    r"topk|top_k": "k",
    r"n_\w+|num_of_\w+": "num_...",
}
JOINT = re.compile(r"\s*\n\s*(?:#|//|>)?\s*")  # between two lines of a comment or a paragraph
# Prose: docstrings, comments, pages, messages.
PHRASES = {
    r"second thoughts": "in one pass",
    r"\bwhat is no\b": "name what is left out: items excluded from the negatives",
    r"\bthat are none\b": "accidental hits",
    r"\bat fault\b|\bhears? of it\b": "only the failing request gets the exception",
    r"\bhangs? on\b": "depends on",
    r"\b(batch|for|of) nobody\b": "an empty batch",
    r"\bfor(etells?|etold)\b": "predicts, predicted",
    r"\bshall be learned\b|\blearned together\b": "are trained jointly",
    r"\bof no \w+ there is no\b": "undefined when ... is 0",
    r"# (of|for|in|on) (that|those)\b|# the same( in \w+| for \w+)?$|# same$": "a comment that is read alone",
}


def public_names(path: Path) -> Iterator[str]:
    """Classes, functions, their arguments and fields, but for those that begin with an underscore."""

    def of(body: list[ast.stmt]) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                yield node.target.id
            if not isinstance(node, (ast.ClassDef, ast.FunctionDef)) or (
                node.name.startswith("_") and node.name != "__init__"
            ):
                continue
            yield node.name
            if isinstance(node, ast.ClassDef):
                yield from of(node.body)
            else:
                yield from (arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs))

    yield from of(ast.parse(path.read_text(encoding="utf-8")).body)


@functools.cache
def texts() -> list[tuple[str, str]]:
    """Name and text of every file, then the text without its line ends, as a phrase may stand across them."""
    kinds = (".py", ".pyi", ".md", ".h", ".cpp", ".cuh")
    folders = ("python", "csrc", "docs", "examples", "bench", "tests")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    out = []
    for path in (*found, *ROOT.glob("*.md")):
        if path.suffix in kinds and path != Path(__file__).resolve():
            text = path.read_text(encoding="utf-8")
            out.append((str(path.relative_to(ROOT)), f"{text}\n{re.sub(JOINT, ' ', text)}"))
    return out


@pytest.mark.parametrize("word", NAMES)
def test_names(word):
    used = {
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in PACKAGE.rglob("*.py")
        if not path.name.startswith("_") or path.name == "__init__.py"
        for name in public_names(path)
        if re.fullmatch(word, name)
    }
    assert used == set(), NAMES[word]


@pytest.mark.parametrize("phrase", PHRASES)
def test_phrases(phrase):
    pattern = re.compile(phrase, re.IGNORECASE | re.MULTILINE)
    used = {f"{name}: {found[0]}" for name, text in texts() for found in pattern.finditer(text)}
    assert used == set(), PHRASES[phrase]
