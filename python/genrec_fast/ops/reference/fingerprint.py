"""Plain torch twin of ``fingerprint``: its specification. int64 arithmetic of torch wraps modulo 2^64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_BLOCK = 1024  # bytes
_GOLDEN = 0x9E3779B97F4A7C15


def fingerprint(tensors: Sequence[Tensor]) -> int:
    """For each tensor: value = mix(value ^ (mix(bytes) + sum over its blocks b of mix(NH + b golden))) + golden."""
    value = torch.zeros((), dtype=torch.int64)
    for tensor in tensors:
        value = _mix(value ^ _of_bytes(_bytes_of(tensor))) + _signed(_GOLDEN)
    return int(value) % 2**64


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)


def _of_bytes(data: Tensor) -> Tensor:
    count = data.numel()
    padded = torch.cat([data, data.new_zeros(-count % _BLOCK)]).view(-1, _BLOCK).view(torch.int32)
    words = (padded.long() + _keys()) & 0xFFFFFFFF
    sums = (words[:, 0::2] * words[:, 1::2]).sum(1)
    blocks = _mix(sums + torch.arange(len(sums)) * _signed(_GOLDEN))
    return _mix(torch.tensor(count)) + blocks.sum()


def _keys() -> Tensor:
    return ((_mix(torch.arange(1, _BLOCK // 4 + 1) * _signed(_GOLDEN)) >> 32) & 0xFFFFFFFF) | 1


def _mix(z: Tensor) -> Tensor:
    """The finalizer of splitmix64."""
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, by: int) -> Tensor:
    """``z >> by`` with zeros from the left."""
    shifted: Tensor = (z >> by) & (2 ** (64 - by) - 1)
    return shifted


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number
