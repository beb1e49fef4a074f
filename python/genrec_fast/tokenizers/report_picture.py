"""A report as a picture."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec_fast.errors import InvalidValueError, UnsupportedError
from genrec_fast.files import atomic_path

if TYPE_CHECKING:
    from genrec_fast.tokenizers.report import Report

__all__ = ["draw"]

_ENDINGS = (".png", ".svg", ".pdf")
_POINTS = 400  # of a curve: a codebook of 65,536 codes would make a picture of megabytes


def draw(report: Report, path: str | os.PathLike[str]) -> None:
    """See ``Report.save_picture``."""
    target = Path(path)
    if target.suffix not in _ENDINGS:
        raise InvalidValueError(f"save_picture: path must end in {', '.join(_ENDINGS)}, got {target.name!r}")
    if find_spec("matplotlib") is None:
        raise UnsupportedError(
            "save_picture: pictures need matplotlib, which is not installed; pip install 'genrec-fast[plot]'"
        )
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [_use, _groups]
    panels += [_errors] if report.variance is not None else []
    panels += [_purity] if any(level.purity is not None for level in report.levels) else []
    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(1, len(panels)), panels, strict=True):
        panel(axes, report)
        axes.spines[["top", "right"]].set_visible(False)
    metadata = {"Date": None} if target.suffix == ".svg" else None  # the same report, the same file
    with atomic_path(target) as temporary:
        figure.savefig(temporary, metadata=metadata, dpi=85)


def _use(axes: Any, report: Report) -> None:
    for level, counts in enumerate(report.code_counts[: report.num_levels]):
        ordered = counts.sort(descending=True).values.double()
        places = sorted({round(i * (len(ordered) - 1) / _POINTS) for i in range(_POINTS + 1)})
        share = (ordered * len(ordered) / report.num_items)[places].tolist()
        axes.plot([(place + 0.5) / len(ordered) for place in places], share, label=f"level {level}")
    axes.axhline(1, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="codes, most frequent first", ylabel="items per code / even share", title="use of the codes")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def _groups(axes: Any, report: Report) -> None:
    sizes, numbers = zip(*report.group_sizes, strict=True)
    axes.loglog(sizes, numbers, "o", markersize=4)
    axes.set(xlabel="items of equal codes", ylabel="groups of that size")
    axes.set_title(f"collision rate {report.collision_rate_before_dedup:.4f}")


def _errors(axes: Any, report: Report) -> None:
    values = [level.mse for level in report.levels if level.mse is not None]
    axes.plot(range(len(values) + 1), [report.variance, *values], "o-")
    axes.set(xlabel="codes read", ylabel="mean squared error", title=f"reconstruction by {report.reconstruction}")
    axes.set_xticks(range(len(values) + 1))
    axes.set_ylim(bottom=0)


def _purity(axes: Any, report: Report) -> None:
    rows = [level for level in report.levels if level.purity is not None]
    lengths = [row.level + 1 for row in rows]
    axes.plot(lengths, [row.purity for row in rows], "o-", label="categories")
    axes.plot(lengths, [row.chance_purity for row in rows], "o:", color="grey", label="shuffled")
    axes.set(xlabel="codes of the prefix", ylabel="share of the most frequent category", title="purity", ylim=(0, 1.02))
    axes.set_xticks(lengths)
    axes.legend(frameon=False)
