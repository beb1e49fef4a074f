"""Decoders that prove, speculate, compare vectors or look at every item, against plain scores of all items."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.batch import Batch, Ranked
from genrec_fast.base.errors import InvalidTypeError
from genrec_fast.decoders import (
    BeamConfig,
    BeamFusionConfig,
    BestFirstConfig,
    DraftedItemsConfig,
    GraphConfig,
    RerankConfig,
    RetrieveInterestsConfig,
    ScanCodesConfig,
    ScanConfig,
    SpeculativeConfig,
    SpeculativeSamplingConfig,
    code_neighbours,
)

from ..case import Case, Rng, target
from ..compare import differs
from .searches import Model, Session, _question, judged, kept, true_scores


@dataclass(frozen=True)
class Rows:
    """A ``TreeSession``: one number for each row of all calls, and its level; the last call's rows are the last."""

    model: Model
    states: Tensor
    levels: Tensor
    last: int
    searches_best_first = False
    finite = True

    def scores(self, span: None = None, *, log_sums: bool = False) -> tuple[Tensor, None]:
        states, levels = self.states[:, -self.last :], self.levels[:, -self.last :]
        if levels.unique().numel() == 1:
            return self.model.logits(states, int(levels[0, 0])), None
        out = torch.full((*states.shape, max(self.model.codebook_sizes)), -torch.inf)
        for level, size in enumerate(self.model.codebook_sizes):
            here = (levels == level).unsqueeze(2)
            out[..., :size] = self.model.logits(states, level).where(here, out[..., :size])
        return out, None

    def extend(self, codes: Tensor, parents: Tensor) -> Rows:
        return self.extend_tree(codes, parents.long() + self.states.shape[1] - self.last)

    def extend_tree(self, codes: Tensor, parents: Tensor) -> Rows:
        states, levels = self.states, self.levels
        for code, parent in zip(codes.long().split(1, 1), parents.long().split(1, 1), strict=True):
            states = torch.cat([states, (states.gather(1, parent) * 31 + code + 1) % 1_000_003], 1)
            levels = torch.cat([levels, levels.gather(1, parent) + 1], 1)
        return Rows(self.model, states, levels, codes.shape[1])

    def select(self, users: Tensor) -> Rows:
        return Rows(self.model, self.states[users], self.levels[users], self.last)

    def search(self, trie: Any, plan: Any, paid: Tensor) -> None:
        return

    def best_first(self, trie: Any, plan: Any, users: tuple[int, int], width: int) -> None:
        return


class Tree(Model):
    """The same logits, read at several depths in one call; users and items lie in one space of whole numbers."""

    def __init__(self, codebook_sizes: tuple[int, ...], table: Tensor | None = None) -> None:
        super().__init__(codebook_sizes)
        self.table = torch.zeros(1, 3) if table is None else table

    def prefill(self, batch: Batch) -> Any:
        state = super().prefill(batch).state
        return Rows(self, state, torch.zeros_like(state), 1)

    def embed_users(self, batch: Batch) -> Tensor:
        states = super().prefill(batch).state
        return ((states * torch.tensor([3, 5, 7])) % 7 - 3).float()

    embed_targets = embed_users

    def item_table(self) -> Tensor:
        return self.table

    def products(self, batch: Batch) -> Tensor:
        return (self.embed_users(batch) @ self.table.T).double()


class Pointing(Model):
    """Says behind a whole semantic ID where the item lies: ``CodesThenVectors``."""

    def __init__(self, codebook_sizes: tuple[int, ...], table: Tensor) -> None:
        super().__init__(codebook_sizes)
        self.table = table

    def item_table(self) -> Tensor:
        return self.table

    def vectors_behind(self, session: Session) -> Tensor:
        return self.pointed(session.state)

    @staticmethod
    def pointed(state: Tensor) -> Tensor:
        return ((state.unsqueeze(2) * torch.tensor([3, 5, 7])) % 5 - 2).float() / 2


