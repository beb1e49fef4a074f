"""A report as aligned text and as tables of the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genrec_fast.tokenizers.report import LevelReport, Report

__all__ = ["as_text", "print_tables"]


def _facts(report: Report) -> list[tuple[str, str]]:
    sizes = " x ".join(str(size) for size in report.codebook_sizes)
    facts = [("items", f"{report.num_items:,}"), ("codebooks", sizes)]
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
    return facts


def _table(report: Report) -> list[list[str]]:
    header = ["level", "codes used", "entropy", "perplexity", "gini", "prefixes", "largest", "collisions"]
    errors = any(level.mse is not None for level in report.levels)
    purity = any(level.purity is not None for level in report.levels)
    header += ["mse", "of variance"] if errors else []
    header += ["purity", "by chance"] if purity else []
    rows = [header]
    for level in report.levels:
        row = [str(level.level) + (" dedup" if level.level >= report.num_levels else ""), *_figures(level)]
        if errors:
            row += ["-", "-"] if level.mse is None else [f"{level.mse:.5g}", _share(level.mse, report.variance)]
        if purity:
            row += ["-", "-"] if level.purity is None else [f"{level.purity:.3f}", f"{level.chance_purity:.3f}"]
        rows.append(row)
    return rows


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
    ]


def _share(mse: float, variance: float | None) -> str:
    return f"{mse / variance:.1%}" if variance else "-"  # of no variance there is no share


def as_text(report: Report) -> str:
    """Facts, an empty line, and a table with columns aligned to the right."""
    facts = _facts(report)
    wide = max(len(name) for name, _ in facts)
    lines = [f"{name:<{wide}}  {value}" for name, value in facts]
    rows = _table(report)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines.append("")
    lines += ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(lines)


def print_tables(report: Report) -> None:
    """The same in the terminal's colours and width."""
    from rich.console import Console
    from rich.table import Table

    facts = Table(box=None, show_header=False, pad_edge=False)
    for name, value in _facts(report):
        facts.add_row(name, value)
    rows = _table(report)
    table = Table(box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*row)
    console = Console()
    console.print(facts)
    console.print()
    console.print(table)
