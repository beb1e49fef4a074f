"""trie_step on a card: its twin's bits under every option, whichever way children were gathered and ordered."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.trie import Trie, build_trie
from genrec_fast.ops import _cuda_trie_step
from genrec_fast.ops.reference.trie_step import trie_step as twin
from genrec_fast.ops.trie_filter import TrieFilter, trie_filter
from genrec_fast.ops.trie_step import TrieStep
from shared.cards import assert_no_race
from shared.trie_steps import assert_equal, step_on

FEW = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def expected(trie: Trie, level: int, logits: Tensor, nodes: Tensor, scores: Tensor, **options) -> TrieStep:
    chosen = options.get("allowed")
    masks = (None,) * 4 if chosen is None else (chosen.bits, chosen.ranks, chosen.excluded, chosen.excluded_offsets)
    valid = options.get("normalize") == "valid"
    given = (trie, level, logits, nodes, scores, options["num_beams"], valid, *masks, options.get("log_sums"))
    return TrieStep(*twin(*given))


def catalog(generator: torch.Generator, items: int, sizes: tuple[int, ...]) -> Trie:
    codes = torch.stack([torch.randint(0, size, (items,), generator=generator) for size in sizes], 1)
    return build_trie(codes, codebook_sizes=sizes)


def beams_of(trie: Trie, level: int, users: int, beams: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    nodes = torch.randint(0, trie.num_nodes(level), (users, beams), generator=generator, dtype=torch.int32)
    scores = -torch.randint(0, 6, (users, beams), generator=generator).float() / 4
    dead = torch.rand(users, beams, generator=generator)
    nodes[dead < 0.1] = -1
    scores[(dead > 0.05) & (dead < 0.15)] = -torch.inf
    return nodes, scores


SIZES = st.sampled_from([1, 2, 7, 16, 31, 64, 257, 600])
COUNTS = st.sampled_from([1, 2, 3, 10, 33, 300])


@FEW
@given(data=st.data())
def test_every_option_gives_the_twins_bits(card, data):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**30), "seed"))
    sizes = tuple(data.draw(st.lists(SIZES, min_size=1, max_size=3), "K"))
    level = data.draw(st.integers(0, len(sizes) - 1), "level")
    trie = catalog(generator, data.draw(st.sampled_from([1, 40, 2000]), "N"), sizes)
    users, beams = data.draw(st.integers(0, 3), "B"), data.draw(st.sampled_from([0, 1, 2, 5, 40]), "W")
    nodes, scores = beams_of(trie, level, users, beams, generator)
    logits = torch.randn(users, beams, sizes[level], generator=generator) * 4
    logits = logits.round() if data.draw(st.booleans(), "ties") else logits
    logits += data.draw(st.sampled_from([0.0, 0.0, 200.0, -200.0]), "shift")
    logits[torch.rand(logits.shape, generator=generator) < data.draw(st.sampled_from([0, 0, 0.3, 1]))] = -torch.inf
    logits[(nodes < 0) | (scores == -torch.inf)] = torch.nan  # never looked at
    logits = logits.to(data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), "dtype"))
    options = {"num_beams": data.draw(COUNTS, "num_beams"), "normalize": data.draw(st.sampled_from(["all", "valid"]))}
    kind = data.draw(st.sampled_from(["no filter", "no filter", "one", "per user", "exclude", "both"]), "filter")
    if kind != "no filter" and users:
        rows = 1 if kind == "one" else users
        allowed = torch.rand(rows, trie.num_items, generator=generator) < 0.4
        lists = [torch.randint(0, trie.num_items, (9,), generator=generator) for _ in range(users)]
        options["allowed"] = trie_filter_on_cpu(
            trie, None if kind == "exclude" else allowed, lists if kind in ("exclude", "both") else None
        )
    if options["normalize"] == "all" and data.draw(st.booleans(), "log_sums"):
        sums = logits.float().nan_to_num(0.0).logsumexp(2) + torch.randn(users, beams, generator=generator)
        sums[torch.rand(users, beams, generator=generator) < 0.1] = -torch.inf
        options["log_sums"] = sums
    if beams == 0:
        right = (torch.full((users, options["num_beams"]), fill) for fill in (-torch.inf, 0, 0, -1))
        best, *words = right
        right = TrieStep(best, *(word.int() for word in words), torch.full((users,), -torch.inf))
    else:
        right = expected(trie, level, logits, nodes, scores, **options)
    assert_equal(step_on(card, trie, level, logits, nodes, scores, **options), right)


def trie_filter_on_cpu(trie: Trie, allowed: Tensor | None, lists: list[Tensor] | None) -> TrieFilter:
    return trie_filter(trie, allowed=allowed, exclude=None if lists is None else Jagged.from_rows(lists))


@pytest.mark.parametrize("direct", [2048, 0])
@pytest.mark.parametrize(("beams", "num_beams"), [(1, 3), (12, 3), (12, 500), (40, 130), (3, 7000)])
def test_wide_nodes_however_many_are_gathered(card, monkeypatch, beams, num_beams, direct):
    """Best children far apart, side by side (one group has more than are kept), and all of them equal."""
    monkeypatch.setattr(_cuda_trie_step, "_DIRECT", direct)
    generator = torch.Generator().manual_seed(beams)
    trie = catalog(generator, 9000, (3, 2000))
    nodes = torch.randint(0, 3, (2, beams), generator=generator, dtype=torch.int32)
    scores = -torch.rand(2, beams, generator=generator)
    spread = torch.randn(2, beams, 2000, generator=generator)
    heaped = spread.clone()
    heaped[:, 0, ::32] += 30
    for logits in (spread, heaped, heaped.bfloat16(), torch.zeros_like(spread)):
        for exact in (scores, torch.zeros_like(scores)):
            right = expected(trie, 1, logits, nodes, exact, num_beams=num_beams)
            assert_equal(step_on(card, trie, 1, logits, nodes, exact, num_beams=num_beams), right)


def test_a_cut_of_many_ties_keeps_the_lowest(card):
    """More gathered children than are ordered at once: one block cuts them first."""
    trie = build_trie(torch.arange(9000).unsqueeze(1), codebook_sizes=(9000,))
    nodes, scores = torch.zeros(2, 8, dtype=torch.int32), torch.full((2, 8), -20.0)
    scores[:, 3] = 0.0
    logits = torch.zeros(2, 8, 9000)
    right = expected(trie, 0, logits, nodes, scores, num_beams=300)
    found = step_on(card, trie, 0, logits, nodes, scores, num_beams=300)
    assert_equal(found, right)
    assert found.codes.tolist() == [list(range(300))] * 2
    assert set(found.parents.flatten().tolist()) == {3}


REFUSED = {
    "a node that is not there": ("nodes", 10_000),
    "a node below none": ("nodes", -2),
    "a NaN logit": ("logits", torch.nan),
    "an infinite logit": ("logits", torch.inf),
    "a NaN score": ("scores", torch.nan),
    "an infinite score": ("scores", torch.inf),
    "a NaN sum": ("log_sums", torch.nan),
    "an infinite sum": ("log_sums", torch.inf),
}


ONCE = [(what, normalize) for what in REFUSED for normalize in ("all", "valid") if REFUSED[what][0] != "log_sums"]


@pytest.mark.parametrize(("what", "normalize"), [*ONCE, ("a NaN sum", "all"), ("an infinite sum", "all")])
def test_a_refused_value_marks_its_user_and_no_other(card, what, normalize):
    name, value = REFUSED[what]
    generator = torch.Generator().manual_seed(0)
    trie = catalog(generator, 300, (9, 40, 5))
    nodes = torch.randint(0, trie.num_nodes(1), (3, 6), generator=generator, dtype=torch.int32)
    given = {"nodes": nodes, "scores": -torch.rand(3, 6), "logits": torch.randn(3, 6, 40)}
    given |= {"log_sums": given["logits"].logsumexp(2)} if name == "log_sums" else {}
    rest = {key: given[key] for key in ("log_sums",) if key in given}
    right = expected(trie, 1, given["logits"], nodes, given["scores"], num_beams=7, normalize=normalize, **rest)
    wrong = {key: tensor.clone() for key, tensor in given.items()}
    wrong[name][1, 4] = value
    beams = [wrong.pop(key) for key in ("logits", "nodes", "scores")]
    found = step_on(card, trie, 1, *beams, num_beams=7, normalize=normalize, **wrong)
    others = torch.tensor([0, 2])
    assert_equal(TrieStep(*(x[others] for x in found)), TrieStep(*(x[others] for x in right)))
    assert found.scores[1].isnan().all()
    assert found.nodes[1].tolist() == [-2] * 7
    assert found.codes[1].tolist() == found.parents[1].tolist() == [0] * 7
    assert found.bound[1].item() == torch.inf
    again = step_on(card, trie, 2, torch.randn(3, 7, 5), found.nodes, found.scores, num_beams=4, normalize=normalize)
    assert again.nodes[1].tolist() == [-2] * 4
    assert (again.nodes[others] >= -1).all()


def test_altered_tensors_are_not_read_outside(card):
    """A trie, bits and lists that somebody wrote into: whatever comes out, no row or node that is not there."""
    generator = torch.Generator().manual_seed(1)
    trie = catalog(generator, 400, (6, 50, 7))
    nodes = torch.randint(0, trie.num_nodes(1), (2, 5), generator=generator, dtype=torch.int32)
    logits, scores = torch.randn(2, 5, 50, generator=generator), torch.zeros(2, 5)
    lists = [torch.arange(40), torch.arange(3)]
    chosen = trie_filter_on_cpu(trie, torch.rand(2, 400, generator=generator) < 0.7, lists)
    for part in (trie.child_bases[1], trie.child_bases[2], trie.tokens[1], chosen.ranks, chosen.excluded):
        kept = part.clone()
        for value in (0, -(2**31), 2**31 - 1):
            part.fill_(value if part.dtype == torch.int32 else value & 0xFF)
            found = step_on(card, trie, 1, logits, nodes, scores, num_beams=20, allowed=chosen)
            refused = part is chosen.excluded and value < 0  # -1 is how trie_filter marks a list
            assert ((found.nodes >= -1 - refused) & (found.nodes < trie.num_nodes(2))).all()
            assert ((found.codes >= 0) & (found.codes < 50)).all()
        part.copy_(kept)
    chosen.excluded_offsets[1] = 1 << 40
    found = step_on(card, trie, 1, logits, nodes, scores, num_beams=20, allowed=chosen)
    assert (found.nodes == -2).all()
    assert found.scores.isnan().all()


def test_slices_of_a_head_are_read_in_place_and_other_strides_copied(card):
    generator = torch.Generator().manual_seed(3)
    trie = catalog(generator, 500, (40, 40))
    nodes, scores = beams_of(trie, 1, 3, 8, generator)
    head = torch.randn(8, 5, 100, generator=generator)
    for logits in (
        head.transpose(0, 1)[1:4, :, 33:73].half(),
        head[:, :3, 7:47].transpose(0, 1),
        head[:3, :, 60:].transpose(1, 2)[:, :8, :1].expand(3, 8, 40),
        torch.randn(3, 40, 8, generator=generator).transpose(1, 2),
    ):
        right = expected(trie, 1, logits.contiguous(), nodes, scores, num_beams=9)
        assert_equal(step_on(card, trie, 1, logits, nodes, scores, num_beams=9), right)


RACES = """
import functools, torch
import genrec_fast as gf
from emulator.build import run
from emulator.test_emulator import THREADS
from genrec_fast.ops import _cuda, _cuda_trie_step, trie_filter, trie_step
generator = torch.Generator().manual_seed(0)
trie = gf.build_trie(torch.randint(0, 600, (3000, 2), generator=generator) % torch.tensor([2, 600]))
nodes, scores = torch.tensor([[0, 1, 1]], dtype=torch.int32), torch.zeros(1, 3)
_cuda.use_emulator(functools.partial(run, flags=THREADS))
torch.set_num_threads(1)
_cuda_trie_step._DIRECT = 0
lists = gf.Jagged.from_rows([torch.randint(0, 3000, (70,), generator=generator)])
chosen = trie_filter(trie, allowed=torch.rand(3000, generator=generator) < 0.9, exclude=lists)
for normalize, dtype, shift, allowed, num_beams in (
    ("all", torch.float32, 0.0, None, 1200),
    ("all", torch.bfloat16, 200.0, chosen, 20),
    ("valid", torch.float16, 0.0, chosen, 20),
):
    logits = (torch.randn(1, 3, 600, generator=generator) + shift).to(dtype)
    logits[:, 1, ::5] += 30
    trie_step(trie, 1, logits, nodes, scores, num_beams=num_beams, normalize=normalize, allowed=allowed)
print("done")
"""


@pytest.mark.slow
def test_no_kernel_of_a_search_misses_a_barrier():
    assert_no_race(RACES)
