"""Backbones that search on the native engine answer with the weights and the code they have now."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from genrec_fast.backbones import T5, CausalT5Config, T5Config, TimelineConfig
from genrec_fast.backbones import causal_t5 as causal_t5_file
from genrec_fast.backbones import t5 as t5_file
from genrec_fast.backbones import timeline as timeline_file
from genrec_fast.base.errors import SlowPathWarning
from shared.backbone_suite import SIZES, batch_of, catalog_layout
from shared.catalogs import sized
from shared.weight_changes import CHANGES

CONFIGS = {
    "t5": T5Config(width=16, num_heads=2, head_width=8, num_layers=2, hidden=32, num_user_tokens=3, max_items=6),
    "causal_t5": CausalT5Config(width=16, num_heads=2, head_width=8, num_layers=1, hidden=32, max_items=6),
    "timeline": TimelineConfig(width=16, num_heads=2, num_layers=2, hidden=32, depth_hidden=32, max_items=6),
}
# Where a test says it, the native engine is not to be had.
BY_TORCH = {
    "t5": (t5_file, "native_t5"),
    "causal_t5": (causal_t5_file, "native_t5"),
    "timeline": (timeline_file, "native_timeline"),
}


def made(name, seed=0):
    torch.manual_seed(seed)
    model = CONFIGS[name].build(sized(SIZES, 30)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def logits(model):
    """Of all levels, along the first beams."""
    batch = catalog_layout()(batch_of([4, 1, 6]))
    out = []
    with torch.inference_mode():
        session = model.prefill(batch)
        for level, size in enumerate(SIZES):
            out.append(session.scores()[0])
            if level + 1 < len(SIZES):
                parents = torch.zeros(3, 2, dtype=torch.int64)
                session = session.extend(torch.tensor([[0, size - 1]] * 3).int(), parents)
    return out


def agree(name, model, monkeypatch):
    native = logits(model)
    with monkeypatch.context() as patch:
        patch.setattr(*BY_TORCH[name], lambda *given: None)
        for one, other in zip(native, logits(model), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    return native


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", CONFIGS)
def test_the_weights_are_those_of_now(name, change, monkeypatch):
    model = made(name)
    before = agree(name, model, monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowPathWarning)  # a hook is not run by the native engine
        CHANGES[change](model, made(name, seed=1))
        after = agree(name, model, monkeypatch)
    assert not all(torch.allclose(one, other, atol=1e-5) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda part: part.register_forward_hook(lambda _, __, out: out * 1.5), "hooks at"),
        (lambda part: setattr(part, "forward", lambda x: 2 * x), "a forward of its own at"),
        (lambda part: nn.utils.parametrize.register_parametrization(part, "weight", nn.Tanh()), "Parametrized"),
    ],
)
def test_a_model_that_is_more_than_its_weights_runs_on_torch_and_says_so(name, change, named, monkeypatch):
    model = made(name)
    logits(model)
    layer = model.blocks[0].mlp_out if name == "timeline" else model.encoder[0].feed_forward.out
    if named.startswith("a forward"):
        layer = model.norm if name == "timeline" else model.decoder_norm
    change(layer)
    with pytest.warns(SlowPathWarning, match=named):
        logits(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        agree(name, model, monkeypatch)


def test_a_class_of_the_users_own_runs_on_torch(monkeypatch):
    class Louder(T5):
        def logits(self, hidden, level):
            return 3 * super().logits(hidden, level)

    plain = made("t5")
    louder = Louder(plain.config, SIZES).eval()
    louder.load_state_dict(plain.state_dict())
    with pytest.warns(SlowPathWarning, match="is no T5 itself"):
        mine = logits(louder)
    for one, other in zip(mine, logits(plain), strict=True):
        torch.testing.assert_close(one, 3 * other, rtol=1e-4, atol=1e-4)


def test_a_bias_that_the_packing_does_not_expect_counts(monkeypatch):
    model = made("t5")
    model.decoder[1].attention.out = nn.Linear(16, 16, bias=True)
    agree("t5", model, monkeypatch)
    model.head = nn.Linear(16, sum(SIZES), bias=True)  # a bias that T5 never adds
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowPathWarning)
        agree("t5", model, monkeypatch)


def _another_norm(model, name):
    if name != "timeline":
        model.decoder_norm = nn.LayerNorm(16)
    else:
        model.depth_norm = nn.RMSNorm(16)


def _no_norm(model, name):
    setattr(model, "decoder_norm" if name != "timeline" else "depth_norm", nn.Identity())


def _heads(model, name):
    if name != "timeline":
        model.decoder[1].cross_attention.num_heads = 4
    else:
        model.depth_blocks[1].num_heads = 4


def _direction(model, name):
    if name != "timeline":
        model.encoder_bias.bidirectional = False
    else:
        model.blocks[0].causal = False


def _distance(model, name):
    if name != "timeline":
        model.encoder_bias.max_distance = 9
    else:
        model.blocks[1].attention_norm.eps = 0.5


@pytest.mark.parametrize("change", [_another_norm, _no_norm, _heads, _direction, _distance])
@pytest.mark.parametrize("name", ["t5", "timeline"])
def test_a_part_that_is_replaced_counts(name, change, monkeypatch):
    model = made(name)
    before = agree(name, model, monkeypatch)
    change(model, name)
    with pytest.warns(SlowPathWarning, match="native engine|pack_weights"):
        after = agree(name, model, monkeypatch)
    assert not all(torch.allclose(one, other, atol=1e-5) for one, other in zip(before, after, strict=True))


def _half_linear(self, input):
    return 0.5 * F.linear(input, self.weight, self.bias)


@pytest.mark.parametrize("name", CONFIGS)
def test_code_of_torch_that_is_replaced_counts(name, monkeypatch):
    model = made(name)
    agree(name, model, monkeypatch)
    known = nn.Linear.forward
    with monkeypatch.context() as patch:
        patch.setattr(nn.Linear, "forward", lambda self, x: 1.5 * known(self, x))
        with pytest.warns(SlowPathWarning, match="Linear.forward from"):
            agree(name, model, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(nn.Linear.forward, "__code__", _half_linear.__code__)
        with pytest.warns(SlowPathWarning, match=r"Linear.forward from \S*test_live_weights"):
            agree(name, model, monkeypatch)
    with torch.autocast("cpu", torch.bfloat16):
        agree(name, model, monkeypatch)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_weight_that_is_no_parameter_counts(name, monkeypatch):
    model = made(name)
    layer = model.blocks[0].mlp_out if name == "timeline" else model.encoder[0].feed_forward.out
    weight = layer.weight.detach().clone()
    del layer.weight
    layer.weight = weight
    before = agree(name, model, monkeypatch)
    weight.mul_(3.0)
    after = agree(name, model, monkeypatch)
    assert not all(torch.allclose(one, other, atol=1e-5) for one, other in zip(before, after, strict=True))
