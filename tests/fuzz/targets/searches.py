"""Decoders on a small model whose logits follow from a history and a prefix; recommenders; their folders."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import genrec_fast as gf
from genrec_fast import recipes
from genrec_fast.base.batch import Batch, Ranked
from genrec_fast.base.errors import InvalidTypeError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.catalog.trie import build_trie
from genrec_fast.decoders import BeamConfig, DiverseBeamConfig, GreedyConfig, RetrieveConfig, StochasticBeamConfig
from genrec_fast.decoders.candidates import score_candidates
from genrec_fast.recipe.recommender import Recommender

from ..case import Case, Rng, Unasked, target
from .measures import Places
from .tries import Altered, _seeds, scratch


class Model:
    """Logits of every prefix, of a few whole numbers."""

    def __init__(self, codebook_sizes: tuple[int, ...]) -> None:
        self.codebook_sizes = codebook_sizes

    def prefill(self, batch: Batch) -> Session:
        states = [int(row.sum()) * 7 + len(row) for row in batch.items.rows()]
        return Session(self, torch.tensor(states).view(-1, 1), 0)

    def logits(self, state: Tensor, level: int) -> Tensor:
        return ((state[..., None] * 37 + torch.arange(self.codebook_sizes[level]) * 101 + level) % 97) / 24.0


@dataclass(frozen=True)
class Session:
    """One number per user and beam."""

    model: Model
    state: Tensor
    level: int

    def scores(self, span: None = None, *, log_sums: bool = False) -> tuple[Tensor, None]:
        return self.model.logits(self.state, self.level), None

    def extend(self, codes: Tensor, parents: Tensor) -> Session:
        state = (self.state.gather(1, parents.long()) * 31 + codes.long() + 1) % 1_000_003
        return Session(self.model, state, self.level + 1)

    def select(self, users: Tensor) -> Session:
        return Session(self.model, self.state[users], self.level)

    def search(self, trie: Any, plan: Any, paid: Tensor) -> None:
        return


def true_scores(model: Model, batch: Batch, codes: Tensor, keep: Tensor | None = None) -> Tensor:
    """``[B, N]``, in float64; with ``keep`` the softmax of a level runs over the codes that lead to a kept item."""
    state = model.prefill(batch).state.expand(-1, len(codes))
    total = torch.zeros(state.shape, dtype=torch.float64)
    for level in range(codes.shape[1]):
        logits = model.logits(state, level).double()
        if keep is not None:
            alike = (codes[:, None, :level] == codes[None, :, :level]).all(2)  # [N, N]
            carries = codes[:, level, None] == torch.arange(logits.shape[2])  # [N, K]
            leads = torch.einsum("ij,uj,jk->uik", alike.double(), keep.double(), carries.double()) > 0
            logits = logits.masked_fill(~leads, -torch.inf)
        logprobs = logits.log_softmax(-1)
        total += logprobs.gather(2, codes[None, :, level, None].expand(len(state), -1, 1))[..., 0]
        state = (state * 31 + codes[None, :, level] + 1) % 1_000_003
    return total


def kept(users: int, items: int, allowed: Any, exclude: Any) -> Tensor:
    keep = torch.ones(users, items, dtype=torch.bool) if allowed is None else allowed.expand(users, items).clone()
    if exclude is not None:
        for user, row in enumerate(exclude.rows()):
            if bool(((row < 0) | (row >= items)).any()):
                raise ValueError("an item outside")
            keep[user, row.long()] = False
    return keep


def judged(found: Ranked, scores: Tensor, keep: Tensor, k: int, *, proven: bool = True) -> str | None:
    """Every score is its item's own, no item is forbidden or shown twice, and what is called exact is."""
    if tuple(found.items.shape) != (len(scores), k):
        return f"items are {list(found.items.shape)}"
    masked = scores.masked_fill(~keep, -torch.inf)
    for user in range(len(scores)):
        items = found.items[user]
        shown = items[items >= 0]
        if len(shown.unique()) != len(shown) or not bool(keep[user, shown].all()):
            return f"user {user}: an item twice, or a forbidden one"
        own = found.scores[user][: len(shown)].double()
        if bool(((own - scores[user, shown]).abs() > 1e-4).any()):
            return f"user {user}: scores {own.tolist()}, must be {scores[user, shown].tolist()}"
        if proven and bool(found.exact[user]):
            best = masked[user].sort(descending=True).values[:k]
            best = best[best > -torch.inf]
            if len(best) != len(shown) or bool(((own - best).abs() > 1e-4).any()):
                return f"user {user}: called exact, {own.tolist()} against {best.tolist()}"
    return None


