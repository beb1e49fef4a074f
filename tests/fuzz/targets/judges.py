"""Decoders over what others say: several lists joined into one, and candidates that stand behind a history."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from genrec_fast.backbones import CausalConfig
from genrec_fast.base.batch import Batch, Ranked
from genrec_fast.base.query import Query
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.decoders import BeamConfig, BlendConfig, MemberConfig, RankConfig, RetrieveConfig, ScanConfig
from genrec_fast.decoders.base import run
from genrec_fast.decoders.blend import Weights
from genrec_fast.layouts import InterleaveConfig

from ..case import Case, Rng, target
from .decoders import EachCode
from .measures import Places
from .searches import Model, _question, judged, kept, true_scores


def _members(rng: Rng, sizes: tuple[int, ...], batch: Batch, codes: Tensor) -> list[tuple[Any, Any, Tensor]]:
    """Decoders' configs, their backbones and what they say of every item, ``[B, N]``."""
    out: list[tuple[Any, Any, Tensor]] = []
    for kind in [rng.choice(("beam", "places", "items")), *(rng.choice(("places", "items")) for _ in range(2))]:
        if kind == "beam":
            model = Model(sizes)
            out.append((BeamConfig(num_beams=40), model, true_scores(model, batch, codes)))
        elif kind == "places":
            states, table = rng.whole(-2, 3, len(batch), 3).float(), rng.whole(-2, 3, len(codes), 3).float()
            out.append((RetrieveConfig(), Places(states, table), (states @ table.T).double()))
        else:
            scored = EachCode((1,), len(codes))
            out.append((ScanConfig(), scored, scored.score_items(batch).double()))
    return out[: rng.randint(1, 3)]


def blended(said: list[Tensor], keep: Tensor, longest: int, config: BlendConfig) -> tuple[Tensor, Tensor]:
    """Every item's score ``[B, N]``, -inf where no list has it, and whether each user's lists left nothing out."""
    out, whole = torch.full(keep.shape, -torch.inf, dtype=torch.float64), torch.zeros(len(keep), dtype=torch.bool)
    own = config.weights or (1.0,) * len(said)
    for user, there in enumerate(keep):
        allowed = there.nonzero().flatten().tolist()
        lists = [sorted(allowed, key=lambda i, s=s: (-float(s[user, i]), i))[:longest] for s in said]
        shares, sure = [], []
        for items, scores in zip(lists, said, strict=True):
            powers = [math.exp(float(scores[user, i] - scores[user].max()) / config.temperature) for i in items]
            chances = [power / sum(powers) for power in powers]
            entropy = -sum(chance * math.log(chance) for chance in chances if chance)
            sure.append(0.0 if not items else 1.0 if len(items) == 1 else max(0.0, 1 - entropy / math.log(len(items))))
            if config.by == "place":
                chances = [1 / (60 + place) for place, _ in enumerate(items, 1)]
            shares.append(dict(zip(items, chances, strict=True)))
        weights = [w * (s**config.confidence if config.confidence else 1.0) for w, s in zip(own, sure, strict=True)]
        weights = list(own) if not sum(weights) else weights
        for item in {item for items in lists for item in items}:
            told = sum(w * share.get(item, 0.0) for w, share in zip(weights, shares, strict=True))
            out[user, item] = told / sum(weights)
        whole[user] = all(len(items) == len(allowed) for items in lists)
    return out, whole


@target("Blend.search", "decoders.blend", gentle=True, share=0.12)
def blend(rng: Rng) -> Case:
    """The lists as plain Python sorts and joins them."""
    args, other, codes, batch = _question(rng)
    made = _members(rng, other.codebook_sizes, batch, codes)
    searched = isinstance(made[0][0], BeamConfig)
    config = BlendConfig(
        decoder=made[0][0],
        members=tuple(MemberConfig(backbone=CausalConfig(), decoder=decoder) for decoder, *_ in made[1:]),
        weights=rng.choice(((), (3.0, 0.5, 1.0)[: len(made)], (1.0, 0.0, 0.0)[: len(made)])),
        # Which of two equal beams is the first is a matter of rounding.
        by="share" if searched else rng.choice(("share", "place")),
        temperature=rng.choice((0.5, 2.0)),
        confidence=rng.choice((0.0, 1.0, 2.0)),
        num_candidates=100 if searched else rng.choice((1, 3, 100)),
    )
    decoder, trie = config.build(), args.pop("trie")
    system = SimpleNamespace(
        trie=trie if searched or rng.flip() else None,
        layout=None,
        list_weights=Weights(config.weights or (1.0,) * len(made)),
        **dict(zip(("backbone", "member_1", "member_2"), (backbone for _, backbone, _ in made), strict=False)),
    )

    def call(**given: Any) -> Ranked:
        return run(decoder.begin(system, batch, Query(**given)))

    def right(**given: Any) -> Any:
        keep = kept(len(batch), len(codes), given["allowed"], given["exclude"])
        longest = max(int(given["k"]), config.num_candidates)
        return blended([scores for *_, scores in made], keep, longest, config)

    def judge(found: Any, expected: Any, given: dict[str, Any]) -> str | None:
        scores, whole = expected
        if bool((found.exact & ~whole).any()):
            return "called exact, and a list left something out"
        if bool((found.bound != torch.where(found.exact, -torch.inf, torch.inf)).any()):
            return f"bounds {found.bound.tolist()}, exact {found.exact.tolist()}"
        sorted_by_us = Ranked(found.items, found.codes, found.scores, torch.ones_like(found.exact), found.bound)
        return judged(sorted_by_us, scores, scores > -torch.inf, int(given["k"]))

    return Case(call, args, right, judge)


