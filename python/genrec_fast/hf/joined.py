"""Caches of one user each made one cache, padded on the left, and taken apart again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from genrec_fast.base.jagged import Jagged
from genrec_fast.hf.called import CalledModel
from genrec_fast.hf.padding import left_padded
from genrec_fast.hf.stepped import Stepped, forked


def join(model: CalledModel, users: Sequence[Stepped]) -> Stepped:
    """One session of sessions of a user each, which stay as they are."""
    masks = [user.mask for user in users if user.mask is not None]
    lengths = [mask.shape[1] for mask in masks]
    mask = torch.cat([F.pad(mask, (max(lengths) - mask.shape[1], 0)) for mask in masks])
    joined = Stepped(model, {}, mask, True, users[0].prompt)
    joined.cache = _joined_cache([user.cache for user in users], lengths)
    joined.logits = torch.cat([user.logits for user in users])
    return joined


def read_on(model: CalledModel, rows: Sequence[Tensor], known: Sequence[tuple[Stepped, int] | None]) -> list[Stepped]:
    """Reads a decoder's prompts behind what is known of them: users with about as many new tokens in one call.

    Where users have fewer new tokens than others of their call, their last known ones are read again: so every user's
    tokens stand side by side, and a window sees what it would see of the text alone.

    Args:
        model: to be called; it gives padded prompts their own logits, wherever they lie.
        rows: int64 ``[S]`` of each user, whole.
        known: for each a session of this user alone and how many of its first tokens the row begins with, fewer than
            all of the row's; ``None``: nothing.

    Returns:
        For each user a session of its own, with a cache of its own.
    """
    new = [len(row) - (0 if old is None else old[1]) for row, old in zip(rows, known, strict=True)]
    found: dict[int, Stepped] = {}
    for size in {count.bit_length() for count in new}:  # at most twice as many tokens as there are new ones
        here = [user for user, count in enumerate(new) if count.bit_length() == size]
        if len(here) == 1:
            found[here[0]] = Stepped.alone(model, rows[here[0]], known[here[0]])
            continue
        some, count = [rows[user] for user in here], max(new[user] for user in here)
        kept = [max(len(row) - count, 0) for row in some]
        caches = [None if old is None else old[0].cache for old in (known[user] for user in here)]
        tokens, _ = left_padded(Jagged.from_rows([row[-count:] for row in some]), None, model.device)
        _, mask = left_padded(Jagged.from_rows(some), None, model.device)
        together = Stepped(model, {}, mask, True)
        together.cache = _joined_cache(caches, kept)
        together = together._read(tokens, 1)
        found |= {user: _alone(together, place, rows[user]) for place, user in enumerate(here)}
    return [found[user] for user in range(len(rows))]


def _joined_cache(caches: Sequence[Any], kept: Sequence[int]) -> Any:
    """The first ``kept`` tokens of each user's cache, on the right; a user who keeps none may have no cache."""
    from transformers import DynamicCache

    first, width = next((cache for cache, count in zip(caches, kept, strict=True) if count), None), max(kept)
    if first is None:
        return DynamicCache()  # without a config every layer keeps every token, whatever its window
    joined = forked(first)
    for number, layer in enumerate(joined.layers):
        if layer.keys is None:  # of one that shares another's
            continue
        parts: list[tuple[Tensor, Tensor]] = []
        for cache, count in zip(caches, kept, strict=True):
            own = first.layers[number] if not count else cache.layers[number]
            pad = (0, 0, width - count, 0)
            parts.append((F.pad(own.keys[..., :count, :], pad), F.pad(own.values[..., :count, :], pad)))
        layer.keys, layer.values = (torch.cat(sides) for sides in zip(*parts, strict=True))
    return joined


def _alone(together: Stepped, place: int, tokens: Tensor) -> Stepped:
    """The session of one user, who has so many tokens."""
    mask = torch.ones(1, len(tokens), dtype=torch.int64, device=together.model.device)
    session = Stepped(together.model, {}, mask, True, tokens)
    session.cache, session.logits = forked(together.cache), together.logits[place : place + 1].clone()
    for layer in session.cache.layers:
        if layer.keys is not None:  # a copy: a view would keep everybody's
            layer.keys = layer.keys[place : place + 1, :, -len(tokens) :].clone()
            layer.values = layer.values[place : place + 1, :, -len(tokens) :].clone()
    return session
