"""A trie that was changed is the trie built of all its items: in every search, option and number."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_fast.base.errors import CorruptFileError, InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.changed import ChangedTrie
from genrec_fast.catalog.trie import Trie, build_trie
from genrec_fast.decoders import BeamConfig, DiverseBeamConfig, GreedyConfig, StochasticBeamConfig
from genrec_fast.ops.trie_filter import trie_filter
from genrec_fast.ops.trie_step import trie_step
from shared.decoder_suite import users_of
from shared.random_model import RandomModel

FIELDS = ("items", "codes", "scores", "exact", "bound")


@st.composite
def changes(draw, removed=True):
    """(trie after some changes, the rebuilt one, bool [N] what is kept, codes, sizes, a generator)."""
    sizes = draw(st.lists(st.sampled_from([1, 2, 4, 9, 300]), min_size=1, max_size=4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 30)))
    counts = [draw(st.integers(1, 40)), *draw(st.lists(st.sampled_from([0, 1, 3, 20]), min_size=1, max_size=3))]
    codes = torch.stack([torch.randint(min(size, 6), (sum(counts),), generator=generator) for size in sizes], 1)
    trie = build_trie(codes[: counts[0]], codebook_sizes=sizes)
    kept = torch.ones(len(codes), dtype=torch.bool)
    begin = 0
    for count in counts:
        if begin:
            trie = trie.extended(codes[begin : begin + count])
        begin += count
        if removed and draw(st.booleans()):
            gone = torch.randint(begin, (draw(st.sampled_from([0, 1, 5, 60])),), generator=generator)
            trie, kept[gone] = trie.without(gone), False
    return trie, build_trie(codes, codebook_sizes=sizes), kept, codes, sizes, generator


def model_of(draw, sizes):
    steps, forbidden = draw(st.sampled_from([2, 4, 1 << 20])), draw(st.sampled_from([0.0, 0.3]))
    return RandomModel(sizes, draw(st.integers(0, 1000)), scale=4.0, steps=steps, forbidden=forbidden)


@given(st.data(), changes())
def test_every_search_equals_that_of_a_rebuilt_trie(data, case):
    trie, rebuilt, kept, codes, sizes, generator = case
    draw, items = data.draw, len(codes)
    users = draw(st.integers(1, 4))
    batch, model = users_of(users, items, draw(st.integers(0, 1000))), model_of(draw, sizes)
    k = draw(st.integers(1, 8))
    mask, exclude = torch.ones(users, items, dtype=torch.bool), None
    if draw(st.booleans()):
        mask = torch.rand(users, items, generator=generator) < draw(st.sampled_from([0.05, 0.5, 0.9]))
    if draw(st.booleans()):
        lengths = torch.randint(items, (users,), generator=generator).tolist()
        exclude = Jagged.from_rows([torch.randint(items, (n,), generator=generator) for n in lengths])
    given_mask = None if bool(mask.all()) else mask
    decoders = [
        BeamConfig(normalize="all").build(),
        BeamConfig(normalize="valid").build(),
        GreedyConfig().build(),
        StochasticBeamConfig(num_beams=8).build(),
        DiverseBeamConfig(num_beams=8, num_groups=2).build(),
    ]
    decoder = draw(st.sampled_from(decoders))
    options = {}
    if decoder.name == "beam":
        widths = [
            None,
            k + 3,
            tuple(k + draw(st.integers(0, 3)) for _ in sizes),
            torch.randint(k, k + 5, (users,), generator=generator),
        ]
        options = {"num_beams": draw(st.sampled_from(widths)), "exact": draw(st.booleans())}
    found = decoder.search(model, batch, trie, k, allowed=given_mask, exclude=exclude, **options)
    expected = decoder.search(model, batch, rebuilt, k, allowed=mask & kept, exclude=exclude, **options)
    for field in FIELDS:
        assert torch.equal(getattr(found, field), getattr(expected, field)), field


@given(st.data(), changes(), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_every_step_equals_that_of_a_rebuilt_trie(data, case, dtype):
    trie, rebuilt, kept, codes, sizes, generator = case
    draw, users, beams = data.draw, 3, data.draw(st.integers(1, 5))
    level = draw(st.integers(0, len(sizes) - 1))
    nodes = torch.randint(-1, rebuilt.num_nodes(level), (users, beams), generator=generator, dtype=torch.int32)
    logits = (torch.randn(users, beams, sizes[level], generator=generator) * 2).round().to(dtype)
    scores = -torch.rand(users, beams, generator=generator).mul(4).round()
    options = {"num_beams": draw(st.integers(1, 30)), "normalize": draw(st.sampled_from(["all", "valid"]))}
    if options["normalize"] == "all" and draw(st.booleans()):
        options["log_sums"] = logits.float().logsumexp(-1) + 1
    exclude = Jagged.from_rows([torch.randint(len(codes), (n,), generator=generator) for n in (0, 1, 9)])
    exclude = draw(st.sampled_from([None, exclude]))
    prepared = draw(st.booleans()) and exclude is not None
    filtered = {"allowed": trie_filter(trie, exclude=exclude)} if prepared else {"exclude": exclude}
    found = trie_step(trie, level, logits, nodes, scores, **options, **filtered)
    expected = trie_step(rebuilt, level, logits, nodes, scores, **options, allowed=kept, exclude=exclude)
    for name in found._fields:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
        assert getattr(found, name).dtype == getattr(expected, name).dtype


@given(changes())
def test_nodes_rows_and_items_are_numbered_as_in_a_rebuilt_trie(case):
    trie, rebuilt, kept, codes, sizes, _ = case
    assert (trie.num_items, trie.num_rows) == (rebuilt.num_items, rebuilt.num_rows)
    for level in range(len(sizes)):
        assert trie.num_nodes(level + 1) == rebuilt.num_nodes(level + 1)
        prefixes = torch.cat([codes[:, : level + 1], codes[:, : level + 1] + 1, codes[:, : level + 1] - 1])
        assert torch.equal(trie.lookup(prefixes), rebuilt.lookup(prefixes))
        nodes = torch.arange(rebuilt.num_nodes(level))
        expected = rebuilt.valid_codes(level, nodes)
        if not bool(kept.all()):  # a code stays where an item below it does
            expected = torch.zeros_like(expected)
            left = codes[kept]
            at = rebuilt.lookup(left[:, :level]).long() if level else torch.zeros(len(left), dtype=torch.long)
            expected[at, left[:, level]] = True
        assert torch.equal(trie.valid_codes(level, nodes), expected)
    every = torch.arange(rebuilt.num_rows).flip(0)
    expected = [row[kept[row]].tolist() for row in rebuilt.items(every).rows()]
    assert [row.tolist() for row in trie.items(every).rows()] == expected


def same_tensors(one: Trie, other: Trie) -> bool:
    pairs = zip(one._named_tensors(), other._named_tensors(), strict=True)
    return all(a == b and x.dtype == y.dtype and torch.equal(x, y) for (a, x), (b, y) in pairs)


@given(changes(removed=False))
def test_merged_is_the_rebuilt_trie(case):
    trie, rebuilt, *_ = case
    merged = trie.merged() if isinstance(trie, ChangedTrie) else trie
    assert type(merged) is Trie
    assert same_tensors(merged, rebuilt)
    assert torch.equal(rebuilt.item_codes().long(), case[3])


@given(changes())
def test_merging_keeps_what_is_gone(case):
    trie, rebuilt, kept, *_ = case
    merged = trie.merged() if isinstance(trie, ChangedTrie) else trie
    assert merged.num_items == rebuilt.num_items
    if not isinstance(merged, Trie):
        assert torch.equal(merged.kept, kept)
        assert same_tensors(merged.base, rebuilt)
        assert merged.merged() is merged


def test_nothing_new_and_nothing_gone_is_the_trie_itself():
    trie = build_trie([[0, 1], [1, 0]])
    for same in (trie.extended([]), trie.extended(torch.empty(0, 2, dtype=torch.int32)), trie.without([])):
        assert same is trie
    changed = trie.extended([[1, 1]])
    assert changed.extended([]) is changed
    assert changed.without(torch.empty(0, dtype=torch.int64)) is changed


def test_codes_that_are_there_already_share_their_row():
    trie = build_trie([[0, 1], [1, 0]]).extended([[1, 0], [0, 1], [1, 0], [1, 1]])
    assert (trie.num_items, trie.num_rows) == (6, 3)
    rows = trie.lookup(torch.tensor([[0, 1], [1, 0], [1, 1]]))
    assert rows.tolist() == [0, 1, 2]
    assert [row.tolist() for row in trie.items(rows).rows()] == [[0, 3], [1, 2, 4], [5]]


def test_without_everything_nothing_is_found():
    model, batch = RandomModel((4, 4), 0), users_of(3, 2, 0)
    trie = build_trie([[0, 1], [1, 0]], codebook_sizes=(4, 4)).extended([[3, 3]]).without([2, 0, 1, 1])
    for normalize in ("all", "valid"):
        found = BeamConfig(normalize=normalize).build().search(model, batch, trie, 2, exact=True)
        assert found.items.tolist() == [[-1, -1]] * 3
        assert found.bound.tolist() == [-torch.inf] * 3
    assert not bool(trie.valid_codes(0, torch.tensor([0])).any())


def test_the_trie_that_was_changed_stays_as_it_was():
    codes = torch.tensor([[0, 1], [1, 0]])
    trie = build_trie(codes, codebook_sizes=(4, 4))
    before = copy.deepcopy(trie)
    first = trie.extended([[3, 3]])
    second = first.without([0]).extended([[2, 2]])
    assert same_tensors(trie, before)
    assert (first.num_items, first.kept, second.num_items) == (3, None, 4)
    assert second.kept.tolist() == [False, True, True, True]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda trie: pickle.loads(pickle.dumps(trie))])
def test_a_copy_searches_alike(copied):
    model, batch = RandomModel((4, 4), 0), users_of(3, 4, 0)
    trie = build_trie([[0, 1], [1, 0]], codebook_sizes=(4, 4)).extended([[3, 3], [1, 1]]).without([0])
    decoder = BeamConfig().build()
    one, other = (decoder.search(model, batch, some, 4) for some in (trie, copied(trie)))
    assert torch.equal(one.items, other.items)
    assert torch.equal(one.scores, other.scores)


def test_an_altered_copy_is_refused():
    trie = build_trie([[0, 1], [1, 0]], codebook_sizes=(4, 4)).extended([[3, 3]]).without([0])
    base, added, kept = trie.__getstate__()
    with pytest.raises(CorruptFileError, match=r"kept must be bool \(3,\)"):
        trie.__setstate__((base, added, kept[:2]))
    with pytest.raises(InvalidValueError, match=r"in \[0, 4\) at level 0, got 9"):
        trie.__setstate__((base, added * 3, None))


def test_a_file_holds_the_merged_trie(tmp_path):
    codes = torch.tensor([[0, 1], [1, 0], [3, 3]])
    build_trie(codes[:2], codebook_sizes=(4, 4)).extended(codes[2:]).save(tmp_path / "trie.safetensors")
    assert same_tensors(Trie.load(tmp_path / "trie.safetensors"), build_trie(codes, codebook_sizes=(4, 4)))


def test_a_file_does_not_bring_back_what_is_gone(tmp_path):
    trie = build_trie([[0, 1], [1, 0]]).without([1])
    with pytest.raises(UnsupportedError, match=r"Trie.save: trie must have all its items.* got one without 1"):
        trie.save(tmp_path / "trie.safetensors")
    assert not list(tmp_path.iterdir())


def test_merged_in_another_thread_while_searches_go_on():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(4, (3000, 3), generator=generator)
    model, batch, decoder = RandomModel((4, 4, 4), 0), users_of(2, 40, 0), BeamConfig(num_beams=20).build()
    trie = build_trie(codes[:2900], codebook_sizes=(4, 4, 4)).extended(codes[2900:])
    merged = []
    worker = threading.Thread(target=lambda: merged.append(trie.merged()))
    worker.start()
    during = decoder.search(model, batch, trie, 5)
    worker.join()
    after = decoder.search(model, batch, merged[0], 5)
    assert all(torch.equal(getattr(during, field), getattr(after, field)) for field in FIELDS)


@pytest.mark.parametrize(
    ("codes", "error", "text"),
    [
        ([[0, 1], [2]], InvalidValueError, r"extended: new_codes must be integers \[M, 2\], got expected sequence"),
        ([[0, 1, 1]], InvalidValueError, r"extended: new_codes must be \[M, 2\], got \[1, 3\]"),
        ([0, 1], InvalidValueError, r"extended: new_codes must be \[M, 2\], got \[2\]"),
        ([[0.5, 1.0]], InvalidTypeError, r"extended: new_codes must be integers \[M, 2\], got torch.float32"),
        ("ab", InvalidValueError, r"extended: new_codes must be integers"),
        ([[0, 1], [0, 4]], InvalidValueError, r"in \[0, 4\) at level 1, got 4 for item 1 of the new ones"),
        ([[-1, 0]], InvalidValueError, r"in \[0, 4\) at level 0, got -1 for item 0 of the new ones"),
    ],
)
def test_wrong_codes_are_refused(codes, error, text):
    with pytest.raises(error, match=text):
        build_trie([[0, 1]], codebook_sizes=(4, 4)).extended(codes)


@pytest.mark.parametrize(
    ("items", "error", "text"),
    [
        ([2], InvalidValueError, r"without: items must be in \[0, 2\), got 2"),
        ([-1], InvalidValueError, r"without: items must be in \[0, 2\), got -1"),
        ([True], InvalidTypeError, "without: items must be"),
        (torch.tensor([0.5]), InvalidTypeError, r"without: items must be integers \[M\], got torch.float32"),
        (5, InvalidTypeError, "without: items must be a sequence of item ids, got 5"),
    ],
)
def test_wrong_items_are_refused(items, error, text):
    with pytest.raises(error, match=text):
        build_trie([[0, 1], [1, 0]], codebook_sizes=(4, 4)).without(items)


def test_what_a_built_trie_refuses_is_refused():
    trie = build_trie([[0, 1], [1, 0]], codebook_sizes=(4, 4)).extended([[3, 3], [1, 1]])
    logits, start, scores = torch.zeros(2, 1, 4), torch.zeros(2, 1, dtype=torch.int32), torch.zeros(2, 1)
    with pytest.raises(InvalidValueError, match=r"nodes must be -1 or in \[0, 0\], got 1 for user 0, beam 0"):
        trie_step(trie, 0, logits, start + 1, scores, num_beams=2)
    with pytest.raises(InvalidValueError, match="logits must not be NaN"):
        trie_step(trie, 0, logits * torch.nan, start, scores, num_beams=2, normalize="valid")
    with pytest.raises(InvalidValueError, match=r"level must be in \[0, 2\), got 2"):
        trie_step(trie, 2, logits, start, scores, num_beams=2)
    with pytest.raises(InvalidValueError, match=r"exclude must hold item ids in \[0, 4\), got 4 for user 1"):
        trie_filter(trie, exclude=Jagged.from_rows([[3], [4]]))
    with pytest.raises(InvalidValueError, match=r"allowed must be \[4\] or \[B, 4\]"):
        trie_filter(trie, allowed=torch.ones(3, dtype=torch.bool))
    keep = trie_filter(trie, exclude=Jagged.from_rows([[3], []]))
    other = build_trie([[0, 1], [1, 0], [3, 3], [1, 1]], codebook_sizes=(4, 4))
    for some in (other, trie.extended([[2, 2]])):
        with pytest.raises(InvalidValueError, match="allowed must be a filter of this trie"):
            trie_step(some, 0, logits, start, scores, num_beams=2, allowed=keep)
    with pytest.raises(InvalidValueError, match=r"Trie.items: rows must be in \[0, 4\), got 4 at 1"):
        trie.items(torch.tensor([0, 4]))
