from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.tokenizers import HierarchicalConfig
from genrec_fast.tokenizers.clustering.tree import descend, grow
from shared.catalogs import wide
from shared.tokenizer_suite import TokenizerSuite


def vectors(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tree(x, branching, seed=0):
    return grow(x, branching, iterations=10, generator=torch.Generator().manual_seed(seed))


class TestHierarchical(TokenizerSuite):
    smallest = 1

    def config(self, folder):
        return HierarchicalConfig(codebook_sizes=(4, 3))

    def test_decode_gives_the_means_of_nodes(self, tmp_path):
        tokenizer = self.fitted(tmp_path)
        features, codes = self.features(), tokenizer.item_codes
        first = features[codes[:, 0] == codes[0, 0]]
        assert torch.allclose(tokenizer.decode(codes[:, :1])[0], first.mean(0), atol=1e-6)
        together = (codes[:, :2] == codes[0, :2]).all(1)
        assert torch.allclose(tokenizer.decode(codes[:, :2])[0], features[together].mean(0), atol=1e-6)
        error = (tokenizer.decode(codes[:, :2]) - features).square().mean()
        assert tokenizer.mse[1] == pytest.approx(float(error), rel=1e-5)

    def test_a_path_that_no_item_has_is_named(self):
        tokenizer = HierarchicalConfig(codebook_sizes=(4, 3)).build(wide(6))
        tokenizer.fit(self.features()[:5])  # two items below the first node, one below each other
        assert tokenizer.decode(torch.tensor([[0, 1], [1, 0]])).shape == (2, 6)
        with pytest.raises(InvalidValueError, match=r"codes must be a path of the tree, got \[1, 1\] in row 1"):
            tokenizer.decode(torch.tensor([[0, 1], [1, 1]]))


@given(
    st.integers(1, 200),
    st.integers(1, 5),
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.sampled_from(["normal", "grid", "equal"]),
    st.integers(0, 1000),
)
@settings(max_examples=60)
def test_children_differ_by_at_most_one_row(rows, width, branching, kind, seed):
    x = vectors(rows, width, seed=seed)
    if kind == "grid":
        x = x.round()
    elif kind == "equal":
        x = torch.ones(rows, width)
    levels, codes = tree(x, tuple(branching), seed)
    assert bool(((codes >= 0) & (codes < torch.tensor(branching))).all())
    for depth, size in enumerate(branching):
        counts = Counter(map(tuple, codes[:, : depth + 1].tolist()))
        parents = {}
        for path, count in counts.items():
            parents.setdefault(path[:-1], []).append(count)
        for found in parents.values():
            found += [0] * (size - len(found))
            assert max(found) - min(found) <= 1
    if kind == "normal":  # no equal rows
        assert torch.equal(descend(x, levels), codes)
    else:
        assert tuple(descend(x, levels).shape) == tuple(codes.shape)


def test_enough_codes_give_every_row_its_own():
    _, codes = tree(vectors(60, 4), (4, 4, 4))
    assert len(codes.unique(dim=0)) == 60


def test_clusters_are_found():
    """Eight far clusters of equal size, however the rows are mixed: the first level is the clusters."""
    centres, label = 20 * vectors(8, 6, seed=1), torch.arange(400) % 8
    _, codes = tree(centres[label] + 0.1 * vectors(400, 6, seed=2), (8, 2))
    assert len(torch.stack([label, codes[:, 0].long()], 1).unique(dim=0)) == 8


def test_near_rows_share_prefixes_and_the_error_falls():
    x = vectors(2000, 5)
    errors = []
    grow(x, (4, 4, 4), iterations=10, generator=torch.Generator(), progress=lambda done, total, mse: errors.append(mse))
    assert float(x.var(0).mean()) > errors[0] > errors[1] > errors[2]
    shuffled = torch.randperm(2000, generator=torch.Generator().manual_seed(0))
    _, codes = tree(x, (4,))
    means = torch.stack([x[codes[:, 0] == code].mean(0) for code in range(4)])
    mixed = torch.stack([x[codes[shuffled, 0] == code].mean(0) for code in range(4)])
    assert means.var(0).sum() > 20 * mixed.var(0).sum()


def test_messages():
    with pytest.raises(InvalidValueError, match=r"HierarchicalConfig: codebook_sizes must be in \[1, 65536\], one per"):
        HierarchicalConfig(codebook_sizes=())
    with pytest.raises(InvalidValueError, match="HierarchicalConfig: iterations must be at least 1, got 0"):
        HierarchicalConfig(iterations=0)
    with pytest.raises(InvalidTypeError, match=r"HierarchicalConfig: iterations must be an int, got 2\.0"):
        HierarchicalConfig(iterations=2.0)
    with pytest.raises(InvalidValueError, match=r"feature_dim must be at least 1 .* got None"):
        HierarchicalConfig().build(wide(None))
