from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.trie import build_trie
from genrec_fast.ops import DraftBeams, DraftRows, _registry, draft_verify, trie_filter

TRIE = build_trie(torch.cartesian_prod(*[torch.arange(3)] * 3), codebook_sizes=(3, 3, 3))


def read(*rows):
    """Rows ``(parent, code, logits)`` of one user."""
    parents, codes, logits = zip(*rows, strict=True)
    return DraftRows(torch.tensor([parents]), torch.tensor([codes], dtype=torch.int32), torch.tensor([logits]))


def start(users, width, levels, row=0):
    """At the prompt, which is row ``row``."""
    numbers = torch.full((users, width), -1)
    numbers[:, 0] = row
    nodes, scores = torch.full((users, width), -1, dtype=torch.int32), torch.full((users, width), -torch.inf)
    nodes[:, 0], scores[:, 0] = 0, 0.0
    codes = torch.zeros(users, width, levels, dtype=torch.int32)
    above = torch.full((users, width), row)
    return DraftBeams(
        torch.zeros(users, dtype=torch.int64), nodes, scores, codes, above, numbers, torch.full((users,), -torch.inf)
    )


PROMPT, LEFT, RIGHT = (0, -1, [9.0, 0.0, 8.0]), (0, 0, [0.0, 7.0, 0.0]), (0, 2, [0.0, 0.0, 9.0])


def test_a_level_is_accepted_where_all_beams_were_drafted():
    found = draft_verify(TRIE, read(PROMPT, LEFT, RIGHT), start(1, 2, 3), num_beams=(2, 2, 2))
    assert found.levels.tolist() == [2]  # codes 0 and 2 were drafted; what follows them is known, and not read
    assert found.codes.tolist() == [[[0, 1, 0], [2, 2, 0]]]
    assert (found.above.tolist(), found.numbers.tolist()) == ([[1, 2]], [[-1, -1]])
    assert found.nodes.tolist() == [[1, 8]]


def test_the_first_level_that_was_not_drafted_is_the_bonus():
    found = draft_verify(TRIE, read(PROMPT, LEFT, (0, 1, [0.0] * 3)), start(1, 2, 3), num_beams=(2, 2, 2))
    assert (found.levels.tolist(), found.codes[..., 0].tolist()) == ([1], [[0, 2]])
    assert found.numbers.tolist() == [[1, -1]]


def test_nothing_to_be_gained_changes_nothing():
    at = draft_verify(TRIE, read(PROMPT), start(1, 2, 3), num_beams=(2, 2, 2))
    again = draft_verify(TRIE, read(PROMPT), at, num_beams=(2, 2, 2))
    assert all(map(torch.equal, at, again))
    assert at.levels.data_ptr() != again.levels.data_ptr()


