from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.catalog.trie import build_trie
from genrec_fast.decoders import BeamConfig, DiverseBeamConfig
from shared.decoder_suite import DecoderSuite, users_of
from shared.random_model import RandomModel


def plain_search(model, batch, codes, sizes, num_beams, num_groups, penalty, normalize):
    """The definition, a user, group and candidate at a time: ``(score, semantic ID)``, best first, of each user."""
    ids = sorted({tuple(row) for row in codes.tolist()})
    each, answers = num_beams // num_groups, []
    for user in range(len(batch)):
        one = type(batch)(type(batch.items).from_rows([batch.items[user]]))
        session, groups = model.prefill(one), [[((), 0.0, 0)] for _ in range(num_groups)]
        for level in range(len(sizes)):
            logits, _ = session.scores()
            taken, fresh = [], []
            for beams in groups:
                candidates = []
                for place, (prefix, score, row) in enumerate(beams):
                    valid = sorted({found[level] for found in ids if found[:level] == prefix})
                    line = logits[0, row].double()
                    norm = (line if normalize == "all" else line[valid]).logsumexp(0).item()
                    for code in valid:
                        own = score + line[code].item() - norm
                        count = taken.count((*prefix, code))
                        if own > -torch.inf and not (count and level + 1 == len(sizes)):
                            candidates.append((-(own - penalty * count), place, code, own, (*prefix, code), row))
                best = sorted(candidates)[:each]
                taken += [found[4] for found in best]
                fresh.append([(found[4], found[3], found[5]) for found in best])
            if level + 1 == len(sizes):
                left = {}
                for prefix, score, row in (beam for beams in groups for beam in beams):
                    valid = sorted({found[level] for found in ids if found[:level] == prefix})
                    line = logits[0, row].double()
                    norm = (line if normalize == "all" else line[valid]).logsumexp(0).item()
                    left |= {(*prefix, code): (score + line[code].item() - norm, row) for code in valid}
                missing = num_beams - sum(len(beams) for beams in fresh)
                rest = [
                    (-score, item, row)
                    for item, (score, row) in left.items()
                    if item not in taken and score > -torch.inf
                ]
                fresh.append([(item, -score, row) for score, item, row in sorted(rest)[:missing]])
            flat = [beam for beams in fresh for beam in beams]
            chosen = torch.tensor([[prefix[-1] for prefix, _, _ in flat]], dtype=torch.int32)
            session = session.extend(chosen, torch.tensor([[row for _, _, row in flat]]))
            at = iter(range(len(flat)))
            groups = [[(prefix, score, next(at)) for prefix, score, _ in beams] for beams in fresh]
        answers.append(sorted(((score, prefix) for beams in groups for prefix, score, _ in beams), reverse=True))
    return answers


@given(
    seed=st.integers(0, 1000),
    num_groups=st.integers(1, 4),
    each=st.integers(1, 4),
    penalty=st.sampled_from([0.0, 0.3, 2.0, 50.0]),
    normalize=st.sampled_from(["all", "valid"]),
    forbidden=st.sampled_from([0.0, 0.2]),
    items=st.integers(1, 40),
)
def test_groups_are_those_of_the_definition(seed, num_groups, each, penalty, normalize, forbidden, items):
    sizes = (5, 4, 6)
    generator = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(size, (items,), generator=generator) for size in sizes], 1).unique(dim=0)
    model, batch = RandomModel(sizes, seed, forbidden=forbidden), users_of(3, items, seed)
    width = num_groups * each
    settings = {"num_groups": num_groups, "penalty": penalty, "normalize": normalize}
    found = (
        DiverseBeamConfig(num_beams=width, **settings)
        .build()
        .search(model, batch, build_trie(codes, codebook_sizes=sizes), width)
    )
    expected = plain_search(model, batch, codes, sizes, width, num_groups, penalty, normalize)
    for user, answer in enumerate(expected):
        shown = found.items[user][found.items[user] >= 0]
        assert len(shown) == len(answer) == shown.unique().numel()
        assert {tuple(row) for row in codes[shown].tolist()} == {prefix for _, prefix in answer}
        scores = torch.tensor([score for score, _ in answer])
        torch.testing.assert_close(found.scores[user][: len(answer)], scores, rtol=0, atol=2e-5)


def test_one_group_is_a_beam_search():
    codes = torch.randint(8, (200, 3), generator=torch.Generator().manual_seed(2))
    trie, model, batch = build_trie(codes, codebook_sizes=(8, 8, 8)), RandomModel((8, 8, 8)), users_of(5, 200, 0)
    one = DiverseBeamConfig(num_beams=10, num_groups=1, penalty=9.0).build().search(model, batch, trie, 10)
    beam = BeamConfig(num_beams=10).build().search(model, batch, trie, 10)
    assert torch.equal(one.items, beam.items)
    torch.testing.assert_close(one.scores, beam.scores)


def test_a_penalty_spreads_the_prefixes():
    codes = torch.cartesian_prod(*[torch.arange(6)] * 3)
    trie, model, batch = build_trie(codes, codebook_sizes=(6, 6, 6)), RandomModel((6, 6, 6)), users_of(8, 200, 0)
    spread = []
    for penalty in (0.0, 100.0):
        found = DiverseBeamConfig(num_beams=12, num_groups=6, penalty=penalty).build().search(model, batch, trie, 12)
        spread.append(sum(row[:, 0].unique().numel() for row in found.codes))
        assert not bool(found.exact.any())
    assert spread[0] < 30 < 40 < spread[1]  # of 8 users with 6 codes each at the first level


def test_beams_come_in_whole_groups():
    decoder = DiverseBeamConfig(num_beams=6, num_groups=3).build()
    assert decoder.width(7, None) == 9
    with pytest.raises(InvalidValueError, match="diverse_beam: num_beams must be a multiple of num_groups = 3, got 8"):
        decoder.width(2, 8)
    with pytest.raises(InvalidValueError, match="DiverseBeamConfig: num_beams must be a multiple of num_groups = 4"):
        DiverseBeamConfig(num_beams=6, num_groups=4)
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InvalidValueError, match="DiverseBeamConfig: penalty must be at least 0 and finite"):
            DiverseBeamConfig(penalty=wrong)
    with pytest.raises(InvalidValueError, match="DiverseBeamConfig: num_groups must be at least 1, got 0"):
        DiverseBeamConfig(num_groups=0)
    with pytest.raises(InvalidValueError, match="DiverseBeamConfig: normalize must be 'all' or 'valid'"):
        DiverseBeamConfig(normalize="none")


class TestSuite(DecoderSuite):
    decoder = DiverseBeamConfig(num_beams=20, num_groups=4).build()
