"""Finite scalar quantization: a few numbers per item, each rounded to one of a few steps; the grid is the codebook."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import DivergedError, InvalidValueError
from genrec_fast.base.progress import Progress
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.tokenizers.base import Fit, Tokenizer
from genrec_fast.tokenizers.codes import check_codebook_sizes
from genrec_fast.tokenizers.collisions.dedup import Dedup
from genrec_fast.tokenizers.stored import numbers, take

_BLOCK = 16384  # vectors coded at once
_WARM = 50  # steps of linear warm-up
_REPORT_EVERY = 50  # steps between two calls of progress


@dataclass(frozen=True, kw_only=True)
class FSQConfig:
    """Settings of finite scalar quantization (arXiv:2309.15505)."""

    steps: tuple[tuple[int, ...], ...] = ((8, 6, 5), (8, 6, 5), (8, 6, 5))
    """per level of the semantic ID, the steps of each of its numbers; the level's codebook size is their product (240
    as in the paper's table 1, "recommended for 2^8": 8, 6, 5)"""
    encoder: Literal["mlp", "pca"] = "mlp"
    """"mlp": an autoencoder, trained through the rounding (the paper's); "pca": principal components cut at their
    quantiles, nothing to train (ours)"""
    hidden_size: int = 256
    """width of the one hidden layer of encoder and decoder; mlp only"""
    training_steps: int = 1000
    """of the optimizer; mlp only"""
    batch_size: int = 512
    """items per step; mlp only"""
    learning_rate: float = 2e-3
    """of AdamW, at the peak: linear warm-up over 50 steps, then cosine to 0; mlp only"""
    dedup: Dedup = "rank"
    """how items of equal codes are told apart, see ``add_dedup_level``"""

    def __post_init__(self) -> None:
        check_fields(self, above=("learning_rate",), free=("steps",))
        if not self.steps or not all(self.steps):
            raise InvalidValueError(f"FSQConfig: steps must be tuples of integers, one per level, got {self.steps!r}")
        least = min(count for group in self.steps for count in group)
        if least < 2:
            raise InvalidValueError(f"FSQConfig: steps must be integers of at least 2, got {least}")
        check_codebook_sizes("FSQConfig", self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes per level."""
        return tuple(math.prod(group) for group in self.steps)

    def build(self, catalog: Catalog) -> FSQ:
        least = sum(map(len, self.steps)) if self.encoder == "pca" else 1
        if catalog.feature_dim is None or catalog.feature_dim < least:
            raise InvalidValueError(f"FSQConfig: feature_dim must be at least {least}, got {catalog.feature_dim}")
        return FSQ(self, catalog.feature_dim)


class FSQ(Tokenizer):
    """See ``FSQConfig``.

    ::

        z = encoder(features);  step_i = round(bound(z_i)) in 0 .. steps_i - 1
        code of a level = step of its first number * (product of the other counts) + ... + step of its last number

    There are no codebooks to learn and none to collapse; ``report`` says how many codes are used. After ``fit``:
    ``mse``, the mean squared error of ``decode`` over the catalog, per element.

    ``fit`` takes any number of rows; the same seed and number of threads give the same codes ("pca" draws nothing).
    Progress is ("fsq", steps done, steps, {"loss": ...}); a loss that is not finite raises ``DivergedError``.

    Source: Mentzer et al., arXiv:2309.15505, section 3.1: bound is ``(c - 1) (tanh(z) + 1) / 2`` (the paper's, moved to
    start at 0), the gradient passes the rounding unchanged.
    """

    kind: ClassVar[str] = "fsq"
    config_type: ClassVar[type] = FSQConfig
    reads_features: ClassVar[bool] = True
    config: FSQConfig

    def __init__(self, config: FSQConfig, feature_dim: int) -> None:
        super().__init__(config, feature_dim)
        self._counts = torch.tensor([count for group in config.steps for count in group])
        self._state: dict[str, Tensor] = {}
        self._net: _Net | None = None
        self.mse: float = math.nan

    def _fit(self, fit: Fit) -> None:
        vectors = fit.features
        self._state = self._components(vectors) if self.config.encoder == "pca" else {}
        if self.config.encoder == "mlp":
            self._state, self._net = self._trained(vectors, fit.generator(), fit.progress), None
        else:
            fit.progress("fsq", 1, 1, {})
        codes = self.encode(vectors)
        error = sum(
            float((self.decode(part) - block).double().square().sum())
            for part, block in zip(codes.split(_BLOCK), vectors.split(_BLOCK), strict=True)
        )
        self.mse = error / vectors.numel()
        self._keep(codes, self.config.sizes)

    def encode(self, features: Tensor) -> Tensor:
        """Codes of any vectors: float ``[m, F]`` -> int32 ``[m, levels]``, without a dedup level.

        Equals ``item_codes`` on the vectors of the catalog.
        """
        state = self._fitted()
        blocks = [self._codes(self._steps(block, state)) for block in self._vectors(features).split(_BLOCK)]
        return torch.cat(blocks)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """The decoder's vectors of codes: integer ``[m, t]`` -> float32 ``[m, F]``.

        Numbers of levels without a code stand in the middle of their range; a dedup level is not read.

        Raises:
            InvalidTypeError: codes are not integers.
            InvalidValueError: a wrong shape, or a code outside its codebook.
        """
        state = self._fitted()
        columns = self._columns(codes, self.config.sizes)
        steps: list[Tensor] = []
        for column, group in zip(columns, self.config.steps, strict=False):
            for index in range(len(group)):
                steps.append(column // math.prod(group[index + 1 :]) % group[index])
        known = len(steps)
        if self.config.encoder == "pca":
            mids = [state[f"values.{i}"][step] for i, step in enumerate(steps)]
            mids += [torch.zeros(codes.shape[0], dtype=torch.float64)] * (len(self._counts) - known)
            return (torch.stack(mids, 1) @ state["axes"].T + state["mean"]).float()
        middle = (self._counts - 1).double() / 2
        grid = [step.double() for step in steps]
        grid += [middle[i].expand(codes.shape[0]) for i in range(known, len(self._counts))]
        inner = torch.stack(grid, 1) / middle - 1
        out: Tensor = (self._network(state).decoder(inner) * state["scale"] + state["mean"]).float()
        return out

    def report(self) -> dict[str, Any]:
        """Adds ``mse``, and ``codes_used``, the number of different codes in use per level."""
        columns = self.item_codes.T[: len(self.config.steps)]
        return {**super().report(), "mse": self.mse, "codes_used": [len(column.unique()) for column in columns]}

    @property
    def _width(self) -> int:
        assert self.feature_dim is not None  # build asks for it
        return self.feature_dim

    def _fitted(self) -> dict[str, Tensor]:
        if not self._state:
            raise InvalidValueError("fsq: codebooks must come from fit or load, got neither")
        return self._state

    @torch.no_grad()
    def _steps(self, block: Tensor, state: dict[str, Tensor]) -> Tensor:
        """int64 ``[m, numbers]``, in float64: the steps are independent of the other rows of the block."""
        if self.config.encoder == "pca":
            z = ((block.double() - state["mean"]) @ state["axes"]).T.float().contiguous()
            return torch.stack([torch.bucketize(z[i], state[f"cuts.{i}"], right=True) for i in range(len(z))], 1)
        z = self._network(state).encoder((block.double() - state["mean"]) / state["scale"])
        steps: Tensor = ((z.tanh() + 1) / 2 * (self._counts - 1)).float().round().long()
        return steps

    def _network(self, state: dict[str, Tensor]) -> _Net:
        """Encoder and decoder in float64, built once."""
        if self._net is None:
            net = _Net(self._width, self.config.hidden_size, len(self._counts)).double()
            net.load_state_dict(_weights(state))
            self._net = net.eval()
        return self._net

    def _codes(self, steps: Tensor) -> Tensor:
        columns, first = [], 0
        for group in self.config.steps:
            code = torch.zeros(len(steps), dtype=torch.int64)
            for index, count in enumerate(group):
                code = code * count + steps[:, first + index]
            columns.append(code)
            first += len(group)
        return torch.stack(columns, 1).to(torch.int32)

    def _components(self, vectors: Tensor) -> dict[str, Tensor]:
        """Principal components, their cuts into equally full steps, and the mean of each step."""
        wide = vectors.double()
        mean = wide.mean(0)
        values, axes = torch.linalg.eigh((wide - mean).T @ (wide - mean) / len(wide))
        axes = axes[:, values.sort(descending=True, stable=True).indices[: len(self._counts)]]
        axes = axes * torch.where(axes.gather(0, axes.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0)
        state = {"mean": mean, "axes": axes.contiguous()}
        for index, count in enumerate(self._counts.tolist()):
            z = ((wide - mean) @ axes[:, index]).float()
            places = (torch.arange(1, count) * len(z)) // count
            ordered = z.sort().values
            cuts = (ordered[(places - 1).clamp(min=0)] + ordered[places]) / 2
            step = torch.bucketize(z, cuts, right=True)
            sums = torch.zeros(count, dtype=torch.float64).index_add_(0, step, z.double())
            here = step.bincount(minlength=count)
            means = torch.where(here > 0, sums / here.clamp(min=1), torch.cat([cuts, cuts[-1:]]).double())
            state |= {f"cuts.{index}": cuts, f"values.{index}": means}
        return state

    def _trained(self, vectors: Tensor, generator: torch.Generator, progress: Progress) -> dict[str, Tensor]:
        config = self.config
        mean = vectors.mean(0, dtype=torch.float64)
        scale = ((vectors.double() - mean).square().mean()).sqrt().clamp(min=1e-6)  # one for all: errors stay in units
        net = _Net(self._width, config.hidden_size, len(self._counts))
        net.start(generator)
        optimizer = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=1e-4)
        top = (self._counts - 1).float()
        for step in range(config.training_steps):
            rows = torch.randint(len(vectors), (min(config.batch_size, len(vectors)),), generator=generator)
            x = ((vectors[rows].double() - mean) / scale).float()
            grid = (net.encoder(x).tanh() + 1) / 2 * top
            grid = grid + (grid.round() - grid).detach()  # the gradient passes the rounding
            loss = (net.decoder(grid / top * 2 - 1) - x).square().mean()
            if not math.isfinite(loss.item()):
                raise DivergedError(
                    f"fsq: loss must be finite, got {loss.item()} at step {step}: try a lower learning_rate than "
                    f"{config.learning_rate:g}"
                )
            left = max(0.0, (config.training_steps - step) / config.training_steps)
            rate = config.learning_rate * min(1.0, (step + 1) / _WARM) * (1 - math.cos(math.pi * left)) / 2
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if (step + 1) % _REPORT_EVERY == 0 or step + 1 == config.training_steps:
                progress("fsq", step + 1, config.training_steps, {"loss": loss.item()})
        weights = {f"net.{name}": value.detach().double() for name, value in net.state_dict().items()}
        return {"mean": mean, "scale": scale.reshape(1), **weights}

    def _learned(self) -> dict[str, Tensor]:
        return {**self._fitted(), "mse": torch.tensor([self.mse], dtype=torch.float64)}

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        (self.mse,) = numbers(tensors, "mse", 1)
        wanted: dict[str, tuple[int, ...]] = {"mean": (self._width,)}
        counts = self._counts.tolist()
        if self.config.encoder == "pca":
            wanted["axes"] = (self._width, len(counts))
            wanted |= {f"values.{index}": (count,) for index, count in enumerate(counts)}
        else:
            shapes = _Net(self._width, self.config.hidden_size, len(counts)).state_dict()
            wanted |= {"scale": (1,), **{f"net.{name}": tuple(like.shape) for name, like in shapes.items()}}
        state = {name: take(tensors, name, torch.float64, shape) for name, shape in wanted.items()}
        if self.config.encoder == "pca":
            state |= {f"cuts.{i}": take(tensors, f"cuts.{i}", torch.float32, (n - 1,)) for i, n in enumerate(counts)}
        self._state, self._net = state, None


class _Net(nn.Module):
    def __init__(self, width: int, hidden: int, numbers: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.utils.skip_init(nn.Linear, width, hidden), nn.SiLU())
        self.encoder.append(nn.utils.skip_init(nn.Linear, hidden, numbers))
        self.decoder = nn.Sequential(nn.utils.skip_init(nn.Linear, numbers, hidden), nn.SiLU())
        self.decoder.append(nn.utils.skip_init(nn.Linear, hidden, width))

    def start(self, generator: torch.Generator) -> None:
        """First weights, from this generator alone."""
        for name, value in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(value)
            else:
                nn.init.kaiming_uniform_(value, a=math.sqrt(5), generator=generator)


def _weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("net."): value for name, value in state.items() if name.startswith("net.")}
