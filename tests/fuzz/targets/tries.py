"""Tries: building, asking, filtering, searching a level, files and pickles."""

from __future__ import annotations

import io
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec_fast import ops
from genrec_fast.base.errors import InvalidTypeError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.trie import Trie, build_trie
from genrec_fast.ops.reference import trie_build as build_twin
from genrec_fast.ops.reference import trie_filter as filter_twin
from genrec_fast.ops.reference import trie_lookup as lookup_twin
from genrec_fast.ops.reference import trie_places as places_twin
from genrec_fast.ops.reference import trie_step as step_twin
from genrec_fast.ops.trie_build import TrieParts

from ..case import PACKAGE, Case, Rng, Unasked, target

FIELDS = TrieParts._fields
SIZES = (1, 2, 3, 5, 9, 9, 17, 40, 300)


def catalog(rng: Rng) -> tuple[Tensor, tuple[int, ...]]:
    """Codes ``[N, L]`` and the sizes of the codebooks."""
    sizes = tuple(rng.choice(SIZES) for _ in range(rng.choice((1, 2, 2, 3, 3, 4, 8))))
    items = rng.choice((1, 2, 5, 17, 40, 70))
    return torch.stack([rng.whole(0, size, items) for size in sizes], 1), sizes


def some_trie(rng: Rng) -> tuple[Trie, Tensor]:
    codes, sizes = catalog(rng)
    return build_trie(codes, codebook_sizes=sizes), codes


def parts_of(trie: Any) -> TrieParts:
    return TrieParts(*(getattr(trie, name) for name in FIELDS))


# ---- building


def _whole_codes(item_codes: Any) -> Tensor:
    codes = item_codes.numpy() if isinstance(item_codes, Tensor) else np.asarray(item_codes)
    if codes.dtype.kind not in "iu":
        raise TypeError(f"codes of {codes.dtype}")
    return torch.from_numpy(codes.astype(np.int64))


def _built(item_codes: Any, codebook_sizes: Any = None) -> TrieParts:
    codes = _whole_codes(item_codes)
    sizes = None if codebook_sizes is None else [int(size) for size in codebook_sizes]
    if int(codes.min()) < 0 or int(codes.max()) >= 65536 or (sizes and bool((codes >= torch.tensor(sizes)).any())):
        raise ValueError("a code outside")
    return build_twin.trie_build(codes, sizes)


def _catalog_of_any_kind(rng: Rng) -> dict[str, Any]:
    codes, sizes = catalog(rng)
    kind = rng.choice((torch.int64, torch.int32, torch.int16, torch.int64))
    given: Any = codes.to(kind)
    form = rng.random()
    if form < 0.3:
        given = given.numpy().astype(rng.choice((np.int64, np.uint16, np.int32, np.uint64)))
    elif form < 0.5:
        given = codes.tolist()
    return {"item_codes": given, "codebook_sizes": rng.choice((None, sizes, list(sizes)))}


def _lists(args: dict[str, Any]) -> frozenset[str]:
    """A truth value in a list of numbers is a number, as numpy reads it: what became of it is not judged."""
    return frozenset({"item_codes"}) if isinstance(args["item_codes"], list) else frozenset()


@target("trie_build")
def trie_build(rng: Rng) -> Case:
    args = _catalog_of_any_kind(rng)
    return Case(ops.trie_build, args, _built, opaque=_lists(args))


@target("build_trie", "Trie")
def public_build(rng: Rng) -> Case:
    def call(**given: Any) -> TrieParts:
        return parts_of(build_trie(given["item_codes"], codebook_sizes=given["codebook_sizes"]))

    args = _catalog_of_any_kind(rng)
    return Case(call, args, _built, opaque=_lists(args))


@target("Trie.__init__", "Trie", share=0.5)
def constructed(rng: Rng) -> Case:
    """A trie of altered parts is refused, or safe to ask."""
    trie, codes = some_trie(rng)
    return Case(_used(Trie, codes, rng), parts_of(trie)._asdict(), opaque=frozenset(FIELDS))


