"""A pytest-benchmark JSON as Markdown tables, printed or written into a page.

    python bench/report.py run.json                               prints everything
    python bench/report.py --write docs/benchmarks.md run.json    fills the page's tables

A table of the page stands between ``<!-- table: FILE::TEST (begin) -->`` and ``(end)``, FILE::TEST as pytest has it
(several, separated by spaces; ``sums`` in front: only the sum over the levels of each search). It is replaced whole,
with the line that says where it was measured. A table that the run says nothing of stays as it is, and so does one of
which the run lacks rows: that is said on stderr, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from timing import where

MEASURED: list[dict[str, Any]] = []  # whole decodes of this run, in the order in which they were measured

# Each must-reach of the decode: (workload, weights) -> least ratio to transformers' generate.
WANTED = {
    ("t5-1x50", "float32"): 12,
    ("t5-1x50", "bfloat16"): 22,
    ("t5-1x50", "int8"): 30,
    ("t5-32x50", "float32"): 12,
    ("t5-32x50", "bfloat16"): 20,
    ("qwen3-1x50", "float32"): 40,
    ("qwen3-1x50", "bfloat16"): 70,
    ("smollm2-1x20", "float32"): 10,
}
# Most of CTranslate2's time, of the same weights.
WANTED_CTRANSLATE2 = {"float32": 0.8, "int8": 1.0}

_DECODE_HEADER = (
    "| workload | weights | `generate`, ms | `compile`, ms | HF generate + trie, ms | ratio (generate / compile) | "
    "wanted | HF modules only, ms | CTranslate2, ms | ours / CTranslate2 | floor, ms | of the floor | search |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def _cell(value: float | None, form: str = ",.1f") -> str:
    return "" if value is None else format(value, form)


def _decode_row(row: dict[str, Any]) -> str:
    hf, rival = row["hf_ms"], row.get("ctranslate2_ms")
    wanted = WANTED.get((row["workload"], row["weights"]))
    return (
        f"| {row['workload']} | {row['weights']} | {row['generate_ms']:,.1f} | {row['compile_ms']:,.1f} | {hf:,.0f} | "
        f"{hf / row['generate_ms']:.1f} / {hf / row['compile_ms']:.1f} | {_cell(wanted, 'd')} | "
        f"{row['modules_ms']:,.0f} | {_cell(rival)} | {_cell(rival and row['compile_ms'] / rival, '.2f')} | "
        f"{row['floor_ms']:,.1f} | {100 * row['floor_ms'] / row['compile_ms']:.0f} % | {100 * row['search']:.1f} % |"
    )


def _decode_quality(row: dict[str, Any]) -> str:
    return (
        f"| {row['workload']} | {row['weights']} | {row['same']} | {row['difference']:.1e} | {row['overlap']:.3f} | "
        f"{row['correlation']:.4f} | {row['memory_ours'] / 2**20:,.1f} | {row['memory_hf'] / 2**20:,.1f} |"
    )


def decode_table(rows: list[dict[str, Any]]) -> str:
    """Markdown: times, then answers and memory."""
    lines = [_DECODE_HEADER, *map(_decode_row, rows), ""]
    lines.append(
        "| workload | weights | in Hugging Face's place | largest difference of a score | overlap of the top 10 with "
        "float32 | rank correlation with float32 | keys and values, MiB | of Hugging Face |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    return "\n".join([*lines, *map(_decode_quality, rows)])


HEADER = "| workload | level | ours, µs | rival, µs | ratio | rival |"
PLAIN_HEADER = "| benchmark | minimum, µs |\n|---|---|"
MARK = re.compile(r"<!-- table: (?P<what>.+?) \(begin\) -->\n(?P<old>.*?)<!-- table: (?P=what) \(end\) -->", re.DOTALL)


def row(workload: str, level: Any, info: dict[str, Any]) -> str:
    ratio = info["rival_us"] / info["ours_us"]
    limit = f" {100 * info['limit']:.0f} % |" if "limit" in info else ""
    return (
        f"| {workload} | {level} | {info['ours_us']:,.1f} | {info['rival_us']:,.1f} | {ratio:.2f} | "
        f"{info['rival']} |{limit}"
    )


def sums(infos: list[dict[str, Any]]) -> Iterator[str]:
    """One row per search of several levels: the time of all."""
    searches: dict[str, list[dict[str, Any]]] = {}
    for info in infos:
        if isinstance(info["level"], int):
            searches.setdefault(info["workload"], []).append(info)
    for workload, levels in searches.items():
        whole = {side: sum(info[side] for info in levels) for side in ("ours_us", "rival_us")}
        yield row(f"**{workload}**", "**sum**", {**whole, "rival": levels[0]["rival"]})


def table(benchmarks: list[dict[str, Any]], only_sums: bool = False) -> str:
    """Benchmarks with a rival, one row each, or the sums of their levels; others by their minimum; whole decodes."""
    with_rival = [b["extra_info"] for b in benchmarks if "ours_us" in b["extra_info"]]
    decodes = [found for b in benchmarks for found in b["extra_info"].get("decode", [])]
    plain = [b for b in benchmarks if not {"ours_us", "decode"} & b["extra_info"].keys()]
    parts = []
    if with_rival:
        rows = sums(with_rival) if only_sums else (row(i["workload"], i["level"], i) for i in with_rival)
        last = " share of sgemm |" if not only_sums and any("limit" in info for info in with_rival) else ""
        header = f"{HEADER}{last}"
        parts.append("\n".join([header, "|---" * (header.count("|") - 1) + "|", *rows]))
    if plain:
        parts.append("\n".join([PLAIN_HEADER, *(f"| {b['name']} | {1e6 * b['stats']['min']:,.1f} |" for b in plain)]))
    if decodes:
        parts.append(decode_table(decodes))
    return "\n\n".join(parts)


def rows_of(text: str) -> Counter[tuple[str, ...]]:
    """Workload and level (or weights) of every row, and how many rivals it has."""
    return Counter(
        tuple(cell.strip() for cell in line.split("|")[1:3]) for line in text.splitlines() if line[:1] == "|"
    )


def fill(page: str, run: dict[str, Any]) -> tuple[str, list[str]]:
    """The page with what the run measured, and what of it was not written."""
    line, refused = f"{where(run['genrec_fast'])}, {run['datetime'][:10]}", []

    def filled(mark: re.Match[str]) -> str:
        words = mark["what"].split()
        tests = tuple(f"bench/{word}" for word in words if word != "sums")
        found = [b for b in run["benchmarks"] if b["fullname"].partition("[")[0] in tests]
        if not found:
            return mark[0]
        new = f"{table(found, only_sums='sums' in words)}\n\n{line}\n"
        lost = rows_of(mark["old"]) - rows_of(new)
        if lost:
            refused.append(f"{mark['what']}: the run lacks {', '.join(' '.join(key) for key in lost)}")
            return mark[0]
        return f"<!-- table: {mark['what']} (begin) -->\n{new}<!-- table: {mark['what']} (end) -->"

    return MARK.sub(filled, page), refused


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="what pytest --benchmark-json wrote")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="fill this page's tables")
    given = parser.parse_args()
    run = json.loads(given.run.read_text(encoding="utf-8"))
    if given.write is None:
        searches = [b for b in run["benchmarks"] if isinstance(b["extra_info"].get("level"), int)]
        print(table(run["benchmarks"]), *([table(searches, only_sums=True)] if searches else []), sep="\n\n")
        print(f"\n{where(run['genrec_fast'])}, {run['datetime'][:10]}")
        return 0
    page, refused = fill(given.write.read_text(encoding="utf-8"), run)
    given.write.write_text(page, encoding="utf-8")
    print("\n".join(refused), end="\n" if refused else "", file=sys.stderr)
    return 1 if refused else 0


if __name__ == "__main__":
    raise SystemExit(main())
