"""One training loop for every recipe."""

from __future__ import annotations

from genrec_fast.training.loop import train

__all__ = ["train"]
