"""Codes are hidden at random, and told from those that are not: every order of writing is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

import genrec_fast as gf
from genrec_fast.base.batch import Loss
from genrec_fast.base.columns import column
from genrec_fast.base.objective import Objective

HIDDEN = -1


class MaskedCodes(Protocol):
    """A backbone that tells hidden codes from the rest of their semantic ID and from the history."""

    def read(self, batch: gf.Batch) -> Any:
        """The histories of B users."""
        ...

    def slot_logits(self, history: Any, written: Tensor) -> list[Tensor]:
        """Per level ``[B, W, K]`` of int64 ``[B, W, L]``, ``HIDDEN`` where a code is to be told."""
        ...


@dataclass(frozen=True)
class Hidden(gf.Batch):
    """A batch whose targets are partly hidden: ``written`` is int64 ``[M, L]``."""

    written: Tensor | None = column("target")


@gf.register_config
@dataclass(frozen=True, kw_only=True)
class AnyOrderConfig:
    """Settings of ``AnyOrder``: none."""

    def build(self, catalog: gf.Catalog) -> AnyOrder:
        return AnyOrder()


class AnyOrder(Objective):
    """Mean over hidden codes of ``-log p(code | history, codes that are not hidden)``; one target a user.

    A share of a target's codes that is itself drawn is hidden, and at least one.
    """

    needs = MaskedCodes

    def prepare(self, system: Any, batch: gf.Batch) -> Hidden:
        codes = batch.target_codes
        hidden = torch.rand(codes.shape) < torch.rand(len(codes), 1)
        hidden[torch.arange(len(codes)), torch.randint(codes.shape[1], (len(codes),))] = True
        return Hidden.of(batch, written=codes.masked_fill(hidden, HIDDEN))

    def __call__(self, system: Any, batch: Hidden) -> Loss:
        logits = system.backbone.slot_logits(system.backbone.read(batch), batch.written.unsqueeze(1))
        asked = torch.where(batch.written == HIDDEN, batch.target_codes, -100)  # what is not hidden does not count
        losses = [F.cross_entropy(logits[i][:, 0].float(), asked[:, i], reduction="sum") for i in range(len(logits))]
        count = int((batch.written == HIDDEN).sum())
        return Loss(torch.stack(losses).sum() / count, count)
