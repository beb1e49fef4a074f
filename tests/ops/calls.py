"""Every op called as it should be, for the tests that change one argument of it."""

from __future__ import annotations

import dataclasses

import torch
from transformer_stacks import random_weights

import genrec_fast.ops as ops
from genrec_fast.base.errors import GenrecError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.trie import build_trie
from genrec_fast.ops.transformer_pack import pack_stacks, unpack_stacks
from genrec_fast.ops.transformer_spec import TransformerSpec

CODES = torch.tensor([[0, 1], [1, 0], [1, 2], [0, 1], [3, 3]])
TRIE = build_trie(CODES, codebook_sizes=(4, 4))
OFFSETS = torch.tensor([0, 2, 5])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def packed_stack(**changes):
    spec = TransformerSpec(
        **{"width": 12, "num_layers": 2, "num_heads": 2, "num_kv_heads": 2, "head_width": 6, "ff_width": 8}
        | {"head_size": 20, "score_scale": 0.4}
        | changes
    )
    weights = random_weights(spec, torch.Generator().manual_seed(0), True)
    return unpack_stacks(pack_stacks([(spec, weights)]))[0][0]


STACK = packed_stack()
_, CACHE = ops.transformer_prefill(STACK, normal(5, 12), OFFSETS)
_, KEPT = ops.transformer_step(STACK, normal(4, 12), OFFSETS, CACHE, [], torch.zeros(0, 4, dtype=torch.int32))
_, PAST = ops.transformer_prefill(STACK, normal(3, 12), torch.tensor([0, 3]))
NODES, ANCESTORS = torch.zeros(2, 1, dtype=torch.int32), torch.tensor([[0, 1, 2, 3]], dtype=torch.int32)
BOOKS = [normal(3, 4), normal(5, 4, seed=1)]

ROOT = {"parents": torch.zeros(2, 2, dtype=torch.int64), "codes": torch.tensor([[-1, 1], [-1, 3]], dtype=torch.int32)}
READ = ops.DraftRows(**ROOT, logits=normal(2, 2, 4), log_sums=normal(2, 2).abs() + 9)
ZEROS, NUMBER = torch.zeros(2, dtype=torch.int64), torch.tensor([[0, -1], [0, -1]])
BEAMS = ops.DraftBeams(
    ZEROS, NUMBER.int(), normal(2, 2).abs().neg(), torch.zeros(2, 2, 2).int(), NUMBER, NUMBER, torch.zeros(2)
)

