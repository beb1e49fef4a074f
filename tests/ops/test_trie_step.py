"""trie_step against its twin (equal bits), against torch.log_softmax, and against brute force over the catalog."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.trie import Trie, build_trie
from genrec_fast.ops.reference import trie_step as reference
from genrec_fast.ops.trie_filter import TrieFilter, trie_filter
from genrec_fast.ops.trie_step import TrieStep, trie_step
from shared.cards import every_place
from shared.trie_steps import assert_equal, step_on


def catalog(seed: int, items: int, sizes: tuple[int, ...]) -> Trie:
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, size, items) for size in sizes], 1)
    return build_trie(torch.from_numpy(codes), codebook_sizes=sizes)


def twin(
    trie: Trie,
    level: int,
    logits: Tensor,
    nodes: Tensor,
    scores: Tensor,
    *,
    num_beams: int,
    normalize: str = "all",
    log_sums: Tensor | None = None,
    allowed: TrieFilter | None = None,
) -> TrieStep:
    f = allowed
    masks = (None, None, None, None) if f is None else (f.bits, f.ranks, f.excluded, f.excluded_offsets)
    valid = normalize == "valid"
    return TrieStep(*reference.trie_step(trie, level, logits, nodes, scores, num_beams, valid, *masks, log_sums))


def random_state(trie: Trie, level: int, users: int, beams: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Nodes with repeats and dead slots, scores with ties."""
    nodes = torch.randint(0, trie.num_nodes(level), (users, beams), generator=generator, dtype=torch.int32)
    dead = torch.rand(users, beams, generator=generator) < 0.2
    nodes[dead] = -1
    scores = -torch.randint(0, 6, (users, beams), generator=generator).float() / 4
    scores[dead] = -torch.inf
    return nodes, scores


@settings(max_examples=60)
@given(data=st.data())
def test_equals_its_twin_on_every_instruction_set_and_card(data):
    levels = data.draw(st.integers(1, 4), "L")
    sizes = tuple(data.draw(st.sampled_from([1, 2, 7, 16, 31, 64, 255, 256, 257, 600]), "K") for _ in range(levels))
    seed = data.draw(st.integers(0, 2**30), "seed")
    trie = catalog(seed, data.draw(st.sampled_from([1, 2, 30, 400, 3000]), "N"), sizes)
    generator = torch.Generator().manual_seed(seed)
    level = data.draw(st.integers(0, levels - 1), "level")
    users, beams = data.draw(st.integers(0, 3), "B"), data.draw(st.sampled_from([1, 2, 3, 20, 70]), "W")
    num_beams = data.draw(st.sampled_from([1, 2, 10, 50, 300]), "num_beams")
    nodes, scores = random_state(trie, level, users, beams, generator)
    logits = torch.randn(users, beams, sizes[level], generator=generator) * 4
    if data.draw(st.booleans(), "ties"):
        logits = logits.round()
    logits[
        torch.rand(logits.shape, generator=generator) < data.draw(st.sampled_from([0.0, 0.3, 1.0]), "-inf")
    ] = -torch.inf
    logits[nodes < 0] = torch.nan  # never looked at
    logits = logits.to(data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), "dtype"))
    keep = data.draw(st.sampled_from(["no filter", "one", "per user", "exclude", "both"]), "filter")
    flt = None
    if keep != "no filter":
        rows = 1 if keep == "one" else max(users, 1)
        allowed = torch.rand(rows, trie.num_items, generator=generator) < 0.4
        exclude = Jagged.from_rows([torch.randint(0, trie.num_items, (13,), generator=generator) for _ in range(users)])
        flt = trie_filter(
            trie,
            allowed=None if keep == "exclude" or users == 0 else allowed,
            exclude=exclude if keep in ("exclude", "both") else None,
        )
    options = {
        "num_beams": num_beams,
        "normalize": data.draw(st.sampled_from(["all", "valid"]), "normalize"),
        "allowed": flt,
    }
    if options["normalize"] == "all" and data.draw(st.booleans(), "log_sums"):
        sums = logits.float().nan_to_num(0.0).logsumexp(2) + torch.randn(users, beams, generator=generator)
        sums[torch.rand(users, beams, generator=generator) < 0.1] = -torch.inf
        options["log_sums"] = sums
    expected = twin(trie, level, logits, nodes, scores, **options)
    for place in every_place():
        assert_equal(step_on(place, trie, level, logits, nodes, scores, **options), expected)


