"""The pictures of docs/quality.md, of the page's own tables or of a folder that bench/quality.py wrote.

    python bench/quality_pictures.py --page docs/quality.md --out docs/img      bars of the page's tables
    python bench/quality_pictures.py quality --out docs/img                     bars and curves of a folder's results
    python bench/quality_pictures.py quality --page docs/quality.md             curves of the folder, bars of the page

``quality_recall.svg``: Recall@10 of each row, seen items kept and removed, with the standard deviation of its seeds.
``quality_channels.svg``: what a system has with some of its channels, on validation; of a folder, all that was asked
on validation. ``quality_training.svg``: Recall@10 on validation after the epochs of each trained row whose training
lies in the folder. What has no figures is not drawn. Each picture holds its figures as text, in its description.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import quality
from genrec_fast.training.log import read_log
from pictures import COLOURS, blank, save

SEEN = ("kept", "removed")
_MARKED = re.compile(r"<!-- measured: quality \(begin\) -->\n(.*?)<!-- measured: quality \(end\) -->", re.DOTALL)
_CHANNELS = "channels of "
_BAR = 0.19  # inches


@dataclass(frozen=True)
class Bar:
    """Recall@10 of one row: ``panel`` is the data that it was asked on, or a system and its data."""

    panel: str
    name: str
    seen: str
    recall: float
    spread: float | None = None

    @property
    def figure(self) -> str:
        """As the tables have it."""
        return quality.shown(self.recall, self.spread)

    def __str__(self) -> str:
        return f"{self.panel}, {self.name}, {self.seen}: {self.figure}"


@dataclass(frozen=True)
class Curve:
    """Recall@10 on some users of the validation split, after epochs."""

    name: str
    epochs: list[int]
    recall: list[float]

    def __str__(self) -> str:
        points = ", ".join(f"{epoch} {value:.4f}" for epoch, value in zip(self.epochs, self.recall, strict=True))
        return f"{self.name}: {points}"


def tables(markdown: str) -> Iterator[list[dict[str, str]]]:
    """The rows of every table, each as cells by the name of their column, in the columns' order."""
    for block in re.findall(r"(?:^\|.*\|$\n?)+", markdown, re.MULTILINE):
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        yield [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def bars_of_results(markdown: str) -> list[Bar]:
    """The bars of a table as ``bench/quality.py`` writes it."""
    found = []
    for row in (row for table in tables(markdown) for row in table if "R@10" in row):
        recall, _, spread = row["R@10"].partition(" ± ")
        found.append(
            Bar(row["data"], row["answers"], row["seen items"], float(recall), float(spread) if spread else None)
        )
    return found


def bars_of_page(markdown: str) -> tuple[list[Bar], list[Bar]]:
    """Those of the marked table, and those of tables whose first column is "channels of SYSTEM".

    Raises:
        ValueError: the page has no marked table.
    """
    marked = _MARKED.search(markdown)
    if marked is None:
        raise ValueError("page must have a table between <!-- measured: quality (begin) --> and (end), got none")
    parts = []
    for row in (row for table in tables(markdown) for row in table):
        first, *others = row
        if first.startswith(_CHANNELS):
            for column in others:
                data, _, seen = column.rpartition(", ")
                recall = float(row[column].partition(" / ")[0])
                parts.append(Bar(f"{first.removeprefix(_CHANNELS)}, {data}", row[first].replace("`", ""), seen, recall))
    return bars_of_results(marked[1]), parts


def curves_of(folder: Path) -> list[Curve]:
    """What the trainings below ``runs`` found on validation, of rows whose results are there."""
    found = []
    for result in quality.results(folder):
        name = result["lines"][0]["name"]
        asked = quality.Asked(row=result["row"], name=name, changes=result["changes"], split=result["split"])
        log = folder / "runs" / asked.run(result["dataset"], result["seed"]) / "log.jsonl"
        if result["split"] != "test" or result["row"] == quality.BASELINES or not log.exists():
            continue
        checks = [entry for entry in read_log(log) if "recall@10" in entry.get("validation", {})]
        if checks:
            recall = [entry["validation"]["recall@10"] for entry in checks]
            epochs = [entry["epoch"] + 1 for entry in checks]  # the log counts from 0, and these have ended
            users = f"{checks[-1]['users']:,} users"
            found.append(Curve(f"{name}, {result['dataset']}, seed {result['seed']}, {users}", epochs, recall))
    return found


def draw_bars(bars: list[Bar], path: Path) -> None:
    """One panel below the other, a row's two bars side by side."""
    panels: dict[str, list[str]] = {}
    for bar in bars:
        names = panels.setdefault(bar.panel, [])
        if bar.name not in names:
            names.append(bar.name)
    heights = [len(names) * 2 * _BAR * 1.4 + 0.5 for names in panels.values()]
    figure = blank(7.2, sum(heights) + 0.4)
    drawn = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (panel, names) in zip(drawn, panels.items(), strict=True):
        for number, seen in enumerate(SEEN):
            some = [bar for bar in bars if (bar.panel, bar.seen) == (panel, seen)]
            places = [names.index(bar.name) + (number - 0.5) * 0.38 for bar in some]
            values = [bar.recall for bar in some]
            axes.barh(places, values, 0.36, color=COLOURS[number], label=f"seen items {seen}")
            for place, bar in zip(places, some, strict=True):
                axes.text(bar.recall + (bar.spread or 0.0), place, f" {bar.figure}", va="center", fontsize=7)
            wide = [(place, bar) for place, bar in zip(places, some, strict=True) if bar.spread is not None]
            if wide:
                at, of = zip(*wide, strict=True)
                recall, spread = [bar.recall for bar in of], [bar.spread for bar in of]
                axes.errorbar(recall, at, xerr=spread, fmt="none", color="black", capsize=2, linewidth=1)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.invert_yaxis()
        axes.set_title(panel, fontsize=9, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    drawn[-1].set_xlabel("Recall@10")
    drawn[-1].set_xlim(right=max(bar.recall for bar in bars) * 1.15)
    figure.legend(*drawn[0].get_legend_handles_labels(), loc="outside upper right", frameon=False, fontsize=8, ncols=2)
    save(figure, path, "; ".join(map(str, bars)))


def draw_curves(curves: list[Curve], path: Path) -> None:
    """All in one panel: it is the shape that is looked at, as every training asks users of its own number."""
    from matplotlib.ticker import MaxNLocator

    figure = blank(7.2, 3.6)
    axes = figure.subplots()
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(curve.epochs, curve.recall, "o-", color=colour, markersize=3, label=curve.name)
    axes.set(xlabel="epochs", ylabel="Recall@10 on validation")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path, "; ".join(map(str, curves)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, help="folder that bench/quality.py wrote")
    parser.add_argument("--page", type=Path, default=None, help="Markdown whose tables are drawn as bars")
    parser.add_argument("--out", type=Path, default=Path("docs/img"), help="folder of the pictures")
    options = parser.parse_args()
    if options.results is None and options.page is None:
        parser.error("a folder of results or --page must be given")
    bars, parts, curves = [], [], []
    if options.results is not None:
        curves = curves_of(options.results)
        every = bars_of_results(quality.table(quality.results(options.results)))
        parts = [bar for bar in every if bar.panel.endswith(", validation")]
        bars = [bar for bar in every if bar not in parts]
    if options.page is not None:
        bars, parts = bars_of_page(options.page.read_text(encoding="utf-8"))
    for name, some in (("recall", bars), ("channels", parts)):
        if some:
            draw_bars(some, options.out / f"quality_{name}.svg")
    if curves:
        draw_curves(curves, options.out / "quality_training.svg")
    print(f"{len(bars)} + {len(parts)} bars and {len(curves)} curves", file=sys.stderr)


if __name__ == "__main__":
    main()
