"""Whatever is replaced in or around a transformers model, the answers are those that the model itself gives."""

from __future__ import annotations

import contextlib
import functools
import importlib
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

import genrec_fast as gf
from genrec_fast.base.errors import SlowPathWarning, UnsupportedError

pytest.importorskip("transformers")

from transformers.pytorch_utils import Conv1D

from genrec_fast.nn.stock import changing_mode, foreign_home
from integrations.models import make_model
from integrations.test_live_weights import agree, linear

pytestmark = pytest.mark.slow


def _linear_class(model, patch):
    known = nn.Linear.forward
    patch.setattr(nn.Linear, "forward", lambda self, x: 1.5 * known(self, x))


def _functional(model, patch):
    known = F.scaled_dot_product_attention
    patch.setattr(F, "scaled_dot_product_attention", lambda query, *more, **named: known(0.3 * query, *more, **named))


def _method_of_no_function(model, patch):
    kind = type(model.model.layers[0].mlp)
    known = kind.forward
    patch.setattr(kind, "forward", functools.partialmethod(lambda self, x: 0.3 * known(self, x)))


def _callable_object(model, patch):
    home = importlib.import_module(type(model).__module__)
    known = home.apply_rotary_pos_emb

    class Turned:
        def __call__(self, queries, keys, cos, sin, *more, **named):
            return known(queries, keys, sin, cos)

    patch.setattr(home, "apply_rotary_pos_emb", Turned())


def _norm_of_other_code(self, hidden_states):
    variance = hidden_states.pow(2).mean(-1, keepdim=True)
    return self.weight * hidden_states * (3 * variance + self.variance_epsilon).sqrt()


def _code_in_place(model, patch):
    patch.setattr(type(model.model.norm).forward, "__code__", _norm_of_other_code.__code__)


def _operation_of_torch(model, patch):
    known = torch.rsqrt
    patch.setattr(torch, "rsqrt", lambda x: known(2 * x + 0.1))


def _another_operation_of_torch(model, patch):
    patch.setattr(torch, "rsqrt", torch.sqrt)


def _method_of_tensors(model, patch):
    known = torch.Tensor.pow
    patch.setattr(torch.Tensor, "pow", lambda x, exponent: 0.5 * known(x, exponent), raising=False)


def _of_another_family(model, patch):
    home = importlib.import_module(type(model).__module__)
    other = importlib.import_module("transformers.models.glm.modeling_glm")
    patch.setattr(home, "apply_rotary_pos_emb", other.apply_rotary_pos_emb)


def _layer_norm(model, patch):
    model.model.norm = nn.LayerNorm(24)


def _no_norm(model, patch):
    model.model.norm = nn.Identity()


def _two_in_a_row(model, patch):
    model.lm_head = nn.Sequential(model.lm_head, nn.Tanh())


def _no_feed_forward(model, patch):
    model.model.layers[0].mlp = nn.Identity()


def _turned_weights(model, patch):
    torch.manual_seed(3)
    model.transformer.h[0].attn.c_proj = nn.Linear(24, 24)


def _turned_back(model, patch):
    model.decoder.block[0].layer[0].SelfAttention.o = Conv1D(24, 24)


def _heads(model, patch):
    for block in model.transformer.h:
        block.attn.num_heads, block.attn.head_dim = 1, 24


def _heads_of_the_config(model, patch):
    model.config.n_head = 1


def _buckets(model, patch):
    for module in model.modules():
        if hasattr(module, "relative_attention_num_buckets"):
            module.relative_attention_num_buckets = 6


def _encoder_as_decoder(model, patch):
    for module in model.encoder.modules():
        if hasattr(module, "relative_attention_num_buckets"):
            module.is_decoder = True