def _question(rng: Rng) -> tuple[dict[str, Any], Model, Tensor, Batch]:
    sizes = tuple(rng.choice((2, 4, 6)) for _ in range(rng.randint(1, 3)))
    items = rng.choice((1, 5, 17))
    codes = torch.stack([rng.whole(0, size, items) for size in sizes], 1)
    users = rng.randint(0, 3)
    batch = Batch(Jagged.from_rows([rng.whole(0, items, rng.randint(0, 4)) for _ in range(users)]))
    args: dict[str, Any] = {
        "trie": build_trie(codes, codebook_sizes=sizes),
        "k": rng.choice((1, 2, 5)),
        "allowed": None,
        "exclude": None,
    }
    if rng.flip(0.3):
        args["allowed"] = rng.mask(*rng.choice(((items,), (users, items))))
    if rng.flip(0.3):
        args["exclude"] = Jagged.from_rows([rng.whole(0, items, rng.randint(0, 3)) for _ in range(users)])
    return args, Model(sizes), codes, batch


def _searched(config: Any, *, proven: bool) -> Any:
    def make(rng: Rng) -> Case:
        args, model, codes, batch = _question(rng)
        args |= {"num_beams": rng.choice((None, 1, 5, 20)), "exact": rng.flip(0.3) and proven}
        if isinstance(config, StochasticBeamConfig):
            args["seed"] = rng.choice((None, 0, -7))
        if args["num_beams"] == 1:
            args["k"] = 1
        if args["num_beams"] == 5:
            args["k"] = min(args["k"], 5)

        def call(**given: Any) -> Ranked:
            if isinstance(given["num_beams"], list):  # a number per level is legal, and tested elsewhere
                raise InvalidTypeError("a list")
            given = dict(given)
            found: Ranked = config.build().search(model, batch, given.pop("trie"), given.pop("k"), **given)
            return found

        def right(**given: Any) -> Any:
            keep = kept(len(batch), len(codes), given["allowed"], given["exclude"])
            return true_scores(model, batch, codes, keep if isinstance(config, StochasticBeamConfig) else None), keep

        def judge(found: Any, expected: Any, given: dict[str, Any]) -> str | None:
            return judged(found, *expected, int(given["k"]), proven=proven)

        return Case(call, args, right, judge, fixed=frozenset({"trie"}), refuses=True)

    return make


target("Beam.search", "decoders.beam", gentle=True, share=0.3)(_searched(BeamConfig(num_beams=8), proven=True))
target("Greedy.search", "decoders.greedy", gentle=True, share=0.15)(_searched(GreedyConfig(), proven=False))
target("StochasticBeam.search", "decoders.stochastic", gentle=True, share=0.15)(
    _searched(StochasticBeamConfig(num_beams=8), proven=False)
)
target("DiverseBeam.search", "decoders.diverse", gentle=True, share=0.15)(
    _searched(DiverseBeamConfig(num_beams=8, num_groups=2), proven=False)
)


@target("Retrieve.search", "decoders.retrieve", gentle=True, share=0.3)
def retrieve(rng: Rng) -> Case:
    args, _, codes, batch = _question(rng)
    del args["trie"]
    states, table = rng.whole(-3, 4, len(batch), 3).float(), rng.whole(-3, 4, len(codes), 3).float()

    def call(**given: Any) -> Ranked:
        given = dict(given)
        return RetrieveConfig().build().search(Places(states, table), batch, None, given.pop("k"), **given)

    def right(**given: Any) -> Any:
        return (states @ table.T).double(), kept(len(batch), len(codes), given["allowed"], given["exclude"])

    def judge(found: Any, expected: Any, given: dict[str, Any]) -> str | None:
        return judged(found, *expected, int(given["k"]))

    return Case(call, args, right, judge)


