"""Which models the native engine runs, and with which weights: those that the model has at the moment of the call."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genrec_fast.base.errors import SlowPathWarning, UnsupportedError
from genrec_fast.nn.engine.native import NativeEngine
from genrec_fast.nn.snapshot import Snapshot
from genrec_fast.nn.stock import change_of_model, changing_mode

_said: set[str] = set()
_packed: weakref.WeakKeyDictionary[nn.Module, dict[str, _Packed]] = weakref.WeakKeyDictionary()


@dataclass
class _Packed:
    """A packed form of a model, and what the model was when it was made."""

    snapshot: Snapshot
    mark: int
    engine: NativeEngine


def packed_once(
    model: nn.Module,
    name: str,
    check: Callable[[], None],
    pack: Callable[[], Tensor],
    also: Iterable[dict[Any, Any]] = (),
) -> NativeEngine:
    """The engine of a model's packed weights; checked and packed anew when anything about the model has changed.

    Args:
        model: compared with what it was, part by part and byte by byte (``Snapshot``).
        name: which of the model's packed forms.
        check: raises ``UnsupportedError`` where the packed form would not be the model.
        pack: makes the block.
        also: more dictionaries whose values the packing depends on.
    """
    forms = _packed.setdefault(model, {})
    known = forms.get(name)
    if known is not None and _still(known, model):
        return known.engine
    forms.pop(name, None)
    check()
    snapshot = Snapshot(model, also)
    mark = snapshot.mark()
    engine = NativeEngine(pack())
    if snapshot.mark() == mark:  # else somebody writes while we read: nothing is kept
        forms[name] = _Packed(snapshot, mark, engine)
    return engine


def _still(known: _Packed, model: nn.Module) -> bool:
    try:
        return known.snapshot.same_parts(model) and known.snapshot.mark() == known.mark
    except UnsupportedError:  # its tensors are no longer plain ones on the CPU: the check says so by name
        return False


def runs_natively(model: nn.Module, weight: Tensor) -> bool:
    """Whether a backbone's search may leave torch's modules: outside training, without gradients, float32 on a CPU.

    Nor where torch's operations do something else around this call, as under autocast.
    """
    trains = model.training or torch.is_grad_enabled() or changing_mode() is not None
    return not trains and weight.device.type == "cpu" and weight.dtype == torch.float32


def native_backbone(model: nn.Module, kind: type, pack: Callable[[], Tensor]) -> NativeEngine | None:
    """The engine of one of our backbones; ``None``, said once, where the model is more than its class and weights.

    Args:
        model: ``runs_natively``.
        kind: the class that ``pack`` knows.
        pack: makes the block.
    """

    def check() -> None:
        change = f"is no {kind.__name__} itself" if type(model) is not kind else None
        change = change or change_of_model(model, _is_ours, ("genrec_fast",))
        if change is not None:
            raise UnsupportedError(
                f"{type(model).__name__}: the native engine searches backbones as they were built, but this {change}"
            )

    try:
        return packed_once(model, "float32", check, lambda: _packed_whole(model, pack))
    except UnsupportedError as error:
        warn_once(error)
        return None


def _packed_whole(model: nn.Module, pack: Callable[[], Tensor]) -> Tensor:
    try:
        return pack()
    except AttributeError as error:  # a part that is another one than the backbone's
        raise UnsupportedError(f"{type(model).__name__}: the native engine reads other parts, but {error}") from error


def warn_once(error: UnsupportedError) -> None:
    """Says that torch's modules run in the native engine's place, once for each text."""
    if str(error) not in _said:
        _said.add(str(error))
        warnings.warn(f"{error}; torch's modules run in its place", SlowPathWarning, stacklevel=4)


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith(("genrec_fast.nn.", "genrec_fast.backbones."))
