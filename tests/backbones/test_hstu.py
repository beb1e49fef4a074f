from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from genrec_fast.backbones import HSTUConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError, UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.layouts import InterleaveConfig
from genrec_fast.nn.hstu import NormByKind
from shared.backbone_suite import ITEMS, SIZES, EmbeddingSuite, batch_of
from shared.catalogs import sized

SMALL = {"width": 16, "num_heads": 2, "qk_dim": 8, "v_dim": 6, "num_layers": 2, "dropout": 0.0, "max_items": 6}


class TestPositions(EmbeddingSuite):
    config = HSTUConfig(bias="position", **SMALL)


class TestRotary(EmbeddingSuite):
    config = HSTUConfig(
        bias="none", positions="none", rotary=True, norm="group", attention="softmax", alpha=None, **SMALL
    )


class TestFeatures(EmbeddingSuite):
    features = True
    config = HSTUConfig(bias="position", activate="gate", **SMALL)


class TestCosine(EmbeddingSuite):
    config = HSTUConfig(bias="position", normalize=True, temperature=0.1, **SMALL)


class TestTimes(EmbeddingSuite):
    """The whole research form; event p of everybody is at p squared hours."""

    config = HSTUConfig.research(num_time_buckets=30, **SMALL)

    def parts(self):
        plain, backbone = super().parts()

        def layout(batch: Batch) -> Batch:
            items = batch.items
            place = torch.arange(items.values.shape[0]) - items.offsets[items.row_index()]
            return dataclasses.replace(plain(batch), timestamps=3600 * place**2)

        layout.feature_dim = plain.feature_dim
        return layout, backbone


def timed(batch: Batch, times: list[int]) -> Batch:
    return dataclasses.replace(batch, timestamps=torch.tensor(times))


def hstu(seed: int = 0, **changes):
    torch.manual_seed(seed)
    backbone = HSTUConfig(**{**SMALL, **changes}).build(sized((), ITEMS)).eval()
    for parameter in backbone.parameters():  # far from the start, where a mistake would show
        torch.nn.init.normal_(parameter, std=0.3)
    return backbone


def layer_by_hand(x, layer, pos_w, ts_w, times, asked, longest):
    """One user, one loop per query: the research code's layer, equations 1 to 3."""
    c, epsilon = layer.num_heads, 1e-6
    normed = torch.nn.functional.layer_norm(x, x.shape[1:], layer.input_norm.weight, layer.input_norm.bias, epsilon)
    mixed = torch.nn.functional.silu(normed @ layer.uvqk.weight.T + layer.uvqk.bias)
    u, v, q, k = mixed.split([c * layer.v_dim, c * layer.v_dim, c * layer.qk_dim, c * layer.qk_dim], 1)
    out = torch.zeros(len(x), c, layer.v_dim)
    for i in range(len(x)):
        for j in range(i + 1):
            gap = max(abs(int(asked[i] - times[j])), 1)
            bucket = min(int((torch.log(torch.tensor(gap)) / 0.301).long()), len(ts_w) - 1)
            bias = pos_w[len(pos_w) // 2 + j - i] + ts_w[bucket]
            for h in range(c):
                a, b = (t[r].view(c, -1)[h] for t, r in ((q, i), (k, j)))
                weight = torch.nn.functional.silu(a @ b + bias) / longest
                out[i, h] += weight * v[j].view(c, -1)[h]
    norm = layer.attention_norm
    gated = u * torch.nn.functional.layer_norm(out.flatten(1), norm.weight.shape, norm.weight, norm.bias, epsilon)
    return x + gated @ layer.out.weight.T + layer.out.bias


def test_the_research_form_is_its_formula():
    backbone = hstu(bias="both", num_time_buckets=40)
    items, times = [3, 1, 4, 1, 5], torch.tensor([0, 10, 10, 5000, 900000])
    asked = torch.tensor([10, 10, 5000, 900000, 900777])
    batch = Batch(Jagged.from_rows([[7], items]), timestamps=torch.cat([times[:1], times]))
    batch = dataclasses.replace(batch, target_timestamps=torch.cat([times[:1], asked]))
    with torch.no_grad():
        states = backbone.states(batch)[1:]
        x = backbone.items.weight[items] * 16**0.5 + backbone.positions.weight[: len(items)]
        for layer in backbone.layers:
            x = layer_by_hand(x, layer, layer.bias.pos_w, layer.bias.ts_w, times, asked, 6)
        torch.testing.assert_close(states, backbone.norm(x), rtol=1e-4, atol=1e-4)


def test_unknown_query_times_are_the_next_events():
    backbone = hstu(bias="both")
    batch = timed(Batch(Jagged.from_rows([[1, 2, 3], [], [4, 5]])), [0, 60, 4000, 7, 9])
    following = torch.tensor([60, 4000, 4000, 9, 9])
    told = dataclasses.replace(batch, target_timestamps=following)
    assert torch.equal(backbone.embed_users(batch), backbone.embed_users(told))
    later = dataclasses.replace(batch, target_timestamps=torch.tensor([60, 4000, 10**6, 9, 9]))
    changed = (backbone.embed_users(batch) != backbone.embed_users(later)).any(1)
    assert changed.tolist() == [True, False, False]


def test_production_counts_from_the_end_and_reads_the_time_left():
    backbone = hstu(**vars(HSTUConfig.production(**SMALL)))
    assert backbone.layers[0].bias is None
    rows = Jagged.from_rows([[1, 2, 3], [2, 3]])
    batch = timed(Batch(rows), [0, 0, 6000, 0, 6000])
    packing = backbone._packing(batch, None)
    minutes = torch.tensor([10, 10, 0, 10, 0])  # floor(sqrt(100 minutes))
    expected = backbone.positions.weight[torch.tensor([3, 2, 1, 2, 1])] + backbone.times.weight[minutes]
    torch.testing.assert_close(backbone._placed(packing, batch), expected)


def test_gaps_are_the_time_since_the_event_before():
    backbone = hstu(times="gap", positions="none", bias="none")
    batch = timed(Batch(Jagged.from_rows([[1, 2, 3], [], [2, 3]])), [900, 960, 1200, 100, 10**9])
    placed = backbone._placed(backbone._packing(batch, None), batch)
    torch.testing.assert_close(placed, backbone.times.weight[torch.tensor([0, 1, 2, 0, 511])])


def test_scores_of_unit_vectors_are_cosines_over_the_temperature():
    backbone = hstu(bias="none", normalize=True, temperature=0.05)
    scores = backbone.embed_users(batch_of([3, 2])) @ backbone.item_table().T
    plain = hstu(bias="none", normalize=False)
    states = backbone.states(batch_of([3, 2]))[torch.tensor([2, 4])]
    cosine = torch.nn.functional.cosine_similarity(states[:, None], plain.items.weight[None], dim=2)
    torch.testing.assert_close(scores, cosine / 0.05)


def test_dropout_of_weights_and_outputs_is_drawn_from_torchs_generator():
    backbone = hstu(bias="none", attention_dropout=0.5).train()
    batch = batch_of([6, 5, 4])
    with torch.no_grad():
        draws = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            draws.append(backbone.states(batch))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, (tuple, list)) else [out]:
            self.size = max(self.size, made.numel() if isinstance(made, torch.Tensor) else 0)
        return out


