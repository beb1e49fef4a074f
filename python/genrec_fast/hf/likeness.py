"""Whether two ways of asking a model say the same, up to rounding: what every trial of a model compares by."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Concatenate, ParamSpec

import torch
from torch import Tensor, nn

from genrec_fast.base.errors import UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.hf.called import CalledModel
from genrec_fast.hf.whole import WholeTexts

# Largest difference of logits in standard deviations. Over some ninety model types a right state came within 1e-4 in
# float32 and 0.05 in bfloat16, a wrong one not within 0.3.
_TOLERANCE, _TOLERANCE_OF_HALF = 0.02, 0.2
# Models that quantize what they compute differ with the texts that are read together: this many times that is noise.
_NOISE = 5.0
P = ParamSpec("P")
# What the code of a model raises when its state is not made for beams, or not for one token behind a prompt.
NOT_MADE_FOR_IT = (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A model in evaluation mode; afterwards each of its modules is in its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def trial(tried: Callable[Concatenate[CalledModel, P], bool]) -> Callable[Concatenate[CalledModel, P], bool]:
    """Asks of a model in evaluation mode (dropout would draw other units for either way), without gradients.

    False where it raises what models raise that were not made for it. Too little memory says nothing about a model.
    """

    @torch.no_grad()
    @functools.wraps(tried)
    def quietly(model: CalledModel, /, *args: P.args, **kwargs: P.kwargs) -> bool:
        try:
            with evaluating(model.module):
                return tried(model, *args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except (UnsupportedError, *NOT_MADE_FOR_IT):
            return False

    return quietly


def tolerance_of(model: CalledModel, row: Tensor, starts: Jagged | None, encoded: bool, wanted: Tensor) -> float:
    """How far logits may differ: by more than the same row differs when read beside another one."""
    together = Jagged.from_rows([row, row.flip(0)], row.dtype)
    noise = difference(WholeTexts.begin(model, together, starts, encoded).logits[:1], wanted[:1])
    half = any(p.dtype in (torch.bfloat16, torch.float16) for p in model.module.parameters())
    return max(_NOISE * noise, _TOLERANCE_OF_HALF if half else _TOLERANCE)


def difference(got: Tensor, wanted: Tensor) -> float:
    """The largest difference in standard deviations of a row; inf where it is not a number."""
    spread = wanted.std(-1, keepdim=True).clamp(min=1e-6)
    largest = ((got - wanted).abs() / spread).max()
    return float(largest.nan_to_num(nan=torch.inf, posinf=torch.inf))


def likely_tokens(model: CalledModel, logits: Tensor, count: int) -> Tensor:
    """int64 ``[B, count]``: the likeliest by logits ``[B, V]``; none that a model may take for padding or an end."""
    logits, config = logits.clone(), model.module.config
    for name in ("pad_token_id", "eos_token_id", "bos_token_id"):
        given = getattr(config, name, None)
        for token in given if isinstance(given, list) else [given]:
            if isinstance(token, int) and 0 <= token < logits.shape[1]:
                logits[:, token] = -torch.inf
    return logits.topk(count).indices