@target("score_candidates", gentle=True, share=0.2)
def candidates(rng: Rng) -> Case:
    _, _, codes, batch = _question(rng)
    states, table = rng.whole(-3, 4, len(batch), 3).float(), rng.whole(-3, 4, len(codes), 3).float()
    asked = Jagged.from_rows([rng.whole(0, len(codes), rng.randint(0, 3)) for _ in range(len(batch))])

    def call(candidates: Any) -> list[Any]:
        return [row.tolist() for row in score_candidates(Places(states, table), batch, candidates).rows()]

    def right(candidates: Any) -> list[Any]:
        if bool(((candidates.values < 0) | (candidates.values >= len(codes))).any()):
            raise ValueError("an item outside")
        return [[float(states[u] @ table[i]) for i in row.tolist()] for u, row in enumerate(candidates.rows())]

    return Case(call, {"candidates": asked}, right)


# ---- recommenders


@functools.cache
def recommender(name: str) -> Recommender:
    """An untrained one of a published recipe."""
    torch.manual_seed(0)
    recipe = recipes.get(name)
    items = 30
    narrow: dict[str, Any] = {"width": 16, "num_heads": 2, "num_layers": 1, "hidden": 16}
    fields = {f.name for f in dataclasses.fields(recipe.backbone)}
    if name == "tiger":
        narrow |= {"head_width": 8}
    small = dataclasses.replace(
        recipe, backbone=dataclasses.replace(recipe.backbone, **{k: v for k, v in narrow.items() if k in fields})
    )
    sizes = (items,) if recipe.tokenizer is None else (6, 5)
    codes = torch.arange(items, dtype=torch.int32)[:, None]
    if len(sizes) == 2:
        codes = torch.cat([codes // 5, codes % 5], 1)
    needed = getattr(small.layout, "use_features", False)
    names = [f"item {i}" for i in range(items)]
    features = torch.randn(items, 8) if needed else None
    return Recommender(small, Catalog(item_codes=codes, codebook_sizes=sizes, features=features, item_ids=names))


RECIPES = ("tiger", "marius", "sasrec", "gru4rec", "bert4rec")


@target("Recommender.recommend", gentle=True, share=0.06, calls=24)
def recommend(rng: Rng) -> Case:
    """Every answer keeps its filters; the same question in another form has the same answer."""
    model = recommender(rng.choice(RECIPES))
    users = rng.randint(1, 3)
    rows = [rng.whole(0, 30, rng.randint(1, 5)).tolist() for _ in range(users)]
    args: dict[str, Any] = {"histories": rows if rng.flip() else Jagged.from_rows(rows), "k": rng.choice((1, 5))}
    args |= {
        "num_beams": rng.choice((None, 10)),
        "exact": rng.flip(0.2),
        "exclude_seen": rng.flip(0.3),
        "users_per_batch": rng.choice((1, 256)),
    }
    if rng.flip(0.3):
        args["allowed"] = rng.mask(*rng.choice(((30,), (users, 30))))
    if rng.flip(0.3):
        args["exclude"] = Jagged.from_rows([rng.whole(0, 30, rng.randint(0, 3)) for _ in range(users)])

    def right(**given: Any) -> Any:
        rows = (
            given["histories"].rows()
            if isinstance(given["histories"], Jagged)
            else [torch.tensor(r) for r in given["histories"]]
        )
        allowed = given.get("allowed")
        legal = isinstance(allowed, Tensor | None) and isinstance(given.get("exclude"), Jagged | None)
        if not legal:  # lists and sets are, too, and tested elsewhere
            raise Unasked
        keep = kept(len(rows), 30, allowed, given.get("exclude"))
        if given["exclude_seen"]:
            for user, row in enumerate(rows):
                keep[user, row.long()] = False
        return keep

    def judge(found: Any, keep: Any, given: dict[str, Any]) -> str | None:
        if tuple(found.items.shape) != (len(keep), int(given["k"])):
            return f"items are {list(found.items.shape)}"
        for user, row in enumerate(found.items):
            shown = row[row >= 0]
            if not bool(keep[user, shown].all()) or len(shown.unique()) != len(shown):
                return f"user {user}: an item twice, or a forbidden one"
            if len(shown) != min(int(given["k"]), int(keep[user].sum())):
                return f"user {user}: {len(shown)} items of {int(keep[user].sum())}"
        return None if not bool(found.scores.isnan().any()) else "NaN scores"

    def call(num_beams: Any, **given: Any) -> Ranked:
        if isinstance(num_beams, list):  # a number per level is legal, and tested elsewhere
            raise InvalidTypeError("a list")
        return model.recommend(num_beams=num_beams, **given)

    return Case(call, args, right, judge)


@target("gf.load", gentle=True, share=0.03, calls=24)
def load(rng: Rng) -> Case:
    """A folder with one file's bytes changed."""
    model = recommender(rng.choice(RECIPES))
    folder = scratch("model")
    shutil.rmtree(folder, ignore_errors=True)
    model.save(folder)
    name = rng.choice(("recipe.json", "recipe.json", "items.json", "weights.safetensors"))
    file = Altered((folder / name).read_bytes())

    def call(seed: int) -> int:
        (folder / name).write_bytes(file.raw if seed == 0 else file.draw(seed))
        return gf.load(folder).num_items

    return Case(call, {"seed": 0}, None, vary=_seeds)


@target("data.load", gentle=True, share=0.2, calls=24)
def data_load(rng: Rng) -> Case:
    """Interactions with bytes changed."""
    folder = scratch("data")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    kind = rng.choice(("txt", "inter", "csv"))
    if kind == "txt":
        text = "".join(f"{u} " + " ".join(str(rng.randint(1, 9)) for _ in range(4)) + "\n" for u in range(1, 5))
        path = folder / "interactions.txt"
    else:
        head = "user_id:token\titem_id:token\ttimestamp:float\n" if kind == "inter" else "user,item,timestamp\n"
        sep = "\t" if kind == "inter" else ","
        text = head + "".join(f"u{rng.randint(0, 3)}{sep}i{rng.randint(0, 9)}{sep}{n}\n" for n in range(12))
        path = folder / ("shop.inter" if kind == "inter" else "interactions.csv")
    path.write_text(text)
    file = Altered(path.read_bytes())

    def call(seed: int) -> int:
        path.write_bytes(file.raw if seed == 0 else file.draw(seed))
        return gf.data.load(folder).num_items

    return Case(call, {"seed": 0}, None, vary=_seeds, refuses=True)


@target("Jagged", "types.Jagged", gentle=True, share=0.2)
def jagged(rng: Rng) -> Case:
    lengths = rng.lengths(rng.randint(0, 4))
    args = {"values": rng.whole(0, 9, sum(lengths)), "offsets": rng.offsets(lengths, torch.int64)}

    def call(values: Any, offsets: Any) -> list[Any]:
        if not isinstance(values, Tensor) or not isinstance(offsets, Tensor):
            raise InvalidTypeError("not tensors")
        made = Jagged(values, offsets)
        return [[row.tolist() for row in made.rows()], made.lengths.tolist(), made.row_index().tolist()]

    def right(values: Tensor, offsets: Tensor) -> list[Any]:
        ends = offsets.tolist()
        if ends[0] != 0 or ends[-1] != len(values) or ends != sorted(ends):
            raise ValueError("offsets")
        spans = list(zip(ends, ends[1:], strict=False))
        return [
            [values[a:b].tolist() for a, b in spans],
            [b - a for a, b in spans],
            [r for r, (a, b) in enumerate(spans) for _ in range(b - a)],
        ]

    return Case(call, args, right)
