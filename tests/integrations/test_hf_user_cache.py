"""What is kept of a language model's prompts gives the answers of reading every prompt whole."""

from __future__ import annotations

import pytest
import torch

import genrec_fast as gf
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.hf import language_model
from genrec_fast.hf.stepped import Stepped
from genrec_fast.nn.engine.native import NativeEngine
from integrations import model_types
from integrations.models import make_model
from shared.weight_changes import CHANGES

ITEMS, OFFSET = 40, 3
CODES = torch.stack([torch.arange(ITEMS) // 8, torch.arange(ITEMS) % 8], 1)
CATALOG = gf.Catalog(item_codes=CODES, codebook_sizes=(8, 8))
# Decoders of which nothing can be kept: their state is no keys and values, or sees a text from both sides.
REFUSED = {
    *("recurrent_gemma", "xlnet", "xlm", "reformer", "openai-gpt", "mamba", "mamba2", "falcon_mamba", "jamba"),
    *("falcon_h1", "lfm2", "qwen3_next", "minimax", "rwkv", "xlstm", "bert (encoder)", "roberta"),
}
DECODERS = ("gpt2", "llama", "llama3", "mistral", "qwen2", "qwen3", "gemma")


def compiled(name: str, seed: int = 0, **settings):
    around = {"reads": "items", "before": (2,), "after": (1, 44)} if "reads" not in settings else {}
    return gf.hf.compile(make_model(name, seed), CATALOG, token_offset=OFFSET, **{**around, **settings})


def tokens_read(monkeypatch) -> list[int]:
    """How many tokens of prompts each call reads from here on, on either engine."""
    found: list[int] = []
    prefill, read = NativeEngine.prefill, Stepped._read

    def native(self, prompts, *rest, **more):
        found.append(prompts.values.numel())
        return prefill(self, prompts, *rest, **more)

    def stepped(self, tokens, beams):
        if beams == 1:
            found.append(tokens.numel())
        return read(self, tokens, beams)

    monkeypatch.setattr(NativeEngine, "prefill", native)
    monkeypatch.setattr(Stepped, "_read", stepped)
    return found


def assert_same(found: gf.Ranked, expected: gf.Ranked, *, bits: bool) -> None:
    assert torch.equal(found.items, expected.items)
    assert torch.equal(found.exact, expected.exact)
    if bits:
        assert torch.equal(found.scores, expected.scores)
        assert torch.equal(found.bound, expected.bound)
    else:
        torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("run", ["float32", "bfloat16", "int8", "torch"])
@pytest.mark.parametrize("name", DECODERS)
def test_answers_are_those_of_prompts_read_whole(name, run):
    """Users of different lengths, histories that grow, are asked about again, cut at their front or written anew."""
    native = run != "torch"
    model = compiled(name, **({"engine": "native", "dtype": run} if native else {"engine": "torch"}))
    cache = gf.UserCache(model, num_pages=10, page_size=4)
    generator = torch.Generator().manual_seed(0)

    def number(high: int) -> int:
        return int(torch.randint(high, (), generator=generator))

    told: dict[str, list[int]] = {name: [] for name in "abcd"}
    evicted = 0
    for _ in range(10):
        users = [user for user in told if number(2)][:2] or ["d"]
        rows = []
        for user in users:
            if told[user] and user not in cache:  # evicted: the caller begins again
                evicted, told[user] = evicted + 1, []
            if len(told[user]) > 6:
                told[user] = told[user][number(2) * 2 :][: 4 + number(2)]  # slides, or loses its end
                cache.replace([user], [told[user]])
            rows.append([number(ITEMS) for _ in range(number(4))])
            told[user] = told[user] + rows[-1]
        found = cache.recommend(users, 5, items=rows, num_beams=8)
        histories = [told[user] for user in users]
        assert_same(found, model.recommend(histories, 5, num_beams=8), bits=native)
        assert [cache.history(user).tolist() for user in users] == histories
    assert evicted
    cache.clear()
    assert (len(cache), cache.num_free_pages) == (0, 10)


@pytest.mark.parametrize("run", ["native", "torch"])
def test_only_what_differs_is_read(monkeypatch, run):
    model = compiled("qwen3", engine=run)
    cache = gf.UserCache(model)
    cache.extend(["a"], [list(range(9))])
    read = tokens_read(monkeypatch)
    cache.recommend(["a"], 5, items=[[9]])
    assert read.pop(0) == 2 + 2  # the item, and what stands behind the history
    read.clear()
    again = cache.recommend(["a"], 5)
    assert [count for count in read if count > 1] == []
    cache.replace(["a"], [[0, 1, 2, 30]])
    assert not [count for count in read if count > 1]  # the next question reads
    cut = cache.recommend(["a"], 5)
    assert read.pop(0) == 2 + 2
    assert not torch.equal(again.scores, cut.scores)
    read.clear()
    cache.extend(["b"], [[0, 1]])
    assert sum(read) == 1 + 4 + 2  # users do not share


def test_the_best_are_proven_and_filtered_as_without_a_cache():
    model = compiled("qwen2", engine="native")
    cache = gf.UserCache(model)
    cache.extend(["a", "b"], [[3, 14], [9]])
    histories = [[3, 14, 15], [9]]
    allowed = torch.arange(ITEMS) % 3 > 0
    exclude = gf.Jagged.from_rows([[1, 2], [4]])
    found = cache.recommend(["a", "b"], 5, items=[[15], []], num_beams=5, exact=True, allowed=allowed, exclude=exclude)
    assert found.exact.all()
    assert_same(
        found,
        model.recommend(histories, 5, num_beams=5, exact=True, allowed=allowed, exclude=exclude),
        bits=True,
    )
    assert_same(cache.recommend(["b", "a"], 3), model.recommend(histories[::-1], 3), bits=True)
    unseen = cache.recommend(["a"], ITEMS, exclude_seen=True).items[0].tolist()
    assert set(unseen) - {-1} == set(range(ITEMS)) - set(histories[0])
    assert cache.recommend([], 3).items.shape == (0, 3)
    assert cache.extend([], []) is None


def test_whole_prompts_of_tokens_are_read_behind_what_they_begin_with(monkeypatch):
    """A template's end stands behind every history: whole prompts in the place of those before."""
    model = compiled("llama", reads="tokens", engine="native")
    head, tail = [50, 51, 52], [55, 56]
    first, second = [*head, 3, 11, *tail], [*head, 3, 11, 4, 12, *tail]
    cache = gf.UserCache(model)
    cache.replace(["a"], [first])
    assert_same(cache.recommend(["a"], 4), model.recommend([first], 4), bits=True)
    cache.replace(["a"], [second])
    read = tokens_read(monkeypatch)
    found = cache.recommend(["a"], 4)
    assert read == [4]
    assert_same(found, model.recommend([second], 4), bits=True)
    with pytest.raises(InvalidValueError, match="exclude_seen must be False for a model that reads tokens"):
        cache.recommend(["a"], 4, exclude_seen=True)


@pytest.mark.parametrize("run", ["native", "torch"])
@pytest.mark.parametrize("change", ["data.copy_", "fused AdamW", "numpy view", "one number"])
def test_states_of_other_weights_are_dropped(change, run):
    model, other = make_model("qwen2"), make_model("qwen2", 1)
    ours = gf.hf.compile(model, CATALOG, token_offset=OFFSET, reads="items", after=(1,), engine=run)
    cache = gf.UserCache(ours, num_pages=8, page_size=16)
    cache.extend(["a", "b"], [list(range(12)), [4]])  # two pages and one
    CHANGES[change](model, other)
    found = cache.recommend(["a"], 5, items=[[5]])
    assert cache.num_free_pages == 6  # nothing of b is kept but its history
    assert_same(found, ours.recommend([[*range(12), 5]], 5), bits=run == "native")
    assert_same(cache.recommend(["b"], 5), ours.recommend([[4]], 5), bits=run == "native")


@pytest.mark.parametrize("frozen", ["compile", "cache"])
def test_frozen_weights_are_not_looked_at(frozen):
    model = make_model("qwen2")
    ours = gf.hf.compile(model, CATALOG, token_offset=OFFSET, reads="items", engine="torch", frozen=frozen == "compile")
    cache = gf.UserCache(ours, frozen=frozen == "cache")
    before = cache.recommend(["a"], 5, items=[[1, 2, 3]])
    marked = language_model.Snapshot.mark
    try:
        language_model.Snapshot.mark = None  # type: ignore[assignment]
        assert torch.equal(cache.recommend(["a"], 5).scores, before.scores)
    finally:
        language_model.Snapshot.mark = marked


def test_pages_are_counted_and_the_longest_unused_go_first():
    cache = gf.UserCache(compiled("qwen2", reads="items"), num_pages=4, page_size=4)
    cache.extend(["a", "b"], [[1, 2, 3], [4]])  # 6 and 2 tokens: two pages and one
    assert (cache.num_free_pages, cache.users) == (1, ["a", "b"])
    cache.extend(["a"], [[]])
    assert cache.users == ["b", "a"]
    cache.extend(["c"], [[1, 2, 3]])  # one page more than is free: b goes
    assert (cache.num_free_pages, cache.users) == (0, ["a", "c"])
    before = cache.recommend(["a"], 3)
    with pytest.raises(InvalidValueError, match="num_pages must be enough for the users of a call: 3 more pages"):
        cache.extend(["a", "c"], [[1] * 5, [1] * 3])
    assert (cache.users, cache.history("a").tolist()) == (["c", "a"], [1, 2, 3])
    assert torch.equal(cache.recommend(["a"], 3).scores, before.scores)
    cache.replace(["a"], [[1]])
    cache.extend(["a"], [[]])
    assert cache.num_free_pages == 1  # a shorter prompt gives pages back
    cache.free(["a", "nobody"])
    assert (cache.num_free_pages, "a" in cache, len(cache)) == (2, False, 1)


def test_a_call_that_fails_changes_nothing():
    cache = gf.UserCache(compiled("gpt2", reads="items", engine="native"))  # places up to 96
    before = cache.recommend(["a"], 3, items=[[1, 2, 3]])
    with pytest.raises(InvalidValueError, match="prompts must fit the model's 96 positions, but user 0 has 106"):
        cache.extend(["a"], [[1] * 50])
    assert cache.history("a").tolist() == [1, 2, 3]
    assert torch.equal(cache.recommend(["a"], 3).scores, before.scores)
    with pytest.raises(InvalidValueError, match="prompts must have a token each, but user 0 has none"):
        cache.extend(["b"], [[]])
    for items, error, text in (
        ([[ITEMS]], InvalidValueError, r"items must hold item ids in \[0, 40\), got 40"),
        ([[1.5]], InvalidTypeError, "items must be lists of item ids"),
        ([[1], [2]], InvalidValueError, "items must have one row for each of 1 users, got 2"),
    ):
        with pytest.raises(error, match=f"^UserCache: {text}"):
            cache.replace(["a"], items)
    assert cache.users == ["a"]


@pytest.mark.parametrize("wrong", [{"k": 0}, {"num_beams": 3}, {"allowed": [ITEMS]}, {"exact": 1}])
def test_a_wrong_option_keeps_no_new_item(wrong):
    """Nor is anybody evicted for it."""
    cache = gf.UserCache(compiled("qwen2", engine="native"), num_pages=5, page_size=4)
    cache.extend(["a", "b"], [[1, 2], [3]])
    free = cache.num_free_pages
    with pytest.raises((InvalidValueError, InvalidTypeError)):
        cache.recommend(["a", "c"], **{"k": 5, "items": [[4], [5, 6, 7]], **wrong})
    assert (cache.history("a").tolist(), cache.users, cache.num_free_pages) == ([1, 2], ["a", "b"], free)


def test_models_of_which_nothing_can_be_kept_are_refused_by_name():
    with pytest.raises(UnsupportedError, match="left to right, got T5ForConditionalGeneration, whose encoder sees"):
        gf.UserCache(compiled("t5"))
    mamba = gf.hf.compile(model_types.make("mamba"), CATALOG, token_offset=OFFSET, engine="torch")
    with pytest.raises(UnsupportedError, match="MambaForCausalLM keeps no keys and values that can be rolled back"):
        gf.UserCache(mamba)
    turned = make_model("llama")
    turned.model.rotary_emb.rope_type = "dynamic"
    with pytest.raises(UnsupportedError, match="LlamaForCausalLM keeps no keys and values that can be rolled back"):
        gf.UserCache(gf.hf.compile(turned, CATALOG, token_offset=OFFSET, engine="torch"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", model_types.MODEL_TYPES)
def test_every_type_of_model_is_right_or_refused(name):
    codes = torch.cartesian_prod(*(torch.arange(4) for _ in range(3)))
    catalog = gf.Catalog(item_codes=codes, codebook_sizes=(4, 4, 4))
    theirs = model_types.make(name)
    if theirs is None:
        pytest.skip(f"this transformers has no {name}")
    if name in REFUSED or theirs.config.is_encoder_decoder:
        reasons = "left to right|keeps no keys and values|must give its next token by one call"
        with pytest.raises(UnsupportedError, match=reasons):
            gf.UserCache(gf.hf.compile(theirs, catalog, token_offset=10))
        return
    model = gf.hf.compile(theirs, catalog, token_offset=10)
    cache = gf.UserCache(model)
    told = {"a": [60, 61, 70, 80, 90, 72, 73], "b": [65, 66]}
    cache.extend(["a", "b"], [told["a"], told["b"]])
    for new in ([[33, 34, 35], [36]], [[], [50, 51, 52]], [[40], []]):
        told = {user: told[user] + row for user, row in zip("ab", new, strict=True)}
        found = cache.recommend(["a", "b"], 5, items=new)
        assert_same(found, model.recommend([*told.values()], 5), bits=False)
    told["a"] = [*told["a"][:4], 77]
    cache.replace(["a"], [told["a"]])
    assert_same(cache.recommend(["a", "b"], 5), model.recommend([*told.values()], 5), bits=False)


@pytest.mark.parametrize("name", ["qwen3", "gpt2"])
def test_torch_reads_and_searches_all_users_in_one_call(name, monkeypatch):
    """Their caches, of different lengths, are joined; what is kept stays each user's own."""
    model = compiled(name, engine="torch")
    cache = gf.UserCache(model)
    told = {"a": [3, 14, 15, 9, 2], "b": [9], "c": [1, 2, 3]}
    cache.extend([*told], [*told.values()])
    calls, read = [], Stepped._read
    monkeypatch.setattr(
        Stepped, "_read", lambda self, tokens, beams: calls.append(tokens.shape) or read(self, tokens, beams)
    )
    found = cache.recommend([*told], 5, num_beams=8)
    assert calls == [(3, 1), (3 * 5, 1)]  # the last token of each, then the second and last level: behind five codes
    monkeypatch.undo()
    assert_same(found, model.recommend([*told.values()], 5, num_beams=8), bits=False)
    assert_same(cache.recommend(["b"], 5, items=[[4]]), model.recommend([[9, 4]], 5), bits=False)
    told |= {"b": [9, 4, 5, 6], "c": [1, 2, 3, 30], "d": [7, 8]}  # read on by different numbers of tokens, or new
    found = cache.recommend(["b", "d", "c"], 5, items=[[5, 6], [7, 8], [30]])
    assert_same(found, model.recommend([told[user] for user in "bdc"], 5), bits=False)
    exact = cache.recommend(["c", "a"], 5, num_beams=5, exact=True)
    assert exact.exact.all()
    assert_same(exact, model.recommend([told["c"], told["a"]], 5, num_beams=5, exact=True), bits=False)


@torch.no_grad()
def test_what_is_kept_reads_trees():
    model = compiled("llama", reads="tokens", engine="torch")
    cache = gf.UserCache(model)
    prompts = [[50, 51, 3, 11], [52, 53]]
    session = cache.extend(["a", "b"], prompts)
    codes, parents = torch.tensor([[5, 6, 7], [8, 9, 10]]), torch.tensor([[0, 1, 0], [0, 1, 2]])
    tree = session.extend_tree(codes, parents)
    fresh = model.engine.prefill(gf.Jagged.from_rows(prompts)).extend_tree(codes, parents)
    torch.testing.assert_close(tree.logits, fresh.logits, rtol=1e-4, atol=1e-4)
