"""A search's state in a model's own cache: each prompt is read once, beams take its cache over."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidValueError, UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.hf.branched import Branched, whole
from genrec_fast.hf.called import CalledModel
from genrec_fast.hf.padding import left_padded, length_mask
from genrec_fast.hf.session import TransformersSession
from genrec_fast.hf.tree_trial import check_trees


class Stepped(TransformersSession):
    """Prompts of a decoder are padded on the left, those of an encoder on the right; steps read one token a beam.

    A prompt's keys and values are copied for every beam once, and reordered as transformers does; those of an encoder
    are copied but not reordered. A session that was extended has given its cache away.

    Args:
        model: to be called.
        fixed: of an encoder-decoder: rows and mask of the encoder.
        mask: of a decoder: int64 ``[B * W, S]`` of the whole texts.
        masked: whether a step is given the mask; state-space models want one for what they read.
        prompt: of a decoder: int64 ``[S]`` that somebody gave, to try the model with.
    """

    def __init__(
        self,
        model: CalledModel,
        fixed: dict[str, Any],
        mask: Tensor | None,
        masked: bool,
        prompt: Tensor | None = None,
    ) -> None:
        self.model, self.fixed, self.mask, self.masked, self.prompt = model, fixed, mask, masked, prompt
        self.cache: Any = None
        self._root: Branched | None = None  # behind the prompts, once the session was extended
        self._calls: tuple[tuple[Tensor, Tensor], ...] = ()  # what it was extended by

    @classmethod
    def begin(
        cls,
        model: CalledModel,
        prompts: Jagged,
        decoder_prompts: Jagged | None,
        encoded: bool,
        kept: Jagged | None = None,
        *,
        masked: bool = True,
    ) -> Stepped:
        """Reads the prompts; ``masked`` as above, the others as ``TorchEngine.prefill``."""
        device = model.device
        if decoder_prompts is None:
            tokens, mask = left_padded(prompts, kept, device)
            longest = prompts[int(prompts.lengths.argmax())] if len(prompts) else None
            return cls(model, {}, mask, masked, longest)._read(tokens, 1)
        mask = length_mask(prompts.lengths).to(device)
        rows = prompts.padded().to(device)
        rows = rows.to(model.dtype) if encoded else model.encode(rows, mask)
        return cls(model, model.encoded(rows, mask), None, masked)._read(decoder_prompts.padded().to(device), 1)

    @classmethod
    def alone(cls, model: CalledModel, tokens: Tensor, known: tuple[Stepped, int] | None = None) -> Stepped:
        """Reads one decoder's prompt int64 ``[S]`` into a cache that can be rolled back.

        Args:
            model: to be called.
            tokens: at least one of them is read.
            known: such a session, which stays as it is, and how many of its first tokens the prompt begins with.
        """
        from transformers import DynamicCache

        cache, used = DynamicCache(), 0  # without a config: every layer keeps every token, whatever its window
        if known is not None:
            before, used = known
            assert before.mask is not None
            cache, surplus = forked(before.cache), before.mask.shape[1] - used
            if surplus:
                cache.crop(-surplus)
        mask = torch.ones(1, len(tokens), dtype=torch.int64, device=model.device)
        session = cls(model, {}, mask, masked=True, prompt=tokens)
        session.cache = cache
        return session._read(tokens[used:].unsqueeze(0).to(model.device), 1)

    def extend(self, codes: Tensor, parents: Tensor) -> Stepped:
        """Every beam by a token: integers ``[B, W]`` each.

        Raises:
            InvalidValueError: this session was extended before.
        """
        if self.cache is None:
            raise InvalidValueError("extend: session must have its cache, got one that was extended (select copies)")
        (users, beams), before = codes.shape, self.logits.shape[1]
        after = self._with(self.cache)
        after._root, after._calls = self._behind_prompts(), (*self._calls, (codes, parents))
        self.cache = None
        rows = (parents.long() + torch.arange(users, device=parents.device).unsqueeze(1) * before).flatten()
        after._reorder(rows, before == beams)
        if after.mask is not None:
            after.mask = torch.cat([after.mask, after.mask.new_ones(users * beams, 1)], 1)
        return after._read(codes.long().reshape(-1, 1).to(self.model.device), beams)

    def extend_tree(self, codes: Tensor, parents: Tensor) -> TransformersSession:
        """See ``TreeSession``. What the session was extended by before is read again: its cache lost dead beams.

        Raises:
            InvalidValueError: a parent that is no row made before; a session that was extended before.
            UnsupportedError: a model that does not read trees, by its name.
        """
        if self.cache is None:
            raise InvalidValueError("extend_tree: session must have its cache, got one that was extended")
        tree = self._behind_prompts()
        if tree is None or self.prompt is None:
            return super().extend_tree(codes, parents)
        check_trees(self.model, self.prompt)
        for call in self._calls:
            tree = tree.extend(*call)
        return tree.extend_tree(codes, parents)

    def select(self, users: Tensor) -> Stepped:
        """The session of users int64 ``[m]``, with a cache of its own."""
        beams, chosen = self.logits.shape[1], self._with(forked(self.cache))
        chosen._reorder((users.unsqueeze(1) * beams + torch.arange(beams, device=users.device)).flatten(), False)
        chosen.logits = self.logits[users.to(self.logits.device)]
        chosen._root = None if self._root is None else self._root.select(users)
        chosen._calls = tuple((codes[users], parents[users]) for codes, parents in self._calls)
        return chosen

    def _behind_prompts(self) -> Branched | None:
        """What a tree begins with, where the cache holds the keys and values of every token; they are not copied."""
        if self._calls or self.mask is None or not self.masked:
            return self._root
        cache = whole(self.cache)
        return None if cache is None else Branched.behind(self.model, cache, self.mask, self.logits)

    def _with(self, cache: Any) -> Stepped:
        other = Stepped(self.model, self.fixed, self.mask, self.masked, self.prompt)
        other.cache = cache
        return other

    def _reorder(self, rows: Tensor, same_users: bool) -> None:
        """Rows of the cache and of what belongs to it; with ``same_users`` what is theirs alone is in its place."""
        rows = rows.to(self.model.device)
        if same_users and hasattr(self.cache, "self_attention_cache"):
            self.cache.self_attention_cache.reorder_cache(rows)
        else:
            self.cache.reorder_cache(rows)
        if self.mask is not None:
            self.mask = self.mask[rows]
        elif not same_users:
            encoder_rows, mask = self.fixed["encoder_outputs"].last_hidden_state, self.fixed["attention_mask"]
            self.fixed = self.model.encoded(encoder_rows[rows.to(encoder_rows.device)], mask[rows])

    def _read(self, tokens: Tensor, beams: int) -> Stepped:
        """This session behind tokens ``[B * W, t]`` more."""
        given = dict(self.fixed)
        if self.mask is not None:
            if self.masked or self.cache is None:
                given["attention_mask"] = self.mask
            if self.model.takes_positions:
                given["position_ids"] = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        logits, self.cache = self.model(tokens, cache=self.cache, use_cache=True, **given)
        if not hasattr(self.cache, "reorder_cache"):
            raise UnsupportedError(
                "TorchEngine: model must keep keys and values in a cache that beams can reorder, "
                f"got {type(self.model.module).__name__}"
            )
        self.logits = logits.view(-1, beams, logits.shape[-1])
        return self


def rolls_back(cache: Any) -> bool:
    """Whether a cache holds keys and values by token, and nothing else."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    return type(cache) is DynamicCache and all(type(layer) is DynamicLayer for layer in cache.layers)


def forked(cache: Any) -> Any:
    """A cache that can be extended, cropped and reordered, and leaves the given one as it is."""
    if not rolls_back(cache):
        return copy.deepcopy(cache)
    other = copy.copy(cache)
    other.layers = [copy.copy(layer) for layer in cache.layers]  # they never write to a tensor in place
    return other
