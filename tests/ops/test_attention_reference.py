"""The twin of jagged_attention against the padded formulas of the field, written out once more here."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from genrec_fast.base import errors
from genrec_fast.ops import ALiBi, RelativeTimeBias, T5Bias, jagged_attention
from genrec_fast.ops.attention_bias import log_time_thresholds, t5_buckets
from genrec_fast.ops.reference.jagged_attention import dropout_mask, visible


def padded_mask(size, lengths, targets, *, causal, window, context, full):
    """The production mask over a padded batch: bool [B, N, N]."""
    ids = torch.arange(size).view(1, size)
    last = torch.tensor(lengths).view(-1, 1, 1)
    if context:
        ids = (ids - context + 1).clamp(min=0)
        last = last - context + 1
    if targets is not None:
        last = last - torch.tensor(targets).view(-1, 1, 1)
        ids = torch.minimum(ids.expand(len(lengths), size).unsqueeze(1), last).squeeze(1)
    ids = ids.expand(len(lengths), size)
    rows, columns = ids.unsqueeze(2), ids.unsqueeze(1)
    gap = rows - columns if causal else (rows - columns).abs()
    mask = torch.eye(size, dtype=torch.bool) | (gap > 0)
    if window:
        mask = mask & ((gap <= window) | (rows >= last - full) if full else gap <= window)
    if context:
        mask = mask | ((rows == 0) & (columns < last))
    return mask


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [0, 1, 3])
@pytest.mark.parametrize("context", [0, 1, 3])
@pytest.mark.parametrize("full", [0, 2])
@pytest.mark.parametrize("targets", [None, [0, 1, 3, 0]])
def test_masks_are_those_of_the_padded_formula(causal, window, context, full, targets):
    lengths = [9, 5, 7, 3]
    expected = padded_mask(9, lengths, targets, causal=causal, window=window, context=context, full=full)
    for row, length in enumerate(lengths):
        found = visible(
            length,
            length,
            causal=causal,
            num_targets=targets[row] if targets else 0,
            contextual_seq_len=context,
            max_attn_len=window,
            min_full_attn_seq_len=full,
        )
        assert torch.equal(found, expected[row, :length, :length])


def test_queries_on_a_longer_past_are_its_last_positions():
    whole = visible(7, 7, causal=True, max_attn_len=3, contextual_seq_len=2)
    assert torch.equal(visible(3, 7, causal=True, max_attn_len=3, contextual_seq_len=2), whole[4:])


def test_targets_of_a_group_see_each_other_backwards():
    found = visible(6, 6, causal=True, num_targets=4, target_group_size=2).int().tolist()
    assert found[2:] == [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 1, 0], [1, 1, 0, 0, 1, 1]]


def test_silu_divides_by_the_longest_allowed_row():
    q, k, v = (torch.randn(5, 2, 3) for _ in range(3))
    offsets = torch.tensor([0, 3, 5])
    found = jagged_attention(q, k, v, offsets, kind="silu", max_seq_len=10)
    for begin, end in ((0, 3), (3, 5)):
        scores = torch.einsum("ihd,jhd->hij", q[begin:end], k[begin:end]) / math.sqrt(3)
        weights = (F.silu(scores) / 10).tril()
        torch.testing.assert_close(found[begin:end], torch.einsum("hij,jhd->ihd", weights, v[begin:end]))
    scaled = jagged_attention(q, k, v, offsets, kind="silu", attn_scale=torch.full((5,), 0.1))
    torch.testing.assert_close(scaled, found)
    torch.testing.assert_close(jagged_attention(q, k, v, offsets, kind="silu"), found * 10 / 3)


def test_softmax_is_scaled_dot_product_attention():
    q, k, v = (torch.randn(5, 2, 3) for _ in range(3))
    found = jagged_attention(q, k, v, torch.tensor([0, 0, 5]), kind="softmax")
    expected = F.scaled_dot_product_attention(*(x.transpose(0, 1)[None] for x in (q, k, v)), is_causal=True)
    torch.testing.assert_close(found, expected[0].transpose(0, 1))


def test_relative_time_bias_is_that_of_the_research_code():
    length, room, heads = 6, 9, 2
    pos_w, ts_w = torch.randn(2 * room - 1), torch.randn(129)
    times = torch.tensor([5, 5, 90, 10_000, 10_001, 2_000_000_000])
    later = torch.cat([times[1:], times[-1:]])
    gaps = (later[:, None] - times[None, :]).abs().clamp(min=1)
    buckets = (torch.log(gaps) / 0.301).long().clamp(max=128)
    rows, columns = torch.arange(length)[:, None], torch.arange(length)[None, :]
    bias = pos_w[room - 1 + columns - rows] + ts_w[buckets]
    q, k, v = (torch.randn(length, heads, 4) for _ in range(3))
    weights = (F.silu(torch.einsum("ihd,jhd->hij", q, k) + bias) / length).tril()
    found = jagged_attention(
        q, k, v, torch.tensor([0, length]), kind="silu", alpha=1.0, bias=RelativeTimeBias(pos_w, ts_w, times)
    )
    torch.testing.assert_close(found, torch.einsum("hij,jhd->ihd", weights, v))


def test_time_thresholds_are_where_the_formula_steps():
    limits = log_time_thresholds(128)
    for bucket, limit in enumerate(limits.tolist(), 1):
        if limit < 2**24:  # float32 holds the neighbours exactly
            values = torch.tensor([limit - 1, limit]).clamp(min=1)
            assert (torch.log(values) / 0.301).long().tolist()[1] >= bucket
            assert (torch.log(values) / 0.301).long().tolist()[0] < bucket or limit == 1
    assert (limits.diff() >= 0).all()


@pytest.mark.parametrize("bidirectional", [True, False])
def test_t5_buckets_are_those_of_transformers(bidirectional):
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = torch.arange(-300, 300)
    expected = T5Attention._relative_position_bucket(distances, bidirectional, 32, 128)
    assert torch.equal(t5_buckets(distances, 32, 128, bidirectional=bidirectional), expected)


def test_biases_by_distance():
    q, k, v = (torch.randn(4, 2, 3) for _ in range(3))
    offsets, gap = torch.tensor([0, 4]), torch.arange(4)[None, :] - torch.arange(4)[:, None]
    weight = torch.randn(32, 2)
    for bias, written in (
        (ALiBi(ALiBi.slopes_for(2)), -torch.tensor([2.0**-4, 2.0**-8]).view(2, 1, 1) * gap.abs()),
        (T5Bias(weight, bidirectional=True), weight[t5_buckets(gap, 32, 128, bidirectional=True)].permute(2, 0, 1)),
    ):
        found = jagged_attention(q, k, v, offsets, kind="softmax", causal=False, bias=bias)
        expected = F.scaled_dot_product_attention(*(x.transpose(0, 1) for x in (q, k, v)), attn_mask=written)
        torch.testing.assert_close(found, expected.transpose(0, 1))


def test_dropout_drops_its_share_anew_for_each_seed_head_query_and_key():
    a, b = torch.arange(200), torch.arange(300)
    first, second = (dropout_mask(a, b, 3, 0.3, seed) for seed in (1, 2))
    assert abs(first.float().mean().item() - 0.7) < 0.005
    assert abs((first == second).float().mean().item() - 0.58) < 0.01
    for x, y in ((first[0], first[1]), (first[:, 1:], first[:, :-1]), (first[:, :, 1:], first[:, :, :-1])):
        assert abs((x == y).float().mean().item() - 0.58) < 0.01
    assert not torch.equal(dropout_mask(a, b, 1, 0.3, 2**32), dropout_mask(a, b, 1, 0.3, 0))


def test_a_query_that_sees_nothing_gives_zero():
    q, k = torch.randn(3, 1, 2), torch.randn(2, 1, 2)
    found = jagged_attention(
        q, k, k, torch.tensor([0, 1, 3]), kv_offsets=torch.tensor([0, 2, 2]), kind="softmax", causal=False
    )
    assert found[0].abs().sum() > 0
    assert torch.equal(found[1:], torch.zeros(2, 1, 2))


def test_gradients_of_every_input_in_float64():
    torch.manual_seed(0)
    q, k, v = (torch.randn(6, 2, width, dtype=torch.float64, requires_grad=True) for width in (3, 3, 2))
    pos_w, ts_w = (torch.randn(size, dtype=torch.float64, requires_grad=True) for size in (9, 20))
    times, offsets = torch.tensor([1, 5, 9, 0, 100, 1000]), torch.tensor([0, 2, 6])

    def run(kind):
        def call(q, k, v, pos_w, ts_w, scale):
            options = {"attn_scale": scale} if kind == "silu" else {}
            bias = RelativeTimeBias(pos_w, ts_w, times)
            return jagged_attention(q, k, v, offsets, kind=kind, bias=bias, dropout_p=0.2, seed=7, **options)

        scale = torch.rand(6, dtype=torch.float64, requires_grad=True)
        return torch.autograd.gradcheck(call, (q, k, v, pos_w, ts_w, scale))

    assert run("softmax")
    assert run("silu")


Q = torch.zeros(4, 2, 3)
ROWS = torch.tensor([0, 1, 4])


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"kind": "relu"}, errors.InvalidValueError, "kind must be 'silu' or 'softmax', got 'relu'"),
        ({"q": Q.half()}, errors.InvalidTypeError, r"q must be float32 or bfloat16 \[E, H, D\], got torch.float16"),
        ({"k": Q.bfloat16()}, errors.InvalidTypeError, "k must be torch.float32 like q, got torch.bfloat16"),
        ({"k": Q[:, :1]}, errors.InvalidValueError, r"k must be \[E_kv, 2, 3\] like q, got \[4, 1, 3\]"),
        ({"v": Q[:3]}, errors.InvalidValueError, r"v must be \[4, 2, Dv\] like k, got \[3, 2, 3\]"),
        ({"offsets": [0, 4]}, errors.InvalidTypeError, "offsets must be a tensor, got list"),
        ({"offsets": ROWS.float()}, errors.InvalidTypeError, r"offsets must be int64 or int32 .* got torch.float32"),
        ({"offsets": torch.tensor([1, 4])}, errors.InvalidValueError, "offsets must run from 0 to 4, got 1 to 4"),
        ({"offsets": torch.tensor([0, 5])}, errors.InvalidValueError, "offsets must run from 0 to 4, got 0 to 5"),
        (
            {"offsets": torch.tensor([0, 3, 2, 4])},
            errors.InvalidValueError,
            "not decrease, got 2 after 3 at the end of row 1",
        ),
        ({"max_seq_len": 2}, errors.InvalidValueError, "max_seq_len must be at least the longest row, 3, got 2"),
        ({"dropout_p": 1.0}, errors.InvalidValueError, r"dropout_p must be in \[0, 1\), got 1.0"),
        ({"dropout_p": 0.5}, errors.InvalidValueError, "seed must be given with dropout_p = 0.5, got None"),
        ({"max_attn_len": -1}, errors.InvalidValueError, "max_attn_len must be at least 0, got -1"),
        ({"target_group_size": 0}, errors.InvalidValueError, "target_group_size must be at least 1, got 0"),
        ({"num_targets": torch.tensor([2, 0])}, errors.InvalidValueError, "got 2 for 1 positions in row 0"),
        ({"num_targets": torch.tensor([0, -1])}, errors.InvalidValueError, "got -1 for 3 positions in row 1"),
        ({"num_targets": torch.tensor([1])}, errors.InvalidValueError, r"num_targets must be \[2\], one per row"),
        ({"contextual_seq_len": 2}, errors.InvalidValueError, "leave room for contextual_seq_len = 2"),
        ({"attn_scale": torch.ones(3)}, errors.InvalidValueError, r"attn_scale must be a number or \[4\]"),
        ({"kind": "softmax", "attn_scale": 1.0}, errors.InvalidValueError, "attn_scale must be None with kind"),
        ({"kv_offsets": torch.tensor([0, 2, 4])}, errors.InvalidValueError, "got 3 and 2 in row 1"),
        (
            {"bias": RelativeTimeBias(torch.ones(3), torch.ones(4), torch.zeros(4).long())},
            errors.InvalidValueError,
            "bias must have a table for rows of 3, got one for 2",
        ),
        (
            {"bias": RelativeTimeBias(None, torch.ones(4), torch.zeros(3).long())},
            errors.InvalidValueError,
            r"timestamps of the bias must be \[4\], got \[3\]",
        ),
    ],
)
def test_what_cannot_be_attended_is_said(change, error, text):
    call = {"q": Q, "k": Q, "v": Q, "offsets": ROWS, "kind": "silu", **change}
    with pytest.raises(error, match="jagged_attention: .*" + text):
        jagged_attention(**call)


def test_a_bias_of_distances_alone_is_one_whose_times_weigh_nothing():
    weights, times = torch.randn(7), torch.tensor([0, 5, 900, 1000])
    both = RelativeTimeBias(weights, torch.zeros(9), times)
    found, expected = (
        jagged_attention(Q, Q, Q, ROWS, kind="silu", bias=bias) for bias in (RelativeTimeBias(weights), both)
    )
    assert torch.equal(found, expected)
    with pytest.raises(errors.InvalidValueError, match="RelativeTimeBias: pos_w or ts_w must be given, got None and"):
        jagged_attention(Q, Q, Q, ROWS, kind="silu", bias=RelativeTimeBias(None))
    with pytest.raises(errors.InvalidTypeError, match="RelativeTimeBias: timestamps must be a tensor, got NoneType"):
        jagged_attention(Q, Q, Q, ROWS, kind="silu", bias=RelativeTimeBias(weights, torch.zeros(9)))
