"""The scores and the beams are those of Hugging Face's constrained beam search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from genrec_fast.catalog.trie import build_trie
from genrec_fast.decoders import BeamConfig
from shared.decoder_suite import users_of

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.slow  # importing transformers takes seconds

VOCABULARY, LEVELS, START = 24, 3, 0


class Network:
    """A tiny T5 whose vocabulary is the codebook of every level; recomputes the prefix at each step."""

    codebook_sizes = (VOCABULARY,) * LEVELS

    def __init__(self):
        config = transformers.T5Config(
            vocab_size=VOCABULARY,
            d_model=16,
            d_kv=8,
            d_ff=32,
            num_layers=1,
            num_heads=2,
            decoder_start_token_id=START,
            pad_token_id=0,
            eos_token_id=None,
        )
        torch.manual_seed(0)
        self.model = transformers.T5ForConditionalGeneration(config).eval()
        with torch.no_grad():
            self.model.shared.weight.mul_(3)  # less even than a fresh network

    @staticmethod
    def inputs(batch):
        tokens = batch.items.padded(0)
        mask = torch.arange(tokens.shape[1]) < batch.items.lengths.unsqueeze(1)
        return tokens, mask.long()

    def prefill(self, batch):
        tokens, mask = self.inputs(batch)
        encoded = self.model.encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
        return Prefixes(self.model, encoded, mask, torch.full((len(batch), 1, 1), START))


@dataclass(frozen=True)
class Prefixes:
    model: Any
    encoded: torch.Tensor
    mask: torch.Tensor
    prefix: torch.Tensor

    def scores(self, span=None, *, log_sums=False):
        beams = self.prefix.shape[1]
        out = self.model(
            encoder_outputs=(self.encoded.repeat_interleave(beams, 0),),
            attention_mask=self.mask.repeat_interleave(beams, 0),
            decoder_input_ids=self.prefix.flatten(0, 1),
        )
        return out.logits[:, -1].view(*self.prefix.shape[:2], -1), None

    def extend(self, codes, parents):
        ancestors = self.prefix.gather(1, parents.long().unsqueeze(2).expand(-1, -1, self.prefix.shape[2]))
        prefix = torch.cat([ancestors, codes.long().unsqueeze(2)], 2)
        return Prefixes(self.model, self.encoded, self.mask, prefix)

    def search(self, trie, plan, paid):
        return None


@pytest.mark.parametrize(("k", "num_beams"), [(1, 1), (5, 8), (10, 10)])
def test_same_items_and_scores_as_generate(k, num_beams):
    generator = torch.Generator().manual_seed(1)
    codes = torch.unique(torch.randint(1, VOCABULARY, (120, LEVELS), generator=generator), dim=0)
    network = Network()
    batch = users_of(8, VOCABULARY, 3)
    batch = type(batch)(type(batch.items).from_rows([[*row.tolist(), 5] for row in batch.items.rows()]))
    trie = build_trie(codes, codebook_sizes=network.codebook_sizes)
    found = BeamConfig().build().search(network, batch, trie, k, num_beams=num_beams)

    children: dict[tuple[int, ...], set[int]] = {}
    for row in codes.tolist():
        for t in range(LEVELS):
            children.setdefault(tuple(row[:t]), set()).add(row[t])
    tokens, mask = network.inputs(batch)
    theirs = network.model.generate(
        input_ids=tokens,
        attention_mask=mask,
        num_beams=num_beams,
        num_return_sequences=k,
        max_new_tokens=LEVELS,
        do_sample=False,
        length_penalty=0.0,  # sums of log-probabilities, as they are
        prefix_allowed_tokens_fn=lambda _, prefix: sorted(children[tuple(prefix.tolist()[1:])]),
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert torch.equal(found.codes.long(), theirs.sequences[:, 1:].view(8, k, LEVELS))
    if num_beams > 1:  # with one beam, generate gives no score of the sequence
        torch.testing.assert_close(found.scores, theirs.sequences_scores.view(8, k), atol=1e-4, rtol=1e-4)
