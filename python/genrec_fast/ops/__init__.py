"""One public function per compiled op; each docstring is the op's contract, each op has a twin in ``reference``."""

from __future__ import annotations

from genrec_fast.ops.attention_bias import ALiBi, RelativeTimeBias, T5Bias
from genrec_fast.ops.beam_attention import beam_attention
from genrec_fast.ops.completable_codes import completable_codes
from genrec_fast.ops.draft_tree import DraftTree, draft_tree
from genrec_fast.ops.draft_verify import DraftBeams, DraftRows, draft_verify
from genrec_fast.ops.fingerprint import fingerprint
from genrec_fast.ops.gemm import gemm, gemm_pack
from genrec_fast.ops.graph_step import GraphStep, graph_step
from genrec_fast.ops.jagged_attention import jagged_attention
from genrec_fast.ops.jagged_join import deinterleave, interleave, jagged_concat, jagged_split
from genrec_fast.ops.jagged_pad import from_padded, to_padded
from genrec_fast.ops.jagged_products import embedding, jagged_dense_matmul, jagged_gather, jagged_jagged_matmul
from genrec_fast.ops.kmeans_step import KMeansStep, kmeans_step
from genrec_fast.ops.residual_norm import residual_norm
from genrec_fast.ops.rotary import rotary
from genrec_fast.ops.rq_decode import rq_decode
from genrec_fast.ops.rq_encode import rq_encode
from genrec_fast.ops.segment_sum import segment_mean, segment_sum
from genrec_fast.ops.topk_code_sums import topk_code_sums
from genrec_fast.ops.topk_inner_product import topk_inner_product
from genrec_fast.ops.transformer import transformer_cross, transformer_first, transformer_prefill
from genrec_fast.ops.transformer_best_first import BestFound, transformer_best_first
from genrec_fast.ops.transformer_head import transformer_head
from genrec_fast.ops.transformer_search import TransformerFound, transformer_search
from genrec_fast.ops.transformer_step import transformer_step
from genrec_fast.ops.trie_build import trie_build
from genrec_fast.ops.trie_filter import TrieFilter, trie_filter
from genrec_fast.ops.trie_lookup import trie_lookup
from genrec_fast.ops.trie_places import TriePlaces, trie_places
from genrec_fast.ops.trie_step import TrieStep, trie_step

__all__ = [
    "ALiBi",
    "BestFound",
    "DraftBeams",
    "DraftRows",
    "DraftTree",
    "GraphStep",
    "KMeansStep",
    "RelativeTimeBias",
    "T5Bias",
    "TransformerFound",
    "TrieFilter",
    "TriePlaces",
    "TrieStep",
    "beam_attention",
    "completable_codes",
    "deinterleave",
    "draft_tree",
    "draft_verify",
    "embedding",
    "fingerprint",
    "from_padded",
    "gemm",
    "gemm_pack",
    "graph_step",
    "interleave",
    "jagged_attention",
    "jagged_concat",
    "jagged_dense_matmul",
    "jagged_gather",
    "jagged_jagged_matmul",
    "jagged_split",
    "kmeans_step",
    "residual_norm",
    "rotary",
    "rq_decode",
    "rq_encode",
    "segment_mean",
    "segment_sum",
    "to_padded",
    "topk_code_sums",
    "topk_inner_product",
    "transformer_best_first",
    "transformer_cross",
    "transformer_first",
    "transformer_head",
    "transformer_prefill",
    "transformer_search",
    "transformer_step",
    "trie_build",
    "trie_filter",
    "trie_lookup",
    "trie_places",
    "trie_step",
]
