"""ONE training loop for every recipe: resumable bit for bit, stopped by validation or by the clock."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import CorruptFileError, InvalidTypeError, InvalidValueError, StorageError
from genrec_fast.base.protocols import Counted
from genrec_fast.data import Dataset, Splits, leave_one_out, num_training_batches, training_batches
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipe.recommender import Recommender, usable_device
from genrec_fast.recipe.saved import holds_model_of, write_model
from genrec_fast.training.at_once import train_at_once
from genrec_fast.training.checkpoint import Checkpoint, Progress, save_checkpoint
from genrec_fast.training.curves import draw_curves
from genrec_fast.training.folder import RunFolder
from genrec_fast.training.identity import check_identity, identity
from genrec_fast.training.interrupts import Interrupts
from genrec_fast.training.learned import learned_tensors, restore_learned
from genrec_fast.training.log import Log, ProgressBar, StageBar
from genrec_fast.training.losses import Losses
from genrec_fast.training.processes import Processes
from genrec_fast.training.schedule import learning_rate
from genrec_fast.training.setup import (
    Step,
    begin_with,
    bf16_pays,
    coded_catalog,
    make_optimizer,
    mix_seed,
    sample_users,
)
from genrec_fast.training.still import say_if_still
from genrec_fast.training.validation import validation_figures

SYNC_STEPS = 10  # processes agree that often whether to stop: every step would make a GPU wait
PICTURE_SECONDS = 60.0  # between two drawings of the curves


def train(
    recipe: Recipe,
    data: Dataset,
    *,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = True,
    splits: Splits | None = None,
    device: str | None = None,
    show_progress: bool = True,
    start: Recommender | None = None,
) -> Recommender:
    """Trains ``recipe`` on ``data`` and returns the recommender with the best validation NDCG@10 (of actions: entropy).

    Args:
        recipe: what to train and how.
        data: interactions, and the features or semantic IDs that the recipe reads.
        seed: of the weights, the dropout and the order of the batches.
        out: folder for the checkpoint, ``log.jsonl``, ``curves.png`` and the finished model; ``None``: nothing is
            written.
        resume: go on from the checkpoint in ``out``, if there is one; false: start over.
        splits: ``None``: leave one out (last item test, second-last validation).
        device: "cpu", "cuda", ... ; ``None``: what accelerate finds. Without a number where several processes were
            launched (``torchrun --nproc_per_node 2``): they train as one, each on a share of the batches.
        show_progress: a bar on a terminal, elsewhere a line every half minute, both on stderr.
        start: a trained model to begin with: its semantic IDs and weights. The recipe's backbone must be the same.

    Raises:
        InvalidTypeError: a seed that is no int.
        DivergedError: a loss or gradient is not finite; the last checkpoint stays.
        UnsupportedError: no such device here, or several launched processes cannot train together on it.
        InvalidValueError: a negative seed; ``out`` holds another training, or there is nothing to learn from or to
            validate on; no features where the network is made of them, no ``start`` where the recipe needs one.
        CorruptFileError: checkpoint, semantic IDs or log are cut short, altered, or of different runs.
        FolderInUseError: another training writes to ``out``.
        StorageError: ``out`` cannot be written to: the disk is full or read-only, or the folder is gone. What was there
            is whole, and the same call goes on from it.
        KeyboardInterrupt: after Ctrl-C; the state is saved, and the same call goes on from there.

    Notes:
        On one kind of CPU with one number of threads and of processes, the weights are a function of (recipe, data,
        seed) alone, bit for bit, however often the training was killed and resumed (a time limit aside). The caller's
        random state is left as it was.
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InvalidTypeError(f"train: seed must be an int, got {seed!r}")
    if not 0 <= seed < 1 << 63:
        raise InvalidValueError(f"train: seed must be in [0, 2^63), got {seed}")
    if device is not None:
        usable_device("train", device)
    if data.features is None and recipe.made_of_features:
        raise InvalidValueError(
            f"train: data must have item features for {recipe.name}, whose network is made of them, got none"
        )
    folder = None if out is None else Path(out)
    with torch.random.fork_rng(devices=[]), contextlib.ExitStack() as held:
        if recipe.at_once:
            return train_at_once(
                recipe, data, seed=seed, out=folder, resume=resume, splits=splits, device=device, start=start
            )
        return _Training(recipe, data, seed, folder, resume, splits, device, show_progress, held, start).run()


