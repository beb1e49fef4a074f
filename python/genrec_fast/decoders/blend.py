"""A blend: several systems' lists joined into one, by given or learned weights and by how sure each is of a user."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from genrec_fast.base.batch import Batch, Question, Ranked
from genrec_fast.base.best_of import best_of
from genrec_fast.base.checks import check_weights, shown
from genrec_fast.base.config import check_fields, is_part
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.base.query import Query
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.decoders.arguments import check_k
from genrec_fast.decoders.base import Decoder, OneStep, Parts, run

_FIRST_PLACE = 60.0  # of reciprocal rank fusion: its authors' constant


@dataclass(frozen=True, kw_only=True)
class MemberConfig:
    """A system beside the first: a network over the same batches, and how its list is made."""

    backbone: Any
    """a backbone's config"""
    decoder: Any
    """a decoder's config, without networks of its own"""

    def __post_init__(self) -> None:
        check_fields(self)
        _check_parts(self, "backbone", "decoder")


@dataclass(frozen=True, kw_only=True)
class BlendConfig:
    """Settings of ``Blend``."""

    decoder: Any
    """a decoder's config: how the list of the recipe's own backbone is made"""
    members: tuple[MemberConfig, ...] = ()
    """the systems beside it; their networks stand in the system as ``member_1``, ``member_2``, ..."""
    weights: tuple[float, ...] = ()
    """one per list, the first the recipe's own; empty: all the same. ``Blend.learn`` finds better ones"""
    by: Literal["share", "place"] = "share"
    """what a list says of an item: its share, the softmax of the list's scores, or its place, 1 / (60 + place)"""
    temperature: float = 1.0
    """scores are divided by it before the softmax"""
    confidence: float = 0.0
    """0: weights are the same for all users; else each is multiplied with (1 - entropy of the shares / that of equal
    ones) to this power"""
    num_candidates: int = 100
    """items of each list, or k if that is more; with all items a blend of whole distributions"""

    def __post_init__(self) -> None:
        check_fields(self, above=("temperature",), free=("weights",))
        _check_parts(self, "decoder")
        members: Any = self.members
        if not isinstance(members, (tuple, list)) or not all(isinstance(member, MemberConfig) for member in members):
            raise InvalidTypeError(f"BlendConfig: members must be a tuple of MemberConfig, got {shown(members)}")
        check_weights("BlendConfig", "weights", self.weights)
        if self.weights and len(self.weights) != len(self.members) + 1:
            raise InvalidValueError(
                f"BlendConfig: weights must give {len(self.members) + 1} lists, got {len(self.weights)}"
            )

    def build(self, catalog: Catalog | None = None) -> Blend:
        return Blend(self, catalog)


def _check_parts(config: MemberConfig | BlendConfig, *names: str) -> None:
    for name in names:
        part = getattr(config, name)
        if not is_part(part):
            raise InvalidTypeError(f"{type(config).__name__}: {name} must be a config with build(), got {shown(part)}")


class Weights(nn.Module):
    """What the lists weigh; saved with the model.

    Args:
        weights: one per list.
    """

    values: Tensor

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        found = torch.tensor(weights, dtype=torch.float64)
        self.register_buffer("values", found / found.sum())


