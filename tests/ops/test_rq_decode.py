"""rq_decode against its twin (equal bits), prefixes, gradients, and codes that are not there."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genrec_fast.base import errors
from genrec_fast.ops import _cuda
from genrec_fast.ops._registry import twins
from genrec_fast.ops.reference.rq_decode import rq_decode as twin
from genrec_fast.ops.rq_decode import rq_decode
from shared.isas import every_isa

BOOKS = [torch.arange(6.0).view(3, 2), torch.tensor([[10.0, 20.0], [30.0, 40.0]])]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_equals_its_twin_on_every_instruction_set(device, data):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**30), "seed"))
    sizes = data.draw(st.lists(st.sampled_from([1, 2, 3, 100, 257]), min_size=1, max_size=10), "K")
    depth = data.draw(st.sampled_from([1, 2, 15, 16, 17, 63, 64, 65, 100, 768]), "D")
    rows = data.draw(st.sampled_from([0, 1, 2, 300]), "N")
    levels = data.draw(st.integers(1, len(sizes)), "levels")
    kinds = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
    books = [torch.randn(size, depth, generator=generator).to(data.draw(kinds)) for size in sizes]
    columns = [torch.randint(0, size, (rows,), generator=generator) for size in sizes]
    codes = torch.stack(columns, 1).to(data.draw(st.sampled_from([torch.int32, torch.int64]), "codes"))
    expected = twin(codes[:, :levels], books[:levels]).view(torch.int32)
    codes, books = codes.to(device), [book.to(device) for book in books]
    for _ in every_isa() if device == "cpu" and not _cuda.emulates() else range(1):
        found = rq_decode(codes, books, num_levels=levels)
        assert (found.dtype, found.shape) == (torch.float32, (rows, depth))
        assert torch.equal(found.view(torch.int32).cpu(), expected)
        assert torch.equal(rq_decode(codes[:, :levels], books).view(torch.int32).cpu(), expected)


@pytest.mark.parametrize("value", [3, -1, 2**40, -(2**63)])
def test_a_card_makes_a_row_nan_whose_code_is_not_there(card, value):
    codes = torch.zeros(30, 2, dtype=torch.int64)
    codes[23, 0] = value
    found = rq_decode(codes.to(card), [book.to(card) for book in BOOKS]).cpu()
    assert found[23].isnan().all()
    codes[23, 0] = 0
    assert found[torch.arange(30) != 23].equal(twin(codes, BOOKS)[1:])


def test_a_worked_example():
    codes = torch.tensor([[2, 0], [0, 1]], dtype=torch.int32)
    assert rq_decode(codes, BOOKS).tolist() == [[14.0, 25.0], [30.0, 41.0]]
    assert rq_decode(codes, BOOKS, num_levels=1).tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert rq_decode(codes, torch.stack([BOOKS[0], BOOKS[0]])).tolist() == [[4.0, 6.0], [2.0, 4.0]]
    assert rq_decode(codes.T.contiguous().T, [BOOKS[0].T.contiguous().T, BOOKS[1]]).tolist()[0] == [14.0, 25.0]


def test_minus_zero_starts_from_zero():
    assert str(rq_decode(torch.tensor([[0]]), [torch.tensor([[-0.0]])]).item()) == "0.0"


def test_a_dedup_level_is_read_by_nobody():
    codes = torch.tensor([[2, 0, 7], [0, 1, 9]])
    assert torch.equal(rq_decode(codes, BOOKS, num_levels=2), rq_decode(codes[:, :2], BOOKS))
    with pytest.raises(errors.InvalidValueError, match=r"at most 2 levels, one per codebook, got 3; num_levels=2"):
        rq_decode(codes, BOOKS)


@pytest.mark.parametrize("value", [3, -1, 2**40, -(2**63)])
@pytest.mark.parametrize("decode", [rq_decode, twins["rq_decode"]])
def test_codes_outside_their_codebook_are_named(decode, value):
    codes = torch.zeros(3000, 2, dtype=torch.int64)
    codes[2345, 0] = value
    codes[2900, 1] = 99
    text = rf"rq_decode: codes of level 0 must be in \[0, 3\), got {value} in row 2345"
    with pytest.raises(errors.InvalidValueError, match=text):
        decode(codes, BOOKS)


def test_nan_stays_with_its_row():
    book = torch.tensor([[1.0], [torch.nan], [torch.inf]])
    found = rq_decode(torch.tensor([[0], [1], [2]]), [book])
    assert torch.equal(found.isnan(), torch.tensor([[False], [True], [False]]))
    assert found[2].item() == torch.inf


@pytest.mark.threads
def test_threads_give_the_same(threads):
    generator = torch.Generator().manual_seed(1)
    books = [torch.randn(50, 128, generator=generator) for _ in range(3)]
    codes = torch.randint(0, 50, (9001, 3), generator=generator)
    alone = rq_decode(codes, books)
    codes[[8000, 8999], 1] = torch.tensor([-5, 50])
    threads(4)
    for _ in range(5):
        with pytest.raises(errors.InvalidValueError, match="got -5 in row 8000"):
            rq_decode(codes, books)
        assert torch.equal(rq_decode(codes[:8000], books), alone[:8000])


def test_opcheck():
    codes = torch.tensor([[0, 1], [2, 0], [2, 1]])
    books = [book.clone().requires_grad_() for book in BOOKS]
    torch.library.opcheck(torch.ops.genrec_fast.rq_decode.default, (codes, books))


def test_gradients_are_those_of_an_embedding():
    generator = torch.Generator().manual_seed(2)
    values = [torch.randn(size, 7, generator=generator) for size in (4, 9)]
    codes = torch.stack([torch.randint(0, size, (50,), generator=generator) for size in (4, 9)], 1)
    weights = torch.randn(50, 7, generator=generator)
    sides = []
    for decode in (rq_decode, twin):
        books = [value.clone().requires_grad_() for value in values]
        (decode(codes, books) * weights).sum().backward()
        sides.append([book.grad for book in books])
    for ours, theirs in zip(*sides, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    first = values[0].clone().requires_grad_()
    rq_decode(codes, [first, values[1].bfloat16()]).sum().backward()
    assert torch.equal(first.grad[:, 0], torch.bincount(codes[:, 0], minlength=4).float())


@pytest.mark.parametrize(
    ("codes", "books", "levels", "error", "text"),
    [
        ([[0]], BOOKS, None, errors.InvalidTypeError, "codes must be a tensor, got list"),
        (torch.zeros(1, 2), BOOKS, None, errors.InvalidTypeError, r"codes must be int32 or int64 .* got torch.float32"),
        (torch.zeros(2).int(), BOOKS, None, errors.InvalidValueError, r"codes must be \[N, L\] .* got \[2\]"),
        (torch.zeros(2, 0).int(), BOOKS, None, errors.InvalidValueError, r"L at least 1, got \[2, 0\]"),
        (torch.zeros(1, 2).int(), 3, None, errors.InvalidTypeError, "codebooks must be a sequence of tensors, got 3"),
        (torch.zeros(1, 2).int(), [], None, errors.InvalidValueError, "codebooks must hold at least one level"),
        (torch.zeros(1, 2).int(), [[0]], None, errors.InvalidTypeError, r"codebooks\[0\] must be a tensor, got list"),
        (torch.zeros(1, 2).int(), BOOKS[0], None, errors.InvalidValueError, r"codebooks\[0\] must be \[K, D\], got"),
        (
            torch.zeros(1, 2).int(),
            [BOOKS[0], BOOKS[0].double()],
            None,
            errors.InvalidTypeError,
            r"codebooks\[1\] must be float32, bfloat16 or float16 \[K, D\], got torch.float64",
        ),
        (
            torch.zeros(1, 2).int(),
            [BOOKS[0], torch.ones(2, 3)],
            None,
            errors.InvalidValueError,
            r"codebooks\[1\] must be \[K, 2\] with at least one of each, got \[2, 3\]",
        ),
        (torch.zeros(1, 1).int(), [torch.ones(0, 3)], None, errors.InvalidValueError, r"got \[0, 3\]"),
        (torch.zeros(1, 2).int(), BOOKS, 0, errors.InvalidValueError, r"num_levels must be in \[1, 2\], got 0"),
        (torch.zeros(1, 2).int(), BOOKS, 3, errors.InvalidValueError, r"num_levels must be in \[1, 2\], got 3"),
        (torch.zeros(1, 1).int(), BOOKS, 2, errors.InvalidValueError, r"num_levels must be in \[1, 1\], got 2"),
        (torch.zeros(1, 2).int(), BOOKS, 1.0, errors.InvalidTypeError, "num_levels must be an int, got 1.0"),
    ],
)
def test_bad_input_is_named(codes, books, levels, error, text):
    with pytest.raises(error, match=f"rq_decode: .*{text}"):
        rq_decode(codes, books, num_levels=levels)


def test_compiles_into_one_graph_with_its_gradient():
    books = [book.clone().requires_grad_() for book in BOOKS]
    compiled = torch.compile(lambda codes, books: rq_decode(codes, books) * 2, fullgraph=True, backend="aot_eager")
    out = compiled(torch.tensor([[2, 0]]), books)
    out.sum().backward()
    assert out.tolist() == [[28.0, 50.0]]
    assert books[0].grad.tolist() == [[0.0, 0.0], [0.0, 0.0], [2.0, 2.0]]
