"""How RQ-VAE learns: first the autoencoder, then codebooks from k-means, then all jointly."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from genrec_fast import ops
from genrec_fast.base.errors import DivergedError
from genrec_fast.base.progress import Progress
from genrec_fast.nn.quantize import Quantized, VectorQuantizer
from genrec_fast.tokenizers.base import Fit
from genrec_fast.tokenizers.clustering.kmeans import kmeans
from genrec_fast.tokenizers.clustering.seeding import restart_empty_codes
from genrec_fast.tokenizers.regularisers.base import CodedBatch, FitContext, Regulariser
from genrec_fast.tokenizers.rqvae.model import RQVAEModel
from genrec_fast.tokenizers.rqvae.settings import RQVAESettings

_WARMUP = 50  # steps of rising learning rate
_SETTLE = 0.9  # no code is moved after this part of the training: one moved late has no time to fit
_SAMPLE = 1 << 17  # vectors that start the codebooks: 128 for each of 1,024 codes
_MAX_NORM = 1.0  # of the gradient


def columns(config: RQVAESettings) -> tuple[str, ...]:
    """Names of the figures in a row of the history."""
    use = tuple(f"use.{level}" for level in range(len(config.codebook_sizes)))
    terms = tuple(f"loss.{type(term).__name__.removesuffix('Config')}" for term in config.regularisers)
    return ("step", "loss", "reconstruction", "quantization", "learning_rate", "restarts", *terms, *use)


def train_rqvae(config: RQVAESettings, fit: Fit) -> tuple[RQVAEModel, list[dict[str, float]]]:
    """The trained model, on the CPU in eval mode, and its history.

    Raises:
        DivergedError: the loss is no longer finite.
        InvalidValueError: a regulariser lacks what it reads.
    """
    features, generator = fit.features, fit.generator()
    model = RQVAEModel(config, features.shape[1], generator)
    model.fit_scale(features)
    terms = _Terms(config, fit, generator)
    device = _device(config)
    model.to(device).train()
    terms.to(device)
    optimizer = _optimizer(model, terms, config, device)
    log = _Log(config, device)
    batches = _Batches(features.shape[0], config.batch_size, generator)
    joined = 0
    for step in range(config.steps):
        before, joined = joined, joined_levels(config, step)
        if joined > before:
            _start_codebooks(model, config, features, generator, device, slice(before, joined))
        rate = config.learning_rate * _rate(step, config.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        items = batches.next()
        asked = terms.ask(items)
        rows = torch.cat([items, *asked])
        x = model.scaled(features[rows].to(device))
        latent = model.encoder(x)
        coded = _code(model, config, latent, step, generator, joined) if joined else None
        decoded = model.decoder(latent if coded is None else coded.vectors)
        reconstruction = (decoded - x).square().mean()
        batch = _batch(rows.to(device), len(items), x, decoded, latent, coded, model)
        extra, losses = terms.losses(batch, asked, coded=coded is not None)
        loss = config.reconstruction_weight * reconstruction + extra
        if coded is not None:
            loss = loss + coded.loss
        if not bool(loss.isfinite()):
            raise DivergedError(
                f"rqvae: loss must stay finite, got {float(loss.detach())} in step {step + 1}; lower learning_rate"
            )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], _MAX_NORM)
        optimizer.step()
        moved = 0
        if coded is not None and config.restart_below and step < _SETTLE * config.steps:
            moved = _restart(model, coded, config.restart_below, generator)
        log.add(loss, reconstruction, coded, losses, moved)
        if (step + 1) % config.log_every == 0 or step + 1 == config.steps:
            log.close(step + 1, rate, fit.progress)
    model.to("cpu").eval()
    if config.restart_below:
        _fill(model, features)
    return model, log.rows


def joined_levels(config: RQVAESettings, step: int) -> int:
    """How many levels code the latents in a step; 0 before there are codes.

    With a curriculum, levels 1 to L - 1 join at even distances, the last one when its part of the steps is over.
    """
    first = int(config.autoencoder_share * config.steps)
    levels = len(config.codebook_sizes)
    if step < first:
        return 0
    stretch = int(config.curriculum * (config.steps - first))
    return min(levels, 1 + (step - first) * (levels - 1) // stretch) if stretch else levels


def _code(
    model: RQVAEModel, config: RQVAESettings, latent: Tensor, step: int, generator: torch.Generator, levels: int
) -> Quantized:
    noise = None
    if config.estimator == "gumbel":
        shapes = [(latent.shape[0], size) for size in config.codebook_sizes]
        noise = [torch.rand(shape, generator=generator).to(latent.device) for shape in shapes]
    first, last = config.temperatures
    temperature = first + (last - first) * step / config.steps
    coded = model.quantizer(latent, noise=noise, temperature=temperature, levels=levels)
    assert isinstance(coded, Quantized)
    return coded


def _batch(
    rows: Tensor, size: int, x: Tensor, decoded: Tensor, latent: Tensor, coded: Quantized | None, model: RQVAEModel
) -> CodedBatch:
    """What regularisers see; before there are codes, the latent stands for every sum of code vectors."""
    levels = len(model.quantizer.levels)
    return CodedBatch(
        items=rows,
        size=size,
        asked=slice(size, size),
        features=x,
        reconstruction=decoded,
        latent=latent,
        prefixes=(latent,) * levels if coded is None else coded.prefixes,
        codes=rows.new_zeros(len(rows), levels) if coded is None else coded.codes,
        codebooks=tuple(model.quantizer.codebooks),
    )


def _restart(model: RQVAEModel, coded: Quantized, below: float, generator: torch.Generator) -> int:
    moved = 0
    for level, residual in zip(model.quantizer.levels, coded.residuals, strict=False):  # those that have joined
        assert isinstance(level, VectorQuantizer)
        order = torch.randperm(residual.shape[0], generator=generator).to(residual.device)
        moved += len(level.restart(residual, order, below=below))
    return moved


@torch.no_grad()
def _start_codebooks(
    model: RQVAEModel,
    config: RQVAESettings,
    features: Tensor,
    generator: torch.Generator,
    device: torch.device,
    levels: slice,
) -> None:
    """k-means of what the levels before leave of the latents, level by level."""
    most = max(_SAMPLE, *config.codebook_sizes)
    chosen = torch.randperm(features.shape[0], generator=generator)[:most].sort().values
    blocks = [model.encoder(model.scaled(block.to(device))).cpu() for block in features[chosen].split(8192)]
    residual = torch.cat(blocks)
    init = "kmeans++" if config.kmeans_iterations else "random"
    for number, level in enumerate(model.quantizer.levels[: levels.stop]):
        assert isinstance(level, VectorQuantizer)
        if number < levels.start:
            residual = residual - level.codebook.cpu()[ops.rq_encode(residual, [level.codebook.cpu()])[:, 0].long()]
            continue
        drawn = int(torch.randint(1 << 31, (), generator=generator))
        found = kmeans(residual, level.weight.shape[0], iterations=config.kmeans_iterations, init=init, seed=drawn)
        level.start(found.centroids.to(device))
        codebook = level.codebook.cpu()
        residual = residual - codebook[ops.rq_encode(residual, [codebook])[:, 0].long()]


@torch.no_grad()
def _fill(model: RQVAEModel, features: Tensor) -> None:
    """Moves the unused codes onto the items with the largest errors; no other code changes."""
    residual = torch.cat([model.encode_exactly(block) for block in features.split(8192)])
    for level in model.quantizer.levels:
        assert isinstance(level, VectorQuantizer)
        codes = ops.rq_encode(residual, [level.codebook])[:, 0]
        counts = torch.bincount(codes, minlength=level.weight.shape[0])
        if not bool(counts.all()):
            level.weight.copy_(restart_empty_codes(residual, level.codebook, codes, counts))
            codes = ops.rq_encode(residual, [level.codebook])[:, 0]
        residual = residual - level.codebook[codes.long()]


class _Terms(nn.Module):
    """The regularisers of a training."""

    def __init__(self, config: RQVAESettings, fit: Fit, generator: torch.Generator) -> None:
        super().__init__()
        context = FitContext(
            num_items=fit.num_items,
            feature_dim=fit.features.shape[1],
            latent_dim=config.latent_dim,
            codebook_sizes=config.codebook_sizes,
            histories=fit.histories,
            categories=fit.categories,
            generator=generator,
        )
        self.configs = config.regularisers
        self.members = nn.ModuleList(term.build(context) for term in config.regularisers)

    def ask(self, items: Tensor) -> list[Tensor]:
        """Further items int64 that each member wants coded with the batch."""
        return [member.ask(items) for member in self.members if isinstance(member, Regulariser)]

    def losses(self, batch: CodedBatch, asked: list[Tensor], *, coded: bool) -> tuple[Tensor, list[Tensor]]:
        """The weighted sum, and each member's loss (0 for members of the codebooks while there are none)."""
        total = batch.latent.new_zeros(())
        start, losses = batch.size, []
        for config, member, part in zip(self.configs, self.members, asked, strict=True):
            own = dataclasses.replace(batch, asked=slice(start, start + len(part)))
            losses.append(member(own) if coded or not config.learned_codebooks else torch.zeros_like(total))
            total, start = total + config.weight * losses[-1], start + len(part)
        return total, losses


