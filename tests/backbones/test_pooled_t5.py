"""SpecGR++'s network: what its encoder says of histories and of items, against plain torch."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from genrec_fast.backbones import PooledT5Config
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import CodesAndVectors, CodesThenUsers
from genrec_fast.catalog.trie import build_trie
from genrec_fast.decoders import DraftedItemsConfig
from genrec_fast.objectives import CodesAndVectorsConfig
from shared.backbone_suite import ITEMS, SIZES, SearchedSuite, batch_of, catalog_layout
from shared.catalogs import coded, sized, system_of


def bias_of(backbone, distances):
    """T5's table of distances: half of 32 buckets for each direction, 8 exact ones and 8 by logarithm up to 128."""
    buckets = [
        [
            16 * (d > 0) + (abs(d) if abs(d) < 8 else min(15, 8 + int(math.log(abs(d) / 8) / math.log(16) * 8)))
            for d in row
        ]
        for row in distances.tolist()
    ]
    return backbone.encoder_bias.table.weight[torch.tensor(buckets)].permute(2, 0, 1)


class TestPooledT5(SearchedSuite):
    targets = "last"
    config = PooledT5Config(
        width=16,
        num_heads=2,
        head_width=8,
        num_layers=2,
        hidden=32,
        dropout=0.0,
        max_items=6,
        vector_width=5,
    )
    whole_catalog = True

    def test_state_dict_round_trip(self):
        layout, backbone = self.parts()
        torch.manual_seed(1)
        other = self.built(layout)
        batch = layout(batch_of([3, 1]))
        assert not torch.equal(backbone.embed_users(batch), other.embed_users(batch))
        other.load_state_dict(backbone.state_dict())
        assert torch.equal(backbone.embed_users(batch), other.embed_users(batch))
        assert torch.equal(backbone.item_table(), other.item_table())

    def training_value(self, backbone, batch: Batch) -> torch.Tensor:
        objective = CodesAndVectorsConfig(negatives="others", vector_weight=6.0).build(None)
        return objective(system_of(backbone), batch).value

    def plainly(self, backbone, items):
        """One history's vector: its tokens through T5's layers, each written out, their mean, one item at a time."""
        codes = catalog_layout().item_codes[torch.tensor(items, dtype=torch.int64)].long()
        offsets = [0, SIZES[0], SIZES[0] + SIZES[1]]
        tokens = [int(code) + offsets[level] for row in codes for level, code in enumerate(row)]
        x = backbone.tokens.weight[torch.tensor([*tokens, sum(SIZES) + 1])]

        def normed(x, norm):
            return x * (x.square().mean(1, keepdim=True) + norm.eps).rsqrt() * norm.weight

        places = torch.arange(len(x))
        bias = bias_of(backbone, places[None, :] - places[:, None])  # [H, T, T]
        for layer in backbone.encoder:
            y = normed(x, layer.norm)
            queries = layer.attention.queries(y).view(len(x), 2, 8)
            keys, values = layer.attention.keys_values(y).chunk(2, 1)
            scores = torch.einsum("qhd,khd->hqk", queries, keys.view(len(x), 2, 8)) + bias
            mixed = torch.einsum("hqk,khd->qhd", scores.softmax(2), values.view(len(x), 2, 8))
            x = x + layer.attention.out(mixed.reshape(len(x), 16))
            x = x + layer.feed_forward.out(layer.feed_forward.into(normed(x, layer.feed_norm)).relu())
        states = normed(x, backbone.encoder_norm)
        mean = torch.stack([backbone.project(state) for state in states]).mean(0)
        return mean / mean.norm()

    @torch.no_grad()
    def test_vectors_are_the_mean_states_of_a_history_and_of_an_item(self):
        layout, backbone = self.parts()
        assert isinstance(backbone, CodesThenUsers)
        assert isinstance(backbone, CodesAndVectors)
        rows = [[3, 7, 7], [], [29, 0, 1, 2, 3, 4]]
        wanted = torch.stack([self.plainly(backbone, row) for row in rows])
        torch.testing.assert_close(backbone.embed_users(layout(Batch(Jagged.from_rows(rows)))), wanted)
        table = backbone.item_table()
        torch.testing.assert_close(table, torch.stack([self.plainly(backbone, [item]) for item in range(ITEMS)]))
        torch.testing.assert_close(backbone.item_vectors(torch.tensor([4, 4, 29])), table[[4, 4, 29]])

    @torch.no_grad()
    def test_predictions_are_level_logits_and_vectors(self):
        layout, backbone = self.parts()
        batch = layout(batch_of([3, 1, 6]))
        logits, vectors = backbone.predictions(batch)
        assert all(torch.equal(one, other) for one, other in zip(logits, backbone.level_logits(batch), strict=True))
        assert torch.equal(vectors, backbone.embed_targets(batch))
        with pytest.raises(InvalidValueError, match="one target, at its last position"):
            backbone.predictions(layout(batch_of([3, 2], targets="every")))

    @torch.no_grad()
    def test_the_contrastive_loss_word_by_word(self):
        layout, backbone = self.parts()
        items = Jagged.from_rows([[1, 2], [3], [2, 9], [5]])
        wanted = torch.tensor([-1, 8, 2, -1, 8, 3])
        batch = layout(Batch(items, wanted))
        loss = CodesAndVectorsConfig(negatives="others", temperature=0.07, vector_weight=6.0).build(None)
        found = loss(system_of(backbone), batch)
        users = [self.plainly(backbone, row) for row in ([1, 2], [3], [2, 9], [5])]
        targets, total = [8, 2, 8, 3], 0.0
        for user, target in zip(users, targets, strict=True):
            own = user @ self.plainly(backbone, [target]) / 0.07
            others = [user @ self.plainly(backbone, [other]) / 0.07 for other in targets if other != target]
            total = total + torch.stack([own, *others]).logsumexp(0) - own
        assert found.figures["loss_vectors"] == pytest.approx(float(total) / 4, rel=1e-4)
        codes = torch.stack(
            [
                torch.nn.functional.cross_entropy(part, batch.target_codes[:, level])
                for level, part in enumerate(backbone.level_logits(batch))
            ]
        ).mean()
        torch.testing.assert_close(found.value, codes + 6 * total / 4)

    def test_the_encoder_learns_from_both_of_its_readings(self):
        layout, backbone = self.parts()
        batch = layout(batch_of([3, 1, 6]))
        CodesAndVectorsConfig(negatives="others").build(None)(system_of(backbone), batch).value.backward()
        alone = copy.deepcopy(backbone)
        alone.zero_grad()
        vectors = alone.item_vectors(torch.tensor([1, 2]))
        vectors.sum().backward()
        for network in (backbone, alone):
            assert bool(network.project.weight.grad.abs().sum() > 0)
            assert bool(network.encoder[0].attention.queries.weight.grad.abs().sum() > 0)

    def test_without_a_threshold_the_encoder_decides(self):
        """SpecGR's known answer: the drafter's order, which plain products of its vectors give."""
        layout, backbone = self.parts()
        batch = layout(batch_of([3, 1, 6]))
        trie = build_trie(layout.item_codes, codebook_sizes=SIZES)
        found = DraftedItemsConfig(threshold=0.0).build().search(backbone, batch, trie, 5)
        with torch.no_grad():
            products = backbone.embed_users(batch).double() @ backbone.item_table().double().T
        # Items that share a semantic ID have one vector: scores are compared, and items where they are apart.
        torch.testing.assert_close(products.gather(1, found.items), products.topk(5).values)

    def test_a_table_follows_its_weights_and_codes(self):
        layout, backbone = self.parts()
        with torch.no_grad():
            before = backbone.item_table()
            assert backbone.item_table() is before
            backbone.project.weight.mul_(-1.0)
            backbone.project.bias.zero_()
            after = backbone.item_table()
            assert not torch.allclose(before, after)
            backbone.take_codes(coded(layout.item_codes.flip(0), SIZES))
            torch.testing.assert_close(backbone.item_table(), after.flip(0))
        assert "item_codes" not in backbone.state_dict()

    def test_what_does_not_fit(self):
        layout, backbone = self.parts()
        with pytest.raises(InvalidValueError, match="catalog must have item_codes"):
            self.config.build(sized(SIZES, ITEMS))
        with pytest.raises(InvalidValueError, match="codebook_sizes must stay"):
            backbone.take_codes(coded(layout.item_codes, (8, 5, 11)))
        for wrong in (-1, ITEMS):
            with pytest.raises(InvalidValueError, match=rf"items must be in \[0, {ITEMS}\), got {wrong}"):
                backbone.item_vectors(torch.tensor([0, wrong]))
