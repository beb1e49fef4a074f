"""Whether a packed model says what the model itself says: one short text, read by both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.hf.called import CalledModel
from genrec_fast.hf.likeness import NOT_MADE_FOR_IT
from genrec_fast.nn.engine.card import CardEngine
from genrec_fast.nn.engine.native import NativeEngine

# Tokens of the text: more than a search writes, and beyond the exact buckets of T5's distances.
_LENGTH = 24
# How far logits may lie apart, as a share of how far they lie from their mean: sums in another order, or rounding.
_ROUNDING = {"float32": 2e-4, "bfloat16": 0.3, "int8": 0.6}


def disagreement(model: Any, engine: NativeEngine | CardEngine, dtype: str) -> str | None:
    """Why the packed form is not the model; ``None``: it gives the model's logits behind a text.

    What no look at a model's parts can find shows here: an attribute that a layer reads in the configuration's place, a
    function replaced deep inside torch.

    Args:
        model: where the engine runs; in training mode it has no dropout.
        engine: of its packed weights.
        dtype: of these: the coarser, the more may differ.
    """
    size = min(int(model.get_input_embeddings().weight.shape[0]), int(engine.vocab_size))
    places = engine.tensors.get("positions")
    length = _LENGTH if places is None else min(_LENGTH, places.shape[0])
    tokens = torch.linspace(0, size - 1, length).long().roll(length // 3)
    there = tokens.to(model.device)
    given = {"input_ids": there[None], "attention_mask": torch.ones_like(there)[None]}
    starts = None
    if isinstance(engine, NativeEngine) and engine.encoder is not None:
        starts = Jagged.from_rows([tokens[: length // 2].flip(0)], torch.int64)
        given["decoder_input_ids"] = starts.values[None]
    with torch.no_grad():
        theirs = model(**given, use_cache=False).logits[0, -1]
        try:
            stepped = _by_steps(CalledModel(model), given)
        except NOT_MADE_FOR_IT as error:
            return f"is not read by steps ({error})"
        try:
            ours = engine.prefill(Jagged.from_rows([tokens], torch.int64), starts).scores(slice(None))[0].flatten()
        except InvalidValueError as error:  # sizes that do not fit each other
            return f"cannot read a text ({error})"
    rounds = there.is_cuda and torch.backends.cuda.matmul.allow_tf32
    if (rounds or model.dtype in (torch.bfloat16, torch.float16)) and dtype == "float32":
        dtype = "bfloat16"  # the model rounds
    if ours.shape != theirs.shape:
        return f"gives {len(ours)} logits and not {len(theirs)}"
    spread = _spread(theirs.float())
    for other, of in ((ours, ""), (stepped, " behind its cache, which a text read whole does not give")):
        apart = float((other - theirs.float()).norm())
        if not apart <= _ROUNDING[dtype] * spread + 1e-6:
            return f"gives logits that lie {apart / spread if spread else apart:.3g} of their spread from its own{of}"
    return None


def _by_steps(model: CalledModel, given: dict[str, Tensor]) -> Tensor:
    """float32 logits ``[V]`` behind the text whose last token was read behind a cache, as ``generate`` reads it."""
    tokens, fixed = given["input_ids"], dict[str, Any]()
    if model.encoder_decoder:
        tokens, mask = given["decoder_input_ids"], given["attention_mask"]
        fixed = model.encoded(model.encode(given["input_ids"], mask), mask)
    _, cache = model(tokens[:, :-1], use_cache=True, **fixed)
    return model(tokens[:, -1:], cache=cache, use_cache=True, **fixed)[0][0]


def _spread(logits: Tensor) -> float:
    return float((logits - logits.mean()).norm())
