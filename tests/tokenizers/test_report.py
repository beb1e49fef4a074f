from __future__ import annotations

import json
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.tokenizers import (
    FSQConfig,
    PQConfig,
    Random,
    RandomConfig,
    RQKMeansConfig,
    RQVAEConfig,
    report,
)
from genrec_fast.tokenizers.report import page
from genrec_fast.tokenizers.report.structure import structure
from shared.catalogs import wide

SEEDS = st.integers(0, 2**31 - 1)


def drawn(seed, levels=3, size=4):
    """A small catalog: codes, features, labels (some unknown)."""
    generator = torch.Generator().manual_seed(seed)
    count = int(torch.randint(1, 40, (1,), generator=generator))
    codes = torch.randint(size, (count, levels), generator=generator)
    features = torch.randn(count, 5, generator=generator)
    labels = torch.randint(-1, 3, (count,), generator=generator)
    labels[0] = 1
    return codes, features, labels


def members(codes, length):
    groups: dict[tuple[int, ...], list[int]] = {}
    for item, row in enumerate(codes.tolist()):
        groups.setdefault(tuple(row[:length]), []).append(item)
    return groups


@given(SEEDS)
def test_figures_by_their_definitions(seed):
    codes, _, labels = drawn(seed)
    found, count = report(codes, labels=labels, codebook_sizes=(4, 4, 5)), codes.shape[0]
    for level, row in enumerate(found.levels):
        size = (4, 4, 5)[level]
        counts = [codes[:, level].tolist().count(code) for code in range(size)]
        bits = -sum(n / count * math.log2(n / count) for n in counts if n)
        assert row.entropy == pytest.approx(bits, abs=1e-12)
        assert row.perplexity == pytest.approx(2**bits)
        assert row.codes_used == sum(n > 0 for n in counts)
        differences = sum(abs(a - b) for a in counts for b in counts)  # Gini as half the mean relative difference
        assert row.gini == pytest.approx(differences / (2 * size * count), abs=1e-12)
        assert found.code_counts[level].tolist() == counts
        groups = members(codes, level + 1)
        assert row.num_prefixes == len(groups)
        assert row.largest_prefix == max(map(len, groups.values()))
        assert row.collision_rate == (count - len(groups)) / count
        known = [[int(labels[i]) for i in items if labels[i] >= 0] for items in groups.values()]
        best = sum(max(Counter(names).values()) for names in known if names)
        assert row.purity == pytest.approx(best / sum(map(len, known)))
        assert row.chance_purity <= 1
    sizes = Counter(len(items) for items in members(codes, 3).values())
    assert found.group_sizes == tuple(sorted(sizes.items()))
    assert found.largest_groups == tuple(sorted((s for s in sizes.elements() if s > 1), reverse=True)[:10])
    assert found.items_sharing == sum(size * n for size, n in sizes.items() if size > 1)


@settings(max_examples=20)
@given(SEEDS)
def test_errors_from_group_means_and_from_codebooks(seed):
    codes, features, _ = drawn(seed)
    found = report(codes, features)
    assert found.reconstruction == "group means"
    assert found.variance == pytest.approx(float((features - features.mean(0)).double().square().mean()), abs=1e-6)
    books = [torch.randn(4, 5, generator=torch.Generator().manual_seed(level)) for level in range(2)]
    by_books = report(codes, features, codebooks=books)
    assert by_books.reconstruction == "codebooks"
    assert by_books.num_levels == 2
    assert by_books.levels[2].mse is None
    total = torch.zeros_like(features)
    for level in range(3):
        means = torch.empty_like(features)
        for items in members(codes, level + 1).values():
            means[items] = features[items].mean(0)
        assert found.levels[level].mse == pytest.approx(float((features - means).square().mean()), abs=1e-6)
        if level < 2:
            total += books[level][codes[:, level]]
            error = float((features - total).square().mean())
            assert by_books.levels[level].mse == pytest.approx(error, rel=1e-5)


