"""What a training is made of: semantic IDs, optimizer, seeds, the users it validates on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import CorruptFileError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.progress import Progress
from genrec_fast.base.weights import module_tensors, restore_module
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.data import Dataset, Evaluation
from genrec_fast.nn.item_inputs import ItemInputsConfig
from genrec_fast.recipe.recipe import Recipe, TrainConfig
from genrec_fast.recipe.system import System
from genrec_fast.training.folder import load_item_codes


class Step(nn.Module):
    """System and objective as one module, so that a distributed wrapper sees every use of the weights."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self.system = system

    def forward(self, batch: Batch) -> tuple[Tensor, int, dict[str, float]]:
        loss = self.system.objective(self.system, batch)
        return loss.value, loss.count, loss.figures


def coded_catalog(
    recipe: Recipe,
    data: Dataset,
    seed: int,
    path: Path | None,
    *,
    reuse: bool,
    histories: Jagged,
    progress: Progress | None = None,
    codes: Catalog | None = None,
    run: str = "",
) -> Catalog:
    """The data set's catalog with semantic IDs from the recipe's tokenizer.

    ``histories`` are those of the training split: a tokenizer that learns from interactions sees no others. One that
    learns from tags sees the catalog's categories.

    Items are atoms (their own id is their only code) where the recipe has no tokenizer. With ``reuse``, what ``run``
    kept in ``path`` is taken; ``codes`` is a catalog whose semantic IDs are taken in any case.
    """
    counts = torch.bincount(histories.values, minlength=data.num_items)
    catalog = dataclasses.replace(data.catalog, counts=counts)
    if codes is not None and codes.item_codes is not None:
        return catalog.with_codes(codes.item_codes.cpu(), codes.codebook_sizes)
    if recipe.tokenizer is None:
        return catalog.with_codes(torch.arange(data.num_items, dtype=torch.int32)[:, None], (data.num_items,))
    if reuse and path is not None and path.exists():
        return catalog.with_codes(*load_item_codes(path, run))
    tokenizer = recipe.tokenizer.build(catalog)
    tokenizer.fit(
        data.features,
        num_items=data.num_items,
        seed=seed,
        histories=histories,
        categories=catalog.tags,
        progress=progress,
    )
    item_codes, sizes = tokenizer.item_codes, tuple(int(size) for size in tokenizer.codebook_sizes)
    return catalog.with_codes(item_codes, sizes)


def begin_with(model: System, start: System | None) -> None:
    """Copies the weights of a trained model, and keeps its backbone as the reference where the objective reads one.

    What else it trained (a tokenizer, a draft) is copied where the recipe has a part of that name.

    Raises:
        InvalidValueError: no model to start from where the objective needs one or items would stay as they were drawn,
            or one with another backbone.
    """
    if start is None:
        if model.objective.reads_reference:
            name = type(model.objective).__name__
            raise InvalidValueError(f"train: start must be a trained model, as {name} compares with it, got None")
        if _stay_as_drawn(model.recipe):
            raise InvalidValueError(
                f"train: start must be a trained model for {model.name}, as its items' embeddings are not trained "
                "(backbone.items.learned_ids is False) and would stay as they were drawn, got None"
            )
        return
    theirs = dict(start.named_children())
    for name, part in model.named_children():
        if name == "layout" or name not in theirs:  # a layout is made of semantic IDs, which are the start's already
            continue
        if type(part) is not type(theirs[name]):  # two networks may have weights of one name and shape
            kinds = f"a {type(part).__name__}, got a {type(theirs[name]).__name__}"
            raise InvalidValueError(f"train: start must have the recipe's {name}, {kinds}")
        try:
            restore_module(part, module_tensors(theirs[name]), "train: start")
        except CorruptFileError as error:
            raise InvalidValueError(f"train: start must have the recipe's {name}, got another: {error}") from error
    if model.objective.reads_reference:
        model.keep_reference()


def _stay_as_drawn(recipe: Recipe) -> bool:
    """Whether items' vectors of their own are neither trained nor begun from anything."""
    items = getattr(recipe.backbone, "items", None)
    return isinstance(items, ItemInputsConfig) and items.ids and not items.learned_ids and items.start == "random"


def make_optimizer(system: nn.Module, settings: TrainConfig) -> torch.optim.AdamW:
    """AdamW; biases and norms never decay, embedding tables where the settings say so."""
    tables = {id(m.weight) for m in system.modules() if isinstance(m, nn.Embedding)}
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for parameter in (parameter for parameter in system.parameters() if parameter.requires_grad):
        decayed = parameter.dim() > 1 and (settings.decay_embeddings or id(parameter) not in tables)
        groups[0 if decayed else 1].append(parameter)
    decays = (settings.weight_decay, 0.0)
    return torch.optim.AdamW(
        [{"params": group, "weight_decay": decay} for group, decay in zip(groups, decays, strict=True) if group],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        fused=next(system.parameters()).device.type in ("cpu", "cuda"),
    )


def bf16_pays(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than float32; an older CPU imitates it, many times slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # torch has no public name for it
    return device.type == "cpu" and probe is not None and bool(probe())


def mix_seed(*numbers: int) -> int:
    """One 32-bit seed (what torch's CPU generator takes in) from several numbers: splitmix64 over them."""
    mask, state = (1 << 64) - 1, 0
    for number in numbers:
        state = (state + 0x9E3779B97F4A7C15 + number) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state >> 32


def sample_users(evaluation: Evaluation, count: int) -> Evaluation:
    """``count`` users (0: all): the same ones in every run, independent of the seed."""
    if count == 0 or count >= len(evaluation):
        return evaluation
    drawn = torch.randperm(len(evaluation), generator=torch.Generator().manual_seed(0))[:count]
    return evaluation.select(drawn.sort().values)
