"""Users' sessions side by side, each with a cache of its own: what is kept of prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_fast.hf.called import CalledModel
from genrec_fast.hf.joined import join
from genrec_fast.hf.session import TransformersSession
from genrec_fast.hf.stepped import Stepped


class Several(TransformersSession):
    """One session of sessions of one user each, behind prompts.

    Args:
        model: to be called.
        users: B sessions of one user.
        together: whether a search may join the caches and call the model once a level; else once per user and level.
    """

    def __init__(self, model: CalledModel, users: Sequence[Stepped], together: bool) -> None:
        self.model, self.users, self.together = model, list(users), together
        self.logits = torch.cat([user.logits for user in self.users])

    def extend(self, codes: Tensor, parents: Tensor) -> TransformersSession:
        """Every beam by a token: integers ``[B, W]`` each."""
        if self.together or len(self.users) == 1:
            return self._as_one().extend(codes, parents)
        rows = zip(self.users, codes.split(1), parents.split(1), strict=True)
        return Several(self.model, [user.extend(*both) for user, *both in rows], False)

    def extend_tree(self, codes: Tensor, parents: Tensor) -> TransformersSession:
        """See ``TreeSession``."""
        if self.together or len(self.users) == 1:
            return self._as_one().extend_tree(codes, parents)
        return super().extend_tree(codes, parents)

    def select(self, users: Tensor) -> Several:
        """The session of users int64 ``[m]``, independent of this one."""
        alone = torch.zeros(1, dtype=torch.int64)
        return Several(self.model, [self.users[user].select(alone) for user in users.tolist()], self.together)

    def _as_one(self) -> Stepped:
        return self.users[0] if len(self.users) == 1 else join(self.model, self.users)