class Told:
    """Logits of actions that follow from the tokens before a candidate, its item, and when it is asked."""

    num_actions = 2

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items

    def item_table(self) -> Tensor:
        return torch.zeros(self.num_items, 1)

    def action_logits(self, batch: Batch) -> Tensor:
        tokens, candidates = batch.tokens, batch.candidates
        assert tokens is not None and tokens.asked is not None and candidates is not None
        stream = torch.zeros(int(tokens.offsets[-1]), dtype=torch.int64)
        stream[tokens.items_at] = batch.items.values + 1
        done = torch.zeros_like(stream)
        if batch.actions is not None and tokens.actions_at.numel():
            done[tokens.actions_at] = batch.actions.long() @ torch.tensor([3, 5])
        history = stream * 7 + done
        stream[tokens.candidates_at] = candidates.values + 1
        asked, out = tokens.asked, []
        for at, row in zip(asked.tolist(), candidates.row_index().tolist(), strict=True):
            first, last = tokens.offsets[row : row + 2].tolist()
            if not first <= at < last:
                raise AssertionError(f"candidate at {at} outside the row [{first}, {last})")
            when = 0 if tokens.query_timestamps is None else int(tokens.query_timestamps[at])
            out.append(self.said(int(history[first:last].sum()), int(stream[at]) - 1, when))
        return torch.tensor(out).view(-1, self.num_actions)

    def said(self, history: int, item: int, when: int) -> list[float]:
        return [((history * 37 + item * 101 + when * 11 + action * 17) % 97) / 24 - 2 for action in range(2)]


@target("Rank.search", "decoders.rank", gentle=True, share=0.12)
def rank(rng: Rng) -> Case:
    """Every candidate behind its own user's history, whatever stands beside it."""
    args, _, codes, plain = _question(rng)
    del args["trie"]
    events, items = len(plain.items.values), len(codes)
    weights = rng.choice(((), (0.2, 0.8), (1.0, 0.0)))
    known, timed = rng.choice(("none", "tokens", "before")), rng.flip()
    actions = rng.mask(events, 2)
    times = rng.whole(0, 50, events) if timed else None
    asked = rng.whole(50, 90, events) if timed and rng.flip() else None
    batch = Batch(plain.items, timestamps=times, target_timestamps=asked, actions=None if known == "none" else actions)
    catalog = Catalog(item_codes=torch.arange(items)[:, None], codebook_sizes=(items,))
    batch = InterleaveConfig(actions=known).build(catalog)(batch)
    model, decoder = Told(items), RankConfig(weights=weights, candidates_per_pass=rng.choice((1, 3, 128))).build()

    def call(**given: Any) -> Ranked:
        given = dict(given)
        return decoder.search(model, batch, None, given.pop("k"), **given)

    def right(**given: Any) -> Any:
        scores = torch.zeros(len(batch), items, dtype=torch.float64)
        own = torch.tensor(weights or (1.0, 1.0), dtype=torch.float64)
        for user, (first, last) in enumerate(zip(*(batch.items.offsets[s].tolist() for s in _ENDS), strict=True)):
            history = int((batch.items.values[first:last] + 1).sum()) * 7
            if known == "tokens":
                history += int((actions[first:last].long() @ torch.tensor([3, 5])).sum())
            at = times if asked is None else asked
            when = 0 if at is None or last == first else int(at[last - 1])
            for item in range(items):
                chances = torch.tensor(model.said(history, item, when), dtype=torch.float64).sigmoid()
                scores[user, item] = chances @ own / own.sum()
        return scores, kept(len(batch), items, given["allowed"], given["exclude"])

    def judge(found: Any, expected: Any, given: dict[str, Any]) -> str | None:
        if not bool(found.exact.all()):
            return "not called exact, though every candidate was scored"
        return judged(found, *expected, int(given["k"]))

    return Case(call, args, right, judge)


_ENDS = (slice(None, -1), slice(1, None))
