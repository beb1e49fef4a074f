"""The logits processor allows what a trie in Python allows, and nothing else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import genrec_fast as gf
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError

pytest.importorskip("transformers")

from genrec_fast.hf.processor import TrieLogitsProcessor

EOS = 1


def allowed_by_python(codes, offset, sizes, prefix, eos):
    """Tokens that may follow the tokens of a prefix."""
    begins = [offset + sum(sizes[:level]) for level in range(len(sizes))]
    items = {tuple(c + b for c, b in zip(row, begins, strict=True)) for row in codes}
    if len(prefix) >= len(sizes):
        return {eos} if tuple(prefix) in items else set()
    return {item[len(prefix)] for item in items if item[: len(prefix)] == tuple(prefix)}


@st.composite
def catalogs(draw):
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    row = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    return sizes, draw(st.lists(row, min_size=1, max_size=8))


@settings(max_examples=60, deadline=None)
@given(catalogs(), st.integers(0, 5), st.integers(1, 3), st.booleans(), st.data())
def test_masks_like_a_python_trie(catalog, offset, prompt_length, by_marker, data):
    sizes, codes = catalog
    trie = gf.build_trie(codes, codebook_sizes=sizes)
    vocabulary = offset + sum(sizes) + 2
    marker = [vocabulary - 1]
    count = data.draw(st.integers(0, len(sizes)))
    begins = [offset + sum(sizes[:level]) for level in range(count)]
    token = st.integers(0, vocabulary - 2)
    rows, prefixes = [], []
    for _ in range(data.draw(st.integers(1, 4))):
        prompt = data.draw(st.lists(token, min_size=prompt_length, max_size=prompt_length))
        if data.draw(st.booleans()):
            row = data.draw(st.sampled_from(codes))
            prefixes.append([c + b for c, b in zip(row, begins, strict=False)])
        else:
            prefixes.append(data.draw(st.lists(token, min_size=count, max_size=count)))
        rows.append(prompt + (marker if by_marker else []) + prefixes[-1])
    where = {"marker": marker} if by_marker else {"prompt_length": prompt_length}
    processor = TrieLogitsProcessor(trie, offset, eos_token_id=EOS, **where)
    scores = torch.randn(len(rows), vocabulary)
    expected = torch.full_like(scores, -torch.inf)
    for row, prefix in enumerate(prefixes):
        tokens = sorted(allowed_by_python(codes, offset, sizes, prefix, EOS))
        expected[row, tokens] = scores[row, tokens]
    if bool((expected == -torch.inf).all()):
        with pytest.raises(InvalidValueError, match="must hold the beginning of an item"):
            processor(torch.tensor(rows), scores)
        return
    assert torch.equal(processor(torch.tensor(rows), scores), expected)


def test_rows_without_marker_or_past_an_item_are_free():
    trie = gf.build_trie([[0, 1], [2, 0]])
    scores = torch.zeros(4, 12)
    ids = torch.tensor([[9, 9, 5, 5], [9, 5, 1, 5], [5, 1, 4, 9], [9, 9, 9, 5]])
    with pytest.warns(UserWarning, match=r"marker \[9, 5\] in every row .* got none in row 2, which is left free"):
        out = TrieLogitsProcessor(trie, 1, marker=[9, 5])(ids, scores)
    assert (out[1:3] == 0).all() and (out[3] == 0).nonzero().flatten().tolist() == [1, 3]
    assert (out[0] == -torch.inf).all()  # 5 is no code: that row is dead
    processor = TrieLogitsProcessor(trie, 1, marker=[9, 5], eos_token_id=11)
    with pytest.warns(UserWarning, match="was its prompt cut"):
        out = processor(ids, scores)
    assert (out[1] == 0).nonzero().flatten().tolist() == [11] and (out[2] == 0).all()
    assert torch.equal(processor(ids, scores), out)  # said once
    with pytest.warns(UserWarning, match="got none in row 0"):
        out = TrieLogitsProcessor(trie, 1, marker=[9, 5])(ids[:, :1], scores)
    assert (out == 0).all()


def test_prefix_tokens_are_forced_before_the_id():
    trie = gf.build_trie([[0, 1], [2, 0]])
    processor = TrieLogitsProcessor(trie, 1, prefix_tokens=[7, 8])
    for written, tokens in (([], [7]), ([7], [8]), ([7, 8], [1, 3]), ([7, 8, 3], [4])):
        out = processor(torch.tensor([[0, *written]]), torch.zeros(1, 9))
        assert (out[0] == 0).nonzero().flatten().tolist() == tokens
    with pytest.raises(InvalidValueError, match="but no row does"):
        processor(torch.tensor([[0, 8]]), torch.zeros(1, 9))


def test_bad_arguments_are_refused():
    trie = gf.build_trie([[0, 1], [2, 0]])
    with pytest.raises(InvalidTypeError, match="trie must be a Trie, got list"):
        TrieLogitsProcessor([[0]])
    with pytest.raises(InvalidValueError, match="prompt_length must be None with marker, got 3"):
        TrieLogitsProcessor(trie, prompt_length=3, marker=[1])
    with pytest.raises(InvalidValueError, match="marker must have a token, got none"):
        TrieLogitsProcessor(trie, marker=[])
    with pytest.raises(InvalidValueError, match="prompt_length must be at least 0, got -1"):
        TrieLogitsProcessor(trie, prompt_length=-1)
    with pytest.raises(InvalidTypeError, match="marker must be token ids, got str"):
        TrieLogitsProcessor(trie, marker="<|sid_begin|>")
    processor = TrieLogitsProcessor(trie, prompt_length=2)
    with pytest.raises(InvalidTypeError, match=r"input_ids must be int64 \[R, T\], got torch.int32"):
        processor(torch.zeros(1, 2, dtype=torch.int32), torch.zeros(1, 9))
    with pytest.raises(InvalidValueError, match=r"must be \[R, T\] and \[R, V\], got \[1, 2\] and \[2, 9\]"):
        processor(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(2, 9))
    with pytest.raises(InvalidValueError, match="a column for token 4, got a vocabulary of 4"):
        processor(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 4))
    with pytest.raises(InvalidValueError, match="prompt_length must be at most the length of input_ids 1, got 2"):
        processor(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 9))
    with pytest.raises(InvalidValueError, match="eos_token_id must be given, or max_new_tokens leave no room"):
        processor(torch.tensor([[0, 0, 0, 4]]), torch.zeros(1, 9))
