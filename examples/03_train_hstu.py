"""HSTU, small: train on a synthetic shop with times, evaluate, then let users' histories go on event by event.

Run: python examples/03_train_hstu.py     (half a minute; nothing is downloaded)
The same on your own data: genrec-fast train hstu --data DIR --out runs/hstu
Where the data has no times: --backbone.bias position
"""

from __future__ import annotations

import dataclasses
import time

import torch

import genrec_fast as gf
from genrec_fast.data.synthetic import Shop

data = Shop(num_items=150, seed=0).dataset(num_users=400, seed=1)
recipe = gf.recipes.hstu()
recipe = dataclasses.replace(
    recipe,
    backbone=dataclasses.replace(recipe.backbone, num_layers=2, max_items=20),
    batching=gf.BatchingConfig(max_items=20, targets="every", items_per_batch=1024),
    train=dataclasses.replace(recipe.train, epochs=8, learning_rate=3e-3, warmup_steps=20, evaluate_every=4),
)

model = gf.train(recipe, data, seed=0)
test = gf.data.leave_one_out(data.interactions).test
print(gf.evaluate(model, test))

# A history that goes on: read everything but the last event, then the last event alone.
times = gf.Jagged(test.timestamps, test.histories.offsets)
users = list(range(100))
cache = gf.UserCache(model, num_pages=256, page_size=16)
cache.extend(
    users,
    [test.histories[user][:-1].tolist() for user in users],
    timestamps=[times[user][:-1].tolist() for user in users],
)
newest = {
    "items": [test.histories[user][-1:].tolist() for user in users],
    "timestamps": [times[user][-1:].tolist() for user in users],
    "target_timestamps": test.target_timestamps[users],
}
start = time.perf_counter()
top = cache.recommend(users, k=5, **newest)
milliseconds = 1000 * (time.perf_counter() - start)

whole = gf.Jagged.from_rows([test.histories[user] for user in users])
again = model.recommend(
    whole, k=5, timestamps=[times[user].tolist() for user in users], target_timestamps=test.target_timestamps[users]
)
print(f"\none event more for {len(users)} users: {milliseconds:.1f} ms, and the answer of reading everything anew:")
print("scores differ by", f"{float((top.scores - again.scores).abs().max()):.1e}")
assert torch.allclose(top.scores, again.scores, atol=1e-4)
for item, score in zip(top.items[0].tolist(), top.scores[0].tolist(), strict=True):
    print(f"  {score:7.3f}  {model.title(item)}")
