from __future__ import annotations

import json
import resource
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import genrec_fast as gf
from genrec_fast.base.errors import CorruptFileError, InvalidValueError
from genrec_fast.base.files import checksum, read_tensors
from genrec_fast.base.limits import within
from shared.numbers import numbers_in, put

TOKENIZERS = Path(__file__).parent.parent / "fixtures" / "saved_96c562f" / "tokenizers"
TENSORS = {"weight": torch.zeros(10)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Embedding(10**9, 1000), r"a tensor \[1000000000, 1000\]"),
        (lambda: nn.Embedding(2**31 - 1, 2**31 - 1), "overflow"),
        (lambda: torch.arange(10**12), r"a tensor \[1000000000000\]"),
        (lambda: torch.randn(10**12), r"a tensor \[1000000000000\]"),
        (lambda: nn.ModuleList(nn.Linear(2, 2) for _ in range(10**9)), "more than 1002 parameters"),
        (lambda: nn.GRU(8, 8, num_layers=10**9), "more than 1002 parameters"),
        (lambda: nn.ModuleList(nn.Linear(2000, 2000, bias=False) for _ in range(10**9)), "elements with Linear.weight"),
    ],
)
def test_more_than_the_files_hold_is_refused_while_the_first_of_it_is_made(make, message):
    refusal = rf"^card must ask for a network that its weights fill .*{message}"
    with pytest.raises(CorruptFileError, match=refusal), within(TENSORS, 40, "card"):
        make()


def test_a_network_that_fits_has_the_bits_it_has_without():
    def linear():
        torch.manual_seed(0)
        return nn.Linear(5, 5).weight

    with within(TENSORS, 40, "card"):
        limited = linear()
    assert torch.equal(limited, linear())


def test_errors_of_the_library_pass_and_other_threads_are_left_alone():
    with pytest.raises(InvalidValueError), within(TENSORS, 40, "card"):
        raise InvalidValueError("x")
    made = []

    def many():
        made.extend(nn.Linear(1, 1) for _ in range(600))

    with within(TENSORS, 40, "card"):
        thread = threading.Thread(target=many)
        thread.start()
        thread.join()
    assert len(made) == 600


def test_settings_of_a_tokenizer_that_its_tensors_do_not_fill(tmp_path):
    """Every number of every kind in turn is a billion, under a checksum that is right."""
    path, refused = tmp_path / "t.safetensors", 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for saved in sorted(TOKENIZERS.glob("*.safetensors")):
        if "answers" in saved.name:
            continue
        metadata, tensors = read_tensors(saved)
        metadata.pop("checksum")
        for key in ("config", "feature_dim", "codebook_sizes"):
            for place in numbers_in(json.loads(metadata[key])):
                changed = metadata | {key: json.dumps(put(json.loads(metadata[key]), place, 10**9))}
                save_file(tensors, path, changed | {"checksum": checksum(changed, tensors)})
                try:
                    gf.tokenizers.load(path)
                except CorruptFileError:
                    refused += 1
    assert refused > 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 19  # KiB
