"""Rivals, written for this comparison: what the same step costs without the library.

``CsrGather`` is the published way to put a trie on an accelerator: children in compressed sparse rows, gathered for
all beams at once, padded to the widest node of the level, scattered as a mask over the vocabulary; around it the
log-softmax and top-k that a search needs. ``HfTrie`` is what transformers offers: ``prefix_allowed_tokens_fn``
over a Python dictionary, with the same around it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PrefixConstrainedLogitsProcessor, T5Config, T5ForConditionalGeneration

from genrec_fast.backbones import T5


class Beams(NamedTuple):
    scores: Tensor  # float32 [B, W]
    codes: Tensor  # int64 [B, W]
    parents: Tensor  # int64 [B, W]
    nodes: Tensor  # int64 [B, W]; -1 = none


class CsrGather:
    """Trie search in torch ops; ``item_codes`` int64 ``[N, L]``."""

    def __init__(self, item_codes: Tensor, codebook_size: int) -> None:
        self.size = codebook_size
        self.offsets: list[Tensor] = []  # int64 [nodes + 1] per level
        self.edges: list[Tensor] = []  # int64 [edges] per level: node * K + code, ascending
        self.codes: list[Tensor] = []  # int64 [edges + 1]; the last is where padding points
        self.widest: list[int] = []
        prefixes = torch.zeros(item_codes.shape[0], dtype=torch.int64)
        num_nodes = 1
        for level in range(item_codes.shape[1]):
            edges, prefixes = torch.unique(
                prefixes * codebook_size + item_codes[:, level], sorted=True, return_inverse=True
            )
            counts = torch.bincount(edges // codebook_size, minlength=num_nodes)
            self.offsets.append(torch.nn.functional.pad(counts.cumsum(0), (1, 0)))
            self.codes.append(torch.nn.functional.pad(edges % codebook_size, (0, 1), value=codebook_size))
            self.edges.append(edges)
            self.widest.append(int(counts.max()))
            num_nodes = edges.numel()
        self.columns = torch.arange(max(self.widest))

    def step(self, level: int, logits: Tensor, nodes: Tensor, scores: Tensor, num_beams: int) -> Beams:
        """One level: log-softmax, gather of children, mask, top-k, advance."""
        users, beams, size = logits.shape
        logprobs = torch.log_softmax(logits.float(), -1)
        live = nodes >= 0
        node = nodes.clamp(min=0)
        first, end = self.offsets[level][node], self.offsets[level][node + 1]
        edges = first.unsqueeze(-1) + self.columns[: self.widest[level]]
        edges = torch.where((edges < end.unsqueeze(-1)) & live.unsqueeze(-1), edges, self.codes[level].numel() - 1)
        children = self.codes[level][edges]
        mask = torch.full((users, beams, size + 1), -torch.inf)
        mask.scatter_(-1, children, 0.0)
        total = (logprobs + scores.unsqueeze(-1)).add_(mask[..., :size]).view(users, beams * size)
        best, flat = total.topk(min(num_beams, beams * size), dim=-1)
        parents, codes = flat // size, flat % size
        # advance: a child's number is the place of (node, code) among all edges
        edges = torch.searchsorted(self.edges[level], node.gather(1, parents) * size + codes)
        nodes = torch.where(best > -torch.inf, edges, -1)
        return Beams(best, codes, parents, nodes)


class HfTrie:
    """What a level costs in transformers: the mask of a dictionary of prefixes between log-softmax and top-k."""

    def __init__(self, item_codes: Tensor) -> None:
        self.children: dict[tuple[int, ...], list[int]] = {}
        for row in torch.unique(item_codes, dim=0).tolist():
            for level, code in enumerate(row):
                codes = self.children.setdefault(tuple(row[:level]), [])
                if not codes or codes[-1] != code:  # rows are sorted
                    codes.append(code)

    def step(self, prefixes: Tensor, logits: Tensor, scores: Tensor, num_beams: int) -> tuple[Tensor, Tensor]:
        """One user: prefixes int64 ``[W, t]``, logits ``[W, K]``, scores ``[W]`` -> the best 2 W scores and places.

        Twice as many as beams, as transformers keeps; reordering of its caches is not included.
        """
        processor = PrefixConstrainedLogitsProcessor(
            lambda _, prefix: self.children.get(tuple(prefix.tolist()), [0]), prefixes.shape[0]
        )
        masked = processor(prefixes, torch.log_softmax(logits, -1))
        best: tuple[Tensor, Tensor] = (masked + scores[:, None]).flatten().topk(2 * num_beams)
        return best


def hf_t5(backbone: T5) -> T5ForConditionalGeneration:
    """Our T5's weights in transformers' model; its vocabulary is ours, logits of tokens that are no codes are 0."""
    c, vocabulary = backbone.config, backbone.tokens.num_embeddings
    config = T5Config(
        vocab_size=vocabulary,
        d_model=c.width,
        d_kv=c.head_width,
        d_ff=c.hidden,
        num_layers=c.num_layers,
        num_heads=c.num_heads,
        dropout_rate=c.dropout,
        tie_word_embeddings=False,
        decoder_start_token_id=backbone.start_token,
        pad_token_id=backbone.start_token,
        eos_token_id=backbone.end_token,
    )
    model = T5ForConditionalGeneration(config).eval()
    # A head of its own: transformers 5 ties it to the embedding whatever the configuration says.
    model.lm_head = torch.nn.Linear(c.width, vocabulary, bias=False)
    with torch.no_grad():
        model.shared.weight.copy_(backbone.tokens.weight)
        model.lm_head.weight.zero_()
        model.lm_head.weight[: backbone.head.weight.shape[0]] = backbone.head.weight
        for stack, layers, norm, bias in (
            (model.encoder, backbone.encoder, backbone.encoder_norm, backbone.encoder_bias),
            (model.decoder, backbone.decoder, backbone.decoder_norm, backbone.decoder_bias),
        ):
            stack.final_layer_norm.weight.copy_(norm.weight)
            stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight.copy_(bias.table.weight)
            for block, layer in zip(stack.block, layers, strict=True):
                _copy_attention(block.layer[0].SelfAttention, layer.attention)
                block.layer[0].layer_norm.weight.copy_(layer.norm.weight)
                if layer.cross_attention is not None:
                    _copy_attention(block.layer[1].EncDecAttention, layer.cross_attention)
                    block.layer[1].layer_norm.weight.copy_(layer.cross_norm.weight)
                block.layer[-1].layer_norm.weight.copy_(layer.feed_norm.weight)
                block.layer[-1].DenseReluDense.wi.weight.copy_(layer.feed_forward.into.weight)
                block.layer[-1].DenseReluDense.wo.weight.copy_(layer.feed_forward.out.weight)
    return model


def _copy_attention(theirs: torch.nn.Module, ours: torch.nn.Module) -> None:
    keys, values = ours.keys_values.weight.chunk(2)
    for name, weight in (("q", ours.queries.weight), ("k", keys), ("v", values), ("o", ours.out.weight)):
        getattr(theirs, name).weight.copy_(weight)
