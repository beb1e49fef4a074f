"""Terms of published tokenizers against their formulas, written out in float64."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.recipes import cost, letter
from genrec_fast.tokenizers.regularisers import (
    AlignmentConfig,
    CodedBatch,
    ContrastiveConfig,
    DiversityConfig,
    FitContext,
    UniquenessConfig,
)


def context(histories=None, num_items=4, sizes=(2,), latent_dim=3):
    generator = torch.Generator().manual_seed(0)
    return FitContext(
        num_items=num_items,
        feature_dim=5,
        latent_dim=latent_dim,
        codebook_sizes=sizes,
        histories=histories,
        categories=None,
        generator=generator,
    )


def coded_batch(num_codes=2, items=4):
    """Four items, two codes, in float64 with gradients on codebook and reconstruction."""
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    book = draw(num_codes, 3).requires_grad_()
    codes = (torch.arange(items) % num_codes)[:, None]
    return CodedBatch(
        items=torch.arange(items),
        size=items,
        asked=slice(items, items),
        features=draw(items, 5),
        reconstruction=draw(items, 5).requires_grad_(),
        latent=draw(items, 3),
        prefixes=(book[codes[:, 0]],),
        codes=codes,
        codebooks=(book,),
    )


def agree(term, formula, leaf):
    found, wanted = (torch.autograd.grad(value, leaf, retain_graph=True)[0] for value in (term, formula))
    torch.testing.assert_close(term, formula, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_letter_aligns_by_inner_products_in_the_batch():
    histories = Jagged.from_rows([[0, 1, 2], [2, 3], [1, 3, 0]])
    term = AlignmentConfig(temperature=1.0, similarity="product").build(context(histories)).double()
    batch = coded_batch()
    book, vectors = batch.codebooks[0], term.vectors
    total = torch.zeros((), dtype=torch.float64)
    for item in range(4):
        code = book[item % 2]
        scores = torch.stack([code @ vectors[other] for other in range(4)])
        total = total - (scores[item].exp() / scores.exp().sum()).log()
    agree(term(batch), total / 4, book)


@pytest.mark.parametrize("num_codes", [2, 4])
def test_letter_spreads_codes_by_inner_products(num_codes):
    """With two codes to a group the positive is the other one: nothing is left to chance but the groups."""
    term = DiversityConfig(groups=num_codes // 2, temperature=1.0, similarity="product").build(context(sizes=(4,)))
    batch = coded_batch(num_codes)
    book = batch.codebooks[0]
    value = term(batch)
    labels = term.labels[0]
    total = torch.zeros((), dtype=torch.float64)
    for item in range(4):
        own = item % num_codes
        (other,) = [code for code in range(num_codes) if code != own and labels[code] == labels[own]]
        scores = {code: book[own] @ book[code] for code in range(num_codes) if code != own}
        total = total - scores[other] + torch.stack(list(scores.values())).logsumexp(0)
    if num_codes == 2:  # the other code is all there is
        assert float(value.detach()) == 0.0
    agree(value, total / 4, book)


def test_cost_tells_items_apart_by_cosines():
    term, batch = ContrastiveConfig(temperature=0.1).build(context()), coded_batch()
    cosine = torch.nn.functional.cosine_similarity
    total = torch.zeros((), dtype=torch.float64)
    for item in range(4):
        scores = torch.stack(
            [cosine(batch.reconstruction[item], batch.features[other], dim=0) / 0.1 for other in range(4)]
        )
        total = total - scores[item] + scores.logsumexp(0)
    agree(term(batch), total / 4, batch.reconstruction)


def test_hid_vae_pushes_items_of_equal_codes_apart():
    batch = coded_batch(2, 4)  # codes 0, 1, 0, 1: the pairs are (0, 2) and (1, 3)
    latent = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.9, 0.1], [0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    batch = dataclasses.replace(batch, latent=latent)
    term = UniquenessConfig(margin=0.5).build(context())
    cosine = torch.nn.functional.cosine_similarity
    pairs = [(cosine(latent[a], latent[b], dim=0) - 0.5).relu() for a, b in ((0, 2), (1, 3))]
    assert float(pairs[0].detach()) > 0
    assert float(pairs[1].detach()) == 0
    agree(term(batch), (pairs[0] + pairs[1]) / 2, latent)
    alone = dataclasses.replace(batch, codes=torch.arange(4)[:, None])
    assert float(term(alone).detach()) == 0.0
    with pytest.raises(InvalidValueError, match=r"margin must be in \[0, 1\), got 1"):
        UniquenessConfig(margin=1.0)


def test_the_recipes_have_these_terms():
    align, spread = letter().tokenizer.regularisers
    assert (align.similarity, spread.similarity, align.temperature, spread.temperature) == (*("product",) * 2, 1.0, 1.0)
    assert letter().tokenizer.decay is None  # codebooks that do not learn by gradient could not spread
    assert cost().tokenizer.reconstruction_weight == 0.0
    assert [type(term) for term in cost().tokenizer.regularisers] == [ContrastiveConfig]
