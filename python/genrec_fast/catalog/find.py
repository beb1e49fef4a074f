"""Items found by text: an exact name or title, the words of a title, or either with a typing error."""

from __future__ import annotations

import difflib
import functools
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

By = Literal["name", "title", "near", "alike", "nothing"]

# Of difflib's ratio: one letter in four may be another, missing or too many; two may have changed places in five.
_ALIKE = 0.75
_MOST_ALIKE = 50  # words that a word with a typing error may stand for
_BEGINNING = 0.9  # of a whole word's weight
_MOST_WORDS = 32  # different ones that are looked for
_WORD = re.compile(r"\w+")
# What is typed for a number (50, -1, 50.0, 1e1) or looks like one (5-0): never another number with an error.
_NUMBER = re.compile(r"[-+\u2212]?[.,]?\d(?:[\d.,+\u2212-]|e(?=[-+\u2212]?\d))*", re.IGNORECASE)
# Scripts that put no spaces between words: what is looked for may begin anywhere.
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff]")


@dataclass(frozen=True)
class Found:
    """What a text may mean; ``print`` shows it as a table of names and titles.

    Args:
        text: what was looked for.
        by: "name", "title": exactly that, but for capitals, accents and punctuation (a number: but for nothing);
            "near": all of its words are there, whole, as beginnings of words or with a typing error; "alike": some
            are, or the text is a number or has more than 32 different words; "nothing": none is.
        items: ids, the best first; at most as many as were asked for.
        count: how many there are.
        names: of ``items``.
        titles: of ``items``; ``None``: the catalog has none.
    """

    text: str
    by: By
    items: tuple[int, ...]
    count: int
    names: tuple[str, ...]
    titles: tuple[str, ...] | None

    @property
    def item(self) -> int | None:
        """The id that is meant beyond doubt: of the only item that is exactly that, or near; else ``None``."""
        return self.items[0] if self.count == 1 and self.by in ("name", "title", "near") else None

    def __str__(self) -> str:
        if not self.items:
            return f"no item is called or titled {self.text!r:.80}, or alike"
        wide = max(map(len, ("name", *self.names)))
        rows = [("name", "title"), *zip(self.names, self.titles or self.names, strict=True)]
        lines = [name if self.titles is None else f"{name:<{wide}}  {title}".rstrip() for name, title in rows]
        more = self.count - len(self.items)
        return "\n".join([*lines, f"... and {more} more"] if more else lines)


class Finder:
    """Looks for texts among the names and titles of a catalog.

    Args:
        names: of the items.
        titles: of the items, or ``None``.
        numbers: item id of each name.
    """

    def __init__(self, names: Sequence[str], titles: Sequence[str] | None, numbers: Mapping[str, int]) -> None:
        self.names, self.titles, self.numbers = names, titles, numbers

    def __call__(self, text: str, k: int) -> Found:
        """The first of these that finds anything: see ``Found.by``.

        Cost: one pass over all titles for each different word, of 32 at most, and one over their vocabulary for each
        typing error.
        """
        if text in self.numbers:
            return self._found(text, "name", [self.numbers[text]], k)
        plain, number = _plain(text), _NUMBER.fullmatch(text.strip()) is not None
        kinds: tuple[tuple[By, _Texts], ...] = (("name", self._names), ("title", self._titles))
        for by, texts in kinds:
            same = texts.exactly(text) if number else texts.same(plain)
            if same:
                return self._found(text, by, same, k)
        words = plain.split()
        if number:  # a name that there is not, most likely: no typing error of another, and no title's year
            return self._found(text, "alike", self._titles.alike(words), k)
        if len(set(words)) > _MOST_WORDS:
            return self._found(text, "alike", self._titles.alike(words) or self._names.alike(words), k)
        for texts in (self._titles, self._names):
            near = texts.near(words)
            if near:
                return self._found(text, "near", near, k)
        return self._found(text, "alike", self._titles.alike(words) or self._names.alike(words), k)

    @functools.cached_property
    def _names(self) -> _Texts:
        return _Texts(self.names)

    @functools.cached_property
    def _titles(self) -> _Texts:
        return _Texts(self.titles or ())

    def _found(self, text: str, by: By, items: Sequence[int], k: int) -> Found:
        best = tuple(items[:k])
        titles = None if self.titles is None else tuple(self.titles[item] for item in best)
        names = tuple(self.names[item] for item in best)
        return Found(text, by if items else "nothing", best, len(items), names, titles)


