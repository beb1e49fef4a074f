"""``genrec-fast train``: every setting of a recipe as an option, and what a dataset lacks said before it begins."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import tyro

from genrec_fast import recipes
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.files import write_text
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.cli.commands import set_threads
from genrec_fast.cli.data_options import NO_OPTIONS, DataOptions
from genrec_fast.cli.flags import flags_of, in_flags, option, parsed
from genrec_fast.data import Dataset
from genrec_fast.evaluation import evaluate
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipe.recommender import load
from genrec_fast.tokenizers import PublishedConfig
from genrec_fast.training import train


def main(arguments: Sequence[str], program: str) -> None:
    """Reads the options of the recipe that the first argument names, and trains it."""
    if not arguments or arguments[0].startswith("-"):
        known = ", ".join(recipes.names())
        print(f"usage: {program} train RECIPE --data DIR --out DIR [--part.field VALUE ...]\nrecipes: {known}")
        print(f"{program} train RECIPE --help lists every setting of that recipe.")
        if arguments and arguments[0] in ("-h", "--help"):
            return
        raise InvalidValueError(f"train: the first argument must be a recipe, got {' '.join(arguments) or 'none'}")
    recipe = recipes.get(arguments[0])
    prog = f"{program} train {recipe.name}"
    options = _options(recipe)
    with in_flags(flags_of(options)):
        _run(recipe, parsed(options, prog, arguments[1:]))


def _options(recipe: Recipe) -> Any:
    """A dataclass of the command's own options and every part of ``recipe``, with the recipe's values as defaults."""
    fields = [
        option("data", Path, "dataset folder, or its file of interactions"),
        option(
            "out", Path, "folder for checkpoint, log, curves and the finished model; resumed if it has a checkpoint"
        ),
        ("reading", tyro.conf.OmitArgPrefixes[DataOptions], dataclasses.field(default=NO_OPTIONS)),
        option("semantic_ids", Path | None, "json of published semantic IDs, in place of the tokenizer", None),
        option("published_ids", bool, "use semantic IDs beside the data; --no-published-ids makes new ones", True),
        option("seed", int, "of the weights, the dropout and the order of the batches", 0),
        option("threads", int | None, "CPU threads; all cores if not given", None),
        option("device", str | None, "cpu, cuda, ...; what there is if not given", None),
        option("start", Path | None, "folder of a trained model to begin with: its weights and semantic IDs", None),
        option("resume", bool, "go on from the checkpoint in OUT; --no-resume starts over", True),
        option("test", bool, "ask all test users at the end and write test.json", True),
        option("quiet", bool, "no progress", False),
    ]
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if dataclasses.is_dataclass(value):
            fields.append((field.name, type(value), dataclasses.field(default=value)))
    options = dataclasses.make_dataclass("Train", fields, kw_only=True)
    options.__doc__ = f"Trains the recipe {recipe.name} ({recipe.source})."
    return options


def _run(published: Recipe, options: Any) -> None:
    recipe = published
    set_threads(options.threads)
    parts = {f.name: getattr(options, f.name) for f in dataclasses.fields(recipe) if hasattr(options, f.name)}
    if options.semantic_ids is not None:
        if recipe.tokenizer is None:
            raise InvalidValueError(f"train: semantic_ids must not be given as {recipe.name} uses none")
        parts["tokenizer"] = PublishedConfig(path=str(options.semantic_ids))
    data = options.reading.load(options.data, actions=getattr(parts["objective"], "actions", None) or None)
    _say(str(data))
    own = parts.get("tokenizer") == recipe.tokenizer  # no setting of it was given
    if data.item_codes is not None and recipe.tokenizer is not None and own and options.published_ids:
        parts["tokenizer"] = PublishedConfig()
        _say("semantic IDs: those beside the data, in place of the tokenizer; --no-published-ids makes new ones")
    recipe = _frugal_layout(dataclasses.replace(recipe, **parts), data)
    if recipe != published:
        recipe = dataclasses.replace(recipe, measured="not yet measured")  # the figure is of the recipe as published
    start = None if options.start is None else load(options.start, "cpu")
    _check(recipe, data, options.data, coded=start is not None)
    splits = options.reading.splits(data)
    model = train(
        recipe,
        data,
        seed=options.seed,
        out=options.out,
        resume=options.resume,
        splits=splits,
        device=options.device,
        show_progress=not options.quiet,
        start=start,
    )
    first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
    if options.test and first:
        result = evaluate(model, splits.test)
        write_text(options.out / "test.json", json.dumps(result.to_dict(), indent=2) + "\n")
        print(f"test, all users of {data.name}:\n{result}")


def _say(text: str) -> None:
    """Prints once, however many processes train."""
    if os.environ.get("RANK", "0") == "0":
        print(text)


def _frugal_layout(recipe: Recipe, data: Dataset) -> Recipe:
    """The recipe, without the features that its network alone reads where the data has none."""
    if data.features is not None or not _shows_features(recipe):
        return recipe
    if _coded_by_features(recipe) or recipe.made_of_features:
        return recipe
    _say(f"item features: none, and {recipe.name} does without them (--layout.no-use-features)")
    layout: Any = recipe.layout
    return dataclasses.replace(recipe, layout=dataclasses.replace(layout, use_features=False))


def _coded_by_features(recipe: Recipe) -> bool:
    """Whether the tokenizer reads feature vectors."""
    if recipe.tokenizer is None:
        return False
    try:
        recipe.tokenizer.build(Catalog(num_items=1))
    except InvalidValueError:
        return True
    return False


def _shows_features(recipe: Recipe) -> bool:
    """Whether the backbone reads feature vectors."""
    return bool(getattr(recipe.layout, "use_features", False))


def _reads_times(recipe: Recipe) -> bool:
    """Whether the backbone reads when events were: HSTU by its settings, models of sessions always."""
    backbone: Any = recipe.backbone
    if hasattr(backbone, "session_seconds"):
        return True
    return getattr(backbone, "bias", "none") in ("time", "both") or getattr(backbone, "times", "none") != "none"


def _frugal() -> str:
    """The recipes that learn from interactions alone."""
    known = [recipes.get(name) for name in recipes.names()]
    return ", ".join(
        recipe.name
        for recipe in known
        if not (_coded_by_features(recipe) or _shows_features(recipe) or _reads_times(recipe))
        and not getattr(recipe.objective, "actions", None)
    )


def _check(recipe: Recipe, data: Dataset, folder: Path, *, coded: bool) -> None:
    """Says what the dataset lacks for this recipe, and which option gives it; ``coded``: semantic IDs are there.

    Raises:
        InvalidValueError: no features, or no times, where the recipe reads them.
    """
    if data.features is None and recipe.made_of_features:
        raise InvalidValueError(
            f"train: data must have item features for {recipe.name}, whose network is made of them, "
            f"got none in {folder}; put item_embeddings.npy there (float [N, F], a row for each item). "
            f"Recipes for interactions alone: {_frugal()}"
        )
    if data.features is None and _coded_by_features(recipe) and not coded:
        readers = "tokenizer and network read" if _shows_features(recipe) else "tokenizer reads"
        instead = (
            "--semantic-ids FILE (published ones, or those that "
            f"'genrec-fast tokenize {folder} --kind collaborative --out IDS' makes of interactions alone: "
            "IDS/item_codes.json)"
            if data.item_codes is None
            else "neither --no-published-ids nor settings of the tokenizer, as there are semantic IDs"
        )
        raise InvalidValueError(
            f"train: data must have item features for {recipe.name}, whose {readers} them, "
            f"got none in {folder}; put item_embeddings.npy there (float [N, F], a row for each item), or give "
            f"{instead}. Recipes for interactions alone: {_frugal()}"
        )
    if data.interactions.timestamps is None and _reads_times(recipe):
        position = ", or give --backbone.bias position" if getattr(recipe.backbone, "bias", None) == "both" else ""
        raise InvalidValueError(
            f"train: data must have times for {recipe.name}, got an order alone in {folder}; write a table with a "
            f"column of times (timestamp, or another that --timestamp names){position}. "
            f"Recipes for interactions alone: {_frugal()}"
        )
