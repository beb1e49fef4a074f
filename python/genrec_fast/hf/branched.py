"""A search's state as a tree in a model's own cache: rows at different depths in one call, by mask and place."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.errors import UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.hf.called import CalledModel
from genrec_fast.hf.padding import left_padded
from genrec_fast.hf.session import TransformersSession
from genrec_fast.nn.engine.rows import Rows

_WINDOWS = ("sliding_window", "window_size", "attention_window", "attention_chunk_size", "local_attention")


class Branched(TransformersSession):
    """One row of cache per user: the prompt, padded on the left, and behind it every row that was read.

    A row is told apart by what it sees (a mask of four dimensions) and where it stands (its depth behind the prompt),
    not by where its keys and values lie. The prompt's are shared by all rows of a user, and an old session may be
    extended again.

    Args:
        model: to be called; a decoder that takes such a mask.
        cache: keys and values by token (``whole``), of prompts and rows.
        mask: int64 ``[B, S]`` of the prompts.
        rows: which row descends from which.
        places: int64 ``[B, N]`` of all rows but the prompts, call by call: where they stand in their texts.
        logits: ``[B, W, V]`` behind the rows of the last call.
    """

    def __init__(
        self, model: CalledModel, cache: Any, mask: Tensor, rows: Rows, places: Tensor, logits: Tensor
    ) -> None:
        self.model, self.cache, self.mask, self.rows, self.places = model, cache, mask, rows, places
        self.logits = logits

    @classmethod
    def begin(cls, model: CalledModel, prompts: Jagged) -> Branched:
        """Reads prompts: int64 token ids per user, none empty."""
        from transformers import DynamicCache

        tokens, mask = left_padded(prompts, None, model.device)
        given: dict[str, Any] = {"attention_mask": mask}
        if model.takes_positions:
            given["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        # Without a config every layer keeps every token, whatever its window.
        logits, cache = model(tokens, cache=DynamicCache(), use_cache=True, **given)
        return cls.behind(model, cache, mask, logits.unsqueeze(1))

    @classmethod
    def behind(cls, model: CalledModel, cache: Any, mask: Tensor, logits: Tensor) -> Branched:
        """Behind prompts that were read: their cache ``[B]``, mask int64 ``[B, S]`` and logits ``[B, 1, V]``."""
        users = len(mask)
        return cls(model, cache, mask, Rows.of(users, ()), mask.new_empty(users, 0), logits)

    def extend(self, codes: Tensor, parents: Tensor) -> Branched:
        """Every beam by a token: integers ``[B, W]`` each."""
        return self.extend_tree(codes, parents + self.rows.first_of_last)

    def extend_tree(self, codes: Tensor, parents: Tensor) -> Branched:
        """Rows at different depths in one call: integers ``[B, W]`` tokens, and numbers of the rows that they extend.

        Raises:
            InvalidValueError: a parent that is no row made before.
            UnsupportedError: more tokens than a window of the model shows.
        """
        rows, device = self.rows.grown(parents.long()), self.mask.device
        paths, depths = rows.paths()
        behind = rows.parents.shape[1] - 1  # rows in the cache after this call, the prompts' tokens left out
        self._require_room(self.mask.shape[1] + behind)
        own = torch.arange(rows.first_of_last, behind + 1).view(1, -1, 1).expand(len(codes), -1, -1)
        seen = torch.zeros(*codes.shape, behind + 1, dtype=torch.bool)
        seen.scatter_(2, torch.cat([paths.clamp(min=0), own], 2), True)  # number 0 is the prompt
        shown = torch.cat([self.mask.bool().unsqueeze(1).expand(-1, codes.shape[1], -1), seen[..., 1:].to(device)], 2)
        places = self.mask.sum(1, keepdim=True) - 1 + depths.to(device)
        given: dict[str, Any] = {"position_ids": places} if self.model.takes_positions else {}
        hidden = torch.zeros(shown.shape, dtype=self.model.dtype, device=device)
        hidden.masked_fill_(~shown, torch.finfo(hidden.dtype).min)
        logits, cache = self.model.rows(
            codes.long().to(device),
            cache=whole(self.cache),
            use_cache=True,
            attention_mask=hidden.unsqueeze(1),
            **given,
        )
        return Branched(self.model, cache, self.mask, rows, torch.cat([self.places, places], 1), logits)

    def select(self, users: Tensor) -> Branched:
        """The session of users int64 ``[m]``; keys and values are copied, nothing is computed."""
        here, cache = users.to(self.mask.device), whole(self.cache)
        cache.reorder_cache(here)
        logits = self.logits[users.to(self.logits.device)]
        return Branched(self.model, cache, self.mask[here], self.rows.select(users.cpu()), self.places[here], logits)

    def _require_room(self, length: int) -> None:
        """A window counts tokens by where they lie in the cache, so a tree has to lie in it whole."""
        name, window = shortest_window(self.model)
        if length > window:
            raise UnsupportedError(
                f"extend_tree: prompts and rows together must fit {name} = {window} of {self.model.name}, which "
                f"counts tokens by their place in the cache, got {length}: extend level by level"
            )


def shortest_window(model: CalledModel) -> tuple[str, int]:
    """The setting of a model that bounds how far attention reaches, and what it is; without one, a large number."""
    config: Any = model.module.config
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    found = {name: getattr(text, name, None) for name in _WINDOWS}
    windows = [(size, name) for name, size in found.items() if isinstance(size, int) and size > 0]
    size, name = min(windows, default=(1 << 62, ""))
    return name, size


def whole(cache: Any) -> Any:
    """A copy that holds keys and values by token, and every token's; it may grow, and leaves the given one as it is.

    ``None`` for a cache of another kind, or one from which a window has dropped tokens.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    if type(cache) is not DynamicCache:
        return None
    other = copy.copy(cache)
    other.layers = []
    for layer in cache.layers:
        if type(layer) is DynamicLayer:
            other.layers.append(copy.copy(layer))  # a layer never writes to a tensor in place
            continue
        if type(layer) is not DynamicSlidingWindowLayer:
            return None
        if layer.keys is not None and layer.keys.shape[-2] != layer.get_seq_length():
            return None
        plain = DynamicLayer()
        known = {*vars(plain), "dtype", "device"}  # the last two where a version of transformers writes them
        plain.__dict__.update({name: value for name, value in vars(layer).items() if name in known})
        other.layers.append(plain)
    return other
