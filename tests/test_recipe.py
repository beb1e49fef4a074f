from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

import pytest

from genrec_fast import recipes
from genrec_fast.backbones import CausalConfig, TimelineConfig
from genrec_fast.base.errors import CorruptFileError, InvalidTypeError, InvalidValueError
from genrec_fast.decoders import BeamConfig
from genrec_fast.objectives import NextCodeConfig
from genrec_fast.recipe.card import from_json, register_config, to_json
from genrec_fast.recipe.recipe import BatchingConfig, TrainConfig
from toy import ToyBackboneConfig, ToyLayoutConfig, toy_recipe


def change(recipe=None, **parts):
    return dataclasses.replace(recipe or toy_recipe(), **parts)


def through_text(recipe):
    return json.loads(json.dumps(to_json(recipe)))


def test_parts_that_do_not_fit_are_named():
    with pytest.raises(
        InvalidValueError, match=r"^Recipe: decoder Beam needs Autoregressive; backbone Causal gives Emb"
    ):
        change(recipes.sasrec(), decoder=BeamConfig())
    with pytest.raises(
        InvalidValueError, match=r"^Recipe: objective NextCode needs TeacherForced; backbone ToyBackbone "
    ):
        change(objective=NextCodeConfig())
    with pytest.raises(
        InvalidValueError, match=r"^Recipe: objective FullSoftmax needs Embedding; backbone Timeline gives"
    ):
        change(recipes.sasrec(), backbone=TimelineConfig())
    with pytest.raises(
        InvalidValueError, match=r"^Recipe: tokenizer must be given as decoder Beam writes semantic IDs"
    ):
        change(recipes.marius(), tokenizer=None)


def test_a_part_that_is_no_config_is_named():
    with pytest.raises(InvalidTypeError, match=r"^Recipe: backbone must be a config with \.build\(\), got 'big'"):
        change(backbone="big")
    with pytest.raises(InvalidTypeError, match=r"^Recipe: layout must be a config with .*ToyLayoutConfig"):
        change(layout=ToyLayoutConfig)
    with pytest.raises(InvalidTypeError, match=r"^Recipe: train must be a TrainConfig, got None"):
        change(train=None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"weight_decay": -1.0}, r"weight_decay must be at least 0 and finite, got -1\.0"),
        ({"final_ratio": 1.5}, r"final_ratio must be in \[0, 1\], got 1\.5"),
        ({"beta2": 1.0}, r"beta2 must be in \[0, 1\), got 1\.0"),
        ({"schedule": "inverse_sqrt", "warmup_steps": 0}, "warmup_steps must be at least 1 for inverse_sqrt, got 0"),
        ({"max_minutes": float("nan")}, "max_minutes must be at least 0 and finite, got nan"),
    ],
)
def test_train_settings_out_of_range_are_named(settings, message):
    with pytest.raises(InvalidValueError, match=f"^TrainConfig: {message}"):
        TrainConfig(**settings)


def test_batching_out_of_range_is_named():
    with pytest.raises(
        InvalidValueError, match=r"^BatchingConfig: items_per_batch must be at least max_items = 20, got 19"
    ):
        BatchingConfig(items_per_batch=19)


@pytest.mark.parametrize("name", [*recipes.names(), "toy"])
def test_a_recipe_survives_json(name):
    recipe = toy_recipe() if name == "toy" else recipes.get(name)
    assert from_json(through_text(recipe)) == recipe


def test_an_unknown_key_kind_value_or_version_is_corrupt():
    text = through_text(toy_recipe())
    with pytest.raises(CorruptFileError, match=r"^here: version must be 1, got 7"):
        from_json(text | {"version": 7}, "here")
    with pytest.raises(CorruptFileError, match=r"^here: Recipe has unknown key 'colour'"):
        from_json(text | {"colour": "red"}, "here")
    with pytest.raises(CorruptFileError, match=r"^here: Recipe has no key 'source'"):
        from_json({k: v for k, v in text.items() if k != "source"}, "here")
    with pytest.raises(
        CorruptFileError, match=r"^here: layout: kind must be a registered config type, got 'os.system'"
    ):
        from_json(text | {"layout": {"kind": "os.system"}}, "here")
    with pytest.raises(CorruptFileError, match=r"^here: backbone: ToyBackboneConfig has unknown key"):
        from_json(text | {"backbone": text["backbone"] | {"deep": 1}}, "here")
    with pytest.raises(CorruptFileError, match=r"^here: train: epochs must be <class 'int'>, got '3'"):
        from_json(text | {"train": text["train"] | {"epochs": "3"}}, "here")
    with pytest.raises(CorruptFileError, match=r"^here: train: TrainConfig: epochs must be at least 1, got -3"):
        from_json(text | {"train": text["train"] | {"epochs": -3}}, "here")
    with pytest.raises(CorruptFileError, match=r"^here: version must be 1, got 'list'"):
        from_json([], "here")


def test_only_registered_configs_are_written():
    @dataclass(frozen=True, kw_only=True)
    class StrangerConfig:
        def build(self, item_codes, codebook_sizes, features): ...

    with pytest.raises(
        InvalidTypeError, match=r"^to_json: layout must be of a registered config type, got StrangerConfig"
    ):
        to_json(change(layout=StrangerConfig()))
    register_config(StrangerConfig)
    assert from_json(through_text(change(layout=StrangerConfig()))).layout == StrangerConfig()


def test_a_name_can_be_registered_once():
    assert register_config(ToyBackboneConfig) is ToyBackboneConfig
    with pytest.raises(
        InvalidValueError, match=r"^register_config: kind must have a name of its own, got 'CausalConfig'"
    ):
        register_config(dataclass(frozen=True)(type("CausalConfig", (), {})))
    with pytest.raises(InvalidTypeError, match=r"^register_config: kind must be a frozen dataclass"):
        register_config(int)
    assert CausalConfig().width == 128
