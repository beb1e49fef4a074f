from __future__ import annotations

import pytest
import torch

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.nn.estimators import past, rotate_to, sinkhorn_codes
from genrec_fast.nn.quantize import ResidualQuantizer, VectorQuantizer


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def started(**settings):
    quantizer = VectorQuantizer(8, 4, **settings)
    quantizer.start(drawn(8, 4, seed=5))
    return quantizer


def test_straight_through_gives_the_code_and_hands_the_gradient_on():
    x, vector, gradient = drawn(5, 4).requires_grad_(), drawn(5, 4, seed=1), drawn(5, 4, seed=2)
    out = past("straight_through", x, vector, None)
    assert torch.equal(out, vector)
    out.backward(gradient)
    assert torch.equal(x.grad, gradient)


def test_the_rotation_turns_x_onto_the_code_and_the_gradient_back():
    x, vector = drawn(6, 4).double().requires_grad_(), drawn(6, 4, seed=1).double()
    out = rotate_to(x, vector)
    assert torch.equal(out, vector)
    for row in range(6):
        u, v = x[row].detach() / x[row].norm().detach(), vector[row] / vector[row].norm()
        r = (u + v) / (u + v).norm()
        turn = torch.eye(4).double() - 2 * torch.outer(r, r) + 2 * torch.outer(v, u)
        turn *= vector[row].norm() / x[row].norm().detach()
        torch.testing.assert_close(turn @ x[row].detach(), vector[row])  # it is the map that the paper says
        jacobian = torch.stack([torch.autograd.grad(out[row, i], x, retain_graph=True)[0][row] for i in range(4)])
        torch.testing.assert_close(jacobian, turn)


def test_where_there_is_nothing_to_turn_the_gradient_is_straight():
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]], requires_grad=True)
    vector = torch.tensor([[1.0, 1.0], [0.0, 0.0], [-2.0, -4.0]])
    out = rotate_to(x, vector)
    assert torch.equal(out, vector)
    out.backward(torch.ones(3, 2))
    assert torch.equal(x.grad, torch.ones(3, 2))


def test_gumbel_teaches_encoder_and_codebook_and_ends_at_one_code():
    quantizer, x = started(estimator="gumbel"), drawn(16, 4).requires_grad_()
    noise = torch.rand(16, 8, generator=torch.Generator().manual_seed(1))
    out = quantizer(x, noise=noise, temperature=1.0)
    out.vectors.square().sum().backward()
    assert bool(x.grad.abs().sum(1).gt(0).all())
    assert bool(quantizer.weight.grad.abs().sum() > 0)
    cold = quantizer(x, noise=noise, temperature=1e-4)
    torch.testing.assert_close(cold.vectors, quantizer.codebook[cold.codes[:, 0]], atol=1e-3, rtol=0)
    quantizer.eval()
    assert torch.equal(quantizer(x).codes[:, 0], torch.cdist(x, quantizer.weight).argmin(1))
    quantizer.train()
    with pytest.raises(InvalidValueError, match="VectorQuantizer: noise must be given in training with gumbel, got"):
        quantizer(x)


def test_gumbel_draws_a_code_as_often_as_its_gaussian_says():
    quantizer = VectorQuantizer(2, 1, estimator="gumbel")
    quantizer.start(torch.tensor([[0.0], [3.0]]))
    x = torch.ones(20000, 1)
    noise = torch.rand(20000, 2, generator=torch.Generator().manual_seed(1))
    share = quantizer(x, noise=noise).codes.double().mean()  # distances 1 and 4, s^2 = 1
    assert float(share) == pytest.approx(1 / (1 + torch.tensor(1.5).exp().item()), abs=0.01)


@pytest.mark.parametrize("estimator", ["straight_through", "rotation"])
@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_the_codebook_learns_by_gradient(estimator, distance):
    quantizer, x = started(estimator=estimator, distance=distance), drawn(64, 4)
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=0.5)
    losses = []
    for _ in range(60):
        loss = quantizer(x).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_the_moving_average_ends_at_the_means_of_what_is_coded():
    quantizer, x = started(decay=0.5), drawn(64, 4)
    assert not any(p.requires_grad for p in quantizer.parameters())
    for _ in range(100):
        out = quantizer(x)
    for code in out.codes.unique():
        torch.testing.assert_close(quantizer.weight[code], x[out.codes[:, 0] == code].mean(0))
    assert float(out.loss.detach()) == pytest.approx(
        0.25 * float((x - quantizer.weight[out.codes[:, 0]]).square().mean())
    )


@pytest.mark.parametrize("decay", [None, 0.9])
def test_cosine_codes_have_one_length_so_that_nearest_is_largest_cosine(decay):
    quantizer, x = started(distance="cosine", decay=decay), drawn(64, 4)
    quantizer(x)
    book = quantizer.codebook.detach()
    torch.testing.assert_close(book.norm(dim=1), book.norm(dim=1)[:1].expand(8))
    cosine = torch.nn.functional.cosine_similarity(x[:, None], book[None], dim=2)
    assert torch.equal(quantizer.eval()(x).codes[:, 0], cosine.argmax(1))


