"""A run whose output is whole or not there, and which is gone on with after any end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genrec_fast.base.errors import CorruptFileError, InvalidValueError
from genrec_fast.base.files import write_text

__all__ = ["START_OVER", "Unfinished"]

_FORMAT = "genrec_fast.recommend"
START_OVER = "give --no-resume to start over"


class Unfinished:
    """The folder ``OUTPUT.unfinished``: what is there so far, and ``state.json``, which says of which run and how far.

    Args:
        output: what there will be in the end.
        identity: what the answers depend on: a run is gone on with only where all of it is equal.
        resume: false: what an earlier run left goes.

    Attributes:
        folder: to write to.
        state: as an earlier run noted it last; empty where there is none.

    Raises:
        InvalidValueError: there is an unfinished run of another identity.
        CorruptFileError: its state is cut short or altered.
        FileNotFoundError: the output's folder is not there.
    """

    def __init__(self, output: Path, identity: Mapping[str, str], *, resume: bool = True) -> None:
        if not output.parent.is_dir():
            raise FileNotFoundError(f"recommend: the folder of --output must exist, got {output.parent}")
        self.output, self._identity = output, dict(identity)
        self.folder = output.with_name(f"{output.name}.unfinished")
        self._path = self.folder / "state.json"
        if not resume and self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(exist_ok=True)
        self.state: dict[str, Any] = self._earlier() if self._path.exists() else {}

    def _earlier(self) -> dict[str, Any]:
        try:
            noted = json.loads(self._path.read_text(encoding="utf-8"))
            if noted["format"] != _FORMAT:
                raise ValueError(noted["format"])
            identity, state = dict(noted["identity"]), dict(noted["state"])
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptFileError(
                f"recommend: {self._path} must be as it was written, got {error!r:.80}; {START_OVER}"
            ) from error
        for name, now in self._identity.items():
            if identity.get(name) != now:
                raise InvalidValueError(
                    f"recommend: --output must have the {name} that it was begun with, but {self.folder} has "
                    f"{identity.get(name)!s:.100} and this run {now!s:.100}; run again what was begun, choose another "
                    f"--output, or {START_OVER}"
                )
        return state

    def note(self, state: Mapping[str, Any]) -> None:
        """Keeps ``state``, whole or not at all."""
        write_text(self._path, json.dumps({"format": _FORMAT, "identity": self._identity, "state": dict(state)}) + "\n")
        self.state = dict(state)

    def finish(self, whole: Path) -> None:
        """Puts what is whole in the output's place, and removes the folder."""
        whole.replace(self.output)
        self.remove()

    def remove(self) -> None:
        shutil.rmtree(self.folder)
