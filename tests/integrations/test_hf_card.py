"""Decoders of transformers by the kernels for cards, emulated where there is none: Hugging Face's own beams."""

from __future__ import annotations

import copy
import sys

import pytest
import torch

import genrec_fast as gf
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, SlowPathWarning, UnsupportedError
from genrec_fast.decoders.trie_search import TrieSearch
from genrec_fast.hf.card import card_engine
from genrec_fast.hf.codes import code_tokens
from genrec_fast.hf.engine import TorchEngine
from genrec_fast.hf.families import described
from genrec_fast.hf.native import native_engine
from genrec_fast.hf.writing import choose_engine
from genrec_fast.nn.engine.card import CardEngine
from genrec_fast.nn.engine.card_session import CardSession, Room
from genrec_fast.nn.engine.native import NativeEngine
from genrec_fast.nn.engine.plan import Plan
from genrec_fast.ops import _cuda
from integrations.models import FAMILIES, make_model
from integrations.test_hf_generate import OFFSET, SIZES, catalog, compare, tables_of

transformers = pytest.importorskip("transformers")

DECODERS = [name for name in FAMILIES if "t5" not in name]
PROMPTS = [[5, 9, 11, 14, 2, 8, 30, 31, 7], [7], [30, 31, 32, 33, 8]]
KERNELS = {"residual_norm", "jagged_attention", "beam_attention", "trie_step"}


@pytest.fixture
def launched(card, monkeypatch):
    """The sources of all kernels that are started from here on."""
    sources, place = set(), "_emulator" if card == "cpu" else "_function"
    run = getattr(_cuda, place)
    monkeypatch.setattr(_cuda, place, lambda source, *rest: sources.add(source) or run(source, *rest))
    return sources


def prompts(rows=PROMPTS):
    return gf.Jagged.from_rows(rows)


@pytest.mark.parametrize("name", DECODERS)
def test_every_family_gives_the_beams_of_hugging_face(name, card, launched):
    """Ragged prompts; grouped heads, windows shorter than prompts, every form of rotary positions."""
    model = make_model(name).to(card)
    assert type(choose_engine(model, "auto", None)) is CardEngine
    compare(model, catalog(60), [9, 1, 14], 8, 5, 1, "native")
    assert launched >= KERNELS | ({"rotary"} if name != "gpt2" else set())


@pytest.mark.parametrize("name", ["gpt2", "mistral", "qwen3"])
def test_other_widths_tokens_and_processors(name, card):
    model, order = make_model(name).to(card), torch.randperm(59, generator=torch.Generator().manual_seed(0)) + 2
    compare(model, catalog(40), [3], 60, 7, None, "native", tables=[order[:7], order[7:12], order[12:18]])
    options = {"repetition_penalty": 1.7, "renormalize_logits": name == "qwen3", "length_penalty": 2.0}
    compare(model, catalog(40), [6, 11], 6, 4, 1, "native", **options)


@pytest.mark.parametrize("name", ["gpt2", "mistral", "gemma"])
def test_recommendations_are_those_of_the_cpu(name, card):
    """Filters, exclusions, proofs by more beams, a number of beams for each user, draws and groups."""
    model, codes = make_model(name), catalog(60)
    trie = gf.build_trie(torch.cat([codes, codes[:5]]), codebook_sizes=SIZES)
    allowed = torch.rand(3, trie.num_items, generator=torch.Generator().manual_seed(0)) < 0.7
    asked = [
        {"num_beams": 6, "allowed": allowed, "exclude": gf.Jagged.from_rows([[1, 2], [], [7]])},
        {"num_beams": 3, "exact": True},
        {"num_beams": torch.tensor([3, 9, 5])},
        {"num_beams": 6, "num_groups": 3, "diversity_penalty": 0.5},
        {"num_beams": 4, "seed": 3},
    ]
    _cuda.use_emulator(None)
    native = gf.hf.compile(model, trie, OFFSET, normalize="valid")
    assert type(native.engine) is NativeEngine
    wanted = [native.recommend(PROMPTS, 3, **options) for options in asked]
    for options, expected in zip(asked, wanted, strict=True):
        _use(card)
        ours = gf.hf.compile(copy.deepcopy(model).to(card), trie, OFFSET, normalize="valid")
        assert type(ours.engine) is CardEngine and ours.device == ours.engine.device
        found = ours.recommend(PROMPTS, 3, **options).to("cpu")
        assert torch.equal(found.items, expected.items)
        assert torch.equal(found.exact, expected.exact)
        torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-4)