def test_a_tokenizer_decodes_what_it_scaled_and_its_dedup_level_counts_apart():
    features = torch.randn(60, 6, generator=torch.Generator().manual_seed(0)) * 3
    features[30:40] = features[0]
    tokenizer = RQKMeansConfig(codebook_sizes=(4, 5), normalize=True).build(wide(6))
    tokenizer.fit(features)
    found = report(tokenizer.item_codes, features, tokenizer=tokenizer)
    assert found.reconstruction == "tokenizer"
    assert found.num_levels == 2
    assert [row.mse for row in found.levels[:2]] == pytest.approx(list(tokenizer.mse), rel=1e-5)
    assert found.levels[2].mse is None
    assert found.codebook_sizes == tokenizer.codebook_sizes
    assert found.collision_rate == 0
    assert found.collision_rate_before_dedup >= 10 / 60
    assert found.largest_groups[0] >= 11
    assert "before the dedup level" in str(found)


def test_a_tokenizer_that_cannot_decode_is_measured_by_group_means():
    tokenizer: Random = RandomConfig(codebook_sizes=(3, 3), dedup="none").build()
    tokenizer.fit(num_items=20)
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    found = report(tokenizer.item_codes, features, tokenizer=tokenizer)
    assert found.reconstruction == "group means"
    assert found.levels == report(tokenizer.item_codes, features, codebook_sizes=(3, 3)).levels


def test_one_item_equal_items_and_labels_that_fit():
    one = report(torch.tensor([[3]]), torch.ones(1, 2), torch.tensor([7]))
    assert (one.collision_rate, one.variance, one.levels[0].mse, one.levels[0].purity) == (0, 0, 0, 1)
    assert "of variance" in str(one)
    equal = report(torch.zeros(8, 2, dtype=torch.int64), codebook_sizes=(4, 1))
    assert (equal.levels[0].gini, equal.levels[0].entropy, equal.levels[0].perplexity) == (0.75, 0, 1)
    assert equal.levels[1].gini == 0
    assert equal.largest_groups == (8,)
    codes = torch.arange(6).view(6, 1) // 3
    fit = report(codes, labels=torch.tensor([5, 5, 5, 9, 9, -1]))
    assert fit.levels[0].purity == 1


def test_words_json_and_pictures(tmp_path, capsys, monkeypatch):
    codes, features, labels = drawn(3)
    found = report(codes, features, labels)
    again = json.loads(json.dumps(found.to_dict()))
    assert again["levels"][1]["gini"] == found.levels[1].gini
    assert again["codebook_sizes"] == list(found.codebook_sizes)
    rows = str(found).split("\n\n")[1].splitlines()
    assert len(rows) == 4
    assert len({len(row) for row in rows}) == 1
    assert max(map(len, str(found).splitlines()[1:])) <= 100
    assert str(found).splitlines()[0].split() == f"verdict {found.verdict}, because {found.because}".split()
    assert again["verdict"] == found.verdict
    monkeypatch.setenv("COLUMNS", "160")
    found.print()
    assert "collision rate" in capsys.readouterr().out
    found.save_picture(tmp_path / "a.png")
    found.save_picture(tmp_path / "b.svg")
    report(codes).save_picture(tmp_path / "c.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(InvalidValueError, match=r"save_picture: path must end in .png, .svg, .pdf, got 'a.txt'"):
        found.save_picture(tmp_path / "a.txt")
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match="save_picture: pictures need matplotlib, which is not installed"):
        found.save_picture(tmp_path / "d.png")


