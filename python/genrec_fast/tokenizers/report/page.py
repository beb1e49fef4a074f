"""What a report holds, and how it is shown: as text, in the terminal, as a picture."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from genrec_fast.base.errors import InvalidValueError, UnsupportedError, install_hint
from genrec_fast.base.files import atomic_path
from genrec_fast.tokenizers.report.structure import Structure
from genrec_fast.tokenizers.report.verdict import Verdict

_ENDINGS = (".png", ".svg", ".pdf")
_POINTS = 400  # of a curve: a codebook of 65,536 codes would make a picture of megabytes


@dataclass(frozen=True, kw_only=True)
class LevelReport:
    """Figures of one level, and of the prefixes that end there; see ``report``."""

    level: int
    codebook_size: int
    codes_used: int
    entropy: float
    """of the level's codes, bits"""
    perplexity: float
    gini: float
    num_prefixes: int
    """different prefixes of level + 1 codes"""
    prefix_entropy: float
    """of these prefixes, bits"""
    largest_prefix: int
    """items under the most frequent of them"""
    collision_rate: float
    """of these prefixes: (N - num_prefixes) / N"""
    chance_collision_rate: float = 0.0
    """the same where every level's codes are shuffled among the items"""
    mse: float | None = None
    chance_mse: float | None = None
    """the same where the IDs are shuffled among the items"""
    held_out_mse: float | None = None
    """of predicting each item from the others, by the codes up to here"""
    chance_held_out_mse: float | None = None
    """the least where the IDs are shuffled among the items"""
    purity: float | None = None
    chance_purity: float | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """Figures of a catalog's semantic IDs; see ``report``. ``str`` gives a table."""

    num_items: int
    num_levels: int
    """levels that describe an item: all but a dedup level"""
    codebook_sizes: tuple[int, ...]
    collision_rate: float
    """of the whole IDs, dedup level included"""
    collision_rate_before_dedup: float
    """of the first num_levels codes"""
    items_sharing: int
    """items whose first num_levels codes another item has too"""
    largest_groups: tuple[int, ...]
    """sizes of the (at most 10) largest groups of items of equal first num_levels codes, of two items or more"""
    group_sizes: tuple[tuple[int, int], ...]
    """(size, number of groups of that size) over the first num_levels codes, by size"""
    variance: float | None
    """mean squared distance of features from their mean, per element: the error of no code at all"""
    reconstruction: Literal["tokenizer", "codebooks", "group means"] | None
    """what the features are compared with"""
    levels: tuple[LevelReport, ...]
    held_out_variance: float | None
    """mean squared distance of each item from the mean of the others, per element: the held-out error of no code"""
    structure: Structure | None
    """how far the features are from noise; ``None``: no features, or too few to tell"""
    verdict: Verdict
    """usable, weak, useless; unknown where nothing but codes was given"""
    because: str
    code_counts: tuple[Tensor, ...] = field(compare=False, repr=False)
    """int64 ``[K_l]`` per level: items of each code"""

    def __str__(self) -> str:
        return _as_text(self)

    def print(self) -> None:
        """Prints the table to the terminal."""
        _print_tables(self)

    def save_picture(self, path: str | os.PathLike[str]) -> None:
        """Draws use of the codes, prefixes, sizes of groups, and error and purity where they were measured.

        Args:
            path: ends in .png, .svg or .pdf; written whole or not at all.

        Raises:
            InvalidValueError: another ending.
            UnsupportedError: matplotlib is not installed.
        """
        _draw(self, path)

    def to_dict(self) -> dict[str, Any]:
        """Everything but ``code_counts``, ready for ``json.dumps``."""
        out: dict[str, Any] = {
            f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("levels", "code_counts")
        }
        out["codebook_sizes"] = list(self.codebook_sizes)
        out["largest_groups"] = list(self.largest_groups)
        out["group_sizes"] = [list(pair) for pair in self.group_sizes]
        out["structure"] = None if self.structure is None else asdict(self.structure)
        out["levels"] = [{f.name: getattr(level, f.name) for f in fields(level)} for level in self.levels]
        return out


def _facts(report: Report) -> list[tuple[str, str]]:
    sizes = " x ".join(str(size) for size in report.codebook_sizes)
    facts = [("verdict", f"{report.verdict}, because {report.because}")]
    facts += [("items", f"{report.num_items:,}"), ("codebooks", sizes)]
    facts.append(("collision rate", f"{report.collision_rate:.4f}"))
    if report.num_levels < len(report.codebook_sizes):
        facts.append(("before the dedup level", f"{report.collision_rate_before_dedup:.4f}"))
    share = report.items_sharing / report.num_items
    facts.append(("items that share codes", f"{report.items_sharing:,} ({share:.2%})"))
    largest = ", ".join(f"{size:,}" for size in report.largest_groups) or "none"
    facts.append(("largest groups", largest))
    if report.variance is not None:
        facts.append(("variance of features", f"{report.variance:.5g}"))
        facts.append(("reconstruction by", str(report.reconstruction)))
    if report.structure is not None:
        found = report.structure
        facts.append(("told by neighbours", f"{found.neighbours:.1%} ({found.chance_neighbours:.1%} in noise)"))
        facts.append(("told by four clusters", f"{found.clusters:.1%} ({found.chance_clusters:.1%} in noise)"))
    return facts


