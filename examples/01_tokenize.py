"""Items to semantic IDs to a trie: residual k-means on item vectors, and what the IDs look like.

Run: python examples/01_tokenize.py     (seconds; nothing is downloaded)
"""

from __future__ import annotations

import genrec_fast as gf
from genrec_fast.data.synthetic import Shop

shop = Shop(num_items=2000, seed=0)
tokenizer = gf.RQKMeansConfig(codebook_sizes=(32, 32)).build(gf.Catalog(features=shop.features))
tokenizer.fit(shop.features, num_items=shop.num_items, seed=0)
codes = tokenizer.item_codes  # int32 [N, L]; the last level tells apart items whose other codes are equal
shared = gf.metrics.collision_rate(codes[:, :-1])
print(f"{shop.num_items} items, codebooks {tokenizer.codebook_sizes}")
print(f"collisions without the last level: {shared:.1%}, with it: {gf.metrics.collision_rate(codes):.1%}")

trie = gf.build_trie(codes, codebook_sizes=tokenizer.codebook_sizes)
print("\nnodes per level:", [trie.num_nodes(level) for level in range(trie.num_levels + 1)])

# Items that share a prefix are alike: the first item's neighbours in the trie.
item = 0
neighbours = (codes[:, 0] == codes[item, 0]).nonzero().squeeze(1)
print(f"\n{shop.titles[item]} is {codes[item].tolist()}; others that begin with {int(codes[item, 0])}:")
for other in neighbours[neighbours != item][:8].tolist():
    print(f"  {codes[other].tolist()}  {shop.titles[other]}")

# The way back: a semantic ID to its items.
row = trie.lookup(codes[item : item + 1])
print("\nlooked up again:", [shop.titles[i] for i in trie.items(row).values.tolist()])
