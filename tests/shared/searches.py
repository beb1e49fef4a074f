"""Searches of random networks over random catalogs, for hypothesis."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.trie import build_trie
from shared.decoder_suite import users_of
from shared.random_model import RandomModel


@st.composite
def searches(draw, *, most_k, tree=False):
    """A catalog with shared semantic IDs, a model, users, k, a filter over items or none, and what it keeps."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    items = draw(st.integers(1, 60))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 30)))
    codes = torch.stack([torch.randint(size, (items,), generator=generator) for size in sizes], 1)
    model = RandomModel(
        sizes,
        draw(st.integers(0, 1000)),
        scale=draw(st.sampled_from([0.0, 0.5, 4.0, 40.0])),
        steps=draw(st.sampled_from([2, 4, 1 << 20])),
        forbidden=draw(st.sampled_from([0.0, 0.0, 0.3])),
        tree=tree,
    )
    users = draw(st.integers(1, 5))
    batch = users_of(users, items, draw(st.integers(0, 1000)))
    k = draw(st.integers(1, most_k))
    allowed = exclude = None
    keep = torch.ones(users, items, dtype=torch.bool)
    kind = draw(st.sampled_from(["none", "none", "one", "each"]))
    if kind != "none":
        density = draw(st.sampled_from([0.0, 0.05, 0.5, 0.9]))
        shape = (items,) if kind == "one" else (users, items)
        allowed = torch.rand(shape, generator=generator) < density
        keep &= allowed
    if draw(st.booleans()):
        rows = [torch.randint(items, (n,), generator=generator) for n in torch.randint(items, (users,)).tolist()]
        exclude = Jagged.from_rows(rows)
        for user, row in enumerate(rows):
            keep[user, row] = False
    filters = {"allowed": allowed, "exclude": exclude}
    return codes, build_trie(codes, codebook_sizes=sizes), model, batch, k, filters, keep