CALLS = {
    "trie_step": {"trie": TRIE, "level": 0, "logits": normal(2, 1, 4), "nodes": NODES, "scores": torch.zeros(2, 1)}
    | {"num_beams": 3, "normalize": "all", "log_sums": normal(2, 1).abs() + 9},
    "trie_lookup": {"trie": TRIE, "codes": CODES},
    "trie_places": {"base": TRIE, "added": build_trie([[0, 3], [1, 0], [2, 2]], codebook_sizes=(4, 4))},
    "trie_filter": {"trie": TRIE, "allowed": torch.tensor([True, False, True, True, False])}
    | {"exclude": Jagged.from_rows([[0], [1, 2]])},
    "trie_build": {"item_codes": CODES, "codebook_sizes": (4, 4)},
    "gemm_pack": {"b": normal(5, 8), "precision": "float32"},
    "gemm": {"a": normal(3, 8), "packed": ops.gemm_pack(normal(5, 8)), "num_columns": 5, "start": normal(5)},
    "topk_inner_product": {"queries": normal(2, 4), "table": normal(6, 4), "k": 3, "bias": normal(6)}
    | {"allowed": torch.tensor([True] * 5 + [False]), "exclude": Jagged.from_rows([[0], [1, 2]])},
    "topk_code_sums": {"logprobs": normal(2, 8), "item_codes": CODES.to(torch.uint8), "k": 3, "codebook_sizes": (4, 4)}
    | {"allowed": torch.tensor([True] * 4 + [False]), "exclude": Jagged.from_rows([[0], [1, 2]])},
    "completable_codes": {"written": torch.tensor([[[-1, 1]], [[1, -1]]], dtype=torch.int32)}
    | {"item_codes": CODES.to(torch.uint8), "codebook_sizes": (4, 4)}
    | {"allowed": torch.tensor([True] * 4 + [False]), "exclude": Jagged.from_rows([[0], [1, 2]])},
    "graph_step": {"logprobs": normal(2, 8), "item_codes": CODES.to(torch.uint8), "num_beams": 3}
    | {"neighbours": torch.tensor([[0, 1], [1, 4], [2, -1], [3, 0], [4, 2]], dtype=torch.int32)}
    | {"items": torch.tensor([[0, 3], [2, -1]], dtype=torch.int32), "codebook_sizes": (4, 4)},
    "rq_encode": {"x": normal(3, 4), "codebooks": BOOKS, "num_beams": 2, "precision": "float32"},
    "rq_decode": {"codes": torch.tensor([[0, 1], [2, 4]]), "codebooks": BOOKS, "num_levels": 2},
    "kmeans_step": {"x": normal(5, 4), "centroids": normal(3, 4)},
    "to_padded": {"values": normal(5, 3), "offsets": OFFSETS, "max_len": 3, "padding_value": 1},
    "from_padded": {"dense": normal(2, 3, 2), "offsets": OFFSETS, "total": 5},
    "jagged_concat": {"values_list": [normal(5, 2), normal(2, 1, 2)], "offsets_list": [OFFSETS, None]},
    "jagged_split": {"values": normal(7, 2), "offsets_list": [OFFSETS, 1]},
    "interleave": {"values_list": [normal(5, 2), normal(5, 2)], "offsets": OFFSETS},
    "deinterleave": {"values": normal(6, 2), "num_parts": 2},
    "segment_sum": {"values": normal(5, 2), "offsets": OFFSETS},
    "segment_mean": {"values": normal(5, 2), "offsets": OFFSETS},
    "jagged_dense_matmul": {"values": normal(5, 2), "offsets": OFFSETS, "dense": normal(2, 2, 3), "bias": normal(2, 3)},
    "jagged_jagged_matmul": {"a": normal(5, 2), "b": normal(5, 3), "offsets": OFFSETS},
    "jagged_gather": {"values": normal(5, 2), "offsets": OFFSETS, "rows": torch.tensor([1, 0, 1]), "total": 8},
    "embedding": {"table": normal(4, 2), "ids": torch.tensor([3, 0]), "sparse_grad": False},
    "jagged_attention": {"q": normal(5, 2, 4), "k": normal(5, 2, 4), "v": normal(5, 2, 4), "offsets": OFFSETS}
    | {"kind": "silu", "causal": True, "max_seq_len": 7, "alpha": 0.3, "attn_scale": normal(5), "seed": 3}
    | {"num_targets": torch.tensor([1, 0]), "target_group_size": 1, "contextual_seq_len": 1, "max_attn_len": 2}
    | {"min_full_attn_seq_len": 1, "dropout_p": 0.1, "kv_offsets": OFFSETS},
    "beam_attention": {"q": normal(2, 2, 2, 4), "prompt_keys": normal(5, 1, 4), "prompt_values": normal(5, 1, 3)}
    | {"offsets": OFFSETS, "keys": normal(2, 3, 1, 4), "values": normal(2, 3, 1, 3), "bias": normal(2, 4), "scale": 0.3}
    | {"parents": torch.tensor([[-1, -1, 0], [-1, 0, 1]], dtype=torch.int32)},
    "residual_norm": {"x": normal(3, 4), "weight": normal(4), "added": normal(3, 4, seed=1), "bias": normal(4, seed=2)}
    | {"kind": "layer", "epsilon": 0.01},
    "rotary": {"x": normal(3, 2, 4), "positions": torch.tensor([4, 0, 1]), "table": normal(5, 2), "weight": normal(4)}
    | {"epsilon": 0.01},
    "transformer_prefill": {"stack": STACK, "rows": normal(5, 12), "offsets": OFFSETS, "only_last": True}
    | {"past": [PAST, PAST], "past_rows": torch.tensor([3, 3]), "past_used": torch.tensor([2, 3])},
    "transformer_first": {"stack": STACK, "rows": normal(5, 12)},
    "transformer_step": {"stack": STACK, "rows": normal(4, 12), "offsets": OFFSETS, "cache": CACHE, "chain": [KEPT]}
    | {"ancestors": ANCESTORS},
    "transformer_head": {"stack": STACK, "hidden": normal(3, 12), "first": 1, "last": 4, "log_sums": True},
    "transformer_search": {"stack": STACK, "hidden": normal(2, 12), "scores": torch.zeros(2), "offsets": OFFSETS}
    | {"cache": CACHE, "trie": TRIE, "code_tokens": [torch.arange(4), torch.arange(4, 8)]}
    | {"embedding": normal(20, 12), "num_beams": 3, "embedding_scale": 2.0, "end_token": 9},
    "transformer_best_first": {"stack": STACK, "hidden": normal(2, 12), "scores": torch.zeros(2), "offsets": OFFSETS}
    | {"cache": CACHE, "trie": TRIE, "code_tokens": [torch.arange(4), torch.arange(4, 8)]}
    | {"embedding": normal(20, 12), "k": 2, "width": 3, "budget": 9, "least_rows": 2, "share": 4}
    | {"embedding_scale": 2.0, "first_user": 0, "last_user": 2},
    "draft_tree": {"row_parents": ROOT["parents"], "row_codes": ROOT["codes"], "levels": ZEROS}
    | {"above": torch.zeros(2, 1, dtype=torch.int64), "nodes": [torch.tensor([[0, 1], [2, -1]], dtype=torch.int32)]}
    | {"parents": [torch.zeros(2, 2, dtype=torch.int64)], "codes": [torch.tensor([[0, 1], [3, 0]], dtype=torch.int32)]},
    "draft_verify": {"trie": TRIE, "rows": READ, "standing": BEAMS, "num_beams": (1, 2), "normalize": "all"}
    | {"widths": torch.tensor([1, 2]), "allowed": None},
    "fingerprint": {"tensors": [normal(5), torch.arange(3)]},
}
TENSORS = [
    (name, key) for name, call in CALLS.items() for key, value in call.items() if isinstance(value, torch.Tensor)
]
NUMBERS = [
    (name, key)
    for name, call in CALLS.items()
    for key, value in call.items()
    if isinstance(value, int | float) and not isinstance(value, bool)
]
OTHERS = [(name, key) for name, call in CALLS.items() for key in call if (name, key) not in {*TENSORS, *NUMBERS}]