class EachCode:
    """Scores of all codes at once (``Parallel``), and of all items (``ItemScores``), of a few whole numbers."""

    def __init__(self, codebook_sizes: tuple[int, ...], num_items: int) -> None:
        self.codebook_sizes, self.num_items = codebook_sizes, num_items

    def user_logits(self, batch: Batch) -> list[Tensor]:
        model = Model(self.codebook_sizes)
        state = model.prefill(batch).state
        return [model.logits(state, level).squeeze(1) for level in range(len(self.codebook_sizes))]

    target_logits = user_logits

    def code_tables(self) -> list[Tensor]:
        return [torch.arange(3.0 * size).view(size, 3).remainder(5) + 1 for size in self.codebook_sizes]

    def score_items(self, batch: Batch) -> Tensor:
        return ((Model((1,)).prefill(batch).state * 37 + torch.arange(self.num_items) * 101) % 97) / 24.0

    def sums(self, batch: Batch, codes: Tensor) -> Tensor:
        parts = [part.double().log_softmax(1) for part in self.user_logits(batch)]
        return sum((part[:, codes[:, n]] for n, part in enumerate(parts)), torch.zeros(len(batch), len(codes)).double())


def _scores(model: Model, batch: Batch, codes: Tensor) -> Tensor:
    return true_scores(Model(model.codebook_sizes), batch, codes)


def _call(decoder: Any, model: Any, batch: Batch) -> Any:
    def call(**given: Any) -> Ranked:
        if isinstance(given.get("num_beams"), list):  # a number per level is legal for some, and tested elsewhere
            raise InvalidTypeError("a list")
        given = dict(given)
        found: Ranked = decoder.search(model, batch, given.pop("trie"), given.pop("k"), **given)
        return found

    return call


def _case(decoder: Any, model: Any, args: dict[str, Any], codes: Tensor, batch: Batch, true: Any) -> Case:
    """``true(keep)``: the score of every item ``[B, N]``."""

    def right(**given: Any) -> Any:
        keep = kept(len(batch), len(codes), given["allowed"], given["exclude"])
        return true(keep), keep

    def judge(found: Any, expected: Any, given: dict[str, Any]) -> str | None:
        return judged(found, *expected, int(given["k"]))

    return Case(_call(decoder, model, batch), args, right, judge, fixed=frozenset({"trie"}))


def _beams(rng: Rng, args: dict[str, Any]) -> dict[str, Any]:
    beams = rng.choice((None, 5, 20))
    return args | {"num_beams": beams, "k": min(args["k"], beams or args["k"])}


@target("BestFirst.search", "decoders.best_first", gentle=True, share=0.12)
def best_first(rng: Rng) -> Case:
    args, other, codes, batch = _question(rng)
    model = Tree(other.codebook_sizes)
    decoder = BestFirstConfig().build()
    case = _case(decoder, model, args, codes, batch, lambda keep: _scores(model, batch, codes))

    def judge(found: Any, expected: Any, given: dict[str, Any]) -> str | None:
        if not bool(found.exact.all()):
            return "not proven, though it had no budget"
        return judged(found, *expected, int(given["k"]))

    case.judge = judge
    return case


@target("Speculative.search", "decoders.speculative", gentle=True, share=0.12)
def speculative(rng: Rng) -> Case:
    """The beam search's answer, whatever the draft says."""
    args, other, codes, batch = _question(rng)
    args, sizes = _beams(rng, args) | {"exact": rng.flip(0.3)}, other.codebook_sizes
    model, draft = Tree(sizes), rng.choice((Model(sizes), Tree(sizes)))
    if rng.flip():
        draft.logits = lambda state, level: Model.logits(draft, state * 3 + 1, level)  # type: ignore[method-assign]
    config = SpeculativeConfig(num_beams=8, drafts_per_beam=rng.randint(1, 3), num_levels=rng.choice((None, 1, 2)))
    decoder = config.build().drafted_by(SimpleNamespace(backbone=draft, batch=lambda asked: asked))
    case = _case(decoder, model, args, codes, batch, lambda keep: _scores(model, batch, codes))

    def judge(found: Any, expected: Any, given: dict[str, Any]) -> str | None:
        plain = _call(BeamConfig(num_beams=8).build(), model, batch)(**given)
        return differs(found, plain) or judged(found, *expected, int(given["k"]))

    case.judge = judge
    return case


@target("SpeculativeSampling.search", "decoders.speculative_sampling", gentle=True, share=0.1)
def speculative_sampling(rng: Rng) -> Case:
    args, other, codes, batch = _question(rng)
    args, sizes = _beams(rng, args) | {"seed": rng.choice((None, 0, 7))}, other.codebook_sizes
    model = Tree(sizes)
    config = SpeculativeSamplingConfig(num_beams=8, drafts_per_beam=rng.randint(1, 3))
    decoder = config.build().drafted_by(SimpleNamespace(backbone=Tree(sizes), batch=lambda asked: asked))
    return _case(decoder, model, args, codes, batch, lambda keep: _scores(model, batch, codes))


