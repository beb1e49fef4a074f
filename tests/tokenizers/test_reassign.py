from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_fast import ops
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.tokenizers import RQKMeansConfig, RQVAEConfig, reassign
from shared.catalogs import wide

SEEDS = st.integers(0, 2**31 - 1)


def drawn(seed, most=30):
    """Vectors and codebooks of small whole numbers (ties and equal codes abound, distances are exact), greedy codes."""
    generator = torch.Generator().manual_seed(seed)
    count, levels = (int(torch.randint(1, high, (1,), generator=generator)) for high in (most, 4))
    sizes = torch.randint(1, 5, (levels,), generator=generator).tolist()
    vectors = torch.randint(-3, 4, (count, 2), generator=generator).float()
    books = [torch.randint(-2, 3, (size, 2), generator=generator).float() for size in sizes]
    return vectors, books, ops.rq_encode(vectors, books)


def served(vectors, books, codes):
    """The rule of nearest_free with other_prefix, one item after the other."""
    rows, sizes = [tuple(row) for row in codes.tolist()], [len(book) for book in books]
    first: dict[tuple[int, ...], int] = {}
    for item, row in enumerate(rows):
        first.setdefault(row, item)
    out = {item: row for row, item in first.items()}
    waiting = [item for item in range(len(rows)) if item not in out]
    every = list(itertools.product(*map(range, sizes)))
    for start in reversed(range(len(sizes))):
        moving = {item: rows[item][:start] for item in waiting}
        waiting = []
        for level in range(start, len(sizes)):
            room = {}  # free semantic IDs under each prefix of level + 1 codes, at this level's begin
            for semantic_id in every:
                prefix = semantic_id[: level + 1]
                room[prefix] = room.get(prefix, 0) + (semantic_id not in set(out.values()))
            for item, prefix in list(moving.items()):
                left = vectors[item] - sum((books[i][c] for i, c in enumerate(prefix)), torch.zeros(2))
                scores = (books[level].square().sum(1) / 2 - books[level] @ left).tolist()
                free = [code for code in range(sizes[level]) if room[(*prefix, code)] > 0]
                if not free:
                    waiting.append(item)
                    del moving[item]
                    continue
                best = min(free, key=lambda code: (scores[code], code))
                moving[item] = (*prefix, best)
                room[moving[item]] -= 1
        out.update(moving)
    return [out.get(item, row) for item, row in enumerate(rows)]


def check(found, vectors, books, codes):
    """What the summary says is so."""
    told, count = found.resolution, len(codes)
    before, after = codes.tolist(), found.item_codes.tolist()
    different = len({tuple(row) for row in before})
    assert told.collision_rate_before == (count - different) / count
    assert told.collision_rate_after == (count - len({tuple(row) for row in after})) / count
    levels = codes.shape[1]
    assert told.items_touched == sum(b != a[:levels] for b, a in zip(before, after, strict=True))
    assert sum(told.moved_by_level) == told.items_touched
    for when, kept in ((told.distortion_before, codes), (told.distortion_after, found.item_codes[:, :levels])):
        error = (vectors - ops.rq_decode(kept.contiguous(), books)).square().mean()
        assert when == pytest.approx(float(error), abs=1e-6)
    groups = [before.count(list(row)) for row in {tuple(row) for row in before}]
    assert told.groups == sum(size > 1 for size in groups)
    assert told.largest_group == max(groups)


@settings(max_examples=80)
@given(SEEDS)
def test_nearest_free_equals_one_item_after_the_other(seed):
    vectors, books, codes = drawn(seed)
    found = reassign(codes, vectors, books)
    assert [tuple(row) for row in found.item_codes.tolist()] == served(vectors, books, codes)
    check(found, vectors, books, codes)
    room = torch.tensor([len(book) for book in books]).prod()
    assert (found.resolution.collision_rate_after == 0) == (len(codes) <= room)


