"""A whole decode in one call: against its twin, and against the ops it stands for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformer_stacks import offsets_of, random_weights

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.trie import build_trie
from genrec_fast.ops import trie_filter
from genrec_fast.ops.transformer import transformer_cross, transformer_first, transformer_prefill
from genrec_fast.ops.transformer_head import transformer_head
from genrec_fast.ops.transformer_pack import pack_stacks, unpack_stacks
from genrec_fast.ops.transformer_search import transformer_search
from genrec_fast.ops.transformer_spec import TransformerSpec
from genrec_fast.ops.transformer_step import transformer_step
from genrec_fast.ops.trie_step import trie_step
from shared.isas import every_isa

VOCABULARY = 60


@st.composite
def cases(draw):
    seed = draw(st.integers(0, 999), "seed")
    generator = torch.Generator().manual_seed(seed)
    heads = draw(st.sampled_from([(2, 1), (2, 2), (1, 1)]), "heads")
    rotary = draw(st.sampled_from([0, 4]), "rotary")
    cross = draw(st.sampled_from([0, 14]), "cross")
    spec = TransformerSpec(
        **{"width": draw(st.sampled_from([12, 20]), "width"), "num_layers": draw(st.integers(1, 2), "layers")},
        **{"num_heads": heads[0], "num_kv_heads": heads[1], "head_width": 6, "ff_width": 22, "score_scale": 0.4},
        **{"head_size": VOCABULARY, "rotary_width": rotary, "cross_width": cross},
    )
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4), "codebooks")
    items = draw(st.integers(1, 40), "items")
    codes = torch.stack([torch.randint(0, size, (items,), generator=generator) for size in sizes], 1)
    tokens = torch.randperm(VOCABULARY, generator=generator)
    if draw(st.booleans(), "tokens in order"):
        tokens = tokens.sort().values
    offsets = [0, *torch.tensor(sizes).cumsum(0).tolist()]
    lengths = draw(st.lists(st.integers(1, 20), min_size=1, max_size=3), "lengths")
    return SimpleNamespace(
        spec=spec,
        weights=random_weights(spec, generator, True),
        trie=build_trie(codes, codebook_sizes=tuple(sizes)),
        code_tokens=[tokens[a:b] for a, b in zip(offsets, offsets[1:], strict=False)],
        embedding=torch.randn(VOCABULARY, spec.width, generator=generator),
        lengths=lengths,
        num_beams=draw(st.sampled_from([1, 3, 8, 50]), "beams"),
        normalize=draw(st.sampled_from(["all", "codes", "valid"]), "normalize"),
        allowed=torch.rand(items, generator=generator) < 0.7 if draw(st.booleans(), "filter") else None,
        end_token=draw(st.sampled_from([None, 59]), "end"),
        prior=draw(st.integers(0, 2), "steps before"),
        scale=draw(st.sampled_from([1.0, 2.5]), "scale"),
        known=draw(st.booleans(), "first layer known"),
        dead=draw(st.booleans(), "a user without a beam"),
        placed=draw(st.booleans(), "positions are added"),
        generator=generator,
    )


def prepared(case, weights):
    """Prompts that were read, and some forced tokens behind them: what a search starts with."""
    (stack,), _, _ = unpack_stacks(weights)
    generator, spec = torch.Generator().manual_seed(1), case.spec
    users, reach = len(case.lengths), max(case.lengths) + 8
    tables = {}
    if spec.rotary_width:
        angles = torch.randn(reach, spec.rotary_width // 2, generator=generator)
        tables["rotary"] = torch.cat([angles.cos(), angles.sin()], 1)
    else:
        tables["distance"] = torch.randn(spec.num_heads, 2 * reach - 1, generator=generator)
    if spec.cross_width:
        encoded = torch.randn(sum(case.lengths), spec.cross_width, generator=generator)
        tables["cross_offsets"] = offsets_of(case.lengths)
        tables["cross"] = transformer_cross(stack, encoded, tables["cross_offsets"])
    offsets = offsets_of(case.lengths)
    hidden, cache = transformer_prefill(stack, torch.randn(sum(case.lengths), spec.width), offsets, **tables)
    chain, ancestors = [], torch.empty(0, users, dtype=torch.int32)
    for _ in range(case.prior):
        rows = torch.randn(users, spec.width, generator=generator)
        hidden, kept = transformer_step(stack, rows, offsets, cache, chain, ancestors, **tables)
        chain.append(kept)
        ancestors = torch.arange(users, dtype=torch.int32).expand(len(chain), -1).contiguous()
    scores = -torch.rand(users, generator=generator)
    if case.dead:
        scores[0] = -torch.inf
    keep = None if case.allowed is None else trie_filter(case.trie, allowed=case.allowed)
    named = {"num_beams": case.num_beams, "normalize": case.normalize, "keep": keep, "chain": chain}
    named |= {"end_token": case.end_token, "embedding_scale": case.scale, "ancestors": ancestors, **tables}
    if case.placed:
        named["positions"] = torch.randn(reach, spec.width, generator=generator)
    elif case.known:
        named["first_table"] = transformer_first(stack, case.embedding * case.scale)
    return (stack, hidden, scores, offsets, cache, case.trie, case.code_tokens, case.embedding), named


def by_parts(given, named):
    """The same search by the public ops, beams as rows."""
    stack, hidden, scores, offsets, cache, trie, code_tokens, embedding = given
    users, all_tokens = len(scores), named["normalize"] == "all"
    tables = {name: named.get(name) for name in ("rotary", "distance", "cross", "cross_offsets")}
    chain, ancestors, stepped = list(named["chain"]), named["ancestors"], 1
    scores, bound = scores[:, None], torch.full((users,), -torch.inf)
    nodes = torch.where(scores > -torch.inf, 0, -1).int()
    written = torch.empty(users, 1, 0, dtype=torch.int64)
    for level, tokens in enumerate(code_tokens):
        logits, sums = transformer_head(stack, hidden, 0, stack.spec.head_size)
        shape = nodes.shape
        step = trie_step(
            *(trie, level, logits[:, tokens].view(*shape, -1).contiguous(), nodes, scores),
            num_beams=min(named["num_beams"], shape[1] * trie.tokens[level].numel()),
            normalize="valid" if named["normalize"] == "valid" else "all",
            log_sums=sums.view(shape) if all_tokens else None,
            allowed=named["keep"],
        )
        scores, nodes, parents, bound = step.scores, step.nodes, step.parents.long(), torch.maximum(bound, step.bound)
        past = written.gather(1, parents[..., None].expand(-1, -1, level))
        written = torch.cat([past, tokens[step.codes.long()][..., None]], 2)
        ends = named["end_token"] is not None and all_tokens
        if level + 1 == len(code_tokens) and not ends:
            break
        ancestors = ancestors[:, (parents + torch.arange(users)[:, None] * stepped).flatten()].contiguous()
        rows = embedding[written[..., -1].flatten()] * named["embedding_scale"]
        if "positions" in named:
            places = offsets.diff() + len(chain)
            rows = rows + named["positions"][places.repeat_interleave(nodes.shape[1])]
        hidden, kept = transformer_step(stack, rows, offsets, cache, chain, ancestors, **tables)
        chain.append(kept)
        ancestors, stepped = torch.cat([ancestors, torch.arange(len(rows))[None].int()]), nodes.shape[1]
        if level + 1 == len(code_tokens):
            last, sums = transformer_head(stack, hidden, named["end_token"], named["end_token"] + 1)
            scores = torch.where(nodes >= 0, scores + (last[:, 0] - sums).view(nodes.shape), -torch.inf)
    return scores, nodes, written, bound


@settings(max_examples=80)
@given(case=cases(), precision=st.sampled_from(["float32", "bfloat16", "int8"]), threads=st.sampled_from([1, 2]))
def test_it_has_the_bits_of_its_parts(case, precision, threads):
    given, named = prepared(case, pack_stacks([(case.spec, case.weights)], precision))
    torch.set_num_threads(threads)
    found = transformer_search(*given, **named)
    torch.set_num_threads(1)
    scores, rows, tokens, bound = by_parts(given, named)
    assert torch.equal(found.scores, scores)
    assert torch.equal(found.rows, rows)
    assert torch.equal(found.tokens, tokens)
    assert torch.equal(found.bound, bound)
    ids = torch.stack([table[found.codes[..., level].long()] for level, table in enumerate(case.code_tokens)], -1)
    assert torch.equal(ids, tokens)


@settings(max_examples=40)
@given(case=cases())
def test_every_instruction_set_agrees_with_the_twin(case):
    for _ in every_isa():
        given, named = prepared(case, pack_stacks([(case.spec, case.weights)]))
        found = transformer_search(*given, **named)
        theirs = twin(given, named)
        for ours, other in ((found.scores, theirs[0]), (found.bound, theirs[4])):
            torch.testing.assert_close(ours, other, rtol=0, atol=2e-4)
        # Beams may change places where their scores agree to rounding.
        live = found.rows >= 0
        assert torch.equal(live, theirs[1] >= 0)
        clear = live & alone(theirs[0]) & (theirs[0] > theirs[4][:, None] + 1e-3)
        assert torch.equal(found.rows[clear], theirs[1][clear])
        assert torch.equal(found.codes[clear], theirs[2][clear])
        assert torch.equal(found.tokens[clear], theirs[3][clear])


def alone(scores):
    apart = (scores[:, :, None] - scores[:, None, :]).abs().nan_to_num(0) > 1e-3
    return apart.sum(2) == scores.shape[1] - 1


def twin(given, named):
    from genrec_fast.ops.reference.transformer_search import transformer_search as plain

    stack, hidden, scores, offsets, cache, trie, code_tokens, embedding = given
    keep = named["keep"]
    masks = (None,) * 4 if keep is None else (keep.bits, keep.ranks, keep.excluded, keep.excluded_offsets)
    tables = [named.get(name) for name in ("rotary", "distance", "cross", "cross_offsets", "first_table")]
    end = -1 if named["end_token"] is None else named["end_token"]
    return plain(
        *(stack.weights, hidden, scores, offsets, cache, named["chain"], named["ancestors"], *tables),
        *(code_tokens, embedding, named.get("positions")),
        *(list(trie.tokens), list(trie.child_bases), list(trie.child_deltas), *masks),
        *(named["embedding_scale"], stack.number, named["num_beams"]),
        *(named["normalize"] == "valid", named["normalize"] == "codes", end),
    )


def plain_case(**changes):
    spec = TransformerSpec(
        **{"width": 12, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "head_width": 6, "ff_width": 22},
        head_size=VOCABULARY,
    )
    generator = torch.Generator().manual_seed(0)
    fixed = {"num_beams": 4, "normalize": "all", "allowed": None, "end_token": None, "prior": 0, "scale": 1.0}
    fixed |= {"known": False, "dead": False, "placed": False, "lengths": [3, 5]}
    return SimpleNamespace(
        spec=spec,
        weights=random_weights(spec, generator, False),
        trie=build_trie(torch.tensor([[0, 1], [0, 2], [3, 1]]), codebook_sizes=(4, 4)),
        code_tokens=[torch.arange(4), torch.arange(4, 8)],
        embedding=torch.randn(VOCABULARY, 12, generator=generator),
        **{**fixed, **changes},
    )


def test_what_does_not_fit_is_named():
    case = plain_case()
    given, named = prepared(case, pack_stacks([(case.spec, case.weights)]))

    def call(place=None, value=None, **changes):
        arguments = list(given)
        if place is not None:
            arguments[place] = value
        return transformer_search(*arguments, **{**named, **changes})

    assert call().rows.shape == (2, 4)
    with pytest.raises(InvalidTypeError, match=r"hidden must be float32 \[2, 12\], got float32 \[2, 11\]"):
        call(1, given[1][:, 1:])
    with pytest.raises(InvalidTypeError, match=r"scores must be float32 \[2\], got float64 \[2\]"):
        call(2, given[2].double())
    with pytest.raises(InvalidTypeError, match=r"code_tokens\[1\] must be int64 \[4\], got int32 \[4\]"):
        call(6, [given[6][0], given[6][1].int()])
    with pytest.raises(InvalidValueError, match="code_tokens must have 2 levels like the trie, got 1"):
        call(6, given[6][:1])
    with pytest.raises(InvalidValueError, match=r"code_tokens must be in \[0, 60\), got 60 for code 2"):
        call(6, [given[6][0], torch.arange(58, 62)])
    with pytest.raises(InvalidValueError, match=r"tokens must be in \[0, 2\), got 3"):
        call(7, given[7][:2])
    with pytest.raises(InvalidValueError, match="num_beams must be at least 1, got 0"):
        call(num_beams=0)
    with pytest.raises(InvalidValueError, match="normalize must be"):
        call(normalize="some")
    with pytest.raises(InvalidValueError, match=r"end_token must be in \[0, 60\), got 60"):
        call(end_token=60)
    with pytest.raises(InvalidTypeError, match=r"ancestors must be int32 \[0, 2\], got int32 \[1, 2\]"):
        call(ancestors=torch.zeros(1, 2, dtype=torch.int32))
    with pytest.raises(InvalidTypeError, match=r"first_table must be float32 \[60, 36\]"):
        call(first_table=torch.zeros(60, 35))
    with pytest.raises(InvalidTypeError, match=r"positions must be float32 \[9, 12\], got float32 \[9, 11\]"):
        call(positions=torch.zeros(9, 11))
    with pytest.raises(InvalidValueError, match="positions must have a row for every place, got 5 for place 5"):
        call(positions=torch.zeros(5, 12))
    with pytest.raises(InvalidValueError, match="cross and cross_offsets must be given together"):
        call(cross_offsets=given[3])
    other = build_trie(torch.tensor([[0, 1], [0, 2]]), codebook_sizes=(4, 4))
    with pytest.raises(InvalidValueError):
        call(keep=trie_filter(other, exclude=Jagged.from_rows([torch.tensor([0]), torch.tensor([1])])))


def test_a_user_without_a_beam_finds_nothing():
    case = plain_case(dead=True)
    given, named = prepared(case, pack_stacks([(case.spec, case.weights)]))
    found = transformer_search(*given, **named)
    assert (found.rows[0] == -1).all()
    assert (found.scores[0] == -torch.inf).all()
    assert sorted(found.rows[1].tolist()) == [-1, 0, 1, 2]


def test_it_is_registered_whole():
    case = plain_case(known=True)
    given, named = prepared(case, pack_stacks([(case.spec, case.weights)]))
    stack, hidden, scores, offsets, cache, trie, code_tokens, embedding = given
    torch.library.opcheck(
        torch.ops.genrec_fast.transformer_search.default,
        (
            *(stack.weights, hidden, scores, offsets, cache, [], named["ancestors"], None, named["distance"]),
            *(None, None, named["first_table"], code_tokens, embedding, None, list(trie.tokens)),
            *(list(trie.child_bases), list(trie.child_deltas), None, None, None, None, 1.0, 0, 4, False, False, -1),
        ),
        test_utils=("test_schema", "test_faketensor"),
    )