def _used(make: Any, codes: Tensor, rng: Rng) -> Any:
    """Makes a trie and asks it everything."""
    seed = rng.randrange(1 << 40)

    def call(**given: Any) -> list[Any]:
        trie = make(**given)
        if getattr(trie.device, "type", "none") != "cpu":
            return [str(trie.device)]
        few, draws = codes[:3], Rng().start(seed)
        rows = trie.lookup(few)
        answers: list[Any] = [rows, trie.stats(), repr(trie), trie.items(rows[rows >= 0]).values, trie.item_rows]
        step = start(trie, 1)
        for level in range(trie.num_levels):
            answers.append(trie.valid_codes(level, step.nodes[step.nodes >= 0]))
            size = trie.codebook_sizes[level]
            if not isinstance(size, int) or size > 1 << 20:  # such logits are not ours to make
                break
            logits = draws.normal(1, step.nodes.shape[1], size)
            step = ops.trie_step(
                trie, level, logits, step.nodes, step.scores, num_beams=3, allowed=torch.arange(trie.num_items) % 3 > 0
            )
        return answers

    return call


def start(trie: Any, users: int) -> ops.TrieStep:
    zeros = torch.zeros(users, 1)
    return ops.TrieStep(zeros, zeros.int(), zeros.int(), zeros.int(), zeros[:, 0])


@target("Trie.__setstate__", "Trie", share=0.5)
def restored(rng: Rng) -> Case:
    """A state that was altered before it became a trie again."""
    trie, codes = some_trie(rng)

    def make(**state: Any) -> Trie:
        made = object.__new__(Trie)
        made.__setstate__(state)
        return made

    return Case(_used(make, codes, rng), trie.__getstate__(), opaque=frozenset(FIELDS))