@st.composite
def cases(draw):
    """Users at levels of their own, with beams some of which were read."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 30)))
    users, width, rows = draw(st.integers(0, 4)), draw(st.integers(1, 6)), draw(st.integers(1, 12))
    items = torch.stack([torch.randint(size, (20,), generator=generator) for size in sizes], 1)
    trie = build_trie(items, codebook_sizes=sizes)

    def whole(low, high, *shape):
        return torch.randint(low, high, shape, generator=generator)

    dtype = draw(st.sampled_from([torch.float32, torch.float32, torch.bfloat16]))
    logits = whole(-2, 3, users, rows, max(sizes) + draw(st.integers(0, 2))).to(dtype)
    levels = whole(0, len(sizes) + 1, users)
    nodes = torch.stack([whole(0, trie.num_nodes(int(level)), width) for level in levels] or [whole(0, 1, width)])
    nodes = nodes[:users].masked_fill(torch.rand(users, width, generator=generator) < 0.2, -1).int()
    low = -1 if draw(st.booleans()) else 0
    beams = DraftBeams(
        levels,
        nodes,
        -torch.rand(users, width, generator=generator),
        whole(0, 5, users, width, len(sizes)).int(),
        whole(0, rows, users, width),
        whole(low, rows, users, width),
        -torch.rand(users, generator=generator) * 9,
    )
    normalize = draw(st.sampled_from(["all", "valid"]))
    sums = logits.float().logsumexp(2) + 1 if normalize == "all" and draw(st.booleans()) else None
    keep = None
    if draw(st.booleans()):
        exclude = Jagged.from_rows([whole(0, 20, 3) for _ in range(users)])
        keep = trie_filter(trie, allowed=torch.rand(20, generator=generator) < 0.8, exclude=exclude)
    settings = {
        "num_beams": [draw(st.integers(1, width)) for _ in sizes],
        "normalize": normalize,
        "widths": whole(1, width + 1, users) if draw(st.booleans()) else None,
        "allowed": keep,
    }
    return trie, DraftRows(whole(0, rows, users, rows), whole(-1, 3, users, rows).int(), logits, sums), beams, settings


def flat(trie, rows, beams, num_beams, normalize, widths, allowed):
    """As the op takes them."""
    masks = [None] * 4
    if allowed is not None:
        masks = [allowed.bits, allowed.ranks, allowed.excluded, allowed.excluded_offsets]
    levels = list(trie.tokens), list(trie.child_bases), list(trie.child_deltas)
    sizes = list(trie.codebook_sizes)
    return (*rows, *beams, widths, sizes, *levels, list(num_beams), normalize == "valid", *masks)


@given(cases())
def test_equal_to_the_twin(case):
    trie, rows, beams, settings = case
    before = [part.clone() for part in beams]
    found = draft_verify(trie, rows, beams, **settings)
    for name, part, right in zip(
        found._fields, found, _registry.twins["draft_verify"](*flat(trie, rows, beams, **settings)), strict=True
    ):
        assert torch.equal(part, right), name
        assert part.dtype == right.dtype
    assert all(map(torch.equal, beams, before))


@pytest.mark.threads
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_change_nothing(threads):
    generator = torch.Generator().manual_seed(0)
    users, width, size = 8, 40, 2048
    codes = torch.randint(size, (5000, 2), generator=generator)
    trie = build_trie(codes, codebook_sizes=(size, size))
    logits = torch.randn(users, 60, size, generator=generator)
    parents, wrote = torch.zeros(users, 60, dtype=torch.int64), torch.full((users, 60), -1, dtype=torch.int32)
    rows = DraftRows(parents, wrote, logits)
    beams = start(users, width, 2)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = draft_verify(trie, rows, beams, num_beams=(width, width))
    finally:
        torch.set_num_threads(before)
    right = _registry.twins["draft_verify"](*flat(trie, rows, beams, (width, width), "all", None, None))
    assert all(map(torch.equal, found, right))


def test_opcheck():
    given = flat(TRIE, read(PROMPT, LEFT, RIGHT), start(1, 2, 3), (2, 2, 2), "all", None, None)
    torch.library.opcheck(torch.ops.genrec_fast.draft_verify.default, given)


def twin(trie, rows, beams, **settings):
    base = {"num_beams": (2, 2, 2), "normalize": "all", "widths": None, "allowed": None}
    return _registry.twins["draft_verify"](*flat(trie, rows, beams, **base | settings))


@pytest.mark.parametrize("run", [draft_verify, twin])
def test_values_are_named(run):
    rows, beams = read(PROMPT, LEFT, RIGHT), start(1, 2, 3)
    for change, message in (
        ({"levels": torch.tensor([4])}, r"draft_verify: levels must be in \[0, 3\], got 4"),
        ({"numbers": torch.tensor([[3, -1]])}, r"draft_verify: numbers must be .*, got 3"),
        ({"nodes": torch.tensor([[5, -1]], dtype=torch.int32)}, r"trie_step: nodes must be -1 or in \[0, 0\], got 5"),
        ({"scores": torch.tensor([[torch.nan, 0.0]])}, r"trie_step: scores must not be NaN or \+inf"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            run(TRIE, rows, beams._replace(**change), num_beams=(2, 2, 2))
    with pytest.raises(InvalidValueError, match=r"row_parents must be in \[0, 3\), got 3 for user 0, row 2"):
        run(TRIE, rows._replace(parents=torch.tensor([[0, 0, 3]])), beams, num_beams=(2, 2, 2))


def test_shapes_and_kinds_are_named():
    rows, beams = read(PROMPT, LEFT, RIGHT), start(1, 2, 3)
    with pytest.raises(InvalidTypeError, match=r"draft_verify: rows must be DraftRows, got 3"):
        draft_verify(TRIE, 3, beams, num_beams=(2, 2, 2))
    with pytest.raises(InvalidTypeError, match=r"draft_verify: codes must be int32 \[1, 2, 3\], got int64 \[1, 2, 3\]"):
        draft_verify(TRIE, rows, beams._replace(codes=beams.codes.long()), num_beams=(2, 2, 2))
    with pytest.raises(InvalidValueError, match=r"draft_verify: bound must be \[1\], got \[2\]"):
        draft_verify(TRIE, rows, beams._replace(bound=torch.zeros(2)), num_beams=(2, 2, 2))
    with pytest.raises(InvalidValueError, match=r"num_beams must have 3 numbers, one a level, got 2"):
        draft_verify(TRIE, rows, beams, num_beams=(2, 2))
    with pytest.raises(InvalidValueError, match=r"num_beams must be at most the 2 slots of beams, got 3"):
        draft_verify(TRIE, rows, beams, num_beams=(2, 2, 3))
    with pytest.raises(InvalidValueError, match=r"logits must have 3 codes, the largest codebook, got 2"):
        draft_verify(TRIE, rows._replace(logits=rows.logits[..., :2]), beams, num_beams=(2, 2, 2))
    with pytest.raises(InvalidTypeError, match=r"draft_verify: logits must be float32, bfloat16 or float16, got int64"):
        draft_verify(TRIE, rows._replace(logits=rows.logits.long()), beams, num_beams=(2, 2, 2))
    with pytest.raises(InvalidValueError, match=r"log_sums must be None with normalize='valid', got a tensor"):
        draft_verify(TRIE, rows._replace(log_sums=torch.zeros(1, 3)), beams, num_beams=(2, 2, 2), normalize="valid")