def _table(report: Report) -> list[list[str]]:
    """How the codes are used."""
    rows = [["level", "codes used", "entropy", "perplexity", "gini", "prefixes", "largest", "collisions", "by chance"]]
    return rows + [[_name(report, level), *_figures(level)] for level in report.levels]


def _meaning(report: Report) -> list[list[str]]:
    """What the codes tell of the items; nothing where nothing was there to tell."""
    levels = report.levels[: report.num_levels]
    shown: list[tuple[list[str], Callable[[LevelReport], list[str]]]] = []
    if report.variance is not None:
        shown.append((["mse", "of variance", "by chance"], lambda level: _reconstruction(level, report.variance)))
        shown.append((["held out", "by chance"], lambda level: _held_out(level, report.held_out_variance)))
    if any(level.purity is not None for level in levels):
        shown.append((["purity", "by chance"], lambda level: [f"{level.purity:.3f}", f"{level.chance_purity:.3f}"]))
    if not shown:
        return []
    rows = [["level", *itertools.chain.from_iterable(header for header, _ in shown)]]
    for level in levels:
        rows.append([str(level.level), *itertools.chain.from_iterable(cells(level) for _, cells in shown)])
    return rows


def _reconstruction(level: LevelReport, variance: float | None) -> list[str]:
    return [f"{level.mse:.5g}", _share(level.mse, variance), _share(level.chance_mse, variance)]


def _held_out(level: LevelReport, nothing: float | None) -> list[str]:
    return [_share(level.held_out_mse, nothing), _share(level.chance_held_out_mse, nothing)]


def _name(report: Report, level: LevelReport) -> str:
    return str(level.level) + (" dedup" if level.level >= report.num_levels else "")


def _figures(level: LevelReport) -> list[str]:
    use = level.codes_used / level.codebook_size
    return [
        f"{level.codes_used:,}/{level.codebook_size:,} {use:.1%}",
        f"{level.entropy:.2f}",
        f"{level.perplexity:.1f}",
        f"{level.gini:.3f}",
        f"{level.num_prefixes:,}",
        f"{level.largest_prefix:,}",
        f"{level.collision_rate:.4f}",
        f"{level.chance_collision_rate:.4f}",
    ]


def _share(mse: float | None, variance: float | None) -> str:
    return f"{mse / variance:.1%}" if variance and mse is not None else "-"  # undefined when the variance is 0


def _as_text(report: Report) -> str:
    """Facts, and tables with columns aligned to the right; an empty line between them."""
    facts = _facts(report)
    wide = max(len(name) for name, _ in facts)
    lines = [f"{name:<{wide}}  {value}" for name, value in facts]
    for rows in (_table(report), _meaning(report)):
        if rows:
            widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
            lines.append("")
            lines += ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(lines)


def _print_tables(report: Report) -> None:
    """The same in the terminal's colours and width."""
    from rich.console import Console
    from rich.table import Table

    facts = Table(box=None, show_header=False, pad_edge=False)
    for name, value in _facts(report):
        facts.add_row(name, value)
    console = Console()
    console.print(facts)
    for rows in (_table(report), _meaning(report)):
        if not rows:
            continue
        table = Table(box=None, pad_edge=False)
        for name in rows[0]:
            table.add_column(name, justify="right", no_wrap=True)
        for row in rows[1:]:
            table.add_row(*row)
        console.print()
        console.print(table)


def _draw(report: Report, path: str | os.PathLike[str]) -> None:
    """See ``Report.save_picture``."""
    target = Path(path)
    if target.suffix not in _ENDINGS:
        raise InvalidValueError(f"save_picture: path must end in {', '.join(_ENDINGS)}, got {target.name!r}")
    if find_spec("matplotlib") is None:
        raise UnsupportedError(
            f"save_picture: pictures need matplotlib, which is not installed; {install_hint('plot')}"
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
    axes.plot(range(len(values) + 1), [report.variance, *values], "o-", label="of these items")
    held = [level.held_out_mse for level in report.levels if level.held_out_mse is not None]
    chance = [level.chance_held_out_mse for level in report.levels if level.chance_held_out_mse is not None]
    axes.plot(range(len(held) + 1), [report.held_out_variance, *held], "o-", label="held out")
    axes.plot(
        range(len(chance) + 1), [report.held_out_variance, *chance], "o:", color="grey", label="held out, shuffled"
    )
    axes.legend(frameon=False)
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
