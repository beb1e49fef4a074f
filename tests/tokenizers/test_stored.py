"""Files that are whole by their checksum and hold something else than what ``save`` wrote."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from genrec_fast import tokenizers
from genrec_fast.base.errors import CorruptFileError, InvalidTypeError, InvalidValueError
from genrec_fast.base.files import checksum
from genrec_fast.tokenizers.stored import check_codes, check_sizes, take
from shared.catalogs import wide

CONFIGS = {
    "rqkmeans": tokenizers.RQKMeansConfig(codebook_sizes=(4, 3), iterations=2),
    "rqvae": tokenizers.RQVAEConfig(codebook_sizes=(4, 3), hidden_sizes=(8,), latent_dim=4, steps=4),
    "pq": tokenizers.PQConfig(codebook_sizes=(4, 3), iterations=2),
    "opq": tokenizers.OPQConfig(codebook_sizes=(4, 3), iterations=2, rotations=2),
    "fsq": tokenizers.FSQConfig(steps=((3, 2), (4,)), training_steps=4, hidden_size=8),
    "fsq of axes": tokenizers.FSQConfig(steps=((3, 2), (4,)), encoder="pca"),
    "hierarchical": tokenizers.HierarchicalConfig(codebook_sizes=(4, 3)),
    "random": tokenizers.RandomConfig(codebook_sizes=(4, 3)),
}
FREE = ("history", "normals")  # any number of rows


@pytest.fixture(scope="module")
def features():
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=CONFIGS)
def fitted(request, features):
    tokenizer = CONFIGS[request.param].build(wide(6))
    tokenizer.fit(features, num_items=40)
    return tokenizer


def contents(tokenizer, path):
    tokenizer.save(path)
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del metadata["checksum"]
    return metadata, tensors


def write(path, metadata, tensors):
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, path, metadata | {"checksum": checksum(metadata, tensors)})


def wrong(name, tensor):
    """The same tensor with other shapes, dtypes and values, none of which ``save`` writes."""
    yield tensor.flatten()[None, None, None]
    yield tensor.half() if tensor.is_floating_point() else tensor.long()
    if tensor.dim() == 2:
        yield tensor[:, :-1]
    if tensor.dim() and len(tensor) and name != "item_codes" and not name.endswith(FREE):
        yield tensor[:-1]
        yield torch.cat([tensor, tensor[-1:]])
    if tensor.is_floating_point() and name != "history" and not name.endswith("threshold"):
        yield torch.full_like(tensor, torch.nan)
    if not tensor.is_floating_point():
        yield torch.full_like(tensor, -2)
        yield torch.full_like(tensor, 1 << 20)


def test_tensors_of_another_shape_dtype_or_range_fail_at_load(fitted, tmp_path):
    metadata, tensors = contents(fitted, path := tmp_path / "tokenizer.safetensors")
    for name, tensor in tensors.items():
        for changed in wrong(name, tensor):
            if changed.numel() or tensor.numel():
                write(path, metadata, tensors | {name: changed})
                with pytest.raises(CorruptFileError, match=r"must hold what save wrote, got: InvalidValueError\("):
                    tokenizers.load(path)
        if name != "scales":  # older files have none
            write(path, metadata, {other: tensors[other] for other in tensors if other != name})
            with pytest.raises(CorruptFileError, match="must hold what save wrote"):
                tokenizers.load(path)


@pytest.mark.parametrize("field", ["config", "feature_dim", "codebook_sizes"])
def test_settings_of_another_kind_fail_at_load(fitted, field, tmp_path):
    metadata, tensors = contents(fitted, path := tmp_path / "tokenizer.safetensors")
    texts = ["[]", "3", '"x"', "[1,", "-1", "[0, 0, 0]", "[4.0, 3, 9]", '{"a": 1}', ""]
    if field == "config":
        texts.append(json.dumps({**json.loads(metadata["config"]), "dedup": "none of these"}))
    for text in texts:
        if not (fitted.kind == "random" and field == "feature_dim" and text in ("3", "-1")):  # it reads no features
            write(path, metadata | {field: text}, tensors)
            with pytest.raises(CorruptFileError, match="must hold what save wrote"):
                tokenizers.load(path)


def test_what_save_wrote_comes_back(fitted, features, tmp_path):
    fitted.save(tmp_path / "tokenizer.safetensors")
    loaded = tokenizers.load(tmp_path / "tokenizer.safetensors")
    assert torch.equal(loaded.item_codes, fitted.item_codes)
    if fitted.kind != "random":
        codes = loaded.encode(features)
        assert torch.equal(codes, fitted.encode(features))
        assert torch.equal(loaded.decode(codes), fitted.decode(codes))


def test_what_is_wrong_is_named():
    tensors = {"a": torch.zeros(2, 3), "item_codes": torch.tensor([[0, 1], [2, 5]], dtype=torch.int32)}
    with pytest.raises(InvalidValueError, match=r"load: the file must hold b, got none"):
        take(tensors, "b", torch.float32, (2, 3))
    with pytest.raises(InvalidValueError, match=r"load: a must be torch.float64 \['any', 3\], got torch.float32"):
        take(tensors, "a", torch.float64, (None, 3))
    with pytest.raises(InvalidValueError, match=r"load: item_codes of level 1 must be in \[0, 5\), got 5 of item 1"):
        check_codes(tensors, (4, 5), None)
    with pytest.raises(InvalidValueError, match=r"load: codebook_sizes must begin with \(4, 4\), got \(4, 6\)"):
        check_codes(tensors, (4, 6), (4, 4))
    with pytest.raises(InvalidValueError, match=r"load: codebook_sizes must be a list of numbers of at least 1, got 3"):
        check_sizes(3)


def test_vectors_without_data_and_sparse_ones_are_refused(fitted, features):
    if fitted.kind != "random":
        for vectors in (features.to("meta"), features.to_sparse()):
            with pytest.raises(
                InvalidTypeError, match=f"{fitted.kind}: features must be a dense tensor with data, got"
            ):
                fitted.encode(vectors)
