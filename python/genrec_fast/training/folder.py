"""The folder of a training: one process at a time, one run at a time, nothing left of a run that is started over."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from types import TracebackType

from safetensors import SafetensorError
from torch import Tensor

from genrec_fast.base.errors import CorruptFileError
from genrec_fast.base.files import checksum, read_tensors, save_tensors, storing, sweep
from genrec_fast.base.lock import FolderLock
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.recipe.run import Run, read_run, write_run
from genrec_fast.recipe.saved import remove_model
from genrec_fast.training.checkpoint import Checkpoint, load_checkpoint

# What a training writes beside its model; nothing else in the folder is ever removed.
_FILES = ("checkpoint.safetensors", "item_codes.safetensors", "log.jsonl", "curves.png", "test.json")


class RunFolder:
    """Within the block the folder is this training's.

    Every file carries the run's name: ``run.json``, the checkpoint, the semantic IDs, the card of the model; the log is
    bound to the checkpoint by its checksum. Files of two runs are never joined.

    Args:
        path: the folder; made where it is not there.
        writes: false in all processes of a training but the first, which read what that one wrote.

    Attributes:
        run: name of the run; "" for one of before runs had names.

    Raises:
        FolderInUseError: another training has it.
        StorageError: it cannot be written to.
        CorruptFileError: ``run.json`` is altered.
    """

    def __init__(self, path: Path, *, writes: bool) -> None:
        self.path, self._writes = path, writes
        self.checkpoint, self.item_codes, self.log, self.curves = (path / name for name in _FILES[:4])
        self.run = ""
        self._lock = FolderLock(path, "train")

    def __enter__(self) -> RunFolder:
        if not self._writes:
            known = read_run(self.path)
            self.run = "" if known is None else known.name
            return self
        self._lock.__enter__()
        try:
            sweep(self.path)
            known = read_run(self.path)
            if known is not None and known.clearing:  # killed while it started over
                self._clear(known.name)
        except BaseException as error:
            self._lock.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writes:
            self._lock.__exit__(kind, value, trace)

    def check(self) -> None:
        """Before a write: the folder is there, and still this training's; see ``FolderLock.check``."""
        self._lock.check()

    def resumed(self) -> Checkpoint | None:
        """The checkpoint to go on from; ``None`` where there is none.

        Raises:
            CorruptFileError: it is damaged, or of another run than the folder.
        """
        if not self.checkpoint.exists():
            return None
        found, known = load_checkpoint(self.checkpoint), read_run(self.path)
        name = found.progress.run
        if known is not None and known.name != name:
            raise CorruptFileError(
                f"train: {self.checkpoint} must be of run {known.name}, as {self.path} is, got one of "
                f"{name or 'an older training'}; put the right one back, or start over with resume=False (--no-resume)"
            )
        if known is None and name and self._writes:
            write_run(self.path, Run(name))
        self.run = name
        return found

    def begin(self, *, over: bool) -> None:
        """A new run begins. With ``over`` the old one is gone from the moment of one rename, its model included."""
        name = secrets.token_hex(8)
        if over:
            write_run(self.path, Run(name, clearing=True))
            self._clear(name)
        else:
            write_run(self.path, Run(name))
            self._remove_files()
        self.run = name

    def save_item_codes(self, catalog: Catalog) -> None:
        """Keeps the semantic IDs that the run begins with."""
        assert catalog.item_codes is not None
        self.check()
        tensors = {"item_codes": catalog.item_codes.cpu().contiguous()}
        metadata = {"codebook_sizes": json.dumps(catalog.codebook_sizes), "run": self.run}
        save_tensors(self.item_codes, tensors, metadata | {"checksum": checksum(metadata, tensors)})

    def _clear(self, name: str) -> None:
        remove_model(self.path)
        self._remove_files()
        write_run(self.path, Run(name))

    def _remove_files(self) -> None:
        with storing(self.path, "train"):
            for file in _FILES:
                (self.path / file).unlink(missing_ok=True)


def load_item_codes(path: Path, run: str = "") -> tuple[Tensor, tuple[int, ...]]:
    """Semantic IDs and sizes of codebooks, as ``RunFolder.save_item_codes`` wrote them.

    Raises:
        CorruptFileError: the file is altered, or of another run than ``run``.
    """
    try:
        metadata, tensors = read_tensors(path)
        stored = metadata.pop("checksum", None)  # absent in files of before
        found = tensors["item_codes"], tuple(json.loads(metadata["codebook_sizes"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CorruptFileError(f"train: {path} is cut short or altered ({error})") from error
    if stored is not None and stored != checksum(metadata, tensors):
        raise CorruptFileError(f"train: {path} is cut short or altered: its checksum must be {stored}")
    if metadata.get("run", "") != run:
        raise CorruptFileError(
            f"train: {path} must be of run {run or 'without a name'}, got one of {metadata.get('run') or 'none'}; "
            "put the right one back, or start over with resume=False (--no-resume)"
        )
    return found
