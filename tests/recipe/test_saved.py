"""The folder of a saved model: replaced whole, every byte checked, cards from outside read with limits."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import threading
from pathlib import Path

import pytest
import torch

from genrec_fast.base.errors import CorruptFileError, FolderInUseError, StorageError
from genrec_fast.base.files import file_checksum
from genrec_fast.base.lock import FolderLock
from genrec_fast.recipe import saved
from genrec_fast.recipe.recommender import Recommender, load
from shared.flips import check_flips
from shared.killed import kill_at
from shared.numbers import numbers_in, put
from toy import toy_data, toy_recipe

HISTORIES = [[1, 2, 3], [4], [5, 6]]
BEFORE = Path(__file__).parent.parent / "fixtures" / "saved_96c562f" / "models"


def toy_model(seed):
    torch.manual_seed(seed)
    catalog = toy_data().catalog
    return Recommender(toy_recipe(), catalog.with_codes(torch.arange(30, dtype=torch.int32)[:, None], (30,)))


def scores(model):
    return model.recommend(HISTORIES, 5).scores


@pytest.fixture
def models():
    return [toy_model(seed) for seed in (0, 1)]


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def rewrite(folder, **changes):
    """Another card, without its checksum, as somebody would make it who means ill."""
    path = folder / "recipe.json"
    card = json.loads(path.read_text()) | changes
    card.pop("checksum", None)
    path.write_text(json.dumps(card))


def test_a_model_saved_over_another_takes_its_place_and_nothing_is_left_of_it(models, tmp_path):
    first, second = models
    first.save(tmp_path)
    assert files(tmp_path) == ["catalog.safetensors", "items.json", "recipe.json", "weights.safetensors"]
    for model in (second, first, second):
        model.save(tmp_path)
        assert torch.equal(scores(load(tmp_path)), scores(model))
        assert len(files(tmp_path)) == 4


@pytest.mark.parametrize("old", [True, False])
def test_a_save_that_fails_anywhere_leaves_the_old_model_or_none(models, tmp_path, monkeypatch, old):
    """The disk is full at every write in turn."""
    first, second = models
    if old:
        first.save(tmp_path)
    replace, at, calls = Path.replace, 0, 0

    def full(self, target):
        nonlocal calls
        calls += 1
        if calls > at:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    while True:
        calls = 0
        refused = _refusal(second, tmp_path)
        if not refused:
            break
        assert "No space left on device; free some space" in refused
        if old:
            assert torch.equal(scores(load(tmp_path)), scores(first))
        else:
            assert files(tmp_path) == []
        at += 1
    assert at == 4
    assert torch.equal(scores(load(tmp_path)), scores(second))
    assert len(files(tmp_path)) == 4


def _refusal(model, folder):
    try:
        model.save(folder)
    except StorageError as error:
        return str(error)
    return ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a child that is killed needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_save_that_is_killed_anywhere_leaves_the_old_model_or_the_new(models, tmp_path):
    """Killed before each of its changes to the folder in turn."""
    first, second = models
    seen, codes = set(), []
    for at in range(1, 100):
        folder = tmp_path / str(at)
        toy_model(2).save(folder)
        first.save(folder)  # its files lie in a sub-folder
        child = os.fork()
        if child == 0:
            kill_at(at, (Path, "mkdir"), (shutil, "rmtree"))
            second.save(folder)
            os._exit(0)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        found = scores(load(folder))
        which = [torch.equal(found, scores(model)) for model in models]
        assert any(which), at
        seen.add(which[1])
        second.save(folder)  # neither the lock nor the leavings of the killed one are in its way
        assert len(files(folder)) == 4
        if codes[-1] == 0:
            break
    assert codes == [-signal.SIGKILL] * (len(codes) - 1) + [0]
    assert len(codes) > 10
    assert seen == {True, False}


def test_who_loads_while_another_saves_sees_one_or_the_other(models, tmp_path):
    for model in models:
        model.save(tmp_path)
    wanted, stop, failures = [scores(model) for model in models], threading.Event(), []

    def keep_saving():
        number = 0
        while not stop.is_set():
            models[number % 2].save(tmp_path)
            number += 1

    writer = threading.Thread(target=keep_saving)
    writer.start()
    try:
        for _ in range(40):
            found = scores(load(tmp_path))
            if not any(torch.equal(found, known) for known in wanted):
                failures.append(found)
    finally:
        stop.set()
        writer.join()
    assert failures == []


def test_every_flip_in_every_file_is_found_or_harmless(models, tmp_path):
    models[0].save(tmp_path)
    wanted = scores(models[0])
    for name in files(tmp_path):
        found = check_flips(tmp_path / name, lambda: load(tmp_path), lambda model: torch.equal(scores(model), wanted))
        assert found > 200, name  # spaces of a card may change


@pytest.mark.slow
def test_every_flip_is_found_in_a_model_with_a_trie_and_in_one_from_before(tmp_path):
    again = tmp_path / "again"
    load(BEFORE / "marius").save(again)
    assert "trie.safetensors" in files(again)
    before = Path(shutil.copytree(BEFORE / "marius", tmp_path / "before"))
    (before / "answers.safetensors").unlink()
    for folder in (again, before):
        wanted = load(folder).recommend(HISTORIES, 5).scores
        for name in files(folder):
            check_flips(
                folder / name,
                lambda folder=folder: load(folder),
                lambda model, wanted=wanted: torch.equal(model.recommend(HISTORIES, 5).scores, wanted),
            )


def test_one_writer_at_a_time(models, tmp_path, monkeypatch):
    monkeypatch.setattr("genrec_fast.recipe.recommender.SAVE_SECONDS", 0.1)
    with FolderLock(tmp_path, "train"), pytest.raises(FolderInUseError, match=rf"got process {os.getpid()} on .*train"):
        models[0].save(tmp_path)
    models[0].save(tmp_path)


# Cards from outside


@pytest.mark.parametrize("name", ["../other/weights.safetensors", "/etc/passwd", "..", "", "weights.safetensors/../x"])
def test_a_card_names_nothing_outside_its_folder(models, tmp_path, name):
    models[0].save(tmp_path / "other")
    models[0].save(tmp_path / "m")
    sums = json.loads((tmp_path / "m" / "recipe.json").read_text())["sha256"]
    rewrite(tmp_path / "m", sha256=sums | {name: "0" * 64})
    with pytest.raises(CorruptFileError, match="must name no file but weights"):
        load(tmp_path / "m")
    rewrite(tmp_path / "m", sha256=sums, files=name or ".")
    with pytest.raises(CorruptFileError, match="files must name a sub-folder"):
        load(tmp_path / "m")


@pytest.mark.parametrize("name", ["recipe.json", "weights.safetensors", "items.json"])
def test_a_link_out_of_the_folder_is_refused_and_one_to_the_folder_is_not(models, tmp_path, name):
    models[0].save(tmp_path / "m")
    (tmp_path / "latest").symlink_to(tmp_path / "m")
    assert load(tmp_path / "latest").num_items == 30
    (tmp_path / "m" / name).rename(tmp_path / name)
    (tmp_path / "m" / name).symlink_to(tmp_path / name)
    with pytest.raises(CorruptFileError, match=rf"{name} must be a file of its folder, got a link to"):
        load(tmp_path / "m")


@pytest.mark.parametrize("name", ["bert4rec", "gru4rec", "hstu", "kuaiformer", "marius", "pinrec", "sasrec", "tiger"])
def test_a_network_larger_than_its_weights_is_refused_before_memory_is_taken(tmp_path, name):
    """Every number of a card in turn is a billion."""
    folder = Path(shutil.copytree(BEFORE / name, tmp_path / "m"))
    told = json.loads((folder / "recipe.json").read_text())["recipe"]
    refused, peak = set(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path in numbers_in(told):
        rewrite(folder, recipe=put(told, path, 10**9))
        try:
            load(folder)
        except CorruptFileError as error:
            if "must ask for a network that its weights fill" in str(error):
                refused.add(path[-1])
    assert refused & {"num_layers"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 1 << 19  # KiB


def test_a_card_of_no_card_size_is_refused(models, tmp_path, monkeypatch):
    models[0].save(tmp_path)
    monkeypatch.setattr(saved, "_CARD_BYTES", 100)
    with pytest.raises(CorruptFileError, match=r"recipe\.json must have at most 100 bytes, got"):
        load(tmp_path)


def test_a_card_without_its_checksum_is_one_from_before(models, tmp_path):
    models[0].save(tmp_path)
    card = json.loads((tmp_path / "recipe.json").read_text())
    del card["checksum"]
    (tmp_path / "recipe.json").write_text(json.dumps(card))
    assert torch.equal(scores(load(tmp_path)), scores(models[0]))
    assert card["sha256"]["weights.safetensors"] == file_checksum(tmp_path / "weights.safetensors")