def _use(card):
    """The emulator again, where it stands for the card."""
    from emulator import build as emulator

    if card == "cpu":
        _cuda.use_emulator(emulator.run)


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_histories_of_items_and_slates(name, card):
    model, codes = make_model(name), catalog(30)
    trie = gf.build_trie(codes, codebook_sizes=SIZES)
    histories = [[3, 1], [], [5, 6, 7]]
    _cuda.use_emulator(None)
    wanted = gf.hf.compile(model, trie, OFFSET, reads="items", before=[2], prefix_tokens=[4]).recommend(histories, 4)
    _use(card)
    moved = copy.deepcopy(model).to(card)
    found = gf.hf.compile(moved, trie, OFFSET, reads="items", before=[2], prefix_tokens=[4]).recommend(histories, 4)
    assert torch.equal(found.items.cpu(), wanted.items)
    torch.testing.assert_close(found.scores.cpu(), wanted.scores, rtol=0, atol=1e-4)
    two = torch.tensor([[3, 1, 0], [3, 1, 5], [6, 0, 2]])
    search = gf.hf.trie_beam_search(
        gf.build_trie(two, codebook_sizes=SIZES), OFFSET, engine="native", prefix_tokens=[4], items_per_sequence=2
    )
    rows = moved.generate(
        torch.tensor([[5, 6, 7]]).to(card),
        num_beams=9,
        num_return_sequences=6,
        max_new_tokens=8,
        custom_generate=search,
    )
    texts = [[4, *item] for item in (two + torch.tensor([20, 27, 32])).tolist()]
    wanted = {(*one, *other) for one in texts for other in texts if one != other}
    assert {tuple(row[3:]) for row in rows.tolist()} == wanted


def test_masks_with_holes(card):
    """Positions count what is kept; a window counts what lies between, and torch reads that."""
    mask = torch.tensor([[0, 1, 0, 1, 1], [1, 0, 1, 1, 1]]).to(card)
    trie = gf.build_trie(catalog(40), codebook_sizes=SIZES)
    for name in ("qwen3", "mistral"):
        model = make_model(name).to(card)
        given = {"input_ids": torch.arange(3, 13).view(2, 5).to(card), "attention_mask": mask}
        given |= {"num_beams": 6, "num_return_sequences": 4, "max_new_tokens": 3, "eos_token_id": None}
        if name == "mistral":
            with pytest.raises(UnsupportedError, match="must have no 0 inside a prompt for the native engine"):
                model.generate(**given, custom_generate=gf.hf.trie_beam_search(trie, OFFSET, engine="native"))
        ours, torchs = (
            model.generate(**given, custom_generate=gf.hf.trie_beam_search(trie, OFFSET, engine=engine))
            for engine in ("auto", "torch")
        )
        assert torch.equal(ours, torchs)


@pytest.mark.parametrize("name", ["mistral", "qwen3"])
def test_sessions_do_not_change_and_trees_are_level_by_level(name, card):
    """An old session is extended again, some users of one go on alone, rows of any depth stand in one call."""
    model = make_model(name).to(card)
    users, none = torch.tensor([2, 0]), torch.zeros(3, 2, dtype=torch.int64)
    codes = [torch.tensor(rows) for rows in ([[5, 6], [7, 8], [9, 10]], [[20, 21], [22, 23], [24, 25]])]
    turned = torch.tensor([[1, 0]] * 3)

    def same(session, other):
        torch.testing.assert_close(session.scores()[0], other if isinstance(other, torch.Tensor) else other.scores()[0])

    with torch.no_grad():
        root = card_engine(model).prefill(prompts())
        torchs = TorchEngine(model).prefill(prompts())
        one = root.extend(codes[0], none)
        two = one.extend(codes[1], turned)
        wanted = torchs.extend(codes[0], none).extend(codes[1], turned).scores()[0]
        torch.testing.assert_close(two.scores()[0], wanted, rtol=1e-4, atol=1e-4)
        other = one.extend(codes[0], none)  # behind the same session: copied, and the first one's rows are its own
        same(two.extend(codes[0], turned), one.extend(codes[1], turned).extend(codes[0], turned))
        same(one.extend(codes[0], none), other)
        same(one.select(users).extend(codes[1][users], turned[users]), two.scores()[0][users])
        numbers = [1, 2, 2, 3, 0]  # parents: two rows of `one`, then rows of this very call, and the prompt
        tree = one.extend_tree(torch.tensor([[20, 21, 22, 23, 5]] * 3), torch.tensor([numbers] * 3))
        rows = tree.scores()[0]
        same(root.extend(torch.tensor([[5]] * 3), none[:, :1]), rows[:, 4:])
        deep = one.extend(torch.tensor([[20]] * 3), none[:, :1]).extend(torch.tensor([[23]] * 3), none[:, :1])
        same(deep, rows[:, 3:4])
        below = tree.extend(torch.tensor([[9]] * 3), torch.tensor([[3]] * 3)).select(users)
        same(below, deep.extend(torch.tensor([[9]] * 3), none[:, :1]).select(users))
        with pytest.raises(InvalidValueError, match="extend_tree: parents must be rows made before"):
            one.extend_tree(torch.tensor([[3]] * 3), torch.tensor([[9]] * 3))


