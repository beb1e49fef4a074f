"""Users' sessions side by side, each with a cache of its own: what is kept of prompts, one user at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from genrec_fast.hf.called import CalledModel
from genrec_fast.hf.session import TransformersSession
from genrec_fast.hf.stepped import Stepped, forked

__all__ = ["Several"]


class Several(TransformersSession):
    """One session of sessions of one user each, behind prompts that were read without padding.

    Args:
        model: to be called.
        users: B sessions of one user.
        together: whether the model gives padded prompts their own logits, wherever they lie: then a search joins the
            caches, padded on the left, and calls the model once a level; else once per user and level.
    """

    def __init__(self, model: CalledModel, users: Sequence[Stepped], together: bool) -> None:
        self.model, self.users, self.together = model, list(users), together
        self.logits = torch.cat([user.logits for user in self.users])

    def extend(self, codes: Tensor, parents: Tensor) -> TransformersSession:
        """Every beam by a token: integers ``[B, W]`` each."""
        if self.together or len(self.users) == 1:
            return self._joined().extend(codes, parents)
        rows = zip(self.users, codes.split(1), parents.split(1), strict=True)
        return Several(self.model, [user.extend(*both) for user, *both in rows], False)

    def extend_tree(self, codes: Tensor, parents: Tensor) -> TransformersSession:
        """See ``TreeSession``."""
        if self.together or len(self.users) == 1:
            return self._joined().extend_tree(codes, parents)
        return super().extend_tree(codes, parents)

    def select(self, users: Tensor) -> Several:
        """The session of users int64 ``[m]``, independent of this one."""
        alone = torch.zeros(1, dtype=torch.int64)
        return Several(self.model, [self.users[user].select(alone) for user in users.tolist()], self.together)

    def _joined(self) -> Stepped:
        """One cache of all users; a single user's own."""
        if len(self.users) == 1:
            return self.users[0]
        masks = [user.mask for user in self.users if user.mask is not None]
        longest = max(mask.shape[1] for mask in masks)
        mask = torch.cat([F.pad(mask, (longest - mask.shape[1], 0)) for mask in masks])
        joined = Stepped(self.model, {}, mask, True, self.users[0].prompt)
        joined.cache, joined.logits = forked(self.users[0].cache), self.logits
        for number, layer in enumerate(joined.cache.layers):
            if layer.is_initialized:  # those that share another's keys have none
                layers = [user.cache.layers[number] for user in self.users]
                layer.keys, layer.values = (
                    torch.cat([F.pad(part, (0, 0, longest - part.shape[-2], 0)) for part in parts])
                    for parts in zip(*((one.keys, one.values) for one in layers), strict=True)
                )
        return joined
