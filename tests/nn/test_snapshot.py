import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from genrec_fast.base.errors import UnsupportedError
from genrec_fast.nn.snapshot import Snapshot
from shared.weight_changes import CHANGES


class Net(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.ModuleList([nn.Linear(5, 5), nn.Sequential(nn.Linear(5, 7), nn.ReLU()), nn.Linear(7, 5)])
        self.norm = nn.LayerNorm(5)
        self.register_buffer("table", torch.randn(3))
        self.scaling, self.settings = {"one": 0.5}, [1, 2]

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_weights_is_seen(change):
    model = Net()
    snapshot = Snapshot(model)
    mark = snapshot.mark()
    assert snapshot.same_parts(model)
    assert snapshot.mark() == mark
    CHANGES[change](model, Net(seed=1))
    assert not snapshot.same_parts(model) or snapshot.mark() != mark


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.table.add_(1),
        lambda model: setattr(model.norm, "eps", 1e-3),
        lambda model: model.scaling.update(one=0.25),
        lambda model: model.settings.append(3),
        lambda model: setattr(model.layers[0], "forward", lambda x: x),
        lambda model: setattr(model, "forward", lambda x: x),
        lambda model: model.layers[0].register_forward_hook(lambda *_: None),
        lambda model: model.layers[1][0].register_forward_pre_hook(lambda *_: None),
        lambda model: nn.utils.parametrizations.weight_norm(model.layers[0]),
        lambda model: model.layers.append(nn.Linear(5, 5)),
        lambda model: model.layers.__setitem__(1, nn.Identity()),
        lambda model: setattr(model.layers[0], "bias", None),
        lambda model: setattr(model, "__class__", type("Other", (Net,), {})),
        lambda model: model.train(False),
    ],
)
def test_every_change_of_parts_is_seen(change):
    model = Net()
    snapshot = Snapshot(model)
    mark = snapshot.mark()
    change(model)
    assert not snapshot.same_parts(model) or snapshot.mark() != mark


def test_changed_code_is_seen(monkeypatch):
    model = Net()
    snapshot = Snapshot(model)
    monkeypatch.setattr(Net, "forward", lambda self, x: x)
    assert not snapshot.same_parts(model)
    monkeypatch.undo()
    assert snapshot.same_parts(model)


def forward_of_another(self, x):
    for layer in self.layers:
        x = layer(x) + torch.rsqrt(x.square().mean() + 1)
    return self.norm(x)


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        (Net.forward, "__code__", forward_of_another.__code__),
        (nn.Linear.forward, "__code__", nn.Identity.forward.__code__),
        (F.layer_norm, "__defaults__", (None, None, 1e-3)),
        (F.layer_norm, "__code__", F.rms_norm.__code__),
        (torch, "layer_norm", torch.group_norm),
        (torch.Tensor, "matmul", torch.Tensor.add),
    ],
)
def test_code_changed_in_place_and_replaced_operations_are_seen(monkeypatch, place, name, value):
    model = Net()
    snapshot = Snapshot(model)
    monkeypatch.setattr(place, name, value, raising=False)
    assert not snapshot.same_parts(model)
    monkeypatch.undo()
    assert snapshot.same_parts(model)


def test_global_hooks_are_seen():
    model = Net()
    snapshot = Snapshot(model)
    hook = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert not snapshot.same_parts(model)
    hook.remove()
    assert snapshot.same_parts(model)


def test_use_changes_nothing():
    model = Net()
    snapshot = Snapshot(model)
    mark = snapshot.mark()
    model(torch.randn(2, 5)).sum().backward()
    model.zero_grad()
    copy.deepcopy(model).state_dict()
    assert snapshot.same_parts(model)
    assert snapshot.mark() == mark


def test_the_model_is_not_kept_alive():
    model = Net()
    snapshot, gone = Snapshot(model), weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert snapshot.tensors


def test_a_tensor_that_left_the_cpu_is_named():
    with pytest.raises(UnsupportedError, match="must be a dense tensor on the CPU"):
        Snapshot(Net().to("meta")).mark()
