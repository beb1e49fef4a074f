"""What a training is made of: semantic IDs, optimizer, seeds, the users it validates on."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from genrec_fast.data import Dataset, Evaluation, Interactions
from genrec_fast.errors import CorruptFileError
from genrec_fast.files import atomic_path
from genrec_fast.progress import Progress
from genrec_fast.recipe import Objective, Recipe, TrainConfig
from genrec_fast.types import Batch, Jagged, Loss

__all__ = ["Step", "bf16_pays", "make_optimizer", "mix_seed", "objective_of", "sample_users", "semantic_ids"]


class Step(nn.Module):
    """Backbone and objective as one module, so that a distributed wrapper sees every use of the weights."""

    def __init__(self, backbone: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.backbone, self._objective = backbone, objective

    def forward(self, batch: Batch) -> tuple[Tensor, int, dict[str, float]]:
        loss: Loss = self._objective(self.backbone, batch)
        return loss.value, loss.count, loss.figures


def semantic_ids(
    recipe: Recipe,
    data: Dataset,
    seed: int,
    path: Path | None,
    *,
    reuse: bool,
    histories: Jagged,
    progress: Progress | None = None,
) -> tuple[Tensor, tuple[int, ...]]:
    """int32 ``[N, L]`` and the codebook sizes, from the recipe's tokenizer; kept in ``path``.

    ``histories`` are those of the training split: a tokenizer that learns from interactions sees no others.

    Items are atoms (their own id is their only code) where the recipe has no tokenizer. With ``reuse``, what stands in
    ``path`` is taken.
    """
    if recipe.tokenizer is None:
        return torch.arange(data.num_items, dtype=torch.int32)[:, None], (data.num_items,)
    if reuse and path is not None and path.exists():
        return _load_item_codes(path)
    tokenizer = recipe.tokenizer.build(None if data.features is None else data.features.shape[1])
    tokenizer.fit(data.features, num_items=data.num_items, seed=seed, histories=histories, progress=progress)
    codes, sizes = tokenizer.item_codes, tuple(int(size) for size in tokenizer.codebook_sizes)
    if path is not None and not (reuse and path.exists()):
        with atomic_path(path) as temporary:
            save_file({"item_codes": codes.contiguous()}, temporary, {"codebook_sizes": json.dumps(sizes)})
    return codes, sizes


def objective_of(recipe: Recipe, train: Interactions) -> Objective:
    """The recipe's objective; one with ``take_counts`` is told how often each item occurs in the training split."""
    objective: Objective = recipe.objective.build()
    take_counts = getattr(objective, "take_counts", None)
    if take_counts is not None:
        take_counts(torch.bincount(train.items.values, minlength=train.num_items))
    return objective


def make_optimizer(backbone: nn.Module, settings: TrainConfig) -> torch.optim.AdamW:
    """AdamW; biases and norms never decay, embedding tables where the settings say so."""
    tables = {id(m.weight) for m in backbone.modules() if isinstance(m, nn.Embedding)}
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for parameter in backbone.parameters():
        decayed = parameter.dim() > 1 and (settings.decay_embeddings or id(parameter) not in tables)
        groups[0 if decayed else 1].append(parameter)
    decays = (settings.weight_decay, 0.0)
    return torch.optim.AdamW(
        [{"params": group, "weight_decay": decay} for group, decay in zip(groups, decays, strict=True) if group],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        fused=next(backbone.parameters()).device.type in ("cpu", "cuda"),
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
    """``count`` users drawn once and for all (0: all of them): the same ones in every run, whatever the seed."""
    if count == 0 or count >= len(evaluation):
        return evaluation
    drawn = torch.randperm(len(evaluation), generator=torch.Generator().manual_seed(0))[:count]
    return evaluation.select(drawn.sort().values)


def _load_item_codes(path: Path) -> tuple[Tensor, tuple[int, ...]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return file.get_tensor("item_codes"), tuple(json.loads((file.metadata() or {})["codebook_sizes"]))
    except (SafetensorError, KeyError, ValueError) as error:
        raise CorruptFileError(f"train: {path} is cut short or altered ({error})") from error
