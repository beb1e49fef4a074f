"""trie_step with its tensors wherever its kernels are, results on the CPU."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.trie import Trie
from genrec_fast.ops.trie_filter import TrieFilter
from genrec_fast.ops.trie_step import TrieStep, trie_step

__all__ = ["assert_equal", "step_on"]


def step_on(device: str, trie: Trie, level: int, *beams: Tensor, **options: Any) -> TrieStep:
    """``trie_step(trie, level, *beams, **options)`` with everything on ``device``."""
    if device == "cpu":
        return trie_step(trie, level, *beams, **options)
    there, given = trie.to(device), {name: _moved(value, device) for name, value in options.items()}
    if isinstance(given.get("allowed"), TrieFilter):
        given["allowed"] = dataclasses.replace(given["allowed"], leaf_items=there.leaf_items)
    found = trie_step(there, level, *(tensor.to(device) for tensor in beams), **given)
    return TrieStep(*(tensor.cpu() for tensor in found))


def _moved(value: Any, device: str) -> Any:
    if isinstance(value, TrieFilter):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return TrieFilter(**{name: _moved(part, device) for name, part in fields.items()})
    return value.to(device) if isinstance(value, Tensor | Jagged) else value


def assert_equal(left: TrieStep, right: TrieStep) -> None:
    """The same bits."""
    for name in TrieStep._fields:
        a, b = getattr(left, name), getattr(right, name)
        assert (a.dtype, a.shape) == (b.dtype, b.shape), name
        if a.dtype == torch.float32:
            a, b = a.contiguous().view(torch.int32), b.contiguous().view(torch.int32)
        assert torch.equal(a, b), (name, getattr(left, name), getattr(right, name))
