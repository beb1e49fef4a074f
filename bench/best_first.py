"""Best-first search against beam search: rows of the network and time for each user, of a trained model.

The users' last items are asked for, everything before is their history, as in a test. All sides read the histories;
every answer of the best-first search is compared, bit for bit, with that of the beam search that widens until it is
proven. Users one by one (a share of them) and in batches; sides in turn, time of this process's processor.
Run: python bench/best_first.py MODEL DATA [--users 2000] [--alone 500] [--batch 64] [--write docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import genrec_fast as gf
from genrec_fast.base.batch import Batch, Question, Ranked
from genrec_fast.base.query import Query
from genrec_fast.decoders.base import run
from timing import clock, environment, where

BEAMS, K = 50, 10


class Side:
    """A decoder, and what it took."""

    def __init__(self, name: str, decoder: gf.Decoder, *, exact: bool) -> None:
        self.name, self.decoder, self.query = name, decoder, Query(k=K, exact=exact)
        self.seconds: list[float] = []
        self.proven: list[Tensor] = []
        self.rows: list[Tensor] = []

    def ask(self, model: gf.Recommender, batch: Batch) -> Ranked:
        start = clock()
        running = self.decoder.begin(model, batch, self.query)
        found = run(running)
        self.seconds.append((clock() - start) / len(batch))
        self.proven.append(found.exact)
        if (expanded := getattr(running, "expanded", None)) is not None:
            self.rows.append(expanded)
        return found


def sides(normalize: str) -> list[Side]:
    """The best-first search first."""
    beam = gf.BeamConfig(num_beams=BEAMS, normalize=normalize).build()
    return [
        Side("best first", gf.BestFirstConfig(normalize=normalize).build(), exact=True),
        Side(f"{BEAMS} beams", beam, exact=False),
        Side(f"{BEAMS} beams, `exact=True`", beam, exact=True),
    ]


@torch.inference_mode()
def measured(model: gf.Recommender, histories: gf.Jagged, users_per_batch: int) -> list[Side]:
    found = sides(getattr(model.decoder.config, "normalize", "all"))
    question = Question(histories).last(model.max_items)
    with model.answering():
        for begin in range(0, len(question), users_per_batch):
            batch = model.batch(question.slice(begin, min(begin + users_per_batch, len(question))))
            turns = found if begin // users_per_batch % 2 else found[::-1]
            answers = {side.name: side.ask(model, batch) for side in turns}
            ours, theirs = answers[found[0].name], answers[found[2].name]
            for name in ("items", "codes", "scores"):
                assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
            assert bool(ours.exact.all())
    return found


def spread(values: Tensor, form: str = "{:,.0f}") -> str:
    """Mean; median; 99th percentile; the most."""
    parts = [values.mean(), *(values.quantile(part) for part in (0.5, 0.99)), values.max()]
    return "; ".join(form.format(float(part)) for part in parts)


def table(found: list[Side], users_per_batch: int, levels: int) -> str:
    plain = torch.tensor(found[1].seconds)
    lines = []
    for side in found:
        took = torch.tensor(side.seconds)
        rows = f"{BEAMS * (levels - 1)}" if side is found[1] else ""
        if side.rows:
            rows = spread(torch.cat(side.rows).double())
        ratio = float((took / plain).median())
        proven = 100 * float(torch.cat(side.proven).double().mean())
        how = "one by one" if users_per_batch == 1 else f"{users_per_batch} at once"
        lines.append(
            f"| {how}, {torch.cat(side.proven).numel():,} users | {side.name} | {rows} | "
            f"{spread(1e3 * took.double(), '{:.2f}')} | {ratio:.2f} | {proven:.1f} % |"
        )
    return "\n".join(lines)


def shares(rows: Tensor) -> str:
    """How many users need how much."""
    edges = [25, 50, 75, 100, 150, 300]
    parts = [f"up to {edge} rows {100 * float((rows <= edge).double().mean()):.1f} %" for edge in edges]
    return "Of all users in batches, " + ", ".join(parts) + "."


def written(page: Path, text: str) -> None:
    begin, end = "<!-- table: best_first (begin) -->", "<!-- table: best_first (end) -->"
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--alone", type=int, default=500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--write", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    started = environment()  # the tree may change while a long run goes on
    model = gf.load(chosen.model)
    histories = gf.data.leave_one_out(gf.data.load(chosen.data).interactions).test.histories
    order = torch.randperm(len(histories), generator=torch.Generator().manual_seed(0))
    header = (
        f"| users | search, top {K} | rows of the network a user: mean; p50; p99; most "
        "| ms a user: mean; p50; p99; most | "
        f"of {BEAMS} beams, median of pairs | proven |\n|---|---|---|---|---|---|"
    )
    levels, lines, runs = len(model.codebook_sizes), [header], []
    jobs: list[tuple[int, Callable[[], gf.Jagged]]] = [
        (1, lambda: histories.select(order[: chosen.alone])),
        (chosen.batch, lambda: histories.select(order[: chosen.users])),
    ]
    for users_per_batch, chosen_users in jobs:
        runs.append(measured(model, chosen_users(), users_per_batch))
        lines.append(table(runs[-1], users_per_batch, levels))
        print(lines[-1], flush=True)
    text = "\n".join([*lines, "", shares(torch.cat(runs[-1][0].rows)), "", where(started)])
    print(text)
    if chosen.write is not None:
        written(chosen.write, text)


if __name__ == "__main__":
    main()
