"""Items as a person types them: names, titles or parts of them, ids, and files of these."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from genrec_fast.base.errors import DataError, InvalidValueError
from genrec_fast.recipe.recommender import Recommender

_ID = "id:"


def items_of(model: Recommender, flag: str, words: Sequence[str], skip: bool, op: str = "recommend") -> list[int | str]:
    """What the words after a flag mean: ids, and the words themselves where nothing is called so and ``skip`` is set.

    A word is an item's name, ``id:`` and its number, ``@`` and a file with one a line, or a text by which exactly one
    item is found. On the standard error is said what was found for a text, which items are near where there are
    several, what is skipped, and that no item is left of the words.

    Raises:
        InvalidValueError: a word that means no item, or several.
        DataError: a file that cannot be read.
    """
    found = [_item(model, op, flag, word, skip) for word in expanded(flag, words, model.catalog.numbers, op)]
    if flag != "--history" and not any(isinstance(item, int) for item in found):  # of a history its basis is said
        print(f"{flag} names no item", file=sys.stderr)
    return found


def expanded(flag: str, words: Sequence[str], names: object = (), op: str = "recommend") -> list[str]:
    """The words, and in place of ``@FILE`` the lines of the file, blank ones left out; what is in ``names`` is no file.

    Raises:
        DataError: a file that cannot be read.
    """
    found: list[str] = []
    for word in words:
        if not word.startswith("@") or word in names:  # type: ignore[operator]
            found.append(word)
            continue
        try:
            text = Path(word[1:]).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no UTF-8"
            raise DataError(f"{op}: {flag} must be items or @FILE with one a line, got {word!r} ({reason})") from error
        found += [line for line in text.splitlines() if line.strip()]
    return found


def _item(model: Recommender, op: str, flag: str, word: str, skip: bool) -> int | str:
    number = model.catalog.numbers.get(word)
    if number is not None:
        return number
    if word.startswith(_ID):
        return _by_id(model, op, flag, word, skip)
    found = model.find_items(word)
    if found.item is not None:
        print(f"{flag} {word!r:.80} is {_called(model, found.item)}", file=sys.stderr)
        return found.item
    exact = found.by in ("name", "title", "near")
    if skip and not exact:
        return _skipped(flag, word)
    if found.items:
        print(found, file=sys.stderr)
    if exact:
        raise InvalidValueError(
            f"{op}: each word of {flag} must mean one item, got {word!r:.80}, which may be any of {found.count}: "
            f"give a name of the table above (such as {found.names[0]!r}) or more words of the title"
        )
    raise InvalidValueError(
        f"{op}: each item of {flag} must be one of the catalog's {model.num_items} names (such as "
        f"{model.item_ids[0]!r}), id:NUMBER or words of a title, got {word!r:.80}"
        + ("; the titles above have some of its words" if found.items else "")
    )


def _by_id(model: Recommender, op: str, flag: str, word: str, skip: bool) -> int | str:
    digits = word.removeprefix(_ID)
    # Python reads no number of thousands of digits.
    if digits.isdecimal() and digits.isascii() and len(digits.lstrip("0")) < 20 and int(digits[-20:]) < model.num_items:
        return int(digits[-20:])
    if skip and digits.isdecimal():
        return _skipped(flag, word)
    raise InvalidValueError(f"{op}: {flag} must have ids of [0, {model.num_items}), got {word!r:.80}")


def _skipped(flag: str, word: str) -> str:
    print(f"{flag} {word!r:.80} is not in the catalog, and is left out", file=sys.stderr)
    return word


def _called(model: Recommender, item: int) -> str:
    name, title = model.item_ids[item], model.title(item)
    return name if title in ("", name) else f"{name} ({title})"
