from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.ops import _cuda_code_sums, topk_code_sums
from genrec_fast.ops.reference.topk_code_sums import topk_code_sums as twin
from shared.cards import assert_no_race, every_place

KINDS = ["softmax", "normal", "integers", "equal", "masked", "huge"]


def scores_of(kind, users, sizes, generator):
    """[B, V], the levels side by side."""
    width = sum(sizes)
    normal = torch.randn(users, width, generator=generator)
    if kind == "softmax":  # what a trained network gives: few codes of a level matter
        parts = (normal * 8).split(list(sizes), 1)
        return torch.cat([part.log_softmax(1) for part in parts], 1)
    if kind == "integers":  # many ties
        return torch.randint(-2, 3, (users, width), generator=generator).float()
    if kind == "equal":  # nothing but ties
        return torch.ones(users, width)
    if kind == "masked":  # whole levels, too
        return normal.masked_fill(torch.rand(users, width, generator=generator) < 0.4, -torch.inf)
    if kind == "huge":  # sums leave float32
        return normal.sign() * 1e38 * torch.rand(users, width, generator=generator)
    return normal


def case(kind, users, items, sizes, seed, dtype=torch.uint8):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(size, (items,), generator=generator) for size in sizes], 1)
    return scores_of(kind, users, sizes, generator), codes.to(dtype), generator


