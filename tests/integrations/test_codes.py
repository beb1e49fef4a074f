"""From codes to the tokens of a model."""

from __future__ import annotations

import pytest
import torch

import genrec_fast as gf
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.hf.codes import CodeTokens, code_tokens, tokens_from_tokenizer


def test_contiguous_tokens_follow_the_levels():
    codes = code_tokens([3, 2], 10)
    assert [table.tolist() for table in codes.of] == [[10, 11, 12], [13, 14]]
    assert codes.span(0) == slice(10, 13) and codes.span(1) == slice(13, 15)
    assert codes.encode(torch.tensor([[2, 0], [0, 1]])).tolist() == [[12, 13], [10, 14]]
    assert codes.decode(torch.tensor([[12, 13], [13, 12], [-1, 99]])).tolist() == [[2, 0], [-1, -1], [-1, -1]]
    assert codes.largest == 14


def test_tables_of_any_order_and_with_holes():
    codes = code_tokens([3, 2], code_to_token=[torch.tensor([7, 2, -1]), [0, 5]])
    assert codes.span(0).tolist() == [7, 2, 7]
    assert codes.decode(codes.encode(torch.tensor([[1, 1], [0, 0]]))).tolist() == [[1, 1], [0, 0]]
    same = code_tokens([2, 2], code_to_token=torch.tensor([[4, 5], [6, 7]]))
    assert [table.tolist() for table in same.of] == [[4, 5], [6, 7]]
    assert [table.tolist() for table in code_tokens([2, 1], code_to_token=same).of] == [[4, 5], [6]]


@pytest.mark.parametrize("form", ["<{}_{}>", "<s_{}_{}>"])
def test_reads_both_forms_of_tokens(form):
    vocabulary = {"hello": 0, "<|sid_begin|>": 1, form.format("a", 0): 9, form.format("a", 2): 4}
    vocabulary |= {form.format("b", 1): 3, form.format("b", 0): 2, form.format("c", 0): 8}

    class Tokenizer:
        def get_vocab(self):
            return vocabulary

    trie = gf.build_trie([[0, 1], [2, 0]])
    codes = tokens_from_tokenizer(Tokenizer(), trie)
    assert [table.tolist() for table in codes.of] == [[9, -1, 4], [2, 3]]
    assert [table.tolist() for table in tokens_from_tokenizer(vocabulary, (3, 2)).of] == [[9, -1, 4], [2, 3]]
    with pytest.raises(InvalidValueError, match="for every code of the catalog, got none for code 1 of level 0"):
        tokens_from_tokenizer(vocabulary, gf.build_trie([[1, 1], [2, 0]]))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"token_offset": -1}, InvalidValueError, "token_offset must be at least 0, got -1"),
        ({"token_offset": 1.0}, InvalidTypeError, "token_offset must be an int, got 1.0"),
        ({"token_offset": 1, "code_to_token": [[1, 2], [3]]}, InvalidValueError, "token_offset must be 0 with"),
        ({"code_to_token": 7}, InvalidTypeError, r"must be a tensor \[L, K\] or L tensors \[K\], got int"),
        ({"code_to_token": torch.arange(3)}, InvalidValueError, r"L tensors \[K\], got \[3\]"),
        ({"code_to_token": [[1, 2], [3.5]]}, InvalidTypeError, r"code_to_token\[1\] must be integers \[K\]"),
        ({"code_to_token": [[1, 2], []]}, InvalidTypeError, r"code_to_token\[1\] must be integers"),
        ({"code_to_token": [[1, 2], [-2]]}, InvalidValueError, r"or -1 for none, got -2"),
        ({"code_to_token": [[1, 2], ["a"]]}, InvalidTypeError, r"code_to_token\[1\] must be integers \[K\], got list"),
        ({"code_to_token": [[4, 4], [3]]}, InvalidValueError, r"another token for each code, got 4 twice"),
        ({"code_to_token": []}, InvalidValueError, "must have 2 levels like the trie, got 0"),
        (
            {"code_to_token": [[1], [2]]},
            InvalidValueError,
            "must have 2 tokens like the trie, got 1",
        ),
    ],
)
def test_bad_maps_are_refused(arguments, error, text):
    with pytest.raises(error, match=text):
        code_tokens([2, 1], **arguments)


def test_maps_must_fit_the_trie_and_the_vocabulary():
    trie = gf.build_trie([[0, 1], [1, 0]])
    with pytest.raises(InvalidValueError, match="search: code_to_token must have 2 levels like the trie, got 1"):
        CodeTokens((torch.arange(2),)).require("search", trie)
    with pytest.raises(InvalidValueError, match="must have 2 tokens at level 1 like the trie, got 3"):
        CodeTokens((torch.arange(2), torch.arange(3))).require("search", trie)
    with pytest.raises(InvalidValueError, match=r"must hold tokens in \[0, 4\), the vocabulary, got 4"):
        code_tokens([2, 2], 1).require("search", trie, 4)
    code_tokens([2, 2], 1).require("search", trie, 5)


def test_a_tokenizer_without_such_tokens_is_refused():
    with pytest.raises(InvalidValueError, match="must have tokens <a_0> or <s_a_0>, got neither"):
        tokens_from_tokenizer({"a": 0}, [2])
    with pytest.raises(InvalidValueError, match="got both"):
        tokens_from_tokenizer({"<a_0>": 0, "<s_a_0>": 1}, [2])
    with pytest.raises(InvalidValueError, match="tokens of level 1, got none"):
        tokens_from_tokenizer({"<a_0>": 0}, [2, 2])
    with pytest.raises(InvalidTypeError, match="must have a vocabulary"):
        tokens_from_tokenizer(3, [2])


@pytest.mark.parametrize("offset", [-1, 2**26 + 1, 2**40, 2**63 - 4, 2**70])
def test_tokens_that_no_vocabulary_has_are_refused(offset):
    with pytest.raises(InvalidValueError, match="token_offset must be at"):
        code_tokens((4, 4), offset)
    with pytest.raises((InvalidTypeError, InvalidValueError), match=r"code_to_token\[0\] must"):
        code_tokens((2, 2), code_to_token=[[offset - 1, offset], [0, 1]])
