"""What every backbone must show; a test file joins by subclassing a suite and giving ``config``."""

from __future__ import annotations

import dataclasses
import itertools
from types import SimpleNamespace

import pytest
import torch

from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import Autoregressive, Embedding, TeacherForced
from genrec_fast.catalog.trie import build_trie
from genrec_fast.decoders import BeamConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.nn.engine.modules import ModuleSession
from genrec_fast.nn.engine.native import NativeSession
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


class ThroughTrees:
    """A session whose every call is one of a tree."""

    def __init__(self, inner, first=0):
        self.inner, self.first = inner, first

    def scores(self, span=None, *, log_sums=False):
        logits, sums = self.inner.scores(span, log_sums=log_sums)
        sizes = [(row > -torch.inf).sum() for row in logits.flatten(0, 1)]
        return logits[..., : max(sizes)], sums

    def extend(self, codes, parents):
        before = self.inner.hidden.shape[1]
        return ThroughTrees(self.inner.extend_tree(codes, parents + self.first), self.first + before)

    def search(self, trie, plan, paid):
        return None


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


class AutoregressiveSuite(SearchedSuite):
    """Of one that the native engine runs, too, and whose sessions read trees."""

    def test_the_native_engine_gives_what_the_modules_give(self):
        layout, backbone = self.parts()
        batch = layout(batch_of([6, 0, 1, 3]))

        def run():
            """Every level's logits, for beams that are drawn, not searched."""
            generator = torch.Generator().manual_seed(0)
            session, found, beams = backbone.prefill(batch), [], 1
            for level, size in enumerate(SIZES):
                found.append(session.scores()[0])
                if level + 1 == len(SIZES):
                    break
                wide = 3 + level
                codes = torch.randint(0, size, (4, wide), generator=generator, dtype=torch.int32)
                parents = torch.randint(0, beams, (4, wide), generator=generator, dtype=torch.int32)
                session, beams = session.extend(codes, parents), wide
            return type(session), found

        kind, modules = run()  # gradients are on: torch's modules run
        assert kind is ModuleSession
        with torch.no_grad():
            kind, native = run()
            assert kind is NativeSession
            for ours, theirs in zip(native, modules, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)
            for parameter in backbone.parameters():
                parameter.mul_(1.25)  # packed anew
        _, modules = run()
        with torch.no_grad():
            for ours, theirs in zip(run()[1], modules, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)

    @pytest.mark.parametrize("native", [False, True])
    def test_a_tree_has_the_scores_of_its_rows_level_by_level(self, native):
        """Rows at different depths in one pass: behind the prompt, behind rows of earlier calls, behind each other."""
        layout, backbone = self.parts()
        batch, generator = layout(batch_of([6, 0, 3])), torch.Generator().manual_seed(1)
        with torch.set_grad_enabled(not native):
            root = backbone.prefill(batch)
            assert type(root) is (NativeSession if native else ModuleSession)
            session = root.extend(torch.tensor([[1, 2], [0, 6], [3, 3]]), torch.zeros(3, 2, dtype=torch.int32))
            paths = [[()], [()], [()]]
            for user, codes in enumerate([[1, 2], [0, 6], [3, 3]]):
                paths[user] += [(code,) for code in codes]
            for width in (5, 1, 4):
                codes, parents = (torch.zeros(3, width, dtype=torch.int32) for _ in range(2))
                for user, known in enumerate(paths):
                    for row in range(width):
                        open_ = [number for number, path in enumerate(known) if len(path) + 1 < len(SIZES)]
                        parents[user, row] = open_[int(torch.randint(len(open_), (1,), generator=generator))]
                        before = known[int(parents[user, row])]
                        codes[user, row] = int(torch.randint(SIZES[len(before)], (1,), generator=generator))
                        known.append((*before, int(codes[user, row])))
                session = session.extend_tree(codes, parents)
                scores, _ = session.scores()
                for user, known in enumerate(paths):
                    for row, path in enumerate(known[-width:]):
                        alone = root.select(torch.tensor([user]))
                        for code in path:
                            alone = alone.extend(torch.tensor([[code]]), torch.zeros(1, 1, dtype=torch.int32))
                        theirs, mine = alone.scores()[0][0, 0], scores[user, row]
                        if native:
                            assert torch.equal(mine[: SIZES[len(path)]], theirs)
                        torch.testing.assert_close(mine[: SIZES[len(path)]], theirs, rtol=0, atol=1e-5)
                        assert bool((mine[SIZES[len(path)] :] == -torch.inf).all())
            with pytest.raises(InvalidValueError, match="parents must be rows made before"):
                session.extend_tree(torch.zeros(3, 1, dtype=torch.int32), torch.full((3, 1), 99))

    @pytest.mark.parametrize("native", [False, True])
    def test_a_tree_may_begin_again_behind_the_prompt(self, native):
        layout, backbone = self.parts()
        none, codes = torch.zeros(2, 2, dtype=torch.int32), torch.tensor([[1, 2], [0, 6]])
        with torch.set_grad_enabled(not native):
            root = backbone.prefill(layout(batch_of([6, 3])))
            first = root.extend(codes, none).scores()[0]
            again = root.extend(codes.flip(1), none).extend_tree(codes, none).scores()[0]
            torch.testing.assert_close(again[..., : SIZES[1]], first, rtol=0, atol=0 if native else 1e-5)

    @pytest.mark.parametrize("normalize", ["all", "valid"])
    def test_every_way_of_a_search_gives_the_same_beams(self, normalize, monkeypatch):
        """One native call, level by level, and level by level through trees: bit for bit."""
        layout, backbone = self.parts()
        batch, trie = layout(batch_of([6, 0, 3])), build_trie(layout.item_codes, codebook_sizes=SIZES)
        decoder, generator = BeamConfig(normalize=normalize).build(), torch.Generator().manual_seed(0)
        exclude = Jagged.from_rows([[1, 2], [], [7]])
        options = {"num_beams": 8, "allowed": torch.rand(3, ITEMS, generator=generator) < 0.8, "exclude": exclude}

        def search():
            return decoder.search(backbone, batch, trie, 5, **options)

        whole, asked = NativeSession.search, []
        monkeypatch.setattr(NativeSession, "search", lambda *given: asked.append(whole(*given)) or asked[-1])
        found = [search()]
        assert len(asked) == 1 and asked[0] is not None
        monkeypatch.setattr(NativeSession, "search", lambda *given: None)
        found.append(search())
        through = SimpleNamespace(codebook_sizes=SIZES, prefill=lambda batch: ThroughTrees(backbone.prefill(batch)))
        found.append(decoder.search(through, batch, trie, 5, **options))
        for other in found[1:]:
            for name in ("items", "codes", "scores", "exact", "bound"):
                assert torch.equal(getattr(found[0], name), getattr(other, name)), name

    @pytest.mark.parametrize("native", [False, True])
    def test_some_users_of_a_session_go_on_alone(self, native):
        layout, backbone = self.parts()
        batch, users = layout(batch_of([6, 0, 3, 1])), torch.tensor([3, 0, 2])
        with torch.set_grad_enabled(not native):
            session = backbone.prefill(batch)
            nothing = session.select(users[:0])
            assert tuple(nothing.scores()[0].shape) == (0, 1, SIZES[0])
            calls = [
                ("extend", torch.tensor([[2, 0], [1, 1], [4, 3], [0, 4]]), torch.zeros(4, 2, dtype=torch.int64)),
                ("extend", torch.tensor([[1, 4, 0]] * 4), torch.tensor([[1, 0, 1]] * 4)),
                ("extend_tree", torch.tensor([[3, 2]] * 4), torch.tensor([[0, 2]] * 4)),
            ]
            for name, codes, parents in calls:
                chosen = getattr(session.select(users), name)(codes[users], parents[users])
                session = getattr(session, name)(codes, parents)
                for some in (chosen, session.select(users)):
                    apart = {"rtol": 0, "atol": 0 if native else 1e-5}
                    torch.testing.assert_close(some.scores()[0], session.scores()[0][users], **apart)

    @pytest.mark.parametrize(("items", "size"), [(1, 1), (1, 4), (9, 9)])
    def test_semantic_ids_of_one_level(self, items, size):
        """Atoms, down to a catalog of one item: trains, and searches alike on both engines."""
        layout = PlainConfig(use_features=self.features, use_users=True).build(
            coded(torch.arange(items)[:, None], (size,), torch.ones(items, FEATURES))
        )
        torch.manual_seed(0)
        backbone = self.config.build(sized((size,), items, layout.feature_dim))
        rows = Jagged.from_rows([[0, items - 1, 0], [items - 1]])
        targets = torch.tensor([-1, -1, 0, items - 1])
        batch = layout(Batch(rows, targets, users=torch.arange(2)))
        self.training_value(backbone, batch).backward()
        backbone.eval()
        forced = backbone.level_logits(batch)
        assert [tuple(logits.shape) for logits in forced] == [(2, size)]
        modules, _ = backbone.prefill(batch).scores()
        torch.testing.assert_close(modules[:, 0], forced[0], rtol=1e-4, atol=1e-5)
        trie = build_trie(layout.item_codes, codebook_sizes=(size,))
        for user in range(2):
            alone = layout(Batch(Jagged.from_rows([rows.rows()[user]]), users=torch.tensor([user])))
            found = BeamConfig(num_beams=items).build().search(backbone, alone, trie, items, exact=True)
            assert found.items.sort().values.tolist() == [list(range(items))]
            scores = modules[user].log_softmax(-1)[:, :items].sort(descending=True).values
            torch.testing.assert_close(found.scores, scores, rtol=1e-4, atol=1e-5)

    def test_a_batch_without_codes_is_an_error(self):
        _, backbone = self.parts()
        with pytest.raises(InvalidValueError, match=r"batch must have codes \(let it pass a layout first\)"):
            backbone.prefill(Batch(Jagged.from_rows([[1]])))


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
