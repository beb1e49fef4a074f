from __future__ import annotations

import torch

from genrec_fast.objectives import TreeRankingConfig
from genrec_fast.objectives.tree_ranking import node_loss, rank_loss
from shared.objective_suite import ObjectiveSuite


class TestTreeRanking(ObjectiveSuite):
    recipe = "seater"
    objective = TreeRankingConfig()
    draws = True


def test_the_ranking_is_its_formula():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    shared = torch.tensor([[1, 1, 1, 2, 3], [1, 2, 2, 3, 3], [1, 1, 1, 1, 3]])
    total = torch.zeros((), dtype=torch.float64)
    for apart in range(1, 5):
        lost = [
            (scores[row, worse] - scores[row, worse + apart] + 0.1 * apart).relu()
            for row in range(3)
            for worse in range(5 - apart)
            if shared[row, worse + apart] > shared[row, worse]
        ]
        total = total + torch.stack(lost).mean()
    found = rank_loss(scores, shared, 0.1)
    torch.testing.assert_close(found, total, rtol=1e-12, atol=1e-12)
    ours, theirs = (torch.autograd.grad(value, scores, retain_graph=True)[0] for value in (found, total))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_items_that_share_as_much_are_not_ranked():
    """Two items of the same subtree change places: nothing that ranks others of the row changes."""
    scores, shared = torch.tensor([[0.9, 0.1]]), torch.tensor([[2, 2]])
    assert float(rank_loss(scores, shared, 0.001)) == float(rank_loss(scores.flip(1), shared, 0.001)) == 0.0


def test_nodes_are_told_by_their_parents():
    """A binary tree of 8 leaves, two ways: 0 -> 1 -> 3 -> 7 and 0 -> 1 -> 4 -> 9."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(15, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    ways = torch.tensor([[0, 1, 3, 7], [0, 1, 4, 9]])
    cosine = torch.nn.functional.cosine_similarity
    children, parent = {1: (3, 4), 3: (7,), 4: (9,), 7: (), 9: ()}, {1: 0, 3: 1, 4: 1, 7: 3, 9: 4}
    total = torch.zeros((), dtype=torch.float64)
    for node, below in children.items():
        others = [other for other in (0, 1, 3, 4, 7, 9) if other != node and other not in below]
        scores = torch.stack([cosine(table[node], table[other], dim=0) / 0.2 for other in others])
        total = total - scores[others.index(parent[node])] + scores.logsumexp(0)
    found = node_loss(table, ways, 0.2)
    torch.testing.assert_close(found, total / 5, rtol=1e-12, atol=1e-12)
    ours, theirs = (torch.autograd.grad(value, table, retain_graph=True)[0] for value in (found, total / 5))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
