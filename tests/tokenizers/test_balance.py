from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.tokenizers import balanced_assignment, kmeans
from genrec_fast.tokenizers.clustering import balance


def draw(count, depth, seed):
    return torch.randn(count, depth, generator=torch.Generator().manual_seed(seed))


def squared(x, centroids):
    return (x.double()[:, None] - centroids.double()).square().sum(2)


def cost_of(x, centroids, labels):
    return float(squared(x, centroids).gather(1, labels.long()[:, None]).sum())


def cheapest(table, room):
    """The least cost by trying all: dynamic programming over the rows per code."""
    best = {(0,) * len(table[0]): 0.0}
    for row in table:
        following = {}
        for counts, cost in best.items():
            for code, more in enumerate(row):
                if counts[code] < room:
                    key = (*counts[:code], counts[code] + 1, *counts[code + 1 :])
                    following[key] = min(following.get(key, float("inf")), cost + more)
        best = following
    return min(best.values())


class TestCapacity:
    @settings(deadline=None, max_examples=40)
    @given(st.integers(1, 11), st.integers(1, 4), st.integers(0, 99), st.booleans(), st.integers(0, 3))
    def test_cost_is_the_least_of_all(self, count, codes, seed, crowded, more):
        x, centroids = draw(count, 3, seed), draw(codes, 3, seed + 1000) * (0.1 if crowded else 1)
        room = -(-count // codes) + more
        labels = balanced_assignment(x, centroids, capacity=room)
        assert int(labels.bincount(minlength=codes).max()) <= room
        assert cost_of(x, centroids, labels) == pytest.approx(cheapest(squared(x, centroids).tolist(), room), rel=1e-5)

    @settings(deadline=None, max_examples=30)
    @given(
        st.integers(1, 60), st.integers(1, 30), st.integers(1, 5), st.sampled_from([1e-9, 1.0, 1e9]), st.integers(0, 9)
    )
    def test_the_limit_holds_for_equal_rows_too(self, count, codes, distinct, scale, seed):
        x = draw(distinct, 2, seed)[torch.arange(count) % distinct] * scale
        labels = balanced_assignment(x, draw(codes, 2, seed + 7) * scale)
        assert labels.dtype == torch.int32
        assert int(labels.bincount(minlength=codes).max()) <= -(-count // codes)

    def test_constant_rows_fill_every_code(self):
        labels = balanced_assignment(torch.ones(5000, 3), torch.ones(50, 3))
        assert labels.bincount().tolist() == [100] * 50

    def test_without_pressure_labels_are_the_nearest(self):
        x, centroids = draw(300, 4, 0), draw(9, 4, 1)
        labels = balanced_assignment(x, centroids, capacity=300)
        assert torch.equal(labels.long(), squared(x, centroids).argmin(1))

    def test_more_codes_than_a_table_of_moves(self, monkeypatch):
        x, centroids = draw(900, 4, 0), draw(30, 4, 1) * 0.3
        chained = cost_of(x, centroids, balanced_assignment(x, centroids))
        monkeypatch.setattr(balance, "_MOST_CODES", 29)
        spilled = balanced_assignment(x, centroids)
        assert spilled.bincount(minlength=30).tolist() == [30] * 30
        assert chained <= cost_of(x, centroids, spilled) < 1.02 * chained

    def test_a_chain_through_a_full_code_is_found(self):
        x = torch.tensor([[0.0], [0.1], [1.0], [1.1], [2.6]])
        centroids = torch.tensor([[0.0], [1.0], [2.0]])
        labels = torch.tensor([0, 0, 1, 1, 1])
        balance.even_out(x, centroids, labels, 2, torch.zeros(3, dtype=torch.float64))
        assert labels.tolist() == [0, 0, 1, 1, 2]
        x = torch.tensor([[0.0], [0.0], [0.4], [1.0], [1.4], [2.0]])
        labels = torch.tensor([0, 0, 0, 1, 1, 2])
        balance.even_out(x, centroids, labels, 2, torch.zeros(3, dtype=torch.float64))
        assert labels.tolist() == [0, 0, 1, 1, 2, 2]  # 0.4 to code 1, which gives 1.4 to code 2


class TestSinkhorn:
    def test_shares_are_about_equal_where_nearest_are_not(self):
        x, centroids = draw(4000, 4, 0), draw(20, 4, 1)
        nearest = squared(x, centroids).argmin(1).bincount(minlength=20)
        even = balanced_assignment(x, centroids, method="sinkhorn").bincount(minlength=20)
        assert int(nearest.max()) > 400 > 260 > int(even.max())
        assert int(even.min()) > 140 > int(nearest.min())

    def test_equals_a_plain_sinkhorn_over_the_whole_plan(self):
        x, centroids = draw(200, 3, 0), draw(6, 3, 1)
        table = squared(x, centroids)
        epsilon = 0.1 * float(table.max() - table.min()) / 2
        plan = (-table / epsilon).exp()
        for _ in range(500):
            plan /= plan.sum(1, keepdim=True)
            plan *= (200 / 6) / plan.sum(0)
        labels = balanced_assignment(x, centroids, method="sinkhorn", epsilon=0.1, sweeps=500)
        top = plan.topk(2, 1).values
        clear = top[:, 0] > 1.1 * top[:, 1]
        assert int(clear.sum()) > 150
        assert torch.equal(labels.long()[clear], plan.argmax(1)[clear])

    def test_prices_go_on_where_they_ended(self):
        x, centroids = draw(500, 3, 0), draw(10, 3, 1)
        prices = torch.zeros(10, dtype=torch.float64)
        first = balanced_assignment(x, centroids, method="sinkhorn", prices=prices, sweeps=200)
        assert float(prices.abs().max()) > 0
        again = balanced_assignment(x, centroids, method="sinkhorn", prices=prices, sweeps=1)
        assert int((first != again).sum()) <= 5


class TestBoth:
    @pytest.mark.parametrize("method", ["sinkhorn", "capacity"])
    def test_a_kept_table_gives_the_labels_of_none(self, method, monkeypatch):
        x, centroids = draw(2000, 5, 0), draw(12, 5, 1)
        kept = balanced_assignment(x, centroids, method=method)
        monkeypatch.setattr(balance, "_KEPT", 0)
        monkeypatch.setattr(balance, "_CHUNK", 100)  # many blocks
        made = balanced_assignment(x, centroids, method=method)
        assert int((kept != made).sum()) <= 4
        assert cost_of(x, centroids, kept) == pytest.approx(cost_of(x, centroids, made), rel=1e-4)

    @pytest.mark.parametrize("method", ["sinkhorn", "capacity"])
    def test_equal_inputs_give_equal_labels_and_a_shift_changes_little(self, method):
        x, centroids = draw(1500, 5, 0), draw(12, 5, 1)
        labels = balanced_assignment(x, centroids, method=method)
        assert torch.equal(labels, balanced_assignment(x, centroids, method=method))
        moved = balanced_assignment(x + 100, centroids + 100, method=method)
        assert int((moved != labels).sum()) <= 15

    @pytest.mark.parametrize("method", ["sinkhorn", "capacity"])
    def test_borders(self, method):
        one = torch.ones(1, 2)
        assert balanced_assignment(one[:0], one, method=method).tolist() == []
        assert balanced_assignment(one, one, method=method).tolist() == [0]
        assert balanced_assignment(one.repeat(5, 1), one, method=method).tolist() == [0] * 5
        assert balanced_assignment(one, draw(6, 2, 0), method=method).shape == (1,)

    @pytest.mark.parametrize(("method", "most"), [("capacity", 25), ("sinkhorn", 40)])
    def test_balanced_kmeans(self, method, most):
        x = draw(400, 4, 0)
        seen = []
        found = kmeans(x, 16, balance=method, iterations=6, progress=lambda *args: seen.append(args[3]["inertia"]))
        assert int(found.labels.bincount(minlength=16).max()) <= most < int(kmeans(x, 16).labels.bincount().max())
        assert found.inertia == pytest.approx(cost_of(x, found.centroids, found.labels))
        assert found.inertia < 0.97 * seen[0]

    def test_messages(self):
        x, centroids = draw(10, 3, 0), draw(4, 3, 1)
        values = [
            ({"method": "even"}, "method must be 'sinkhorn' or 'capacity', got 'even'"),
            ({"capacity": 2}, "capacity must be at least 3 for 10 rows, got 2"),
            ({"method": "sinkhorn", "capacity": 9}, "capacity must be None with 'sinkhorn', got 9"),
            ({"epsilon": 0.0}, r"epsilon must be in \[1e-30, 1e30\], got 0.0"),
            ({"epsilon": float("nan")}, "epsilon must be a finite number, got nan"),
            ({"epsilon": 10**400}, "epsilon must be"),
            ({"epsilon": 1e-45}, r"epsilon must be in \[1e-30, 1e30\], got 1"),
            ({"centroids": centroids[0, 0]}, r"centroids must be a matrix, as wide as the other, got \[\]"),
            ({"sweeps": 0}, "sweeps must be at least 1, got 0"),
            ({"x": x[:, :2]}, r"x must be a matrix, as wide as the other, got \[10, 2\]"),
            ({"x": x[0]}, r"x must be a matrix, as wide as the other, got \[3\]"),
            ({"centroids": centroids[:0]}, "centroids must have at least 1 row, got 0"),
            ({"prices": torch.zeros(4)}, r"prices must be float64 \[4\], got torch.float32 \[4\]"),
            ({"x": x / 0}, "x must be finite, got NaN or infinity in row 0"),
        ]
        for arguments, message in values:
            with pytest.raises(InvalidValueError, match=f"balanced_assignment: {message}"):
                balanced_assignment(**{"x": x, "centroids": centroids, **arguments})
        for arguments, message in [
            ({"x": None}, "x .*, got NoneType"),
            ({"centroids": x.int()}, ".*, got torch.int32"),
        ]:
            with pytest.raises(InvalidTypeError, match=f"balanced_assignment: {message}"):
                balanced_assignment(**{"x": x, "centroids": centroids, **arguments})
        with pytest.raises(InvalidValueError, match="kmeans: balance must be None, 'sinkhorn' or 'capacity', got 'x'"):
            kmeans(x, 2, balance="x")
        with pytest.raises(InvalidValueError, match="kmeans: batch_size must be None with balance 'capacity', got 4"):
            kmeans(x, 2, balance="capacity", batch_size=4)


def test_what_is_no_dense_tensor_of_moderate_numbers_is_named():
    x = draw(6, 3, 0)
    cases = [
        (x, None, InvalidTypeError, "centroids must be a float tensor, got NoneType"),
        (x.to("meta"), x, InvalidTypeError, "x must be a dense tensor with data, got torch.strided on meta"),
        (x, x.to_sparse(), InvalidTypeError, "centroids must be a dense tensor with data, got torch.sparse_coo on cpu"),
        (x * 3e37, x, InvalidValueError, "x must have distances whose squares float32 holds, got"),
    ]
    for rows, centroids, kind, message in cases:
        with pytest.raises(kind, match=f"balanced_assignment: {message}"):
            balanced_assignment(rows, centroids)
