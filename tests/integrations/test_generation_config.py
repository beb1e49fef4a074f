"""Every setting of generate, one after the other: Hugging Face's own beams with it, or refused by its name.

The table names all public fields of ``GenerationConfig``; one that a new version of transformers adds fails here, until
somebody has found out what it does to beams.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch

import genrec_fast as gf
from genrec_fast.base.errors import GenrecError

pytest.importorskip("transformers")

import transformers

from integrations.models import generate, make_inputs, make_model, prefix_function

pytestmark = [
    pytest.mark.filterwarnings("ignore::genrec_fast.base.errors.SlowPathWarning"),
    pytest.mark.filterwarnings("ignore:Unfeasible length constraints"),  # of transformers, which goes on all the same
    pytest.mark.skipif(
        tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 23),
        reason="what older versions of transformers do with a setting is not in the table",
    ),
]

SIZES, OFFSET = (6, 5, 6), 20
CODES = torch.cartesian_prod(*(torch.arange(size) for size in SIZES))[
    torch.randperm(180, generator=torch.Generator().manual_seed(1))[:60]
]
TRIE = gf.build_trie(CODES, codebook_sizes=SIZES)
TABLES = [range(20, 26), range(26, 31), range(31, 37)]
LENGTHS = [3, 7, 5]
FIELDS = sorted(name for name in vars(transformers.GenerationConfig()) if not name.startswith("_"))


class Counts(NamedTuple):
    """Both sides answer, equally, and otherwise than without the setting."""

    value: Any
    models: tuple[str, ...] = ("llama", "t5")


class Idle(NamedTuple):
    """Both sides answer as without the setting."""

    value: Any
    models: tuple[str, ...] = ("llama", "t5")


class Refused(NamedTuple):
    """The search refuses it; the text begins with the setting's name, or with another that it is known by."""

    value: Any
    text: str = ""
    models: tuple[str, ...] = ("llama", "t5")


class Theirs(NamedTuple):
    """transformers itself refuses it, whatever the search: before it is asked, or in its own beam search alone."""

    value: Any
    text: str
    asked: bool = False
    models: tuple[str, ...] = ("llama", "t5")


TABLE: dict[str, tuple[Any, ...]] = {
    "assistant_confidence_threshold": (Idle(0.9),),
    "assistant_early_exit": (Idle(1),),
    "assistant_ensemble_weight": (Idle(0.5),),
    "assistant_lookbehind": (Idle(3),),
    "bad_words_ids": (Counts([[20], [21, 27], [23]]), Refused([[token] for token in range(20, 26)])),
    "begin_suppress_tokens": (Counts([20, 21, 22, 23], ("t5",)), Refused([*range(20, 26)])),
    "bos_token_id": (Idle(5),),
    "cache_config": (Idle({"backend": "quanto"}),),
    "cache_implementation": (
        *(Idle("dynamic"), Idle("static"), Idle("sliding_window")),
        Theirs("some", "Invalid `cache_implementation`"),
    ),
    "compile_config": (Idle(transformers.CompileConfig()),),
    "constraints": (Refused([1]),),
    "continuous_batching_config": (Idle({}),),
    "decoder_start_token_id": (Idle(5, ("llama",)), Counts(5, ("t5",))),
    "disable_compile": (Idle(True),),
    "diversity_penalty": (Refused(0.5),),
    "do_sample": (Refused(True),),
    "dola_layers": (Refused("high"),),
    "early_stopping": (Idle(True), Idle("never")),
    "encoder_no_repeat_ngram_size": (Counts(1, ("t5",)),),
    "encoder_repetition_penalty": (Counts(1.5, ("t5",)),),
    "eos_token_id": (Idle([1, 2]), Refused(21), Refused([1, 31])),
    "epsilon_cutoff": (Idle(0.01),),
    "eta_cutoff": (Idle(0.01),),
    "exponential_decay_length_penalty": (Counts((1, 1.5)),),
    "force_words_ids": (Refused([[20]]),),
    "forced_bos_token_id": (Idle(20, ("llama",)), Counts(20, ("t5",)), Refused(45, models=("t5",))),
    "forced_eos_token_id": (Counts(1),),
    "guidance_scale": (Idle(1.0), Refused(1.5)),
    "is_assistant": (Refused(True),),
    "length_penalty": (Counts(0.0), Counts(2.0), Counts(-1.0)),
    "low_memory": (Theirs(True, "`low_memory=True` is not supported", asked=True),),
    "max_cache_len": (Idle(3),),
    "max_length": (Idle(30),),
    "max_matching_ngram_size": (Idle(2),),
    "max_new_tokens": (Counts(3), Idle(9), Refused(2)),
    "max_time": (Refused(100.0),),
    "min_length": (Idle(3), Refused(30)),
    "min_new_tokens": (Idle(3), Refused(5, r"min_length \(or min_new_tokens\)")),
    "min_p": (Idle(0.05),),
    "no_repeat_ngram_size": (Counts(1, ("llama",)), Idle(1, ("t5",)), Idle(3)),
    "num_assistant_tokens": (Idle(3),),
    "num_assistant_tokens_schedule": (Idle("constant"),),
    "num_beam_groups": (Refused(2),),
    "num_beams": (Counts(6), Theirs(3, "has to be smaller or equal to `num_beams`")),
    "num_return_sequences": (Counts(1), Counts(8), Theirs(9, "has to be smaller or equal to `num_beams`")),
    "output_attentions": (Refused(True),),
    "output_hidden_states": (Refused(True),),
    "output_logits": (Refused(True),),
    "output_scores": (Counts(False),),
    "pad_token_id": (Idle(3), Idle(None)),
    "penalty_alpha": (Refused(0.6),),
    "prefill_chunk_size": (Idle(2, ("llama",)), Refused(2, models=("t5",))),
    "prompt_lookup_num_tokens": (Idle(3),),
    "remove_invalid_values": (Idle(True),),
    "renormalize_logits": (Counts(True),),
    "repetition_penalty": (Counts(1.5, ("llama",)), Idle(1.5, ("t5",))),  # no decoder writes a code twice
    "return_dict_in_generate": (Counts(False),),
    "sequence_bias": (Counts([[[token], 0.7 * token] for token in range(20, 26)]),),
    "speculation_type": (Idle("other"),),
    "stop_strings": (Theirs("ab", "stop strings"),),
    "suppress_tokens": (Counts([20, 21]), Refused([*range(31, 37)])),
    "target_lookbehind": (Idle(3),),
    "temperature": (Idle(0.5),),
    "token_healing": (Theirs(True, "token healing"),),
    "top_h": (Idle(0.4),),
    "top_k": (Idle(3),),
    "top_p": (Idle(0.5),),
    "transformers_version": (Idle("4.0"),),
    "typical_p": (Idle(0.5),),
    "use_cache": (Idle(False),),
    "use_mtp": (Idle(True),),
    "watermarking_config": (Counts(transformers.WatermarkingConfig()),),
}
CASES = [
    (field, number, model)
    for field, cases in TABLE.items()
    for number, case in enumerate(cases)
    for model in case.models
    if field in FIELDS
]


