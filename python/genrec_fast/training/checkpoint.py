"""The whole state of a training in one file that is either whole or not there."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from genrec_fast.base.errors import CorruptFileError
from genrec_fast.base.files import checksum, read_tensors, save_tensors

FORMAT = "genrec_fast.checkpoint"
VERSION = 2


@dataclass
class Progress:
    """Where a training stands. Plain numbers: they survive the trip through JSON bit for bit.

    The random numbers of a step are a function of (seed, step, process), the order of the batches one of (seed,
    epoch), the learning rate one of the step: so this, the weights and the optimizer's moments are everything.
    """

    epoch: int = 0
    position: int = 0  # steps done within the epoch
    step: int = 0  # optimizer steps done
    elapsed: float = 0.0  # seconds of wall-clock time, over all runs
    best_score: float | None = None  # validation NDCG@10
    best_epoch: int = 0
    stale: int = 0  # validations since the best one
    evaluated_step: int = -1  # step of the last validation
    loss_sum: float = 0.0  # since the last line of the log
    loss_count: int = 0
    items: int = 0
    logged_at: float = 0.0  # elapsed at the last line of the log
    log_bytes: int = 0
    validated: dict[str, float] = field(default_factory=dict)  # figures of the last validation
    validated_loss: float | None = None  # mean training loss between the last two validations
    validated_sum: float = 0.0  # of training losses since the last validation
    validated_count: int = 0
    still: int = 0  # validations in a row that changed nothing while the loss fell
    said_still: bool = False
    log_checksum: str = ""  # SHA-256 of the log so far; "" in checkpoints of before
    run: str = ""  # name of the run; "" in checkpoints of before
    identity: dict[str, Any] = field(default_factory=dict)  # recipe, seed and data: what a resumed run must share


def save_checkpoint(
    path: Path,
    progress: Progress,
    weights: dict[str, Tensor],
    best: dict[str, Tensor] | None,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Writes everything that a resumed training needs; the previous file stays until the new one is on disk."""
    tensors = {f"weights/{name}": tensor for name, tensor in weights.items()}
    if best is not None:
        tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": value for name, value in state.items()}
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": FORMAT, "version": str(VERSION), "progress": json.dumps(dataclasses.asdict(progress))}
    metadata["checksum"] = checksum(metadata, contiguous)
    save_tensors(path, contiguous, metadata)


@dataclass(frozen=True)
class Checkpoint:
    """What ``load_checkpoint`` found."""

    progress: Progress
    weights: dict[str, Tensor]
    best: dict[str, Tensor] | None
    optimizer: dict[int, dict[str, Tensor]]


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads what ``save_checkpoint`` wrote.

    Raises:
        CorruptFileError: cut short, altered, or of an unknown version.
    """
    try:
        metadata, tensors = read_tensors(path)
    except SafetensorError as error:
        raise CorruptFileError(f"load_checkpoint: {path} is cut short or altered ({error})") from error
    if metadata.get("format") != FORMAT or metadata.get("version") not in ("1", str(VERSION)):
        raise CorruptFileError(
            f"load_checkpoint: {path} must be {FORMAT} version {VERSION}, "
            f"got {metadata.get('format')} version {metadata.get('version')}"
        )
    try:
        progress = Progress(**json.loads(metadata["progress"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFileError(f"load_checkpoint: {path} has no readable progress ({error})") from error
    stored = metadata.pop("checksum", None)
    if stored != (computed := checksum(metadata, tensors)):
        raise CorruptFileError(f"load_checkpoint: {path} was altered: its checksum must be {stored}, got {computed}")
    weights: dict[str, Tensor] = {}
    best: dict[str, Tensor] = {}
    optimizer: dict[int, dict[str, Tensor]] = {}
    prefix = "backbone." if metadata["version"] == "1" else ""  # the first version kept nothing else
    for name, tensor in tensors.items():
        group, _, rest = name.partition("/")
        if group == "weights":
            weights[prefix + rest] = tensor
        elif group == "best":
            best[prefix + rest] = tensor
        else:
            index, _, key = rest.partition("/")
            optimizer.setdefault(int(index), {})[key] = tensor
    return Checkpoint(progress, weights, best or None, optimizer)
