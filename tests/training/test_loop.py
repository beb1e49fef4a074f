from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genrec_fast.base.errors import CorruptFileError, DivergedError, InvalidTypeError, InvalidValueError
from genrec_fast.base.weights import module_tensors
from genrec_fast.data import Splits, leave_one_out
from genrec_fast.recipe.recommender import load
from genrec_fast.training import train
from genrec_fast.training.log import read_log
from shared.killed import entries
from toy import ToyObjective, toy_data, toy_recipe

KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
import toy
original = toy.ToyObjective.__call__
def call(self, backbone, batch):
    if self.calls == {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, backbone, batch)
toy.ToyObjective.__call__ = call
from genrec_fast.training import train
train(toy.toy_recipe(checkpoint_minutes={minutes}), toy.toy_data(), seed=3, out=sys.argv[1], device="cpu")
"""


@pytest.fixture(autouse=True)
def no_picture(request, monkeypatch):
    """A picture takes longer than a training of a toy."""
    if "picture" not in request.node.name:
        monkeypatch.setattr("genrec_fast.training.loop.draw_curves", lambda log, picture: False)


def run(out=None, seed=3, resume=True, data=None, **settings):
    recipe = toy_recipe(**settings)
    return train(recipe, data or toy_data(), seed=seed, out=out, resume=resume, device="cpu", show_progress=False)


def weights(model):
    return module_tensors(model.backbone)


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(("after", "minutes"), [(13, 0.0), (16, 60.0)])
def test_a_killed_training_ends_with_the_same_bits(tmp_path, after, minutes):
    """8 steps an epoch: killed in the middle of the second one with a checkpoint of the step before; and at the first
    step of the third, with one of the end of the second."""
    whole = run(tmp_path / "whole", checkpoint_minutes=minutes)
    path = [str(Path(__file__).parent.parent), *sys.path]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED.format(after=after, minutes=minutes), str(tmp_path / "killed")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "killed" / "weights.safetensors").exists()
    resumed = run(tmp_path / "killed", checkpoint_minutes=minutes)
    assert same(weights(whole), weights(resumed))
    assert entries(tmp_path / "whole") == entries(tmp_path / "killed")


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    assert same(weights(run()), weights(run()))
    assert not same(weights(run()), weights(run(seed=4)))


@pytest.mark.parametrize("seed", [1.5, 1.0, "1", None, True])
def test_a_seed_that_is_no_int_is_named(seed):
    with pytest.raises(InvalidTypeError, match=rf"^train: seed must be an int, got {seed!r}"):
        run(seed=seed)


def test_validation_does_not_change_what_is_learned(tmp_path):
    run(tmp_path / "often", evaluate_every=1)
    run(tmp_path / "once", evaluate_every=3)
    losses = [
        [e["loss"] for e in entries(tmp_path / name) if e.get("step") in (7, 14, 21)] for name in ("often", "once")
    ]
    assert losses[0][0] == losses[1][0]
    assert entries(tmp_path / "often")[-1]["validation"] == entries(tmp_path / "once")[-1]["validation"]


def test_it_learns_what_there_is_to_learn():
    model = run(epochs=15)
    splits = leave_one_out(toy_data().interactions)
    top = model.recommend(splits.test.histories, 5).items
    assert (top == splits.test.targets[:, None]).any(1).float().mean() > 0.7  # by chance: 5 of 30


def test_the_best_weights_are_kept_not_the_last(tmp_path):
    model = run(tmp_path, epochs=6, learning_rate=0.5, schedule="constant")
    checks = [entry["validation"]["ndcg@10"] for entry in entries(tmp_path) if "validation" in entry]
    assert len(checks) == 6
    from genrec_fast.evaluation import evaluate

    result = evaluate(model, leave_one_out(toy_data().interactions).validation)
    assert result.ndcg[10] == pytest.approx(max(checks))


def test_it_stops_when_validation_no_longer_improves(tmp_path):
    run(tmp_path, epochs=200, learning_rate=2.0, schedule="constant", patience=2)
    checks = [entry for entry in entries(tmp_path) if "validation" in entry]
    assert len(checks) < 200
    assert [entry["best"] for entry in checks[-2:]] == [False, False]
    assert checks[-3]["best"]


def test_no_time_still_evaluates_and_saves_and_more_time_goes_on(tmp_path):
    run(tmp_path, max_minutes=0.0)
    assert load(tmp_path).num_items == 30
    assert [entry["step"] for entry in entries(tmp_path)] == [0]
    more = run(tmp_path)
    assert same(weights(more), weights(run()))


def test_a_finished_training_is_not_trained_again(tmp_path):
    first = run(tmp_path)
    before = entries(tmp_path)
    assert same(weights(first), weights(run(tmp_path)))
    assert entries(tmp_path) == before


def test_resume_false_starts_over(tmp_path):
    run(tmp_path, seed=1)
    assert same(weights(run(tmp_path, seed=2, resume=False)), weights(run(seed=2)))


def test_another_training_in_the_folder_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(InvalidValueError, match=r"out must be a new folder .* seed = 3 there and 9 here"):
        run(tmp_path, seed=9)
    with pytest.raises(InvalidValueError, match=r"recipe\.train\.learning_rate = 0\.05 there and 0\.5 here"):
        run(tmp_path, learning_rate=0.5)
    with pytest.raises(InvalidValueError, match="data = "):
        run(tmp_path, data=toy_data(seed=1))


def test_a_damaged_checkpoint_is_named(tmp_path):
    run(tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptFileError, match=r"checkpoint\.safetensors is cut short or altered"):
        run(tmp_path)


def test_an_infinite_loss_names_step_and_remedy_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(DivergedError, match=r"loss must be finite, got inf at step 12: try a lower learning_rate"):
        run(tmp_path, explode_at=13)
    from genrec_fast.training.checkpoint import load_checkpoint

    kept = load_checkpoint(tmp_path / "checkpoint.safetensors")
    assert kept.progress.step == 8
    assert all(bool(tensor.isfinite().all()) for tensor in kept.weights.values())


def test_ctrl_c_leaves_a_state_that_goes_on(tmp_path, monkeypatch):
    original = ToyObjective.__call__

    def interrupted(self, backbone, batch):
        if self.calls == 11:
            signal.raise_signal(signal.SIGINT)
        return original(self, backbone, batch)

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(ToyObjective, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 12 of 24; the same command goes on from there"):
        run(tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler
    monkeypatch.undo()
    assert same(weights(run(tmp_path)), weights(run()))


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_bf16_trains_and_keeps_float32_weights():
    model = run(bf16=True)
    assert {tensor.dtype for tensor in weights(model).values()} == {torch.float32}
    assert not same(weights(model), weights(run(bf16=False)))


def test_no_one_to_validate_on_is_an_error():
    data = toy_data(users=5)
    splits = leave_one_out(data.interactions)
    nobody = Splits(splits.train, splits.validation.head(0), splits.test)
    with pytest.raises(InvalidValueError, match="must have users with at least 3 events to validate on, got none"):
        train(toy_recipe(), data, splits=nobody, device="cpu", show_progress=False)


def test_the_log_and_the_picture(tmp_path):
    run(tmp_path)
    log = read_log(tmp_path / "log.jsonl")
    losses, checks = [e for e in log if "loss" in e], [e for e in log if "validation" in e]
    assert [entry["step"] for entry in losses] == [7, 8, 14, 16, 21, 24]
    assert [entry["step"] for entry in checks] == [8, 16, 24]
    assert losses[0].keys() == {"step", "epoch", "loss", "lr", "items_per_s", "elapsed_s", "targets"}
    assert checks[0]["validation"].keys() == {"recall@5", "ndcg@5", "recall@10", "ndcg@10"}
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.glob(".*")) == []


def test_progress_without_a_terminal_is_a_few_lines(capsys):
    train(toy_recipe(), toy_data(), device="cpu")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("epoch 1/3  recall@5 ")


def test_validation_on_a_sample_is_smaller_and_fixed(tmp_path):
    run(tmp_path / "a", evaluate_users=40)
    run(tmp_path / "b", evaluate_users=40, log_every=8)
    checks = [[e["validation"] for e in entries(tmp_path / name) if "validation" in e] for name in "ab"]
    assert checks[0] == checks[1]
    assert {e["users"] for e in entries(tmp_path / "a") if "validation" in e} == {40}


def test_recipes_that_differ_in_words_only_share_a_training(tmp_path):
    first = run(tmp_path)
    renamed = dataclasses.replace(toy_recipe(), measured="0.5 on toys")
    again = train(renamed, toy_data(), seed=3, out=tmp_path, device="cpu", show_progress=False)
    assert same(weights(first), weights(again))


def test_killed_while_it_validates(tmp_path, monkeypatch):
    """The checkpoint before a validation is a place to go on from, too, and the log is that of a run undisturbed."""

    def killed(self):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("genrec_fast.training.loop._Training._validation_figures", killed)
        with pytest.raises(RuntimeError, match="killed"):
            run(tmp_path / "killed", log_every=3)
    resumed, whole = run(tmp_path / "killed", log_every=3), run(tmp_path / "whole", log_every=3)
    assert same(weights(resumed), weights(whole))
    assert entries(tmp_path / "killed") == entries(tmp_path / "whole")
