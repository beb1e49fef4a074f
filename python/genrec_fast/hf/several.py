"""Users' sessions side by side: each has a cache of its own, without padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_fast.hf.called import CalledModel
from genrec_fast.hf.session import TransformersSession
from genrec_fast.hf.stepped import Stepped

__all__ = ["Several"]


class Several(TransformersSession):
    """One session of sessions of one user each; the model is called once per user and level.

    Args:
        model: to be called.
        users: B sessions of one user.
    """

    def __init__(self, model: CalledModel, users: Sequence[Stepped]) -> None:
        self.model, self.users = model, list(users)
        self.logits = torch.cat([user.logits for user in self.users])

    def extend(self, codes: Tensor, parents: Tensor) -> Several:
        """Every beam by a token: integers ``[B, W]`` each."""
        rows = zip(self.users, codes.split(1), parents.split(1), strict=True)
        return Several(self.model, [user.extend(*both) for user, *both in rows])

    def select(self, users: Tensor) -> Several:
        """The session of users int64 ``[m]``, independent of this one."""
        alone = torch.zeros(1, dtype=torch.int64)
        return Several(self.model, [self.users[user].select(alone) for user in users.tolist()])
