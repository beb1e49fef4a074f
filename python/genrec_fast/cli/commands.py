"""The commands of ``genrec-fast`` that work on a trained model or on features, as functions that tyro reads."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import torch
import tyro

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.recipe.recommender import load
from genrec_fast.serving.config import ServeConfig, ServeLimits

MAX_THREADS = 4096  # more than any machine has; far more end the process in the thread library


def set_threads(threads: int | None) -> None:
    """CPU threads of torch; ``None``: as it is."""
    if threads is None:
        return
    if not 1 <= threads <= MAX_THREADS:
        raise InvalidValueError(f"threads must be in [1, {MAX_THREADS}], got {threads}")
    torch.set_num_threads(threads)


_SERVED = ServeLimits()


def serve(
    model: Annotated[Path, tyro.conf.Positional],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: tyro.conf.OmitArgPrefixes[ServeLimits] = _SERVED,
    threads: int | None = None,
    device: str = "cpu",
) -> None:
    """Answers over HTTP: POST /recommend, GET /health, /metrics and /docs; needs genrec-fast[serve].

    Where the environment has GENREC_FAST_SWAP_TOKEN, who sends it may POST /swap another model from --swap-folder.

    Args:
        model: folder of the trained model.
        host: address to listen at; 0.0.0.0 for all.
        port: 0 takes a free one.
        limits: what it allows.
        threads: CPU threads; all cores if not given.
        device: cpu, cuda, ...
    """
    from genrec_fast.serving.http import run

    set_threads(threads)
    token = os.environ.get("GENREC_FAST_SWAP_TOKEN") or None
    given = {field.name: getattr(limits, field.name) for field in fields(limits)}
    if not run(load(model, device), ServeConfig(**given, swap_token=token), host=host, port=port):
        os._exit(0)  # every client has its answer; a search that cannot be stopped is not waited for
