"""A draft learns what its target would write: AtSpeed's two losses."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from genrec_fast.base.batch import Batch, Loss
from genrec_fast.base.columns import column
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.objective import Objective
from genrec_fast.base.protocols import TeacherForced
from genrec_fast.base.query import Query
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.objectives.next_code import NextCodeConfig


@dataclass(frozen=True)
class Aligned(Batch):
    """A batch, and what the target says of some semantic IDs behind its histories.

    Args:
        prefixes: int64 ``[M, J, L]``: the semantic IDs whose every prefix the draft is asked about.
        said: per level float ``[M, J, K_l]``: the target's logits behind their prefixes; -inf where a code is not to be
            compared.
    """

    prefixes: Tensor | None = column("target")
    said: tuple[Tensor, ...] | None = column("target")


@dataclass(frozen=True, kw_only=True)
class DraftAlignmentConfig:
    """Settings of ``DraftAlignment``; the defaults are AtSpeed's."""

    acceptance: Literal["strict", "relaxed"] = "strict"
    """the search that the draft is for: all of the target's best were drafted, or sampled acceptance"""
    weight: float = 0.5
    """of the alignment; what is left to 1 is the next code's cross-entropy"""
    top: int = 20
    """strict: how many of the draft's own likeliest codes are compared (the beams of the search)"""
    target_beams: int = 0
    """items of the target's own search whose prefixes are aligned; 0: the prefixes of the item that followed"""
    valid_only: bool = False
    """compare over the codes that lead to an item of the catalog"""

    def __post_init__(self) -> None:
        check_fields(self, zero=("target_beams",), within={"weight": "[0, 1]"})

    def build(self, catalog: Catalog | None = None) -> DraftAlignment:
        return DraftAlignment(self)


class DraftAlignment(Objective):
    """Trains ``system.draft``; the backbone, which it is to be the draft of, stays as it was started from.

    ::

        (1 - weight) * CE(draft, the item that followed) + weight * mean over prefixes of
            strict:  sum over the draft's top K of q (log q - log p) - p_K * sum over them of q log q
            relaxed: 1/2 sum |q - p|

    q is the draft's distribution of the next code, p the target's (the reference of the training), p_K the target's
    K-th highest probability. A strict search accepts a level only where nothing that the target likes is missing: what
    the draft likes best must be what the target likes, the more sharply the more the target has to offer at place K.

    Notes:
        Needs a decoder with a draft (``SpeculativeConfig``) and ``gf.train(..., start=the target)``. The target is not
        trained, so a validation asks the draft alone. With ``target_beams`` every step searches; ``targets="last"``.

    Source: AtSpeed (arXiv:2410.05165), section 3.2; code Linxyhaha/AtSpeed, commit 93bc886. That p_K is the target's
    own K-th highest is our reading.
    """

    needs = TeacherForced
    reads_reference: ClassVar[bool] = True

    def __init__(self, config: DraftAlignmentConfig) -> None:
        self.config, self.next_code = config, NextCodeConfig().build()

    def judged(self, system: Any) -> Any:
        """The draft, by a search of its own."""
        return system.drafting()

    def prepare(self, system: Any, batch: Batch) -> Aligned:
        """Asks the target.

        Raises:
            InvalidTypeError: no draft that learns semantic IDs.
            InvalidValueError: a batch without targets; with ``target_beams``, one with several a user.
        """
        draft = getattr(system, "draft", None)
        if not isinstance(draft, TeacherForced):
            raise InvalidTypeError(
                f"DraftAlignment: decoder must have a draft that is TeacherForced, got {type(draft).__name__}"
            )
        if batch.target_codes is None or len(batch.target_codes) == 0:
            raise InvalidValueError("DraftAlignment: batch must have targets, got none")
        prefixes = batch.target_codes.unsqueeze(1)
        if self.config.target_beams:
            if len(prefixes) != len(batch):
                raise InvalidValueError(
                    "DraftAlignment: batching.targets must be 'last' where target_beams is set, "
                    f"got {len(prefixes)} targets of {len(batch)} users"
                )
            with system.answering():
                found = system.search(batch, Query(k=self.config.target_beams)).codes.to(prefixes.device).long()
            prefixes = torch.where(found < 0, prefixes, found)
        rows = [self._said(system, batch, codes) for codes in prefixes.unbind(1)]
        said = tuple(torch.stack(level, 1) for level in zip(*rows, strict=True))
        return Aligned.of(batch, prefixes=prefixes, said=said)

    def __call__(self, system: Any, batch: Batch) -> Loss:
        """Loss of a prepared batch; figures: both parts, and how often the draft's best code is the target's."""
        assert isinstance(batch, Aligned)
        assert batch.prefixes is not None
        assert batch.said is not None
        written = self.next_code(SimpleNamespace(backbone=system.draft), batch)
        losses, agreed = [], []
        for number, codes in enumerate(batch.prefixes.unbind(1)):
            for level, logits in enumerate(system.draft.level_logits(dataclasses.replace(batch, target_codes=codes))):
                theirs = batch.said[level][:, number].float()
                ours = logits.float().masked_fill(theirs == -torch.inf, -torch.inf)
                if self.config.acceptance == "strict":
                    losses.append(reverse_kl_of_top(ours, theirs, self.config.top))
                else:
                    losses.append(total_variation(ours, theirs))
                agreed.append((ours.argmax(1) == theirs.argmax(1)).float().mean())
        aligned, weight = torch.stack(losses).mean(), self.config.weight
        figures = {
            "loss_codes": float(written.value.detach()),
            "loss_alignment": float(aligned.detach()),
            "agreed": float(torch.stack(agreed).mean()),
        }
        return Loss((1.0 - weight) * written.value + weight * aligned, written.count, figures)

    def _said(self, system: Any, batch: Batch, codes: Tensor) -> list[Tensor]:
        """The target's logits behind the prefixes of ``[M, L]``."""
        levels: list[Tensor] = system.reference.level_logits(dataclasses.replace(batch, target_codes=codes))
        if not self.config.valid_only:
            return levels
        out, nodes = [], torch.zeros(len(codes), dtype=torch.int32, device=codes.device)
        for level, logits in enumerate(levels):
            if level:
                nodes = system.trie.lookup(codes[:, :level].int().contiguous())
            out.append(logits.masked_fill(~system.trie.valid_codes(level, nodes), -torch.inf))
        return out


def reverse_kl_of_top(student: Tensor, teacher: Tensor, top: int) -> Tensor:
    """Mean over rows of ``sum_T q (log q - log p) - p_K sum_T q log q``, T the student's ``top`` likeliest.

    Args:
        student: float ``[M, K]``, logits of q; -inf where the teacher has -inf.
        teacher: float ``[M, K]``, logits of p.
        top: size of T, and the place of p_K among the teacher's; 0 where fewer codes are left.
    """
    q, p = student.log_softmax(1), teacher.log_softmax(1)
    best, at = q.topk(min(top, q.shape[1]), dim=1)
    there = best > -torch.inf
    best, said = best.where(there, 0.0), p.gather(1, at).where(there, 0.0)
    shares = best.exp().where(there, 0.0)
    kth = p.exp().topk(min(top, p.shape[1]), dim=1).values[:, -1]
    return ((shares * (best - said)).sum(1) - kth * (shares * best).sum(1)).mean()


def total_variation(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over rows of half the sum of ``|q - p|``; logits float ``[M, K]``."""
    return 0.5 * (student.softmax(1) - teacher.softmax(1)).abs().sum(1).mean()
