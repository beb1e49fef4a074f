"""kmeans_step against its twin (equal bits), against a plain loop, and in blocks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from genrec_fast.base import errors
from genrec_fast.ops.kmeans_step import KMeansStep, kmeans_step
from genrec_fast.ops.reference import kmeans_step as reference
from shared.isas import every_isa


def twin(x: Tensor, centroids: Tensor, after: KMeansStep | None = None) -> KMeansStep:
    before = (None, None, None) if after is None else (after.sums, after.counts, after.inertia)
    return KMeansStep(*reference.kmeans_step(x, centroids, *before))


def assert_equal(left: KMeansStep, right: KMeansStep) -> None:
    for name in KMeansStep._fields:
        a, b = getattr(left, name), getattr(right, name)
        assert (a.dtype, a.shape) == (b.dtype, b.shape), name
        if a.dtype == torch.float64:
            a, b = a.contiguous().view(torch.int64), b.contiguous().view(torch.int64)
        assert torch.equal(a, b), (name, getattr(left, name), getattr(right, name))


def on_every_isa(x: Tensor, centroids: Tensor, expected: KMeansStep, after: KMeansStep | None = None) -> None:
    for _ in every_isa():
        for precision in ("float32", "bfloat16"):
            assert_equal(kmeans_step(x, centroids, after=after, precision=precision), expected)


@given(data=st.data())
def test_equals_its_twin_on_every_instruction_set(data):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**30), "seed"))
    rows = data.draw(st.sampled_from([0, 1, 2, 5, 33, 200, 1023, 1025]), "N")
    size = data.draw(st.sampled_from([1, 2, 3, 16, 33, 100]), "K")
    depth = data.draw(st.sampled_from([1, 2, 15, 16, 17, 40]), "D")
    centroids = torch.randn(size, depth, generator=generator)
    x = torch.randn(rows, depth, generator=generator) * data.draw(st.sampled_from([1e-20, 0.1, 1.0, 1e15]), "scale")
    kind = data.draw(st.sampled_from(["random", "duplicates", "on centroids", "integers", "zero", "far"]), "kind")
    if kind == "duplicates":
        centroids[size // 2 :] = centroids[: size - size // 2].clone()
    if kind == "on centroids" and rows:
        x = centroids[torch.randint(0, size, (rows,), generator=generator)]
    if kind == "integers":
        centroids, x = centroids.round(), (x.clamp(-3, 3) * 2).round()
    if kind == "zero":
        centroids = torch.zeros_like(centroids)
    if kind == "far":  # from 0, and close together
        place = torch.randn(depth, generator=generator) * data.draw(st.sampled_from([10.0, 1e3, 1e6]), "how far")
        centroids, x = centroids + place, x.clamp(-5, 5) + place
    x = x.to(data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), "dtype"))
    x = torch.where(x.isfinite(), x, torch.ones((), dtype=x.dtype))  # 1e15 is infinite in float16
    centroids = centroids.to(data.draw(st.sampled_from([torch.float32, torch.bfloat16]), "dtype of centroids"))
    after = kmeans_step(x[: rows // 2], centroids) if data.draw(st.booleans(), "after") else None
    on_every_isa(x, centroids, twin(x, centroids, after), after)


def test_equals_a_plain_loop():
    generator = torch.Generator().manual_seed(3)
    x, centroids = torch.randn(1500, 5, generator=generator), torch.randn(7, 5, generator=generator)
    step = kmeans_step(x, centroids)
    sums, counts = [[0.0] * 5 for _ in range(7)], [0] * 7
    distances = torch.cdist(x.double(), centroids.double())
    assert torch.equal(step.labels.long(), distances.argmin(1))
    for row, label in zip(x.tolist(), step.labels.tolist(), strict=True):
        sums[label] = [a + b for a, b in zip(sums[label], row, strict=True)]
        counts[label] += 1
    assert step.sums.tolist() == sums
    assert step.counts.tolist() == counts
    assert step.inertia.item() == pytest.approx(distances.amin(1).square().sum().item(), rel=1e-12)


def test_no_rows_and_one_centroid():
    none = kmeans_step(torch.empty(0, 3), torch.ones(2, 3))
    assert none.labels.shape == (0,)
    assert none.sums.tolist() == [[0.0] * 3] * 2
    assert none.counts.tolist() == [0, 0]
    assert none.inertia.item() == 0
    one = kmeans_step(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]]))
    assert [part.tolist() for part in one] == [[0], [[1.0, 2.0]], [1], 4.0]


def test_ties_go_to_the_lower_centroid():
    centroids = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    x = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [0.0, -1.0], [0.5, 0.5]])
    on_every_isa(x, centroids, twin(x, centroids))
    assert kmeans_step(x, centroids).labels.tolist() == [0, 2, 0, 0]


@pytest.mark.parametrize("rows_per_block", [1024, 2048])
def test_blocks_of_rows_give_the_bits_of_one_call(rows_per_block):
    generator = torch.Generator().manual_seed(4)
    x, centroids = torch.randn(5000, 9, generator=generator), torch.randn(20, 9, generator=generator)
    step, labels = None, []
    for block in x.split(rows_per_block):
        step = kmeans_step(block, centroids, after=step)
        labels.append(step.labels)
    assert_equal(step._replace(labels=torch.cat(labels)), kmeans_step(x, centroids))


def test_strided_rows_and_gradients_are_no_matter():
    x = torch.randn(64, 40, generator=torch.Generator().manual_seed(5))
    assert_equal(kmeans_step(x[::2, ::4], x[:8, ::4]), kmeans_step(x[::2, ::4].contiguous(), x[:8, ::4].contiguous()))
    assert_equal(kmeans_step(x.T, x.T[:5]), kmeans_step(x.T.contiguous(), x.T[:5].contiguous()))
    assert not kmeans_step(x.clone().requires_grad_(), x[:3].clone().requires_grad_()).sums.requires_grad


@pytest.mark.threads
def test_threads_give_the_same(threads):
    generator = torch.Generator().manual_seed(6)
    x, centroids = torch.randn(5001, 67, generator=generator), torch.randn(70, 67, generator=generator)
    alone = kmeans_step(x, centroids)
    for count in (2, 3, 4):
        threads(count)
        for _ in range(3):
            assert_equal(kmeans_step(x, centroids), alone)


def test_opcheck():
    x, centroids = torch.randn(5, 3), torch.randn(4, 3)
    op = torch.ops.genrec_fast.kmeans_step.default
    torch.library.opcheck(op, (x, centroids, None, None, None, "float32"))
    torch.library.opcheck(op, (x, centroids, *kmeans_step(x, centroids)[1:], "bfloat16"))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_that_are_not_finite_are_named(value, dtype):
    x = torch.ones(3000, 20, dtype=dtype)
    x[2345, 17] = value
    with pytest.raises(errors.InvalidValueError, match=r"kmeans_step: x must be finite, got .* in row 2345"):
        kmeans_step(x, torch.ones(3, 20))
    with pytest.raises(errors.InvalidValueError, match=r"kmeans_step: centroids must be finite, got .* in row 2345"):
        kmeans_step(torch.ones(3, 20), x)


@pytest.mark.parametrize(
    ("x", "centroids", "error", "text"),
    [
        ([[1.0]], torch.ones(1, 1), errors.InvalidTypeError, "x must be a tensor, got list"),
        (
            torch.ones(2, 3).double(),
            torch.ones(1, 3),
            errors.InvalidTypeError,
            r"x must be float32, .* got torch.f.*64",
        ),
        (torch.ones(3), torch.ones(1, 3), errors.InvalidValueError, r"x must be \[N, D\], got \[3\]"),
        (torch.ones(3, 0), torch.ones(1, 0), errors.InvalidValueError, r"D at least 1, got \[3, 0\]"),
        (torch.ones(2, 3), torch.ones(1, 3).int(), errors.InvalidTypeError, "centroids must be float32, .*int32"),
        (torch.ones(2, 3), torch.ones(1, 4), errors.InvalidValueError, r"centroids must be \[K, 3\] .* got \[1, 4\]"),
        (torch.ones(2, 3), torch.ones(0, 3), errors.InvalidValueError, r"K in \[1, 65536\], got \[0, 3\]"),
        (torch.ones(2, 3), torch.ones(1, 3, device="meta"), errors.InvalidValueError, "centroids must have data"),
    ],
)
def test_bad_input_is_named(x, centroids, error, text):
    with pytest.raises(error, match=f"kmeans_step: .*{text}"):
        kmeans_step(x, centroids)


def test_values_at_the_edge_of_float32():
    x = torch.tensor([[3e38, 3e38], [-3e38, 3e38], [1e-45, 0.0]])
    on_every_isa(x, x, twin(x, x))
    step = kmeans_step(x, x)
    assert step.labels.tolist() == [0, 1, 2]
    assert step.inertia.item() == 0


def test_a_step_of_other_centroids_and_another_precision_are_refused():
    step = kmeans_step(torch.ones(2, 3), torch.ones(4, 3))
    text = r"kmeans_step: after.sums must be torch.float64 \[5, 3\] on cpu, got torch.float64 \[4, 3\]"
    with pytest.raises(errors.InvalidValueError, match=text):
        kmeans_step(torch.ones(2, 3), torch.ones(5, 3), after=step)
    with pytest.raises(errors.InvalidValueError, match="precision must be 'float32' or 'bfloat16', got 'int8'"):
        kmeans_step(torch.ones(2, 3), torch.ones(4, 3), precision="int8")
    with pytest.raises(errors.InvalidTypeError, match="kmeans_step: after must be a KMeansStep, got int"):
        kmeans_step(torch.ones(2, 3), torch.ones(4, 3), after=0)


def test_compiles_into_one_graph():
    x, centroids = torch.randn(40, 3, generator=torch.Generator().manual_seed(7)), torch.eye(3)
    compiled = torch.compile(lambda x, c: kmeans_step(x * 2, c), fullgraph=True, backend="aot_eager")
    assert_equal(KMeansStep(*compiled(x, centroids)), kmeans_step(x * 2, centroids))


# ---- kernels for cards


def moved(step: KMeansStep | None, device: str) -> KMeansStep | None:
    return None if step is None else KMeansStep(*(part.to(device) for part in step))


def assert_card_like_twin(card: str, x: Tensor, centroids: Tensor, after: KMeansStep | None = None) -> None:
    found = kmeans_step(x.to(card), centroids.to(card), after=moved(after, card))
    assert_equal(moved(found, "cpu"), twin(x, centroids, after))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    rows=st.sampled_from([0, 1, 5, 33]),
    size=st.sampled_from([1, 2, 17, 40]),
    depth=st.sampled_from([1, 15, 16, 17, 40]),
    seed=st.integers(0, 2**30),
    scale=st.sampled_from([1e-20, 0.1, 1.0, 1e15]),
    kind=st.sampled_from(["random", "duplicates", "on centroids", "integers", "zero", "far"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    continued=st.booleans(),
)
def test_a_card_gives_these_bits(card, rows, size, depth, seed, scale, kind, dtype, continued):
    generator = torch.Generator().manual_seed(seed)
    centroids = torch.randn(size, depth, generator=generator)
    x = torch.randn(rows, depth, generator=generator) * scale
    if kind == "duplicates":
        centroids[size // 2 :] = centroids[: size - size // 2].clone()
    if kind == "on centroids":
        x = centroids[torch.randint(0, size, (rows,), generator=generator)]
    if kind == "integers":
        centroids, x = centroids.round(), (x.clamp(-3, 3) * 2).round()
    if kind == "zero":
        centroids = torch.zeros_like(centroids)
    if kind == "far":
        place = torch.randn(depth, generator=generator) * 1e3
        centroids, x = centroids + place, x.clamp(-5, 5) + place
    x = x.to(dtype)
    x = torch.where(x.isfinite(), x, torch.ones((), dtype=dtype))
    assert_card_like_twin(card, x, centroids, twin(x[: rows // 2], centroids) if continued else None)


def test_a_card_adds_in_the_order_of_the_rows(card):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2100, 5, generator=generator) * 10 ** torch.randn(2100, 1, generator=generator)
    centroids = torch.randn(7, 5, generator=generator)
    assert_card_like_twin(card, x, centroids)
    step, labels, there = None, [], centroids.to(card)
    for block in x.to(card).split(1024):
        step = kmeans_step(block, there, after=step)
        labels.append(step.labels)
    assert_equal(moved(step._replace(labels=torch.cat(labels)), "cpu"), twin(x, centroids))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_card_leaves_out_rows_that_are_not_finite(card, value):
    generator = torch.Generator().manual_seed(4)
    x, centroids = torch.randn(40, 20, generator=generator), torch.randn(3, 20, generator=generator)
    wrong = torch.arange(40) % 9 == 2
    expected = twin(x[~wrong], centroids)
    x[wrong, 17] = value
    step = moved(kmeans_step(x.to(card), centroids.to(card)), "cpu")
    assert step.labels[wrong].eq(-1).all()
    assert step.inertia.isnan()
    assert_equal(step._replace(labels=step.labels[~wrong], inertia=expected.inertia), expected)
    centroids[1, 3] = value
    step = kmeans_step(x.to(card), centroids.to(card))
    assert step.labels.eq(-1).all()
    assert step.counts.tolist() == [0, 0, 0]
    assert step.inertia.isnan()
