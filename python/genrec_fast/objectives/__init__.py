"""Objectives: what a backbone is trained to do. ``objective(backbone, batch) -> Loss``."""

from genrec_fast.objectives.full_softmax import FullSoftmax, FullSoftmaxConfig
from genrec_fast.objectives.next_code import NextCode, NextCodeConfig

__all__ = ["FullSoftmax", "FullSoftmaxConfig", "NextCode", "NextCodeConfig"]
