"""The table of whole decodes: ours beside every rival, the fraction of the floor, the share of the search."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch

ROWS: list[dict[str, Any]] = []  # of this run, in the order in which they were measured

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

_HEADER = (
    "| workload | weights | `generate`, ms | `compile`, ms | HF generate + trie, ms | ratio (generate / compile) | "
    "wanted | HF modules only, ms | CTranslate2, ms | ours / CTranslate2 | floor, ms | of the floor | search |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def _cell(value: float | None, form: str = ",.1f") -> str:
    return "" if value is None else format(value, form)


def _row(row: dict[str, Any]) -> str:
    hf, rival = row["hf_ms"], row.get("ctranslate2_ms")
    wanted = WANTED.get((row["workload"], row["weights"]))
    return (
        f"| {row['workload']} | {row['weights']} | {row['generate_ms']:,.1f} | {row['compile_ms']:,.1f} | {hf:,.0f} | "
        f"{hf / row['generate_ms']:.1f} / {hf / row['compile_ms']:.1f} | {_cell(wanted, 'd')} | "
        f"{row['modules_ms']:,.0f} | {_cell(rival)} | {_cell(rival and row['compile_ms'] / rival, '.2f')} | "
        f"{row['floor_ms']:,.1f} | {100 * row['floor_ms'] / row['compile_ms']:.0f} % | {100 * row['search']:.1f} % |"
    )


def _quality(row: dict[str, Any]) -> str:
    return (
        f"| {row['workload']} | {row['weights']} | {row['same']} | {row['difference']:.1e} | {row['overlap']:.3f} | "
        f"{row['correlation']:.4f} | {row['memory_ours'] / 2**20:,.1f} | {row['memory_hf'] / 2**20:,.1f} |"
    )


def decode_table(rows: list[dict[str, Any]]) -> str:
    """Markdown: times, then answers and memory; below them where and how they were measured, of every row."""
    if not rows:
        return ""
    lines = [_HEADER, *map(_row, rows), ""]
    lines.append(
        "| workload | weights | in Hugging Face's place | largest difference of a score | overlap of the top 10 with "
        "float32 | rank correlation with float32 | keys and values, MiB | of Hugging Face |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    lines += [*map(_quality, rows), ""]
    for where in dict.fromkeys(row["where"] for row in rows):
        lines.append(where)
    return "\n".join(lines)


def where(environment: dict[str, Any]) -> str:
    """The machine, the instruction set, threads, commit and command, in one line."""
    versions = environment["versions"]
    ours = os.environ.get("GENREC_FAST_ISA")
    return (
        f"{environment['device']}, {environment['isa']}{' (chosen by GENREC_FAST_ISA)' if ours else ''}, "
        f"{environment['threads']} thread(s), torch {versions.get('torch', torch.__version__)}, "
        f"transformers {_version('transformers')}, ctranslate2 {_version('ctranslate2')}, "
        f"commit {environment['commit']}: `{environment['command']}`"
    )


def _version(name: str) -> str:
    return str(getattr(sys.modules.get(name), "__version__", "not used"))
