"""The drop-in for ``transformers``: constrained beam search behind ``generate``, or without it."""

from __future__ import annotations

from genrec_fast.integrations.hf.codes import CodeTokens, code_tokens, tokens_from_tokenizer
from genrec_fast.integrations.hf.compiled import CompiledRecommender, compile
from genrec_fast.integrations.hf.families import pack_weights
from genrec_fast.integrations.hf.generate import trie_beam_search
from genrec_fast.integrations.hf.processor import TrieLogitsProcessor

__all__ = [
    "CodeTokens",
    "CompiledRecommender",
    "TrieLogitsProcessor",
    "code_tokens",
    "compile",
    "pack_weights",
    "tokens_from_tokenizer",
    "trie_beam_search",
]
