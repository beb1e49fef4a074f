from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_fast import ops
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.tokenizers import kmeans
from genrec_fast.tokenizers.clustering.seeding import plus_plus, restart_empty_codes


def rows(count=400, depth=5, seed=0):
    return torch.randn(count, depth, generator=torch.Generator().manual_seed(seed))


def inertia_of(x, centroids, labels):
    return float((x.double() - centroids.double()[labels.long()]).square().sum())


class TestLloyd:
    def test_one_iteration_is_the_plain_loop(self):
        x, start = rows(), rows(7, 5, 1)
        found = kmeans(x, 7, iterations=1, init=start)
        nearest = torch.cdist(x, start).argmin(1)
        means = torch.stack([x[nearest == code].mean(0) for code in range(7)])
        torch.testing.assert_close(found.centroids, means)
        assert torch.equal(found.labels.long(), torch.cdist(x, found.centroids).argmin(1))
        assert found.labels.dtype == torch.int32
        assert found.inertia == pytest.approx(inertia_of(x, found.centroids, found.labels))

    def test_inertia_never_rises_and_the_last_figure_is_the_result(self):
        seen = []
        found = kmeans(rows(), 40, iterations=12, progress=lambda *args: seen.append(args))
        figures = [figure["inertia"] for _, _, _, figure in seen]
        assert all(later <= earlier for earlier, later in zip(figures, figures[1:], strict=False))
        assert figures[-1] == found.inertia
        assert seen[-1][:3] == ("kmeans", 13, 13)

    @pytest.mark.parametrize("init", ["kmeans++", "random"])
    @pytest.mark.parametrize("batch_size", [None, 64])
    def test_separate_clusters_are_found(self, init, batch_size):
        centres = torch.eye(6) * 50
        x = centres.repeat(30, 1) + 0.1 * rows(180, 6)
        found = kmeans(x, 6, init=init, batch_size=batch_size, restarts=8)
        assert found.labels.bincount().tolist() == [30] * 6
        assert found.inertia < 180 * 6 * 0.1**2 * 1.5

    def test_restarts_keep_the_lowest_inertia(self):
        x = rows(300, 3)
        alone = [kmeans(x, 20, init="random", iterations=3, seed=0, restarts=n).inertia for n in (1, 2, 6)]
        assert alone[0] >= alone[1] >= alone[2]
        assert alone[2] < alone[0]

    def test_the_seed_decides_for_any_number_of_threads(self):
        x = rows(3000, 8)
        found = [kmeans(x, 30, seed=3, iterations=5, batch_size=size) for size in (None, 500)]
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(3)
            again = [kmeans(x, 30, seed=3, iterations=5, batch_size=size) for size in (None, 500)]
        finally:
            torch.set_num_threads(threads)
        for first, second in zip(found, again, strict=True):
            assert torch.equal(first.centroids, second.centroids)
            assert torch.equal(first.labels, second.labels)
        assert not torch.equal(found[0].centroids, kmeans(x, 30, seed=4, iterations=5).centroids)

    def test_plus_plus_starts_better_than_random(self):
        x = torch.cat([rows(500, 4), rows(20, 4, 2) * 100])  # a few far away, that random rows miss
        assert kmeans(x, 25, iterations=0).inertia < 0.2 * kmeans(x, 25, iterations=0, init="random").inertia

    def test_a_mini_batch_run_comes_near_the_full_one(self):
        x = rows(2000, 8)
        full = kmeans(x, 32, iterations=10).inertia
        assert kmeans(x, 32, iterations=10, batch_size=256).inertia < 1.03 * full

    def test_half_precision_rows_are_read(self):
        x = rows().half()
        found = kmeans(x, 9, iterations=3)
        assert torch.equal(found.centroids, kmeans(x.float(), 9, iterations=3).centroids)

    def test_a_mapped_file_gives_what_memory_gives(self, tmp_path):
        x = rows(200, 4)
        (tmp_path / "x").write_bytes(x.numpy().tobytes())
        mapped = torch.from_file(str(tmp_path / "x"), size=800).view(200, 4)
        for size in (None, 50):
            assert torch.equal(
                kmeans(mapped, 10, batch_size=size, iterations=2).centroids,
                kmeans(x, 10, batch_size=size, iterations=2).centroids,
            )