@pytest.mark.parametrize(
    ("items", "size", "fan_in"), [(70_000, 70_000 // 2, 1), (60_000, 65_535, 1), (5_000, 8_192, 3)]
)
def test_wide_nodes_equal_the_twin(place, items, size, fan_in):
    """Full, wide and narrow nodes, floors that rise while a row is scanned."""
    generator = torch.Generator().manual_seed(items)
    first = torch.randint(0, fan_in, (items,), generator=generator)
    trie = build_trie(
        torch.stack([first, torch.randint(0, size, (items,), generator=generator)], 1), codebook_sizes=(fan_in, size)
    )
    nodes = torch.randint(0, fan_in, (1, 12), generator=generator, dtype=torch.int32)
    scores = -torch.rand(1, 12, generator=generator)
    for logits in (torch.randn(1, 12, size, generator=generator), torch.zeros(1, 12, size)):
        for num_beams in (3, 500):
            expected = twin(trie, 1, logits, nodes, scores, num_beams=num_beams)
            assert_equal(step_on(place, trie, 1, logits, nodes, scores, num_beams=num_beams), expected)


def test_full_nodes_equal_the_twin(place):
    codes = torch.cartesian_prod(torch.arange(3), torch.arange(100))
    trie = build_trie(codes, codebook_sizes=(3, 100))
    logits = torch.randn(2, 5, 100, generator=torch.Generator().manual_seed(0))
    nodes = torch.tensor([[0, 1, 2, 0, -1], [2, 2, 2, 1, 0]], dtype=torch.int32)
    scores = torch.tensor([[0.0, -1, -2, -0.5, -torch.inf], [-1, -1, -1, -1, -1]])
    for num_beams in (1, 7, 600):
        expected = twin(trie, 1, logits, nodes, scores, num_beams=num_beams)
        assert_equal(step_on(place, trie, 1, logits, nodes, scores, num_beams=num_beams), expected)


def rounded_once(a: Tensor, b: Tensor | float, c: Tensor | float) -> Tensor:
    """float32 ``a * b + c`` as a fused instruction gives it: an inexact sum in float64 is rounded to odd."""
    product = a.double() * b
    c = torch.as_tensor(c).double()
    total = product + c
    rest = total - product
    lost = (product - (total - rest)) + (c - rest)
    towards = torch.nextafter(total, torch.where(lost > 0, torch.inf, -torch.inf).double())
    return torch.where((lost != 0) & (total.view(torch.int64) % 2 == 0), towards, total).float()


def test_two_roundings_differ_from_one_where_float64_loses_what_is_no_tie():
    a, b, c = torch.tensor([1 + 2.0**-11]) * 2.0**36, torch.tensor([1 - 2.0**-11 + 2.0**-22]), 2.0**60
    assert a.double().item() * b.double().item() == 2.0**36 + 8  # half of the last bit of c, and a little
    assert rounded_once(a, b, c).item() == 2.0**60 + 2.0**37
    assert reference.fused(a, b, c).item() == 2.0**60


def exponentials_are_fused(x: Tensor) -> bool:
    n = rounded_once(x, reference.LOG2_E, reference.ROUND) - reference.ROUND
    r = rounded_once(n, -reference.LN2_SINGLE, x)
    step = (n * 32).int()
    power = torch.exp2((step % 32).double() / 32).float() * torch.exp2((step // 32).double()).float()
    return torch.equal(reference.exp(x), rounded_once(power, r * (r * 0.5 + reference.SLOPE), power))


@pytest.mark.parametrize("stride", [4099, pytest.param(101, marks=pytest.mark.slow)], ids=["one in 4099", "one in 101"])
def test_float64_gives_the_exponential_of_fused_instructions(stride):
    for sign, end in ((0, 88.0), (-(2**31), 86.0)):
        last = int(torch.tensor(end).view(torch.int32))
        for first in range(0, last + 1, stride << 15):
            bits = torch.arange(first, min(first + (stride << 15), last + 1), stride, dtype=torch.int64)
            assert exponentials_are_fused((bits + sign).to(torch.int32).view(torch.float32))


HARD = st.one_of(
    st.floats(-110, 110, width=32),
    st.floats(-(2.0**-10), 2.0**-10, width=32),
    st.integers(-3968, 3232).map(lambda n: (n + 0.5) * 0.6931471805599453 / 32),  # between two steps of the table
    st.integers(-124, 100).map(lambda n: n * 0.6931471805599453),
    st.sampled_from([-math.inf, -3.4e38, -1e9, -86.0, -40.0, -1e-45, 0.0, -0.0, 1e-45, 70.0, 1e4, 1e9, 3.4e38]),
)


@settings(max_examples=200)
@given(data=st.data())
def test_log_sums_of_hard_logits_equal_the_twin_on_every_instruction_set_and_card(data):
    size = data.draw(st.sampled_from([1, 2, 15, 16, 17, 40]), "K")
    rows = torch.tensor(data.draw(st.lists(st.lists(HARD, min_size=size, max_size=size), min_size=1, max_size=4)))
    wider = data.draw(st.integers(-2, 2), "ulps")
    rows = torch.where(rows.isfinite(), (rows.view(torch.int32) + wider).view(torch.float32), rows)
    rows = torch.where(rows.isfinite() | (rows == -torch.inf), rows, 0.0)
    trie = build_trie(torch.arange(size).unsqueeze(1), codebook_sizes=(size,))
    start = torch.zeros(len(rows), 1, dtype=torch.int32), torch.zeros(len(rows), 1)
    expected = twin(trie, 0, rows.unsqueeze(1), *start, num_beams=size)
    for place in every_place():
        assert_equal(step_on(place, trie, 0, rows.unsqueeze(1), *start, num_beams=size), expected)
    assert bool((expected.scores <= 0).all())
    assert bool((rows > -torch.inf).any()) is bool((expected.nodes >= 0).any())


@pytest.mark.parametrize("type_", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1, 16, 40])
@pytest.mark.parametrize("others", [0.0, -torch.inf, -1e4, 60.0, 1e4])
def test_a_nan_or_infinite_logit_is_refused_whatever_stands_beside_it(isa, type_, size, others):
    trie = build_trie(torch.arange(size).unsqueeze(1), codebook_sizes=(size,))
    start = torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, 1)
    nan = torch.tensor([0x7F800001, 0x7FC00000, -1], dtype=torch.int32).view(torch.float32).tolist()
    for wrong in (*nan, torch.inf):
        for place in {0, size // 2, size - 1}:
            logits = torch.full((1, 1, size), others)
            logits[0, 0, place] = wrong
            for normalize in ("all", "valid"):
                with pytest.raises(InvalidValueError, match="logits must not be NaN or"):
                    trie_step(trie, 0, logits.to(type_), *start, num_beams=2, normalize=normalize)


def test_a_row_of_one_code_keeps_its_score(place):
    trie = build_trie(torch.arange(3).unsqueeze(1), codebook_sizes=(3,))
    logits = torch.full((500, 1, 3), -torch.inf)
    logits[:, 0, 1] = torch.linspace(-100, 100, 500)
    start = torch.zeros(500, 1, dtype=torch.int32), torch.zeros(500, 1)
    assert bool((step_on(place, trie, 0, logits, *start, num_beams=1).scores == 0).all())


def test_log_sum_exp_is_torchs_within_float_error():
    generator = torch.Generator().manual_seed(1)
    for scale in (0.01, 1.0, 20.0):
        for size in (1, 2, 15, 16, 17, 2048, 70_000):
            x = torch.randn(4, size, generator=generator) * scale
            ours, exact = reference.log_sum_exp(x), torch.logsumexp(x.double(), -1)
            assert torch.allclose(ours.double(), exact, rtol=2e-7, atol=2e-6)
            assert bool((ours >= x.amax(-1)).all())  # what the certificate of a search rests on


def test_exp_is_exps():
    for low, high, error in ((-0.1, 0.1, 2e-7), (-20.0, 20.0, 2.5e-7), (-86.0, 88.0, 5e-7)):
        x = torch.linspace(low, high, 1_000_001)
        exact = x.double().exp()
        assert float(((reference.exp(x).double() - exact) / exact).abs().max()) < error
    assert reference.exp(torch.tensor([0.0, -0.0])).tolist() == [1, 1]
    least = reference.exp(torch.tensor([-86.0]))
    assert torch.equal(reference.exp(torch.tensor([-86.1, -1000.0, -torch.inf])), least.expand(3))


def test_log_is_maths():
    x = torch.cat([torch.tensor([1.0, 2.0, 65536.0]), 1 + torch.rand(1000) * 1000]).double()
    assert torch.allclose(reference.log(x), x.log(), rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("size", [1, 15, 16, 33, 2048])
def test_scores_are_those_of_log_softmax(place, size):
    generator = torch.Generator().manual_seed(size)
    trie = build_trie(torch.arange(size).unsqueeze(1), codebook_sizes=(size,))
    logits = torch.randn(3, 1, size, generator=generator) * 5
    start = torch.zeros(3, 1, dtype=torch.int32), torch.zeros(3, 1)
    step = step_on(place, trie, 0, logits, *start, num_beams=size)
    expected = torch.log_softmax(logits[:, 0].double(), -1).sort(descending=True).values
    assert torch.allclose(step.scores.double(), expected, rtol=0, atol=1e-5)
    assert bool((step.bound == -torch.inf).all())


def test_ties_go_to_the_lower_beam_then_the_lower_code(place):
    trie = build_trie(torch.tensor([[3], [1], [0]]), codebook_sizes=(5,))
    step = step_on(
        place,
        trie,
        0,
        torch.zeros(1, 2, 5),
        torch.zeros(1, 2, dtype=torch.int32),
        torch.tensor([[-1.0, -1.0]]),
        num_beams=4,
    )
    assert step.parents.tolist() == [[0, 0, 0, 1]]
    assert step.codes.tolist() == [[0, 1, 3, 0]]
    assert step.nodes.tolist() == [[0, 1, 2, 0]]
    assert step.bound.item() == step.scores[0, 0].item()


def test_slots_behind_the_last_candidate_are_empty_and_skipped_when_passed_in_again(place):
    trie = build_trie(torch.tensor([[0, 1], [2, 0]]), codebook_sizes=(3, 2))
    start = torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, 1)
    one = step_on(place, trie, 0, torch.zeros(1, 1, 3), *start, num_beams=4)
    assert one.nodes.tolist() == [[0, 1, -1, -1]]
    assert one.scores[0, 2:].tolist() == [-torch.inf] * 2
    assert one.codes.tolist() == [[0, 2, 0, 0]]
    assert one.parents.tolist() == [[0, 0, 0, 0]]
    logits = torch.full((1, 4, 2), torch.nan)
    logits[:, :2] = 0
    two = step_on(place, trie, 1, logits, one.nodes, one.scores, num_beams=4)
    assert two.nodes.tolist() == [[0, 1, -1, -1]]
    assert two.codes.tolist() == [[1, 0, 0, 0]]


def test_masked_rows_and_codes_give_no_candidates(place):
    trie = build_trie(torch.tensor([[0], [1], [2]]), codebook_sizes=(3,))
    logits = torch.tensor([[[-torch.inf] * 3, [-torch.inf, 1.0, -torch.inf]]])
    nodes, scores = torch.zeros(1, 2, dtype=torch.int32), torch.zeros(1, 2)
    for normalize in ("all", "valid"):
        step = step_on(place, trie, 0, logits, nodes, scores, num_beams=3, normalize=normalize)
        assert step.nodes.tolist() == [[1, -1, -1]]
        assert step.scores[0, 0] == 0
        assert step.parents.tolist() == [[1, 0, 0]]
        assert step.bound.item() == -torch.inf


def test_reads_slices_of_a_larger_head_in_place(place):
    generator = torch.Generator().manual_seed(3)
    trie = catalog(3, 500, (40, 40))
    nodes, scores = random_state(trie, 1, 3, 8, generator)
    head = torch.randn(8, 5, 100, generator=generator).half()
    for logits in (
        head.transpose(0, 1)[1:4, :, 33:73],
        head.float()[:, :3, 7:47].transpose(0, 1),
        head.float()[:3, :, 60:].transpose(1, 2)[:, :, :1].expand(3, 40, 8).transpose(1, 2),  # last stride is not 1
    ):
        expected = step_on(place, trie, 1, logits.contiguous(), nodes, scores, num_beams=9)
        assert_equal(step_on(place, trie, 1, logits, nodes, scores, num_beams=9), expected)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_every_16_bit_number_is_converted_exactly(isa, half):
    every = torch.arange(65_536, dtype=torch.int32).to(torch.int16).view(half)
    values = every[every.isfinite()].float()
    size = values.numel()
    trie = build_trie(torch.arange(size).unsqueeze(1), codebook_sizes=(size,))
    start = torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, 1)
    ours = trie_step(trie, 0, values.to(half).view(1, 1, size), *start, num_beams=size)
    assert_equal(ours, trie_step(trie, 0, values.view(1, 1, size), *start, num_beams=size))


@pytest.mark.threads
@pytest.mark.parametrize("users", [1, 3, 9])
def test_threads_do_not_change_the_result(isa, threads, users):
    generator = torch.Generator().manual_seed(users)
    trie = catalog(users, 20_000, (512, 512))
    nodes, scores = random_state(trie, 1, users, 900, generator)
    logits = torch.randn(users, 900, 512, generator=generator).round()  # above the size where threads start
    results = []
    for count in (1, 2, 4):
        threads(count)
        results.append(trie_step(trie, 1, logits, nodes, scores, num_beams=100))
    assert_equal(results[1], results[0])
    assert_equal(results[2], results[0])


def brute_force(
    items: Tensor, logits: list[dict[tuple[int, ...], Tensor]], keep: Tensor
) -> list[tuple[float, tuple[int, ...]]]:
    """All semantic IDs of the kept items with their scores, best first."""
    found = {}
    for row in {tuple(r) for r in items[keep].tolist()}:
        score = 0.0
        for level, code in enumerate(row):
            score += float(torch.log_softmax(logits[level][row[:level]].double(), -1)[code])
        found[row] = score
    return sorted(((s, r) for r, s in found.items()), reverse=True)


@pytest.mark.parametrize("sizes", [(4,), (5, 4, 6), (2, 2, 2, 2, 2, 2, 2, 2)])
@pytest.mark.parametrize("shape", ["random", "one item", "shared prefix"])
def test_a_search_as_wide_as_the_catalog_finds_exactly_what_brute_force_finds(place, sizes, shape):
    generator = torch.Generator().manual_seed(len(sizes))
    count = 1 if shape == "one item" else 60
    items = torch.stack([torch.randint(0, s, (count,), generator=generator) for s in sizes], 1)
    if shape == "shared prefix":
        items[:, :-1] = 1
    trie = build_trie(items, codebook_sizes=sizes)
    keep = torch.rand(2, count, generator=generator) < 0.5
    for flt in (None, trie_filter(trie, allowed=keep)):
        logits = [
            {p: torch.randn(s, generator=generator) for p in itertools.product(*map(range, sizes[:level]))}
            for level, s in enumerate(sizes)
        ]
        width = 150  # wider than the catalog
        nodes, scores = torch.zeros(2, 1, dtype=torch.int32), torch.zeros(2, 1)
        prefixes = [[()], [()]]
        for level in range(len(sizes)):
            given_logits = torch.stack([torch.stack([logits[level][p] for p in user]) for user in prefixes])
            step = step_on(place, trie, level, given_logits, nodes, scores, num_beams=width, allowed=flt)
            prefixes = [
                [(*user[p], c) if n >= 0 else (0,) * (level + 1) for p, c, n in zip(ps, cs, ns, strict=True)]
                for user, ps, cs, ns in zip(
                    prefixes, step.parents.tolist(), step.codes.tolist(), step.nodes.tolist(), strict=True
                )
            ]
            nodes, scores = step.nodes, step.scores
        for user in range(2):
            kept = torch.ones(count, dtype=torch.bool) if flt is None else keep[user]
            expected = brute_force(items, logits, kept)
            alive = nodes[user] >= 0
            assert int(alive.sum()) == len(expected)
            assert [p for p, a in zip(prefixes[user], alive.tolist(), strict=True) if a] == [r for _, r in expected]
            assert np.allclose(scores[user][alive], [s for s, _ in expected], atol=1e-5)
            rows = nodes[user][alive]
            assert (
                trie.lookup(torch.tensor([r for _, r in expected], dtype=torch.int64).reshape(-1, len(sizes))).tolist()
                == rows.tolist()
            )


def test_bound_is_the_best_that_was_not_kept(place):
    generator = torch.Generator().manual_seed(11)
    trie = catalog(11, 300, (30, 30))
    nodes, scores = random_state(trie, 1, 2, 15, generator)
    logits = torch.randn(2, 15, 30, generator=generator)
    everything = step_on(place, trie, 1, logits, nodes, scores, num_beams=450)
    for width in (1, 5, 40):
        step = step_on(place, trie, 1, logits, nodes, scores, num_beams=width)
        assert torch.equal(step.scores, everything.scores[:, :width])
        assert torch.equal(step.bound, everything.scores[:, width])


def test_valid_scores_sum_to_one_over_the_children_that_pass(place):
    generator = torch.Generator().manual_seed(12)
    trie = catalog(12, 300, (30, 30))
    logits = torch.randn(1, 1, 30, generator=generator)
    start = torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, 1)
    allowed = torch.rand(300, generator=generator) < 0.05
    step = step_on(place, trie, 0, logits, *start, num_beams=30, normalize="valid", allowed=allowed)
    assert abs(step.scores.double().exp().sum().item() - 1) < 1e-5
    assert int((step.nodes >= 0).sum()) < 30


def test_log_sums_of_a_larger_vocabulary():
    """A level's slice with the vocabulary's sum scores as the whole vocabulary under a mask."""
    trie = catalog(3, 200, (20, 30))
    whole = torch.randn(2, 4, 90, generator=torch.Generator().manual_seed(0))
    nodes = torch.tensor([[0, 1, 2, -1], [3, 4, 5, 6]], dtype=torch.int32)
    scores = torch.zeros(2, 4)
    sums = whole.logsumexp(2)
    found = trie_step(trie, 1, whole[:, :, 40:70], nodes, scores, num_beams=500, log_sums=sums)
    gathered = whole.gather(1, found.parents.long().unsqueeze(2).expand(-1, -1, 90)).gather(
        2, 40 + found.codes.long().unsqueeze(2)
    )
    expected = gathered.squeeze(2) - sums.gather(1, found.parents.long())
    alive = found.nodes >= 0
    torch.testing.assert_close(found.scores[alive], expected[alive])
    start = torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, 1)
    low = trie_step(trie, 0, torch.zeros(1, 1, 20), *start, num_beams=1, log_sums=torch.tensor([[-5.0]]))
    assert low.scores.tolist() == [[0.0]]  # no score above its beam's
    with pytest.raises(InvalidValueError, match="log_sums must not be NaN or"):
        trie_step(trie, 0, torch.zeros(1, 1, 20), *start, num_beams=1, log_sums=torch.tensor([[torch.nan]]))
    with pytest.raises(InvalidValueError, match=r"log_sums must be float32 \[1, 1\]"):
        trie_step(trie, 0, torch.zeros(1, 1, 20), *start, num_beams=1, log_sums=torch.zeros(1, 2))
    with pytest.raises(InvalidValueError, match="log_sums must be None with normalize='valid'"):
        trie_step(trie, 0, torch.zeros(1, 1, 20), *start, num_beams=1, normalize="valid", log_sums=torch.zeros(1, 1))
