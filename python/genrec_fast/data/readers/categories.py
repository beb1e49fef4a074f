"""An item's categories, from whatever columns and forms published sets have them in."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Mapping, Sequence

# From the general to the special.
_KNOWN = ("main_category", "main_cat", "categories", "category", "genres", "genre", "class")
_LEVEL = re.compile(r"(first|second|third|fourth)_level_category_name|(category|cat|level)_?l?\d+(_name)?")
_ORDER = ("first", "second", "third", "fourth")
_FEATURES = "feat"  # KuaiRec's numbers of categories
_SEVERAL = ("categories", "genres", "class", "tags", "tag", _FEATURES)  # columns in which commas separate words
_QUOTED = re.compile(r"""(?:'((?:[^'\\]|\\.)*)'|"([^"]*)")\s*(?:,|$)""")
_MISSING = ("", "(no genres listed)", "unknown", "null", "none", "nan", "-124")  # the last: KuaiRec and KuaiRand
_WORD, _PATH = "\x1f", "\x1e"  # ASCII's separators: commas are part of names


def is_category(column: str) -> bool:
    """Whether a column of that name holds categories."""
    name = column.lower()
    return name in _KNOWN or name == _FEATURES or name.startswith("genre:") or _LEVEL.fullmatch(name) is not None


def category_columns(names: Sequence[str]) -> list[str]:
    """The columns that hold categories, from the general to the special."""

    def place(column: str) -> tuple[int, int, str]:
        name = column.lower()
        if name in _KNOWN:
            return 0, _KNOWN.index(name), ""
        word = name.partition("_")[0]
        return 1, _ORDER.index(word) if word in _ORDER else len(_ORDER), name.rjust(40) if word not in _ORDER else ""

    flags = [name for name in names if name.startswith("genre:")]
    return flags or sorted((name for name in names if is_category(name)), key=place)


def as_cell(value: object) -> str | None:
    """A list of words, or a list of such lists, as a cell that ``path_of`` reads; ``None`` for anything else."""
    if not isinstance(value, (list, tuple)):
        return None
    paths = [part for part in value if isinstance(part, (list, tuple))] or [value]
    # A separator behind each word: a single one is no text that commas would divide.
    return _PATH.join("".join(f"{word}{_WORD}" for word in path if word is not None) for path in paths)


def as_text(cell: str) -> str:
    """A cell of ``as_cell`` as a text."""
    return ", ".join(filter(None, cell.replace(_PATH, "").split(_WORD)))


def path_of(cells: Mapping[str, str], blanks: Collection[str] = ()) -> list[str]:
    """The words of an item's columns of categories, in order; of several paths, the first.

    ``blanks`` are columns in which blanks separate words (RecBole's token_seq).

    A word that stands at the end of one column and at the beginning of the next (Amazon's main category) counts once.
    """
    path: list[str] = []
    for column, cell in cells.items():
        if column.startswith("genre:"):
            words = [column.removeprefix("genre:")] if cell == "1" else []
        else:
            words = _words(cell, several=column.lower() in _SEVERAL, blanks=column in blanks)
        known = [word for word in words if word.lower() not in _MISSING]
        path += known[1:] if path and known and known[0] == path[-1] else known
    return path


def _words(cell: str, *, several: bool, blanks: bool) -> list[str]:
    """``several``: whether commas separate words, and do not belong to them; ``blanks``: whether blanks do."""
    text = cell.partition(_PATH)[0]
    if _WORD in text or _PATH in cell:
        return [word.strip() for word in text.split(_WORD)]
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        try:
            listed = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            listed = [part.strip() for part in text[1:-1].split(",")]
        return [word.strip() for word in (as_cell(listed) or "").partition(_PATH)[0].split(_WORD)]
    if text[:1] in ("'", '"') and (quoted := _QUOTED.findall(text)):
        return [first or second for first, second in quoted]
    if blanks:
        return text.split()
    separator = next((one for one in ("|", " > ", ";", *((",",) if several else ())) if one in text), None)
    return [word.strip() for word in text.split(separator)] if separator else [text]
