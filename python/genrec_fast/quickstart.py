"""``genrec-fast quickstart``: the whole road in two minutes, on a shop whose truth is known.

A synthetic shop gives interactions, titles, features, and the exact distribution of every next purchase. A small model
of the form of ``apex`` learns from interactions and features. It answers twice: by the codes that it writes, searched
in the catalog's trie, and by its score of every item beside what followed what. Both are held against the truth.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from dataclasses import dataclass

import torch
from rich import box
from rich.columns import Columns
from rich.console import Console, Group, OverflowMethod, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from torch import Tensor

from genrec_fast import metrics
from genrec_fast.backbones.fused import FusedConfig
from genrec_fast.backbones.timeline import TimelineConfig
from genrec_fast.backbones.transitions import TransitionsConfig
from genrec_fast.base.batch import Ranked
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.data import Dataset, Evaluation, leave_one_out
from genrec_fast.data.synthetic import Shop
from genrec_fast.decoders.beam import BeamConfig
from genrec_fast.decoders.scan import ScanConfig
from genrec_fast.layouts.plain import PlainConfig
from genrec_fast.objectives.codes_and_items import CodesAndItemsConfig
from genrec_fast.objectives.next_code import NextCodeConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig
from genrec_fast.recipe.recommender import Recommender
from genrec_fast.tokenizers.rqkmeans import RQKMeansConfig
from genrec_fast.training import train

NUM_SHOWN = 3  # shoppers whose recommendations are printed
NUM_REMEMBERED = 4  # purchases of theirs that are printed
CODEBOOK_SIZES = (128, 16)  # a wide first level: few items share it, and the second has less to tell apart
PANEL_WIDTH = 39  # two panels side by side fill 80 columns, three fill 120


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the quickstart measured.

    Args:
        model: recall@k of the trained model on purchases it has not seen: every item scored.
        written: the same of the codes that its network writes, by beam search in the trie.
        proven: share of the written lists that the search proved to be the best of all items.
        popularity: recall@k of recommending the most bought items to everybody.
        oracle: recall@k of ranking by the true probabilities: nobody can do better.
        seconds_training: wall clock of the training.
        seconds_per_user: median wall clock of one call for one user's top k.
        seconds_written: the same of the beam search.
    """

    model: float
    written: float
    proven: float
    popularity: float
    oracle: float
    seconds_training: float
    seconds_per_user: float
    seconds_written: float


def small_recipe(epochs: int, codebook_sizes: tuple[int, ...] = (32, 32)) -> Recipe:
    """MARIUS, narrow enough for a minute on one core; a catalog must have as many items as a level has codes."""
    return Recipe(
        name="quickstart",
        source="MARIUS (arXiv:2508.14910)",
        deviations=("narrower and shallower than published",),
        tokenizer=RQKMeansConfig(codebook_sizes=codebook_sizes),
        layout=PlainConfig(use_features=True, use_valid_codes=True),
        backbone=TimelineConfig(
            width=64,
            num_layers=2,
            num_depth_layers=1,
            hidden=256,
            depth_hidden=256,
            dropout=0.1,
            depth_dropout=0.1,
            max_items=20,
        ),
        objective=NextCodeConfig(valid_only=True),
        decoder=BeamConfig(num_beams=50, normalize="valid"),
        batching=BatchingConfig(max_items=20, items_per_batch=2048),
        train=TrainConfig(epochs=epochs, learning_rate=3e-3, warmup_steps=50, evaluate_users=500, patience=0),
    )


def best_recipe(epochs: int) -> Recipe:
    """What was best on the validation of shops within the time of ``small_recipe``: its network in ``apex``'s form."""
    small = small_recipe(epochs, CODEBOOK_SIZES)
    assert isinstance(small.backbone, TimelineConfig)
    return dataclasses.replace(
        small,
        source="ours: MARIUS (arXiv:2508.14910) beside the transition graph of arXiv:1803.09587, section 3.2",
        backbone=FusedConfig(
            timeline=dataclasses.replace(small.backbone, dropout=0.35),
            graph=TransitionsConfig(max_distance=2, last_items=2, decay=0.3, text_weight=0.0, repeat_weight=1.0),
            weights=(1.0, 1.0, 0.0, 0.0),  # network, graph; the shop's texts and repeats add nothing to these
            residual=False,
        ),
        objective=CodesAndItemsConfig(code_weight=0.25),
        decoder=ScanConfig(),
    )


