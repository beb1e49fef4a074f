"""A small network drafts items, the system's own reads all that they begin with in one pass; the answers are its own.

What was not drafted is read when the search asks for it: a bad draft changes nothing but the time.

Source: speculative decoding (arXiv:2211.17192) for beams, as in AtSpeed (arXiv:2410.05165), without its sampling.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import genrec_fast as gf
from genrec_fast.base.protocols import Session, TreeSession
from genrec_fast.decoders.beam import Beam
from genrec_fast.decoders.trie_search import TrieSearch
from genrec_fast.nn.engine.plan import Plan
from proofs import shop
from proofs.both import BothConfig


@dataclass(frozen=True)
class Read(Session):
    """A session that reads rows when they are first asked for."""

    tree: TreeSession  # behind every row that was read; the prompt is row 0
    sizes: tuple[int, ...]  # of the codebooks of the levels to come
    logits: Tensor  # [B, R, K] of those rows
    codes: Tensor  # int64 [B, R]: what each row wrote, -1 the prompt
    parents: Tensor  # int64 [B, R]: and behind which row
    beams: Tensor  # int64 [B, W]: where the beams stand

    def read(self, codes: Tensor, parents: Tensor) -> Read:
        """With more rows, int ``[B, n]``, in one pass."""
        tree = self.tree.extend_tree(codes, parents)
        logits = torch.cat([self.logits, tree.scores()[0]], 1)
        wrote, below = torch.cat([self.codes, codes], 1), torch.cat([self.parents, parents], 1)
        return dataclasses.replace(self, tree=tree, logits=logits, codes=wrote, parents=below)

    def scores(self, span: object = None, *, log_sums: bool = False) -> tuple[Tensor, None]:
        found = self.logits.gather(1, self.beams.unsqueeze(2).expand(-1, -1, self.logits.shape[2]))
        return found[..., : self.sizes[0]].contiguous(), None

    def extend(self, codes: Tensor, parents: Tensor) -> Read:
        above = self.beams.gather(1, parents.long())
        known = (self.parents.unsqueeze(1) == above.unsqueeze(2)) & (self.codes.unsqueeze(1) == codes.unsqueeze(2))
        missing = ~known.any(2)
        most = int(missing.sum(1).max())
        first = missing.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        after = self.read(codes.gather(1, first), above.gather(1, first)) if most else self
        beams = torch.where(missing, self.codes.shape[1] + missing.cumsum(1) - 1, known.int().argmax(2))
        return dataclasses.replace(after, beams=beams, sizes=self.sizes[1:])

    def select(self, users: Tensor) -> Read:
        columns = {name: getattr(self, name)[users] for name in ("logits", "codes", "parents", "beams")}
        return dataclasses.replace(self, tree=self.tree.select(users), **columns)


@gf.register_config
@dataclass(frozen=True, kw_only=True)
class DraftedBeamConfig(gf.BeamConfig):
    """Settings of ``DraftedBeam``."""

    draft: Any  # the config of a backbone
    num_drafts: int = 20  # items that it drafts for each user

    def build(self, catalog: gf.Catalog | None = None) -> DraftedBeam:
        return DraftedBeam(self)


class DraftedBeam(Beam):
    """A beam search that reads the prefixes of drafted items ahead."""

    def parts(self, catalog: gf.Catalog) -> dict[str, nn.Module]:
        return {"draft": self.config.draft.build(catalog)}

    def prefill(self, system: Any, batch: gf.Batch) -> Session:
        sizes, count = system.trie.codebook_sizes, self.config.num_drafts
        plan = Plan((count,) * len(sizes))
        drafts = TrieSearch(system.draft.prefill(batch), system.trie, plan, len(batch)).run().found().codes
        codes, parents, above = [], [], torch.zeros_like(drafts[..., 0])
        for level, code in enumerate(drafts[..., :-1].clamp(min=0).unbind(2)):
            codes, parents = [*codes, code], [*parents, above]
            prefix = drafts[..., : level + 1]  # drafts that begin alike go on behind the first of them
            above = (prefix.unsqueeze(2) == prefix.unsqueeze(1)).all(3).int().argmax(2) + level * drafts.shape[1] + 1
        tree, root = system.backbone.prefill(batch), torch.zeros(len(batch), 1, dtype=torch.int64)
        logits = F.pad(tree.scores()[0], (0, max(sizes) - sizes[0]), value=-torch.inf)
        ahead = Read(tree, sizes, logits, root - 1, root - 1, root)
        return ahead.read(torch.cat(codes, 1), torch.cat(parents, 1))


def recipe() -> gf.Recipe:
    decoder = DraftedBeamConfig(num_beams=10, draft=gf.TimelineConfig(width=8, num_heads=1, num_layers=1))
    return dataclasses.replace(shop.recipe(), name="drafted", objective=BothConfig(), decoder=decoder)