@settings(max_examples=50)
@given(SEEDS, st.sampled_from(["nearest_free", "sinkhorn"]), st.sampled_from(["other_prefix", "level", "share"]))
def test_every_way_keeps_its_word(seed, method, when_full):
    vectors, books, codes = drawn(seed)
    found = reassign(codes, vectors, books, method=method, when_full=when_full)
    assert found.item_codes.dtype == torch.int32
    assert bool((found.item_codes < torch.tensor(found.codebook_sizes)).all())
    check(found, vectors, books, codes)
    levels = len(books)
    if when_full != "other_prefix":
        assert torch.equal(found.item_codes[:, : levels - 1], codes[:, : levels - 1])
    if when_full == "level":
        assert found.resolution.collision_rate_after == 0
    if when_full == "share":
        for prefix in {tuple(row[:-1]) for row in codes.tolist()}:
            own = [tuple(row) for row in found.item_codes.tolist() if tuple(row[:-1]) == prefix]
            assert len(set(own)) == min(len(own), len(books[-1]))
    again = reassign(codes, vectors, books, method=method, when_full=when_full)
    assert torch.equal(again.item_codes, found.item_codes)
    assert again.resolution == found.resolution


def test_sinkhorn_finds_what_serving_in_order_misses():
    """Item 1, served first, would take the code that alone is near item 2."""
    book = torch.tensor([[0.0], [1.0], [-1.2]])
    vectors = torch.tensor([[0.0], [0.05], [0.4]])
    codes = torch.zeros(3, 1, dtype=torch.int32)
    greedy = reassign(codes, vectors, [book]).resolution
    spread = reassign(codes, vectors, [book], method="sinkhorn").resolution
    assert spread.collision_rate_after == greedy.collision_rate_after == 0
    best = min(float((vectors - book[list(way)]).square().mean()) for way in itertools.permutations(range(3)))
    assert spread.distortion_after == pytest.approx(best)
    assert greedy.distortion_after > best


def test_unique_items_stay_and_nothing_to_do_is_said():
    vectors = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    books = [vectors[:4].clone(), torch.randn(40, 3, generator=torch.Generator().manual_seed(1))]
    codes = torch.stack([torch.arange(20) % 4, torch.arange(20)], 1)
    for method in ("nearest_free", "sinkhorn"):
        found = reassign(codes, vectors, books, method=method)
        assert torch.equal(found.item_codes, codes.int())
        assert found.resolution.distortion_added == 0
        assert str(found.resolution).startswith(f"{method}: 0 groups of equal codes, the largest of 1; collision rate")


def test_a_full_prefix_is_told():
    books = [torch.tensor([[0.0], [10.0]]), torch.tensor([[0.0], [1.0]])]
    vectors = torch.zeros(4, 1)
    codes = torch.zeros(4, 2, dtype=torch.int32)
    found = reassign(codes, vectors, books)
    assert found.item_codes.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert found.resolution.moved_by_level == (2, 1)
    assert "2 items left a full prefix" in str(found.resolution)
    level = reassign(codes, vectors, books, when_full="level")
    assert level.item_codes.tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 2]]
    assert "a level of 3 codes added; 2 items found no free code" in str(level.resolution)
    assert reassign(codes, vectors, books, when_full="share").item_codes.tolist() == [[0, 0], [0, 1], [0, 0], [0, 0]]


def test_too_large_a_prefix_for_sinkhorn_is_named(monkeypatch):
    monkeypatch.setattr("genrec_fast.tokenizers.collisions.sinkhorn._MOST_CELLS", 8)
    with pytest.raises(UnsupportedError, match="sinkhorn needs prefixes of at most 8 items x codes, got 3 x 3"):
        reassign(torch.zeros(3, 1, dtype=torch.int32), torch.zeros(3, 1), [torch.randn(3, 1)], method="sinkhorn")


