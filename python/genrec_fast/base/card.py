"""The kernels for cards as files: where their sources lie, and which of them have run on a card."""

from __future__ import annotations

from pathlib import Path


def sources() -> Path:
    """The folder of the ``.cuh`` files: in the installed package, or in the tree that it is imported from."""
    here = Path(__file__).resolve()
    installed = here.parents[1] / "cuda"
    return installed if installed.is_dir() else here.parents[3] / "csrc" / "cuda"


def ran_on_card(folder: Path | None = None) -> dict[str, str]:
    """Op -> "card, day, commit" of the last time that its row of ``make gpu-check`` passed.

    Args:
        folder: where the record lies; ``None``: beside the sources.
    """
    record = (folder or sources()) / "ran.txt"
    lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    return dict(line.split(": ", 1) for line in lines)