class Altered:
    """Bytes with some of them changed, cut or added to; the place of the change is drawn anew for every call."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def draw(self, seed: int) -> bytes:
        rng, raw = Rng(seed), bytearray(self.raw)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            place = rng.randrange(len(raw) or 1)
            way = rng.random()
            if way < 0.6:
                raw[place : place + 1] = bytes(byte ^ 1 << rng.randrange(8) for byte in raw[place : place + 1])
            elif way < 0.75:
                raw[place : place + 1] = bytes([rng.choice((0, 255, 127, 128))])
            elif way < 0.85:
                raw = raw[:place] or raw
            elif way < 0.95:
                raw[place:place] = rng.randbytes(rng.choice((1, 8)))
            else:
                del raw[place : place + rng.choice((1, 8, 64))]
        return bytes(raw)


FOLDER = tempfile.TemporaryDirectory(prefix="genrec-fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)


def scratch(name: str) -> Path:
    """A file of this process."""
    return Path(FOLDER.name) / f"{os.getpid()}-{name}"


@target("Trie.load", "Trie", share=0.5)
def loaded(rng: Rng) -> Case:
    """Files of ``save`` with bytes changed."""
    trie, codes = some_trie(rng)
    path = scratch("trie.safetensors")
    trie.save(path)
    file, use = Altered(path.read_bytes()), None

    def make(seed: int, verify: bool) -> Trie:
        path.write_bytes(file.raw if seed == 0 else file.draw(seed))
        return Trie.load(path, verify=verify)

    use = _used(make, codes, rng)
    return Case(use, {"seed": 0, "verify": rng.flip()}, opaque=frozenset({"seed", "verify"}), vary=_seeds)


def _seeds(rng: Rng, args: dict[str, Any]) -> tuple[dict[str, Any], str, str]:
    return {**args, "seed": rng.randrange(1, 1 << 40)}, "altered bytes", "wild"


@target("Trie.pickle", "Trie", share=0.2, calls=96)
def pickled(rng: Rng) -> Case:
    """Pickles with bytes changed: the unpickler may complain in its own words, a trie that comes out is safe."""
    trie, codes = some_trie(rng)
    file = Altered(pickle.dumps(trie))

    def make(seed: int) -> Trie:
        from genrec_fast.base.errors import CorruptFileError, GenrecError

        raw = file.raw if seed == 0 else file.draw(seed)
        try:
            found = Plain(raw).load()
        except GenrecError:
            raise
        except Exception as error:
            trace, ours = error.__traceback__, False
            while trace is not None:
                ours = ours or trace.tb_frame.f_code.co_filename.startswith(PACKAGE)
                trace = trace.tb_next
            if ours:
                raise
            raise CorruptFileError("the unpickler complains") from error
        if not isinstance(found, Trie):
            raise CorruptFileError("no trie")
        return found

    return Case(_used(make, codes, rng), {"seed": 0}, opaque=frozenset({"seed"}), vary=_seeds)


class Plain(pickle.Unpickler):
    """Knows a trie and tensors alone: changed bytes could name any function of Python."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(io.BytesIO(raw))

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return lambda raw: torch.load(io.BytesIO(raw), weights_only=True)
        if module in ("torch", "torch._utils", "torch.storage", "collections", "genrec_fast.catalog.trie"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


# ---- asking


@target("trie_lookup", share=1.5)
def trie_lookup(rng: Rng) -> Case:
    trie, codes = some_trie(rng)
    length = rng.randint(1, codes.shape[1])
    asked = codes[rng.whole(0, len(codes), rng.choice((0, 1, 6)))][:, :length].clone()
    if asked.numel() and rng.flip():
        asked[rng.randrange(len(asked)), rng.randrange(length)] += rng.choice((-1, 1, 1000))
    if rng.flip(0.2):
        asked = asked.view(1, *asked.shape)
    given: Any = parts_of(trie) if rng.flip(0.3) else trie
    args = {"trie": given, "codes": asked.to(rng.choice((torch.int32, torch.int64)))}

    def right(trie: Any, codes: Tensor) -> Tensor:
        return lookup_twin.trie_lookup(codes, trie.tokens, trie.child_bases, trie.child_deltas, trie.codebook_sizes)

    return Case(ops.trie_lookup, args, right)


@target("trie_places", "TriePlaces")
def trie_places(rng: Rng) -> Case:
    base, codes = some_trie(rng)
    few = codes[rng.whole(0, len(codes), rng.choice((1, 3)))].clone()
    few[0, -1] = rng.randrange(base.codebook_sizes[-1])
    added = build_trie(few, codebook_sizes=base.codebook_sizes)
    args = {name: parts_of(trie) if rng.flip(0.3) else trie for name, trie in (("base", base), ("added", added))}

    def right(base: Any, added: Any) -> Any:
        return places_twin.trie_places(*(part for trie in (base, added) for part in _levels(trie)))

    return Case(ops.trie_places, args, right)


def _levels(trie: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    return list(trie.tokens), list(trie.child_bases), list(trie.child_deltas)


@target("Trie.lookup", "Trie")
def method_lookup(rng: Rng) -> Case:
    trie, codes = some_trie(rng)
    return Case(
        trie.lookup,
        {"codes": codes[:, : rng.randint(1, codes.shape[1])]},
        lambda codes: lookup_twin.trie_lookup(
            codes, trie.tokens, trie.child_bases, trie.child_deltas, trie.codebook_sizes
        ),
    )


@target("Trie.items", "Trie")
def method_items(rng: Rng) -> Case:
    trie, codes = some_trie(rng)
    _, rows_of = torch.unique(codes, dim=0, return_inverse=True)
    args = {"rows": rng.whole(0, trie.num_rows, rng.choice((0, 1, 5)), dtype=rng.choice((torch.int32, torch.int64)))}

    def right(rows: Tensor) -> list[list[int]]:
        flat = rows.reshape(-1).tolist()
        if any(not 0 <= row < trie.num_rows for row in flat):
            raise ValueError("a row outside")
        return [(rows_of == row).nonzero()[:, 0].tolist() for row in flat]

    return Case(lambda rows: [r.tolist() for r in trie.items(rows).rows()], args, right)


@target("Trie.valid_codes", "Trie")
def method_valid_codes(rng: Rng) -> Case:
    trie, codes = some_trie(rng)
    level = rng.randrange(trie.num_levels)
    args = {
        "level": level,
        "nodes": rng.whole(
            0, trie.num_nodes(level), rng.choice((0, 1, 5)), dtype=rng.choice((torch.int32, torch.int64))
        ),
    }

    def right(level: int, nodes: Tensor) -> Tensor:
        level = int(level)
        prefixes = torch.unique(codes[:, :level], dim=0) if level else codes[:1, :0]
        out = torch.zeros(len(nodes), trie.codebook_sizes[level], dtype=torch.bool)
        for i, node in enumerate(nodes.tolist()):
            if not 0 <= node < len(prefixes):
                raise ValueError("a node outside")
            out[i, codes[(codes[:, :level] == prefixes[node]).all(1), level]] = True
        return out

    return Case(trie.valid_codes, args, right)


@target("Trie.num_nodes", "Trie", share=0.2)
def method_num_nodes(rng: Rng) -> Case:
    trie, codes = some_trie(rng)

    def right(level: int) -> int:
        if not 0 <= int(level) <= codes.shape[1]:
            raise ValueError("level")
        return len(torch.unique(codes[:, : int(level)], dim=0)) if int(level) else 1

    return Case(trie.num_nodes, {"level": rng.randint(0, codes.shape[1])}, right)


@target("Trie.to", "Trie", share=0.2)
def method_to(rng: Rng) -> Case:
    trie, _ = some_trie(rng)

    def right(device: Any) -> str:
        return str(torch.device(device))

    return Case(
        lambda device: str(trie.to(device).device),
        {"device": rng.choice(("cpu", "meta"))},
        right,
        allows=(RuntimeError, TypeError),
    )


# ---- filters


def _filter_arguments(rng: Rng, trie: Trie, users: int) -> dict[str, Any]:
    items, args = trie.num_items, {}
    if rng.flip(0.7):
        shape = rng.choice(((items,), (users, items), (1, items)))
        args["allowed"] = rng.mask(*shape, probability=rng.choice((0.1, 0.6, 0.95)))
    if rng.flip(0.6):
        lengths = [rng.randint(0, 4) for _ in range(users)]
        values = rng.whole(0, items, sum(lengths), dtype=rng.choice((torch.int64, torch.int32)))
        args["exclude"] = Jagged(values, rng.offsets(lengths, torch.int64))
    return args


def _masks(trie: Any, allowed: Any, exclude: Any) -> tuple[Any, ...]:
    """bits, ranks, excluded, offsets: by the twins."""
    if isinstance(allowed, ops.TrieFilter):
        return allowed.bits, allowed.ranks, allowed.excluded, allowed.excluded_offsets
    bits = ranks = rows = offsets = None
    item_rows, num_rows = (
        lookup_twin.trie_lookup(_codes_of(trie), trie.tokens, trie.child_bases, trie.child_deltas, trie.codebook_sizes),
        trie.tokens[-1].numel(),
    )
    if allowed is not None:
        allowed = allowed.reshape(-1, trie.num_items)
        bits, ranks = filter_twin.pack_rows(filter_twin.allowed_rows(item_rows, num_rows, allowed))
    if exclude is not None:
        ids = exclude.values.long()
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= trie.num_items):
            raise ValueError("an item outside")
        rows, offsets = filter_twin.excluded_rows(item_rows, num_rows, allowed, ids, exclude.offsets)
    return bits, ranks, rows, offsets


def _codes_of(trie: Any) -> Tensor:
    """The semantic ID of every item, read from the trie in plain torch."""
    prefix, parents = None, None
    for level in range(len(trie.codebook_sizes)):
        offsets = lookup_twin.unpack_offsets(trie.child_bases[level], trie.child_deltas[level])
        parents = torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff())
        own = lookup_twin.widen(trie.tokens[level])[:, None]
        prefix = own if prefix is None else torch.cat([prefix[parents], own], 1)
    counts = lookup_twin.unpack_offsets(trie.leaf_bases, trie.leaf_deltas).diff()
    out = torch.empty(trie.num_items, len(trie.codebook_sizes), dtype=torch.int64)
    assert prefix is not None
    out[trie.leaf_items.long()] = torch.repeat_interleave(prefix, counts, dim=0)
    return out


