"""rq_encode against its twin (equal codes), on every instruction set, precision and number of threads."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import genrec_fast as gf
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.ops import _rq_levels
from genrec_fast.ops._registry import core
from genrec_fast.ops.reference.rq_encode import half_norms, scores
from genrec_fast.ops.reference.rq_encode import rq_encode as twin
from genrec_fast.ops.rq_encode import rq_encode
from shared.isas import every_isa

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_like_twin(x, books, **options):
    wanted = twin(x, [book.float() for book in books], options.get("num_beams", 1))
    for precision in ("float32", "bfloat16"):
        codes = rq_encode(x, books, precision=precision, **options)
        assert codes.dtype == torch.int32
        assert torch.equal(codes, wanted), (core.active_isa(), precision)


@pytest.mark.parametrize(
    ("rows", "width", "sizes"),
    [
        (0, 4, (3,)),
        (1, 1, (1,)),
        (1, 768, (64, 64)),
        (5, 5, (2, 3)),  # just enough rows to pack codebooks
        (7, 17, (7, 300, 2)),
        (97, 33, (31, 32, 33, 64, 65)),  # around the panels' width, one row more than a block
        (130, 64, (256, 256, 256)),
        (40, 768, (65, 100)),
        (64, 3, (1000, 33)),
        (9, 2, (65536,)),
    ],
)
def test_equals_its_twin(isa, rows, width, sizes):
    x = vectors(rows, width)
    books = [vectors(size, width, seed=level + 1) for level, size in enumerate(sizes)]
    for dtype in DTYPES:
        assert_like_twin(x.to(dtype), books)
    assert_like_twin(x.round(), [book.round() for book in books])  # ties


@pytest.mark.parametrize("scale", [1e-45, 1e-40, 1e-25, 1e-19, 1e15, 1e18, 1e30])
def test_no_scale_confuses_the_margin(isa, scale):
    x, books = vectors(50, 24) * scale, [vectors(40, 24, seed=1) * scale, vectors(9, 24, seed=2) * scale]
    assert_like_twin(x, books)
    assert_like_twin(x, [books[0] / scale, books[1] * 1e-3])
    mixed = x * 10 ** vectors(50, 24, seed=3)  # magnitudes far apart within a row
    assert_like_twin(mixed, books)


def test_near_ties_are_decided_as_defined(isa):
    """Codes that differ in the last bits: float32 products cannot tell them apart."""
    base = vectors(1, 100, seed=4)
    book = base + torch.arange(300)[:, None] % 7 * 1e-7 * vectors(300, 100, seed=5)
    x = base + 1e-6 * vectors(40, 100, seed=6)
    assert len(rq_encode(x, [book]).unique()) > 1
    assert_like_twin(x, [book, book - base])


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-4, 1e-6, 0.0])
@pytest.mark.parametrize("far", [1.0, 30.0, 3e4, 1e17])
def test_codes_far_from_zero_and_close_together(isa, spread, far):
    """Products then read differences from a center; at the smallest spreads float32 itself leaves few distinct rows."""
    place = far * vectors(40, seed=5)
    x = place + far * spread * vectors(150, 40, seed=6)
    books = [place + far * spread * vectors(70, 40, seed=7), far * spread * vectors(50, 40, seed=8)]
    assert_like_twin(x, books)
    assert_like_twin(x, [books[0].bfloat16(), books[0].half() if far < 1e4 else books[0], books[1]])
    assert_like_twin(x[:3] * torch.tensor([[1.0], [-1.0], [0.0]]), books)


@pytest.mark.parametrize("offset", [1.0, 30.0, 1e4, 1e7])
def test_what_all_codes_have_in_common_changes_nothing(isa, offset):
    common = offset * vectors(1, 40, seed=7)
    x, books = common + vectors(150, 40), [common + vectors(70, 40, seed=1), vectors(70, 40, seed=2) - 0.5 * common]
    assert_like_twin(x, books)
    assert_like_twin(x, [books[0], books[1] * 0.1])


def test_codes_too_close_for_bfloat16(isa):
    """Tight groups far apart: rounding leaves whole groups, in every block and in all but one row of a block."""
    group = 50 * vectors(4, 24, seed=1)
    book = (group[:, None] + 0.01 * vectors(4, 75, 24, seed=2)).flatten(0, 1)
    x = group[torch.arange(300) % 4] + 0.01 * vectors(300, 24, seed=3)
    assert_like_twin(x, [book, 0.01 * vectors(20, 24, seed=4)])
    assert_like_twin(torch.cat([30 * vectors(200, 24, seed=5), x[:3]]), [book])


def test_of_equal_codes_the_lowest_wins(isa):
    book = vectors(3, 20)[torch.randint(0, 3, (500,), generator=torch.Generator().manual_seed(0))]
    x = vectors(60, 20, seed=1)
    assert_like_twin(x, [book, torch.zeros(200, 20)])
    codes = rq_encode(x, [book, torch.zeros(200, 20)])
    assert codes[:, 1].eq(0).all()
    assert rq_encode(torch.zeros(30, 4), [torch.zeros(70, 4)]).eq(0).all()
    assert rq_encode(torch.zeros(30, 1), [torch.tensor([[1.0], [-1.0]] * 40)]).eq(0).all()  # equally far, not equal


def drawn(rows, width, sizes, seed, kind):
    """Vectors and codebooks; all but "normal" ones have distances that are equal, or nearly so."""
    books = [vectors(size, width, seed=seed + level) for level, size in enumerate(sizes)]
    x = vectors(rows, width, seed=seed + 99)
    if kind == "grid":
        x, books = (2 * x).round(), [(2 * book).round() for book in books]
    elif kind == "copies":
        x = books[0][torch.arange(rows) % len(books[0])]
    elif kind == "zeros":
        books = [torch.zeros_like(book) for book in books]
    elif kind == "near":
        books = [book[:1] + 1e-7 * book for book in books]
    return x, books


@given(
    st.integers(0, 40),
    st.integers(1, 40),
    st.lists(st.integers(1, 80), min_size=1, max_size=4),
    st.integers(0, 2**31),
    st.sampled_from(["normal", "grid", "copies", "zeros"]),
    st.sampled_from(DTYPES),
)
@settings(max_examples=40)
def test_any_shape_and_data(rows, width, sizes, seed, kind, dtype):
    x, books = drawn(rows, width, sizes, seed, kind)
    for _ in every_isa():
        assert_like_twin(x.to(dtype), books)


def test_the_twin_is_the_definition():
    """Against the squared distance itself, in exact arithmetic on small integers."""
    x, book = (3 * vectors(30, 6)).round(), (3 * vectors(12, 6, seed=1)).round()
    distance = (x[:, None] - book).square().sum(-1)
    assert torch.equal(scores(x, book) * 2 + x.square().sum(1, keepdim=True), distance.double())
    assert torch.equal(half_norms(book) * 2, book.square().sum(1).double())
    assert twin(x, [book])[:, 0].tolist() == [row.tolist().index(min(row.tolist())) for row in distance]


@pytest.mark.threads
def test_threads_change_nothing(threads):
    x, books = vectors(5000, 48), [vectors(100, 48, seed=1), vectors(30, 48, seed=2)]
    threads(1)
    wanted = rq_encode(x, books)
    with_beams = rq_encode(x[:700], books, num_beams=3)
    for count, precision in itertools.product((2, 3, 4), ("float32", "bfloat16")):
        threads(count)
        assert torch.equal(rq_encode(x, books, precision=precision), wanted)
        assert torch.equal(rq_encode(x[:700], books, num_beams=3), with_beams)


def test_rows_do_not_know_each_other(isa):
    x, books = vectors(200, 31), [vectors(50, 31, seed=1), vectors(60, 31, seed=2)]
    wanted = rq_encode(x, books)
    assert torch.equal(torch.cat([rq_encode(part, books) for part in x.split([1, 3, 6, 90, 100])]), wanted)


def test_strided_input_and_a_stack_of_codebooks():
    x, books = vectors(60, 20), vectors(2, 30, 20, seed=1)
    wanted = twin(x[::3, ::2].contiguous(), list(books[..., ::2].contiguous()))
    assert torch.equal(rq_encode(x[::3, ::2], books[..., ::2]), wanted)
    assert torch.equal(rq_encode(x[::3, ::2], list(books[..., ::2])), wanted)


@pytest.mark.parametrize("rows", [3, 200])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_that_is_not_finite_is_named(rows, bad, dtype):
    x, book = vectors(rows, 19).to(dtype), vectors(20, 19, seed=1)
    x[rows - 1, 18] = bad
    x[2, 3] = bad
    with pytest.raises(InvalidValueError, match="rq_encode: x must be finite, got NaN or infinity in row 2"):
        rq_encode(x, [book])
    with pytest.raises(InvalidValueError, match=r"codebooks\[1\] must be finite, got NaN or infinity in row 1"):
        rq_encode(vectors(rows, 19), [book, torch.where(torch.arange(20)[:, None] == 1, bad, book)])


def test_a_residual_that_leaves_float32_is_named():
    x = torch.full((6, 2), 3e38)
    x[:5] = 0
    with pytest.raises(InvalidValueError, match="residuals within float32, got an overflow in row 5 behind level 0"):
        rq_encode(x, [torch.full((1, 2), -3e38), torch.zeros(1, 2)])
    assert rq_encode(x, [torch.full((1, 2), -3e38)]).tolist() == [[0]] * 6


def test_bad_arguments_are_named():
    x, book = vectors(5, 4), vectors(3, 4)
    for arguments, error, text in (
        ((x.tolist(), [book]), InvalidTypeError, "rq_encode: x must be a tensor, got list"),
        ((x.int(), [book]), InvalidTypeError, r"x must be float32, bfloat16 or float16 \[N, D\], got torch.int32"),
        ((x[0], [book]), InvalidValueError, r"x must be \[N, D\], got \[4\]"),
        ((x[:, :0], [book[:, :0]]), InvalidValueError, r"x must be \[N, D\] with D at least 1, got \[5, 0\]"),
        ((x, []), InvalidValueError, "codebooks must hold at least one level, got none"),
        ((x, book), InvalidValueError, r"codebooks\[0\] must be \[K, D\], got \[4\]"),
        ((x, 3), InvalidTypeError, "codebooks must be a sequence of tensors, got 3"),
        ((x, [book, 3]), InvalidTypeError, r"codebooks\[1\] must be a tensor, got int"),
        ((x, [book.long()]), InvalidTypeError, r"codebooks\[0\] must be float32, .* \[K, D\], got torch.int64"),
        (
            (x, [book[:, :3]]),
            InvalidValueError,
            r"codebooks\[0\] must be \[K, 4\] with K in \[1, 65536\], got \[3, 3\]",
        ),
        (
            (x, [book, book[:0]]),
            InvalidValueError,
            r"codebooks\[1\] must be \[K, 4\] with at least one of each, got \[0, 4\]",
        ),
        ((x, [torch.zeros(65537, 4)]), InvalidValueError, r"with K in \[1, 65536\], got \[65537, 4\]"),
    ):
        with pytest.raises(error, match=text):
            rq_encode(*arguments)
    for options, error, text in (
        ({"num_beams": 0}, InvalidValueError, "num_beams must be at least 1, got 0"),
        ({"num_beams": 2.0}, InvalidTypeError, "num_beams must be an int, got 2.0"),
        ({"num_beams": 1 << 23}, UnsupportedError, r"times the largest codebook must be at most 2\^24"),
        ({"precision": "float16"}, InvalidValueError, "precision must be 'float32' or 'bfloat16', got 'float16'"),
    ):
        with pytest.raises(error, match=text):
            rq_encode(x, [book], **options)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_is_a_torch_op(num_beams):
    x, books = vectors(12, 8), [vectors(5, 8, seed=1), vectors(3, 8, seed=2)]
    op = torch.ops.genrec_fast.rq_encode.default
    torch.library.opcheck(op, (x, books, num_beams, "float32"))
    compiled = torch.compile(lambda x: gf.ops.rq_encode(x, books, num_beams=num_beams), fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), rq_encode(x, books, num_beams=num_beams))


@pytest.mark.parametrize("num_beams", [2, 5])
def test_beams_equal_their_twin(isa, num_beams):
    for rows, width, sizes in ((0, 3, (2,)), (1, 9, (4, 3)), (60, 20, (16, 7, 30)), (30, 65, (64, 64))):
        x = vectors(rows, width)
        books = [vectors(size, width, seed=level + 1) for level, size in enumerate(sizes)]
        assert_like_twin(x, books, num_beams=num_beams)
        assert_like_twin(x.round(), [book.round() for book in books], num_beams=num_beams)


def test_many_beams_equal_their_twin(isa):
    """Hundreds of scores are kept in a heap; where nearly all are ties, every pair is decided as defined."""
    books = [vectors(33, 2, seed=1), vectors(1, 2, seed=2), vectors(17, 2, seed=3)]
    for x in (vectors(5, 2), torch.zeros(2, 2)):
        for num_beams in (65, 300, 5000):
            assert_like_twin(x, books * 2, num_beams=num_beams)
            assert_like_twin(x.round(), [book.round() for book in books * 2], num_beams=num_beams)


def test_beams_shorten_the_residual():
    x, books = vectors(300, 12), [vectors(16, 12, seed=1), vectors(16, 12, seed=2) * 0.7, vectors(16, 12, seed=3) * 0.5]

    def error(num_beams):
        rest = x
        for book, codes in zip(books, rq_encode(x, books, num_beams=num_beams).T, strict=True):
            rest = rest - book[codes.long()]
        return rest.square().sum(1)

    greedy, some, all_of_them = error(1), error(4), error(256)
    assert greedy.mean() > some.mean() > all_of_them.mean()
    every = torch.cartesian_prod(*(torch.arange(16) for _ in range(3)))
    sums = sum(book[codes] for book, codes in zip(books, every.T, strict=True))
    assert torch.allclose(all_of_them, (x[:, None] - sums).square().sum(-1).amin(1), rtol=1e-4)


# ---- kernels for cards


def assert_card_like_twin(card, x, books, num_beams=1):
    wanted = twin(x, [book.float() for book in books], num_beams)
    codes = rq_encode(x.to(card), [book.to(card) for book in books], num_beams=num_beams)
    assert (codes.dtype, codes.shape) == (torch.int32, wanted.shape)
    assert torch.equal(codes.cpu(), wanted), (codes.cpu() != wanted).nonzero()[:5]


@pytest.mark.parametrize(
    ("rows", "width", "sizes"),
    [
        (0, 4, (3,)),
        (1, 1, (1,)),
        (7, 17, (7, 300, 2)),  # more codes than a tile
        (130, 33, (16, 17, 130)),  # more rows than a block
        (9, 128, (40, 129)),  # the widest rows that shared memory holds
        (9, 200, (40, 129)),  # wider ones
    ],
)
def test_a_card_gives_these_codes(card, rows, width, sizes):
    x = vectors(rows, width)
    books = [vectors(size, width, seed=level + 1) for level, size in enumerate(sizes)]
    for dtype in DTYPES:
        assert_card_like_twin(card, x.to(dtype), books)
    assert_card_like_twin(card, x.round(), [book.round() for book in books])  # ties
    for num_beams in (2, 5):
        assert_card_like_twin(card, x[:40].bfloat16(), books, num_beams)
        assert_card_like_twin(card, x[:40].half().round(), [book.round() for book in books], num_beams)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("scale", [1e-45, 1e-40, 1e-25, 1e-19, 1e15, 1e18, 1e30])
def test_no_scale_confuses_a_cards_margin(card, scale, num_beams):
    x, books = vectors(30, 24) * scale, [vectors(20, 24, seed=1) * scale, vectors(9, 24, seed=2) * scale]
    assert_card_like_twin(card, x, books, num_beams)
    assert_card_like_twin(card, x, [books[0] / scale, books[1] * 1e-3], num_beams)
    assert_card_like_twin(card, x * 10 ** vectors(30, 24, seed=3), books, num_beams)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_card_decides_near_ties_as_defined(card, num_beams):
    base = vectors(1, 100, seed=4)
    book = base + torch.arange(150)[:, None] % 7 * 1e-7 * vectors(150, 100, seed=5)
    x = base + 1e-6 * vectors(12, 100, seed=6)
    assert len(twin(x, [book]).unique()) > 1
    assert_card_like_twin(card, x, [book, book - base], num_beams)
    group = 50 * vectors(4, 24, seed=1)  # more codes than a list takes, which float32 tells apart
    book = (group[:, None] + 0.01 * vectors(4, 30, 24, seed=2)).flatten(0, 1)
    x = group[torch.arange(40) % 4] + 0.01 * vectors(40, 24, seed=3)
    assert_card_like_twin(card, x, [book, 0.01 * vectors(20, 24, seed=4)], num_beams)


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-6, 0.0])
@pytest.mark.parametrize("far", [30.0, 3e4, 1e17])
def test_a_card_and_codes_far_from_zero(card, spread, far):
    place = far * vectors(40, seed=5)
    x = place + far * spread * vectors(20, 40, seed=6)
    books = [place + far * spread * vectors(30, 40, seed=7), far * spread * vectors(20, 40, seed=8)]
    assert_card_like_twin(card, x, books)
    assert_card_like_twin(card, x, books, 2)
    assert_card_like_twin(card, x[:3] * torch.tensor([[1.0], [-1.0], [0.0]]), [books[0].bfloat16(), books[1]])


def test_of_equal_codes_the_lowest_wins_on_a_card(card):
    book = vectors(3, 20)[torch.randint(0, 3, (200,), generator=torch.Generator().manual_seed(0))]
    assert_card_like_twin(card, vectors(40, 20, seed=1), [book, torch.zeros(70, 20)])
    assert_card_like_twin(card, vectors(9, 20, seed=1), [book, torch.zeros(70, 20)], 4)
    assert_card_like_twin(card, torch.zeros(9, 1), [torch.tensor([[1.0], [-1.0]] * 40)])
    assert_card_like_twin(card, torch.zeros(9, 2), [torch.tensor([[-0.0, 0.0], [0.0, -0.0]] * 20)])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    rows=st.integers(0, 12),
    width=st.integers(1, 40),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(["normal", "grid", "copies", "zeros", "near"]),
    dtype=st.sampled_from(DTYPES),
    num_beams=st.sampled_from([1, 1, 2, 7, 200]),
)
def test_any_shape_and_data_on_a_card(card, rows, width, sizes, seed, kind, dtype, num_beams):
    x, books = drawn(rows, width, sizes, seed, kind)
    assert_card_like_twin(card, x.to(dtype), books, num_beams)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_card_marks_rows_without_codes(card, bad, num_beams):
    x, books = vectors(20, 19), [vectors(20, 19, seed=1), vectors(5, 19, seed=2)]
    wanted = twin(x, books, num_beams)
    wrong = torch.arange(20) % 7 == 3
    x[wrong, 18] = bad
    codes = rq_encode(x.to(card), [book.to(card) for book in books], num_beams=num_beams).cpu()
    assert codes[wrong].eq(-1).all()
    assert codes[~wrong].equal(wanted[~wrong])
    books[1][4, 2] = bad
    codes = rq_encode(x.to(card), [book.to(card) for book in books], num_beams=num_beams)
    assert codes.eq(-1).all()


@pytest.mark.parametrize("num_beams", [1, 2])
def test_a_card_marks_residuals_that_leave_float32(card, num_beams):
    x = torch.full((6, 2), 3e38)
    x[:5] = 0
    books = [torch.full((1, 2), -3e38, device=card), torch.zeros(1, 2, device=card)]
    assert rq_encode(x.to(card), books, num_beams=num_beams).tolist() == [[0, 0]] * 5 + [[-1, -1]]
    assert rq_encode(x.to(card), books[:1], num_beams=num_beams).tolist() == [[0]] * 6


def test_a_card_takes_so_many_levels(card):
    x, books = vectors(3, 2).to(card), [vectors(2, 2, seed=1).to(card)] * 257
    assert_card_like_twin(card, x.cpu(), [book.cpu() for book in books[:256]])
    with pytest.raises(UnsupportedError, match="codebooks must have at most 256 levels on a card, got 257"):
        rq_encode(x, books)


@pytest.mark.parametrize("width", [5, 130])
def test_a_block_of_a_card_goes_on_with_other_rows(card, monkeypatch, width):
    monkeypatch.setattr(_rq_levels, "MOST_BLOCKS", 1)
    x, books = vectors(140, width), [vectors(9, width, seed=1), vectors(4, width, seed=2)]
    x[3] = torch.nan  # and the next row in its place has codes
    wanted = torch.where(torch.arange(140)[:, None] == 3, -1, twin(x, books))
    codes = rq_encode(x.to(card), [book.to(card) for book in books])
    assert codes.cpu().equal(wanted)
    assert_card_like_twin(card, x[4:], books, 3)
