"""LIGER's and COBRA's networks: codes, and vectors beside or behind them."""

from __future__ import annotations

import pytest
import torch

from genrec_fast.backbones import CobraConfig, LigerConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import CodesAndVectors, CodesThenUsers, CodesThenVectors
from shared.backbone_suite import FEATURES, ITEMS, SIZES, SearchedSuite, batch_of
from shared.catalogs import sized


class HybridSuite(SearchedSuite):
    targets = "last"
    features = True
    whole_catalog = True

    def training_value(self, backbone, batch: Batch) -> torch.Tensor:
        logits, vectors = backbone.predictions(batch)
        found = vectors.float() @ backbone.item_table().float().t() / 0.2
        wanted = batch.targets[batch.target_positions]
        losses = [torch.nn.functional.cross_entropy(x.float(), batch.target_codes[:, n]) for n, x in enumerate(logits)]
        return torch.stack([*losses, torch.nn.functional.cross_entropy(found, wanted)]).mean()

    def test_predictions_are_level_logits_and_vectors_of_length_1(self):
        layout, backbone = self.parts()
        assert isinstance(backbone, CodesAndVectors)
        batch = layout(batch_of([3, 1, 6]))
        logits, vectors = backbone.predictions(batch)
        assert all(torch.equal(one, other) for one, other in zip(logits, backbone.level_logits(batch), strict=True))
        assert vectors.shape == (3, self.config.width)
        for rows in (vectors, backbone.item_table()):
            torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))
        assert backbone.item_table().shape == (ITEMS, self.config.width)

    def test_a_catalog_without_features_is_refused(self):
        with pytest.raises(InvalidValueError, match="catalog must have features"):
            self.config.build(sized(SIZES, ITEMS))

    def test_features_are_not_saved(self):
        _, backbone = self.parts()
        assert not any("features" in name for name in backbone.state_dict())
        assert backbone.texts.features.shape == (ITEMS, FEATURES)


class TestLiger(HybridSuite):
    config = LigerConfig(
        width=16,
        num_heads=2,
        head_width=8,
        num_layers=2,
        hidden=32,
        dropout=0.0,
        input_dropout=0.0,
        text_hidden=(8, 8),
        num_user_tokens=3,
        max_items=6,
    )

    def test_users_are_embedded_as_their_targets_are(self):
        layout, backbone = self.parts()
        assert isinstance(backbone, CodesThenUsers)
        batch = layout(batch_of([3, 1, 6]))
        vectors = backbone.predictions(batch)[1]
        assert torch.equal(backbone.embed_users(batch), vectors)
        assert torch.equal(backbone.embed_targets(batch), vectors)
        with pytest.raises(InvalidValueError, match="one target, at its last position"):
            backbone.predictions(layout(batch_of([3, 2], targets="every")))

    def test_texts_are_read(self):
        layout, backbone = self.parts()
        batch = layout(batch_of([3, 1]))
        other = backbone.embed_users(
            type(batch)(**{**batch.__dict__, "features": batch.features + 1 - 2 * (batch.features > 0)})
        )
        assert not torch.allclose(backbone.embed_users(batch), other)


class TestCobra(HybridSuite):
    config = CobraConfig(width=16, num_heads=2, num_layers=2, hidden=32, dropout=0.0, text_hidden=(8,), max_items=6)

    def following(self, lengths):
        """Histories whose every position has the next item as its target."""
        generator = torch.Generator().manual_seed(0)
        rows = [torch.randint(ITEMS, (length + 1,), generator=generator) for length in lengths]
        return Batch(Jagged.from_rows([row[:-1] for row in rows]), torch.cat([row[1:] for row in rows])), rows

    def test_every_position_of_a_stream_is_what_its_own_history_gives(self):
        layout, backbone = self.parts()
        batch, rows = self.following([4, 1, 6])
        logits, vectors = backbone.predictions(layout(batch))
        at = 0
        for row in rows:
            for end in range(1, len(row)):
                wanted = torch.full((end,), -1)
                wanted[-1] = row[end]
                alone = layout(Batch(Jagged.from_rows([row[:end]]), wanted))
                own_logits, own_vectors = backbone.predictions(alone)
                for mine, theirs in zip(own_logits, logits, strict=True):
                    torch.testing.assert_close(mine[0], theirs[at], rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(own_vectors[0], vectors[at], rtol=1e-4, atol=1e-5)
                at += 1
        assert at == len(vectors)

    def test_the_vector_behind_a_search_is_that_of_training(self):
        layout, backbone = self.parts()
        assert isinstance(backbone, CodesThenVectors)
        batch = layout(batch_of([4, 1, 6]))
        session, parents = backbone.prefill(batch), torch.zeros(3, 1, dtype=torch.int32)
        for level in range(len(SIZES)):
            session = session.extend(batch.target_codes[:, level : level + 1].int(), parents)
        found = backbone.vectors_behind(session)
        torch.testing.assert_close(found[:, 0], backbone.predictions(batch)[1], rtol=1e-4, atol=1e-5)
        with pytest.raises(InvalidTypeError, match="session must be of prefill"):
            backbone.vectors_behind(object())

    def test_a_target_that_does_not_follow_is_refused(self):
        layout, backbone = self.parts()
        with pytest.raises(InvalidValueError, match="a target must be the item behind its position"):
            backbone.predictions(layout(batch_of([5, 5], targets="every")))