class TestEmptyCodes:
    def test_no_code_stays_empty_while_rows_differ(self):
        x = rows(300, 4)
        start = torch.cat([x[:2], torch.full((18, 4), 1e6)])  # 18 codes that no row is near
        assert kmeans(x, 20, init=start, iterations=6).labels.unique().numel() == 20
        left = kmeans(x, 20, init=start, iterations=6, restart_empty=False)
        assert left.labels.unique().numel() == 2

    def test_mini_batches_restart_too(self):
        x = rows(300, 4)
        start = torch.cat([x[:2], torch.full((18, 4), 1e6)])
        assert kmeans(x, 20, init=start, iterations=12, batch_size=100).labels.unique().numel() == 20

    def test_the_farthest_row_of_the_worst_cluster_is_taken(self):
        x = torch.tensor([[0.0], [1.0], [100.0], [106.0], [110.0]])
        centroids, labels = torch.tensor([[0.5], [105.333], [7.0]]), torch.tensor([0, 0, 1, 1, 1])
        moved = restart_empty_codes(x, centroids, labels, torch.tensor([2, 3, 0]))
        assert moved[:, 0].tolist() == pytest.approx([0.5, 105.333, 100.0])

    @pytest.mark.parametrize("batch_size", [None, 4])
    def test_constant_rows_fill_one_code(self, batch_size):
        found = kmeans(torch.full((10, 3), 2.5), 4, batch_size=batch_size)
        assert found.inertia == 0
        assert found.labels.tolist() == [0] * 10

    def test_fewer_distinct_rows_than_codes_cost_nothing(self):
        x = torch.tensor([[0.0, 0.0], [1.0, 3.0], [5.0, 1.0]]).repeat(5, 1)
        found = kmeans(x, 8)
        assert found.inertia == 0
        assert found.labels.unique().numel() == 3

    def test_as_many_codes_as_rows_cost_nothing(self):
        x = rows(40, 3)
        assert kmeans(x, 40).inertia == 0
        assert kmeans(x[:1], 1).labels.tolist() == [0]

    @settings(deadline=None, max_examples=40)
    @given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 4), st.data())
    def test_any_small_input_gives_nearest_labels(self, count, depth, distinct, data):
        generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
        scale = data.draw(st.sampled_from([1e-12, 1.0, 1e12]))
        x = torch.randn(distinct, depth, generator=generator)[torch.arange(count) % distinct] * scale
        k = data.draw(st.integers(1, count))
        size = data.draw(st.sampled_from([None, 3]))
        found = kmeans(x, k, iterations=4, init=data.draw(st.sampled_from(["random", "kmeans++"])), batch_size=size)
        step = ops.kmeans_step(x, found.centroids)
        assert torch.equal(step.labels, found.labels)
        assert found.inertia == pytest.approx(float(step.inertia))
        assert bool(found.centroids.isfinite().all())


class TestSeeding:
    def test_rounds_give_distinct_rows_too(self):
        x = rows(3000, 6)
        chosen = plus_plus(x, 2500, torch.Generator().manual_seed(0))
        assert chosen.shape == (2500, 6)
        assert len(chosen.unique(dim=0)) == 2500

    def test_a_shift_far_from_the_origin_hides_no_cluster(self):
        x = torch.eye(5).repeat(20, 1) + 5000
        assert len(plus_plus(x, 5, torch.Generator().manual_seed(1)).unique(dim=0)) == 5


class TestMessages:
    def test_values(self):
        x = rows(10, 3)
        cases = [
            ({"k": 11}, r"kmeans: x must have at least 11 rows, one per centroid, got 10"),
            ({"k": 0}, "kmeans: k must be at least 1, got 0"),
            ({"k": 70000}, "kmeans: k must be at most 65536, got 70000"),
            ({"iterations": -1}, "kmeans: iterations must be at least 0, got -1"),
            ({"restarts": 0}, "kmeans: restarts must be at least 1, got 0"),
            ({"batch_size": 0}, "kmeans: batch_size must be at least 1, got 0"),
            ({"init": "best"}, r"kmeans: init must be 'kmeans\+\+', 'random' or a tensor, got 'best'"),
            ({"init": torch.zeros(3, 3)}, r"kmeans: init must be \[2, 3\], got \[3, 3\]"),
            ({"init": torch.full((2, 3), torch.nan)}, "kmeans: init must be finite, got NaN or infinity"),
            ({"x": x[:0]}, r"kmeans: x must be \[N, D\] with at least one of each, got \[0, 3\]"),
            ({"x": x[0]}, r"kmeans: x must be \[N, D\] with at least one of each, got \[3\]"),
        ]
        for arguments, message in cases:
            with pytest.raises(InvalidValueError, match=message):
                kmeans(**{"x": x, "k": 2, **arguments})
        x[7, 1] = torch.inf
        with pytest.raises(InvalidValueError, match="kmeans: x must be finite, got NaN or infinity in row 7"):
            kmeans(x, 2)

    def test_types(self):
        x = rows(10, 3)
        cases = [
            ({"x": [[1.0]]}, "kmeans: x must be a tensor, got list"),
            ({"x": x.long()}, r"kmeans: x must be float32, bfloat16 or float16 \[N, D\], got torch.int64"),
            ({"k": 2.0}, "kmeans: k must be an int, got 2.0"),
            ({"iterations": True}, "kmeans: iterations must be an int, got True"),
            ({"init": torch.zeros(2, 3).long()}, r"kmeans: init must be float32, .*, got torch.int64"),
        ]
        for arguments, message in cases:
            with pytest.raises(InvalidTypeError, match=message):
                kmeans(**{"x": x, "k": 2, **arguments})
