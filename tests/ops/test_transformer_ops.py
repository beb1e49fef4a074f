"""Native inference against its twin: every kind of layer, on every instruction set."""

from __future__ import annotations

import contextlib
import itertools
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformer_stacks import offsets_of, random_weights

from genrec_fast import ops
from genrec_fast.base.errors import CorruptFileError, InvalidTypeError, InvalidValueError
from genrec_fast.ops.reference import transformer as twin
from genrec_fast.ops.reference import transformer_head as twin_head
from genrec_fast.ops.reference import transformer_step as twin_step
from genrec_fast.ops.transformer_pack import pack_stacks, unpack_stacks, unpack_weights
from genrec_fast.ops.transformer_spec import TransformerSpec
from shared.isas import every_isa


@st.composite
def cases(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999), "seed"))
    num_kv_heads, group = draw(st.integers(1, 2), "kv heads"), draw(st.integers(1, 3), "group")
    head_width = draw(st.sampled_from([2, 5, 16, 20, 33]), "head width")
    spec = TransformerSpec(
        width=draw(st.sampled_from([6, 8, 17, 32, 50]), "width"),
        num_layers=draw(st.integers(1, 2), "layers"),
        num_heads=num_kv_heads * group,
        num_kv_heads=num_kv_heads,
        head_width=head_width,
        ff_width=draw(st.sampled_from([1, 24, 70]), "ff"),
        head_size=draw(st.sampled_from([1, 37, 130]), "vocabulary"),
        cross_width=draw(st.sampled_from([0, 0, 19]), "cross"),
        rotary_width=draw(st.sampled_from([0, 2, head_width // 2 * 2]), "rotary"),
        window=draw(st.sampled_from([0, 0, 3]), "window"),
        activation=draw(st.sampled_from(["relu", "gelu", "gelu_tanh", "silu"]), "activation"),
        gated=draw(st.booleans(), "gated"),
        norm=draw(st.sampled_from(["rms", "layer"]), "norm"),
        qk_norm=draw(st.booleans(), "qk norm"),
        score_scale=head_width**-0.5,
    )
    lengths = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4), "lengths")
    beams = draw(st.lists(st.integers(1, 60), min_size=0, max_size=3), "beams")
    biases, relative = draw(st.booleans(), "biases"), draw(st.booleans(), "relative")
    return SimpleNamespace(
        spec=spec,
        weights=random_weights(spec, generator, biases),
        lengths=lengths,
        beams=beams,
        relative=relative,
        known=draw(st.booleans(), "first layer known"),
        generator=generator,
    )


def run(case, ops, weights, seed):
    """Every output of a prefill, some steps and the head, by the ops or by their twins."""
    generator = torch.Generator().manual_seed(seed)
    (stack,), _, _ = unpack_stacks(weights)
    spec, users = case.spec, len(case.lengths)
    longest = max(case.lengths) + len(case.beams) + 1
    tables = {"rotary": None, "distance": None, "cross": None, "cross_offsets": None}
    angles = torch.randn(longest, spec.rotary_width // 2, generator=generator)
    if spec.rotary_width:
        tables["rotary"] = torch.cat([angles.cos(), angles.sin()], 1)
    if case.relative:
        tables["distance"] = torch.randn(spec.num_heads, 2 * longest - 1, generator=generator)
    outs = []

    def tables_of(rows):
        if not case.known:
            return {**tables, "first_table": None, "tokens": None}
        other = torch.Generator().manual_seed(seed)
        tokens = torch.randperm(len(rows) + 3, generator=other)
        whole = torch.randn(len(tokens), spec.width, generator=other)
        whole[tokens[: len(rows)]] = rows
        return {**tables, "first_table": ops.first(stack, whole), "tokens": tokens[: len(rows)]}

    if spec.cross_width:
        encoded = torch.randn(2 * sum(case.lengths), spec.cross_width, generator=generator)
        tables["cross_offsets"] = offsets_of([2 * length for length in case.lengths])
        tables["cross"] = ops.cross(stack, encoded, tables["cross_offsets"])
    offsets = offsets_of(case.lengths)
    rows = torch.randn(sum(case.lengths), spec.width, generator=generator)
    outs.append(ops.prefill(stack, rows, offsets, tables_of(rows), False)[0])
    hidden, cache = ops.prefill(stack, rows, offsets, tables_of(rows), True)
    outs.append(hidden)
    chain, ancestors = [], torch.empty(0, users, dtype=torch.int32)
    width = 1
    for beams in case.beams:
        parents = torch.randint(0, width, (users, beams), generator=generator)
        flat = (parents + torch.arange(users)[:, None] * width).flatten()
        ancestors = ancestors[:, flat] if not chain else torch.cat([ancestors[:, flat], flat[None].int()])
        width = beams
        rows = torch.randn(users * beams, spec.width, generator=generator)
        hidden, kept = ops.step(stack, rows, offsets, cache, chain, ancestors.contiguous(), tables_of(rows))
        chain.append(kept)
        if len(chain) == 1:
            ancestors = torch.empty(0, users * beams, dtype=torch.int32)
        outs += [hidden, kept]
    logits, sums = ops.head(stack, hidden, spec.head_size // 3, spec.head_size, True)
    part, _ = ops.head(stack, hidden, spec.head_size // 3, spec.head_size // 2, False)
    return [*outs, logits, sums, part]


KERNEL = SimpleNamespace(
    first=ops.transformer_first,
    cross=ops.transformer_cross,
    prefill=lambda stack, rows, offsets, tables, last: ops.transformer_prefill(
        stack, rows, offsets, only_last=last, **tables
    ),
    step=lambda stack, rows, offsets, cache, chain, ancestors, tables: ops.transformer_step(
        stack, rows, offsets, cache, chain, ancestors, **tables
    ),
    head=lambda stack, hidden, first, last, sums: ops.transformer_head(stack, hidden, first, last, log_sums=sums),
)


def _tables(tables):
    names = ("rotary", "distance", "cross", "cross_offsets", "first_table", "tokens")
    return [tables[name] for name in names]


TWIN = SimpleNamespace(
    first=lambda stack, rows: twin.transformer_first(stack.weights, rows, stack.number, stack.spec.mixed),
    cross=lambda stack, rows, offsets: twin.transformer_cross(stack.weights, rows, offsets, stack.number),
    prefill=lambda stack, rows, offsets, tables, last: twin.transformer_prefill(
        stack.weights, rows, offsets, *_tables(tables), stack.number, stack.spec.num_layers, last
    ),
    step=lambda stack, rows, offsets, cache, chain, ancestors, tables: twin_step.transformer_step(
        stack.weights,
        rows,
        offsets,
        cache,
        chain,
        ancestors,
        None,
        *_tables(tables),
        stack.number,
        stack.spec.num_layers,
        stack.spec.kept,
    ),
    head=lambda stack, hidden, first, last, sums: twin_head.transformer_head(
        stack.weights, hidden, stack.number, first, last, sums
    ),
)


@settings(max_examples=60)
@given(case=cases())
def test_every_instruction_set_agrees_with_the_twin(case):
    for _ in every_isa():
        weights = pack_stacks([(case.spec, case.weights)])
        for ours, theirs in zip(run(case, KERNEL, weights, 0), run(case, TWIN, weights, 0), strict=True):
            scale = max(1.0, theirs.abs().max().item()) if theirs.numel() else 1.0
            torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-5 * scale)


@settings(max_examples=60)
@given(
    case=cases(),
    precision=st.sampled_from(["float32", "bfloat16", "int8"]),
    threads=st.sampled_from([1, 2]),
    cuts=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40)), min_size=4, max_size=4),
    last=st.booleans(),
)
def test_rows_behind_a_past_have_the_bits_of_all_rows_read_at_once(case, precision, threads, cuts, last):
    """Each user's past is a cache of his own: of his first rows, and of others behind them that are rolled back."""
    for _ in every_isa():
        weights = pack_stacks([(case.spec, case.weights)], precision)
        (stack,), _, _ = unpack_stacks(weights)
        spec, generator = case.spec, torch.Generator().manual_seed(5)
        reach = 2 * max(case.lengths) + 50
        tables = dict.fromkeys(("rotary", "distance", "cross", "cross_offsets"))
        angles = torch.randn(reach, spec.rotary_width // 2, generator=generator)
        if spec.rotary_width:
            tables["rotary"] = torch.cat([angles.cos(), angles.sin()], 1)
        if case.relative:
            tables["distance"] = torch.randn(spec.num_heads, 2 * reach - 1, generator=generator)
        lengths = case.lengths
        encoded = torch.randn(2 * sum(lengths), spec.cross_width or 1, generator=generator)
        alone = [{} for _ in lengths]
        if spec.cross_width:
            tables["cross_offsets"] = offsets_of([2 * length for length in lengths])
            tables["cross"] = ops.transformer_cross(stack, encoded, tables["cross_offsets"])
            for user, part in enumerate(encoded.split([2 * length for length in lengths])):
                ends = offsets_of([2 * lengths[user]])
                alone[user] = {"cross": ops.transformer_cross(stack, part, ends), "cross_offsets": ends}
        prompts = [torch.randn(length, spec.width, generator=generator) for length in lengths]
        whole, cache = ops.transformer_prefill(stack, torch.cat(prompts), offsets_of(lengths), only_last=last, **tables)
        past, used, held = [], [], []
        for user, (share, more) in enumerate(cuts[: len(lengths)]):
            used.append(min(int(share * lengths[user]), lengths[user] - 1))
            held.append(used[-1] + more if used[-1] else 0)
            if not used[-1]:
                past.append(torch.empty(0))
                continue
            other = torch.cat([prompts[user][: used[-1]], torch.randn(more, spec.width, generator=generator)])
            own = {**tables, **alone[user]}
            past.append(ops.transformer_prefill(stack, other, offsets_of([held[-1]]), **own)[1])
        new = [row[count:] for row, count in zip(prompts, used, strict=True)]
        given = (torch.cat(new), offsets_of([len(row) for row in new]))
        known = {"past": past, "past_rows": torch.tensor(held), "past_used": torch.tensor(used)}
        torch.set_num_threads(threads)
        try:
            hidden, joined = ops.transformer_prefill(stack, *given, only_last=last, **tables, **known)
        finally:
            torch.set_num_threads(1)
        ends = [0, *itertools.accumulate(lengths)]
        kept = range(len(lengths)) if last else [
            at for user, count in enumerate(used) for at in range(ends[user] + count, ends[user + 1])
        ]  # fmt: skip
        assert torch.equal(hidden, whole[list(kept)])
        # the padding of a cache is not defined: seen through a step
        rows = torch.randn(2 * len(lengths), spec.width, generator=generator)
        none = torch.empty(0, len(rows), dtype=torch.int32)
        steps = [
            ops.transformer_step(stack, rows, offsets_of(lengths), found, [], none, **tables)[0]
            for found in (cache, joined)
        ]
        assert torch.equal(*steps)
        if precision == "float32":
            theirs, copied = twin.transformer_prefill(
                stack.weights, *given, *_tables({"first_table": None, "tokens": None, **tables}),
                stack.number, spec.num_layers, last, *known.values(),
            )  # fmt: skip
            torch.testing.assert_close(hidden, theirs, rtol=0, atol=5e-5 * max(1.0, theirs.abs().max().item()))
            assert copied.shape == joined.shape


def test_a_past_that_does_not_fit_is_named():
    case = small()
    (stack,), _, _ = unpack_stacks(pack_stacks([(case.spec, case.weights)]))
    rotary, offsets, rows = torch.randn(64, 12), offsets_of([2, 1]), torch.randn(3, 24)
    _, past = ops.transformer_prefill(stack, torch.randn(5, 24), offsets_of([5]), rotary=rotary)

    fits = [past, torch.empty(0)]

    def read(past=fits, held=(5, 0), used=(4, 0), stack=stack):
        counts = {
            name: None if value is None else torch.tensor(value)
            for name, value in {"past_rows": held, "past_used": used}.items()
        }
        return ops.transformer_prefill(stack, rows, offsets, rotary=rotary, past=past, **counts)

    assert read()[0].shape == (2, 24)
    for change, error, text in (
        ({"past": [past]}, InvalidValueError, "past must hold a cache for each of 2 users, got 1"),
        ({"past": ()}, InvalidValueError, "past_rows and past_used must be None without past"),
        ({"past": [past, None]}, InvalidTypeError, r"past\[1\] must be a tensor, got NoneType"),
        ({"past": [past.double(), past]}, InvalidTypeError, r"past\[0\] must be float32 \[floats\], got torch.float64"),
        ({"past": [past[:-1], past]}, InvalidValueError, r"past\[0\] must hold \d+ floats for 5 rows of this stack"),
        ({"held": None}, InvalidTypeError, "past_rows must be a tensor, got NoneType"),
        ({"used": [4]}, InvalidValueError, r"past_used must be int64 \[2\], got torch.int64 \[1\]"),
        ({"used": [6, 0]}, InvalidValueError, r"past_used must be in \[0, past_rows\].*got 6 of 5 for user 0"),
        ({"used": [4, 1]}, InvalidValueError, r"past_used must be in \[0, past_rows\].*got 1 of 0 for user 1"),
        ({"used": [4, -1]}, InvalidValueError, "past_used must be|offsets must give every user"),
        ({"used": [1 << 62, 1 << 62]}, InvalidValueError, "offsets must be below"),
    ):
        with pytest.raises(error, match=f"transformer_prefill: .*{text}|transformer_prefill: {text}"):
            read(**change)
    bidirectional = small(causal=False)
    (stack,), _, _ = unpack_stacks(pack_stacks([(bidirectional.spec, bidirectional.weights)]))
    with pytest.raises(InvalidValueError, match="past must be empty where rows see those behind them"):
        read(stack=stack)


@st.composite
def trees(draw):
    """Rows of some calls, each behind the prompt or any row made before it, of this call or an earlier one."""
    return [draw(st.lists(st.integers(0, 1 << 30), min_size=1, max_size=7)) for _ in range(draw(st.integers(1, 3)))]


@settings(max_examples=60)
@given(case=cases(), tree=trees(), precision=st.sampled_from(["float32", "bfloat16"]), threads=st.sampled_from([1, 2]))
def test_a_tree_has_the_bits_of_its_rows_step_by_step(case, tree, precision, threads):
    (stack,), _, _ = unpack_stacks(pack_stacks([(case.spec, case.weights)], precision))
    spec, users, generator = case.spec, len(case.lengths), torch.Generator().manual_seed(2)
    reach = max(case.lengths) + sum(map(len, tree)) + 1
    tables = {}
    angles = torch.randn(reach, spec.rotary_width // 2, generator=generator)
    if spec.rotary_width:
        tables["rotary"] = torch.cat([angles.cos(), angles.sin()], 1)
    if case.relative:
        tables["distance"] = torch.randn(spec.num_heads, 2 * reach - 1, generator=generator)
    if spec.cross_width:
        encoded = torch.randn(2 * sum(case.lengths), spec.cross_width, generator=generator)
        tables["cross_offsets"] = offsets_of([2 * length for length in case.lengths])
        tables["cross"] = ops.transformer_cross(stack, encoded, tables["cross_offsets"])
    offsets = offsets_of(case.lengths)
    prompts = torch.randn(sum(case.lengths), spec.width, generator=generator)
    _, cache = ops.transformer_prefill(stack, prompts, offsets, **tables)
    chain, alone, paths = [], [], []  # alone: of every path the rows' hidden and kept, one beam per user
    for call, parents in enumerate(tree):
        first, wide, own = len(paths), len(parents), []
        for row, parent in enumerate(parents):
            before = parent % (len(paths) + 1)
            own.append([] if before == 0 else [*paths[before - 1][0], paths[before - 1][1]])
            paths.append((own[-1], (call, row, len(paths))))
        depth = max(map(len, own))
        parts, ancestors = (torch.full((depth, users, wide), -1, dtype=torch.int32) for _ in range(2))
        for row, path in enumerate(own):
            for at, (part, place, _) in enumerate(path):
                parts[at, :, row] = part
                ancestors[at, :, row] = torch.arange(users) * len(tree[part]) + place
        rows = torch.randn(users, wide, spec.width, generator=generator)
        flat = (rows.flatten(0, 1), offsets, cache, chain, ancestors.flatten(1))
        torch.set_num_threads(threads)
        try:
            hidden, kept = ops.transformer_step(stack, *flat, parts=parts.flatten(1), **tables)
        finally:
            torch.set_num_threads(1)
        theirs, _ = twin_step.transformer_step(
            *(stack.weights, *flat, parts.flatten(1)),
            *_tables({"first_table": None, "tokens": None, "rotary": None, "distance": None, "cross": None}
                     | {"cross_offsets": None} | tables),
            *(stack.number, spec.num_layers, spec.kept),
        )  # fmt: skip
        if precision == "float32":
            torch.testing.assert_close(hidden, theirs, rtol=0, atol=5e-5 * max(1.0, theirs.abs().max().item()))
        for row, path in enumerate(own):
            so_far = [alone[number] for _, _, number in path]
            lone = torch.arange(users, dtype=torch.int32).expand(len(path), -1).contiguous()
            one, keeps = ops.transformer_step(
                *(stack, rows[:, row].contiguous(), offsets, cache, so_far, lone), **tables
            )
            alone.append(keeps)
            assert torch.equal(hidden.view(users, wide, -1)[:, row], one)
            assert torch.equal(kept.view(spec.num_layers, users, wide, -1)[:, :, row], keeps)
        assert first + wide == len(paths)
        chain.append(kept)


def test_parts_of_a_tree_that_do_not_fit_are_named():
    case = small()
    (stack,), _, _ = unpack_stacks(pack_stacks([(case.spec, case.weights)]))
    offsets, rows, rotary = offsets_of([2]), torch.randn(2, 24), torch.randn(9, 12)
    _, cache = ops.transformer_prefill(stack, rows, offsets, rotary=rotary)

    def step(parts, ancestors):
        given = (torch.tensor(part, dtype=torch.int32) for part in (ancestors, parts))
        ancestors, parts = given
        return ops.transformer_step(
            stack, rows, offsets, cache, [], ancestors, parts=parts, rotary=rotary
        )  # fmt: skip

    step([[-1, 0]], [[0, 0]])
    with pytest.raises(InvalidValueError, match=r"ancestors must be rows of step 0, below 1, got 1 for row 1"):
        step([[-1, 0]], [[0, 1]])
    with pytest.raises(InvalidValueError, match=r"parts must be steps in \[0, 0\], or -1 behind the last, got 1"):
        step([[-1, 1]], [[0, 0]])
    with pytest.raises(InvalidValueError, match=r"parts must be int32 \[d, 2\], got torch.int32 \[1, 1\]"):
        step([[-1]], [[0]])


def small(**changes):
    spec = TransformerSpec(
        **{
            **{"width": 24, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "head_width": 12, "ff_width": 40},
            **{"head_size": 50, "rotary_width": 12, "gated": True, "activation": "silu", **changes},
        }
    )
    weights = random_weights(spec, torch.Generator().manual_seed(3), True)
    return SimpleNamespace(
        spec=spec, weights=weights, lengths=[3, 40, 9], beams=[4, 130, 30], relative=True, known=False
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("changes", [{}, {"qk_norm": True, "num_layers": 1}, {"cross_width": 24, "norm": "layer"}])
def test_a_known_first_layer_gives_the_same_bits(precision, changes):
    case = small(**changes)
    weights = pack_stacks([(case.spec, case.weights)], precision)
    made = run(case, KERNEL, weights, 5)
    case.known = True
    for one, other in zip(made, run(case, KERNEL, weights, 5), strict=True):
        assert torch.equal(one, other)


def test_bfloat16_weights_are_rounded_and_nothing_else_is():
    case = small()
    weights = pack_stacks([(case.spec, case.weights)], "bfloat16")
    found = unpack_weights(unpack_stacks(weights)[0][0])
    for name, tensor in case.weights.items():
        matrix = tensor.dim() == 2
        assert torch.equal(found[name], tensor.to(torch.bfloat16).float() if matrix else tensor)
    for ours, theirs in zip(run(case, KERNEL, weights, 1), run(case, TWIN, weights, 1), strict=True):
        # Rows are rounded too, in the kernel alone: 2^-9 relative each.
        assert (ours - theirs).abs().max() < 0.02 * theirs.abs().max()


@settings(max_examples=40)
@given(case=cases(), precision=st.sampled_from(["bfloat16", "int8"]))
def test_rounded_keys_and_values_lie_where_the_twin_reads_them(case, precision):
    """Prompts read by the kernel, steps by the twin: the caches are one, whatever widths and lengths."""
    mixed = SimpleNamespace(**{**vars(KERNEL), "step": TWIN.step, "head": TWIN.head})
    for _ in every_isa():
        weights = pack_stacks([(case.spec, case.weights)], precision)
        for ours, theirs in zip(run(case, KERNEL, weights, 3), run(case, mixed, weights, 3), strict=True):
            if theirs.numel():
                assert (ours - theirs).abs().mean() < 0.1 * theirs.abs().mean()


def quantized_linear(x, whole, scales):
    """Rows rounded to 127 steps of their largest channel, whole numbers multiplied exactly."""
    largest = x.abs().amax(1, keepdim=True)
    inverse = torch.where(largest > 1e-30, 127 / largest, 0)
    steps = (x * inverse).round()
    return (steps.double() @ whole.double().T).float() * (scales * (largest / 127))


@settings(max_examples=40)
@given(
    rows=st.integers(0, 30),
    width=st.integers(1, 70),
    tokens=st.integers(1, 70),
    seed=st.integers(0, 99),
    extreme=st.booleans(),
)
def test_int8_products_are_exact_on_every_instruction_set(rows, width, tokens, seed, extreme):
    generator = torch.Generator().manual_seed(seed)
    spec = small(width=width, head_size=tokens).spec
    weights = random_weights(spec, generator, False)
    hidden = torch.randn(rows, width, generator=generator)
    if extreme:  # sums as large as they get
        weights["head.weight"] = weights["head.weight"].sign() + 0.0
        hidden = hidden.sign()
    if rows > 2:
        hidden[1] = 0
    found = []
    for _ in every_isa():
        stack = unpack_stacks(pack_stacks([(spec, weights)], "int8"))[0][0]
        logits, sums = ops.transformer_head(stack, hidden, 0, tokens)
        found.append(logits)
        weight = weights["head.weight"]
        scales = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        expected = quantized_linear(hidden, (weight / scales[:, None]).round(), scales)
        torch.testing.assert_close(logits, expected, rtol=2e-6, atol=1e-7)
        torch.testing.assert_close(sums, logits.logsumexp(1), rtol=0, atol=1e-5)
    assert all(torch.equal(logits, found[0]) for logits in found)


def test_int8_stays_near_the_weights():
    case = small()
    weights = pack_stacks([(case.spec, case.weights)], "int8")
    assert weights.numel() < 0.5 * pack_stacks([(case.spec, case.weights)]).numel()
    exact = pack_stacks([(case.spec, case.weights)])
    for ours, theirs in zip(run(case, KERNEL, weights, 1), run(case, TWIN, weights, 1), strict=True):
        assert (ours - theirs).abs().mean() < 0.03 * theirs.abs().mean()  # rows are rounded in the kernel alone
    for ours, theirs in zip(run(case, KERNEL, weights, 1), run(case, KERNEL, exact, 1), strict=True):
        assert (ours - theirs).abs().max() < 0.1 * theirs.abs().max()


@pytest.mark.threads
def test_threads_do_not_change_a_bit(threads):
    case = small()
    weights = pack_stacks([(case.spec, case.weights)])
    alone = run(case, KERNEL, weights, 2)
    threads(3)
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(run(case, KERNEL, weights, 2), alone, strict=True))


def test_a_block_says_what_it_holds():
    case = small(qk_norm=True, cross_width=7, window=5, norm="layer", causal=False, epsilon=1e-5)
    tensors = {"embedding": torch.randn(5, 3).to(torch.bfloat16), "table": torch.arange(4)}
    weights = pack_stacks([(case.spec, case.weights)], tensors=tensors, note={"family": "mine"})
    (stack,), found, note = unpack_stacks(weights)
    assert stack.spec == case.spec and stack.number == 0
    assert note == {"family": "mine"} and all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert found["embedding"].untyped_storage().data_ptr() == weights.untyped_storage().data_ptr()
    own = unpack_weights(stack)
    assert own.keys() == case.weights.keys() and all(torch.equal(own[name], case.weights[name]) for name in own)


def test_altered_blocks_are_refused():
    case = small()
    weights = pack_stacks([(case.spec, case.weights)])
    rows, offsets = torch.randn(52, 24), offsets_of(case.lengths)
    rotary = torch.randn(64, 12)
    good = unpack_stacks(weights)[0][0]
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        bad = weights.clone()
        word = int(torch.randint(0, 110, (1,), generator=generator))
        bad.view(torch.int64)[word] = int(torch.randint(-(2**40), 2**40, (1,), generator=generator))
        with contextlib.suppress(InvalidValueError):  # a header may still be sound; what is read lies in the block then
            ops.transformer_prefill(good._replace(weights=bad), rows, offsets, rotary=rotary)
    with pytest.raises(InvalidValueError, match="is cut short"):
        ops.transformer_prefill(good._replace(weights=weights[:-64]), rows, offsets, rotary=rotary)
    with pytest.raises(CorruptFileError, match="whole"):
        unpack_stacks(weights[:-64])
    with pytest.raises(InvalidTypeError, match="uint8"):
        unpack_stacks(weights.float())


def test_what_does_not_fit_is_named():
    case = small()
    (stack,), _, _ = unpack_stacks(pack_stacks([(case.spec, case.weights)]))
    rows, offsets, rotary = torch.randn(52, 24), offsets_of(case.lengths), torch.randn(64, 12)
    prefill, step = ops.transformer_prefill, ops.transformer_step
    with pytest.raises(InvalidValueError, match="rotary must be given"):
        prefill(stack, rows, offsets)
    with pytest.raises(InvalidValueError, match="rotary must have 40 positions, got 30"):
        prefill(stack, rows, offsets, rotary=rotary[:30])
    with pytest.raises(InvalidValueError, match="at least one row, got 0 for user 1"):
        prefill(stack, rows, torch.tensor([0, 52, 52]), rotary=rotary)
    with pytest.raises(InvalidValueError, match="must start at 0, got 1"):
        prefill(stack, rows, torch.tensor([1, 52]), rotary=rotary)
    with pytest.raises(InvalidValueError, match="must end at the number of rows 52, got 51"):
        prefill(stack, rows, torch.tensor([0, 51]), rotary=rotary)
    with pytest.raises(InvalidValueError, match="rows must have 24 channels, got 23"):
        prefill(stack, rows[:, :23], offsets, rotary=rotary)
    with pytest.raises(InvalidTypeError, match="rows must be float32"):
        prefill(stack, rows.double(), offsets, rotary=rotary)
    with pytest.raises(InvalidValueError, match="distance must have 2 heads"):
        prefill(stack, rows, offsets, rotary=rotary, distance=torch.randn(3, 99))
    with pytest.raises(InvalidValueError, match="distance must have a table for rows of 40, got one for 39"):
        prefill(stack, rows, offsets, rotary=rotary, distance=torch.randn(2, 77))
    table, tokens = torch.randn(9, 48), torch.arange(52) % 9
    with pytest.raises(InvalidValueError, match="first_table and tokens must be given together"):
        prefill(stack, rows, offsets, rotary=rotary, tokens=tokens)
    with pytest.raises(InvalidValueError, match=r"first_table must be \[V, 48\], got \[9, 47\]"):
        prefill(stack, rows, offsets, rotary=rotary, first_table=table[:, 1:], tokens=tokens)
    with pytest.raises(InvalidValueError, match=r"tokens must be int64 \[52\], got torch.int64 \[51\]"):
        prefill(stack, rows, offsets, rotary=rotary, first_table=table, tokens=tokens[1:])
    with pytest.raises(InvalidValueError, match=r"tokens must be in \[0, 9\), got 9 for row 8"):
        prefill(stack, rows, offsets, rotary=rotary, first_table=table, tokens=tokens + tokens // 8)
    _, cache = prefill(stack, rows, offsets, rotary=rotary)
    six, none = torch.randn(6, 24), torch.empty(0, 6, dtype=torch.int32)
    _, kept = step(stack, six, offsets, cache, [], none, rotary=rotary)
    with pytest.raises(InvalidValueError, match="below 6, got 6 for row 2"):
        step(stack, six, offsets, cache, [kept], torch.tensor([[0, 1, 6, 0, 0, 0]], dtype=torch.int32), rotary=rotary)
    with pytest.raises(InvalidValueError, match=r"ancestors must be int32 \[1, 6\]"):
        step(stack, six, offsets, cache, [kept], none, rotary=rotary)
    with pytest.raises(InvalidValueError, match=r"rows must be \[3 \* W, D\]"):
        step(stack, six[:5], offsets, cache, [], none[:, :5], rotary=rotary)
    with pytest.raises(InvalidValueError, match="cache must hold"):
        step(stack, six, offsets, cache[:-1], [], none, rotary=rotary)
    with pytest.raises(InvalidValueError, match=r"chain\[0\] must be float32 \[2, R, 24\]"):
        step(stack, six, offsets, cache, [kept[:1]], torch.zeros(1, 6, dtype=torch.int32))
    with pytest.raises(InvalidValueError, match=r"must lie in \[0, 50\], got 3 and 51"):
        ops.transformer_head(stack, six, 3, 51)
    weights = dict(case.weights)
    with pytest.raises(InvalidValueError, match=r"must hold layers\.1\.down\.weight"):
        pack_stacks([(case.spec, {name: w for name, w in weights.items() if name != "layers.1.down.weight"})])
    with pytest.raises(InvalidValueError, match=r"head\.weight must be finite"):
        pack_stacks([(case.spec, {**weights, "head.weight": weights["head.weight"] * torch.nan})])
    with pytest.raises(InvalidValueError, match="has no nonsense"):
        pack_stacks([(case.spec, {**weights, "nonsense": torch.ones(1)})])
    with pytest.raises(InvalidValueError, match="dtype must be 'float32', 'bfloat16' or 'int8', got 'float64'"):
        pack_stacks([(case.spec, weights)], "float64")
    wide = TransformerSpec(width=1, num_layers=1, num_heads=1, num_kv_heads=1, head_width=1, ff_width=65_537)
    pack_stacks([(wide, random_weights(wide, torch.Generator(), False))])
    with pytest.raises(InvalidValueError, match=r"down must have at most 65536 columns in int8.*got 65537"):
        pack_stacks([(wide, random_weights(wide, torch.Generator(), False))], "int8")


def test_ops_are_registered_whole():
    case = small()
    (stack,), _, _ = unpack_stacks(pack_stacks([(case.spec, case.weights)]))
    rows, offsets, rotary = torch.randn(52, 24), offsets_of(case.lengths), torch.randn(64, 12)
    _, cache = ops.transformer_prefill(stack, rows, offsets, rotary=rotary)
    head = torch.ops.genrec_fast.transformer_head.default
    torch.library.opcheck(head, (stack.weights, rows, 0, 3, 9, True), test_utils=("test_schema", "test_faketensor"))
    step = (stack.weights, torch.randn(6, 24), offsets, cache, [], torch.empty(0, 6, dtype=torch.int32))
    tables = (rotary, None, None, None, None, None)
    first = torch.ops.genrec_fast.transformer_first.default
    mixed = stack.spec.mixed
    torch.library.opcheck(first, (stack.weights, rows, 0, mixed), test_utils=("test_schema", "test_faketensor"))
    torch.library.opcheck(
        torch.ops.genrec_fast.transformer_step.default,
        (*step, None, *tables, 0, 2, stack.spec.kept),
        test_utils=("test_schema", "test_faketensor"),
    )
    torch.library.opcheck(
        torch.ops.genrec_fast.transformer_prefill.default,
        (stack.weights, rows, offsets, *tables, 0, 2, True, [], None, None),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_many_users_go_in_groups():
    case = small()
    case.lengths = [50, 60, 1, 100, 3]
    weights = pack_stacks([(case.spec, case.weights)])
    for ours, theirs in zip(run(case, KERNEL, weights, 0), run(case, TWIN, weights, 0), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