@pytest.mark.parametrize("name", ["gpt2", "mistral"])
def test_prompts_are_read_on_behind_what_is_kept(name, card):
    """As a cache of users does: the answers are those of whole prompts, and less is read."""
    model = make_model(name).to(card)
    with torch.no_grad():
        engine = card_engine(model)
        old = engine.prefill(prompts([PROMPTS[0][:6]]))
        rest = prompts([PROMPTS[0][4:], PROMPTS[1], PROMPTS[2]])
        found = engine.prefill(rest, known=[(old, 4), None, None])
        whole = engine.prefill(prompts())
        torch.testing.assert_close(found.scores()[0], whole.scores()[0], rtol=1e-5, atol=1e-5)
        more = torch.tensor([[5, 6], [7, 8], [9, 10]]), torch.zeros(3, 2, dtype=torch.int64)
        torch.testing.assert_close(
            found.extend(*more).scores()[0], whole.extend(*more).scores()[0], rtol=1e-5, atol=1e-5
        )
    trie = gf.build_trie(catalog(30), codebook_sizes=SIZES)
    compiled = gf.hf.compile(model, trie, OFFSET, reads="items", before=[2], frozen=True)
    cache = gf.UserCache(compiled)
    cache.extend(["a", "b"], [[3, 4, 5], [6]])
    kept = cache.recommend(["a", "b"], 3, items=[[7], [8]], num_beams=6)
    assert torch.equal(kept.items, compiled.recommend([[3, 4, 5, 7], [6, 8]], 3, num_beams=6).items)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_half_precision_is_near(dtype, card):
    model = make_model("qwen3")
    wanted = native_engine(model).prefill(prompts()).scores(slice(None))[0]
    with torch.no_grad():
        found = card_engine(model.to(card, dtype)).prefill(prompts())
        assert found.hidden.dtype == dtype and found.scores()[0].dtype == torch.float32
        assert float((found.scores()[0].cpu() - wanted).std() / wanted.std()) < 0.05
        more = torch.tensor([[5, 6]] * 3), torch.zeros(3, 2, dtype=torch.int64)
        found, torchs = (
            session.extend(*more).scores()[0] for session in (found, TorchEngine(model).prefill(prompts()))
        )
    assert float((found - torchs).std() / torchs.std()) < 0.1


def test_answers_are_those_of_the_weights_as_they_are(card, monkeypatch):
    """But for a model that was frozen: the copies that products need are made once."""
    monkeypatch.setattr("genrec_fast.nn.native._said", set())  # another test may have heard it
    model, trie = make_model("llama").to(card), gf.build_trie(catalog(40), codebook_sizes=SIZES)
    live, frozen = (gf.hf.compile(model, trie, OFFSET, frozen=frozen) for frozen in (False, True))
    before = live.recommend(PROMPTS, 4).scores
    model.model.layers[0].self_attn.q_proj.weight.data *= -2.0
    after = live.recommend(PROMPTS, 4).scores
    assert not torch.equal(before, after)
    torchs = gf.hf.compile(model, trie, OFFSET, engine="torch").recommend(PROMPTS, 4).scores
    torch.testing.assert_close(after, torchs, rtol=0, atol=1e-4)
    assert torch.equal(frozen.recommend(PROMPTS, 4).scores, before)
    model.model.layers[0].register_forward_hook(lambda *_: None)
    with pytest.warns(SlowPathWarning, match="it has hooks at model.layers.0"):
        changed = live.recommend(PROMPTS, 4).scores
    torch.testing.assert_close(changed, torchs, rtol=0, atol=1e-4)