@target("trie_filter", "TrieFilter")
def trie_filter(rng: Rng) -> Case:
    trie, _ = some_trie(rng)
    args = {"trie": trie, "allowed": None, "exclude": None} | _filter_arguments(rng, trie, rng.randint(0, 3))

    def call(**given: Any) -> tuple[Any, ...]:
        found = ops.trie_filter(given["trie"], allowed=given["allowed"], exclude=given["exclude"])
        return found.bits, found.ranks, found.excluded, found.excluded_offsets

    return Case(call, args, _masks)


@target("TrieFilter.keeps", "TrieFilter")
def keeps(rng: Rng) -> Case:
    trie, _ = some_trie(rng)
    users = rng.randint(1, 3)
    settings = {"allowed": None, "exclude": None} | _filter_arguments(rng, trie, users)
    made = ops.trie_filter(trie, **settings)
    count = rng.choice((0, 1, 6))
    args = {"kept": made, "users": rng.whole(0, users, count), "items": rng.whole(0, trie.num_items, count)}

    def right(kept: Any, users: Tensor, items: Tensor) -> list[bool]:
        out = []
        for user, item in zip(users.tolist(), items.tolist(), strict=True):
            if not 0 <= item < trie.num_items or user < 0 or (made.num_users is not None and user >= made.num_users):
                raise ValueError("outside")
            fine = True
            if settings["allowed"] is not None:
                rows = settings["allowed"].reshape(-1, trie.num_items)
                fine = bool(rows[user if len(rows) > 1 else 0, item])
            if settings["exclude"] is not None:
                fine = fine and item not in settings["exclude"][user].tolist()
            out.append(fine)
        return out

    def call(kept: Any, users: Any, items: Any) -> list[bool]:
        if not isinstance(kept, ops.TrieFilter):
            raise InvalidTypeError("no filter to ask")
        found: list[bool] = kept.keeps(users, items).tolist()
        return found

    return Case(call, args, right)