class Blend(Decoder):
    """The k best items by the weighted sum of what several lists say of them.

    ::

        share(m, i) = softmax of list m's scores / temperature at item i;    0 where the list has not the item
        weight(m)   = weights[m] * (1 - H(share(m)) / log n_m) ** confidence,  over the user's sum of them
        score(i)    = sum over m of weight(m) * share(m, i)                    (by "place": 1 / (60 + place))

    ``Ranked.scores`` are these sums; ``codes`` hold the item id. ``Ranked.exact`` is true where no list left an item
    out that it could have had: then the blend is one of whole distributions.

    Notes:
        One pass per member, then O(sum of the lists). Members read the batch that the recipe's layout makes.

    Source: mixtures of experts' distributions; by place: reciprocal rank fusion (Cormack et al., SIGIR 2009).
    """

    needs = object  # each list's decoder says what it needs

    def __init__(self, config: BlendConfig, catalog: Catalog | None) -> None:
        self.config = config
        self.decoders = [part.build(catalog) for part in (config.decoder, *(m.decoder for m in config.members))]
        for decoder in self.decoders:
            if catalog is not None and decoder.parts(catalog):
                raise UnsupportedError(f"blend: a member's decoder must have no networks, got {type(decoder).__name__}")
        self.reads_trie = any(decoder.reads_trie for decoder in self.decoders)

    def parts(self, catalog: Catalog) -> dict[str, nn.Module]:
        """The members' networks, and what the lists weigh."""
        members = {f"member_{n}": m.backbone.build(catalog) for n, m in enumerate(self.config.members, 1)}
        return {**members, "list_weights": Weights(self.config.weights or (1.0,) * len(self.decoders))}

    def settled(self, query: Query) -> Query:
        """See ``Decoder``.

        Raises:
            InvalidValueError: k is below 1; exact, which a blend of lists cannot prove.
        """
        k, _ = check_k("blend", query.k)
        if query.exact:
            raise InvalidValueError("blend: exact must be False: an item of no list may be the best of a blend")
        return dataclasses.replace(query, k=k)

    def begin(self, system: Any, batch: Batch, query: Query) -> OneStep:
        """One step: every member's pass, and the blend.

        Raises:
            InvalidTypeError: a system without the members' networks.
            InvalidValueError: k, num_beams or a filter does not fit a member.
        """
        query = self.settled(query)
        return OneStep(len(batch), lambda: self._blended(self.lists(system, batch, query), system, query.k))

    def lists(self, system: Any, batch: Batch, query: Query) -> list[Ranked]:
        """Each member's list, the recipe's own first.

        Raises:
            InvalidTypeError: a system without the members' networks.
        """
        names = ["backbone", *(f"member_{n}" for n in range(1, len(self.decoders)))]
        for name in (*names, "list_weights"):
            if not hasattr(system, name):
                raise InvalidTypeError(f"blend: system must have {name}, got {type(system).__name__} without")
        most, found = max(query.k, self.config.num_candidates), []
        for name, decoder in zip(names, self.decoders, strict=True):
            beams = query.num_beams if decoder.by_level else None
            own = decoder.settled(dataclasses.replace(query, k=_wide(most, beams), num_beams=beams))
            parts = Parts(getattr(system, name), system.trie, system.layout)
            found.append(run(decoder.begin(parts, batch, own)))
        return found

    def said(self, found: Ranked) -> tuple[Tensor, Tensor]:
        """What a list says of its items ``[B, n]``, and how sure it is of each user ``[B]``; float64."""
        there = found.items >= 0
        logs = (found.scores.double() / self.config.temperature).where(there, -torch.inf)
        shares = logs.softmax(1).where(there, 0.0)
        entropy = -(shares * shares.clamp(min=torch.finfo(torch.float64).tiny).log()).sum(1)
        most = there.sum(1).double().log()
        sure = (1.0 - entropy / most.clamp(min=1e-12)).clamp(0.0, 1.0).where(most > 0, 1.0)
        sure = sure.where(there.any(1), 0.0)
        if self.config.by == "place":
            place = torch.arange(1, found.items.shape[1] + 1, device=found.items.device)
            shares = (1.0 / (_FIRST_PLACE + place)).where(there, 0.0).double()
        return shares, sure**self.config.confidence if self.config.confidence else torch.ones_like(sure)

    def _blended(self, lists: Sequence[Ranked], system: Any, k: int) -> Ranked:
        users, device = len(lists[0].items), lists[0].items.device
        said, sure = zip(*(self.said(found) for found in lists), strict=True)
        weights = system.list_weights.values.to(device).unsqueeze(1) * torch.stack(sure)  # [M, B]
        total = weights.sum(0)
        even = system.list_weights.values.to(device).unsqueeze(1).expand_as(weights)
        weights = torch.where(total > 0, weights / total.where(total > 0, 1.0), even)
        known = None if system.trie is None else system.trie.num_items
        most = max((int(f.items.max()) for f in lists if f.items.numel()), default=0)
        num_items = most + 1 if known is None else known
        keys, values = [], []
        for found, shares, weight in zip(lists, said, weights, strict=True):
            owner, place = (found.items >= 0).nonzero(as_tuple=True)
            keys.append(owner * num_items + found.items[owner, place])
            values.append((shares * weight.unsqueeze(1))[owner, place])
        unique, at = torch.cat(keys).unique(return_inverse=True)
        sums = torch.zeros(len(unique), dtype=torch.float64, device=device).index_add_(0, at, torch.cat(values))
        owner, items = unique // num_items, unique % num_items
        best, scores, _ = best_of(users, owner, items, sums.float(), k)
        whole = functools.reduce(torch.logical_and, (_has_all(found, known) for found in lists))
        bound = torch.full((users,), torch.inf, device=device).masked_fill(whole, -torch.inf)
        return Ranked(best, best.to(torch.int32).unsqueeze(2), scores, whole, bound)

    @torch.inference_mode()
    def learn(self, system: Any, question: Question, targets: Tensor, rounds: int = 1000) -> tuple[float, ...]:
        """Weights under which the lists' shares predict the targets best, put into the system; EM, ``rounds`` times.

        ::

            r(u, m) = weights[m] * sure(u, m) * share(m, target) / sum over m;   weights[m] = mean over u of r(u, m)

        Users whose target is in no list say nothing. Ask users that nothing was trained on: the validation's.

        Args:
            system: a model with this decoder, in evaluation mode.
            question: B users' histories.
            targets: int64 ``[B]``: the item that each took next.
            rounds: of EM; every one raises the likelihood.

        Returns:
            The weights, which sum to 1.

        Raises:
            InvalidValueError: another number of targets, or not one of them in any list.
        """
        if targets.shape != (len(question),):
            raise InvalidValueError(f"blend: targets must be [{len(question)}], got {list(targets.shape)}")
        lists = self.lists(system, system.batch(question), self.settled(Query(k=1)))
        found = []
        for one in lists:
            shares, sure = self.said(one)
            found.append((shares * (one.items == targets.to(one.items.device).unsqueeze(1))).sum(1) * sure)
        likely = torch.stack(found, 1)
        likely = likely[likely.sum(1) > 0]
        if not len(likely):
            raise InvalidValueError("blend: a target must be in a list to be learned from, got none")
        weights = torch.full((len(lists),), 1.0 / len(lists), dtype=torch.float64, device=likely.device)
        for _ in range(rounds):
            own = weights * likely
            weights = (own / own.sum(1, keepdim=True)).mean(0)
        system.list_weights.values.copy_(weights)
        return tuple(weights.tolist())


def _wide(most: int, beams: Any) -> int:
    """Items of a list: no more than a search of so many beams can give."""
    if beams is None:
        return most
    if isinstance(beams, Tensor):
        return min(most, int(beams.min()))
    return min(most, int(beams[-1]) if isinstance(beams, tuple) else int(beams))


def _has_all(found: Ranked, num_items: int | None) -> Tensor:
    """Bool ``[B]``: the list holds every item that it could, and nothing was pruned."""
    every = num_items is not None and found.items.shape[1] >= num_items
    return ((found.items[:, -1] < 0) | every) & (found.bound == -torch.inf)