class _Training:
    def __init__(
        self,
        recipe: Recipe,
        data: Dataset,
        seed: int,
        out: Path | None,
        resume: bool,
        splits: Splits | None,
        device: str | None,
        show_progress: bool,
        held: contextlib.ExitStack,
        start: Recommender | None,
    ) -> None:
        self.recipe, self.settings, self.seed = recipe, recipe.train, seed
        self.stop = held.enter_context(Interrupts())
        self.processes = Processes(device)
        self.device, self.rank, self.world = self.processes.device, self.processes.rank, self.processes.world
        self.main = self.rank == 0
        self.splits = leave_one_out(data.interactions) if splits is None else splits
        if len(self.splits.validation) == 0:
            raise InvalidValueError("train: data must have users with at least 3 events to validate on, got none")
        self.batching: dict[str, Any] = dataclasses.asdict(recipe.batching)
        self.steps_per_epoch = num_training_batches(self.splits.train, **self.batching) // self.world
        if self.steps_per_epoch == 0:
            raise InvalidValueError(
                f"train: data must give each of the {self.world} processes a batch (the last two events of every user "
                "are kept for validation and test, so it takes users with four), got fewer"
            )
        self.total_steps = self.steps_per_epoch * self.settings.epochs
        self.identity = identity(recipe, data, seed, self.world, start)
        histories, known = self.splits.train.items, None if start is None else start.catalog
        found: Checkpoint | None = None
        self.folder = None if out is None else RunFolder(out, writes=self.main)
        with self.processes.main_first(), StageBar(show_progress and self.main) as bar:
            if self.folder is not None:
                held.enter_context(self.folder)
                found = self.folder.resumed() if resume else None
            if found is not None:
                check_identity(found.progress.identity, self.identity, out)
            reuse = found is not None or not self.main  # a resumed training reads the semantic IDs it began with
            kept, run = (None, "") if self.folder is None else (self.folder.item_codes, self.folder.run)
            catalog = coded_catalog(
                recipe, data, seed, kept, reuse=reuse, histories=histories, progress=bar, codes=known, run=run
            )
            torch.manual_seed(seed)
            self.model = Recommender(recipe, catalog)
            self.model.to(self.device)
            begin_with(self.model, start)
            if start is None and isinstance(self.model.backbone, Counted):
                self.model.backbone.count(histories)
            if self.folder is not None and self.main:  # nothing of what was there has changed so far
                if found is None:
                    self.folder.begin(over=not resume)
                if recipe.tokenizer is not None and known is None and not self.folder.item_codes.exists():
                    self.folder.save_item_codes(catalog)
        self.optimizer = make_optimizer(self.model, self.settings)
        self.bf16 = bf16_pays(self.device) if self.settings.bf16 is None else self.settings.bf16
        self.progress = Progress(identity=self.identity, run="" if self.folder is None else self.folder.run)
        self.best: dict[str, Tensor] | None = None
        if found is not None:
            self.progress = found.progress
            restore_learned(self.model, found.weights, f"train: the checkpoint in {out}")
            self.best = found.best
            state = self.optimizer.state_dict()
            self.optimizer.load_state_dict({"state": found.optimizer, "param_groups": state["param_groups"]})
        self.module = self.processes.wrap(Step(self.model))
        self.validation = sample_users(self.splits.validation, self.settings.evaluate_users)
        self.log = Log(None)
        if self.folder is not None and self.main:
            known_log = (self.progress.log_bytes, self.progress.log_checksum)
            self.log = Log(self.folder.log, *known_log, check=self.folder.check)
        self.bar = ProgressBar(
            self.total_steps, self.settings.epochs, self.settings.max_minutes, show_progress and self.main
        )
        kept = None if self.folder is None else self.folder.checkpoint
        self.losses = Losses(self.progress, self.settings.learning_rate, self.bf16, kept)
        self._elapsed_before, self._started = self.progress.elapsed, time.monotonic()
        self._saved = self._drawn = time.monotonic()
        self.figures: dict[str, float] = {}  # of the last step

    def run(self) -> Recommender:
        state, settings = self.progress, self.settings
        before = (state.step, state.evaluated_step)
        if state.step:
            self.bar.say(f"resuming at step {state.step}, epoch {state.epoch + 1}")
        with self.bar:
            while state.epoch < settings.epochs and not self._stale():
                if state.position == self.steps_per_epoch:
                    self._end_epoch()
                    continue
                if not self._run_steps():
                    break
            if state.evaluated_step != state.step or self.best is None:
                self._evaluate()
        assert self.best is not None
        restore_learned(self.model, self.best, "train")
        self.model.eval()
        if self.folder is not None and self.main:
            out, run = self.folder.path, self.folder.run
            self._save()
            if (state.step, state.evaluated_step) != before or not holds_model_of(out, run):
                write_model(self.model, out, run=run)
            self._draw()
            self.bar.say(f"saved {out}: best validation score {state.best_score:.4f}, epoch {state.best_epoch}")
        return self.model

    def _stale(self) -> bool:
        return 0 < self.settings.patience <= self.progress.stale

    def _elapsed(self) -> float:
        return self._elapsed_before + time.monotonic() - self._started

    def _batches(self) -> Iterator[Batch]:
        state = self.progress
        return training_batches(
            self.splits.train,
            **self.batching,
            seed=self.seed,
            epoch=state.epoch,
            first=state.position * self.world + self.rank,
            step=self.world,
        )

    def _run_steps(self) -> bool:
        """To the end of the epoch; false where the time is up."""
        state, settings = self.progress, self.settings
        self.model.train()
        batches = self._batches()
        while state.position < self.steps_per_epoch:
            stopped, out_of_time, due = self._signals()
            if stopped:
                self._save()
                self._leave()
            if out_of_time:
                minutes = settings.max_minutes
                self.bar.say(f"the time limit of {minutes:g} minutes is reached at step {state.step}")
                return False
            if due:
                self._save()
            self._one_step(next(batches))
            if state.step % settings.log_every == 0:
                self._write_losses()
            self.bar.update(state.step, state.epoch, self.losses.last, self._elapsed())
        return True

    def _signals(self) -> tuple[bool, bool, bool]:
        """Whether to stop on request, to stop for time, to write a checkpoint: the same answer in every process."""
        minutes = self.settings.max_minutes
        out_of_time = minutes is not None and self._elapsed() >= 60.0 * minutes
        due = self.folder is not None and time.monotonic() - self._saved >= 60.0 * self.settings.checkpoint_minutes
        if self.world == 1:
            return self.stop.asked, out_of_time, due
        if self.progress.step % SYNC_STEPS:
            return False, False, False
        flags = torch.tensor([self.stop.asked, out_of_time, due], device=self.device, dtype=torch.int64)
        stopped, out_of_time, due = (bool(flag) for flag in self.processes.sum(flags).tolist())
        return stopped, out_of_time, due

    def _one_step(self, batch: Batch) -> None:
        state, settings = self.progress, self.settings
        # A stream of its own for every (seed, step, process), so that a checkpoint holds no random state.
        torch.manual_seed(mix_seed(self.seed, state.step, self.rank))
        rate = learning_rate(settings, state.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = self.model.batch(batch)
        with torch.no_grad():
            batch = self.model.objective.prepare(self.model, batch)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss, count, self.figures = self.module(batch)
        if self.device.type == "cpu" and not math.isfinite(loss.item()):
            raise self.losses.diverged(state.step, "loss", loss.item())
        if self.world > 1:  # gradients are averaged over processes: weigh each by its number of terms
            total = self.processes.sum(torch.tensor(float(count), device=self.device))
            (loss * (count * self.world / total)).backward()
        else:
            loss.backward()
        if settings.clip_norm:
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip_norm)
            if self.device.type == "cpu" and not math.isfinite(float(norm)):
                raise self.losses.diverged(state.step, "norm of the gradient", float(norm))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.pending.append(loss.detach().float())
        state.items += int(batch.items.values.shape[0])
        state.step += 1
        state.position += 1
        if self.device.type == "cpu":
            self.losses.flush()

    def _write_losses(self) -> None:
        self.losses.flush()
        state = self.progress
        if not state.loss_count:
            return
        elapsed = self._elapsed()
        since = elapsed - state.logged_at
        self.log.write(
            step=state.step,
            epoch=state.epoch,
            loss=state.loss_sum / state.loss_count,
            lr=learning_rate(self.settings, state.step - 1, self.total_steps),
            items_per_s=round(state.items * self.world / since, 1) if since > 0 else None,
            elapsed_s=round(elapsed, 2),
            **self.figures,
        )
        state.loss_sum, state.loss_count, state.items, state.logged_at = 0.0, 0, 0, elapsed

    def _end_epoch(self) -> None:
        """Checkpoint, validate where it is due, go on to the next epoch, checkpoint."""
        state, settings = self.progress, self.settings
        self._write_losses()  # before the checkpoint: a run killed while it validates has no step to write of
        self._save()
        last = state.epoch + 1 == settings.epochs
        if ((state.epoch + 1) % settings.evaluate_every == 0 or last) and state.evaluated_step != state.step:
            self._evaluate()
        torch.manual_seed(mix_seed(self.seed, state.step, self.world))  # the same in every process
        catalog = self.model.objective.after_epoch(self.model)
        if catalog is not None:
            self.model.recode(catalog)
        state.epoch, state.position = state.epoch + 1, 0
        self._save()

    def _evaluate(self) -> None:
        """Validates the weights as they are; keeps a copy if they are the best so far."""
        state = self.progress
        self._write_losses()
        start = time.monotonic()
        try:
            with self.stop.at_once(), self.losses.scoring():
                figures = self._validation_figures()
        except KeyboardInterrupt:
            self._leave()
        metric = self.model.objective.metric
        score = -figures[metric[1:]] if metric.startswith("-") else figures[metric]
        better = self.best is None or state.best_score is None or score > state.best_score
        if better:
            self.best = {name: tensor.clone() for name, tensor in learned_tensors(self.model).items()}
            state.best_score, state.best_epoch, state.stale = score, state.epoch + 1, 0
        else:
            state.stale += 1
        state.evaluated_step = state.step
        seconds = time.monotonic() - start
        self.log.write(
            step=state.step,
            epoch=state.epoch,
            validation=figures,
            best=better,
            users=len(self.validation),
            seconds=round(seconds, 2),
            elapsed_s=round(self._elapsed(), 2),
        )
        shown = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
        self.bar.say(
            f"epoch {state.epoch + 1}/{self.settings.epochs}  {shown}{'  best' if better else ''}"
            f"  ({self._elapsed() / 60:.1f} min)"
        )
        if time.monotonic() - self._drawn >= PICTURE_SECONDS:
            self._draw()
        if self.main:
            say_if_still(state, figures, self.bar.say)

    def _validation_figures(self) -> dict[str, float]:
        judged = self.model.objective.judged(self.model)
        return validation_figures(judged, self.validation, self.processes, self.settings.evaluate_beams)

    def _save(self) -> None:
        self._saved = time.monotonic()
        self.losses.flush()
        if self.folder is None or not self.main:
            return
        self.folder.check()
        self.log.sync()
        self.progress.elapsed = self._elapsed()
        self.progress.log_bytes, self.progress.log_checksum = self.log.size, self.log.checksum
        save_checkpoint(self.folder.checkpoint, self.progress, learned_tensors(self.model), self.best, self.optimizer)
        self._saved = time.monotonic()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        if self.folder is not None and self.main:
            self.folder.check()
            try:
                draw_curves(self.folder.log, self.folder.curves)
            except (CorruptFileError, StorageError) as error:  # a picture is not worth a training
                self.bar.say(f"{self.folder.curves} was not drawn: {error}")

    def _leave(self) -> None:
        how = (
            "nothing was saved as no folder was given" if self.folder is None else "the same command goes on from there"
        )
        raise KeyboardInterrupt(f"stopped at step {self.progress.step} of {self.total_steps}; {how}")