REPLACED = {
    "Linear's own forward": ("qwen2", _linear_class, r"Linear.forward from \S*test_replaced_parts"),
    "a function of torch": ("qwen2", _functional, "scaled_dot_product_attention from"),
    "a method by partialmethod": ("qwen2", _method_of_no_function, "MLP.forward from"),
    "a callable object": ("qwen2", _callable_object, r"apply_rotary_pos_emb from \S*test_replaced_parts, a Turned"),
    "code in its place": ("qwen2", _code_in_place, r"RMSNorm.forward from \S*test_replaced_parts"),
    "an operation of torch": ("qwen2", _operation_of_torch, "would call another torch.rsqrt than torch's own"),
    "another operation": ("qwen2", _another_operation_of_torch, "would call another torch.rsqrt than torch's own"),
    "a method of tensors": ("qwen2", _method_of_tensors, "would call another Tensor.pow than torch's own"),
    "a function of another family": ("llama", _of_another_family, r"from transformers\.models\.glm"),
    "another norm": ("qwen2", _layer_norm, "last_norm must be of a RMSNorm"),
    "no norm": ("qwen2", _no_norm, "last_norm must be of a RMSNorm"),
    "two layers for one": ("qwen2", _two_in_a_row, "has no attribute 'weight'|must be of a Linear"),
    "no feed-forward": ("qwen2", _no_feed_forward, "must be built as transformers builds a qwen2"),
    "Linear for Conv1D": ("gpt2", _turned_weights, "must be of a Conv1D"),
    "Conv1D for Linear": ("t5", _turned_back, "must be of a Linear"),
    "heads of the layers": ("gpt2", _heads, "more than its family and weights"),
    "heads of the configuration": ("gpt2", _heads_of_the_config, "more than its family and weights"),
    "buckets of the layers": ("t5", _buckets, "more than its family and weights"),
    "one side's distances for both": ("t5", _encoder_as_decoder, "more than its family and weights"),
}


@pytest.mark.parametrize("what", REPLACED)
def test_a_part_that_is_replaced_counts(what, monkeypatch):
    name, change, named = REPLACED[what]
    model = make_model(name)
    agree(model, "native", recommends=False)
    with monkeypatch.context() as patch:
        change(model, patch)
        with pytest.raises(UnsupportedError, match=named):
            gf.hf.pack_weights(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SlowPathWarning)
            agree(model)


@pytest.mark.parametrize("name", ["qwen2", "t5", "gpt2"])
def test_a_weight_that_is_no_parameter_counts(name):
    model = make_model(name)
    layer = linear(model, 0)
    weight = layer.weight.detach().clone()
    del layer.weight
    layer.weight = weight  # a plain tensor, as of a network that makes another's weights
    before = agree(model, "native", recommends=False)
    weight.mul_(3.0)
    assert not torch.allclose(before, agree(model, "native"), atol=1e-5)


class Louder(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        return 1.5 * out if function is F.linear else out


@pytest.mark.parametrize("around", [Louder, functools.partial(torch.autocast, "cpu", torch.bfloat16)])
@pytest.mark.parametrize("name", ["qwen2", "t5"])
def test_what_is_switched_on_around_a_call_counts(name, around):
    model = make_model(name)
    before = agree(model, "native", recommends=False)
    with around(), warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowPathWarning)
        during = agree(model)
    assert not torch.equal(before, during)
    assert torch.equal(before, agree(model, "native", recommends=False))


def test_a_device_that_is_set_changes_nothing():
    with torch.device("cpu"):
        assert changing_mode() is None
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        assert changing_mode() == "torch.autocast is on"
    assert changing_mode() is None


def test_homes():
    own = foreign_home(test_homes, ("torch",))
    assert own is not None and own.endswith("test_replaced_parts")
    for value in (F.linear, F.relu, 3, nn.Linear, functools.partial(F.relu), property(F.relu), None, torch):
        assert foreign_home(value, ("torch",)) is None
    for wrapped in (
        staticmethod,
        classmethod,
        property,
        functools.partial,
        functools.lru_cache,
        functools.wraps(F.relu),
    ):
        assert foreign_home(wrapped(test_homes), ("torch",)) == own