def test_sinkhorn_spreads_what_argmin_would_pile_up():
    x = drawn(64, 4) * 0.1 + torch.tensor([3.0, 0, 0, 0])
    book = drawn(8, 4, seed=3)
    distances = torch.cdist(x, book).square()
    assert len(distances.argmin(1).unique()) < 4
    counts = torch.bincount(sinkhorn_codes(distances, 0.05, 200), minlength=8)
    assert int(counts.min()) >= 4  # an even share is 8
    balanced = torch.eye(8).repeat(4, 1)
    assert torch.equal(sinkhorn_codes(1 - balanced, 0.003), torch.arange(8).repeat(4))
    assert torch.equal(sinkhorn_codes(torch.zeros(3, 4), 0.003), torch.zeros(3, dtype=torch.int64))  # ties: the lower
    assert sinkhorn_codes(torch.empty(0, 4), 0.003).shape == (0,)
    with pytest.raises(InvalidValueError, match=r"sinkhorn_codes: epsilon must be at least 0.003, got 0.001"):
        sinkhorn_codes(distances, 0.001)
    with pytest.raises(InvalidValueError, match=r"sinkhorn_codes: iterations must be at least 1, got 0"):
        sinkhorn_codes(distances, 0.1, 0)


def test_sinkhorn_acts_on_the_last_level_in_training_only():
    quantizer = ResidualQuantizer((4, 8), 4, sinkhorn_epsilon=0.01)
    for seed, level in enumerate(quantizer.levels):
        level.start(drawn(level.weight.shape[0], 4, seed=seed) * 0.01)
    x = drawn(64, 4) + 3
    even = torch.bincount(quantizer(x).codes[:, 1], minlength=8)
    plain = torch.bincount(quantizer.eval()(x).codes[:, 1], minlength=8)
    assert int(even.max()) < int(plain.max())
    assert quantizer.levels[0].sinkhorn_epsilon == 0


def test_levels_code_what_is_left_and_the_gradient_passes_once():
    quantizer = ResidualQuantizer((8, 8, 8), 4).eval()
    for seed, level in enumerate(quantizer.levels):
        level.start(drawn(8, 4, seed=seed) / (seed + 1))
    x = drawn(20, 4, seed=9).requires_grad_()
    out = quantizer(x)
    residual = x.detach()
    for level, book in enumerate(quantizer.codebooks):
        torch.testing.assert_close(out.residuals[level], residual)
        assert torch.equal(out.codes[:, level], torch.cdist(residual, book).argmin(1))
        residual = residual - book[out.codes[:, level]]
    torch.testing.assert_close(out.vectors, x - residual)
    out.vectors.sum().backward()
    assert torch.equal(x.grad, torch.ones(20, 4))


def test_unused_codes_are_moved_onto_vectors_of_the_batch_and_used_ones_stay():
    quantizer = VectorQuantizer(4, 2)
    quantizer.start(torch.tensor([[0.0, 0], [1, 1], [90, 90], [80, 80]]))
    x = torch.rand(32, 2, generator=torch.Generator().manual_seed(0))
    order = torch.arange(31, -1, -1)
    quantizer(x)
    assert quantizer.restart(x, order, below=0.1).tolist() == []  # 32 vectors say nothing yet
    for _ in range(2):
        quantizer(x)
    assert quantizer.restart(x, order, below=0.1).tolist() == [2, 3]
    assert torch.equal(quantizer.weight.detach()[:2], torch.tensor([[0.0, 0], [1, 1]]))
    assert torch.equal(quantizer.weight.detach()[2:], x[[31, 30]])
    assert len(quantizer(x).codes.unique()) == 4


def test_messages_name_argument_rule_and_value():
    with pytest.raises(InvalidValueError, match=r"VectorQuantizer: estimator must be one of straight_through, .*'no'"):
        VectorQuantizer(4, 4, estimator="no")
    with pytest.raises(InvalidValueError, match="VectorQuantizer: distance must be one of l2, cosine, got 'no'"):
        VectorQuantizer(4, 4, distance="no")
    with pytest.raises(InvalidValueError, match=r"VectorQuantizer: decay must be in \[0, 1\), got 1"):
        VectorQuantizer(4, 4, decay=1)
    with pytest.raises(InvalidValueError, match="VectorQuantizer: decay must be None with gumbel, which learns by"):
        VectorQuantizer(4, 4, decay=0.9, estimator="gumbel")
    with pytest.raises(InvalidValueError, match="VectorQuantizer: commitment must be at least 0, got nan"):
        VectorQuantizer(4, 4, commitment=float("nan"))
    with pytest.raises(InvalidValueError, match="VectorQuantizer: size and width must be at least 1, got 0 and 4"):
        VectorQuantizer(0, 4)
    with pytest.raises(InvalidValueError, match=r"VectorQuantizer: centroids must be \[4, 4\], got \[3, 4\]"):
        VectorQuantizer(4, 4).start(torch.zeros(3, 4))
