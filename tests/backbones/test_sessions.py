from __future__ import annotations

import dataclasses

import pytest
import torch

from genrec_fast.backbones import SessionsConfig
from genrec_fast.backbones.sessions import session_begins
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from shared.backbone_suite import ITEMS, EmbeddingSuite
from shared.backbone_suite import batch_of as untimed
from shared.catalogs import sized


def timed(batch: Batch) -> Batch:
    """Sessions of two events; the item that follows a history is asked for long after it."""
    places = torch.cat([torch.arange(length) for length in batch.items.lengths.tolist()] or [torch.zeros(0)]).long()
    times = places // 2 * 10_000 + places % 2
    return dataclasses.replace(batch, timestamps=times, target_timestamps=(places + 1) // 2 * 10_000 + (places + 1) % 2)


class _Timed:
    """A layout that gives batches their times, too."""

    def __init__(self, layout) -> None:
        self.layout, self.feature_dim = layout, layout.feature_dim

    def __call__(self, batch: Batch) -> Batch:
        return self.layout(timed(batch))


class _SessionsSuite(EmbeddingSuite):
    def parts(self):
        layout, backbone = super().parts()
        return _Timed(layout), backbone

    def test_learns_to_repeat(self):
        """Every event is a session here: several targets of one state cannot all be learned by heart."""
        self.config = dataclasses.replace(self.config, session_seconds=0)
        super().test_learns_to_repeat()

    def test_the_last_target_is_the_user(self):
        layout, backbone = self.parts()
        batch = layout(untimed([4, 2, 6]))  # all end with a whole session
        torch.testing.assert_close(backbone.embed_targets(batch), backbone.embed_users(batch))

    def test_all_of_a_session_is_predicted_by_the_session_before(self):
        _, backbone = self.parts()
        rows = Jagged.from_rows([[1, 2, 3, 4, 5]])
        batch = timed(Batch(rows, torch.tensor([2, 3, 4, 5, 6])))
        states = backbone.embed_targets(batch)

        def after(*row: int) -> torch.Tensor:
            return backbone.embed_users(timed(Batch(Jagged.from_rows([list(row)]))))[0]

        expected = torch.stack([after(), after(1, 2), after(1, 2), after(1, 2, 3, 4), after(1, 2, 3, 4)])
        torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5)

    def test_times_must_be_given(self):
        _, backbone = self.parts()
        with pytest.raises(InvalidValueError, match=r"^sessions: batch must have timestamps, got None"):
            backbone.embed_users(Batch(Jagged.from_rows([[1]])))

    def test_the_order_of_a_history_matters(self):
        layout, backbone = self.parts()
        one, other = (self.outputs(backbone, layout(Batch(Jagged.from_rows([r])))) for r in ([1, 2, 3], [3, 2, 1]))
        assert not torch.allclose(one[0], other[0])


class TestPooled(_SessionsSuite):
    config = SessionsConfig(width=16, num_heads=2, num_layers=2, hidden=32, dropout=0.0, max_items=6)

    def test_the_order_within_a_session_does_not_matter(self):
        layout, backbone = self.parts()
        one, other = (backbone.embed_users(layout(Batch(Jagged.from_rows([r])))) for r in ([1, 2, 3], [2, 1, 3]))
        torch.testing.assert_close(one, other)


class TestToken(_SessionsSuite):
    config = SessionsConfig(form="token", width=16, num_heads=2, num_layers=2, hidden=32, dropout=0.0, max_items=6)


def test_sessions_begin_with_rows_and_after_pauses():
    times = torch.tensor([0, 100, 2000, 2000, 5000])
    offsets = torch.tensor([0, 0, 3, 3, 5, 5])
    assert session_begins(times, offsets, 1800).tolist() == [True, False, True, True, True]
    assert session_begins(times[:0], torch.tensor([0, 0]), 1800).tolist() == []


def test_settings_are_checked():
    with pytest.raises(InvalidValueError, match=r"^SessionsConfig: form must be 'pooled' or 'token', got 'mean'"):
        SessionsConfig(form="mean")
    backbone = SessionsConfig(width=8, num_layers=1).build(sized((ITEMS,), ITEMS))
    assert backbone.reads_times
