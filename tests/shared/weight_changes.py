"""Every way in which a model's weights change under a search that has packed them before."""

from __future__ import annotations

import torch
from torch.nn.utils import prune


def _each(change):
    def run(model, other):
        with torch.no_grad():
            for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
                change(mine, theirs)

    return run


def _numpy(mine, theirs):
    mine.detach().numpy()[...] = theirs.detach().numpy()


def _inference(model, other):
    with torch.inference_mode():
        for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
            mine.copy_(theirs)


def _optimizer(make):
    def run(model, other):
        optimizer = make(model.parameters())
        for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
            mine.grad = (mine - theirs).detach()
        optimizer.step()
        optimizer.zero_grad()

    return run


def _one_number(model, other):
    """The smallest change there is: one weight of one matrix in the middle of the model."""
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    weight = linears[len(linears) // 2].weight
    weight.data[weight.shape[0] // 2, weight.shape[1] // 2] += 8.0


def _pruned(model, other):
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    prune.l1_unstructured(linears[-2], "weight", amount=0.7)


def _pruned_for_good(model, other):
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    prune.l1_unstructured(linears[-2], "weight", amount=0.7)
    prune.remove(linears[-2], "weight")


def _replaced(model, other):
    for module, theirs in zip(model.modules(), other.modules(), strict=True):
        if isinstance(module, torch.nn.Linear):
            module.weight = torch.nn.Parameter(theirs.weight.detach().clone())


def _moved(model, other):
    model.double()
    model.float()
    _each(lambda mine, theirs: mine.data.copy_(theirs.data))(model, other)


CHANGES = {
    "no_grad copy_": _each(lambda mine, theirs: mine.copy_(theirs)),
    "data.copy_": _each(lambda mine, theirs: mine.data.copy_(theirs.data)),
    "data[:]": _each(lambda mine, theirs: mine.data.__setitem__(slice(None), theirs.data)),
    "data = another": _each(lambda mine, theirs: setattr(mine, "data", theirs.data.clone())),
    "moving average": _each(lambda mine, theirs: mine.data.mul_(0.5).add_(theirs.data, alpha=0.5)),
    "numpy view": _each(_numpy),
    "inference mode": _inference,
    "load_state_dict": lambda model, other: model.load_state_dict(other.state_dict()),
    "SGD": _optimizer(lambda parameters: torch.optim.SGD(parameters, lr=0.5)),
    "fused AdamW": _optimizer(lambda parameters: torch.optim.AdamW(parameters, lr=0.1, fused=True)),
    "foreach AdamW": _optimizer(lambda parameters: torch.optim.AdamW(parameters, lr=0.1, foreach=True)),
    "one number": _one_number,
    "pruned by a hook": _pruned,
    "pruned for good": _pruned_for_good,
    "modules' weights replaced": _replaced,
    "to float64 and back": _moved,
}