# ---- a level of a search


@target("trie_step", "TrieStep", share=3.0, calls=64)
def trie_step(rng: Rng) -> Case:
    trie, _ = some_trie(rng)
    level, users, beams = rng.randrange(trie.num_levels), rng.randint(0, 3), rng.choice((1, 1, 3, 7))
    size = trie.codebook_sizes[level]
    dtype = rng.choice((torch.float32, torch.float32, torch.bfloat16, torch.float16))
    logits = (
        rng.whole(-2, 3, users, beams, size).to(dtype) if rng.flip(0.3) else rng.normal(users, beams, size, dtype=dtype)
    )
    if rng.flip(0.2):
        logits = logits.masked_fill(rng.mask(users, beams, size, probability=0.3), -torch.inf)
    nodes = rng.whole(-1 if rng.flip(0.3) else 0, trie.num_nodes(level), users, beams, dtype=torch.int32)
    scores = -torch.rand(users, beams, generator=rng.torch)
    if rng.flip(0.2):
        scores = scores.masked_fill(rng.mask(users, beams, probability=0.3), -torch.inf)
    normalize = rng.choice(("all", "all", "valid"))
    args: dict[str, Any] = {
        "trie": trie,
        "level": level,
        "logits": logits,
        "nodes": nodes,
        "scores": scores,
        "num_beams": rng.choice((1, 2, 5, 50)),
        "normalize": normalize,
    }
    if normalize == "all" and rng.flip(0.3):
        args["log_sums"] = logits.float().logsumexp(2).nan_to_num(0, 0, 0) + rng.choice((0.0, 1.0, -1.0))
    if rng.flip(0.5):
        settings = _filter_arguments(rng, trie, users)
        args |= {"allowed": ops.trie_filter(trie, **settings)} if rng.flip() else settings

    return Case(ops.trie_step, args, _stepped)


def _stepped(**given: Any) -> Any:
    trie, level = given["trie"], int(given["level"])
    masks = _masks(trie, given.get("allowed"), given.get("exclude"))
    logits, nodes, scores = given["logits"], given["nodes"], given["scores"]
    sums = given.get("log_sums")
    live = (nodes >= 0) & (scores != -torch.inf)
    highest = logits.float().amax(-1)
    if bool((live & ~(highest < torch.inf)).any()) or bool(((nodes >= 0) & ~(scores < torch.inf)).any()):
        raise ValueError("a NaN or an infinity")
    if sums is not None and bool((live & (highest > -torch.inf) & ~(sums < torch.inf)).any()):
        raise ValueError("a log-sum")
    if int(given["num_beams"]) > 4096:
        raise Unasked
    if bool(((nodes < -1) | (nodes >= (1 if level == 0 else trie.tokens[level - 1].numel()))).any()):
        raise ValueError("a node outside")
    found = step_twin.trie_step(
        trie, level, logits, nodes, scores, int(given["num_beams"]), given["normalize"] == "valid", *masks, sums
    )
    return ops.TrieStep(*found)


@target("trie_search", "trie_step", "trie_filter", share=0.1)
def whole_search(rng: Rng) -> Case:
    """All levels, one after the other, with a prepared filter: each compared with its twin."""
    trie, codes = some_trie(rng)
    users = rng.randint(1, 3)
    settings = _filter_arguments(rng, trie, users)
    logits = [rng.normal(users, 1, size) for size in trie.codebook_sizes]
    args = {
        "trie": trie,
        "logits": logits,
        "keep": ops.trie_filter(trie, **settings) if settings else None,
        "num_beams": rng.choice((1, 4, 9)),
    }

    def walk(step: Any) -> Any:
        def call(trie: Any, logits: Any, keep: Any, num_beams: Any) -> list[Any]:
            if step is _stepped and int(num_beams) > 4096:
                raise Unasked
            now, out = start(trie, users), []
            for level in range(len(codes[0])):
                wide = logits[level].expand(-1, now.nodes.shape[1], -1)
                now = step(
                    trie=trie,
                    level=level,
                    logits=wide,
                    nodes=now.nodes,
                    scores=now.scores,
                    num_beams=num_beams,
                    normalize="all",
                    allowed=keep,
                )
                out.append(now)
            return out

        return call

    # What torch itself says of hostile logits in expand() is not ours: only the trie, the filter and the number change.
    return Case(walk(ops.trie_step), args, walk(_stepped), fixed=frozenset({"logits"}))