def flat(result):
    """Every tensor of a result."""
    if isinstance(result, torch.Tensor):
        return [result]
    if dataclasses.is_dataclass(result):
        result = [getattr(result, field.name) for field in dataclasses.fields(result)]
    return [tensor for part in result for tensor in flat(part)] if isinstance(result, list | tuple) else []


def attempt(function, *arguments, **named):
    """(result, None), or (None, the library's error): any other error is a failure of the test."""
    try:
        return function(*arguments, **named), None
    except GenrecError as error:
        return None, error


def call(name, **changes):
    return getattr(ops, name)(**{**CALLS[name], **changes})


def equal(one, other):
    one, other = flat(one), flat(other)
    return len(one) == len(other) and all(
        a.dtype == b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8))
        for a, b in ((a.contiguous().reshape(-1), b.contiguous().reshape(-1)) for a, b in zip(one, other, strict=True))
    )


def freed(tensor):
    away = tensor.clone(memory_format=torch.contiguous_format)
    away.untyped_storage().resize_(0)
    return away


def negated(tensor):
    if not tensor.is_floating_point() or tensor.dtype == torch.bfloat16:
        return torch._neg_view(-tensor)
    return torch.complex(torch.zeros_like(tensor), -tensor).conj().imag


def misaligned(tensor):
    raw = torch.empty(tensor.nbytes + 1, dtype=torch.uint8)
    away = torch.frombuffer(raw.numpy(), dtype=tensor.dtype, offset=1, count=tensor.numel()).view(tensor.shape)
    away.copy_(tensor)
    assert away.data_ptr() % max(2, tensor.element_size()) or tensor.element_size() == 1
    return away


def strided(tensor):
    wide = torch.zeros(*tensor.shape, 2, dtype=tensor.dtype)
    wide[..., 0] = tensor
    return wide[..., 0]