def writing(model: Recommender) -> Recommender:
    """The same network, answering by the semantic IDs that it writes."""
    recipe = dataclasses.replace(model.recipe, decoder=BeamConfig(num_beams=50, normalize="valid"))
    writer = Recommender(recipe, model.catalog)
    writer.backbone = model.backbone
    return writer


def run(
    *,
    num_users: int = 3000,
    max_epochs: int = 12,
    k: int = 10,
    seed: int = 0,
    console: Console | None = None,
) -> Outcome:
    """Trains on the synthetic shop and prints what came of it.

    Args:
        num_users: shoppers to learn from, each with 5 to 20 purchases.
        max_epochs: passes over their purchases.
        k: items to recommend.
        seed: of the shop, the shoppers and the training.
        console: where to print; standard output by default.

    Returns:
        What was measured.
    """
    threads = torch.get_num_threads()
    # A model this small gains nothing from a second thread, and loses much where the second core is busy.
    torch.set_num_threads(1)
    try:
        return _run(num_users, max_epochs, k, seed, console or Console())
    finally:
        torch.set_num_threads(threads)


def _run(num_users: int, max_epochs: int, k: int, seed: int, console: Console) -> Outcome:
    shop = Shop(seed=seed)
    if not 1 <= k <= shop.num_items:
        raise InvalidValueError(f"quickstart: k must be in [1, {shop.num_items}], got {k}")
    data = shop.dataset(num_users, seed=seed + 1)
    splits = leave_one_out(data.interactions)
    console.print(Text("genrec_fast quickstart", style="bold"))
    console.print(
        f"A made-up shop: {data.num_items:,} items, {data.num_users:,} shoppers, {data.interactions.num_events:,} "
        "purchases. Its true probabilities are known, so the result can be held against the best that is possible.\n"
    )
    begin = time.perf_counter()
    model = train(best_recipe(max_epochs), data, seed=seed)
    seconds_training = time.perf_counter() - begin

    test = splits.test
    ranked = model.recommend(test.histories, k)
    writer = writing(model)
    written = writer.recommend(test.histories, k)
    outcome = Outcome(
        model=metrics.recall(ranked.items, test.targets, k),
        written=metrics.recall(written.items, test.targets, k),
        proven=float(written.exact.float().mean()),
        popularity=metrics.recall(_most_bought(splits.train.items, data.num_items, k, len(test)), test.targets, k),
        oracle=metrics.recall(shop.best(test.histories, k), test.targets, k),
        seconds_training=seconds_training,
        seconds_per_user=_seconds_per_user(model, test, k),
        seconds_written=_seconds_per_user(writer, test, k),
    )
    # A terminal that knows no Unicode gets neither blocks nor the sign for "cut short".
    overflow: OverflowMethod = "crop" if console.options.ascii_only else "ellipsis"
    panels = _shopper_panels(shop, data, test, ranked, k, overflow)
    block = "#" if console.options.ascii_only else "█"
    if console.width < NUM_SHOWN * (PANEL_WIDTH + 1) - 1:  # two panels in a row: the figures fill the fourth place
        panels.append(_panel("how good, how fast", _figures(outcome, k, len(test), block, longest=10)))
        console.print(Columns(panels))
    else:
        console.print(Columns(panels))
        console.print(Padding(_figures(outcome, k, len(test), block, longest=60), (1, 0, 0, 0)))
    console.print(
        f"truth: chance of being bought next · >: it was · possible: by the {k} likeliest\n"
        "by codes: semantic IDs that the network writes, searched in the catalog's trie\n"
        "proven: nothing that the search left out can score higher\n"
        "by items: its score of every item, plus what followed what; listed above\n",
        style="dim",
    )
    console.print(_next_steps())
    return outcome


def _most_bought(purchases: Jagged, num_items: int, k: int, num_users: int) -> Tensor:
    """int64 ``[num_users, k]``: the same k items for everybody (ties: the lower id)."""
    counts = torch.bincount(purchases.values, minlength=num_items)
    return torch.sort(counts, descending=True, stable=True).indices[:k].expand(num_users, k)


