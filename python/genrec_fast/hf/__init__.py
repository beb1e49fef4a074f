"""The drop-in for ``transformers``: constrained beam search behind ``generate``, or without it.

Names are loaded when they are first used, as ``transformers`` takes seconds to import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genrec_fast.hf.codes import CodeTokens, code_tokens, tokens_from_tokenizer
    from genrec_fast.hf.compiled import CompiledRecommender, compile
    from genrec_fast.hf.families import pack_weights
    from genrec_fast.hf.generate import trie_beam_search
    from genrec_fast.hf.places import check_prompts
    from genrec_fast.hf.processor import TrieLogitsProcessor

__all__ = [
    "CodeTokens",
    "CompiledRecommender",
    "TrieLogitsProcessor",
    "check_prompts",
    "code_tokens",
    "compile",
    "pack_weights",
    "tokens_from_tokenizer",
    "trie_beam_search",
]

_HOMES = {
    "CodeTokens": "codes",
    "CompiledRecommender": "compiled",
    "TrieLogitsProcessor": "processor",
    "check_prompts": "places",
    "code_tokens": "codes",
    "compile": "compiled",
    "pack_weights": "families",
    "tokens_from_tokenizer": "codes",
    "trie_beam_search": "generate",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'genrec_fast.hf' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
