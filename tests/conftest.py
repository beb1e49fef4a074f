"""What every test runs under: slow paths are errors, one torch thread, repeatable hypothesis."""

from __future__ import annotations

import os

# Before the package is imported: a missing kernel is then an error, not a slow twin that hides it.
os.environ["GENREC_FAST_STRICT"] = "1"

import torch
from hypothesis import settings

torch.set_num_threads(1)
# No deadline: a shared machine pauses now and then. No database: a run depends on the tree alone.
settings.register_profile(
    "house", deadline=None, max_examples=50, database=None, derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("house")
