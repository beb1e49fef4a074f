"""Trees of models that torch runs: rows at different depths, read in one call, have the logits of level by level."""

from __future__ import annotations

import pytest
import torch

import genrec_fast as gf
from genrec_fast.base.errors import InvalidValueError, UnsupportedError

pytest.importorskip("transformers")

import transformers

from genrec_fast.hf.branched import Branched
from genrec_fast.hf.engine import TorchEngine
from genrec_fast.hf.stepped import Stepped
from integrations import model_types

PROMPTS = [[60, 61, 70, 80, 90, 72, 73, 74, 75], [65, 66], [67, 68, 69, 91, 92]]
NONE = torch.zeros(3, 1, dtype=torch.int64)
# Decoders of which a tree would be wrong: refused by name.
REFUSED = {
    *("bloom", "falcon (alibi)", "mpt", "roformer", "roberta", "bert (encoder)", "openai-gpt"),  # places are not given
    *("gpt_neo", "mistral", "qwen2 (windows)", "gemma2", "gemma3_text", "cohere2", "olmo3", "exaone4", "gpt_oss"),
    *("mamba", "mamba2", "falcon_mamba", "jamba", "falcon_h1", "lfm2", "qwen3_next", "minimax", "rwkv", "xlstm"),
}
# And of older versions, in which these do not take such a mask.
if int(transformers.__version__.split(".")[0]) < 5:
    REFUSED |= {"ctrl", "xglm", "bert", "electra"}


def begin(name: str, prompts=PROMPTS, **settings):
    model = model_types.make(name, **settings)
    start = None
    if model.config.is_encoder_decoder:
        start = gf.Jagged.from_rows([[model.config.decoder_start_token_id]] * len(prompts))
    return TorchEngine(model).prefill(gf.Jagged.from_rows(prompts), start)


def grown(session, paths, width, generator):
    """One call of a tree: random rows behind random rows of any call, this one's included; ``paths`` grow with it."""
    codes, parents = torch.zeros(3, width, dtype=torch.int64), torch.zeros(3, width, dtype=torch.int64)
    for user, known in enumerate(paths):
        for row in range(width):
            parents[user, row] = int(torch.randint(len(known), (1,), generator=generator))
            codes[user, row] = int(torch.randint(10, 40, (1,), generator=generator))
            known.append((*known[int(parents[user, row])], int(codes[user, row])))
    return session.extend_tree(codes, parents)


def assert_level_by_level(name, session, paths, width):
    for user, known in enumerate(paths):
        for row, path in enumerate(known[-width:]):
            alone = begin(name, [PROMPTS[user]])
            for token in path:
                alone = alone.extend(torch.tensor([[token]]), NONE[:1])
            torch.testing.assert_close(session.logits[user, row], alone.logits[0, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "mixtral", "phi", "deepseek_v3"])
@torch.no_grad()
def test_a_tree_has_the_logits_of_its_rows_level_by_level(name):
    generator = torch.Generator().manual_seed(1)
    root = begin(name)
    assert isinstance(root, Stepped)
    session, paths = root, [[()] for _ in PROMPTS]
    for width in (3, 1, 4):
        session = grown(session, paths, width, generator)
        assert isinstance(session, Branched)
        assert_level_by_level(name, session, paths, width)
    some = session.select(torch.tensor([2, 0]))
    for user, of in enumerate((2, 0)):
        torch.testing.assert_close(some.logits[user], session.logits[of], rtol=0, atol=0)
    after = grown(session, paths, 2, generator)  # what was selected, and what was extended, may be extended again
    assert_level_by_level(name, after, paths, 2)
    on = torch.tensor([[11, 12]] * 3), torch.tensor([[3, 0]] * 3)
    together = session.extend(*on).logits
    alone = some.extend(on[0][:2], on[1][:2]).logits
    torch.testing.assert_close(alone, together[[2, 0]], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_tree_behind_beams_counts_their_rows():
    """Beams that a search let go may be extended, too: row 0 is the prompt, 1 and 2 the first beams, 3 and 4 theirs."""
    beams, codes = begin("qwen2"), torch.tensor([[20, 21], [22, 23], [24, 25]])
    for parents in (torch.zeros(3, 2, dtype=torch.int64), torch.tensor([[1, 1]] * 3)):
        beams = beams.extend(codes, parents)
    paths = [[(), (a,), (b,), (b, a), (b, b)] for a, b in codes.tolist()]
    for session, users in ((beams, [0, 1, 2]), (beams.select(torch.tensor([1, 2])), [1, 2])):
        of = [list(paths[user]) for user in users]
        parents = torch.tensor([[1, 4, 0, 5]] * len(users))
        tree = session.extend_tree(torch.tensor([[30, 31, 32, 33]] * len(users)), parents)
        for place, user in enumerate(users):
            for row, parent in enumerate(parents[place].tolist()):
                before = (*of[place], (*of[place][1], 30))[parent]
                alone = begin("qwen2", [PROMPTS[user]])
                for token in (*before, 30 + row):
                    alone = alone.extend(torch.tensor([[token]]), NONE[:1])
                torch.testing.assert_close(tree.logits[place, row], alone.logits[0, 0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_windows_that_hold_the_whole_tree_are_no_hindrance():
    session = begin("mistral", sliding_window=16)
    paths, generator = [[()] for _ in PROMPTS], torch.Generator().manual_seed(0)
    session = grown(session, paths, 4, generator)
    plain = begin("mistral", sliding_window=None)
    for user, known in enumerate(paths):
        for row, path in enumerate(known[1:]):
            alone = plain.select(torch.tensor([user]))
            for token in path:
                alone = alone.extend(torch.tensor([[token]]), NONE[:1])
            torch.testing.assert_close(session.logits[user, row], alone.logits[0, 0], rtol=1e-4, atol=1e-4)
    with pytest.raises(UnsupportedError, match=r"must fit sliding_window = 16 of MistralForCausalLM.*, got 17"):
        grown(session, paths, 4, generator)


@torch.no_grad()
def test_wrong_trees_are_refused():
    session = begin("llama")
    with pytest.raises(InvalidValueError, match="parents must be rows made before"):
        session.extend_tree(NONE + 10, NONE + 2)
    session.extend(NONE + 10, NONE)
    with pytest.raises(InvalidValueError, match="session must have its cache, got one that was extended"):
        session.extend_tree(NONE + 10, NONE)


@pytest.mark.parametrize("name", ["t5", "bloom", "mpt", "mistral", "mamba"])
@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_a_model_that_cannot_is_refused_by_name(name):
    session = begin(name)
    with pytest.raises(UnsupportedError, match=f"extend_tree: .*{type(session.model.module).__name__}"):
        session.extend_tree(NONE + 10, NONE)
    assert session.extend(NONE + 10, NONE).logits.isfinite().all()  # and still searched level by level


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in model_types.MODEL_TYPES if name not in ("fsmt",)])
@torch.no_grad()
def test_every_type_of_model_reads_trees_right_or_is_refused(name):
    model = model_types.make(name)
    if model is None:
        pytest.skip(f"this transformers has no {name}")
    generator, paths = torch.Generator().manual_seed(2), [[()] for _ in PROMPTS]
    if name in REFUSED or model.config.is_encoder_decoder:
        with pytest.raises(
            UnsupportedError, match=r"^extend_tree: .*For|^extend_tree: .*Model|^TorchEngine: model must"
        ):
            grown(begin(name), paths, 3, generator)
        return
    try:
        session = begin(name)
    except UnsupportedError:
        return  # refused as a whole
    for width in (3, 2):
        session = grown(session, paths, width, generator)
        assert_level_by_level(name, session, paths, width)
