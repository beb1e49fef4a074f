"""A whole best-first search in one call: against a beam search that prunes nothing, and against its twin."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_transformer_search import cases, plain_case, prepared

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.trie import build_trie
from genrec_fast.ops import transformer_best_first, transformer_search, trie_filter
from genrec_fast.ops.reference.transformer_best_first import transformer_best_first as twin
from genrec_fast.ops.transformer_pack import pack_stacks
from shared.isas import every_isa

SIZES = {"least_rows": st.sampled_from([1, 2, 8]), "share": st.sampled_from([1, 2, 1000])}


def begun(case, precision="float32"):
    """Behind the prompts alone, without an end token: the beam search's arguments and those that both take."""
    case.prior, case.end_token = 0, None
    arguments, named = prepared(case, pack_stacks([(case.spec, case.weights)], precision))
    named = {name: value for name, value in named.items() if name not in ("num_beams", "chain", "ancestors")}
    del named["end_token"]
    return arguments, named


def everything(arguments, named):
    """Every row of the trie with its score, the best first."""
    return transformer_search(*arguments, **named, num_beams=arguments[5].num_rows)


@settings(max_examples=60)
@given(
    case=cases(),
    k=st.integers(1, 45),
    sizes=st.fixed_dictionaries(SIZES),
    precision=st.sampled_from(["float32", "bfloat16", "int8"]),
    threads=st.sampled_from([1, 2]),
)
def test_it_finds_the_best_of_everything_with_equal_bits(case, k, sizes, precision, threads):
    arguments, named = begun(case, precision)
    torch.set_num_threads(threads)
    found = transformer_best_first(*arguments, **named, k=k, width=45, **sizes)
    torch.set_num_threads(1)
    trie, best = arguments[5], everything(arguments, named)
    for user in range(len(case.lengths)):
        rows = best.rows[user][best.rows[user] >= 0]
        items = trie.items(rows.long()).lengths if named["keep"] is None else torch.ones_like(rows)
        enough = (items.cumsum(0) >= k).nonzero()
        least = best.scores[user, int(enough[0])] if len(enough) else torch.tensor(-torch.inf)
        wanted = (best.scores[user] >= least) & (best.rows[user] >= 0)
        # All that scores as high as the k-th item, and nothing else.
        score = dict(zip(best.rows[user][wanted].tolist(), best.scores[user][wanted].tolist(), strict=True))
        shown = found.rows[user] >= 0
        assert dict(zip(found.rows[user][shown].tolist(), found.scores[user][shown].tolist(), strict=True)) == score
        codes = {int(row): code.tolist() for row, code in zip(best.rows[user], best.codes[user], strict=True)}
        assert [codes[int(row)] for row in found.rows[user][shown]] == found.codes[user][shown].tolist()
        assert bool((found.scores[user][:-1] >= found.scores[user][1:]).all())
        assert found.bound[user] == -torch.inf or found.bound[user] < least
        assert not bool(found.cut[user])


@settings(max_examples=40)
@given(case=cases(), k=st.integers(1, 9), budget=st.integers(1, 20), sizes=st.fixed_dictionaries(SIZES))
def test_a_budget_leaves_an_honest_bound_and_k_items(case, k, budget, sizes):
    arguments, named = begun(case)
    found = transformer_best_first(*arguments, **named, k=k, width=45, budget=budget, **sizes)
    best = everything(arguments, named)
    for user in range(len(case.lengths)):
        shown = set(found.rows[user][found.rows[user] >= 0].tolist())
        there = best.rows[user] >= 0
        shared = named["keep"] is None  # a row counts as all of its items
        rows = best.rows[user][there]
        lengths = arguments[5].items(rows.long()).lengths.tolist() if shared else [1] * len(rows)
        counts = dict(zip(rows.tolist(), lengths, strict=True))
        assert sum(counts[row] for row in shown) >= min(k, sum(counts.values()))
        for row, score in zip(best.rows[user][there].tolist(), best.scores[user][there].tolist(), strict=True):
            if row in shown:
                assert score == float(found.scores[user][found.rows[user] == row])
            elif score > float(found.bound[user]):  # found, and below the k-th
                assert score < float(found.scores[user][found.rows[user] >= 0].min())
        extra = k * (len(case.code_tokens) - 1)  # of a last descent
        assert int(found.expanded[user]) <= budget + extra


@settings(max_examples=25)
@given(case=cases(), k=st.integers(1, 9), budget=st.sampled_from([2, 1000]), sizes=st.fixed_dictionaries(SIZES))
def test_every_instruction_set_agrees_with_the_twin(case, k, budget, sizes):
    for _ in every_isa():
        arguments, named = begun(case)
        found = transformer_best_first(*arguments, **named, k=k, width=45, budget=budget, **sizes)
        theirs = plain(arguments, named, k=k, width=45, budget=budget, **sizes)
        if budget < 1000:  # with few rows, which are taken first may be decided by rounding
            assert torch.equal(found.rows >= 0, found.scores > -torch.inf)
            continue
        torch.testing.assert_close(found.scores[:, :k], theirs[0][:, :k], rtol=0, atol=2e-4)
        for user in range(len(case.lengths)):
            own, other = found.rows[user], theirs[1][user]
            least = float(found.scores[user].where(own >= 0, torch.inf).min()) + 1e-3
            clear = {int(row) for row, score in zip(own, found.scores[user], strict=True) if score > least}
            assert clear <= set(other.tolist())


