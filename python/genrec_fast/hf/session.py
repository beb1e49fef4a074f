"""A search over a model of transformers, run by its own modules: what its two ways have in common."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from genrec_fast.base.errors import UnsupportedError
from genrec_fast.base.protocols import TreeSession
from genrec_fast.hf.adapters import underlying
from genrec_fast.hf.called import CalledModel
from genrec_fast.ops.beam_attention import runs_on_card


def on_card(model: nn.Module) -> bool:
    """Whether a model's first weight is where kernels for cards run."""
    weight = next(underlying(model).parameters(), None)
    return weight is not None and runs_on_card(weight)


def searched_on(model: nn.Module) -> torch.device:
    """Where a search over a model has its trie and scores: beside the first weight on a card, else on the CPU."""
    return next(underlying(model).parameters()).device if on_card(model) else torch.device("cpu")


class TransformersSession(TreeSession):
    """See ``TreeSession``, extended by tokens; scores are where the trie is (``searched_on``).

    Args:
        model: to be called.
        logits: ``[B, W, V]`` behind the rows of the last call, on the model's device.
    """

    model: CalledModel
    logits: Tensor

    @abstractmethod
    def extend(self, codes: Tensor, parents: Tensor) -> TransformersSession:
        """Every beam by a token: integers ``[B, W]`` each."""

    @abstractmethod
    def select(self, users: Tensor) -> TransformersSession:
        """The session of users int64 ``[m]``, independent of this one."""

    def extend_tree(self, codes: Tensor, parents: Tensor) -> TransformersSession:
        """See ``TreeSession``; not every model keeps a state that rows at different depths can share.

        Raises:
            UnsupportedError: such a model, by its name.
        """
        raise UnsupportedError(
            f"extend_tree: {self.model.name} must be a decoder that keeps the keys and values of every token, "
            "to read rows at different depths in one call: extend level by level"
        )

    def scores(self, span: Tensor | slice | None = None, *, log_sums: bool = False) -> tuple[Tensor, Tensor | None]:
        """Logits ``[B, W, K]`` of tokens (``None``: of the whole vocabulary), and their sums if wanted."""
        tokens = slice(None) if span is None else span if isinstance(span, slice) else span.to(self.logits.device)
        there = searched_on(self.model.owner)
        return self.logits[..., tokens].to(there), self.logits.logsumexp(-1).to(there) if log_sums else None