CODES, VECTORS, BOOKS = torch.zeros(2, 1, dtype=torch.int32), torch.zeros(2, 1), [torch.ones(2, 1)]
NAN = torch.tensor([[0.0], [float("nan")]])


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((CODES.float(), VECTORS, BOOKS), InvalidTypeError, r"item_codes must be integers \[N, L\], got torch.float32"),
        ((CODES + 2, VECTORS, BOOKS), InvalidValueError, r"codes of level 0 must be in \[0, 2\), got 2"),
        ((CODES[:0], VECTORS, BOOKS), InvalidValueError, r"item_codes must be \[N, 1\], got \[0, 1\]"),
        ((CODES, VECTORS.int(), BOOKS), InvalidTypeError, r"vectors must be a float tensor \[N, D\], got torch.int32"),
        ((CODES, VECTORS[:1], BOOKS), InvalidValueError, r"vectors must be \[2, 1\], got \[1, 1\]"),
        ((CODES, NAN, BOOKS), InvalidValueError, "vectors must be finite, got NaN or infinity in row 1"),
        ((CODES, VECTORS, None), InvalidTypeError, "codebooks must be a list of tensors, got NoneType"),
        ((CODES, VECTORS, []), InvalidValueError, "codebooks must be one per level, got none"),
        ((CODES, VECTORS, [CODES]), InvalidTypeError, r"codebooks must be float tensors \[K, D\], got torch.int32"),
        ((CODES, VECTORS, [NAN[:, 0]]), InvalidValueError, r"codebooks must be \[K, D\] of one D, got \[2\] at level"),
        ((CODES, VECTORS, [NAN]), InvalidValueError, "codebooks must be finite, got NaN or infinity at level 0"),
    ],
)
def test_bad_input_is_named(arguments, error, text):
    with pytest.raises(error, match=f"reassign: {text}"):
        reassign(*arguments)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"method": "far"}, "method must be one of nearest_free, sinkhorn, got 'far'"),
        ({"when_full": "cry"}, "when_full must be one of other_prefix, level, share, got 'cry'"),
        ({"epsilon": 0.0}, r"epsilon must be in \[1e-30, 1e30\], got 0.0"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_named(options, text):
    with pytest.raises(InvalidValueError, match=f"reassign: {text}"):
        reassign(CODES, VECTORS, BOOKS, **options)


@pytest.mark.parametrize("dedup", ["nearest_free", "sinkhorn"])
@pytest.mark.parametrize("kind", ["rqkmeans", "rqvae"])
def test_a_setting_of_tokenizers_with_codebooks(kind, dedup, tmp_path):
    features = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    features[20:28] = features[0]
    if kind == "rqkmeans":
        config = RQKMeansConfig(codebook_sizes=(4, 12), dedup=dedup)
    else:
        config = RQVAEConfig(codebook_sizes=(4, 12), dedup=dedup, steps=20, autoencoder_share=0.25, latent_dim=4)
    tokenizer = config.build(wide(5))
    tokenizer.fit(features)
    assert tokenizer.codebook_sizes == (4, 12)
    told = tokenizer.resolution
    assert told.method == dedup
    assert told.collision_rate_before >= 8 / 40
    assert told.collision_rate_after == 0
    assert len(set(map(tuple, tokenizer.item_codes.tolist()))) == 40
    error = float((tokenizer.decode(tokenizer.item_codes) - features).square().mean())
    assert (tokenizer.mse[-1] if kind == "rqkmeans" else tokenizer.mse) == pytest.approx(error, rel=1e-4)
    tokenizer.save(tmp_path / "t.safetensors")
    again = type(tokenizer).load(tmp_path / "t.safetensors")
    assert torch.equal(again.item_codes, tokenizer.item_codes)
    assert again.resolution == told


@pytest.mark.parametrize("epsilon", ["x", None, True, [0.1]])
def test_an_epsilon_that_is_no_number_is_named(epsilon: object) -> None:
    codes, vectors, books = torch.zeros(3, 1, dtype=torch.int64), torch.ones(3, 2), [torch.ones(4, 2)]
    with pytest.raises(InvalidTypeError, match="reassign: epsilon must be a number, got"):
        reassign(codes, vectors, books, method="sinkhorn", epsilon=epsilon)  # type: ignore[arg-type]