def plain(arguments, named, **numbers):
    stack, hidden, scores, offsets, cache, trie, code_tokens, embedding = arguments
    keep, tables = named["keep"], ("rotary", "distance", "cross", "cross_offsets", "first_table", "positions")
    masks = ("bits", "ranks", "excluded", "excluded_offsets")
    shared = keep is None and trie.num_items != trie.num_rows
    return twin(
        **{"weights": stack.weights, "stack": stack.number, "hidden": hidden, "scores": scores, "offsets": offsets},
        **{"cache": cache, "code_tokens": code_tokens, "embedding": embedding, **numbers},
        **{name: list(getattr(trie, name)) for name in ("tokens", "child_bases", "child_deltas")},
        **{name: None if keep is None else getattr(keep, name) for name in masks},
        **{name: named.get(name) for name in tables},
        **{"leaf_bases": trie.leaf_bases if shared else None, "leaf_deltas": trie.leaf_deltas if shared else None},
        **{"embedding_scale": named["embedding_scale"], "first_user": 0, "last_user": len(scores)},
        **{"valid_only": named["normalize"] == "valid", "own_codes": named["normalize"] == "codes"},
    )


@pytest.mark.threads
@given(case=cases(), k=st.integers(1, 9), budget=st.sampled_from([3, 1000]))
def test_no_user_depends_on_the_others_or_on_threads(case, k, budget):
    arguments, named = begun(case)
    torch.set_num_threads(2)
    together = transformer_best_first(*arguments, **named, k=k, width=45, budget=budget)
    torch.set_num_threads(1)
    for user in range(len(case.lengths)):
        alone = transformer_best_first(
            *arguments, **named, k=k, width=45, budget=budget, first_user=user, last_user=user + 1
        )
        for ours, others in zip(alone, together, strict=True):
            assert torch.equal(ours[0], others[user])


def test_what_is_cut_off_is_said():
    case = plain_case()
    case.embedding = torch.zeros(60, 12)
    arguments, named = begun(case)
    arguments = (arguments[0], torch.zeros(2, 12), *arguments[2:])
    found = transformer_best_first(*arguments, **named, k=1, width=1)
    every = transformer_best_first(*arguments, **named, k=1, width=3)
    assert found.cut.tolist() == [bool((every.rows[user] >= 0).sum() > 1) for user in range(2)]
    assert every.cut.tolist() == [False, False]


def test_what_does_not_fit_is_named():
    arguments, named = begun(plain_case())

    def call(**changes):
        return transformer_best_first(*arguments, **{**named, "k": 2, "width": 2, **changes})

    assert call().rows.shape == (2, 2)
    assert call(first_user=1).rows.shape == (1, 2)
    assert call(first_user=2).rows.shape == (0, 2)
    with pytest.raises(InvalidValueError, match="k must be at least 1, got 0"):
        call(k=0)
    with pytest.raises(InvalidValueError, match="width must be at least 2, got 1"):
        call(width=1)
    with pytest.raises(InvalidValueError, match="share must be at least 1, got 0"):
        call(share=0)
    with pytest.raises(InvalidValueError, match="first_user and last_user must be a range of 2 users, got 1 to 3"):
        call(first_user=1, last_user=3)
    with pytest.raises(InvalidValueError, match="normalize must be"):
        call(normalize="some")
    with pytest.raises(InvalidValueError, match="positions must have a row for every place, got 3 for place 3"):
        call(positions=torch.zeros(3, 12))
    with pytest.raises(InvalidTypeError, match="keep must be a TrieFilter"):
        call(keep=torch.ones(3, dtype=torch.bool))
    with pytest.raises(InvalidValueError, match="keep must be for 2 users, got one for 1"):
        call(keep=trie_filter(arguments[5], exclude=Jagged.from_rows([[0]])))


def test_an_altered_trie_is_named():
    case = plain_case()
    codes = torch.stack([torch.arange(20), torch.zeros(20, dtype=torch.int64)], 1)
    case.trie = build_trie(codes, codebook_sizes=(24, 4))
    case.code_tokens = [torch.arange(24), torch.arange(24, 28)]
    arguments, named = begun(case)
    case.trie.tokens[0][5] = 255
    with pytest.raises(
        InvalidValueError, match=r"trie must have codes in \[0, 24\) on level 0, got 15 below prefix 10"
    ):
        transformer_best_first(*arguments, **named, k=20, width=20)


def test_it_is_registered_whole():
    arguments, named = begun(plain_case(known=True))
    stack, hidden, scores, offsets, cache, trie, code_tokens, embedding = arguments
    torch.library.opcheck(
        torch.ops.genrec_fast.transformer_best_first.default,
        (
            *(stack.weights, hidden, scores, offsets, cache, None, named["distance"], None, None),
            *(named["first_table"], code_tokens, embedding, None, list(trie.tokens), list(trie.child_bases)),
            *(list(trie.child_deltas), *[None] * 4, 1.0, 0, None, None, 2, 2, 0, 2, 99, 8, 2, False, False),
        ),
        test_utils=("test_schema", "test_faketensor"),
    )
