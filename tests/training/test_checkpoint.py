from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from genrec_fast.base.errors import CorruptFileError
from genrec_fast.base.weights import module_tensors, restore_module
from genrec_fast.training.checkpoint import Progress, load_checkpoint, save_checkpoint


def trained():
    module = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, fused=True)
    for _ in range(3):
        module(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    return module, optimizer


def test_everything_comes_back_bit_for_bit(tmp_path):
    module, optimizer = trained()
    progress = Progress(epoch=2, position=5, step=21, best_score=0.1 + 0.2, loss_sum=1 / 3, identity={"seed": 1})
    best = {name: tensor + 1 for name, tensor in module_tensors(module).items()}
    save_checkpoint(tmp_path / "c.safetensors", progress, module_tensors(module), best, optimizer)
    found = load_checkpoint(tmp_path / "c.safetensors")
    assert found.progress == progress
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in module_tensors(module).items())
    assert all(torch.equal(found.best[name], tensor) for name, tensor in best.items())
    for index, state in optimizer.state_dict()["state"].items():
        assert found.optimizer[index].keys() == state.keys()
        assert all(torch.equal(found.optimizer[index][name], value) for name, value in state.items())


def test_another_version_is_refused(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "c.safetensors", {"format": "genrec_fast.checkpoint", "version": "99"})
    with pytest.raises(CorruptFileError, match=r"must be genrec_fast\.checkpoint version 2, got .* version 99"):
        load_checkpoint(tmp_path / "c.safetensors")


def test_unreadable_progress_is_refused(tmp_path):
    header = {"format": "genrec_fast.checkpoint", "version": "1", "progress": '{"stepp": 1}'}
    save_file({"a": torch.ones(1)}, tmp_path / "c.safetensors", header)
    with pytest.raises(CorruptFileError, match="has no readable progress"):
        load_checkpoint(tmp_path / "c.safetensors")


def test_shared_tensors_are_given_once_and_restored():
    module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    module[1].weight = module[0].weight
    tensors = module_tensors(module)
    assert list(tensors) == ["0.weight"]
    restore_module(module, {"0.weight": torch.eye(4)}, "test")
    assert torch.equal(module[1].weight, torch.eye(4))


def test_restoring_says_what_does_not_fit():
    module = nn.Linear(3, 2)
    with pytest.raises(CorruptFileError, match="file: tensor bias is missing"):
        restore_module(module, {"weight": torch.ones(2, 3)}, "file")
    with pytest.raises(CorruptFileError, match="file: tensor other is unknown to this recipe"):
        restore_module(module, {"weight": torch.ones(2, 3), "bias": torch.ones(2), "other": torch.ones(1)}, "file")
    with pytest.raises(CorruptFileError, match=r"tensor bias must be torch\.float32 \[2\], got torch\.float32 \[3\]"):
        restore_module(module, {"weight": torch.ones(2, 3), "bias": torch.ones(3)}, "file")


def test_a_flipped_byte_is_found(tmp_path):
    module, optimizer = trained()
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, Progress(step=3), module_tensors(module), None, optimizer)
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x10  # within the last tensor
    path.write_bytes(bytes(content))
    with pytest.raises(CorruptFileError, match="was altered: its checksum must be sha256:"):
        load_checkpoint(path)
