"""Rivals, in their strongest form: what the same step costs without the library.

``CsrGather`` is the published way to put a trie on an accelerator, children in compressed sparse rows; ``HfTrie`` is
what transformers offers, ``prefix_allowed_tokens_fn`` over a Python dictionary; around both the log-softmax and top-k
that a search needs. ``written_by_hf`` and ``hf_modules`` are whole decodes by transformers, ``CTranslate2T5`` by
CTranslate2, which knows no trie: it searches the whole vocabulary, with as many beams and as many tokens. ``hf_t5`` is
our network in transformers' classes, ``faiss_quantizer`` our codebooks in faiss'.
"""

from __future__ import annotations

import tempfile
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PrefixConstrainedLogitsProcessor, T5Config, T5ForConditionalGeneration

from genrec_fast.backbones import T5
from workloads import Vectors


class Beams(NamedTuple):
    scores: Tensor  # float32 [B, W]
    codes: Tensor  # int64 [B, W]
    parents: Tensor  # int64 [B, W]
    nodes: Tensor  # int64 [B, W]


class CsrGather:
    """Trie search in torch ops; ``item_codes`` int64 ``[N, L]``.

    The children of all beams are gathered at once, padded to the widest node of the level, and only their
    log-probabilities take part in the top-k: nothing is as wide as the vocabulary but the log-softmax. An edge's number
    is its child's node, so that a step ends with a gather.
    """

    def __init__(self, item_codes: Tensor, codebook_size: int) -> None:
        self.levels: list[tuple[Tensor, Tensor, Tensor]] = []  # first edge of a node, edges' codes, 0 .. widest - 1
        prefixes, num_nodes = torch.zeros(item_codes.shape[0], dtype=torch.int64), 1
        for level in range(item_codes.shape[1]):
            keys = prefixes * codebook_size + item_codes[:, level]
            edges, prefixes = torch.unique(keys, sorted=True, return_inverse=True)
            counts = torch.bincount(edges // codebook_size, minlength=num_nodes)
            first = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
            self.levels.append((first, edges % codebook_size, torch.arange(int(counts.max()))))
            num_nodes = edges.numel()

    def step(self, level: int, logits: Tensor, nodes: Tensor, scores: Tensor, num_beams: int) -> Beams:
        """One level of live beams: log-softmax, gather of the children, top-k, advance."""
        first, codes, columns = self.levels[level]
        users, beams, size = logits.shape
        begin, end = first[nodes.view(-1)], first[nodes.view(-1) + 1]
        edges = (begin[:, None] + columns).clamp_(max=codes.numel() - 1)
        children = codes[edges]
        logprobs = torch.log_softmax(logits.float(), -1).view(-1, size)
        total = logprobs.gather(1, children).add_(scores.view(-1, 1))
        total.masked_fill_(columns >= (end - begin)[:, None], -torch.inf)
        best, at = total.view(users, -1).topk(min(num_beams, beams * columns.numel()), -1)
        children, edges = children.view(users, -1), edges.view(users, -1)
        return Beams(best, children.gather(1, at), at // columns.numel(), edges.gather(1, at))


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


def written_by_hf(model: Any, prompts: Tensor, beams: int, trie: HfTrie, levels: int, k: int) -> Any:
    """``generate`` as its users constrain it: a function over the prefix that looks into a dictionary."""
    begin = 1 if model.config.is_encoder_decoder else prompts.shape[1]
    return model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        num_beams=beams,
        num_return_sequences=k,
        max_new_tokens=levels,
        length_penalty=0.0,
        do_sample=False,
        prefix_allowed_tokens_fn=lambda _, ids: trie.children[tuple(ids[begin:].tolist())],
        return_dict_in_generate=True,
        output_scores=True,
    )


@torch.no_grad()  # as generate itself
def hf_modules(model: Any, prompts: Tensor, beams: int, levels: int) -> None:
    """transformers' modules by themselves: each prompt once, caches copied out to the beams, no search."""
    mask = torch.ones_like(prompts)
    if model.config.is_encoder_decoder:
        rows = model.get_encoder()(prompts, attention_mask=mask).last_hidden_state.repeat_interleave(beams, 0)
        fixed = {"encoder_outputs": (rows,), "attention_mask": mask.repeat_interleave(beams, 0)}
        tokens, cache = torch.zeros(rows.shape[0], 1, dtype=torch.int64), None
        for _ in range(levels):
            cache = model(decoder_input_ids=tokens, past_key_values=cache, use_cache=True, **fixed).past_key_values
        return
    cache = model(prompts, attention_mask=mask, use_cache=True, logits_to_keep=1).past_key_values
    cache.batch_repeat_interleave(beams)
    tokens = torch.zeros(prompts.shape[0] * beams, 1, dtype=torch.int64)
    for _ in range(levels - 1):
        cache = model(tokens, past_key_values=cache, use_cache=True).past_key_values


class CTranslate2T5:
    """A T5 of transformers in CTranslate2; the tokens' texts are made up."""

    def __init__(self, model: Any, compute_type: str) -> None:
        import ctranslate2
        from ctranslate2.converters.transformers import T5Loader

        self.tokens = ["<pad>", "</s>", "<unk>", *(f"<{token}>" for token in range(3, model.config.vocab_size))]
        loader = T5Loader()
        spec = loader.get_model_spec(model)
        loader.set_vocabulary(spec, self.tokens)
        spec.config.bos_token = spec.config.decoder_start_token = "<pad>"
        spec.config.eos_token, spec.config.unk_token = "</s>", "<unk>"
        spec.validate()
        spec.optimize(quantization=None)
        self.number = {text: token for token, text in enumerate(self.tokens)}
        with tempfile.TemporaryDirectory() as folder:
            spec.save(folder)
            self.translator = ctranslate2.Translator(
                folder, device="cpu", compute_type=compute_type, inter_threads=1, intra_threads=torch.get_num_threads()
            )

    def texts(self, prompts: Tensor) -> list[list[str]]:
        return [[self.tokens[token] for token in row] for row in prompts.tolist()]

    def search(self, texts: list[list[str]], beams: int, length: int, k: int) -> list[Any]:
        """k sequences of ``length`` tokens behind each prompt."""
        found: list[Any] = self.translator.translate_batch(
            texts,
            beam_size=beams,
            num_hypotheses=k,
            min_decoding_length=length,
            max_decoding_length=length,
            length_penalty=0,
            return_scores=True,
        )
        return found

    def assert_same_network(self, model: Any, prompts: Tensor, beams: int = 4, length: int = 4) -> None:
        """Its weights are the model's: without a trie, both write the same sequences."""
        theirs = model.generate(
            prompts[:1],
            attention_mask=torch.ones_like(prompts[:1]),
            num_beams=beams,
            num_return_sequences=1,
            max_new_tokens=length,
            length_penalty=0.0,
            suppress_tokens=[1],  # the end, which min_decoding_length rules out on the other side
            return_dict_in_generate=True,
            output_scores=True,
        )
        (found,) = self.search(self.texts(prompts[:1]), beams, length, 1)
        assert [self.number[text] for text in found.hypotheses[0]] == theirs.sequences[0, 1:].tolist()
        assert abs(found.scores[0] - float(theirs.sequences_scores[0])) < 0.02  # it leaves the end out of the sum


def cache_bytes(cache: Any) -> int:
    """Bytes of keys and values in a cache of transformers."""
    parts = [getattr(cache, name, None) for name in ("self_attention_cache", "cross_attention_cache")]
    if parts[0] is not None:
        return sum(cache_bytes(part) for part in parts)
    return sum(tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values))


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


def faiss_quantizer(shape: Vectors, books: list[Tensor]) -> Any:
    """faiss' residual quantizer with these codebooks."""
    import faiss

    bits = shape.codebook_size.bit_length() - 1
    quantizer = faiss.ResidualQuantizer(shape.depth, shape.num_levels, bits)
    faiss.copy_array_to_vector(torch.cat(books).numpy().ravel(), quantizer.codebooks)
    quantizer.is_trained = True
    return quantizer


def faiss_packed(codes: Tensor, quantizer: Any) -> np.ndarray:
    """The codes as faiss keeps them: bits end to end."""
    import faiss

    out = np.zeros((len(codes), quantizer.code_size), dtype=np.uint8)
    numbers = np.ascontiguousarray(codes.numpy())
    quantizer.pack_codes(len(codes), faiss.swig_ptr(numbers), faiss.swig_ptr(out))
    return out
