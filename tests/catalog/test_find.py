from __future__ import annotations

import pytest

from genrec_fast import Catalog
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.catalog.find import _Texts

TITLES = [
    "Star Wars: The Clone Wars",
    "Star Wars: Episode II - Attack of the Clones",
    "Toy Story (1995)",
    "Toy Story 2 (1999)",
    "Amélie",
    "",
    "2001: A Space Odyssey",
    "The Cat",
    "千と千尋の神隠し",
    "The Cat",
]
SHOP = Catalog(item_ids=[str(number) for number in range(1, 11)], titles=TITLES)


@pytest.mark.parametrize(
    ("text", "by", "items"),
    [
        ("3", "name", [2]),  # a name goes first, whatever the titles say
        ("Toy Story (1995)", "title", [2]),
        ("toy story 1995", "title", [2]),
        ("AMELIE!", "title", [4]),
        ("the cat", "title", [7, 9]),
        ("star wars clone", "near", [0, 1]),
        ("clone star", "near", [0, 1]),
        ("starwars attack", "near", [1]),
        ("toy stroy", "near", [2, 3]),
        ("cloen wars", "near", [0]),
        ("space odissey", "near", [6]),
        ("toy story 2", "near", [3]),  # 2 is a word, no beginning of 2001
        ("千尋", "near", [8]),
        ("star trek", "alike", [0, 1]),
        ("2001", "alike", [6]),  # a number that is no name is hardly a title
        ("11", "nothing", []),
        ("banana", "nothing", []),
        ("", "nothing", []),
        (" ", "nothing", []),
        ("?!", "nothing", []),
    ],
)
def test_what_a_text_may_mean(text, by, items):
    found = SHOP.find(text)
    assert (found.by, list(found.items), found.count) == (by, items, len(items))
    assert found.item == (items[0] if len(items) == 1 and by != "alike" else None)


def test_a_table_of_names_and_titles():
    found = SHOP.find("star", k=1)
    assert str(found).splitlines() == ["name  title", "1     Star Wars: The Clone Wars", "... and 1 more"]
    assert str(SHOP.find("banana")) == "no item is called or titled 'banana', or alike"


def test_names_are_found_too_where_titles_say_nothing():
    named = Catalog(item_ids=["tea-green", "tea-black", "B00005N7P0"])
    assert named.find("Tea Green").items == (0,)
    assert named.find("tea").items == (0, 1)
    assert named.find("gren").item == 0
    assert named.find("b00005n7p1").item == 2
    assert str(named.find("tea")).splitlines() == ["name", "tea-green", "tea-black"]
    both = Catalog(item_ids=["tea-green", "tea-black"], titles=["", "Black"])
    assert both.find("tea gren").item == 0
    assert Catalog(num_items=30).find("7").items == (7,)
    assert Catalog(num_items=30).find("30").by == "nothing"


@pytest.mark.parametrize(
    "text", ["50.0", "-1", "+1", "5-0", "1e1", "1E1", "1e+1", "10.", ".5", "-10", "50,0", "\u22121"]
)
def test_a_number_is_never_another_one(text):
    found = Catalog(num_items=600, titles=[f"Part {number}" for number in range(600)]).find(text)
    assert found.item is None
    assert found.by in ("alike", "nothing")
    assert Catalog(num_items=600).find(text).by == "nothing"


def test_a_number_is_found_exactly():
    odd = Catalog(item_ids=["-10", "1e1", "x", "10"], titles=["Ten", "5-0", "50.0", "-7 "])
    assert [odd.find(text).item for text in ("-10", "1E1", "5-0", "50.0", " -7", "10")] == [0, 1, 1, 2, 3, 3]
    assert odd.find("7").by == "alike"
    assert Catalog(num_items=60).find("5 0").item is None


def test_a_word_with_a_typing_error_is_no_number():
    assert Catalog(num_items=600).find("10a").by == "nothing"
    assert Catalog(item_ids=["b10", "c"]).find("b10o").item == 0


def test_many_words_are_looked_for_once_and_not_all(monkeypatch):
    asked = []
    having = _Texts._having
    monkeypatch.setattr(_Texts, "_having", lambda self, word: asked.append(word) or having(self, word))
    assert SHOP.find("toy story " * 200).by == "near"
    assert len(asked) <= 3  # and both words as one
    asked.clear()
    found = SHOP.find("attack " + " ".join(f"word{number}" for number in range(5000)))
    assert (found.by, found.items) == ("alike", (1,))
    assert len(asked) <= 32
    assert SHOP.find("a" * 1_000_000).by == "nothing"
    assert len(str(SHOP.find("a" * 1_000_000))) < 200


def test_what_cannot_be_looked_for():
    with pytest.raises(InvalidTypeError, match="find: text must be a text, got 3"):
        SHOP.find(3)
    with pytest.raises(InvalidValueError, match="find: k must be at least 1, got 0"):
        SHOP.find("tea", 0)