def _wide(model):
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=1, num_attention_heads=1, head_dim=264
    )
    return transformers.LlamaForCausalLM(config).eval()


def _lies(model):
    model.model.layers[0].self_attn.forward = model.model.layers[1].self_attn.forward
    return model


def _alone(_):
    model = make_model("mistral")
    for layer in model.model.layers:
        layer.self_attn.sliding_window = 1
    model.config.sliding_window = 1
    return model


REFUSED = {
    "an encoder": (lambda _: make_model("t5"), "must be one of gpt2, llama, mistral, qwen2, qwen3, gemma, got t5"),
    "wide heads": (_wide, "CardEngine: spec must be of heads of at most 256"),
    "a window of itself": (_alone, "CardEngine: spec must be of a window that shows more than a token itself"),
    "a method of its own": (_lies, "has a forward of its own at model.layers.0.self_attn"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_covered_is_run_by_torch(case, card, monkeypatch):
    monkeypatch.setattr("genrec_fast.nn.native._said", set())
    change, text = REFUSED[case]
    model = change(make_model("llama")).to(card)
    with pytest.raises(UnsupportedError, match=text):
        choose_engine(model, "native", None)
    with pytest.warns(SlowPathWarning, match=text):
        assert type(choose_engine(model, "auto", None)) is TorchEngine


def test_refusals_of_a_call(card):
    model = make_model("llama").to(card)
    with pytest.raises(UnsupportedError, match="a card runs weights as they are, float32, and not as int8"):
        card_engine(model, "int8")
    with torch.autocast(model.device.type, torch.bfloat16), pytest.raises(UnsupportedError, match="autocast is on"):
        card_engine(model)
    engine = card_engine(model)
    with pytest.raises(InvalidValueError, match="prefill: prompts must have a token each, but user 1 has none"):
        engine.prefill(prompts([[3], []]))
    with pytest.raises(InvalidValueError, match=r"tokens must be in \[0, 61\), got 3 to 61"):
        engine.prefill(prompts([[3, 61]]))
    with pytest.raises(InvalidTypeError, match="prefill: prompts must be int64 Jagged, got Tensor"):
        engine.prefill(torch.ones(2, 3))
    with pytest.raises(InvalidValueError, match="prefill: this model takes no decoder_prompts"):
        engine.prefill(prompts(), prompts())
    with pytest.raises(InvalidValueError, match="tokens must stand below position 96, got 96"):
        card_engine(make_model("gpt2").to(card)).prefill(prompts([[3] * 97]))


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_a_search_waits_for_nothing(name, monkeypatch):
    """On a device whose numbers nobody can read, which refuses tensors of another one."""
    for module in [module for path, module in sys.modules.items() if path.startswith("genrec_fast.")]:
        if hasattr(module, "require_tensors"):  # which refuses that device
            monkeypatch.setattr(module, "require_tensors", lambda *_, **__: None)
    there, trie = torch.device("meta"), gf.build_trie(catalog(60), codebook_sizes=SIZES)
    (spec, weights), *_ = (found := described(make_model(name))).stacks
    tokens = code_tokens(SIZES, code_to_token=tables_of())
    with torch.no_grad():
        moved = ({name: part.to(there) for name, part in parts.items()} for parts in (weights, found.tensors))
        engine = CardEngine(spec, *moved, found.note)
        read = torch.empty(9, spec.num_kv_heads, spec.head_width, device=there)
        session = CardSession(
            engine,
            ((read, read),) * spec.num_layers,
            torch.tensor([0, 4, 9], device=there),
            5,
            torch.empty(2, 1, spec.width, device=there),
            Room.none(engine, 2),
        )
        plan = Plan((6,) * 3, "all", tokens=tokens.to(there), prefix=(3,), end_token=1)
        end = TrieSearch(session, trie.to(there), plan, 2).run()
        with pytest.raises(RuntimeError):
            end.found().scores.tolist()
    assert end.found().tokens.shape == (2, 6, 4) and end.found().tokens.device == there
