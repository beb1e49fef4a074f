"""What a training minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import nn

from genrec_fast.base.batch import Batch, Loss
from genrec_fast.base.errors import UnsupportedError
from genrec_fast.base.jagged import Jagged


class Objective(ABC):
    """What is minimised, in three moments: before a step, in it, and after an epoch.

    Random numbers come from torch's generator, which the training seeds for every step.

    Attributes:
        needs: the protocol that the system's backbone must speak.
        metric: the figure of a validation by which the best weights are kept; "-" in front: the smaller the better.
        reads_reference: whether ``system.reference`` must be there: the backbone that training starts from, as it was.
        at_once: whether training is one call of ``learn`` in place of steps.
    """

    needs: ClassVar[type]
    metric: ClassVar[str] = "ndcg@10"
    reads_reference: ClassVar[bool] = False
    at_once: ClassVar[bool] = False

    def parts(self, catalog: Any) -> dict[str, nn.Module]:
        """Networks that are trained and saved beside the backbone, by the name they have in the system."""
        return {}

    def prepare(self, system: Any, batch: Batch) -> Batch:
        """The batch as the step reads it, without gradients: negatives, another model's answers, rollouts and rewards.

        Args:
            system: ``System``.
            batch: through the layout.
        """
        return batch

    @abstractmethod
    def __call__(self, system: Any, batch: Batch) -> Loss:
        """The loss of a prepared batch."""

    def judged(self, system: Any) -> Any:
        """The system whose answers a validation looks at: the one that is trained, or a part of it by itself."""
        return system

    def after_epoch(self, system: Any) -> Any:
        """A ``Catalog`` of the same items with other semantic IDs to go on with; ``None``: as they are."""
        return None

    def learn(self, system: Any, histories: Jagged) -> None:
        """All of a training, for objectives that learn ``at_once``: ``histories`` are those of the training split."""
        raise UnsupportedError(f"{type(self).__name__}: this objective learns by steps, so learn() has nothing to do")