class _Batches:
    """Rows of the catalog in shuffled order, reshuffled when fewer than a batch are left."""

    def __init__(self, count: int, size: int, generator: torch.Generator) -> None:
        self.count, self.size, self.generator = count, min(size, count), generator
        self.order, self.at = torch.empty(0, dtype=torch.int64), 0

    def next(self) -> Tensor:
        if self.at + self.size > self.order.numel():
            self.order, self.at = torch.randperm(self.count, generator=self.generator), 0
        self.at += self.size
        return self.order[self.at - self.size : self.at]


class _Log:
    """Sums of a window of steps, and the rows that come of them."""

    def __init__(self, config: RQVAESettings, device: torch.device) -> None:
        self.config, self.device = config, device
        self.rows: list[dict[str, float]] = []
        self._clear()

    def _clear(self) -> None:
        self.sums = torch.zeros(3 + len(self.config.regularisers), dtype=torch.float64, device=self.device)
        self.steps, self.moved = 0, 0
        self.chosen = [torch.zeros(size, dtype=torch.bool, device=self.device) for size in self.config.codebook_sizes]

    def add(
        self, loss: Tensor, reconstruction: Tensor, coded: Quantized | None, terms: list[Tensor], moved: int
    ) -> None:
        quantization = torch.zeros_like(loss) if coded is None else coded.loss
        self.sums += torch.stack([loss, reconstruction, quantization, *terms]).detach()
        self.steps += 1
        self.moved += moved
        for codes, chosen in zip(() if coded is None else coded.codes.unbind(1), self.chosen, strict=False):
            chosen[codes] = True

    def close(self, step: int, rate: float, progress: Progress) -> None:
        means = (self.sums / self.steps).tolist()
        figures = [step, *means[:3], rate, self.moved, *means[3:]]
        figures += [float(chosen.double().mean()) for chosen in self.chosen]
        row = {name: float(value) for name, value in zip(columns(self.config), figures, strict=True)}
        self.rows.append(row)
        self._clear()
        progress("rqvae", step, self.config.steps, dict(row))


def _rate(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / _WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _optimizer(model: RQVAEModel, terms: nn.Module, config: RQVAESettings, device: torch.device) -> torch.optim.AdamW:
    """Matrices of the autoencoder decay; biases and codebooks never."""
    decayed = [p for part in (model.encoder, model.decoder) for p in part.parameters() if p.dim() > 1]
    known = {id(p) for p in decayed}
    others = [p for part in (model, terms) for p in part.parameters() if p.requires_grad and id(p) not in known]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=config.learning_rate,
        fused=device.type in ("cpu", "cuda"),
    )


def _device(config: RQVAESettings) -> torch.device:
    if config.device == "cpu":
        return torch.device("cpu")
    from accelerate import PartialState

    device = PartialState().device
    assert isinstance(device, torch.device)
    return device