CODES = torch.tensor([[0, 1], [1, 0]])
NAN = torch.tensor([[0.0], [float("nan")]])


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((CODES.float(),), InvalidTypeError, r"item_codes must be integers \[N, L\], got torch.float32"),
        (([[0, 1]],), InvalidTypeError, r"item_codes must be integers \[N, L\], got list"),
        ((CODES[0],), InvalidValueError, r"item_codes must be \[N, L\], got \[2\]"),
        ((CODES[:0],), InvalidValueError, r"item_codes must be \[N, L\], got \[0, 2\]"),
        ((CODES - 1,), InvalidValueError, r"codes of level 0 must be in \[0, 2147483648\), got -1"),
        ((CODES, NAN), InvalidValueError, "features must be finite, got NaN or infinity in row 1"),
        ((CODES, CODES), InvalidTypeError, r"features must be a float tensor \[N, F\], got torch.int64"),
        ((CODES, torch.ones(3, 1)), InvalidValueError, r"features must be \[2, F\], got \[3, 1\]"),
        ((CODES, None, torch.ones(2)), InvalidTypeError, r"labels must be integers \[N\], got torch.float32"),
        ((CODES, None, torch.tensor([1])), InvalidValueError, r"labels must be \[2\], got \[1\]"),
        ((CODES, None, torch.tensor([0, -2])), InvalidValueError, r"labels must be at least -1 \(unknown\), got -2"),
        ((CODES, None, torch.tensor([-1, -1])), InvalidValueError, "labels must be known for at least one item"),
    ],
)
def test_bad_input_is_named(arguments, error, text):
    with pytest.raises(error, match=f"report: {text}"):
        report(*arguments)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"codebook_sizes": (2,)}, InvalidValueError, r"codebook_sizes must be 2, one per level, got 1"),
        ({"codebook_sizes": (2, 1)}, InvalidValueError, r"codes of level 1 must be in \[0, 1\), got 1"),
        ({"num_levels": 3}, InvalidValueError, r"num_levels must be at most 2, got 3"),
        ({"codebooks": 3}, InvalidTypeError, "codebooks must be a list of tensors, got int"),
        ({"codebook_sizes": 3}, InvalidTypeError, "codebook_sizes must be a sequence of ints, got 3"),
        ({"codebooks": []}, InvalidValueError, "codebooks must be 1 to 2, one per level, got 0"),
        ({"codebooks": [CODES]}, InvalidTypeError, r"codebooks must be float tensors \[K, F\], got torch.int64 at lev"),
        ({"codebooks": [NAN.T]}, InvalidValueError, r"codebooks must be \[K, 1\], got \[1, 2\] at level 0"),
        ({"codebooks": [NAN]}, InvalidValueError, "codebooks must be finite, got NaN or infinity at level 0"),
        (
            {"codebooks": [torch.ones(2, 1)], "tokenizer": RandomConfig().build()},
            InvalidValueError,
            "tokenizer and codebooks must not be given together, got both",
        ),
    ],
)
def test_bad_options_are_named(options, error, text):
    with pytest.raises(error, match=f"report: {text}"):
        report(CODES, torch.ones(2, 1), **options)