class _Texts:
    """Names or titles, one for each item, in plain letters."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.plain = [_plain(text) for text in texts]
        self.longest = max(map(len, self.plain), default=0)

    def exactly(self, text: str) -> list[int]:
        """Texts that are this one, but for spaces around it and capitals."""
        wanted = text.strip().casefold()
        return [item for item, other in enumerate(self.texts) if other.strip().casefold() == wanted]

    def same(self, plain: str) -> list[int]:
        """Texts that are this one in plain letters."""
        return [item for item, other in enumerate(self.plain) if plain and other == plain]

    def near(self, words: Sequence[str]) -> list[int]:
        """Texts with all words; if there are none, with typing errors forgiven. The most alike and shortest first."""
        joined = "" if all(map(str.isdecimal, words)) else "".join(words)  # 5 and 0 are not 50
        words = list(dict.fromkeys(words))
        having = [self._having(word) for word in words]
        found = _all_of(having) or self._having(joined)
        if not found:  # a word that stands somewhere is hardly an error
            having = [known or self._forgiving(word) for word, known in zip(words, having, strict=True)]
            found = _all_of(having)
        if not found:
            having = [{**self._forgiving(word), **known} for word, known in zip(words, having, strict=True)]
            found = _all_of(having)
        return self._ordered(found)

    def alike(self, words: Sequence[str]) -> list[int]:
        """Texts with some of the first 32 different words; those with rare ones first."""
        weights: dict[int, float] = {}
        for word in list(dict.fromkeys(words))[:_MOST_WORDS]:
            having = self._having(word)
            for item in having:
                weights[item] = weights.get(item, 0.0) + 1 / len(having)
        return self._ordered(weights)

    def _ordered(self, found: Mapping[int, float]) -> list[int]:
        return sorted(found, key=lambda item: (-found[item], len(self.plain[item]), item))

    def _having(self, word: str) -> dict[int, float]:
        """Texts with a word that begins like this one, also across a space ("starwars" finds "star wars").

        A whole word counts 1, a beginning a little less; 2 is no beginning of 2001.
        """
        if not word or len(word) > self.longest:
            return {}
        begins = ("" if _UNSPACED.search(word) else "(?:^| )") + " ?".join(map(re.escape, word))
        begin, whole = re.compile(begins), re.compile(begins + r"(?!\w)")
        found = {item: 1.0 for item, text in enumerate(self.plain) if whole.search(text)}
        if not word.isdecimal():
            for item, text in enumerate(self.plain):
                if item not in found and begin.search(text):
                    found[item] = _BEGINNING
        return found

    def _forgiving(self, word: str) -> dict[int, float]:
        """Texts with a word, no number, that is this one but for a typing error, and how much alike they are."""
        if len(word) < 3 or word.isdecimal():
            return {}
        slack = 1 if len(word) < 6 else 2
        near = [other for other in self._vocabulary if abs(len(other) - len(word)) <= slack]
        close = difflib.get_close_matches(word, near, n=_MOST_ALIKE, cutoff=_ALIKE)
        alike = {other: difflib.SequenceMatcher(None, other, word).ratio() for other in close}
        found: dict[int, float] = {}
        for item, text in enumerate(self.plain):
            best = max((alike[other] for other in text.split() if other in alike), default=0.0)
            if best:
                found[item] = best
        return found

    @functools.cached_property
    def _vocabulary(self) -> list[str]:
        return sorted({word for text in self.plain for word in text.split() if not word.isdecimal()})


def _all_of(having: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """The texts that every word has found, with the sum of how much alike they are."""
    if not having:
        return {}
    both = set(having[0]).intersection(*having[1:])
    return {item: sum(found[item] for found in having) for item in both}


def _plain(text: str) -> str:
    """Words in small letters without accents, a space between two of them."""
    text = text.casefold()
    if not text.isascii():
        text = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return " ".join(_WORD.findall(text.replace("_", " ")))
