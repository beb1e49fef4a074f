"""The kernels of jagged_attention against the twin in float64: masks, biases, gradients, threads."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genrec_fast.base import errors
from genrec_fast.ops import ALiBi, RelativeTimeBias, T5Bias, jagged_attention
from shared.isas import every_isa


def offsets_of(lengths):
    return torch.tensor([0, *lengths]).cumsum(0)


@st.composite
def calls(draw):
    """Inputs (float32) and settings of one call."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**30), "seed"))

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    heads = draw(st.sampled_from([1, 2, 3]), "H")
    width, value_width = (draw(st.sampled_from([1, 3, 16, 17, 33, 40, 64]), name) for name in ("Dqk", "Dv"))
    lengths = draw(st.lists(st.sampled_from([0, 1, 2, 12, 13, 31, 50, 140]), max_size=4), "lengths")
    causal, kind = draw(st.booleans(), "causal"), draw(st.sampled_from(["silu", "softmax"]), "kind")
    settings = {"kind": kind, "causal": causal, "alpha": draw(st.sampled_from([None, 1.0 / width]), "alpha")}
    keys = list(lengths)
    if draw(st.booleans(), "cross"):
        keys = [length + draw(st.sampled_from([0, 1, 40]), "past") for length in lengths]
        settings["kv_offsets"] = offsets_of(keys)
    if draw(st.booleans(), "masked"):
        context = draw(st.sampled_from([0, 1, 2]), "context")
        settings["contextual_seq_len"] = context if all(n == 0 or n >= context for n in keys) else 0
        settings["max_attn_len"] = draw(st.sampled_from([0, 1, 5, 30]), "window")
        settings["min_full_attn_seq_len"] = draw(st.sampled_from([0, 3]), "full")
        room = [max(0, n - settings["contextual_seq_len"]) for n in keys]
        settings["num_targets"] = torch.tensor([draw(st.integers(0, n), "targets") for n in room], dtype=torch.int64)
        settings["target_group_size"] = draw(st.sampled_from([1, 2, 3]), "group")
    if draw(st.booleans(), "dropout"):
        settings |= {
            "dropout_p": draw(st.sampled_from([0.1, 0.6]), "p"),
            "seed": draw(st.integers(-(2**63), 2**63 - 1)),
        }
    longest = max([1, *keys])
    bias = draw(st.sampled_from(["none", "alibi", "t5", "time", "distance and time"]), "bias")
    if bias == "alibi":
        settings["bias"] = ALiBi(torch.rand(heads, generator=generator))
    elif bias == "t5":
        settings["bias"] = T5Bias(normal(32, heads), bidirectional=not causal)
    elif bias != "none":
        times = torch.randint(0, 10 ** draw(st.sampled_from([1, 4, 9]), "span"), (sum(keys),), generator=generator)
        if draw(st.booleans(), "sorted"):
            times = torch.cat([times[:0], *(row.sort().values for row in times.split(keys))])
        asked = None
        if sum(keys) != sum(lengths) or "kv_offsets" in settings or draw(st.booleans(), "asked"):
            asked = torch.randint(0, 10**9, (sum(lengths),), generator=generator)
        one_table = draw(st.booleans(), "one table")
        rows = () if one_table else (heads,)
        distance = normal(*rows, 2 * longest + 3) if bias != "time" else None
        settings["bias"] = RelativeTimeBias(distance, normal(*rows, 40), times, asked)
    q = normal(sum(lengths), heads, width)
    k, v = normal(sum(keys), heads, width), normal(sum(keys), heads, value_width)
    return (q, k, v, offsets_of(lengths)), settings, normal(sum(lengths), heads, value_width)


def tables_of(bias):
    """The bias' learned tables by name."""
    names = {ALiBi: ["slopes"], T5Bias: ["weight"], RelativeTimeBias: ["pos_w", "ts_w"]}.get(type(bias), [])
    return {name: getattr(bias, name) for name in names if getattr(bias, name) is not None}


def run(inputs, settings, grad, dtype, device="cpu"):
    """Result and gradients of q, k, v and the bias' tables."""

    def there(x):
        return x.to(device) if isinstance(x, torch.Tensor) else x

    *vectors, offsets = inputs
    leaves = [x.to(device, dtype, copy=True).requires_grad_() for x in vectors]
    changed = {name: there(value) for name, value in settings.items()}
    if "bias" in settings:
        bias = settings["bias"]
        tables = {name: table.to(device, dtype, copy=True).requires_grad_() for name, table in tables_of(bias).items()}
        changed["bias"] = type(bias)(**{name: there(value) for name, value in bias.__dict__.items()} | tables)
        leaves += tables.values()
    out = jagged_attention(*leaves[:3], offsets.to(device), **changed)
    out.backward(grad.to(device, dtype))
    return out.detach().cpu(), [torch.zeros_like(x).cpu() if x.grad is None else x.grad.cpu() for x in leaves]


@settings(max_examples=60)
@given(call=calls())
def test_every_instruction_set_agrees_with_the_twin(call):
    inputs, options, grad = call
    expected, expected_grads = run(inputs, options, grad, torch.float64)
    for _ in every_isa():
        near(run(inputs, options, grad, torch.float32), expected, expected_grads)


def near(found, expected, expected_grads, at_most=1e-5):
    result, grads = found
    torch.testing.assert_close(result.float(), expected.float(), rtol=0, atol=at_most)
    for index, (ours, theirs) in enumerate(zip(grads, expected_grads, strict=True)):
        # A table's entry sums thousands of slopes of both signs.
        bound = at_most * (1 if index < 3 else 10) * max(1.0, theirs.abs().max().item() if theirs.numel() else 0.0)
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=0, atol=bound)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(call=calls())
def test_every_device_agrees_with_the_twin(device, call):
    inputs, options, grad = call
    near(run(inputs, options, grad, torch.float32, device), *run(inputs, options, grad, torch.float64))


