"""Weights that were saved once load for good, and mean what they meant: names, shapes and outputs stay."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest
import torch

from genrec_fast import recipes
from genrec_fast.backbones import CausalConfig, HSTUConfig, T5Config, TimelineConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import CorruptFileError
from genrec_fast.base.jagged import Jagged
from genrec_fast.recipe.card import from_json, to_json
from genrec_fast.recipe.recommender import load
from genrec_fast.training import train
from shared.backbone_suite import ITEMS, SIZES, catalog_layout
from shared.catalogs import sized
from toy import toy_data

CASES = {
    "t5": T5Config(
        width=16, num_heads=2, head_width=8, num_layers=2, hidden=32, dropout=0.0, num_user_tokens=3, max_items=6
    ),
    "timeline": TimelineConfig(width=16, num_heads=2, num_layers=2, hidden=32, depth_hidden=24, max_items=6),
    "causal": CausalConfig(width=16, num_heads=2, num_layers=2, hidden=32, max_items=6),
    "hstu": HSTUConfig(width=16, qk_dim=8, v_dim=4, bias="position", epsilon=1e-5, max_items=6),
}


def filled(config):
    """The backbone with weights that come from no generator: waves of an own frequency for every name."""
    backbone = config.build(sized(SIZES, ITEMS)).eval()
    for name, tensor in backbone.state_dict().items():
        pace = int(hashlib.sha256(name.encode()).hexdigest()[:4], 16) / 65536 + 0.5
        wave = torch.sin(torch.arange(tensor.numel(), dtype=torch.float64) * pace).view(tensor.shape)
        tensor.copy_(wave * (0.3 if tensor.dim() > 1 else 1.0))
    return backbone


def outputs(name, backbone):
    """A few numbers of each of two users."""
    batch = catalog_layout()(Batch(Jagged.from_rows([[3, 17, 5], [8]]), users=torch.tensor([1, 2])))
    if name in ("causal", "hstu"):
        return backbone.embed_users(batch)[:, :4]
    session = backbone.prefill(batch)
    logits, _ = session.scores()
    codes = torch.tensor([[1, 4], [0, 6]], dtype=torch.int32)
    after, _ = session.extend(codes, torch.zeros(2, 2, dtype=torch.int32)).scores()
    return torch.cat([logits[:, 0, :4], after[:, 1, :4]], 1)


def names_of(backbone):
    lines = [f"{name} {list(tensor.shape)}" for name, tensor in sorted(backbone.state_dict().items())]
    return len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


# Of commit 26b7606, where the backbones ran on padded rows: number of tensors and a checksum of names and shapes.
# HSTU: of commit 96c562f, where the epsilon was no setting.
NAMES = {
    "t5": (42, "e79f67fdae34be72"),
    "timeline": (66, "72db51cdbfb49d9d"),
    "causal": (29, "57d200acbd1c09a9"),
    "hstu": (22, "418031a79f512658"),
}
OUTPUTS = {
    "t5": [
        [0.697177, 0.209488, -0.504060, -0.674155, -0.754089, -1.078463, -0.240088, 0.857139],
        [0.694951, 0.342600, -0.379126, -0.692097, 0.053875, -0.724432, -0.721689, 0.059145],
    ],
    "timeline": [
        [1.557904, 3.027592, -1.219922, -2.998004, 1.860155, 1.233832, -1.592354, 1.851954],
        [1.519687, 3.033694, -1.181515, -3.002910, 1.972602, 1.213164, -1.679730, 1.978612],
    ],
    "causal": [[0.0, 2.086474, 2.147495, 1.677573], [0.0, 2.175292, 2.008087, 1.069746]],
    "hstu": [[0.0, 1.699799, 2.091764, 0.491436], [0.0, 1.765198, 1.450381, -0.721228]],
}


@pytest.mark.parametrize("name", CASES)
def test_names_and_shapes_stay(name):
    backbone = CASES[name].build(sized(SIZES, ITEMS))
    assert names_of(backbone) == NAMES[name], sorted(backbone.state_dict())


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_what_weights_say_stays(name, native):
    with torch.set_grad_enabled(not native):
        found = outputs(name, filled(CASES[name])).detach()
    torch.testing.assert_close(found, torch.tensor(OUTPUTS[name]), rtol=0, atol=2e-5)


def test_settings_from_before_a_setting_was_one_mean_what_they_meant():
    text = json.loads(json.dumps(to_json(recipes.hstu())))
    assert text["backbone"].pop("epsilon") == 1e-6
    old = from_json(text)
    assert old.backbone == dataclasses.replace(recipes.hstu().backbone, epsilon=1e-5)
    assert from_json(json.loads(json.dumps(to_json(old)))) == old
    del text["backbone"]["width"]
    with pytest.raises(CorruptFileError, match="here: backbone: HSTUConfig has no key 'width'"):
        from_json(text, "here")


def test_a_folder_from_before_answers_as_it_did(tmp_path):
    data = toy_data(users=20)
    recipe = recipes.hstu()
    backbone = dataclasses.replace(recipe.backbone, width=16, qk_dim=8, v_dim=8, bias="none", epsilon=1e-5)
    recipe = dataclasses.replace(recipe, backbone=backbone, train=dataclasses.replace(recipe.train, epochs=1))
    model = train(recipe, data, device="cpu", show_progress=False)
    model.save(tmp_path)
    card = json.loads((tmp_path / "recipe.json").read_text())
    del card["recipe"]["backbone"]["epsilon"]
    (tmp_path / "recipe.json").write_text(json.dumps(card))
    histories = data.interactions.items
    assert torch.equal(load(tmp_path).recommend(histories, 5).scores, model.recommend(histories, 5).scores)
