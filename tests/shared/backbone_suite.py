"""What every backbone must show; a test file joins by subclassing a suite and giving ``config``."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import Autoregressive, Embedding, TeacherForced
from genrec_fast.catalog.trie import build_trie
from genrec_fast.layouts import PlainConfig
from shared.catalogs import coded, sized

SIZES = (7, 5, 11)
ITEMS = 30
FEATURES = 6


def catalog_layout(features: bool = False):
    generator = torch.Generator().manual_seed(0)
    codes = torch.stack([torch.randint(size, (ITEMS,), generator=generator) for size in SIZES], 1)
    vectors = torch.randn(ITEMS, FEATURES, generator=generator)
    return PlainConfig(use_features=features, use_users=True).build(coded(codes, SIZES, vectors))


def batch_of(lengths: list[int], seed: int = 0, targets: str = "last") -> Batch:
    """Random histories; targets at every position or at the last one."""
    generator = torch.Generator().manual_seed(seed)
    items = Jagged.from_rows([torch.randint(ITEMS, (length,), generator=generator) for length in lengths])
    wanted = torch.randint(ITEMS, (items.values.shape[0],), generator=generator)
    if targets == "last":
        last = torch.zeros(wanted.shape, dtype=torch.bool)
        last[(items.offsets[1:] - 1)[items.lengths > 0]] = True
        wanted = torch.where(last, wanted, -1)
    return Batch(items, wanted, users=torch.arange(len(lengths)))


def likeliest_of_all(config):
    """A backbone over 3 levels of 4 codes, of which 20 tuples are items, three users, and their ten likeliest items.

    Found by a whole pass for each item: what a search of any kind is held to.
    """
    torch.manual_seed(0)
    every = torch.tensor(list(itertools.product(range(4), repeat=3)))
    codes = every[torch.randperm(64)[:20]]
    trie, backbone = build_trie(codes, codebook_sizes=(4, 4, 4)), config.build(sized((4, 4, 4), 20)).eval()
    batch = batch_of([4, 2, 6])
    batch = dataclasses.replace(batch, codes=codes[batch.items.values % 20])
    with torch.no_grad():
        scores = []
        for item in codes:
            logits = backbone.level_logits(dataclasses.replace(batch, target_codes=item.expand(3, -1)))
            scores.append(sum(x.log_softmax(1)[:, int(code)] for x, code in zip(logits, item, strict=True)))
    return backbone, batch, trie, torch.stack(scores, 1).topk(10)


class BackboneSuite:
    """Set ``config``; ``targets`` is what the backbone trains on, ``features`` whether it reads them.

    ``whole_catalog``: whether it is built of the items themselves, not of their number and sizes alone.
    """

    targets = "every"
    features = False
    whole_catalog = False

    def parts(self):
        torch.manual_seed(0)
        layout = catalog_layout(self.features)
        return layout, self.built(layout)

    def built(self, layout):
        catalog = layout.catalog if self.whole_catalog else sized(SIZES, ITEMS, layout.feature_dim)
        return self.config.build(catalog).eval()

    def outputs(self, backbone, batch: Batch) -> list[torch.Tensor]:
        """What the backbone says of the users, one row each."""
        raise NotImplementedError  # abstract: the suites below

    def training_value(self, backbone, batch: Batch) -> torch.Tensor:
        raise NotImplementedError  # abstract: the suites below

    def test_a_user_does_not_depend_on_the_others(self):
        layout, backbone = self.parts()
        batch = layout(batch_of([3, 0, 6, 1], targets=self.targets))
        together = self.outputs(backbone, batch)
        for user, row in enumerate(batch.items.rows()):
            alone = self.outputs(backbone, layout(Batch(Jagged.from_rows([row]), users=torch.tensor([user]))))
            for ours, all_users in zip(alone, together, strict=True):
                torch.testing.assert_close(ours[0], all_users[user], rtol=1e-4, atol=1e-5)

    def test_cold_users_get_finite_outputs(self):
        """Nobody has a history: no value to look at, no longest row."""
        layout, backbone = self.parts()
        for rows in self.outputs(backbone, layout(Batch(Jagged.from_rows([[], [], []])))):
            assert rows.shape[0] == 3
            assert bool(torch.isfinite(rows).all())

    def test_an_empty_batch_gives_empty_outputs(self):
        layout, backbone = self.parts()
        some = self.outputs(backbone, layout(Batch(Jagged.from_rows([[1]]))))
        none = self.outputs(backbone, layout(Batch(Jagged.from_rows([]))))
        assert [tuple(rows.shape) for rows in none] == [(0, *rows.shape[1:]) for rows in some]

    def test_the_order_of_a_history_matters(self):
        layout, backbone = self.parts()
        one, other = (self.outputs(backbone, layout(Batch(Jagged.from_rows([r])))) for r in ([1, 2, 3], [2, 1, 3]))
        assert not torch.allclose(one[0], other[0])

    def test_every_parameter_gets_a_gradient(self):
        layout, backbone = self.parts()
        backbone.train()
        self.training_value(backbone, layout(batch_of([3, 6, 2, 5], targets=self.targets))).backward()
        missing = [name for name, p in backbone.named_parameters() if p.grad is None or not bool(p.grad.any())]
        assert missing == []

    def test_trains_under_autocast(self):
        layout, backbone = self.parts()
        batch = layout(batch_of([3, 6, 2], targets=self.targets))
        exact = self.training_value(backbone, batch)
        with torch.autocast("cpu", torch.bfloat16):
            value = self.training_value(backbone, batch)
        torch.testing.assert_close(value.float(), exact, rtol=0.1, atol=0.1)

    def test_learns_to_repeat(self):
        """A handful of histories is learned by heart: the loss falls far below that of a guess."""
        layout, backbone = self.parts()
        batch = layout(batch_of([3, 4, 2], seed=3, targets=self.targets))
        optimizer = torch.optim.AdamW(backbone.parameters(), lr=3e-3, weight_decay=0.0)
        first = float(self.training_value(backbone, batch).detach())
        for _ in range(60):
            optimizer.zero_grad()
            value = self.training_value(backbone, batch)
            value.backward()
            optimizer.step()
        assert float(value.detach()) < 0.3 * first

    def test_too_long_a_history_is_an_error(self):
        layout, backbone = self.parts()
        batch = layout(batch_of([self.config.max_items + 1], targets=self.targets))
        with pytest.raises(InvalidValueError, match=f"histories must have at most max_items = {self.config.max_items}"):
            self.outputs(backbone, batch)

    def test_state_dict_round_trip(self):
        layout, backbone = self.parts()
        torch.manual_seed(1)
        other = self.built(layout)
        other.load_state_dict(backbone.state_dict())
        batch = layout(batch_of([3, 1]))
        for ours, theirs in zip(self.outputs(backbone, batch), self.outputs(other, batch), strict=True):
            assert torch.equal(ours, theirs)


class SearchedSuite(BackboneSuite):
    """Of a backbone that is searched, by whatever session, and learns code after code."""

    def outputs(self, backbone, batch: Batch) -> list[torch.Tensor]:
        return [backbone.prefill(batch).scores()[0]]

    def training_value(self, backbone, batch: Batch) -> torch.Tensor:
        losses = [
            torch.nn.functional.cross_entropy(logits.float(), batch.target_codes[:, level])
            for level, logits in enumerate(backbone.level_logits(batch))
        ]
        return torch.stack(losses).mean()

    def test_speaks_the_protocol(self):
        _, backbone = self.parts()
        assert isinstance(backbone, Autoregressive)
        assert isinstance(backbone, TeacherForced)
        assert backbone.codebook_sizes == SIZES

    def test_steps_equal_teacher_forcing(self):
        layout, backbone = self.parts()
        batch = layout(batch_of([4, 1, 6]))
        forced = backbone.level_logits(batch)
        session = backbone.prefill(batch)
        logits, _ = session.scores()
        torch.testing.assert_close(logits[:, 0], forced[0], rtol=1e-4, atol=1e-5)
        parents = torch.zeros(3, 1, dtype=torch.int32)
        for level in range(1, len(SIZES)):
            codes = batch.target_codes[:, level - 1 : level].to(torch.int32)
            session = session.extend(codes, parents)
            logits, _ = session.scores()
            torch.testing.assert_close(logits[:, 0], forced[level], rtol=1e-4, atol=1e-5)

    def test_beams_follow_their_parents(self):
        """Beam w of a wide search equals the same prefix searched alone, whatever slot its parent had."""
        layout, backbone = self.parts()
        batch = layout(batch_of([4, 2]))
        generator = torch.Generator().manual_seed(5)
        session = backbone.prefill(batch)
        prefixes = torch.empty(2, 1, 0, dtype=torch.int64)
        width = 1
        for level in range(1, len(SIZES)):
            codes = torch.randint(SIZES[level - 1], (2, 4), generator=generator, dtype=torch.int32)
            parents = torch.randint(width, (2, 4), generator=generator, dtype=torch.int32)
            kept = prefixes.gather(1, parents.long()[..., None].expand(-1, -1, level - 1))
            prefixes = torch.cat([kept, codes.long()[..., None]], 2)
            session, width = session.extend(codes, parents), 4
        logits, _ = session.scores()
        for beam in range(4):
            codes = torch.cat([prefixes[:, beam], torch.zeros(2, 1, dtype=torch.int64)], 1)
            forced = backbone.level_logits(dataclasses.replace(batch, target_codes=codes))
            torch.testing.assert_close(logits[:, beam], forced[-1], rtol=1e-4, atol=1e-5)

    def test_a_state_can_be_used_twice(self):
        layout, backbone = self.parts()
        session = backbone.prefill(layout(batch_of([4, 2])))
        codes, parents = torch.tensor([[1, 2], [0, 3]], dtype=torch.int32), torch.zeros(2, 2, dtype=torch.int32)
        once, again = (session.extend(codes, parents).scores()[0] for _ in range(2))
        assert torch.equal(once, again)

    def test_users_go_on_alone(self):
        layout, backbone = self.parts()
        session = backbone.prefill(layout(batch_of([4, 0, 2])))
        codes, parents, users = torch.tensor([[1, 2]] * 3), torch.zeros(3, 2, dtype=torch.int32), torch.tensor([2, 0])
        together, some = session.extend(codes, parents).scores()[0], session.select(users)
        alone = some.extend(codes[users], parents[users]).scores()[0]
        torch.testing.assert_close(alone, together[users], rtol=0, atol=1e-5)


class LastTarget:
    """Beside a suite: of a backbone that learns from the last position of each history alone; set ``op``."""

    targets = "last"

    def test_targets_have_codes_and_stand_last(self):
        layout, backbone = self.parts()
        with pytest.raises(
            InvalidValueError,
            match=rf"^{self.op}: every history must have one target, at its last position .* got 3 targets for 1",
        ):
            backbone.level_logits(layout(batch_of([3], targets="every")))
        with pytest.raises(InvalidValueError, match=f"^{self.op}: batch must have target_codes"):
            backbone.level_logits(dataclasses.replace(layout(batch_of([2])), target_codes=None))


class ReadsCodes:
    """Beside a suite: of a backbone that reads histories by their codes; set ``op``."""

    def test_a_batch_passes_a_layout_first(self):
        _, backbone = self.parts()
        with pytest.raises(
            InvalidValueError, match=rf"^{self.op}: batch must have codes \(let it pass a layout first\), got None"
        ):
            backbone.prefill(batch_of([2]))


class EmbeddingSuite(BackboneSuite):
    def outputs(self, backbone, batch: Batch) -> list[torch.Tensor]:
        return [backbone.embed_users(batch)]

    def training_value(self, backbone, batch: Batch) -> torch.Tensor:
        states = backbone.embed_targets(batch)
        wanted = batch.targets[batch.target_positions]
        return torch.nn.functional.cross_entropy(states.float() @ backbone.item_table().T, wanted)

    def test_speaks_the_protocol(self):
        _, backbone = self.parts()
        assert isinstance(backbone, Embedding)
        assert backbone.item_table().shape[0] == ITEMS

    def test_the_last_target_is_the_user(self):
        layout, backbone = self.parts()
        batch = layout(batch_of([4, 1, 6]))
        torch.testing.assert_close(backbone.embed_targets(batch), backbone.embed_users(batch))
