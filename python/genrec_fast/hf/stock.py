"""Whether a model of transformers is what its family and weights say, and nothing more."""

from __future__ import annotations

import sys
from types import FunctionType
from typing import Any

import torch
from torch import nn

from genrec_fast.base.errors import UnsupportedError
from genrec_fast.nn.stock import change_of_model, foreign_home

_CPU = torch.device("cpu")
# The class of each family that has a language model's head.
_HEADED = {
    "t5": "T5ForConditionalGeneration",
    "mt5": "MT5ForConditionalGeneration",
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma": "GemmaForCausalLM",
}
_ATTENTION = "transformers.integrations.sdpa_attention"
_SHARED = ("transformers.activations", "transformers.pytorch_utils")
# What a class of the user's own may say of itself and still do what transformers' class does.
_HARMLESS = {"__init__", "__module__", "__doc__", "__qualname__", "__annotations__", "__annotate__"}
_HARMLESS |= {"__firstlineno__", "__static_attributes__", "__parameters__", "__abstractmethods__", "_abc_impl"}


def check_stock(model: nn.Module, kinds: tuple[str, ...], device: torch.device = _CPU) -> None:
    """Raises ``UnsupportedError`` by name for a model that the native engine would read wrongly.

    Args:
        model: any module.
        kinds: ``config.model_type`` of the families that are known.
        device: where all its weights must be.
    """
    op, name = "pack_weights", type(model).__name__
    kind = getattr(getattr(model, "config", None), "model_type", name)
    if kind not in kinds:
        raise UnsupportedError(f"{op}: model must be one of {', '.join(kinds)}, got {kind}")
    home = f"transformers.models.{kind}.modeling_{kind}"
    stock = next((base for base in type(model).__mro__ if base.__module__ == home), None)
    if stock is None or stock.__name__ != _HEADED[kind]:
        raise UnsupportedError(f"{op}: model must be a {_HEADED[kind]} of transformers, got {name}")
    change = _overridden(type(model), stock) or change_of_model(
        model, lambda part: part is type(model) or part.__module__ in (home, *_SHARED), ("transformers",), device
    )
    change = change or _attention(model)
    if change is not None:
        where = "the CPU" if device == _CPU else device
        raise UnsupportedError(
            f"{op}: model must be transformers' own {stock.__name__}, weights on {where} and nothing added, "
            f"but it {change}"
        )


def attention_functions() -> list[dict[Any, Any]]:
    """The tables of attention functions of transformers, and what these call: who changes them changes models."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as KNOWN

    own = [getattr(KNOWN, name, None) for name in ("_global_mapping", "_local_mapping")]
    home = sys.modules.get(_ATTENTION)
    return [*(table for table in own if isinstance(table, dict)), *([vars(home)] if home else [])]


def _overridden(kind: type, stock: type) -> str | None:
    """A method or attribute that a subclass of the user's own has put into the place of transformers'."""
    for base in kind.__mro__[: kind.__mro__.index(stock)]:
        for key, value in vars(base).items():  # transformers writes some of the same values into every subclass
            if key not in _HARMLESS and hasattr(stock, key) and value is not getattr(stock, key):
                return f"has a {key} of its own, of {base.__module__}.{base.__qualname__}"
    return None


def _attention(model: nn.Module) -> str | None:
    config: Any = model.config
    chosen = getattr(config, "_attn_implementation", "eager")
    if chosen not in ("eager", "sdpa"):
        return f"has the attention {chosen!r}"
    homes = ("torch", "transformers")
    for table in attention_functions():
        function = table.get(chosen)
        if function is not None and (foreign := foreign_home(function, homes)):
            return f"has the attention {chosen!r} from {foreign}"
    home = sys.modules.get(_ATTENTION)
    for key, value in vars(home).items() if home else ():
        if isinstance(value, FunctionType) and (foreign := foreign_home(value, homes)):
            return f"calls a {_ATTENTION}.{key} from {foreign}"
    return None
