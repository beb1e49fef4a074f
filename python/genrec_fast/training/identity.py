"""What a resumed training must share with the one it continues."""

from __future__ import annotations

import hashlib
from typing import Any

from genrec_fast.base.errors import GenrecError, InvalidValueError
from genrec_fast.base.weights import module_tensors
from genrec_fast.data import Dataset
from genrec_fast.ops.fingerprint import fingerprint
from genrec_fast.recipe.card import from_json, to_json
from genrec_fast.recipe.recipe import Recipe, TrainConfig
from genrec_fast.recipe.system import System

# These say when to stop and what is written down, not what is learned: they may change from one run to the next.
_TEXTS = ("name", "source", "deviations", "measured")
_FREE = ("max_minutes", "checkpoint_minutes", "patience", "log_every")


def identity(recipe: Recipe, data: Dataset, seed: int, processes: int, start: System | None = None) -> dict[str, Any]:
    """Plain JSON that is equal for two runs exactly if one may continue the other."""
    text = _settings(to_json(recipe))
    digest = hashlib.sha256()
    events = data.interactions
    known = (
        events.items.values,
        events.items.offsets,
        data.features,
        data.item_codes,
        events.timestamps,
        events.actions,
    )
    for tensor in known:
        if tensor is not None:
            digest.update(tensor.contiguous().numpy().data)
    found = {"recipe": text, "seed": seed, "data": digest.hexdigest()[:16], "processes": processes}
    if start is not None:
        found["start"] = f"{fingerprint([tensor.cpu() for tensor in module_tensors(start).values()]):016x}"
    return found


def _settings(recipe: dict[str, Any]) -> dict[str, Any]:
    text = {name: value for name, value in recipe.items() if name not in _TEXTS}
    return text | {"train": {name: value for name, value in text["train"].items() if name not in _FREE}}


def _completed(recipe: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run, with what those that came after it was begun were for it."""
    texts = {"name": "run", "source": "run", "deviations": [], "measured": ""}
    try:
        train = {name: getattr(TrainConfig(), name) for name in _FREE} | recipe["train"]
        return _settings(to_json(from_json(texts | recipe | {"train": train})))
    except (GenrecError, KeyError, TypeError):  # something that is no recipe: it differs
        return recipe


def _difference(old: Any, new: Any, path: str) -> str | None:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            found = _difference(old.get(name), new.get(name), f"{path}.{name}" if path else name)
            if found is not None:
                return found
        return None
    return None if old == new else f"{path} = {old!r} there and {new!r} here"


def check_identity(old: dict[str, Any], new: dict[str, Any], out: object) -> None:
    """Refuses to continue another training.

    Raises:
        InvalidValueError: naming the first setting that differs.
    """
    if isinstance(old.get("recipe"), dict):
        old = old | {"recipe": _completed(old["recipe"])}
    found = _difference(old, new, "")
    if found is not None:
        raise InvalidValueError(
            f"train: out must be a new folder or one of the same training, got {out} with {found}; "
            f"choose another folder, or start over with resume=False (--no-resume)"
        )
