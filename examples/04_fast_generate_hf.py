"""One changed line behind ``generate``: a T5 trained by transformers alone, and the same items many times faster.

Run: python examples/04_fast_generate_hf.py                               (half a minute; nothing is downloaded)
     python examples/04_fast_generate_hf.py --data DIR --steps 4000       TIGER's network on your data (hours)
DIR is any folder that genrec_fast.data.load reads; published semantic IDs in it are used as they are.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import T5Config, T5ForConditionalGeneration

import genrec_fast as gf
from genrec_fast.data.synthetic import Shop

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("--data", help="a folder with interactions; without it a small synthetic shop")
arguments.add_argument("--steps", type=int, default=60, help="of training, 64 histories each")
arguments.add_argument("--users", type=int, default=4, help="asked at once")
arguments.add_argument("--beams", type=int, default=50)
arguments.add_argument("--threads", type=int, default=1)
given = arguments.parse_args()
torch.set_num_threads(given.threads)
torch.manual_seed(0)

# The data, and a semantic ID for every item: the published ones, or ours.
data = gf.data.load(given.data) if given.data else Shop(num_items=600, seed=0).dataset(num_users=600, seed=1)
codes = data.item_codes
sizes = (256,) * codes.shape[1] if codes is not None else ()
if codes is None:
    assert data.features is not None, "the items need vectors or published semantic IDs"
    width = 256 if given.data else 32
    tokenizer = gf.RQKMeansConfig(codebook_sizes=(width,) * 3).build(data.catalog)
    tokenizer.fit(data.features, num_items=data.num_items, seed=0)
    codes, sizes = tokenizer.item_codes, tokenizer.codebook_sizes
levels = len(sizes)

# Tokens: 0 pads and starts, 1 ends a history, codes from 2 on, level behind level.
START, END, OFFSET = 0, 1, 2
ID = codes.long() + OFFSET + torch.tensor([sum(sizes[:level]) for level in range(levels)])  # int64 [N, L]


def prompts(histories: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    rows = [torch.cat([ID[items[-20:]].flatten(), torch.tensor([END])]) for items in histories]
    tokens = pad_sequence(rows, batch_first=True, padding_value=START)
    return {"input_ids": tokens, "attention_mask": (tokens != START).long()}


# A T5 by transformers: TIGER's network for real data, a smaller one for the shop.
shape = {"d_model": 128, "d_kv": 64, "d_ff": 1024, "num_heads": 6, "num_layers": 4}
if not given.data:
    shape = {"d_model": 64, "d_kv": 16, "d_ff": 256, "num_heads": 4, "num_layers": 2}
special = {"pad_token_id": START, "decoder_start_token_id": START, "eos_token_id": END}
model = T5ForConditionalGeneration(T5Config(vocab_size=OFFSET + sum(sizes), **shape, **special))
splits = gf.data.leave_one_out(data.interactions)
training = [items for items in splits.train.items.rows() if len(items) > 1]
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
start = time.perf_counter()
for step in range(given.steps):
    chosen = [training[user] for user in torch.randint(len(training), (64,)).tolist()]
    cuts = [int(torch.randint(1, len(items), ())) for items in chosen]
    targets = torch.stack([ID[items[cut]] for items, cut in zip(chosen, cuts, strict=True)])
    loss = model(**prompts([items[:cut] for items, cut in zip(chosen, cuts, strict=True)]), labels=targets).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % max(1, given.steps // 4) == 0 or step + 1 == given.steps:
        print(f"step {step + 1:5d}   loss {loss.item():.3f}   {time.perf_counter() - start:.0f} s")
model.eval()

# What the users are asked: the items that may follow, as a dictionary from prefixes to tokens.
children: dict[tuple[int, ...], set[int]] = {}
for row in ID.tolist():
    for level, token in enumerate(row):
        children.setdefault(tuple(row[:level]), set()).add(token)
inputs = prompts(splits.test.histories.rows()[: given.users])
search = {
    "num_beams": given.beams,
    "num_return_sequences": 10,
    "max_new_tokens": levels,
    "length_penalty": 0.0,
    "return_dict_in_generate": True,
    "output_scores": True,
}


def allowed(user: int, ids: torch.Tensor) -> list[int]:
    return sorted(children.get(tuple(ids[1:].tolist()), {START}))


trie = gf.build_trie(codes, codebook_sizes=sizes)


def timed(name: str, **changed):
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        out = model.generate(**inputs, **search, **changed)
        best = min(best, time.perf_counter() - start)
    print(f"{name:42} {1000 * best:8.1f} ms")
    return out, best


print(f"\n{given.users} users, {given.beams} beams, {len(ID)} items, {given.threads} thread(s)")
before, slow = timed("prefix_allowed_tokens_fn=allowed", prefix_allowed_tokens_fn=allowed)
# The one changed line:
after, fast = timed("custom_generate=gf.hf.trie_beam_search()", custom_generate=gf.hf.trie_beam_search(trie, OFFSET))
assert torch.allclose(before.sequences_scores, after.sequences_scores, rtol=0, atol=1e-4)
assert torch.equal(before.sequences, after.sequences)
print(f"{slow / fast:.1f} times faster, the same {len(after.sequences)} items")

# Without generate, from prompts to items; bfloat16 and int8 weights are a word away.
for weights in ("float32", "bfloat16", "int8"):
    recommender = gf.hf.compile(model, trie, OFFSET, dtype=weights)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        top = recommender.recommend(
            inputs["input_ids"], 10, num_beams=given.beams, attention_mask=inputs["attention_mask"]
        )
        best = min(best, time.perf_counter() - start)
    found = top.codes.long() + ID.min(0).values - codes.long().min(0).values
    same = (found.flatten(0, 1) == before.sequences[:, 1:]).all(1).sum()
    name = f"gf.hf.compile(dtype={weights!r})"
    print(f"{name:42} {1000 * best:8.1f} ms, {same} of {len(before.sequences)} in the same place")

print("\nfor the first user:")
for item, score in zip(top.items[0, :5].tolist(), top.scores[0, :5].tolist(), strict=True):
    print(f"  {score:7.3f}  {data.titles[item] if data.titles else item}")