def clustered(count=600, kinds=12, spread=0.3, seed=0):
    """Vectors of some kinds of items, and the kinds."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(kinds, (count,), generator=generator)
    centers = torch.randn(kinds, 8, generator=generator)
    return centers[labels] + spread * torch.randn(count, 8, generator=generator), labels


@pytest.mark.parametrize("sizes", [(4, 4), (16, 16, 16), (256, 256)])
@pytest.mark.parametrize("labelled", [False, True])
def test_random_ids_are_useless_however_many_there_are(sizes, labelled):
    """With a group for nearly every item their error is nearly 0: as low as that of any other random IDs."""
    features, labels = clustered()
    generator = torch.Generator().manual_seed(1)
    codes = torch.stack([torch.randint(size, (600,), generator=generator) for size in sizes], 1)
    found = report(codes, features, labels if labelled else None, codebook_sizes=sizes)
    assert found.verdict == "useless"
    assert "random IDs would do as well" in found.because
    for level in found.levels:
        assert level.held_out_mse > 0.95 * found.held_out_variance
        assert level.mse == pytest.approx(level.chance_mse, abs=0.1 * found.variance)
        assert level.collision_rate == pytest.approx(level.chance_collision_rate, abs=0.05)
        if labelled:
            assert level.purity == pytest.approx(level.chance_purity, abs=0.05)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ids_of_clustered_vectors_are_usable(seed):
    features, labels = clustered(seed=seed)
    tokenizer = RQKMeansConfig(codebook_sizes=(12, 12)).build(wide(8))
    tokenizer.fit(features, seed=seed)
    found = report(tokenizer.item_codes, features, labels, tokenizer=tokenizer)
    assert found.verdict == "usable", found.because
    assert min(level.held_out_mse for level in found.levels[:2]) < 0.3 * found.held_out_variance
    shuffled = report(
        tokenizer.item_codes[torch.randperm(600, generator=torch.Generator().manual_seed(seed))],
        features,
        labels,
        tokenizer=tokenizer,
    )
    assert shuffled.verdict == "useless"


def test_categories_alone_are_enough_to_judge():
    _, labels = clustered()
    assert report(labels[:, None], labels=labels).verdict == "useless"  # 12 IDs for 600 items
    own = torch.stack([labels, torch.arange(600) % 60], 1)
    assert report(own, labels=labels).verdict == "usable"
    generator = torch.Generator().manual_seed(0)
    found = [report(own.flip(1), labels=labels[torch.randperm(600, generator=generator)]).verdict for _ in range(40)]
    assert found.count("useless") >= 39 and "usable" not in found


@pytest.mark.parametrize(
    ("change", "verdicts", "reason"),
    [
        (lambda codes: codes * 0, ("useless",), "99.8% collisions"),
        (lambda codes: codes * torch.tensor([0, 1, 1]), ("weak", "useless"), "level 0 has collapsed: its 16 codes are"),
        (lambda codes: codes[:, :1], ("useless",), "97.3% collisions"),
        (lambda codes: codes[:, :2] // 2, ("weak",), "collisions"),
    ],
)
def test_collapsed_ids_say_so(change, verdicts, reason):
    features, _ = clustered()
    tokenizer = RQKMeansConfig(codebook_sizes=(16, 16, 16), dedup="none").build(wide(8))
    tokenizer.fit(features)
    codes = change(tokenizer.item_codes)
    found = report(codes, features, codebook_sizes=(16, 16, 16)[: codes.shape[1]])
    assert found.verdict in verdicts
    assert reason in found.because


def test_the_dedup_level_tells_crowded_items_apart():
    features, _ = clustered(count=2000)
    tokenizer = RQKMeansConfig(codebook_sizes=(8, 4)).build(wide(8))
    tokenizer.fit(features)
    found = report(tokenizer.item_codes, features, tokenizer=tokenizer)
    assert found.verdict == "weak"
    assert "0.0% collisions (98.8% before the dedup level)" in found.because


def test_codes_alone_say_nothing_of_their_meaning():
    codes = torch.cartesian_prod(torch.arange(5), torch.arange(6))
    found = report(codes)
    assert (found.verdict, found.because) == (
        "unknown", "without features or categories nothing says whether the codes mean anything",
    )  # fmt: skip
    assert report(codes[:, :1] * 0).verdict == "useless"


def test_the_held_out_error_of_one_level_by_its_definition():
    features, _ = clustered(count=40, kinds=3)
    codes = torch.randint(3, (40, 1), generator=torch.Generator().manual_seed(2))
    found = report(codes, features)
    nothing = total = 0.0
    x = features.double()
    for item in range(40):
        others = torch.arange(40) != item
        left = x - (x.sum(0) - x) / 39  # of everybody from the mean of the others
        same = others & (codes[:, 0] == codes[item, 0])
        guess = left[same].sum(0) / (int(same.sum()) + 1)
        nothing += float(left[item].square().mean()) / 40
        total += float((left[item] - guess).square().mean()) / 40
    assert found.held_out_variance == pytest.approx(nothing)
    assert found.levels[0].held_out_mse == pytest.approx(total)


def noise(kind, count, width, seed):
    """Features that mean nothing."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, width, generator=generator)
    return {
        "normal": drawn,
        "uniform": torch.rand(count, width, generator=generator),
        "turned": drawn @ torch.randn(width, width, generator=generator),
        "unit length": torch.nn.functional.normalize(drawn),
        "scaled": drawn * torch.randn(count, 1, generator=generator).exp(),
        "flags": (drawn > 1).float(),
    }[kind]