@target("Rerank.search", "decoders.rerank", gentle=True, share=0.12)
def rerank(rng: Rng) -> Case:
    args, other, codes, batch = _question(rng)
    model = Tree(other.codebook_sizes, rng.whole(-3, 4, len(codes), 3).float())
    catalog = SimpleNamespace(counts=rng.choice((None, rng.whole(0, 2, len(codes)))))
    decoder = RerankConfig(num_beams=rng.choice((5, 40)), unseen=rng.flip()).build(catalog)  # type: ignore[arg-type]
    return _case(decoder, model, _beams(rng, args), codes, batch, lambda keep: model.products(batch))


@target("BeamFusion.search", "decoders.fusion", gentle=True, share=0.12)
def beam_fusion(rng: Rng) -> Case:
    """Exact answers alone have a score that does not depend on which beams there are."""
    args, other, codes, batch = _question(rng)
    model = Pointing(other.codebook_sizes, rng.whole(-2, 3, len(codes), 3).float())
    config = BeamFusionConfig(num_beams=40, code_weight=rng.choice((0.5, 1.0)), vector_weight=rng.choice((1.0, 4.0)))

    def true(keep: Tensor) -> Tensor:
        said = _scores(model, batch, codes)
        state = model.prefill(batch).state.expand(-1, len(codes))
        for level in range(codes.shape[1]):
            state = (state * 31 + codes[None, :, level] + 1) % 1_000_003
        cosines = (Pointing.pointed(state) * model.table).sum(2).double()
        out = torch.full(keep.shape, -torch.inf, dtype=torch.float64)
        for user, there in enumerate(keep):
            alike = {tuple(codes[i].tolist()): float(said[user, i]) for i in there.nonzero().flatten()}
            if not alike:
                continue
            beams = torch.tensor([config.code_weight * score for score in alike.values()], dtype=torch.float64)
            vectors = config.vector_weight * cosines[user]
            fused = config.code_weight * said[user] - beams.logsumexp(0) + vectors - vectors[there].logsumexp(0)
            out[user] = fused.where(there, -torch.inf)
        return out

    return _case(config.build(), model, args, codes, batch, true)


@target("DraftedItems.search", "decoders.drafted_items", gentle=True, share=0.12)
def drafted_items(rng: Rng) -> Case:
    """SpecGR in lists, with as many beams as there are prefixes: what is accepted, then what is left, by its score."""
    args, other, codes, batch = _question(rng)
    model = Tree(other.codebook_sizes, rng.whole(-3, 4, len(codes), 3).float())
    config = DraftedItemsConfig(num_drafts=rng.randint(1, 6), threshold=rng.choice((0.0, 0.165, 1.0)))
    least = math.log(config.threshold) if config.threshold else -math.inf
    items = [tuple(row) for row in codes.tolist()]

    def right(**given: Any) -> Any:
        keep = kept(len(batch), len(codes), given["allowed"], given["exclude"])
        means, near = _scores(model, batch, codes) / codes.shape[1], model.products(batch)
        out = []
        for user in range(len(batch)):
            left = keep[user].nonzero().flatten().tolist()
            drafts: list[int] = []
            for _ in range(codes.shape[1]):
                order = sorted(set(left) - set(drafts), key=lambda i: (-float(near[user, i]), i))
                drafts += order[: config.num_drafts]
                accepted = [i for i in drafts if float(means[user, i]) > least]
                if len(accepted) >= int(given["k"]):
                    break
            others = sorted(set(left) - set(accepted), key=lambda i: -float(means[user, i]))
            out.append((accepted, [float(means[user, i]) for i in others], means[user], {items[i] for i in left}))
        return out

    def judge(found: Any, expected: Any, given: dict[str, Any]) -> str | None:
        for user, (accepted, rest, means, _) in enumerate(expected):
            shown = [item for item in found.items[user].tolist() if item >= 0]
            count = min(len(accepted), int(given["k"]))
            if shown[:count] != accepted[:count] or len(set(shown)) != len(shown):
                return f"user {user}: {shown}, accepted are {accepted}"
            if len(shown) != min(int(given["k"]), len(accepted) + len(rest)):
                return f"user {user}: {len(shown)} items, there are {len(accepted) + len(rest)}"
            own = [float(means[item]) for item in shown[count:]]
            if any(abs(a - b) > 1e-5 for a, b in zip(own, rest, strict=False)):
                return f"user {user}: filled up by {own}, must be {rest}"
        return None

    return Case(_call(config.build(), model, batch), args, right, judge, fixed=frozenset({"trie"}))


