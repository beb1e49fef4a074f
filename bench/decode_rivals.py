"""What a whole decode costs elsewhere: transformers with a trie in Python, its modules alone, CTranslate2.

CTranslate2 knows no trie: it searches the whole vocabulary, with as many beams and as many tokens.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from baselines import HfTrie


def clock() -> float:
    """Seconds: of this process where it runs on one thread, else on the wall."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def measure(
    sides: dict[str, Callable[[], Any]], check: Callable[[dict[str, Any]], None], seconds: float = 3.0, most: int = 100
) -> dict[str, float]:
    """Minimum milliseconds of each side; they alternate, so that a busy moment hits them alike.

    On one thread the clock is the process's own: what other processes take of the core is nobody's time.
    The first call of each makes the answers that ``check`` is given before anything else is timed. A side whose calls
    have taken ``seconds`` (at most GENREC_BENCH_SECONDS) is not called again: the slow ones run once.
    """
    seconds = min(seconds, float(os.environ.get("GENREC_BENCH_SECONDS", "inf")))
    best, spent, answers = dict.fromkeys(sides, float("inf")), dict.fromkeys(sides, 0.0), {}

    def run(name: str) -> Any:
        start = clock()
        answer = sides[name]()
        took = clock() - start
        best[name], spent[name] = min(best[name], took), spent[name] + took
        return answer

    for name in sides:
        answers[name] = run(name)
    check(answers)
    answers.clear()
    for _ in range(most):
        due = [name for name in sides if spent[name] < seconds]
        for name in due:
            run(name)
        if not due:
            break
    return {name: 1e3 * value for name, value in best.items()}


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
