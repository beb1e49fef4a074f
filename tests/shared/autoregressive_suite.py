"""What backbones must show that the native engine runs, too, and whose sessions read trees of rows."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.trie import build_trie
from genrec_fast.decoders import BeamConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.nn.engine.modules import ModuleSession
from genrec_fast.nn.engine.native import NativeSession
from shared.backbone_suite import FEATURES, ITEMS, SIZES, SearchedSuite, batch_of
from shared.catalogs import coded, sized


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


class AutoregressiveSuite(SearchedSuite):
    """Searched, by modules and natively."""

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
