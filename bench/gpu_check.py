"""Everything that needs a card, in one run of minutes: ``make gpu-check``, or ``python bench/gpu_check.py --only ROW``.

Ceilings first, then the suites of the ops with kernels, then each op against its rivals in the same run, equality
before time. A row that fails says so and the rest goes on; without a card every row says that. A table is printed last;
logs and ``gpu_check.json`` go to $OUT (build/gpu). ``--record`` writes what passed into csrc/cuda/ran.txt, which
``genrec-fast env`` reads. Needs torch, numpy, safetensors, CuPy, and pytest with hypothesis for the suites.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import time
import traceback
from dataclasses import asdict

import torch

from gpu_rows.machine import OUT, ROOT
from gpu_rows.measure import OPS, ROWS, Line

# each registers its rows; they run in this order
for family in ("machine", "trie", "jagged", "vectors", "codes", "beams"):
    importlib.import_module(f"gpu_rows.{family}")


def card() -> dict[str, str]:
    """What ran, and on what."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    cupy = importlib.util.find_spec("cupy")
    return {
        "card": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "capability": ".".join(map(str, torch.cuda.get_device_capability())) if torch.cuda.is_available() else "",
        "torch": torch.__version__,
        "cuda of torch": str(torch.version.cuda),
        "cupy": importlib.import_module("cupy").__version__ if cupy else "missing",
        "python": sys.version.split()[0],
        "commit": commit.stdout.strip() or os.environ.get("GENREC_COMMIT", "unknown"),
        "day": datetime.date.today().isoformat(),
    }


def checked(name: str) -> list[Line]:
    """The lines of one row, the last of which says what went wrong, if something did."""
    lines: list[Line] = []
    try:
        for line in ROWS[name]():
            if line.ours and line.rival and not line.verdict:
                line.verdict = f"{line.rival / line.ours:.2f}x"
            lines.append(line)
    except Exception as error:  # noqa: BLE001 - whatever one row raises, the others are still to run
        (OUT / f"{name}.log").write_text(traceback.format_exc())
        text = " ".join(str(error).split())
        lines.append(Line(name, "", verdict=f"FAILED: {type(error).__name__}: {text[:100]}"))
    return lines


def table(lines: list[Line]) -> str:
    """The lines as text, columns in line."""
    number = lambda value: "" if value is None else f"{value:,.1f}"  # noqa: E731
    head = ("row", "what", "ours, us", "rival, us", "rival", "wanted", "verdict")
    cells = [head, *((x.row, x.what, number(x.ours), number(x.rival), x.against, x.wanted, x.verdict) for x in lines)]
    widths = [max(len(cell[i]) for cell in cells) for i in range(len(head))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(cell, widths, strict=True)).rstrip() for cell in cells)


def record(names: list[str], failed: set[str], stamp: str) -> None:
    """Writes down the ops whose rows passed, drops those whose rows failed, and keeps those that were not asked for."""
    from genrec_fast.base.card import ran_on_card

    known = ran_on_card(ROOT / "csrc" / "cuda")
    for name in names:
        for op in OPS[name]:
            known.pop(op, None)
            if name not in failed:
                known[op] = stamp
    (ROOT / "csrc" / "cuda" / "ran.txt").write_text("".join(f"{op}: {known[op]}\n" for op in sorted(known)))


def main() -> int:
    parser = argparse.ArgumentParser(description="what needs a card, in one run")
    parser.add_argument("--only", default="", help=f"rows, comma-separated: {', '.join(ROWS)}")
    parser.add_argument("--record", action="store_true", help="write what passed into csrc/cuda/ran.txt")
    options = parser.parse_args()
    names = [name for name in options.only.split(",") if name] or list(ROWS)
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        parser.error(f"--only: no row is called {', '.join(unknown)}; there are {', '.join(ROWS)}")
    OUT.mkdir(parents=True, exist_ok=True)
    on = card()
    print(json.dumps(on, indent=2), flush=True)
    lines: list[Line] = []
    for name in names:
        begin = time.monotonic()
        lines += checked(name) if torch.cuda.is_available() else [Line(name, "", verdict="no card")]
        print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)
        (OUT / "gpu_check.json").write_text(json.dumps({"machine": on, "lines": [asdict(x) for x in lines]}, indent=1))
    print(table(lines))
    failed = [line for line in lines if line.verdict.startswith("FAILED")]
    if options.record and torch.cuda.is_available():
        record(names, {line.row for line in failed}, f"{on['card']}, {on['day']}, {on['commit']}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