@pytest.fixture(scope="module")
def models():
    return {name: make_model(name) for name in ("llama", "t5")}


@pytest.fixture(scope="module")
def plain(models):
    """Hugging Face's answer without any setting."""
    return {name: asked(model, prefix_allowed_tokens_fn=allowed(model)) for name, model in models.items()}


def asked(model, **options):
    return generate(model, make_inputs(model, LENGTHS), **{"num_beams": 8, "k": 6, "length": 3, "end": 1, **options})


def allowed(model):
    return prefix_function(CODES, TABLES, 1, 1 if model.config.is_encoder_decoder else max(LENGTHS))


def with_setting(model, field, value, **how):
    """A call with a setting that the one function of both sides may have a name of its own for."""
    inputs = make_inputs(model, LENGTHS)
    settings = {"num_beams": 8, "num_return_sequences": 6, "max_new_tokens": 4, "eos_token_id": 1, "pad_token_id": 0}
    settings |= {"do_sample": False, "return_dict_in_generate": True, "output_scores": True, field: value}
    return model.generate(**inputs, **settings, **how)


def same(one, other):
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return type(one) is type(other) and torch.equal(one, other)
    scores = [out.sequences_scores for out in (one, other)]
    if not torch.equal(one.sequences, other.sequences) or (scores[0] is None) != (scores[1] is None):
        return False
    return scores[0] is None or torch.allclose(*scores, rtol=0, atol=1e-4)


def test_the_table_names_every_setting_there_is():
    """A field that is not here is one of which nobody knows whether beams depend on it."""
    assert [field for field in FIELDS if field not in TABLE] == []


@pytest.mark.parametrize(("field", "number", "name"), CASES)
def test_a_setting_counts_as_in_generate_or_is_named(models, plain, field, number, name):
    model, case = models[name], TABLE[field][number]
    called = []
    search = gf.hf.trie_beam_search(TRIE, OFFSET)

    def ours(*args, **kwargs):
        called.append(True)
        return search(*args, **kwargs)

    def answer():
        return with_setting(model, field, case.value, custom_generate=ours)

    def theirs():
        return with_setting(model, field, case.value, prefix_allowed_tokens_fn=allowed(model))

    if isinstance(case, Refused):
        with pytest.raises(GenrecError, match=f"^trie_beam_search: {case.text or field}"):
            answer()
        return
    if isinstance(case, Theirs):
        with pytest.raises(ValueError, match=case.text):
            theirs()
        if case.asked:
            assert same(answer(), plain[name])
        else:
            with pytest.raises(ValueError, match=case.text):
                answer()
        assert bool(called) == case.asked
        return
    wanted = theirs()
    assert same(wanted, plain[name]) == isinstance(case, Idle)
    assert same(answer(), wanted)