@target("RetrieveInterests.search", "decoders.interests", gentle=True, share=0.12)
def interests(rng: Rng) -> Case:
    args, _, codes, batch = _question(rng)
    vectors, table = rng.whole(-3, 4, len(batch), rng.randint(1, 3), 3).float(), rng.whole(-3, 4, len(codes), 3).float()
    model = SimpleNamespace(embed_interests=lambda asked: vectors, item_table=lambda: table)
    best = (vectors @ table.T).amax(1).double()
    return _case(RetrieveInterestsConfig().build(), model, args, codes, batch, lambda keep: best)


@target("Scan.search", "decoders.scan", gentle=True, share=0.12)
def scan(rng: Rng) -> Case:
    args, _, codes, batch = _question(rng)
    model = EachCode((1,), len(codes))
    decoder = ScanConfig(scores_per_block=rng.choice((1, 20, 1 << 20))).build()
    return _case(decoder, model, args, codes, batch, lambda keep: model.score_items(batch).double())


@target("ScanCodes.search", "decoders.scan_codes", gentle=True, share=0.12)
def scan_codes(rng: Rng) -> Case:
    args, other, codes, batch = _question(rng)
    model = EachCode(other.codebook_sizes, len(codes))
    return _case(ScanCodesConfig().build(), model, args, codes, batch, lambda keep: model.sums(batch, codes))


@target("Graph.search", "decoders.graph", gentle=True, share=0.12)
def graph(rng: Rng) -> Case:
    args, other, codes, batch = _question(rng)
    model = EachCode(other.codebook_sizes, len(codes))
    decoder = GraphConfig(num_beams=rng.choice((1, 3, 20)), num_edges=rng.choice((2, 5, 40))).build()
    args |= {"exact": rng.flip(0.3), "seed": rng.choice((None, 0, 5))}
    return _case(decoder, model, args, codes, batch, lambda keep: model.sums(batch, codes))


@target("code_neighbours", gentle=True, share=0.1)
def neighbours(rng: Rng) -> Case:
    sizes = [rng.choice((2, 4, 6)) for _ in range(rng.randint(1, 3))]
    codes = torch.stack([rng.whole(0, size, 9) for size in sizes], 1).to(torch.int32)
    tables = [rng.whole(1, 4, size, 3).float() for size in sizes]

    def right(tables: Any, item_codes: Tensor, num_edges: int) -> Any:
        rows = item_codes.tolist()
        books = [torch.nn.functional.normalize(table.float(), dim=1).double() for table in tables]
        if any(not 0 <= code < len(book) for row in rows for code, book in zip(row, books, strict=True)):
            raise ValueError("a code outside")
        alike = torch.zeros(len(rows), len(rows), dtype=torch.float64)
        for (i, one), (j, two) in itertools.product(enumerate(rows), enumerate(rows)):
            alike[i, j] = sum(float(book[a] @ book[b]) for a, b, book in zip(one, two, books, strict=True))
        return alike

    def judge(found: Any, alike: Tensor, given: dict[str, Any]) -> str | None:
        edges = int(given["num_edges"])
        if tuple(found.shape) != (len(alike), edges):
            return f"shape {list(found.shape)}"
        for item, row in enumerate(found.tolist()):
            shown = [other for other in row if other >= 0]
            if len(set(shown)) != min(edges, len(alike)) or item not in shown:
                return f"item {item}: {row}"
            own, best = alike[item, shown], alike[item].sort(descending=True).values[: len(shown)]
            sure = len(shown) - (len(shown) == edges and shown[-1] == item)  # itself, where others are as near
            if bool(((own - best)[:sure].abs() > 1e-5).any()):
                return f"item {item}: {own.tolist()} against {best.tolist()}"
        return None

    args = {"tables": tables, "item_codes": codes, "num_edges": rng.choice((1, 4, 12))}
    return Case(code_neighbours, args, right, judge)
