"""The twin of ``ops.transformer_best_first``: user by user, the twins of its parts in plain lists."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genrec_fast.ops.reference._transformer_layers import Layers
from genrec_fast.ops.reference.transformer_head import transformer_head
from genrec_fast.ops.reference.transformer_step import transformer_step
from genrec_fast.ops.reference.trie_step import trie_step
from genrec_fast.ops.trie_offsets import unpack_offsets, widen


class _Levels(NamedTuple):
    codebook_sizes: tuple[int, ...]
    tokens: tuple[Tensor, ...]
    child_bases: tuple[Tensor, ...]
    child_deltas: tuple[Tensor, ...]


class _Prefix(NamedTuple):
    score: float
    node: int
    codes: tuple[int, ...]
    above: tuple[int, ...]  # the rows of the network behind its codes but the last


@dataclass
class _One:
    """What is known of the network of one user: the parts that do not change, and its rows."""

    args: dict[str, Any]
    layers: Layers
    offsets: Tensor
    hidden: Tensor
    tables: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
    cache: Tensor
    chain: list[Tensor] = field(default_factory=list)  # one row each

    def read(self, prefix: _Prefix) -> tuple[Tensor, tuple[int, ...]]:
        """The hidden row ``[1, D]`` behind a prefix, and the rows it was made of."""
        if not prefix.codes:
            return self.hidden, ()
        args, level = self.args, len(prefix.codes) - 1
        token = args["code_tokens"][level][prefix.codes[-1]].view(1)
        x = args["embedding"][token] * args["embedding_scale"]
        if args["positions"] is not None:
            x = x + args["positions"][self.offsets[1] + level]
        steps = torch.tensor(prefix.above, dtype=torch.int32).view(-1, 1)
        spec, known = self.layers.spec, args["first_table"]
        hidden, kept = transformer_step(
            args["weights"],
            x,
            self.offsets,
            self.cache,
            self.chain,
            torch.zeros_like(steps),
            steps,
            *self.tables,
            known,
            None if known is None else token,
            args["stack"],
            spec.num_layers,
            spec.kept,
        )
        self.chain.append(kept)
        return hidden, (*prefix.above, len(self.chain) - 1)


def transformer_best_first(**args: Any) -> tuple[Tensor, ...]:
    """Round by round: the best open prefixes become rows, their children open or found."""
    sizes, width = tuple(t.numel() for t in args["code_tokens"]), args["width"]
    trie = _Levels(sizes, tuple(args["tokens"]), tuple(args["child_bases"]), tuple(args["child_deltas"]))
    users, scores = range(args["first_user"], args["last_user"]), args["scores"]
    shape = (len(users), width)
    out = (
        scores.new_full(shape, -torch.inf),
        scores.new_full(shape, -1, dtype=torch.int32),
        scores.new_zeros(*shape, len(sizes), dtype=torch.int32),
        scores.new_empty(len(users)),
        scores.new_empty(len(users), dtype=torch.int64),
        scores.new_empty(len(users), dtype=torch.bool),
    )
    layers = Layers(args["weights"], args["stack"])
    for place, user in enumerate(users):
        found, out[3][place], out[4][place] = _searched(args, trie, layers, user)
        out[5][place] = len(found) > width
        for at, prefix in enumerate(found[:width]):
            out[0][place, at], out[1][place, at] = prefix.score, prefix.node
            out[2][place, at] = torch.tensor(prefix.codes)
    return out


def _searched(args: dict[str, Any], trie: _Levels, layers: Layers, user: int) -> tuple[list[_Prefix], float, int]:
    """What was found, the best first, the bound, and the rows of the network."""
    one, levels = _alone(args, layers, user), len(trie.codebook_sizes)
    paid = float(args["scores"][user])
    open_, found = [_Prefix(paid, 0, (), ())] if paid > -torch.inf else [], list[_Prefix]()
    lost, dive = -torch.inf, 0
    while open_:
        taken = len(one.chain)
        room = min(max(args["least_rows"], taken // args["share"]), args["budget"] - taken)
        if dive:
            chosen = [prefix for prefix in open_ if len(prefix.codes) == dive][: args["k"]]
        else:
            chosen = open_[: max(room, 0)]
        open_ = [prefix for prefix in open_ if prefix not in chosen]
        children = [
            child
            for prefix in sorted(chosen, key=lambda p: len(p.codes))
            for child in _children(one, args, trie, user, prefix)
        ]
        for child in children:
            whole = _whole(trie, child, args["valid_only"])
            found, open_ = (found, [*open_, child]) if whole is None else ([*found, whole], open_)
        found.sort(key=lambda prefix: -prefix.score)
        open_.sort(key=lambda prefix: -prefix.score)
        least = _least(args, found)
        lost = max([lost, *(prefix.score for prefix in open_ if prefix.score < least)])
        found, open_ = ([prefix for prefix in part if prefix.score >= least] for part in (found, open_))
        spent = bool(open_) and len(one.chain) >= args["budget"]
        dive = dive + 1 if spent and least == -torch.inf else 0
        if spent and not 0 < dive < levels:
            break
    return found, max([lost, *(prefix.score for prefix in open_)]), len(one.chain)


def _alone(args: dict[str, Any], layers: Layers, user: int) -> _One:
    """One user's prompt as if it were the only one."""

    def own(cache: Tensor, offsets: Tensor) -> Tensor:
        ends = layers.cells(offsets)
        return cache.view(layers.spec.num_layers, -1)[:, ends[user] : ends[user + 1]].flatten()

    def length(offsets: Tensor) -> Tensor:
        return torch.stack([offsets[0], offsets[user + 1] - offsets[user]])

    cross, cross_offsets = args["cross"], args["cross_offsets"]
    if cross is not None:
        cross, cross_offsets = own(cross, cross_offsets), length(cross_offsets)
    tables = (args["rotary"], args["distance"], cross, cross_offsets)
    offsets = args["offsets"]
    return _One(args, layers, length(offsets), args["hidden"][user : user + 1], tables, own(args["cache"], offsets))


