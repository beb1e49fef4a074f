from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.ops import completable_codes
from genrec_fast.ops.reference.completable_codes import completable_codes as twin
from shared.cards import every_place


def case(users, beams, items, sizes, seed):
    """Rows of which most are an item's codes with some masked."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(size, (items,), generator=generator) for size in sizes], 1)
    own = codes[torch.randint(items, (users, beams), generator=generator)]
    masked = torch.rand(own.shape, generator=generator) < torch.rand(users, beams, 1, generator=generator)
    written = own.masked_fill(masked, -1)
    other = torch.stack([torch.randint(-1, size, (users, beams), generator=generator) for size in sizes], 2)
    written = torch.where(torch.rand(users, beams, 1, generator=generator) < 0.2, other, written)
    return written.int(), codes, generator


@given(
    st.integers(0, 4),
    st.integers(0, 6),
    st.integers(1, 60),
    st.lists(st.integers(1, 6), min_size=1, max_size=10),
    st.sampled_from(["none", "all", "each"]),
    st.booleans(),
    st.integers(0, 2**31),
)
@settings(max_examples=80)
def test_equals_the_twin(users, beams, items, sizes, filtered, excluding, seed):
    written, codes, generator = case(users, beams, items, sizes, seed)
    allowed = exclude = None
    if filtered != "none":
        allowed = torch.rand(users if filtered == "each" else 1, items, generator=generator) < 0.6
    if excluding:
        rows = [torch.randint(items, (int(torch.randint(4, (1,), generator=generator)),)) for _ in range(users)]
        exclude = Jagged.from_rows(rows)
    ids = None if exclude is None else (exclude.values, exclude.offsets)
    wanted = twin(written, codes, sizes, allowed, *(ids or (None, None)))
    for place in every_place():
        options = {"allowed": None if allowed is None else allowed.to(place), "exclude": None}
        if exclude is not None:
            options["exclude"] = Jagged(exclude.values.to(place), exclude.offsets.to(place))
        for dtype in (torch.uint8, torch.int32):
            there = codes.to(place, dtype)
            found = completable_codes(written.to(place), there, codebook_sizes=sizes, **options)
            assert found.dtype == torch.bool
            assert torch.equal(found.cpu(), wanted)


@pytest.mark.parametrize("sizes", [(300_000, 5), (40, 2, 70)])  # more bits than a block has, and few
def test_many_rows_and_codes(place, sizes):
    written, codes, _ = case(3, 50, 600, sizes, 4)
    found = completable_codes(written.to(place), codes.int().to(place), codebook_sizes=sizes)
    assert torch.equal(found.cpu(), twin(written, codes, sizes, None, None, None))


def test_a_card_gives_no_code_where_a_value_is_wrong(card):
    """Of rows, of items and of what is excluded; nothing is read back, so nothing can be raised."""
    codes = torch.tensor([[0, 2], [1, 0], [1, 9]], dtype=torch.int32, device=card)  # the last is no item
    rows = torch.tensor([[-1, -1], [-1, 2], [-2, -1], [7, -1]], dtype=torch.int32, device=card)
    found = completable_codes(rows[None], codes, codebook_sizes=(2, 3))[0].int().tolist()
    assert found == [[1, 1, 1, 0, 1], [1, 0, 0, 0, 0], [0] * 5, [0] * 5]
    lists = Jagged(torch.tensor([0, 3], device=card), torch.tensor([0, 1, 2], device=card))
    both = rows[None].expand(2, -1, -1)
    found = completable_codes(both, codes, codebook_sizes=(2, 3), exclude=lists).int().tolist()
    assert found[0][0] == [0, 1, 1, 0, 0]
    assert found[1] == [[0] * 5] * 4
    if card == "cpu":  # a Jagged of the CPU has right offsets
        return
    falling = Jagged(torch.tensor([0, 1], device=card), torch.tensor([0, 2, 1], device=card))
    assert not bool(completable_codes(both, codes, codebook_sizes=(2, 3), exclude=falling).any())


def test_by_hand():
    """Three items; the last is excluded for the second user."""
    codes = torch.tensor([[0, 2], [1, 0], [1, 2]], dtype=torch.uint8)
    rows = torch.tensor([[-1, -1], [-1, 2], [1, -1], [0, 0], [0, 2]], dtype=torch.int32)
    found = completable_codes(
        rows.expand(2, -1, -1).contiguous(), codes, codebook_sizes=(2, 3), exclude=Jagged.from_rows([[], [2]])
    )
    assert found[0].int().tolist() == [[1, 1, 1, 0, 1], [1, 1, 0, 0, 0], [0, 0, 1, 0, 1], [0] * 5, [0] * 5]
    assert found[1].int().tolist() == [[1, 1, 1, 0, 1], [1, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0] * 5, [0] * 5]


@given(st.integers(1, 30), st.permutations(range(4)), st.integers(0, 1000))
@settings(max_examples=30)
def test_whatever_order_codes_are_written_in_they_end_at_an_item(items, order, seed):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(3, (items, 4), generator=generator)
    allowed = torch.rand(items, generator=generator) < 0.5
    if not bool(allowed.any()):
        return
    written = torch.full((1, 1, 4), -1, dtype=torch.int32)
    for level in order:
        found = completable_codes(written, codes.int(), codebook_sizes=(3,) * 4, allowed=allowed)
        open_ = found.view(4, 3)[level].nonzero().squeeze(1)
        assert len(open_)
        written[0, 0, level] = int(open_[int(torch.randint(len(open_), (1,), generator=generator))])
    assert bool(((codes == written[0, 0]).all(1) & allowed).any())


@pytest.mark.threads
def test_threads_change_no_bit(threads):
    written, codes, _ = case(40, 30, 3000, (256,) * 6, 3)
    found = []
    for count in (1, 2, 4):
        threads(count)
        found.append(completable_codes(written, codes.int(), codebook_sizes=(256,) * 6))
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_torch_knows_it():
    written, codes, _ = case(2, 3, 20, (4, 5), 0)
    op = torch.ops.genrec_fast.completable_codes.default
    torch.library.opcheck(op, (written, codes.int(), [4, 5], None, None, None))
    compiled = torch.compile(
        lambda a: completable_codes(a, codes.int(), codebook_sizes=(4, 5)), fullgraph=True, backend="eager"
    )
    assert torch.equal(compiled(written), twin(written, codes, (4, 5), None, None, None))


def test_messages_name_argument_rule_and_value():
    written = torch.tensor([[[-1, 1]]], dtype=torch.int32)
    codes = torch.tensor([[0, 1], [1, 2]], dtype=torch.uint8)

    def ask(**changes):
        return completable_codes(**{"written": written, "item_codes": codes, "codebook_sizes": (2, 3), **changes})

    with pytest.raises(InvalidTypeError, match=r"completable_codes: written must be int32 \[B, W, L\], got torch.int6"):
        ask(written=written.long())
    with pytest.raises(InvalidValueError, match=r"completable_codes: written must be \[B, W, 2\], got \[1, 2\]"):
        ask(written=written[0])
    with pytest.raises(InvalidValueError, match=r"written must be in \[-1, 3\) at level 1, got 3 for user 0"):
        ask(written=torch.tensor([[[-1, 3]]], dtype=torch.int32))
    with pytest.raises(InvalidValueError, match=r"written must be in \[-1, 2\) at level 0, got -2 for user 0"):
        ask(written=written - 1)
    with pytest.raises(InvalidTypeError, match="item_codes must be uint8 or int32"):
        ask(item_codes=codes.long())
    with pytest.raises(InvalidValueError, match=r"item_codes of level 1 must be in \[0, 2\), got 2 for item 1"):
        ask(codebook_sizes=(2, 2))
    with pytest.raises(InvalidValueError, match="codebook_sizes must be those of 2 levels, got 1"):
        ask(codebook_sizes=(2,))
    with pytest.raises(InvalidTypeError, match="allowed must be bool"):
        ask(allowed=torch.ones(2))
    with pytest.raises(InvalidValueError, match=r"exclude must hold item ids in \[0, 2\), got 5"):
        ask(exclude=Jagged.from_rows([[5]]))