def _seconds_per_user(model: Recommender, questions: Evaluation, k: int, repeats: int = 20) -> float:
    """Median time of one call for one user, other users each time, after two calls to warm up."""
    times = []
    for row in range(repeats + 2):
        history = Jagged.from_rows([questions.histories[row % len(questions)]])
        begin = time.perf_counter()
        model.recommend(history, k)
        times.append(time.perf_counter() - begin)
    return statistics.median(times[2:])


def _panel(title: str, content: RenderableType) -> Panel:
    return Panel(content, title=title, box=box.ROUNDED, width=PANEL_WIDTH)


def _shopper_panels(
    shop: Shop, data: Dataset, test: Evaluation, ranked: Ranked, k: int, overflow: OverflowMethod
) -> list[Panel]:
    """One panel per shopper: what they bought, what is recommended, how likely that really is."""
    truth = shop.next_item_probabilities(test.histories)
    best = shop.best(test.histories, k)
    titles = data.titles or data.interactions.item_ids
    panels = []
    for row in range(min(NUM_SHOWN, len(test))):
        bought = Text("bought last\n", style="dim")
        for item in test.histories[row][-NUM_REMEMBERED:].tolist():
            bought.append(f"  {titles[item]}\n", style="default")
        table = Table(box=None, padding=(0, 1, 0, 0), show_edge=False, header_style="dim", expand=True)
        table.add_column("", justify="right", width=3)
        table.add_column("recommended", no_wrap=True, overflow=overflow, ratio=1)
        table.add_column("truth", justify="right", no_wrap=True)
        for place, item in enumerate(ranked.items[row].tolist(), start=1):
            if item < 0:
                continue
            hit = item == int(test.targets[row])
            name = Text(titles[item], style="bold green" if hit else "")
            table.add_row(f">{place}" if hit else str(place), name, f"{100 * float(truth[row, item]):.1f}%")
        reached = float(truth[row][ranked.items[row][ranked.items[row] >= 0]].sum())
        possible = float(truth[row][best[row]].sum())
        foot = Text(f"together {reached:.0%} of {possible:.0%} possible", style="dim")
        foot.append(f"\nbought next\n  {titles[int(test.targets[row])]}", style="dim")
        panels.append(_panel(f"shopper {row + 1}", Group(bought, table, Text(), foot)))
    return panels


def _figures(outcome: Outcome, k: int, num_questions: int, block: str, longest: int) -> Group:
    """Recall beside both ends of the scale, as bars of up to ``longest`` blocks, the times and the proofs."""
    table = Table(box=None, padding=(0, 1, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right")
    table.add_column(no_wrap=True)
    entries = (
        ("most bought", outcome.popularity),
        ("by codes", outcome.written),
        ("by items", outcome.model),
        ("oracle", outcome.oracle),
    )
    scale = longest / max(*(value for _, value in entries), 1e-9)
    for name, value in entries:
        style = "bold green" if name == "by items" else ""
        bar = Text(block * max(1, round(scale * value)), style=style or "dim")
        table.add_row(Text(name, style=style), Text(f"{value:.3f}", style=style), bar)
    threads = torch.get_num_threads()
    return Group(
        Text(f"recall@{k}", style="bold"),
        Text(f"on {num_questions:,} purchases held back\n", style="dim"),
        table,
        Text(f"\none shopper's top {k}, {threads} thread{'s' if threads > 1 else ''}", style="bold"),
        Text(f"by codes {1000 * outcome.seconds_written:.1f} ms, {outcome.proven:.0%} proven best"),
        Text(f"by items {1000 * outcome.seconds_per_user:.1f} ms"),
        Text("\ntraining", style="bold"),
        Text(f"{outcome.seconds_training:.0f} s"),
    )


def _next_steps() -> Group:
    steps = Table(box=None, padding=(0, 1, 0, 2), show_header=False)
    steps.add_column(no_wrap=True, style="cyan")
    steps.add_column()
    for command, purpose in (
        ("genrec-fast train apex --data DIR --out runs/mine", "your own data"),
        ("genrec-fast recipes", "what can be trained"),
        ("genrec-fast env", "this machine"),
    ):
        steps.add_row(command, purpose)
    return Group(Text("what next", style="bold"), steps)