@pytest.mark.parametrize("kind", ["normal", "uniform", "turned", "unit length", "scaled", "flags"])
@pytest.mark.parametrize(("count", "width"), [(100, 8), (300, 64), (800, 4)])
def test_noise_is_told_from_kinds_of_items(kind, count, width):
    found = [structure(noise(kind, count, width, seed)) for seed in range(2)]
    assert all(each.found != "yes" for each in found), found


@pytest.mark.parametrize(("count", "width"), [(100, 8), (400, 64)])
@pytest.mark.parametrize("kinds", [3, 12, 30])
def test_kinds_of_items_are_told_from_noise(count, width, kinds):
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        centers = torch.randn(kinds, width, generator=generator)
        labels = torch.randint(kinds, (count,), generator=generator)
        features = centers[labels] + 0.3 * torch.randn(count, width, generator=generator)
        found = structure(features)
        assert found.found == "yes", found
        assert structure(features * 1e30) == found or structure(features * 1e30).found == "yes"


def test_too_few_items_or_columns_tell_nothing():
    features, _ = clustered(count=19)
    assert structure(features) is None
    assert structure(torch.rand(50, 1)) is None
    assert structure(torch.rand(50, 1).expand(-1, 5)) is None
    assert structure(torch.ones(50, 5)) is None
    tokenizer = RQKMeansConfig(codebook_sizes=(3, 3)).build(wide(8))
    tokenizer.fit(features)
    found = report(tokenizer.item_codes, features, tokenizer=tokenizer)
    assert found.verdict in ("weak", "useless")
    assert found.structure is None


CONFIGS = [
    RQKMeansConfig(codebook_sizes=(16, 16, 16)),
    PQConfig(codebook_sizes=(16, 16, 16)),
    FSQConfig(encoder="pca", steps=((4, 4),) * 3),
    FSQConfig(steps=((4, 4),) * 3, training_steps=100),
    RQVAEConfig(codebook_sizes=(16, 16), steps=150, hidden_sizes=(32,), latent_dim=8),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
@pytest.mark.parametrize("count", [100, 400])
def test_ids_that_are_fitted_to_noise_are_not_usable(config, count):
    """They explain half of it or more, also of items held out: so they do of anything of 6 columns."""
    features = noise("normal", count, 6, seed=count)
    tokenizer = config.build(wide(6))
    tokenizer.fit(features)
    for found in (report(tokenizer.item_codes, features, tokenizer=tokenizer), report(tokenizer.item_codes, features)):
        assert found.verdict in ("useless", "weak"), found.because
        assert found.structure.found != "yes"
    assert "noise" in found.because
    assert json.loads(json.dumps(found.to_dict()))["structure"]["found"] == found.structure.found


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
@pytest.mark.parametrize("count", [100, 400])
def test_ids_that_are_fitted_to_kinds_of_items_are_usable(config, count):
    features, _ = clustered(count=count)
    tokenizer = config.build(wide(8))
    tokenizer.fit(features)
    found = report(tokenizer.item_codes, features, tokenizer=tokenizer)
    assert found.verdict == "usable", found.because
    assert "told by neighbours" in str(found)
    random: Random = RandomConfig(codebook_sizes=(16, 16)).build()
    random.fit(num_items=count, seed=7)  # another stream than the kinds'
    assert report(random.item_codes, features).verdict == "useless"


def test_categories_make_codes_of_noise_usable():
    _, labels = clustered()
    codes = torch.stack([labels, torch.arange(600) % 60], 1)
    assert report(codes, noise("normal", 600, 6, seed=0), labels).verdict == "usable"
