"""Item feature vectors: from ``.npy``, or from the items' text by a sentence encoder on this machine."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genrec_fast.base.errors import DataError, InvalidTypeError, InvalidValueError, UnsupportedError, install_hint
from genrec_fast.base.files import atomic_path
from genrec_fast.data.readers.lines import read_vectors


def read_features(path: str | os.PathLike[str]) -> Tensor:
    """float32 ``[N, F]`` from a ``.npy`` file of float16, float32 or float64, row i for item i.

    Raises:
        DataError: not such a file, or a value that is not finite.
    """
    return read_vectors(Path(path))


def save_features(path: str | os.PathLike[str], features: Tensor) -> None:
    """Writes float16 ``[N, F]``, whole or not at all; as ``item_embeddings.f16.npy`` in a folder, ``load`` finds it.

    Raises:
        InvalidTypeError: not a floating-point tensor.
        InvalidValueError: not ``[N, F]``, a name that does not end in .npy, or values beyond float16 (65,504).
    """
    target = Path(path)
    if target.suffix != ".npy":
        raise InvalidValueError(f"save_features: path must end in .npy, got {target.name!r}")
    if not features.is_floating_point():
        raise InvalidTypeError(f"save_features: features must be a float tensor, got {features.dtype}")
    half = features.detach().cpu().to(torch.float16)
    if half.dim() != 2 or not bool(torch.isfinite(half).all()):
        raise InvalidValueError(
            f"save_features: features must be [N, F] and finite in float16, got {list(features.shape)}"
        )
    with atomic_path(target) as temporary:
        np.save(temporary, half.numpy())


def encode_texts(
    texts: Sequence[str],
    model_folder: str | os.PathLike[str],
    *,
    batch_size: int = 64,
    device: str | None = None,
    normalize: bool = True,
    progress: bool = True,
) -> Tensor:
    """Vectors of texts by a sentence-transformers model that lies in a folder; nothing is fetched from anywhere.

    Args:
        texts: N texts, for instance each item's title and attributes.
        model_folder: a folder as ``SentenceTransformer.save`` writes it (``modules.json``).
        batch_size: texts at a time.
        device: of torch; ``None`` lets the library choose.
        normalize: vectors of length one.
        progress: show a bar.

    Returns:
        float32 ``[N, F]`` on the CPU.

    Raises:
        UnsupportedError: the optional extra ``text`` is not installed.
        InvalidValueError: no texts.
        DataError: the folder holds no such model, or a vector is not finite.
    """
    if not texts:
        raise InvalidValueError("encode_texts: texts must not be empty, got none")
    folder = Path(model_folder)
    if not (folder / "modules.json").is_file():
        raise DataError(
            f"encode_texts: model_folder must be a folder with a sentence-transformers model (modules.json), "
            f"got {str(folder)!r}"
        )
    try:
        library = importlib.import_module("sentence_transformers")
    except ImportError as error:
        raise UnsupportedError(
            f"encode_texts: encoding texts needs sentence-transformers, which is not installed; {install_hint('text')}"
        ) from error
    model = library.SentenceTransformer(str(folder.resolve()), device=device, local_files_only=True)
    vectors = model.encode(
        list(texts),
        batch_size=batch_size,
        normalize_embeddings=normalize,
        show_progress_bar=progress,
        convert_to_tensor=True,
    )
    features = torch.as_tensor(vectors).detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(features).all()):
        row = int((~torch.isfinite(features).all(1)).nonzero()[0])
        raise DataError(f"encode_texts: vectors must be finite, but that of text {row} is not")
    return features