def _children(one: _One, args: dict[str, Any], trie: _Levels, user: int, prefix: _Prefix) -> list[_Prefix]:
    hidden, above = one.read(prefix)
    level, needs_sums = len(prefix.codes), not (args["valid_only"] or args["own_codes"])
    logits, sums = transformer_head(args["weights"], hidden, args["stack"], 0, one.layers.spec.head_size, needs_sums)
    begin, end = (
        int(unpack_offsets(trie.child_bases[level], trie.child_deltas[level], torch.tensor(node)))
        for node in (prefix.node, prefix.node + 1)
    )
    bits, ranks, offsets = args["bits"], args["ranks"], args["excluded_offsets"]
    if bits is not None:
        mine = user if len(bits) > 1 else 0
        bits, ranks = bits[mine : mine + 1], ranks[mine : mine + 1]
    if offsets is not None:
        offsets = offsets[user : user + 2]
    found, codes, _, nodes, _ = trie_step(
        trie,
        level,
        logits[:, args["code_tokens"][level]].unsqueeze(0),
        torch.tensor([[prefix.node]], dtype=torch.int32),
        torch.tensor([[prefix.score]]),
        end - begin,
        args["valid_only"],
        bits,
        ranks,
        args["excluded"],
        offsets,
        sums.view(1, 1) if needs_sums else None,
    )
    several = zip(found[0].tolist(), codes[0].tolist(), nodes[0].tolist(), strict=True)
    return [_Prefix(score, node, (*prefix.codes, code), above) for score, code, node in several if node >= 0]


def _whole(trie: _Levels, prefix: _Prefix, valid_only: bool) -> _Prefix | None:
    """A semantic ID: the prefix, or with "valid" the only one that it leads to."""
    if len(prefix.codes) < len(trie.codebook_sizes) and not valid_only:
        return None
    node, codes = prefix.node, prefix.codes
    for level in range(len(codes), len(trie.codebook_sizes)):
        ends = torch.tensor([node, node + 1])
        begin, end = unpack_offsets(trie.child_bases[level], trie.child_deltas[level], ends).tolist()
        if end - begin != 1:
            return None
        node, codes = begin, (*codes, int(widen(trie.tokens[level], torch.tensor(begin))))
    return prefix._replace(node=node, codes=codes)


def _least(args: dict[str, Any], found: list[_Prefix]) -> float:
    """The score of the k-th item; -inf where there are fewer."""
    items = 0
    for prefix in found:
        ends = torch.tensor([prefix.node, prefix.node + 1])
        shared = args["leaf_bases"] is not None
        items += int(unpack_offsets(args["leaf_bases"], args["leaf_deltas"], ends).diff()) if shared else 1
        if items >= args["k"]:
            return prefix.score
    return -torch.inf
