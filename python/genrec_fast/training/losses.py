"""Losses on their way into the log's sum: finite, or the training ends."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from genrec_fast.base.errors import DivergedError, InvalidValueError
from genrec_fast.training.checkpoint import Progress


class Losses:
    """The losses of steps that are not yet in the sums of ``progress``.

    Args:
        progress: of the training.
        learning_rate: that an error names, beside ``bf16``.
        bf16: whether the network runs in bfloat16.
        checkpoint: that stays as it was; ``None``: there is none.
    """

    def __init__(self, progress: Progress, learning_rate: float, bf16: bool, checkpoint: Path | None) -> None:
        self.progress, self.learning_rate, self.bf16, self.checkpoint = progress, learning_rate, bf16, checkpoint
        self.pending: list[Tensor] = []
        self.last: float | None = None

    def flush(self) -> None:
        """Adds the pending losses to the sums; on a GPU this waits for the device.

        Raises:
            DivergedError: one is not finite.
        """
        state = self.progress
        if not self.pending:
            return
        for index, value in enumerate(torch.stack(self.pending).tolist()):
            if not math.isfinite(value):
                raise self.diverged(state.step - len(self.pending) + index, "loss", value)
            state.loss_sum += value
            state.loss_count += 1
            state.validated_sum += value
            state.validated_count += 1
            self.last = value
        self.pending.clear()

    @contextlib.contextmanager
    def scoring(self) -> Iterator[None]:
        """Around a validation: the last step's loss may be finite, and what it made of the weights not.

        Raises:
            DivergedError: an op refused scores that are not finite.
        """
        try:
            yield
        except InvalidValueError as error:
            if "must be finite" not in str(error):
                raise
            step, remedy = self.progress.step, self._remedy()
            raise DivergedError(
                f"train: scores must be finite, got NaN or infinity after step {step}: try {remedy}, and begin again "
                "(resume=False, --no-resume)"
            ) from error

    def diverged(self, step: int, what: str, value: float) -> DivergedError:
        """The error for what is not finite, and what to do about it."""
        kept = "" if self.checkpoint is None else f"; {self.checkpoint} stays as it was before"
        return DivergedError(f"train: {what} must be finite, got {value} at step {step}: try {self._remedy()}{kept}")

    def _remedy(self) -> str:
        off = " or bf16 off" if self.bf16 else ""
        return f"a lower learning_rate than {self.learning_rate:g}, a longer warm-up{off}"
