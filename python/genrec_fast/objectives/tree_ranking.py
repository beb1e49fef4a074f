"""SEATER's three losses: the way down the tree, items by how much of it they share, nodes by their parents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_fast.base.batch import Batch, Loss
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.objective import Objective
from genrec_fast.catalog.catalog import Catalog


class TreeWriting(Protocol):
    """A backbone with a vector for every node of a tree, such as ``backbones.Seater``."""

    nodes: nn.Embedding

    def read(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """States ``[E, D]`` of the histories' items, and their offsets."""
        ...

    def write(self, ways: Tensor, memory: Tensor, offsets: Tensor) -> Tensor:
        """States ``[R, t, D]`` at the nodes of ways ``[R, t]``, equally many for each user."""
        ...

    def target_states(self, batch: Batch, memory: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """States ``[M, L, D]`` above the targets' leaves, and the ways ``[M, L + 1]`` to these."""
        ...

    def child_logits(self, states: Tensor, nodes: Tensor, level: int) -> Tensor:
        """``[R, K]`` of states ``[R, D]`` at nodes ``[R]``; -inf where there is no child."""
        ...

    def paths(self, codes: Tensor) -> Tensor:
        """Ways ``[M, L + 1]`` along codes ``[M, L]``."""
        ...

    def affinity(self, memory: Tensor, offsets: Tensor, states: Tensor) -> Tensor:
        """How well users and ways fit: ``[M, n]`` in (0, 1), of states ``[M, n, L, D]``."""
        ...


@dataclass(frozen=True, kw_only=True)
class TreeRankingConfig:
    """Settings of ``TreeRanking``; the defaults are SEATER's."""

    num_sampled: int = 4  # items drawn per target for the ranking
    margin: float = 0.001  # of two scores, for every place between them
    ranking_weight: float = 0.05
    node_weight: float = 0.05  # 0.09 on MIND
    temperature: float = 0.2  # of the cosines of nodes

    def __post_init__(self) -> None:
        check_fields(self, above=("temperature",))

    def build(self, catalog: Catalog) -> TreeRanking:
        return TreeRanking(self, catalog)


class TreeRanking(Objective):
    """Sum of the cross-entropy of the way, a ranking of sampled items, and a contrast of nodes with their parents.

    ::

        way      mean over targets and levels of -log softmax over the children of the true parent
        ranking  sum over i of mean max(0, s_w - s_b + i margin), over the pairs i places apart of the sampled items
                 and the target, ordered by how much of the target's way they share, of which b shares more than w;
                 s = sigmoid(p W q), p the mean of what the encoder, q of what the decoder made, each projected
        node     mean over the batch's nodes n of -log( exp(cos(n, parent) / t) / sum exp(cos(n, m) / t) ),
                 m the batch's nodes but n and its children

    Source: SEATER (arXiv:2309.13375), sections 3.3 and 3.4.
    """

    needs = TreeWriting

    def __init__(self, config: TreeRankingConfig, catalog: Catalog) -> None:
        self.config, self.num_items = config, catalog.num_items

    def __call__(self, system: Any, batch: Batch) -> Loss:
        """Loss over the M targets of a batch; draws from torch's generator."""
        if batch.target_codes is None or batch.target_codes.shape[0] == 0:
            raise InvalidValueError("TreeRanking: batch must have targets, got none")
        backbone, config = system.backbone, self.config
        memory, offsets = backbone.read(batch)
        states, ways = backbone.target_states(batch, memory, offsets)
        levels = states.shape[1]
        losses = [
            F.cross_entropy(backbone.child_logits(states[:, level], ways[:, level], level).float(), codes)
            for level, codes in enumerate(batch.target_codes.unbind(1))
        ]
        way = torch.stack(losses).mean()
        codes = system.catalog.item_codes.to(ways.device).long()
        drawn = torch.randint(self.num_items, (len(ways), config.num_sampled), device=ways.device)
        sampled = backbone.paths(codes[drawn.flatten()])[:, :-1].view(len(ways), config.num_sampled, levels)
        shared = (sampled == ways[:, None, :-1]).sum(2)
        shared, order = shared.sort(dim=1, stable=True)
        sampled = sampled.gather(1, order[..., None].expand(-1, -1, levels))
        others = backbone.write(sampled.flatten(0, 1), memory, offsets).view(*sampled.shape, -1)
        scores = backbone.affinity(memory, offsets, torch.cat([others, states[:, None]], 1))
        own = shared.new_full((len(ways), 1), levels)
        ranking = rank_loss(scores.float(), torch.cat([shared, own], 1), config.margin)
        node = node_loss(backbone.nodes.weight, ways, config.temperature)
        value = way + config.ranking_weight * ranking + config.node_weight * node
        figures = {"way": way, "ranking": ranking, "node": node}
        return Loss(value, len(ways), {f"loss_{name}": float(part.detach()) for name, part in figures.items()})


def rank_loss(scores: Tensor, shared: Tensor, margin: float) -> Tensor:
    """The ranking's loss of scores ``[M, n]`` whose ``shared [M, n]`` ascend; see ``TreeRanking``."""
    total = scores.new_zeros(())
    for apart in range(1, scores.shape[1]):
        counts = shared[:, apart:] > shared[:, :-apart]
        lost = (scores[:, :-apart] - scores[:, apart:] + margin * apart).relu()
        total = total + (lost * counts).sum() / counts.sum().clamp(min=1)
    return total


def node_loss(table: Tensor, ways: Tensor, temperature: float) -> Tensor:
    """The nodes' loss of ways ``[M, L + 1]``, which begin at the root; see ``TreeRanking``."""
    edges = torch.stack([ways[:, :-1].flatten(), ways[:, 1:].flatten()], 1).unique(dim=0)
    parents, nodes = edges.unbind(1)
    root = ways[:1, 0]
    known = torch.cat([root, nodes])
    unit = F.normalize(table[known], dim=1)
    cosines = unit[1:] @ unit.T / temperature
    hidden = torch.cat([root - 1, parents])[None] == nodes[:, None]  # its children
    hidden[:, 1:].fill_diagonal_(fill_value=True)  # itself
    positive = (known[None] == parents[:, None]).to(torch.int64).argmax(1)
    return F.cross_entropy(cosines.masked_fill(hidden, -torch.inf), positive)
