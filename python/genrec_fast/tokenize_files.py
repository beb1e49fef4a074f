"""From features to files of semantic IDs: what ``genrec-fast tokenize`` does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from genrec_fast import metrics
from genrec_fast.data import load
from genrec_fast.errors import DataError, InvalidValueError
from genrec_fast.files import atomic_path, write_text
from genrec_fast.recipe import TokenizerConfig

__all__ = ["tokenize"]


def _features(source: Path) -> torch.Tensor:
    if source.is_dir():
        features = load(source).features
        if features is None:
            raise DataError(f"tokenize: {source} must hold item features (.npy), got none")
        return features
    try:
        array = np.load(source, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"tokenize: {source} is not a .npy file of numbers ({error})") from error
    if array.ndim != 2 or array.dtype.kind != "f":
        raise InvalidValueError(f"tokenize: features must be float [N, F], got {array.dtype} {list(array.shape)}")
    return torch.from_numpy(array.astype(np.float32))


def tokenize(source: Path, out: Path, tokenizer: TokenizerConfig, seed: int) -> str:
    """Writes ``item_codes.json`` (LETTER's form) and ``item_codes.npy`` to ``out``; returns what is worth knowing.

    Raises:
        DataError: no features in ``source``.
        InvalidValueError: features that are not float ``[N, F]``, or more levels than letters.
    """
    features = _features(source)
    built = tokenizer.build(features.shape[1])
    built.fit(features, num_items=features.shape[0], seed=seed)
    codes, sizes = built.item_codes, tuple(built.codebook_sizes)
    if codes.shape[1] > 26:
        raise InvalidValueError(f"tokenize: the json form has 26 letters for levels, got {codes.shape[1]} levels")
    out.mkdir(parents=True, exist_ok=True)
    text = {
        str(item): [f"<{chr(ord('a') + level)}_{code}>" for level, code in enumerate(row)]
        for item, row in enumerate(codes.tolist())
    }
    write_text(out / "item_codes.json", json.dumps(text))
    with atomic_path(out / "item_codes.npy") as temporary, temporary.open("wb") as file:
        np.save(file, codes.numpy())
    lines = [f"{codes.shape[0]:,} items, {codes.shape[1]} levels of {', '.join(map(str, sizes))} codes"]
    lines.append(f"collision rate  {metrics.collision_rate(codes):.4f}")
    for level, use in enumerate(metrics.codebook_use(codes, sizes)):
        lines.append(f"codes used, level {level}  {use:.1%}")
    lines.append(f"wrote {out / 'item_codes.json'} and {out / 'item_codes.npy'}")
    return "\n".join(lines)