def assert_equal(found, wanted):
    assert torch.equal(found[1].cpu(), wanted[1])
    assert torch.equal(found[0].cpu(), wanted[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("users", "items", "sizes", "k"),
    [
        (1, 1, (1,), 1),
        (1, 900, (256,) * 32, 10),
        (3, 700, (5, 7), 5),
        (4, 50, (3,) * 9, 60),
        (16, 3000, (256, 4) * 8, 20),
        (21, 1500, (8,) * 17, 3),
        (40, 333, (300, 2, 5), 9),
    ],
)
def test_equals_the_twin(place, kind, users, items, sizes, k):
    for dtype in (torch.uint8, torch.int32) if max(sizes) <= 256 else (torch.int32,):
        x, codes, _ = case(kind, users, items, sizes, items, dtype)
        found = topk_code_sums(x.to(place), codes.to(place), k, codebook_sizes=sizes)
        assert_equal(found, twin(x, codes, k, sizes))


@given(
    st.sampled_from(KINDS),
    st.integers(0, 36),
    st.integers(0, 300),
    st.lists(st.integers(1, 40), min_size=1, max_size=20),
    st.integers(1, 70),
    st.integers(0, 3),
    st.booleans(),
    st.integers(0, 2**31),
)
@settings(max_examples=60)
def test_filters(kind, users, items, sizes, k, filters, each, seed):
    x, codes, generator = case(kind, users, items, sizes, seed)
    allowed = exclude = None
    if filters & 1:
        allowed = torch.rand(users if each else 1, items, generator=generator) < 0.3
    if filters & 2 and items:
        exclude = Jagged.from_rows([torch.randint(items, (row % 5 * 3,), generator=generator) for row in range(users)])
    wanted = twin(x, codes, k, sizes, allowed, *((exclude.values, exclude.offsets) if exclude else ()))
    if allowed is not None and not each:
        allowed = allowed[0]
    for place in every_place():
        options = {"allowed": None if allowed is None else allowed.to(place), "exclude": None}
        if exclude:
            options["exclude"] = Jagged(exclude.values.to(place), exclude.offsets.to(place))
        assert_equal(topk_code_sums(x.to(place), codes.to(place), k, codebook_sizes=sizes, **options), wanted)


@pytest.mark.threads
@pytest.mark.parametrize(("users", "items"), [(1, 20000), (40, 3000), (200, 900)])
def test_threads_change_no_bit(threads, users, items):
    x, codes, _ = case("integers", users, items, (16,) * 12, 3)
    found = []
    for count in (1, 2, 4):
        threads(count)
        found.append(topk_code_sums(x, codes, 20, codebook_sizes=(16,) * 12))
    for other in found[1:]:
        assert_equal(other, found[0])
    assert_equal(found[0], twin(x, codes, 20, (16,) * 12))


def test_by_hand():
    """Two levels of two codes; items 0 and 3 have the same codes, and the lower id stands first."""
    codes = torch.tensor([[0, 1], [1, 0], [1, 1], [0, 1]], dtype=torch.uint8)
    scores, ids = topk_code_sums(torch.tensor([[-1.0, -2.0, -3.0, -0.5]]), codes, 3, codebook_sizes=(2, 2))
    assert (scores.tolist(), ids.tolist()) == ([[-1.5, -1.5, -2.5]], [[0, 3, 2]])


def test_strides_and_gradients(device):
    x, codes, _ = case("normal", 6, 100, (9,) * 4, 0)
    wanted = twin(x[:, ::2], codes[::2, ::2], 5, (9, 9))
    x, codes = x.to(device), codes.to(device)
    assert_equal(topk_code_sums(x[:, ::2].requires_grad_(), codes[::2, ::2], 5, codebook_sizes=(9, 9)), wanted)
    assert not topk_code_sums(x.requires_grad_(), codes, 5, codebook_sizes=(9,) * 4)[0].requires_grad


def test_torch_knows_it():
    x, codes, _ = case("normal", 3, 40, (8, 5), 0)
    exclude = Jagged.from_rows([[1], [], [2, 3]])
    op = torch.ops.genrec_fast.topk_code_sums.default
    torch.library.opcheck(op, (x, codes, 4, [8, 5], None, exclude.values, exclude.offsets))
    compiled = torch.compile(
        lambda a, b: topk_code_sums(a, b, 4, codebook_sizes=(8, 5)), fullgraph=True, backend="eager"
    )
    assert_equal(compiled(x, codes), twin(x, codes, 4, (8, 5)))


def test_nothing_to_find(device):
    codes, x = torch.zeros(5, 1, dtype=torch.uint8, device=device), torch.ones(2, 1, device=device)
    assert topk_code_sums(x[:0], codes, 2, codebook_sizes=(1,))[1].shape == (0, 2)
    scores, ids = topk_code_sums(x, codes[:0], 2, codebook_sizes=(1,))
    assert ids.tolist() == [[-1, -1]] * 2
    assert bool((scores == -torch.inf).all())
    _, ids = topk_code_sums(torch.full_like(x, -torch.inf), codes, 2, codebook_sizes=(1,))
    assert ids.tolist() == [[-1, -1]] * 2


# ---- kernels for cards


@pytest.mark.parametrize("kind", ["normal", "equal", "integers"])
@pytest.mark.parametrize(("users", "sizes", "staged"), [(5, (40,) * 3, 1000), (2, (16,) * 16, 2100), (1, (9, 9), 0)])
def test_parts_and_buffers_of_a_card(card, monkeypatch, kind, users, sizes, staged):
    """Several parts of the items, buffers that are cut, one to four users a block, and scores that no block holds."""
    monkeypatch.setattr(_cuda_code_sums, "_PART_ITEMS", 1200)
    monkeypatch.setattr(_cuda_code_sums, "_STAGED_BYTES", staged)
    x, codes, _ = case(kind, users, 5000, sizes, 1)
    for k in (3, 60):
        found = topk_code_sums(x.to(card), codes.to(card), k, codebook_sizes=sizes)
        assert_equal(found, twin(x, codes, k, sizes))


def test_more_results_on_a_card_than_a_block_sorts_in_shared_memory(card):
    x, codes, _ = case("integers", 2, 4500, (5, 7), 2)
    assert_equal(topk_code_sums(x.to(card), codes.to(card), 4400, codebook_sizes=(5, 7)), twin(x, codes, 4400, (5, 7)))


def test_more_levels_on_a_card_than_a_launch_names(card, monkeypatch):
    sizes = (2,) * 600
    x, codes, _ = case("normal", 1, 90, sizes, 3)
    assert_equal(topk_code_sums(x.to(card), codes.to(card), 7, codebook_sizes=sizes), twin(x, codes, 7, sizes))


@pytest.mark.parametrize("staged", [64 << 10, 0])
def test_a_card_marks_what_has_no_answer(card, monkeypatch, staged):
    monkeypatch.setattr(_cuda_code_sums, "_STAGED_BYTES", staged)
    x, codes, _ = case("normal", 3, 50, (6, 6), 4)
    scores, ids = twin(x, codes, 4, (6, 6))

    def found(wrong, *, logprobs=x, item_codes=codes, exclude=None):
        if exclude is not None:
            exclude = Jagged(exclude[0].to(card), exclude[1].to(card))
        out = topk_code_sums(logprobs.to(card), item_codes.to(card), 4, codebook_sizes=(6, 6), exclude=exclude)
        for user in range(3):
            if user in wrong:
                assert bool(out[0][user].isnan().all())
                assert out[1][user].tolist() == [-1] * 4
            elif exclude is None:
                assert torch.equal(out[0][user].cpu(), scores[user])
                assert torch.equal(out[1][user].cpu(), ids[user])

    found([])
    for value in (torch.nan, torch.inf):
        wrong = x.clone()
        wrong[1, 11] = value
        found([1], logprobs=wrong)
    outside = codes.clone()
    outside[49, 1] = 6
    found([0, 1, 2], item_codes=outside)
    found([0, 1, 2], item_codes=outside.int() - 7)
    for id_ in (50, -1, 1 << 40):
        found([1], exclude=(torch.tensor([3, id_]), torch.tensor([0, 0, 2, 2])))
    falling = Jagged(torch.tensor([3, 4], device=card), torch.tensor([0, 0, 2, 2], device=card))
    falling.offsets[1], falling.offsets[2] = 2, 1
    _, ids = topk_code_sums(x.to(card), codes.to(card), 4, codebook_sizes=(6, 6), exclude=falling)
    assert bool((ids == -1).all())


RACES = """
import functools, torch
from emulator.build import run
from emulator.test_emulator import THREADS
from genrec_fast.ops import _cuda, _cuda_code_sums, graph_step, topk_code_sums
_cuda.use_emulator(functools.partial(run, flags=THREADS))
torch.set_num_threads(1)
_cuda_code_sums._PART_ITEMS = 1200
codes, x = torch.randint(0, 4, (2500, 3), dtype=torch.uint8), torch.randn(2, 12)
topk_code_sums(x, codes, 20, codebook_sizes=(4, 4, 4))
near = torch.randint(-1, 40, (40, 9), dtype=torch.int32)
graph_step(x, codes[:40], near, torch.randint(-1, 40, (2, 6), dtype=torch.int32), 20, codebook_sizes=(4, 4, 4))
print("done")
"""


@pytest.mark.slow
def test_no_kernel_of_code_sums_misses_a_barrier():
    assert_no_race(RACES)


def test_messages_name_argument_rule_and_value():
    x, codes = torch.zeros(2, 5), torch.tensor([[0, 1], [1, 2]], dtype=torch.uint8)
    sizes = {"codebook_sizes": (2, 3)}
    for value in (torch.nan, torch.inf):
        wrong = x.clone()
        wrong[1, 4] = value
        with pytest.raises(InvalidValueError, match="logprobs must be finite or -inf, got NaN or infinity in row 1"):
            topk_code_sums(wrong, codes, 1, **sizes)
    for outside in (codes.clone().fill_(2), codes.int() - 1):
        with pytest.raises(InvalidValueError, match=r"item_codes of level 0 must be in \[0, 2\), got .* for item 0"):
            topk_code_sums(x, outside, 1, **sizes)
    with pytest.raises(InvalidTypeError, match=r"logprobs must be float32 \[B, V\], got torch.float64"):
        topk_code_sums(x.double(), codes, 1, **sizes)
    with pytest.raises(InvalidTypeError, match=r"item_codes must be uint8 or int32 \[N, L\], got torch.int64"):
        topk_code_sums(x, codes.long(), 1, **sizes)
    with pytest.raises(InvalidValueError, match="codebook_sizes must be 2 that add up to 5, got 2 that add up to 4"):
        topk_code_sums(x, codes, 1, codebook_sizes=(2, 2))
    with pytest.raises(InvalidValueError, match="codebook_sizes must be 2 that add up to 5, got 1 that add up to 5"):
        topk_code_sums(x, codes, 1, codebook_sizes=(5,))
    with pytest.raises(InvalidValueError, match="k must be at least 1, got 0"):
        topk_code_sums(x, codes, 0, **sizes)
    with pytest.raises(InvalidValueError, match=r"item_codes must be \[N, L\] with L at least 1, got \[2, 0\]"):
        topk_code_sums(x, codes[:, :0], 1, **sizes)
    with pytest.raises(InvalidValueError, match=r"allowed must be \[2\] or \[2, 2\], got \[3\]"):
        topk_code_sums(x, codes, 1, allowed=torch.ones(3, dtype=torch.bool), **sizes)
    with pytest.raises(InvalidValueError, match=r"exclude must hold item ids in \[0, 2\), got 5"):
        topk_code_sums(x, codes, 1, exclude=Jagged.from_rows([[1], [5]]), **sizes)
