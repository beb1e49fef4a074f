"""Searches whose attention is ops.beam_attention, as on a card, against searches that gather what each row sees."""

from __future__ import annotations

import pytest
import torch

from genrec_fast.backbones import CobraConfig, DiscRecConfig, NCIConfig, T5Config, TimelineConfig
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.trie import build_trie
from genrec_fast.decoders import BeamConfig
from genrec_fast.nn import branches, t5
from genrec_fast.nn.engine import modules
from genrec_fast.nn.engine.modules import ModuleSession
from genrec_fast.nn.t5 import RMSNorm
from genrec_fast.ops import _cuda, beam_attention, residual_norm
from shared.backbone_suite import ITEMS, SIZES, batch_of, catalog_layout
from shared.cards import every_card
from shared.catalogs import coded

T5 = {"width": 16, "num_heads": 2, "head_width": 8, "num_layers": 2, "hidden": 24, "dropout": 0.0, "max_items": 6}
TIMELINE = {"width": 16, "num_heads": 2, "num_layers": 1, "hidden": 24, "depth_hidden": 24, "max_items": 6}
CONFIGS = {
    "t5": T5Config(**T5, num_user_tokens=3),
    "timeline": TimelineConfig(**TIMELINE, dropout=0.0, depth_dropout=0.0),
    "nci": NCIConfig(**T5, num_user_tokens=0, adaptor_layers=2, adaptor_heads=2, adaptor_hidden=24),
    "discrec": DiscRecConfig(**T5, num_user_tokens=0, branch_heads=2, branch_hidden=24),
    "cobra": CobraConfig(width=16, num_heads=2, num_layers=2, hidden=24, dropout=0.0, max_items=6),
}


def parts(name, dtype=torch.float32):
    """A network in training, without dropout: torch's modules run it without gradients, too."""
    torch.manual_seed(0)
    layout = catalog_layout(True)
    backbone = CONFIGS[name].build(coded(layout.item_codes, SIZES, layout.features)).train().to(dtype)
    return layout, backbone


@pytest.fixture
def asked(monkeypatch):
    """Calls of beam_attention from here on, by whether they had prompts and rows; with ``on``, searches make them."""

    class Asked(list):
        def on(self):
            monkeypatch.setattr(modules, "runs_on_card", lambda x: True)

    calls = Asked()

    def counted(q, prompt_keys=None, *given, **named):
        calls.append((prompt_keys is not None, named.get("keys") is not None))
        return beam_attention(q, prompt_keys, *given, **named)

    monkeypatch.setattr(branches, "beam_attention", counted)
    return calls


def drawn(backbone, batch, generator):
    """Logits of every call of searches that are drawn: levels, then trees, and some users of both."""
    users = torch.tensor([3, 0, 2])
    session = backbone.prefill(batch)
    assert type(session) is ModuleSession
    found, beams = [session.scores()[0]], 1
    for level, width in enumerate((3, 4)):
        codes = torch.randint(0, SIZES[level], (4, width), generator=generator)
        parents = torch.randint(0, beams, (4, width), generator=generator)
        some = session.select(users).extend(codes[users], parents[users])
        session, beams = session.extend(codes, parents), width
        found += [session.scores()[0], some.scores()[0], session.select(users).scores()[0]]
    tree = backbone.prefill(batch).extend(torch.tensor([[2, 0]] * 4), torch.zeros(4, 2, dtype=torch.int64))
    for codes, parents in (([1, 3, 0, 4], [1, 0, 4, 2]), ([2, 1], [0, 4]), ([3], [7])):
        tree = tree.extend_tree(torch.tensor([codes] * 4), torch.tensor([parents] * 4))
        found += [tree.scores()[0], tree.select(users).scores()[0]]
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_a_search_has_the_scores_of_one_that_gathers(name, asked):
    layout, backbone = parts(name)
    batch = layout(batch_of([6, 0, 3, 1]))
    with torch.no_grad():
        wanted = drawn(backbone, batch, torch.Generator().manual_seed(0))
        assert not asked
        asked.on()
        found = drawn(backbone, batch, torch.Generator().manual_seed(0))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)
    kinds = {"timeline": {(False, True)}, "cobra": {(True, True)}}
    assert set(asked) == kinds.get(name, {(False, True), (True, False)})


@pytest.mark.parametrize("name", ["t5", "timeline", "cobra"])
def test_beams_of_a_whole_search_are_the_same(name, asked):
    layout, backbone = parts(name)
    batch, trie = layout(batch_of([6, 0, 3])), build_trie(layout.item_codes, codebook_sizes=SIZES)
    allowed = torch.rand(3, ITEMS, generator=torch.Generator().manual_seed(0)) < 0.8
    options = {"num_beams": 8, "allowed": allowed, "exclude": Jagged.from_rows([[1, 2], [], [7]])}

    def search():
        return BeamConfig().build().search(backbone, batch, trie, 5, **options)

    wanted = search()
    asked.on()
    found = search()
    assert asked
    assert torch.equal(found.items, wanted.items)
    assert torch.equal(found.codes, wanted.codes)
    torch.testing.assert_close(found.scores, wanted.scores, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["t5", "timeline"])
def test_a_card_finds_the_same_beams(name, asked):
    """Every kernel of the card under the search, emulated; on a card where there is one."""
    layout, backbone = parts(name)
    batch, trie = layout(batch_of([4, 2])), build_trie(layout.item_codes, codebook_sizes=SIZES)

    def search(to):
        given = backbone.to(to), batch.to(to), trie.to(to)
        return BeamConfig().build().search(*given, 3, num_beams=4)

    wanted = search("cpu")
    assert not asked
    for card in every_card():
        found = search(card)
        assert asked, "what each row sees was gathered"
        assert torch.equal(found.items.cpu(), wanted.items)
        torch.testing.assert_close(found.scores.cpu(), wanted.scores, rtol=0, atol=1e-4)
        asked.clear()


def test_what_beam_attention_does_not_take_is_gathered(asked):
    """Gradients, and float64."""
    asked.on()
    layout, backbone = parts("t5")
    batch = layout(batch_of([4, 2]))
    codes, parents = torch.tensor([[1, 2], [0, 3]]), torch.zeros(2, 2, dtype=torch.int64)
    backbone.prefill(batch).extend(codes, parents).scores()[0].sum().backward()
    assert backbone.decoder[0].attention.queries.weight.grad.abs().sum() > 0
    assert not asked
    layout, wide = parts("t5", torch.float64)
    with torch.no_grad():
        wide.prefill(batch).extend(codes, parents)
        assert not asked
        backbone.prefill(batch).extend(codes, parents)
    assert asked


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_of_a_t5_is_one_launch_on_a_card(monkeypatch, dtype):
    torch.manual_seed(0)
    norm, x = RMSNorm(40).to(dtype), torch.randn(5, 40).to(dtype)
    torch.nn.init.normal_(norm.weight)
    wanted, calls = norm(x), []
    monkeypatch.setattr(t5, "residual_norm", lambda *given, **named: calls.append(1) or residual_norm(*given, **named))
    for card in every_card():
        on_card = norm.to(card)
        with torch.no_grad():
            found = on_card(x.to(card))
        assert calls
        bound = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(found.cpu(), wanted, **bound)
        calls.clear()
        on_card(x.to(card)).sum().backward()  # with gradients torch does it
        assert not calls
        assert norm.weight.grad.abs().sum() > 0


def test_only_where_kernels_for_cards_run():
    for _ in every_card():
        assert modules.runs_on_card(torch.ones(1)) is _cuda.emulates()
    assert not modules.runs_on_card(torch.ones(1))
