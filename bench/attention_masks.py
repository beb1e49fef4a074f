"""Draws the masks of jagged_attention for docs/attention.md: `python bench/attention_masks.py --pictures docs/img`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.colors import ListedColormap

from genrec_fast.ops.reference.jagged_attention import visible

matplotlib.use("Agg")

from matplotlib import pyplot

LENGTH = 12
MASKS: list[tuple[str, dict[str, Any]]] = [
    ("causal=True", {"causal": True}),
    ("causal=False", {"causal": False}),
    ("num_targets=4", {"causal": True, "num_targets": 4}),
    ("num_targets=4,\ntarget_group_size=2", {"causal": True, "num_targets": 4, "target_group_size": 2}),
    ("contextual_seq_len=3", {"causal": True, "contextual_seq_len": 3}),
    (
        "contextual_seq_len=3,\nnum_targets=3",
        {"causal": True, "contextual_seq_len": 3, "num_targets": 3},
    ),
    ("max_attn_len=3", {"causal": True, "max_attn_len": 3}),
    (
        "max_attn_len=3,\nmin_full_attn_seq_len=2",
        {"causal": True, "max_attn_len": 3, "min_full_attn_seq_len": 2},
    ),
]


def draw(folder: Path) -> None:
    """Writes attention_masks.png: queries downwards, keys to the right, what is seen in blue."""
    figure, axes = pyplot.subplots(2, 4, figsize=(10, 5.6), layout="constrained")
    for axis, (title, settings) in zip(axes.flat, MASKS, strict=True):
        axis.pcolormesh(
            visible(LENGTH, LENGTH, **settings).numpy(),
            cmap=ListedColormap(["#f2f2f2", "#2a6fb0"]),
            vmin=0,
            vmax=1,
            edgecolors="white",
            linewidth=0.8,
        )
        axis.set(title=title, xticks=[], yticks=[], aspect="equal")
        axis.title.set_fontsize(9)
        axis.invert_yaxis()
        axis.spines[:].set_visible(False)
    axes[0, 0].set_ylabel("queries")
    axes[1, 0].set_ylabel("queries")
    for axis in axes[1]:
        axis.set_xlabel("keys")
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "attention_masks.png", dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, required=True, help="folder for the picture")
    draw(parser.parse_args().pictures)


if __name__ == "__main__":
    main()
