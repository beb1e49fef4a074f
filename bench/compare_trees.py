"""Two trees of this repository, asked the same questions: are the answers the same, bit for bit?

    python bench/compare_trees.py OLD_TREE NEW_TREE

Each tree answers in a process of its own, with ``TREE/python`` in front and its compiled core in place: small models of
every recipe that both trees have, trained for one epoch from a fixed seed, other decoders, the batcher, tokenizers, and
language models of transformers with random weights. Only public calls are used, so that any two commits compare. What
raises is compared by its message. Prints a table, and the exit status is the number of questions that differ (99 at
most). ``--within 1e-6`` lets floats differ by so much, where a kernel's arithmetic was changed on purpose.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

FIELDS = ("items", "codes", "scores", "exact", "bound")
ITEMS = 96
# Whatever a backbone has of these is set to that.
SMALL = {
    "width": 16, "hidden": 32, "depth_hidden": 32, "num_heads": 2, "head_width": 8, "num_layers": 1, "qk_dim": 8,
    "v_dim": 8, "num_user_tokens": 20, "recent": 4, "middle": 4, "middle_group": 2, "early_group": 4,
}  # fmt: skip
STARTS = {"atspeed": "tiger", "gpsd": "gpsd_pretraining"}
Question = tuple[str, Callable[[], Any]]


def data() -> Any:
    import genrec_fast as gf
    from genrec_fast.data.synthetic import Shop

    shop = Shop(ITEMS, feature_dim=8, seed=0).dataset(60, seed=1)
    events = shop.interactions
    rated = torch.stack([events.items.values % 2 == 0, events.items.values % 6 == 0], 1)
    events = dataclasses.replace(events, actions=rated, action_names=gf.recipes.hstu_ranking().objective.actions)
    return dataclasses.replace(shop, interactions=events)


def small(name: str, **parts: Any) -> Any:
    """A recipe with a small network, short training and few codes."""
    import genrec_fast as gf

    recipe = gf.recipes.get(name)
    known = {field.name for field in dataclasses.fields(recipe.backbone)}
    sizes: dict[str, Any] = {field: value for field, value in SMALL.items() if field in known}
    if not getattr(recipe.backbone, "num_user_tokens", 1):  # some networks know users in no other way
        del sizes["num_user_tokens"]
    if getattr(getattr(recipe.backbone, "items", None), "id_width", 0):
        sizes["items"] = dataclasses.replace(recipe.backbone.items, id_width=8)
    parts["backbone"] = dataclasses.replace(recipe.backbone, **sizes)
    parts["train"] = dataclasses.replace(recipe.train, epochs=1, warmup_steps=1, evaluate_beams=None, bf16=False)
    if recipe.tokenizer is not None:
        # tiger tells items of one semantic ID apart with a level more, the others do not
        parts["tokenizer"] = gf.RQKMeansConfig(codebook_sizes=(6, 6), dedup="rank" if name == "tiger" else "none")
    return dataclasses.replace(recipe, **parts)


def asked(shop: Any, users: int) -> dict[str, Any]:
    """Histories of the first users, with all that is known of them."""
    import genrec_fast as gf

    test = gf.data.leave_one_out(shop.interactions).test
    offsets = test.histories.offsets[: users + 1]
    end = int(offsets[-1])
    return {
        "histories": gf.Jagged(test.histories.values[:end], offsets),
        "users": test.users[:users],
        "timestamps": gf.Jagged(test.timestamps[:end], offsets),
        "target_timestamps": test.target_timestamps[:users],
        "actions": gf.Jagged(test.actions[:end], offsets),
    }


def options(users: int) -> dict[str, dict[str, Any]]:
    """Name of a question -> what it asks beside the histories."""
    import genrec_fast as gf

    generator = torch.Generator().manual_seed(0)
    exclude = gf.Jagged.from_rows([list(range(user, user + 3 * (user % 3))) for user in range(users)])
    return {
        "k=7": {"k": 7},
        "exact, exclude_seen": {"k": 5, "exact": True, "exclude_seen": True},
        "num_beams, allowed per user, exclude": {
            "k": 6,
            "num_beams": 12,
            "allowed": torch.rand(users, ITEMS, generator=generator) < 0.3,
            "exclude": exclude,
        },
        "allowed for all, in small batches": {
            "k": 20,
            "allowed": torch.rand(ITEMS, generator=generator) < 0.15,
            "users_per_batch": 3,
        },
    }


def trained(name: str, shop: Any) -> Any:
    """A small model of a recipe, behind that of the recipe which it goes on from."""
    import genrec_fast as gf

    start = trained(STARTS[name], shop) if name in STARTS else None
    return gf.train(small(name), shop, start=start, seed=0, device="cpu", show_progress=False)


def of_recipes(shop: Any) -> Iterator[Question]:
    import genrec_fast as gf
    from genrec_fast.decoders import DiverseBeamConfig, StochasticBeamConfig

    question = asked(shop, 10)
    alone = {"k": 3, "exact": True}
    for name in gf.recipes.names():
        model = trained(name, shop)
        for text, given in options(10).items():
            yield f"{name}: {text}", lambda m=model, g=given: m.recommend(**question, **g)
        yield (
            f"{name}: evaluate",
            lambda m=model: figures(gf.evaluate(m, gf.data.leave_one_out(shop.interactions).test)),
        )
        if name in ("sasrec", "marius", "tiger", "hstu_ranking"):
            yield f"{name}: one user, exact", lambda m=model: m.recommend(**asked(shop, 1), **alone)
            yield f"{name}: batcher", lambda m=model: through_batcher(m, question)
            yield f"{name}: nothing but a history", lambda m=model: m.recommend([[3, 5, 8]], k=4)
    for name, decoder in (
        ("greedy", gf.GreedyConfig()),
        ("diverse", DiverseBeamConfig(num_beams=12, num_groups=4)),
        ("stochastic", StochasticBeamConfig(num_beams=12, seed=3)),
    ):
        for recipe in ("marius", "tiger"):
            model = gf.train(small(recipe, decoder=decoder), shop, seed=0, device="cpu", show_progress=False)
            for text, given in options(10).items():
                yield f"{recipe}, {name}: {text}", lambda m=model, g=given: m.recommend(**question, **g)


def through_batcher(model: Any, question: dict[str, Any]) -> Any:
    with model.batcher() as batcher:
        return batcher.recommend(**question, k=5)


def figures(evaluated: Any) -> dict[str, torch.Tensor]:
    return {f"figures.{name}": torch.tensor(value) for name, value in evaluated.figures().items()}


def of_tokenizers(shop: Any) -> Iterator[Question]:
    import genrec_fast as gf

    quick = {"codebook_sizes": (6, 6), "iterations": 4}
    histories = gf.data.leave_one_out(shop.interactions).train.items
    for name, config in {
        "atomic": gf.AtomicConfig(),
        "random": gf.RandomConfig(codebook_sizes=(6, 6)),
        "collaborative": gf.CollaborativeConfig(codebook_sizes=(6, 6), width=4, rounds=3, iterations=3),
        "hierarchical": gf.HierarchicalConfig(**quick),
        "pq": gf.PQConfig(**quick),
        "opq": gf.OPQConfig(**quick, rotations=2),
        "fsq": gf.FSQConfig(steps=((3, 3), (4, 2)), hidden_size=8, training_steps=5, batch_size=32),
        "rqkmeans": gf.RQKMeansConfig(**quick),
        "rqkmeans, balanced": gf.RQKMeansConfig(**quick, balance="sinkhorn", normalize=True),
        "rqvae": gf.RQVAEConfig(codebook_sizes=(6, 6), hidden_sizes=(8,), latent_dim=4, steps=8, batch_size=32),
    }.items():
        yield f"tokenizer {name}", lambda c=config: fitted(c, shop.features, histories)


def known_of(features: torch.Tensor) -> Any:
    """What a tokenizer is built from: the catalog; before there was one, the width of the features."""
    try:
        from genrec_fast.catalog.catalog import Catalog
    except ModuleNotFoundError:
        return features.shape[1]
    return Catalog(features=features)


def fitted(config: Any, features: torch.Tensor, histories: Any) -> dict[str, torch.Tensor]:
    tokenizer = config.build(known_of(features))
    tokenizer.fit(features, num_items=ITEMS, seed=0, histories=histories)
    return {"codes": tokenizer.item_codes}


def of_language_models() -> Iterator[Question]:
    import transformers

    import genrec_fast as gf

    transformers.utils.logging.set_verbosity_error()
    generator = torch.Generator().manual_seed(5)
    trie = gf.build_trie(torch.randint(0, 8, (ITEMS, 3), generator=generator), codebook_sizes=(8, 8, 8))
    vocabulary, first = 40, 10
    prompts = [torch.randint(3, vocabulary, (length,), generator=generator).tolist() for length in (5, 1, 9, 12)]
    allowed = torch.rand(4, ITEMS, generator=generator) < 0.4
    exclude = gf.Jagged.from_rows([[0, 1], [], [5], [7, 8, 9]])
    t5 = transformers.T5Config(
        vocab_size=vocabulary, d_model=24, d_kv=8, d_ff=40, num_layers=2, num_heads=3, decoder_start_token_id=0
    )
    qwen2 = transformers.Qwen2Config(
        vocab_size=vocabulary, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    kinds = {"t5": (transformers.T5ForConditionalGeneration, t5), "qwen2": (transformers.Qwen2ForCausalLM, qwen2)}
    for name, (kind, config) in kinds.items():
        torch.manual_seed(0)
        model = kind(config).eval()
        for engine in ("native", "torch"):
            whole = gf.hf.compile(model, trie, first, engine=engine)
            valid = gf.hf.compile(model, trie, first, engine=engine, normalize="valid", prefix_tokens=(4,))
            reader = gf.hf.compile(model, trie, first, engine=engine, reads="items", before=(5, 6), after=(1,))
            for text, compiled, first_argument, given in (
                ("k=5", whole, prompts, {"k": 5}),
                ("allowed, exclude", whole, prompts, {"k": 4, "num_beams": 9, "allowed": allowed, "exclude": exclude}),
                ("groups", whole, prompts, {"k": 4, "num_beams": 8, "num_groups": 2, "diversity_penalty": 0.5}),
                ("valid, prefix", valid, prompts, {"k": 5, "num_beams": 20}),
                ("drawn", valid, prompts, {"k": 5, "num_beams": 8, "seed": 3}),
                ("histories", reader, [[3, 5], [9], [], [1, 2, 3]], {"k": 5}),
            ):
                yield (
                    f"{name}, {engine}: {text}",
                    lambda c=compiled, p=first_argument, g=given: c.recommend(p, **g),
                )
            yield f"{name}, {engine}: generate", lambda m=model, e=engine: generated(m, trie, first, prompts[3], e)


def generated(model: Any, trie: Any, first: int, prompt: list[int], engine: str) -> dict[str, torch.Tensor]:
    import genrec_fast as gf

    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        num_beams=10,
        num_return_sequences=5,
        max_new_tokens=4,
        return_dict_in_generate=True,
        output_scores=True,
        custom_generate=gf.hf.trie_beam_search(trie, first, engine=engine),
    )
    return {"items": out.sequences, "scores": out.sequences_scores}


def answers() -> dict[str, Any]:
    """Question -> field -> tensor, or the message of what it raised."""
    import genrec_fast as gf

    torch.set_num_threads(1)
    shop, found = data(), {}
    for name, ask in (*of_recipes(shop), *of_tokenizers(shop), *of_language_models()):
        try:
            answer = ask()
        except gf.GenrecError as error:
            found[name] = {"error": str(error)}
            continue
        found[name] = answer if isinstance(answer, dict) else {field: getattr(answer, field) for field in FIELDS}
    return found


def answers_of(tree: Path, out: Path) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(tree.resolve() / "python"), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, __file__, "--answer", str(out)], env=environment, check=True)
    answered: dict[str, Any] = torch.load(out, weights_only=True)
    return answered


def difference(old: Any, new: Any, within: float) -> str:
    """What is not the same; "same" where nothing is."""
    if old is None or new is None:
        return "only in the new" if old is None else "only in the old"
    if isinstance(old, str) or isinstance(new, str):
        return "same" if old == new else f"{old!r:.60} -> {new!r:.60}"
    if old.shape != new.shape or old.dtype != new.dtype:
        return f"{old.dtype} {list(old.shape)} -> {new.dtype} {list(new.shape)}"
    if old.numpy().tobytes() == new.numpy().tobytes():
        return "same"
    apart = (old.double() - new.double()).abs()
    apart[old == new] = 0.0  # infinities
    if old.is_floating_point() and float(apart.max()) <= within:
        return "same"
    return f"{int((old != new).sum())} of {old.numel()} differ, by up to {float(apart.max()):.1e}"


def report(old: dict[str, Any], new: dict[str, Any], within: float) -> tuple[list[str], int]:
    """Lines of a table, and how many questions differ."""
    lines, failed = ["| question | answer |", "|---|---|"], 0
    for question in dict.fromkeys((*old, *new)):
        before, after = old.get(question), new.get(question)
        if before is None or after is None:
            found = {"": difference(before, after, within)}
        else:
            fields = dict.fromkeys((*before, *after))
            found = {field: difference(before.get(field), after.get(field), within) for field in fields}
        wrong = [f"{field} {text}".strip() for field, text in found.items() if text != "same"]
        failed += bool(wrong)
        raised = "raises the same" if before is not None and "error" in before else "same"
        lines.append(f"| {question} | {'**' + '; '.join(wrong) + '**' if wrong else raised} |")
    return lines, failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("old", type=Path, nargs="?")
    parser.add_argument("new", type=Path, nargs="?")
    parser.add_argument("--within", type=float, default=0.0, help="floats may differ by so much (0: not by a bit)")
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)  # what this script calls itself with
    given = parser.parse_args()
    if given.answer is not None:
        torch.save(answers(), given.answer)
        return 0
    if given.old is None or given.new is None:
        parser.error("two trees are needed")
    with tempfile.TemporaryDirectory() as folder:
        old, new = (answers_of(tree, Path(folder) / f"{n}.pt") for n, tree in enumerate((given.old, given.new)))
    lines, failed = report(old, new, given.within)
    print("\n".join(lines))
    print(f"\n{len(lines) - 2} questions, {failed} differ")
    return min(failed, 99)


if __name__ == "__main__":
    raise SystemExit(main())
