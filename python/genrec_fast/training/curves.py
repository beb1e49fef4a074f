"""A picture of a training: one axis for each kind of figure, the names of the lines beside them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from genrec_fast.base.files import atomic_path
from genrec_fast.training.log import read_log

_COLOURS = ("#0b62a4", "#d95f02", "#1b9e77", "#7a4fa3", "#b8860b", "#666666")
_LAST = 200  # points up to which each is marked
Line = tuple[list[int], list[float]]


def draw_curves(log: Path, picture: Path) -> bool:
    """Draws loss, validation figures and learning rate of ``log.jsonl``; false where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    entries = read_log(log)
    panels = _panels(entries)
    figure = Figure(figsize=(9, 0.6 + 2.2 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    best = [entry["step"] for entry in entries if entry.get("best")]
    for axes, (title, lines) in zip(
        figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0], panels, strict=True
    ):
        for number, (name, (steps, values)) in enumerate(lines.items()):
            marker = "o" if title.startswith("validation") and len(steps) <= _LAST else ""
            colour = _COLOURS[number % len(_COLOURS)]
            axes.plot(steps, values, color=colour, marker=marker, markersize=3, linewidth=1.2, label=name)
        if best and title.startswith("validation"):
            axes.axvline(best[-1], color="grey", linewidth=1, linestyle=":", label=f"best, step {best[-1]:,}")
        axes.set_ylabel(title)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    axes.set_xlabel("step")
    with atomic_path(picture) as temporary:
        figure.savefig(temporary, dpi=120)
    return True


def _panels(entries: list[dict[str, Any]]) -> list[tuple[str, dict[str, Line]]]:
    """Title of an axis and its lines by name: figures of one kind alone share one."""

    def line(found: list[tuple[int, float]]) -> Line:
        return [step for step, _ in found], [value for _, value in found]

    losses = [entry for entry in entries if "loss" in entry]
    parts = sorted({name for entry in losses for name in entry if name != "loss" and name.endswith("loss")})
    named = {
        name: line([(entry["step"], entry[name]) for entry in losses if name in entry]) for name in ("loss", *parts)
    }
    panels = [("training loss", named)]
    checks = [entry for entry in entries if "validation" in entry]
    names = sorted({name for entry in checks for name in entry["validation"]}, key=_by_length)
    kinds: dict[str, dict[str, Line]] = {}
    for name in names:
        kind = "lists" if "@" in name else name.replace("_", " ")  # recall@5 and ndcg@10 are shares of one
        found = [(entry["step"], entry["validation"][name]) for entry in checks if name in entry["validation"]]
        kinds.setdefault(f"validation, {kind}", {})[name] = line(found)
    panels += kinds.items()
    rates = [(entry["step"], entry["lr"]) for entry in losses if "lr" in entry]
    return [*panels, *([("learning rate", {"learning rate": line(rates)})] if rates else [])]


def _by_length(name: str) -> tuple[str, int]:
    """ndcg@5 before ndcg@10."""
    metric, _, length = name.partition("@")
    return metric, int(length) if length.isdigit() else 0
