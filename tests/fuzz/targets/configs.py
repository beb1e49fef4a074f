"""Settings: every config of the public list with fields altered; what it takes, its ``build`` takes too."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

import genrec_fast as gf
from genrec_fast import decoders, objectives, recipes
from genrec_fast.base.errors import GenrecError, InvalidValueError
from genrec_fast.recipe.card import from_json, to_json

from ..case import Case, Rng, target

ABOUT = {
    "BehaviourCodesConfig": {"actions": ("seen", "bought")},
    "DualFlowConfig": {"num_actions": 2},
    "PublishedConfig": {"path": "codes.json"},
    "BlendConfig": {"decoder": gf.BeamConfig()},
    "MemberConfig": {"backbone": gf.CausalConfig(), "decoder": gf.BeamConfig()},
}
CATALOG = gf.Catalog(
    item_codes=torch.tensor([[0, 1], [1, 0], [1, 1]], dtype=torch.int32),
    codebook_sizes=(2, 2),
    features=torch.ones(3, 4),
)


def _kinds() -> dict[str, type]:
    names = [name for name in gf.__all__ if name.endswith("Config")]
    found = {name: getattr(gf, name) for name in names}
    return found | {name: getattr(decoders, name) for name in decoders.__all__ if name.endswith("Config")}


def _valid(kind: Any) -> dict[str, Any]:
    given = ABOUT.get(kind.__name__, {})
    fields = dataclasses.fields(kind)
    made = {f.name: f.default_factory() for f in fields if f.default_factory is not dataclasses.MISSING}
    return {f.name: given.get(f.name, made.get(f.name, f.default)) for f in fields}


class Late(Exception):
    """A setting that was taken, and is refused where it is used."""


def _register(name: str, kind: Any) -> None:
    alone = name in {*objectives.__all__, *decoders.__all__} and hasattr(kind, "build")

    @target(name, gentle=True, share=0.1, calls=64)
    def make(rng: Rng) -> Case:
        def call(**given: Any) -> Any:
            made = kind(**given)
            if alone:
                try:
                    made.build(CATALOG)
                except GenrecError as error:
                    raise Late(f"build refuses what the config takes: {error}") from error
            return None

        args = _valid(kind)
        return Case(call, args, (lambda **given: None) if args else None, fixed=frozenset({"path"}))


for _name, _kind in _kinds().items():
    if dataclasses.fields(_kind):  # one without settings has nothing to alter
        _register(_name, _kind)


@target("recipe_json.from_json", gentle=True, share=0.3)
def read_back(rng: Rng) -> Case:
    """A recipe's JSON with something in it altered."""
    card = to_json(recipes.get(rng.choice(recipes.names())))

    def call(**card: Any) -> Any:
        return to_json(from_json(card))

    return Case(call, card, None)


@target("recipes.get", gentle=True, share=0.1)
def get(rng: Rng) -> Case:
    def right(name: str) -> str:
        if name not in recipes.names():
            raise InvalidValueError(name)
        return str(name)

    return Case(lambda name: recipes.get(name).name, {"name": rng.choice(recipes.names())}, right)
