"""The next code, learned by the backbone and by its draft."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import genrec_fast as gf
from genrec_fast.base.batch import Loss
from genrec_fast.base.objective import Objective
from genrec_fast.base.protocols import TeacherForced
from genrec_fast.decoders.base import Parts


@gf.register_config
@dataclass(frozen=True, kw_only=True)
class BothConfig:
    """Settings of ``Both``: none."""

    def build(self, catalog: gf.Catalog) -> Both:
        return Both(catalog)


class Both(Objective):
    """The losses of both added up: neither learns from the other."""

    needs = TeacherForced

    def __init__(self, catalog: gf.Catalog) -> None:
        self.next_code = gf.NextCodeConfig().build(catalog)

    def __call__(self, system: Any, batch: gf.Batch) -> Loss:
        ours, drafts = (self.next_code(Parts(network), batch) for network in (system.backbone, system.draft))
        return Loss(ours.value + drafts.value, ours.count, {"loss_draft": float(drafts.value.detach())})
