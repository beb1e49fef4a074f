"""Warns once when the validation figures stop changing while the training goes on."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from genrec_fast.base.errors import StillValidationWarning
from genrec_fast.training.checkpoint import Progress

IN_A_ROW = 3  # validations of equal figures: two happen by chance where few users are asked


def say_if_still(state: Progress, figures: dict[str, float], say: Callable[[str], None]) -> None:
    """Takes in one validation; once in a training it warns that they do not move.

    It does so where the figures of three validations in a row are equal to the last bit and the mean training loss
    before each was lower than before the one before it. Figures that cannot get better are let stand.

    Args:
        state: of the training; what is known of earlier validations is kept in it, through any resume.
        figures: of this validation.
        say: gets the text as well as ``warnings``.
    """
    loss = state.validated_sum / state.validated_count if state.validated_count else None
    fell = loss is not None and state.validated_loss is not None and loss < state.validated_loss
    perfect = figures.get("ndcg@5") == 1.0 and "normalized_entropy" not in figures
    state.still = state.still + 1 if fell and figures == state.validated and not perfect else 0
    state.validated, state.validated_loss = dict(figures), loss
    state.validated_sum, state.validated_count = 0.0, 0
    if state.still < IN_A_ROW - 1 or state.said_still:
        return
    state.said_still = True
    shown = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
    text = (
        f"train: the validation figures must move while the loss falls, got {shown} {IN_A_ROW} times in a row, equal "
        "to the last bit: the search may not see the weights as they are now, all users may get the same answers, "
        "or too few users may be asked (evaluate_users, evaluate_beams)"
    )
    say(f"warning: {text}")
    warnings.warn(text, StillValidationWarning, stacklevel=2)
