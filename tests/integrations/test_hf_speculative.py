"""A language model that a draft runs ahead of answers as its own beam search does."""

from __future__ import annotations

import pytest
import torch

import genrec_fast as gf
from genrec_fast.base.errors import UnsupportedError
from genrec_fast.base.query import ask

pytest.importorskip("transformers")

from integrations.models import make_model

CODES = torch.stack([torch.arange(120) // 24, torch.arange(120) // 4 % 6, torch.arange(120) % 4], 1)
CATALOG = gf.Catalog(item_codes=CODES, codebook_sizes=(6, 6, 6))
HISTORIES = [[3, 14, 15], [9], [2, 6, 5, 35], [8, 9]]


def compiled(name, seed=0, **options):
    around = {"reads": "items", "after": (1,)} if options.get("reads", "items") == "items" else {}
    return gf.hf.compile(make_model(name, seed), CATALOG, token_offset=3, **{**around, **options})


def answer(model, decoder, **options):
    question, query = ask(model, HISTORIES, 5, options)
    with model.answering():
        return model.answer(question, query, decoder)


@pytest.mark.parametrize(
    ("name", "engine"), [("t5", "native"), ("qwen2", "native"), ("qwen2", "torch"), ("llama", "torch")]
)
@pytest.mark.parametrize("normalize", ["all", "valid"])
@pytest.mark.parametrize("prefix", [(), (55, 56)])
def test_the_answers_are_the_targets_own(name, engine, normalize, prefix):
    """The draft has a prefix of its own, and is another kind of model."""
    target = compiled(name, engine=engine, normalize=normalize, prefix_tokens=prefix)
    settings = {"num_beams": 6, "normalize": normalize}
    for other, seed in (("qwen2", 1), ("t5", 2), (name, 0)):
        draft = compiled(other, seed, reads="tokens", prefix_tokens=(57,))
        decoder = gf.SpeculativeConfig(**settings).build().drafted_by(draft)
        for options in ({}, {"exclude_seen": True}, {"exact": True}, {"num_beams": torch.tensor([5, 9, 20, 6])}):
            found = answer(target, decoder, **options)
            wanted = answer(target, gf.BeamConfig(**settings).build(), **options)
            if engine == "native":
                for part in ("items", "codes", "scores", "exact", "bound"):
                    assert torch.equal(getattr(found, part), getattr(wanted, part)), part
            else:
                assert torch.equal(found.items, wanted.items)
                torch.testing.assert_close(found.scores, wanted.scores, rtol=1e-4, atol=1e-4)


def test_what_cannot_draft_or_be_drafted_for_is_named():
    target, decoder = compiled("qwen2"), gf.SpeculativeConfig(num_beams=6).build()
    with pytest.raises(UnsupportedError, match=r"speculative: draft must read prompts \(compile's reads='tokens'\)"):
        answer(target, decoder.drafted_by(compiled("qwen2", 1)))
    with pytest.raises(UnsupportedError, match="extend_tree: T5ForConditionalGeneration must be a decoder"):
        answer(compiled("t5", engine="torch"), decoder.drafted_by(compiled("qwen2", 1, reads="tokens")))
