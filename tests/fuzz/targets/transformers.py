"""The native transformer: prompts, steps, heads, a whole search."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from genrec_fast import ops
from genrec_fast.base.errors import InvalidTypeError
from genrec_fast.catalog.trie import build_trie
from genrec_fast.ops.reference import transformer as twin
from genrec_fast.ops.reference import transformer_head as twin_head
from genrec_fast.ops.reference import transformer_step as twin_step
from genrec_fast.ops.reference.transformer_best_first import transformer_best_first as _best_first_twin
from genrec_fast.ops.reference.transformer_search import transformer_search as _search_twin
from genrec_fast.ops.transformer_pack import PackedStack, pack_stacks, unpack_stacks
from genrec_fast.ops.transformer_spec import TransformerSpec

from ..case import Case, Rng, Unasked, target
from ..compare import differs

VOCABULARY = 60
TABLES = ("rotary", "distance", "cross", "cross_offsets", "first_table", "tokens")


def _weights(spec: TransformerSpec, rng: Rng, biases: bool) -> dict[str, Tensor]:
    out = {"last_norm.weight": 1 + 0.1 * rng.normal(spec.width)}
    if spec.head_size:
        out["head.weight"] = rng.normal(spec.head_size, spec.width) * spec.width**-0.5
        if biases:
            out["head.bias"] = rng.normal(spec.head_size)
    for layer in range(spec.num_layers):
        for name in ("before_attention", "before_feed_forward", *(["before_cross"] if spec.cross_width else [])):
            out[f"layers.{layer}.{name}.weight"] = 1 + 0.1 * rng.normal(spec.width)
            if spec.norm == "layer":
                out[f"layers.{layer}.{name}.bias"] = 0.1 * rng.normal(spec.width)
        for name, (rows, columns, needed) in spec.linears().items():
            if needed:
                out[f"layers.{layer}.{name}.weight"] = rng.normal(rows, columns) * columns**-0.5
                if biases:
                    out[f"layers.{layer}.{name}.bias"] = 0.1 * rng.normal(rows)
        if spec.qk_norm:
            for name in ("q_norm", "k_norm"):
                out[f"layers.{layer}.{name}.weight"] = 1 + 0.1 * rng.normal(spec.head_width)
    return out


def some_spec(rng: Rng, **fixed: Any) -> TransformerSpec:
    heads = rng.choice(((1, 1), (2, 1), (2, 2), (4, 2)))
    drawn: dict[str, Any] = {
        "width": rng.choice((4, 12, 20)),
        "num_layers": rng.randint(1, 2),
        "num_heads": heads[0],
        "num_kv_heads": heads[1],
        "head_width": rng.choice((4, 6, 16)),
        "ff_width": rng.choice((8, 22)),
        "head_size": rng.choice((0, VOCABULARY)),
        "cross_width": rng.choice((0, 0, 14)),
        "rotary_width": rng.choice((0, 4)),
        "window": rng.choice((0, 0, 3)),
        "activation": rng.choice(("relu", "gelu", "gelu_tanh", "silu")),
        "gated": rng.flip(),
        "norm": rng.choice(("rms", "layer")),
        "qk_norm": rng.flip(0.3),
        "causal": rng.flip(0.8),
        "score_scale": 0.4,
    }
    return TransformerSpec(**{**drawn, **fixed})


def some_stack(rng: Rng, **fixed: Any) -> PackedStack:
    """float32, one or two stacks in the block."""
    spec = some_spec(rng, **fixed)
    stacks = [(spec, _weights(spec, rng, rng.flip()))]
    if rng.flip(0.2):
        other = some_spec(rng)
        stacks.insert(0, (other, _weights(other, rng, False)))
    return unpack_stacks(pack_stacks(stacks))[0][-1]


def tables_of(rng: Rng, stack: PackedStack, lengths: list[int], reach: int) -> dict[str, Any]:
    spec, out = stack.spec, {}
    if spec.rotary_width:
        angles = rng.normal(reach, spec.rotary_width // 2)
        out["rotary"] = torch.cat([angles.cos(), angles.sin()], 1)
    if rng.flip():
        out["distance"] = rng.normal(spec.num_heads, 2 * reach - 1)
    if spec.cross_width:
        encoded = [rng.randint(1, 4) for _ in lengths]
        out["cross_offsets"] = rng.offsets(encoded, torch.int64)
        out["cross"] = ops.transformer_cross(stack, rng.normal(sum(encoded), spec.cross_width), out["cross_offsets"])
    return out


def _judge(found: Any, right: Any, given: dict[str, Any]) -> str | None:
    """Rounding, where values stay of a size that float32 sums keep."""
    big = 0.0
    for value in [*given.values(), *given.get("chain", ()), *given.get("past", ())]:
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
            big = max(big, float(value.detach().abs().nan_to_num(torch.inf, torch.inf).max()))
    scale = given.get("embedding_scale", 1.0)
    big = max(big, abs(float(scale)) if float(scale) == float(scale) else torch.inf)
    for name in ("rows", "hidden", "embedding"):
        if (
            isinstance(rows := given.get(name), Tensor)
            and rows.numel()
            and float(rows.float().std(-1, correction=0).min()) < 1e-3
        ):
            big = torch.inf  # a norm of what is all but constant shows nothing but rounding
    if big > 50:
        return differs(found, right, torch.inf)
    for index, (ours, theirs) in enumerate(
        zip(found, right, strict=True) if isinstance(right, tuple) else [(found, right)]
    ):
        scale = max(1.0, float(theirs.detach().abs().max())) if theirs.numel() else 1.0
        complaint = differs(ours, theirs, 1e-3 * scale * max(1.0, big / 5), f"[{index}]")
        if complaint:
            return complaint
    return None


def _tables(given: dict[str, Any]) -> list[Any]:
    return [given.get(name) for name in TABLES]


def _first(rng: Rng, stack: PackedStack, args: dict[str, Any]) -> None:
    """Sometimes rows are those of a table whose first layer is known."""
    if rng.flip(0.3):
        table = rng.normal(9, stack.spec.width)
        tokens = rng.whole(0, 9, args["rows"].shape[0])
        args |= {"rows": table[tokens], "tokens": tokens, "first_table": ops.transformer_first(stack, table)}


def _outside(tokens: Any, table: Any) -> None:
    if tokens is not None and tokens.numel() and (int(tokens.min()) < 0 or int(tokens.max()) >= len(table)):
        raise ValueError("a token outside")


@target("transformer_first", share=0.7, calls=128)
def first(rng: Rng) -> Case:
    stack = some_stack(rng)
    args = {"stack": stack, "rows": rng.normal(rng.choice((0, 1, 5, 50)), stack.spec.width)}

    def right(stack: Any, rows: Tensor) -> Tensor:
        return twin.transformer_first(stack.weights, rows, stack.number, stack.spec.mixed)

    return Case(ops.transformer_first, args, right, _judge, opaque=frozenset({"stack"}))


@target("transformer_prefill", calls=128)
def prefill(rng: Rng) -> Case:
    stack = some_stack(rng)
    lengths = [rng.randint(1, 6) for _ in range(rng.randint(0, 3))]
    args: dict[str, Any] = {
        "stack": stack,
        "rows": rng.normal(sum(lengths), stack.spec.width),
        "offsets": rng.offsets(lengths, torch.int64),
        "only_last": rng.flip(),
    }
    args |= tables_of(rng, stack, lengths, 16)
    _first(rng, stack, args)
    if stack.spec.causal and not stack.spec.cross_width and lengths and rng.flip():
        held = [rng.randint(1, 6) for _ in lengths]
        own = {name: args[name] for name in ("rotary", "distance") if name in args}
        args["past"] = [
            ops.transformer_prefill(stack, rng.normal(rows, stack.spec.width), torch.tensor([0, rows]), **own)[1]
            for rows in held
        ]
        args["past_rows"] = torch.tensor(held)
        args["past_used"] = torch.tensor([rng.randint(0, rows) for rows in held])

    def right(**given: Any) -> Any:
        stack = given["stack"]
        _outside(given.get("tokens"), given.get("first_table"))
        return twin.transformer_prefill(
            stack.weights,
            given["rows"],
            given["offsets"],
            *_tables(given),
            stack.number,
            stack.spec.num_layers,
            given["only_last"],
            given.get("past", ()),
            given.get("past_rows"),
            given.get("past_used"),
        )[0]

    def judge(found: Any, expected: Any, given: dict[str, Any]) -> str | None:
        return _judge(found[0], expected, given)  # the cache's padding is not defined; the steps read the rest of it

    return Case(ops.transformer_prefill, args, right, judge, opaque=frozenset({"stack", "cross"}))


@target("transformer_cross", share=0.7, calls=128)
def cross(rng: Rng) -> Case:
    stack = some_stack(rng, cross_width=14)
    lengths = [rng.randint(1, 6) for _ in range(rng.randint(0, 3))]
    args = {"stack": stack, "rows": rng.normal(sum(lengths), 14), "offsets": rng.offsets(lengths, torch.int64)}
    queries = rng.normal(len(lengths), stack.spec.width)
    prompts, turned = torch.arange(len(lengths) + 1), stack.spec.rotary_width > 0

    def call(stack: Any, rows: Any, offsets: Any) -> Tensor:
        """Seen through a prompt of one row per user: the padding of a cache is not defined."""
        found = ops.transformer_cross(stack, rows, offsets)
        if not isinstance(stack.spec, TransformerSpec):
            raise InvalidTypeError("no spec to go on with")
        if offsets.numel() != prompts.numel() or turned:
            return torch.zeros(0)
        return ops.transformer_prefill(stack, queries, prompts, cross=found, cross_offsets=offsets)[0]

    def right(stack: Any, rows: Tensor, offsets: Tensor) -> Any:
        found = twin.transformer_cross(stack.weights, rows, offsets, stack.number)
        if offsets.numel() != prompts.numel() or turned:
            return torch.zeros(0)
        return twin.transformer_prefill(
            stack.weights,
            queries,
            prompts,
            None,
            None,
            found,
            offsets,
            None,
            None,
            stack.number,
            stack.spec.num_layers,
            True,
        )[0]

    return Case(call, args, right, _judge, opaque=frozenset({"stack"}))


def _begun(rng: Rng, stack: PackedStack, users: int, priors: int) -> tuple[dict[str, Any], Tensor]:
    """What the prompts left: offsets, cache, chain, ancestors, tables; and the last hidden rows."""
    lengths = [rng.randint(1, 5) for _ in range(users)]
    offsets = rng.offsets(lengths, torch.int64)
    tables = tables_of(rng, stack, lengths, 16)
    hidden, cache = ops.transformer_prefill(stack, rng.normal(sum(lengths), stack.spec.width), offsets, **tables)
    chain: list[Tensor] = []
    for _ in range(priors):
        ancestors = torch.arange(users, dtype=torch.int32).expand(len(chain), -1).contiguous()
        rows = rng.normal(users, stack.spec.width)
        hidden, kept = ops.transformer_step(stack, rows, offsets, cache, chain, ancestors, **tables)
        chain.append(kept)
    return {"offsets": offsets, "cache": cache, "chain": chain, **tables}, hidden


@target("transformer_step", calls=128)
def step(rng: Rng) -> Case:
    stack = some_stack(rng, causal=True)
    users, beams, priors = rng.randint(1, 3), rng.choice((1, 2, 5)), rng.randint(0, 2)
    begun, _ = _begun(rng, stack, users, priors)
    width = users * beams
    ancestors = (
        torch.stack([torch.arange(users).repeat_interleave(beams).int()] * priors)
        if priors
        else torch.empty(0, width, dtype=torch.int32)
    )
    args: dict[str, Any] = {
        "stack": stack,
        "rows": rng.normal(width, stack.spec.width),
        "ancestors": ancestors,
        **begun,
    }
    _first(rng, stack, args)

    def right(**given: Any) -> Any:
        stack = given["stack"]
        _outside(given.get("tokens"), given.get("first_table"))
        for index, part in enumerate(given["chain"]):
            _outside(given["ancestors"][index], part[0])
        spec = stack.spec
        return twin_step.transformer_step(
            stack.weights, *(given[n] for n in ("rows", "offsets", "cache")), list(given["chain"]), given["ancestors"],
            None, *_tables(given), stack.number, spec.num_layers, spec.kept,
        )  # fmt: skip

    return Case(ops.transformer_step, args, right, _judge, opaque=frozenset({"stack", "cross", "cache"}))


@target("transformer_head", share=0.7, calls=128)
def head(rng: Rng) -> Case:
    stack = some_stack(rng, head_size=VOCABULARY)
    low = rng.randint(0, VOCABULARY)
    args = {
        "stack": stack,
        "hidden": rng.normal(rng.choice((0, 1, 5)), stack.spec.width),
        "first": low,
        "last": rng.randint(low, VOCABULARY),
        "log_sums": rng.flip(),
    }

    def right(stack: Any, hidden: Tensor, first: int, last: int, log_sums: bool) -> Any:
        return twin_head.transformer_head(stack.weights, hidden, stack.number, int(first), int(last), log_sums)

    return Case(ops.transformer_head, args, right, _judge, opaque=frozenset({"stack"}))


def _trie_search(rng: Rng, priors: int) -> dict[str, Any]:
    """What a search over a network and a trie begins with."""
    stack = some_stack(rng, head_size=VOCABULARY, causal=True)
    users = rng.randint(1, 2)
    begun, hidden = _begun(rng, stack, users, priors)
    sizes = [rng.randint(1, 9) for _ in range(rng.randint(1, 4))]
    items = rng.randint(1, 40)
    trie = build_trie(torch.stack([rng.whole(0, size, items) for size in sizes], 1), codebook_sizes=tuple(sizes))
    tokens = torch.randperm(VOCABULARY, generator=rng.torch)
    code_tokens, at = [], 0
    for size in sizes:
        code_tokens.append(tokens[at : at + size].clone())
        at += size
    normalize = rng.choice(("all", "codes", "valid"))
    embedding, scale = rng.normal(VOCABULARY, stack.spec.width), rng.choice((1.0, 2.5))
    args: dict[str, Any] = {
        **{"stack": stack, "hidden": hidden, "scores": -torch.rand(users, generator=rng.torch), "trie": trie},
        **{"code_tokens": code_tokens, "embedding": embedding, "embedding_scale": scale, "normalize": normalize},
        **{"keep": None, **begun},
    }
    if rng.flip(0.4):
        args["keep"] = ops.trie_filter(trie, allowed=rng.mask(*rng.choice(((items,), (users, items)))))
    if rng.flip(0.3):
        args["first_table"] = ops.transformer_first(stack, embedding * scale)
    elif rng.flip(0.3):
        args["positions"] = rng.normal(99, stack.spec.width)
    return args


@target("transformer_best_first", "BestFound", calls=128)
def best_first(rng: Rng) -> Case:
    args = _trie_search(rng, 0)
    del args["chain"]
    args |= {"k": rng.choice((1, 3, 50)), "width": 50, "least_rows": rng.choice((1, 8)), "share": rng.choice((1, 4))}

    def right(**given: Any) -> Any:
        stack, trie, keep = given["stack"], given["trie"], given["keep"]
        shared = keep is None and trie.num_items != trie.num_rows
        if any(t.numel() and (int(t.min()) < 0 or int(t.max()) >= VOCABULARY) for t in given["code_tokens"]):
            raise ValueError("a token outside")
        found = _best_first_twin(
            **{"weights": stack.weights, "stack": stack.number, "first_user": 0, "last_user": len(given["scores"])},
            **{name: given[name] for name in ("hidden", "scores", "offsets", "cache", "code_tokens", "embedding")},
            **{name: given.get(name) for name in (*TABLES[:-1], "positions")},
            **{name: list(getattr(trie, name)) for name in ("tokens", "child_bases", "child_deltas")},
            **{name: keep and getattr(keep, name) for name in ("bits", "ranks", "excluded", "excluded_offsets")},
            **{name: getattr(trie, name) if shared else None for name in ("leaf_bases", "leaf_deltas")},
            **{name: int(given[name]) for name in ("k", "width", "least_rows", "share")},
            **{"embedding_scale": float(given["embedding_scale"]), "budget": 2**62},
            **{"valid_only": given["normalize"] == "valid", "own_codes": given["normalize"] == "codes"},
        )
        return ops.BestFound(*found)

    return Case(ops.transformer_best_first, args, right, _judge_best, opaque=frozenset({"stack", "cross", "cache"}))


def _judge_best(found: Any, right: Any, given: dict[str, Any]) -> str | None:
    """The k best scores up to rounding: which rows these are, and what else was read, rounding may decide."""
    k = int(given["k"])
    return _judge(found.scores[:, :k], right.scores[:, :k].nan_to_num(0, 0, -torch.inf), given)


@target("transformer_search", "TransformerFound", calls=128)
def search(rng: Rng) -> Case:
    priors = rng.randint(0, 2)
    args = _trie_search(rng, priors)
    args |= {"num_beams": rng.choice((1, 3, 8, 50)), "end_token": rng.choice((None, 59))}
    args["ancestors"] = torch.arange(len(args["scores"]), dtype=torch.int32).expand(priors, -1).contiguous()

    def right(**given: Any) -> Any:
        if int(given["num_beams"]) > 4096:
            raise Unasked
        stack, trie, keep = given["stack"], given["trie"], given["keep"]
        masks = (None,) * 4 if keep is None else (keep.bits, keep.ranks, keep.excluded, keep.excluded_offsets)
        tables = [given.get(name) for name in TABLES[:-1]]
        if any(t.numel() and (int(t.min()) < 0 or int(t.max()) >= VOCABULARY) for t in given["code_tokens"]):
            raise ValueError("a token outside")
        none = torch.empty(0, len(given["scores"]), dtype=torch.int32)
        end = -1 if given["end_token"] is None else int(given["end_token"])
        found = _search_twin(
            stack.weights,
            *(given[n] for n in ("hidden", "scores", "offsets", "cache")),
            list(given["chain"]),
            none if given["ancestors"] is None else given["ancestors"],
            *tables,
            list(given["code_tokens"]),
            given["embedding"],
            given.get("positions"),
            *(list(part) for part in (trie.tokens, trie.child_bases, trie.child_deltas)),
            *masks,
            float(given["embedding_scale"]),
            stack.number,
            int(given["num_beams"]),
            given["normalize"] == "valid",
            given["normalize"] == "codes",
            end,
        )
        return ops.TransformerFound(*found)

    return Case(ops.transformer_search, args, right, _judge_search, opaque=frozenset({"stack", "cross", "cache"}))


def _judge_search(found: Any, right: Any, given: dict[str, Any]) -> str | None:
    """Scores up to rounding; which beams, where no two scores are so near that rounding may swap them."""
    complaint = _judge(found.scores, right.scores.nan_to_num(0, 0, -torch.inf), given) or _judge(
        found.bound, right.bound, given
    )
    if complaint:
        return complaint
    for name in ("rows", "codes", "tokens"):
        complaint = differs(getattr(found, name).shape, getattr(right, name).shape)
        if complaint:
            return f"{name}: {complaint}"
    return None


@target("TransformerSpec", share=0.2)
def spec(rng: Rng) -> Case:
    made = some_spec(rng)
    args = {f.name: getattr(made, f.name) for f in dataclasses.fields(made)}
    return Case(
        lambda **given: TransformerSpec(**given).mixed,
        args,
        lambda **given: (int(given["num_heads"]) + 2 * int(given["num_kv_heads"])) * int(given["head_width"]),
    )


@target("unpack_stacks", share=0.3)
def unpack(rng: Rng) -> Case:
    """A block with bytes of its header changed."""
    from .tries import Altered

    stack = some_stack(rng)
    block, rows = Altered(bytes(stack.weights.numpy())), rng.normal(2, stack.spec.width)

    def call(seed: int) -> Any:
        raw = bytearray(block.raw)
        if seed:
            draws = Rng(seed)
            for _ in range(draws.choice((1, 1, 3))):
                place = draws.randrange(min(len(raw), 8 * 200)) if draws.flip(0.9) else draws.randrange(len(raw))
                raw[place] = draws.choice((raw[place] ^ (1 << draws.randrange(8)), 0, 255, 127))
        weights = torch.frombuffer(raw, dtype=torch.uint8)
        stacks, tensors, note = unpack_stacks(weights)
        answers: list[Any] = [sorted(tensors), note]
        for found in stacks:
            fits = rows if found.spec.width == rows.shape[1] else rows.new_zeros(2, min(found.spec.width, 64))
            answers.append(ops.transformer_first(found, fits))
            answers.append(
                ops.transformer_prefill(found, fits, torch.tensor([0, 1, 2]))[0]
                if not found.spec.rotary_width
                else None
            )
            answers.append(
                ops.transformer_head(found, fits, 0, min(found.spec.head_size, 64)) if found.spec.head_size else None
            )
        return answers

    return Case(
        call,
        {"seed": 0},
        vary=lambda r, a: ({"seed": r.randrange(1, 1 << 40)}, "altered bytes", "wild"),
        refuses=True,  # a stack with cross-attention has none here
    )


@target("pack_stacks", share=0.3)
def pack(rng: Rng) -> Case:
    made = some_spec(rng)
    weights = _weights(made, rng, rng.flip())

    def call(spec: Any, weights: Any, precision: Any) -> Any:
        (stack,), _, _ = unpack_stacks(pack_stacks([(spec, weights)], precision))
        return ops.transformer_first(stack, torch.ones(1, stack.spec.width)).shape[1]

    return Case(
        call,
        {"spec": made, "weights": weights, "precision": rng.choice(("float32", "bfloat16", "int8"))},
        lambda spec, weights, precision: spec.mixed,
        refuses=True,
        opaque=frozenset({"spec", "weights"}),
    )
