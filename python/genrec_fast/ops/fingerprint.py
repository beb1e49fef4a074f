"""Contents of tensors -> one number: has anything been written since?"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from genrec_fast.base.checks import sequence
from genrec_fast.base.errors import InvalidTypeError, UnsupportedError, door
from genrec_fast.ops._registry import core

_PLAIN = {Tensor, Parameter}


@door
def fingerprint(tensors: Sequence[Tensor]) -> int:
    """A number of 64 bits that changes when any byte of the tensors does, or their sizes in bytes, or their order.

    ``value = 0; for tensor in tensors: value = mix(value ^ (mix(bytes) + sum over its blocks of mix(NH(block)))) + c``

    Args:
        tensors: dense tensors of any dtype and shape on the CPU; their shape, strides and dtype do not count, what
            they hold in the order of ``flatten()`` does.

    Returns:
        An int in ``[0, 2^64)``; equal for equal contents on every machine, instruction set and number of threads.

    Raises:
        InvalidTypeError: not a sequence of tensors.
        UnsupportedError: a tensor on another device, sparse, quantized, nested, of a subclass or without data.

    Notes:
        Two contents of one layout are told apart but for about one pair in 2^32 that differs in a single block of 1024
        bytes, and one in 2^64 otherwise; no defence against contents chosen to collide. Whatever is not contiguous, or
        is held negated or conjugated, is copied first.
        Cost: one pass at the speed of memory (5 MB: 0.06 to 0.2 ms of one thread) and about 0.4 us a tensor.

    Source:
        NH of UMAC (RFC 4418) in blocks, the finalizer of splitmix64.

    Example:
        >>> import torch, genrec_fast as gf
        >>> weight = torch.zeros(4)
        >>> before = gf.ops.fingerprint([weight])
        >>> weight.data[2] = 1.0
        >>> gf.ops.fingerprint([weight]) == before
        False
    """
    given = _listed(tensors)
    value: int | None = core.fingerprint(tensors=given, num_threads=torch.get_num_threads())
    if value is not None:
        return value
    refused = next(filter(None, map(_refusal, range(len(given)), given)), None)
    if refused is not None:
        raise refused
    copies = [t.detach().resolve_conj().resolve_neg().contiguous() for t in given]
    copied: int = core.fingerprint(tensors=copies, num_threads=torch.get_num_threads())
    return copied


class LiveFingerprint:
    """The ``fingerprint`` of tensors that is asked for again and again: what nobody wrote is not read again.

    Where the system can tell which pages of memory were written since it was last asked (Linux 6.7 and later, see
    ``watches_memory``), sums over whole pages of large tensors are kept until one of their pages is written, by
    whatever means: the page tables know. Small tensors, the ends of large ones and memory that is shared with other
    processes or backed by files are read every time, as everything is on other systems.

    Args:
        tensors: as ``fingerprint`` takes them; kept. Their memory may be exchanged.

    Notes:
        Cost, where nothing was written: about 0.1 us a tensor and 1 us per MB. The first write to a page after a call
        takes a microsecond more. Memory that devices write by themselves, pinned for them, is not to be watched.

    Example:
        >>> import torch
        >>> from genrec_fast.ops.fingerprint import LiveFingerprint, fingerprint
        >>> weight = torch.zeros(300, 300)
        >>> live = LiveFingerprint([weight])
        >>> live.value() == fingerprint([weight])
        True
        >>> weight.numpy()[7, 7] = 1.0
        >>> live.value() == fingerprint([weight])
        True
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = _listed(tensors)
        self._watch: int = core.fingerprint_open()
        weakref.finalize(self, core.fingerprint_close, watch=self._watch)

    @door
    def value(self) -> int:
        """``fingerprint`` of the tensors as they are now.

        Raises:
            UnsupportedError: as ``fingerprint``.
        """
        value: int | None = core.fingerprint_watched(
            watch=self._watch, tensors=self._tensors, num_threads=torch.get_num_threads()
        )
        return fingerprint(self._tensors) if value is None else value


def same_values(
    containers: Sequence[dict[Any, Any] | type | list[Any] | FunctionType], sizes: Tensor, values: Sequence[Any]
) -> bool:
    """Whether dictionaries, classes' own and lists of these sizes hold these values, in order, each itself.

    A function holds four: its code, its defaults, those by keyword, and its closure.

    No value is touched, its address is compared: of thousands, most lie in no cache.

    Args:
        containers: a list or tuple, like ``values``.
        sizes: int64, one per container.
        values: of all containers, end to end.
    """
    same: bool = core.same_values(containers=containers, sizes=sizes, values=values)
    return same


def watches_memory() -> bool:
    """Whether this system tells which pages of memory were written."""
    found: bool = core.fingerprint_watches()
    return found


def _listed(tensors: Any) -> list[Tensor]:
    if isinstance(tensors, Tensor):
        raise InvalidTypeError("fingerprint: tensors must be a sequence of tensors, got a tensor")
    given: list[Tensor] = sequence("fingerprint", "tensors", tensors)
    return given


def _refusal(index: int, tensor: Any) -> InvalidTypeError | UnsupportedError | None:
    """What is wrong with a tensor, if anything is."""
    if not isinstance(tensor, Tensor):
        return InvalidTypeError(f"fingerprint: tensors[{index}] must be a tensor, got {type(tensor).__name__}")
    if type(tensor) not in _PLAIN:
        kind = f"the subclass {type(tensor).__name__}"
    elif tensor.is_quantized or tensor.is_nested:
        kind = "a quantized one" if tensor.is_quantized else "a nested one"
    elif tensor.layout != torch.strided:
        kind = str(tensor.layout)
    elif not tensor.is_cpu:
        kind = f"one on {tensor.device}"
    elif tensor.nbytes and not tensor.data_ptr():
        kind = "one whose storage was freed"
    else:
        return None
    return UnsupportedError(f"fingerprint: tensors[{index}] must be a dense tensor on the CPU, got {kind}")
