"""Which models of transformers a card runs by its own kernels."""

from __future__ import annotations

import weakref

import torch
from torch import nn

from genrec_fast.base.errors import UnsupportedError
from genrec_fast.hf.adapters import has_adapters, underlying
from genrec_fast.hf.agreement import disagreement
from genrec_fast.hf.families import DECODERS, described, not_the_model
from genrec_fast.hf.native import check_asked
from genrec_fast.hf.stock import attention_functions, check_stock
from genrec_fast.nn.engine.card import CardEngine
from genrec_fast.nn.snapshot import Snapshot

_checked: weakref.WeakKeyDictionary[nn.Module, Snapshot] = weakref.WeakKeyDictionary()


def card_engine(model: nn.Module, dtype: str | torch.dtype | None = None) -> CardEngine:
    """The model's weights under the kernels for cards.

    No write to a card's memory can be seen, so weights are read anew at every call: queries', keys' and values' are
    joined in a copy, the others are the model's own. What else the model is, is compared with what it was.

    Args:
        model: see ``pack_weights``; a decoder, on a card.
        dtype: ``None``, or the model's.

    Raises:
        UnsupportedError: the kernels do not run this model.
    """
    model = underlying(model)
    weight = next(model.parameters())
    check_asked(model, weight.device.type)
    if has_adapters(model):
        raise UnsupportedError(f"{type(model).__name__}: a card runs a model without adapters: merge them into it")
    own, asked = (str(kind).removeprefix("torch.") for kind in (weight.dtype, dtype or weight.dtype))
    if asked != own:
        raise UnsupportedError(f"{type(model).__name__}: a card runs weights as they are, {own}, and not as {asked}")
    known = _checked.get(model)
    same = known is not None and known.same_parts(model)
    if not same:
        check_stock(model, DECODERS, weight.device)
    found = described(model)
    (spec, weights), *_ = found.stacks
    engine = CardEngine(spec, weights, found.tensors, found.note)
    if not same:
        snapshot = Snapshot(model, attention_functions())
        reason = disagreement(model, engine, "float32")
        if reason is not None:
            raise not_the_model(model, reason)
        _checked[model] = snapshot
    return engine