def test_nothing_is_padded():
    """One long user among short ones: no tensor, forward or backward, has room for a batch of long users."""
    backbone = hstu(bias="position", max_items=500)
    batch = batch_of([500] + [1] * 50)
    with Largest() as noted:
        backbone.states(batch).sum().backward()
    assert noted.size == 550 * 2 * 2 * (8 + 6)  # u, v, q, k of every token


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"epsilon": 0.0}, "epsilon must be above 0 and finite, got 0.0"),
        ({"attention": "relu"}, "attention must be 'silu' or 'softmax', got 'relu'"),
        ({"bias": "all"}, "bias must be 'none', 'position', 'time' or 'both', got 'all'"),
        ({"temperature": 0.0}, "temperature must be above 0 and finite, got 0.0"),
        ({"rotary": True, "qk_dim": 7}, "qk_dim must be even with rotary, got 7"),
        ({"max_tokens": 3, "max_items": 4}, "max_tokens must be 0 or at least max_items = 4, got 3"),
        ({"attention_dropout": 1.0}, r"attention_dropout must be in \[0, 1\), got 1.0"),
        ({"num_heads": 0}, "num_heads must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_named(changes, text):
    with pytest.raises(InvalidValueError, match=f"^HSTUConfig: {text}"):
        HSTUConfig(**changes)


def test_what_a_batch_lacks_is_named():
    with pytest.raises(InvalidValueError, match="hstu: batch must have timestamps, got None"):
        hstu(bias="time").embed_users(batch_of([2]))
    for times in (torch.zeros(3).long(), torch.zeros(2)):
        with pytest.raises(InvalidValueError, match=r"hstu: timestamps must be int64 \[2\], got torch"):
            hstu(times="gap", bias="none").embed_users(dataclasses.replace(batch_of([2]), timestamps=times))
    with pytest.raises(InvalidValueError, match="hstu: num_actions must be above 0 to predict actions, got 0"):
        hstu(bias="none").action_logits(batch_of([2]))
    with pytest.raises(InvalidValueError, match=r"hstu: batch must have tokens with asked"):
        hstu(bias="none", num_actions=2).action_logits(batch_of([2]))
    with pytest.raises(UnsupportedError, match="positions and times must not be counted from the end for a history"):
        _ = hstu(positions="end").open_events


def test_norms_by_kind_are_layer_norms_with_the_weights_of_each_kind():
    torch.manual_seed(0)
    norm, x, kinds = NormByKind(6, 1e-6), torch.randn(5, 6), torch.tensor([0, 1, 3, 1, 2])
    for own in norm:
        torch.nn.init.normal_(own.weight)
        torch.nn.init.normal_(own.bias)
    wanted = torch.stack([norm[kind](row) for kind, row in zip(kinds.tolist(), x, strict=True)])
    torch.testing.assert_close(norm(x, kinds), wanted)
    torch.testing.assert_close(norm(x, None), norm[1](x))  # items alone
    with pytest.raises(InvalidValueError, match="norm must be 'layer' with norms_by_kind, got 'group'"):
        hstu(norms_by_kind=True, norm="group")


def test_a_candidate_has_norms_of_its_own():
    """Norms of another kind change nothing of what an item's token says."""
    backbone = hstu(norms_by_kind=True, bias="none", num_actions=2, max_tokens=20)
    layout = InterleaveConfig(actions="added", num_candidates=1).build(sized(SIZES, ITEMS))
    known = Batch(Jagged.from_rows([[3, 4]]), actions=torch.tensor([[True, False], [False, True]]))
    batch = layout(dataclasses.replace(known, candidates=Jagged.from_rows([[5]])))
    before = backbone.states(batch)
    with torch.no_grad():
        backbone.layers[0].input_norm[3].weight.mul_(2.0)
    after = backbone.states(batch)
    assert torch.equal(before[:2], after[:2])
    assert not torch.allclose(before[2], after[2])
