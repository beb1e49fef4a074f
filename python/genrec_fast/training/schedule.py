"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from genrec_fast.recipe.recipe import TrainConfig


def learning_rate(config: TrainConfig, step: int, total_steps: int) -> float:
    """The learning rate of optimizer step ``step`` (from 0) of a training planned for ``total_steps``.

    Warm-up: ``peak * (step + 1) / warmup_steps``, or the peak itself under ``hold_warmup``. After it, with x from 0 at
    the end of the warm-up to 1 at the last step::

        cosine        peak * (final + (1 - final) * (1 + cos(pi x)) / 2)
        linear        peak * (final + (1 - final) * (1 - x))
        inverse_sqrt  peak * sqrt(warmup_steps / (step + 1))        (TIGER, arXiv:2305.05065)
        constant      peak

    Beyond ``total_steps`` the final value stays.
    """
    peak, warm = config.learning_rate, config.warmup_steps
    if step < warm:
        return peak if config.hold_warmup else peak * (step + 1) / warm
    if config.schedule == "constant":
        return peak
    if config.schedule == "inverse_sqrt":
        return peak * math.sqrt(warm / (step + 1))
    x = min(1.0, (step - warm) / max(1, total_steps - 1 - warm))
    falling = (1.0 + math.cos(math.pi * x)) / 2.0 if config.schedule == "cosine" else 1.0 - x
    return peak * (config.final_ratio + (1.0 - config.final_ratio) * falling)
