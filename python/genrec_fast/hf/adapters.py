"""Models inside others: wrappers that only pass calls on, and adapters of peft as weights."""

from __future__ import annotations

import copy
import sys
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from genrec_fast.base.errors import UnsupportedError
from genrec_fast.nn.stock import change_of_model

# Logits of a merged copy may differ from the model's by this share of the largest: sums in another order.
_ROUNDING = 1e-4
# Whose code a model with adapters may run.
_CODE = ("transformers", "peft", "accelerate", "tqdm")


def underlying(model: nn.Module) -> nn.Module:
    """The model that a wrapper hands its calls to: of DataParallel, torch.compile, and peft but for learned prompts."""
    while True:
        wrapper: Any = model
        inner: Any = None
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = wrapper.module
        elif type(model).__name__ == "OptimizedModule":
            inner = getattr(model, "_orig_mod", None)
        elif _is_peft_model(model) and not wrapper.active_peft_config.is_prompt_learning:
            inner = wrapper.get_base_model()
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def learned_prompt(model: nn.Module) -> Any | None:
    """The peft model whose learned prompt stands before what ``model`` reads; ``None``: there is none.

    ``PeftModel.generate`` hands on the model inside, with its own way to prepare inputs.
    """
    prepare = vars(model).get("prepare_inputs_for_generation")
    found: Any
    for found in (model, getattr(prepare, "__self__", None)):
        if _is_peft_model(found) and found.active_peft_config.is_prompt_learning:
            return found
    return None


def has_adapters(model: nn.Module) -> bool:
    """Whether layers of peft stand in the model, active or not."""
    kinds = _adapter_kinds()
    return bool(kinds) and any(isinstance(module, kinds) for module in model.modules())


def mixed_adapters(model: nn.Module) -> bool:
    """Whether peft was given an adapter for each row of this call (``adapter_names``): it hangs them on its layers."""
    kinds = _adapter_kinds()
    return bool(kinds) and any(
        "adapter_names" in getattr(hook, "keywords", ())
        for module in model.modules()
        if isinstance(module, kinds)
        for hook in module._forward_pre_hooks.values()
    )


def merged(model: nn.Module) -> nn.Module:
    """A copy of the model with its active adapters merged into the weights, and layers as transformers made them.

    Raises:
        UnsupportedError: weights that are not float32 (merging would round), adapters that peft cannot merge, or a
            copy that does not give the model's own logits, or a model with hooks, replaced methods and the like.
    """
    name = type(model).__name__
    change = change_of_model(model, _mergeable, _CODE)
    if change is not None:  # of its adapters, too: a merged copy has none of their hooks and methods
        raise UnsupportedError(f"{name}: a merged copy is transformers' and peft's own code alone, but this {change}")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft says that merging twice does nothing
        if any(p.dtype != torch.float32 for p in model.parameters()):
            raise UnsupportedError(f"{name}: adapters are merged exactly in float32 only, and this model is of another")
        whole = copy.deepcopy(model)
        for place, module in list(whole.named_modules()):
            if isinstance(module, _adapter_kinds()):
                whole.set_submodule(place, _plain(name, place, module))
        ours, theirs = _logits(whole), _logits(model)
        if ours.shape != theirs.shape or float((ours - theirs).abs().max()) > _ROUNDING * float(theirs.abs().max()):
            raise UnsupportedError(f"{name}: merging its adapters changes what it computes")
    return whole


def _mergeable(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in ("torch", "transformers", "peft")


def _plain(name: str, place: str, module: Any) -> Any:
    """The layer that does what an adapted layer does now."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    if not isinstance(module, BaseTunerLayer):
        if not isinstance(module, ModulesToSaveWrapper):
            raise UnsupportedError(f"{name}: peft's {type(module).__name__} at {place} is not merged")
        chosen = module.modules_to_save  # a copy of the whole layer was trained
        active = [key for key in module.active_adapters if key in chosen]
        if module.disable_adapters or not active:
            return module.original_module
        if len(active) > 1:
            raise UnsupportedError(f"{name}: {place} has {len(active)} active copies of one layer")
        return chosen[active[0]]
    try:
        if module.disable_adapters:
            if module.merged:
                module.unmerge()
        elif not module.merged:
            module.merge()
    except (NotImplementedError, ValueError, RuntimeError, AttributeError) as error:
        raise UnsupportedError(f"{name}: peft cannot merge {type(module).__name__} at {place} ({error})") from error
    base = module.get_base_layer()
    if isinstance(base, _adapter_kinds()):
        return _plain(name, place, base)
    return base


def _logits(model: Any) -> Tensor:
    """Of a few tokens, all different."""
    size = int(model.get_input_embeddings().weight.shape[0])
    tokens = torch.linspace(0, size - 1, min(8, size)).long().unsqueeze(0)
    given = {"decoder_input_ids": tokens[:, :4]} if model.config.is_encoder_decoder else {}
    found: Tensor = model(input_ids=tokens, **given).logits
    return found


def _is_peft_model(model: Any) -> bool:
    """A question for those who have imported peft: without it nothing can be of its kinds."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


def _adapter_kinds() -> tuple[type, ...]:
    if "peft" not in sys.modules:
        return ()
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    return (BaseTunerLayer, AuxiliaryTrainingWrapper)
