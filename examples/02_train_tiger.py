"""TIGER, small: train on a synthetic shop, evaluate, save, load, recommend.

Run: python examples/02_train_tiger.py     (half a minute; nothing is downloaded)
The same on your own data: genrec-fast train tiger --data DIR --out runs/tiger
"""

from __future__ import annotations

import dataclasses
import tempfile

import genrec_fast as gf
from genrec_fast.data.synthetic import Shop

data = Shop(num_items=150, seed=0).dataset(num_users=400, seed=1)
recipe = dataclasses.replace(
    gf.recipes.tiger(),
    tokenizer=gf.RQKMeansConfig(codebook_sizes=(16, 16)),
    backbone=gf.T5Config(width=48, num_heads=4, head_width=12, num_layers=2, hidden=96, num_user_tokens=0),
    batching=gf.BatchingConfig(max_items=8, targets="last", items_per_batch=1024),
    train=gf.TrainConfig(epochs=4, learning_rate=3e-3, warmup_steps=20, evaluate_every=2, evaluate_users=200),
)

model = gf.train(recipe, data, seed=0)
splits = gf.data.leave_one_out(data.interactions)
print(gf.evaluate(model, splits.test))

with tempfile.TemporaryDirectory() as folder:
    model.save(folder)
    loaded = gf.load(folder)

history = splits.test.histories[0].tolist()
top = loaded.recommend([history], k=5, exclude_seen=True)
print("\nbought:", ", ".join(loaded.title(item) for item in history[-3:]))
for item, score in zip(top.items[0].tolist(), top.scores[0].tolist(), strict=True):
    print(f"  {score:7.3f}  {loaded.title(item)}")
print("proven to be the best of the whole catalog:", bool(top.exact[0]))
