"""A whole decode, from history to ranked items: ours against transformers' generate with a Python trie.

The same weights on both sides: TIGER's network (4.6M parameters) over 12,101 semantic IDs of 4 codes, histories of 20
items, untrained (the time does not depend on the weights). A logits processor gives generate the score that ours has,
the log-softmax over the codes of the level, and masks by a dictionary of prefixes. Equal beams are asserted first.
Run: pytest bench/bench_decode.py --benchmark-json=run.json && python bench/report.py run.json
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from baselines import HfTrie, hf_t5
from genrec_fast.backbones import T5Config
from genrec_fast.base.batch import Batch
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.catalog.trie import build_trie
from genrec_fast.decoders import BeamConfig
from genrec_fast.layouts import PlainConfig
from timing import in_turn

SIZES, NUM_ITEMS, HISTORY = (256,) * 4, 12_101, 20


class LevelScores(LogitsProcessor):
    """Renormalises over the level's slice of the vocabulary, and masks what the trie does not hold."""

    def __init__(self, trie: HfTrie, prompt: int) -> None:
        self.trie, self.prompt = trie, prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        level = input_ids.shape[1] - self.prompt
        begin = sum(SIZES[:level])
        scores = scores - scores[:, begin : begin + SIZES[level]].logsumexp(1, keepdim=True)
        mask = torch.full_like(scores, -torch.inf)
        offsets = torch.tensor([sum(SIZES[:n]) for n in range(level)], dtype=torch.int64)
        for row, prefix in enumerate((input_ids[:, self.prompt :] - offsets).tolist()):
            codes = self.trie.children.get(tuple(prefix), [])
            mask[row, torch.tensor(codes, dtype=torch.int64) + begin] = 0.0
        return scores + mask


@pytest.mark.parametrize(("users", "beams"), [(1, 20), (1, 50), (8, 50)], ids=["1x20", "1x50", "8x50"])
def test_decode(benchmark, users, beams):
    torch.manual_seed(0)
    codes = torch.randint(0, 256, (NUM_ITEMS, 4))
    trie = build_trie(codes, codebook_sizes=SIZES)
    catalog = Catalog(item_codes=codes, codebook_sizes=SIZES)
    layout = PlainConfig().build(catalog)
    backbone = T5Config(num_user_tokens=0).build(catalog).eval()
    hf, hf_trie = hf_t5(backbone), HfTrie(codes)
    decoder = BeamConfig(num_beams=beams).build()
    batch = Batch(Jagged.from_rows(torch.randint(0, NUM_ITEMS, (users, HISTORY)).unbind()))
    offsets = torch.tensor(backbone.level_offsets[:-1])
    tokens = (layout(batch).codes + offsets).view(users, HISTORY * 4)
    tokens = torch.cat([tokens, torch.full((users, 1), backbone.end_token)], 1)

    @torch.inference_mode()
    def ours():
        return decoder.search(backbone, layout(batch), trie, 10)

    @torch.inference_mode()
    def rival():
        return hf.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            num_beams=beams,
            num_return_sequences=10,
            max_new_tokens=4,
            length_penalty=0.0,
            logits_processor=LogitsProcessorList([LevelScores(hf_trie, 1)]),
            return_dict_in_generate=True,
            output_scores=True,
        )

    found, theirs = ours(), rival()
    written = (theirs.sequences[:, 1:5] - offsets).view(users, 10, 4)
    scores = theirs.sequences_scores.view(users, 10)
    assert torch.allclose(found.scores, scores, rtol=0, atol=1e-4)
    gaps = torch.nn.functional.pad((scores[:, :-1] - scores[:, 1:]) > 1e-4, (1, 0), value=True)
    clear = gaps[:, :-1] & gaps[:, 1:]  # places whose neighbours are not tied within rounding
    assert bool(clear.any())
    assert torch.equal(found.codes[:, :-1][clear].long(), written[:, :-1][clear])
    mine, other = in_turn(ours, rival, seconds=3.0, most=20)
    benchmark.extra_info.update(
        workload=f"tiger-{users}x{beams}", level="decode", ours_us=mine, rival_us=other, rival="transformers generate"
    )
    benchmark.pedantic(ours, rounds=5)
