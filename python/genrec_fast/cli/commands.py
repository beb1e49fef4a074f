"""The commands of ``genrec-fast`` that work on a trained model or on features, as functions that tyro reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import torch
import tyro

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.recipe.recommender import load

__all__ = ["serve", "set_threads"]


MAX_THREADS = 4096  # more than any machine has; far more end the process in the thread library


def set_threads(threads: int | None) -> None:
    """CPU threads of torch; ``None``: as it is."""
    if threads is None:
        return
    if not 1 <= threads <= MAX_THREADS:
        raise InvalidValueError(f"threads must be in [1, {MAX_THREADS}], got {threads}")
    torch.set_num_threads(threads)


def serve(
    model: Annotated[Path, tyro.conf.Positional],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    timeout: float = 10.0,
    max_waiting: int = 1024,
    max_running: int = 256,
    threads: int | None = None,
    device: str = "cpu",
) -> None:
    """Answers over HTTP: POST /recommend, GET /health, GET /metrics; needs genrec-fast[serve].

    Where the environment has GENREC_FAST_SWAP_TOKEN, who sends it may POST /swap a folder with another model.

    Args:
        model: folder of the trained model.
        host: address to listen at; 0.0.0.0 for all.
        port: 0 takes a free one.
        timeout: seconds that a question may take.
        max_waiting: users that may wait; more are told to come back.
        max_running: users that are searched at once: a matter of memory.
        threads: CPU threads; all cores if not given.
        device: cpu, cuda, ...
    """
    from genrec_fast.serving.http import ServeConfig, run

    set_threads(threads)
    config = ServeConfig(
        timeout=timeout,
        max_waiting=max_waiting,
        max_running=max_running,
        swap_token=os.environ.get("GENREC_FAST_SWAP_TOKEN") or None,
    )
    run(load(model, device), config, host=host, port=port)
