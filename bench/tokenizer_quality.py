"""How good are the semantic IDs of each tokenizer on a dataset folder: `python bench/tokenizer_quality.py DIR`.

Prints a Markdown table; `--pictures docs/img` draws what docs/tokenizers.md shows.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from genrec_fast import tokenizers
from genrec_fast.base.errors import GenrecError
from genrec_fast.cli.tokenize_files import kinds
from genrec_fast.data import Dataset, leave_one_out, load
from genrec_fast.tokenizers import Report
from genrec_fast.tokenizers.collisions.dedup import CodebookDedup
from pictures import blank, save

HEADER = (
    "| tokenizer | levels | mean squared error | of variance | collision rate | least use | Gini | fit, CPU s |\n"
    "|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Row:
    name: str
    report: Report
    seconds: float


def candidates() -> dict[str, Any]:
    """Every kind as it is by default, and settings that one would want to compare."""
    found = {kind: config() for kind, config in kinds().items() if kind != "atomic"}
    variants: dict[str, tuple[str, dict[str, Any]]] = {
        "rqkmeans, 4 x 256": ("rqkmeans", {"codebook_sizes": (256,) * 4}),
        "rqkmeans, balance sinkhorn": ("rqkmeans", {"balance": "sinkhorn"}),
        "rqkmeans, balance capacity": ("rqkmeans", {"balance": "capacity"}),
        "rqkmeans, 5 beams": ("rqkmeans", {"num_beams": 5}),
        "rqvae, rotation": ("rqvae", {"estimator": "rotation"}),
        "rqvae, sinkhorn on the last level": ("rqvae", {"sinkhorn_epsilon": 0.003}),
    }
    for name, (kind, settings) in variants.items():
        found[name] = dataclasses.replace(found[kind], **settings)
    return dict(sorted(found.items()))


def measure(name: str, config: Any, data: Dataset, seed: int) -> Row:
    """Fits and reports; the time is the processor's in ``fit``, which other work on the machine hardly changes."""
    assert data.features is not None
    built = config.build(data.catalog)
    begin = time.process_time()
    built.fit(
        data.features,
        num_items=data.num_items,
        seed=seed,
        histories=leave_one_out(data.interactions).train.items,
    )
    seconds = time.process_time() - begin
    return Row(name, tokenizers.report(built.item_codes, data.features, tokenizer=built), seconds)


def line(row: Row) -> str:
    """One row of the table; figures over the levels before a dedup level."""
    found = row.report
    levels = found.levels[: found.num_levels]
    sizes = [level.codebook_size for level in levels]
    shape = f"{len(sizes)} x {sizes[0]}" if len(set(sizes)) == 1 else " x ".join(map(str, sizes))
    error = levels[-1].mse
    assert error is not None
    assert found.variance is not None
    decoded = found.reconstruction == "tokenizer"  # means of groups of one would say nothing
    figures = f"{error:.4g} | {error / found.variance:.1%}" if decoded else "- | -"
    use = min(level.codes_used / level.codebook_size for level in levels)
    return (
        f"| {row.name} | {shape} | {figures} | "
        f"{found.collision_rate_before_dedup:.4f} | {use:.1%} | {max(level.gini for level in levels):.3f} | "
        f"{row.seconds:.1f} |"
    )


def collisions(data: Dataset, seed: int) -> None:
    """A second table: one fit of rqkmeans, and what every way of telling items of equal codes apart did to it."""
    assert data.features is not None
    config = tokenizers.RQKMeansConfig()
    built = config.build(data.catalog)
    built.fit(data.features, seed=seed)
    codes, vectors = built.encode(data.features), built.targets(data.features)
    print(
        "\n| dedup | items touched | collision rate | level added | mean squared error | CPU s |\n"
        "|---|---|---|---|---|---|"
    )
    for dedup in get_args(CodebookDedup):
        begin = time.process_time()
        told = tokenizers.resolve(
            codes, config.codebook_sizes, dedup, vectors=vectors, codebooks=built.codebooks
        ).resolution
        seconds = time.process_time() - begin
        error = "" if told.distortion_after is None else f"{told.distortion_before:.4g} to {told.distortion_after:.4g}"
        print(
            f"| {dedup} | {told.items_touched:,} | {told.collision_rate_before:.4f} to "
            f"{told.collision_rate_after:.4f} | {told.level_added or ''} | {error} | {seconds:.3f} |",
            flush=True,
        )


def draw(rows: list[Row], folder: Path) -> None:
    """``tokenizers_error.svg``, ``tokenizers_use.svg``: error by prefix length, use of the first level's codes."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = [row for row in rows if "," not in row.name]
    for name in ("error", "use"):
        figure = blank(6.4, 3.6)
        axes = figure.subplots()
        for row in plain:
            found = row.report
            if name == "error" and found.reconstruction != "tokenizer":
                continue  # it decodes nothing
            if name == "error":
                errors = (found.variance, *(level.mse for level in found.levels))
                values = [error for error in errors if error is not None]
                axes.plot(range(len(values)), values, "o-", markersize=3, label=row.name)
            else:
                counts = found.code_counts[0].sort(descending=True).values
                share = (counts.double() * len(counts) / found.num_items).tolist()
                places = [(place + 0.5) / len(counts) for place in range(len(counts))]
                step = max(1, len(counts) // 128)
                axes.plot(places[::step], share[::step], label=row.name)
        if name == "error":
            axes.set(xlabel="codes read", ylabel="mean squared error")
            axes.set_ylim(bottom=0)
        else:
            axes.axhline(1, color="grey", linewidth=0.8, linestyle=":")
            axes.set(xlabel="codes of the first level, most frequent first", ylabel="items / even share", yscale="log")
        axes.legend(frameon=False, fontsize=8, ncols=2)
        axes.spines[["top", "right"]].set_visible(False)
        save(figure, folder / f"tokenizers_{name}.svg")
    best = next(row for row in plain if row.name == "rqkmeans")
    best.report.save_picture(folder / "tokenizers_report.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="dataset folder with item features")
    parser.add_argument("--only", nargs="*", default=None, help="rows of these names")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--collisions", action="store_true", help="a second table: what each dedup does to rqkmeans")
    parser.add_argument("--pictures", type=Path, default=None, help="folder for pictures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = load(options.data)
    if data.features is None:
        parser.error(f"{options.data} holds no item features")
    chosen = {name: config for name, config in candidates().items() if options.only is None or name in options.only}
    print(HEADER, flush=True)
    rows = []
    for name, config in chosen.items():
        try:
            rows.append(measure(name, config, data, options.seed))
        except GenrecError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        print(line(rows[-1]), flush=True)
    print(
        f"\n{data.name}: {data.num_items:,} items of {data.features.shape[1]} features, {options.threads} thread(s), "
        f"seed {options.seed}: `python bench/tokenizer_quality.py {options.data.name}`"
    )
    if options.collisions:
        collisions(data, options.seed)
    if options.pictures is not None:
        draw(rows, options.pictures)


if __name__ == "__main__":
    main()
