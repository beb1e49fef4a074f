from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_fast.tokenizers.collisions.groups import group_items

ROWS = st.integers(1, 3).flatmap(
    lambda levels: st.lists(
        st.lists(st.sampled_from([0, 1, 2, 2**31 - 1]), min_size=levels, max_size=levels), min_size=1, max_size=30
    )
)


@given(ROWS)
def test_order_and_groups_as_python_sorts(rows):
    groups = group_items(torch.tensor(rows))
    assert groups.order.tolist() == sorted(range(len(rows)), key=lambda item: (rows[item], item))
    for length in range(len(rows[0]) + 1):
        prefixes = [tuple(row[:length]) for row in rows]
        different = sorted(set(prefixes))
        assert groups.counts(length).tolist() == [prefixes.count(prefix) for prefix in different]
        places = groups.order.tolist()
        assert groups.numbers(length).tolist() == [different.index(prefixes[item]) for item in places]
        seen = [prefixes[item] for item in places]
        assert groups.ranks(length).tolist() == [seen[:i].count(prefix) for i, prefix in enumerate(seen)]


def test_keys_that_do_not_fit_one_integer():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(2**31 - 1, (200, 6), generator=generator)
    codes[100:] = codes[:100]
    rows = codes.tolist()
    groups = group_items(codes)
    assert groups.order.tolist() == sorted(range(200), key=lambda item: (rows[item], item))
    assert groups.counts(6).tolist() == [2] * 100
