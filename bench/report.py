"""A pytest-benchmark JSON -> a Markdown table: `python bench/report.py run.json`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from decode_report import decode_table

HEADER = "| workload | level | ours, µs | rival, µs | ratio | rival | share of sgemm |\n|---|---|---|---|---|---|---|"


def row(workload: str, level: Any, info: dict[str, Any]) -> str:
    limit = f"{100 * info['limit']:.0f} %" if "limit" in info else ""
    ratio = info["rival_us"] / info["ours_us"]
    return (
        f"| {workload} | {level} | {info['ours_us']:,.1f} | {info['rival_us']:,.1f} | {ratio:.2f} | "
        f"{info['rival']} | {limit} |"
    )


def table(run: dict[str, Any]) -> str:
    """One row per benchmark with a rival, after the levels of a search one for their sum; others by their minimum."""
    lines, sums, plain = [], {}, []
    decodes: list[dict[str, Any]] = []
    infos = [(b, b.get("extra_info", {})) for b in run["benchmarks"]]
    levels: dict[str, int] = {}
    for _, info in infos:
        if isinstance(info.get("level"), int):
            levels[info["workload"]] = levels.get(info["workload"], 0) + 1
    for benchmark, info in infos:
        if "decode" in info:
            decodes += info["decode"]
            continue
        if "ours_us" not in info:
            plain.append(f"| {benchmark['name']} | {1e6 * benchmark['stats']['min']:,.1f} |")
            continue
        lines.append(row(info["workload"], info["level"], info))
        if isinstance(info["level"], int):
            part = sums.setdefault(info["workload"], {"ours_us": 0.0, "rival_us": 0.0, "rival": info["rival"], "n": 0})
            part["ours_us"] += info["ours_us"]
            part["rival_us"] += info["rival_us"]
            part["n"] += 1
            if part["n"] == levels[info["workload"]]:
                lines.append(row(f"**{info['workload']}**", "**sum**", part))
    text = "\n".join([HEADER, *lines]) if lines else ""
    if plain:
        text += "\n\n| benchmark | minimum, µs |\n|---|---|\n" + "\n".join(plain)
    if decodes:
        text += "\n\n" + decode_table(decodes)
    return text.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="what pytest --benchmark-json wrote")
    run = json.loads(parser.parse_args().run.read_text())
    where = run.get("genrec_fast", {})
    print(table(run))
    print()
    date, versions = run.get("datetime", "")[:10], where.get("versions", {})
    print(
        f"{where.get('device', 'unknown device')}, {where.get('isa')}, {where.get('threads')} thread(s), "
        f"torch {versions.get('torch')}, commit {where.get('commit')}, {date}: "
        f"`{where.get('command', 'pytest bench')}`"
    )


if __name__ == "__main__":
    main()