@pytest.mark.slow
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(call=calls())
def test_every_device_agrees_with_the_twin_in_many_cases(device, call):
    test_every_device_agrees_with_the_twin.hypothesis.inner_test(device, call)


def example(lengths=(50, 700, 3), heads=2, width=32):
    generator = torch.Generator().manual_seed(0)
    vectors = [torch.randn(sum(lengths), heads, width, generator=generator) for _ in range(4)]
    return (*vectors[:3], offsets_of(lengths)), vectors[3]


@pytest.mark.threads
@pytest.mark.parametrize("kind", ["silu", "softmax"])
def test_threads_agree_and_repeat_their_bits(threads, kind):
    inputs, grad = example()
    times = torch.arange(753) ** 2
    bias = RelativeTimeBias(torch.randn(1401), torch.randn(129), times)
    options = {"kind": kind, "bias": bias, "dropout_p": 0.2, "seed": 3}
    alone, alone_grads = run(inputs, options, grad, torch.float32)
    threads(3)
    first, first_grads = run(inputs, options, grad, torch.float32)
    for _ in range(3):
        again, again_grads = run(inputs, options, grad, torch.float32)
        assert torch.equal(again, first)
        assert all(torch.equal(a, b) for a, b in zip(again_grads, first_grads, strict=True))
    assert torch.equal(first, alone)
    for ours, theirs in zip(first_grads, alone_grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_slices_of_one_projection_need_no_copy(device):
    wide = torch.randn(9, 3 * 2 * 5, device=device)
    q, k, v = (part.view(9, 2, 5) for part in wide.split(10, dim=1))
    offsets = torch.tensor([0, 4, 9], dtype=torch.int32, device=device)
    found = jagged_attention(q, k, v, offsets, kind="silu")
    assert torch.equal(found, jagged_attention(q.contiguous(), k.contiguous(), v.contiguous(), offsets, kind="silu"))
    turned = q.transpose(1, 2).contiguous().transpose(1, 2)  # heads are not side by side: copied
    assert torch.equal(found, jagged_attention(turned, k, v, offsets, kind="silu"))


def test_bfloat16_is_near_float32(device):
    (q, k, v, offsets), grad = example((50, 170, 3))
    for kind in ("silu", "softmax"):
        low = [x.bfloat16() for x in (q, k, v)]
        exact, exact_grads = run((*(x.float() for x in low), offsets), {"kind": kind}, grad, torch.float32)
        found, found_grads = run((*low, offsets), {"kind": kind}, grad, torch.bfloat16, device)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), exact, rtol=2e-2, atol=2e-2 * exact.abs().max().item())
        for ours, theirs in zip(found_grads, exact_grads, strict=True):
            assert ours.dtype == torch.bfloat16
            torch.testing.assert_close(ours.float(), theirs, rtol=2e-2, atol=2e-2 * theirs.abs().max().item())


@pytest.mark.parametrize("kind", ["silu", "softmax"])
def test_nan_stays_with_its_user_and_is_not_lost(device, kind):
    q, k, v, offsets = (x.to(device) for x in example((20, 30))[0])
    clean = jagged_attention(q, k, v, offsets, kind=kind)
    k[5, 0, 0] = torch.nan
    found = jagged_attention(q, k, v, offsets, kind=kind)
    assert torch.equal(found[20:], clean[20:])
    assert torch.equal(found[:, 1], clean[:, 1])
    assert found[5:20, 0].isnan().all()


def test_it_is_a_torch_op(device):
    q, k, v, offsets = (x.to(device) for x in example((4, 5), heads=2, width=4)[0])
    leaves = [x.requires_grad_() for x in (q, k, v)]
    none = [None] * 6
    for softmax in (False, True):
        args = (*leaves, offsets, offsets, *none, softmax, True, 0.5, 0, True, 1, 0, 0, 0, 0.0, 0)
        torch.library.opcheck(torch.ops.genrec_fast.jagged_attention.default, args)

    def step(q, k, v, pos_w, ts_w, times):
        bias = RelativeTimeBias(pos_w, ts_w, times)
        return jagged_attention(q, k, v, offsets, kind="silu", max_seq_len=5, bias=bias, attn_scale=0.5).sum()

    tables = [torch.randn(size, device=device, requires_grad=True) for size in (9, 20)]
    times = torch.arange(9, device=device)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    ours = torch.autograd.grad(compiled(*leaves, *tables, times), [*leaves, *tables])
    plain = torch.autograd.grad(step(*leaves, *tables, times), [*leaves, *tables])
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("timestamps", 2**62, "timestamps of the bias must be below 2"),
        ("thresholds", [5, 4], "thresholds of the bias must be above 0, at most 2.62 and not decrease, got 4 at 1"),
        ("thresholds", [0, 4], "must be above 0"),
    ],
)
def test_times_that_cannot_be_are_said(name, value, text):
    (q, k, v, offsets), _ = example((4, 5), heads=1, width=4)
    given = {"timestamps": torch.arange(9), "thresholds": torch.tensor([3, 4])}
    given[name] = torch.full((9,), value) if name == "timestamps" else torch.tensor(value)
    bias = RelativeTimeBias(None, torch.randn(8), **given)
    with pytest.raises(errors.InvalidValueError, match=text):
        jagged_attention(q, k, v, offsets, kind="silu", bias=bias)
