"""What a search refuses, whoever asks: what the random calls of tests/fuzz found accepted, or ended by torch."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.trie import build_trie
from genrec_fast.decoders import (
    GraphConfig,
    ScanConfig,
    SpeculativeSamplingConfig,
    StochasticBeamConfig,
    UnmaskConfig,
    code_neighbours,
)
from shared.decoder_suite import users_of
from shared.random_model import RandomModel

SIZES, ITEMS = (3, 4), 9
CODES = torch.stack([torch.randint(size, (ITEMS,), generator=torch.Generator().manual_seed(size)) for size in SIZES], 1)


class Everything:
    """Whatever a decoder may want, of zeros."""

    codebook_sizes, num_items = SIZES, ITEMS

    def read(self, batch):
        return batch

    read_targets = read

    def code_logprobs(self, histories, written):
        return [torch.zeros(*written.shape[:2], size) for size in SIZES]

    def user_logits(self, batch):
        return [torch.zeros(len(batch), size) for size in SIZES]

    target_logits = user_logits

    def code_tables(self):
        return [torch.ones(size, 2) for size in SIZES]

    def score_items(self, batch):
        return torch.zeros(len(batch), ITEMS)


@pytest.mark.parametrize("config", [UnmaskConfig(), GraphConfig(num_beams=2, num_edges=2), GraphConfig()])
@pytest.mark.parametrize("exact", ["yes", 1, None])
def test_exact_is_a_bool(config, exact):
    with pytest.raises(InvalidTypeError, match="exact must be a bool"):
        config.build().search(
            Everything(), users_of(2, ITEMS, 0), build_trie(CODES, codebook_sizes=SIZES), 2, exact=exact
        )


@pytest.mark.parametrize("seed", ["7", 1.5, True, 1 << 63])
def test_a_seed_is_a_whole_number(seed):
    batch, trie = users_of(2, ITEMS, 0), build_trie(CODES, codebook_sizes=SIZES)
    model = RandomModel(SIZES, tree=True)
    drafted = SpeculativeSamplingConfig().build().drafted_by(SimpleNamespace(backbone=model, batch=lambda b: b))
    asked = [(GraphConfig().build(), Everything()), (StochasticBeamConfig().build(), model), (drafted, model)]
    for decoder, backbone in asked:
        with pytest.raises((InvalidTypeError, InvalidValueError), match="seed must be"):
            decoder.search(backbone, batch, trie, 2, seed=seed)


@pytest.mark.parametrize("wrong", [-1, ITEMS, -(1 << 31)])
def test_a_scan_excludes_items_of_the_catalog(wrong):
    with pytest.raises(InvalidValueError, match=rf"scan: exclude must hold item ids in \[0, {ITEMS}\), got {wrong}"):
        ScanConfig().build().search(
            Everything(), users_of(2, ITEMS, 0), None, 2, exclude=Jagged.from_rows([[1], [0, wrong]])
        )


@pytest.mark.parametrize(
    ("tables", "codes", "error", "text"),
    [
        ([torch.ones(3, 2), None], CODES, InvalidTypeError, "tables must be a tensor, got NoneType"),
        (
            [torch.ones(3, 2), torch.ones(())],
            CODES,
            InvalidTypeError,
            r"tables must be float \[K, D\], got float32 \[\]",
        ),
        ([torch.ones(3, 2), torch.ones(4, 2).int()], CODES, InvalidTypeError, "got int32"),
        ([torch.ones(3, 2)], CODES, InvalidValueError, "tables must be one per level"),
        ([torch.ones(3, 2)] * 2, CODES.tolist(), InvalidTypeError, "item_codes"),
        ([torch.ones(3, 2)] * 2, CODES.flatten(), InvalidValueError, "tables must be one per level"),
        ([torch.ones(3, 2)] * 2, CODES, InvalidValueError, r"item_codes of level 1 must be in \[0, 3\), got 3"),
        ([torch.ones(3, 2), torch.ones(4, 2)], CODES - 3, InvalidValueError, "item_codes of level 0"),
    ],
)
def test_neighbours_of_what_is_no_table(tables, codes, error, text):
    codes = codes.int() if isinstance(codes, torch.Tensor) else codes
    with pytest.raises(error, match=text):
        code_neighbours(tables, codes, 2)
