"""Small pictures for docs/: the same figures give the same file, and the file says in words what it shows."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING

from genrec_fast.base.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["blank", "described", "save"]

COLOURS = ("#0b62a4", "#d95f02", "#1b9e77", "#7a4fa3", "#b8860b", "#666666")
_BEGIN, _END = "<dc:description>", "</dc:description>"


def blank(width: float, height: float) -> Figure:
    """A figure without axes, inches, which no window shows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path, shown: str = "") -> None:
    """Writes an SVG, whole or not at all; ``shown`` stands in it as its description."""
    from matplotlib import rc_context

    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"Date": None, "Creator": None, **({"Description": shown} if shown else {})}
    # Letters as text are a third of their outlines; ids would be drawn by chance without a salt.
    with atomic_path(path) as temporary, rc_context({"svg.hashsalt": path.name, "svg.fonttype": "none"}):
        figure.savefig(temporary, format="svg", metadata=facts)


def described(path: Path) -> str:
    """The description that ``save`` wrote; "" where there is none."""
    text = path.read_text(encoding="utf-8")
    return html.unescape(text[text.index(_BEGIN) + len(_BEGIN) : text.index(_END)]) if _BEGIN in text else ""
