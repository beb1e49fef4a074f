"""A draft ahead of the beam search: levels accepted, passes of the target, time, against the same search without it.

Before anything is timed the items, scores, order and bound of every side are the plain search's, bit for bit. Weights
are random. The draft has a tenth of the target's weights and comes twice: as it is drawn, of which next to nothing is
accepted, and predicted: the same network, whose logits are raised where the target's beams go, so that every level is
accepted: no training can make a draft of that size better. Plain searches come in one call of the engine, as
``recommend`` runs them, and level by level, pass by pass as speculation does.

Run: pytest bench/bench_speculative.py -o python_files='bench_*.py' -s
     GENREC_BENCH_SECONDS=0.3 shortens it; -k t5 or -k smollm2 is a part
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import genrec_fast as gf
from genrec_fast.base.batch import Question
from genrec_fast.decoders.drafted_search import Ahead, DraftedSearch
from genrec_fast.decoders.read_rows import Slots
from genrec_fast.decoders.trie_search import TrieSearch
from genrec_fast.nn.engine.plan import Found, Plan
from models import NUM_ITEMS, histories, untrained
from timing import clock, environment, in_turn, where

WIDTHS = (1, 3, 5, 10, 20)


@dataclass(frozen=True)
class Predicted:
    """A draft's session that knows the target's beams: it costs what it costs, and is always right.

    Args:
        session: of the draft.
        plan: the draft's.
        beams: of every level int32 ``[B, W, l + 1]``: what the target writes.
        prefixes: int32 ``[B, W', l]``: what the rows of the last call wrote.
    """

    session: Any
    plan: Plan | None
    beams: tuple[Tensor, ...]
    prefixes: Tensor

    def scores(self, span: Any = None, *, log_sums: bool = False) -> tuple[Tensor, Tensor | None]:
        logits, sums = self.session.scores(span, log_sums=log_sums)
        level = self.prefixes.shape[2]
        beams = self.beams[level]
        same = (self.prefixes.unsqueeze(2) == beams[..., :level].unsqueeze(1)).all(3)
        codes = beams[..., level].long().unsqueeze(1).expand(-1, same.shape[1], -1)
        raised = logits.scatter_reduce(2, codes, 30.0 * same.float(), "amax", include_self=True)
        return raised, None if sums is None else torch.maximum(sums, raised.logsumexp(2))

    def extend(self, codes: Tensor, parents: Tensor) -> Predicted:
        before = self.prefixes.gather(1, parents.long().unsqueeze(2).expand(-1, -1, self.prefixes.shape[2]))
        level = self.prefixes.shape[2]
        written = codes.int()
        if self.plan is not None and self.plan.tokens is not None:
            span: Any = self.plan.tokens.span(level)
            written = (codes - span.start).int()
        prefixes = torch.cat([before, written.unsqueeze(2)], 2)
        return replace(self, session=self.session.extend(codes, parents), prefixes=prefixes)

    def select(self, users: Tensor) -> Predicted:
        beams = tuple(level[users] for level in self.beams)
        return replace(self, session=self.session.select(users), beams=beams, prefixes=self.prefixes[users])


def t5() -> tuple[Any, Any]:
    """TIGER's network over beauty's items (5.0M weights), and one of a tenth."""
    recipe = gf.recipes.tiger()
    small = gf.T5Config(width=80, num_heads=2, head_width=32, num_layers=1, hidden=256)
    return untrained(recipe), untrained(replace(recipe, backbone=small))


def smollm2() -> tuple[Any, Any]:
    """SmolLM2-135M's shape, and a tenth of its weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    catalog = untrained(gf.recipes.tiger()).catalog
    around = {"vocab_size": 49152, "tie_word_embeddings": True, "initializer_range": 0.04, "rope_theta": 1e5}
    shapes: tuple[dict[str, int], ...] = (
        {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9},
        {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 7, "num_attention_heads": 3},
    )
    found = []
    for shape, shared in zip(shapes, (3, 1), strict=True):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**around, **shape, num_key_value_heads=shared)).eval()
        found.append(gf.hf.compile(model, catalog, token_offset=1000, engine="native", frozen=True))
    return found[0], found[1]


MODELS: dict[str, Callable[[], tuple[Any, Any]]] = {"t5": t5, "smollm2": smollm2}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("users", [1, 16])
def test_speculation(name: str, users: int) -> None:
    target, draft = (model.eval() for model in MODELS[name]())
    rows = gf.Jagged.from_rows([torch.tensor(row) for row in histories(users, num_items=NUM_ITEMS)])
    if target.reads_tokens:
        rows = gf.Jagged(1000 + rows.values % 900, rows.offsets)
    trie, sizes = target.trie, target.trie.codebook_sizes
    draft_plan = getattr(draft.backbone, "plan", None)
    print(f"\n{where(environment())}\n{name}, {users} users, {len(sizes)} levels")
    print(
        "| model | users | W | draft | drafts a beam | levels accepted of "
        f"{len(sizes) - 2} | passes | rows read a user | draft's share | ms | level by level, ms | one call, ms | "
        "of level by level | of one call |\n|" + "---|" * 14
    )
    for width in WIDTHS:
        plan = replace(getattr(target.backbone, "plan", Plan(())), num_beams=(width,) * len(sizes))

        def begin(model: Any) -> Any:
            return model.backbone.prefill(model.batch(Question(rows)))

        def plain(in_one_call: bool, plan: Plan = plan) -> Found:
            return TrieSearch(begin(target), trie, plan, users, in_one_call=in_one_call).run().found()

        def levels(plan: Plan = plan) -> tuple[Tensor, ...]:
            search, out = TrieSearch(begin(target), trie, plan, users, in_one_call=False), []
            while not search.done:
                search.advance()
                out.append(search.codes)
            return tuple(out)

        with torch.inference_mode():
            beams = levels()

            def ahead(
                predicted: bool,
                each: int,
                plan: Plan = plan,
                beams: tuple[Tensor, ...] = beams,
                kind: type[DraftedSearch] = DraftedSearch,
            ) -> DraftedSearch:
                session = begin(draft)
                if predicted:
                    session = Predicted(session, draft_plan, beams, torch.zeros(users, 1, 0, dtype=torch.int32))
                return kind(Ahead(begin(target), session, draft_plan, each), trie, plan, users).run()

            wanted = plain(True)
            for predicted, each in ((False, 2), (True, 2), (True, 1)):
                search = ahead(predicted, each)
                for found in (search.found(), plain(False)):
                    for part in ("rows", "codes", "scores", "bound"):
                        assert torch.equal(getattr(found, part), getattr(wanted, part)), part
                sides = (
                    lambda given=(predicted, each), ahead=ahead: ahead(*given),
                    lambda plain=plain: plain(False),
                    lambda plain=plain: plain(True),
                )
                ours, stepped, called = (us / 1e3 for us in in_turn(*sides, seconds=2.0))
                share = draft_share(
                    lambda given=(predicted, each), ahead=ahead: ahead(*given, kind=Timed), lambda: begin(draft)
                )
                print(
                    f"| {name} | {users} | {width} | {'predicted' if predicted else 'as drawn'} | {each} | "
                    f"{float(search.accepted.float().mean()):.2f} | {search.passes} | "
                    f"{float(search.read.float().mean()):.0f} | {100 * share:.0f} % | {ours:.2f} | {stepped:.2f} | "
                    f"{called:.2f} | {ours / stepped:.2f} | {ours / called:.2f} |",
                    flush=True,
                )


class Timed(DraftedSearch):
    """A search that adds up what its draft takes, in seconds."""

    drafting = 0.0

    def _drafted(self) -> list[Slots]:
        start = clock()
        found = super()._drafted()
        self.drafting += clock() - start
        return found


def draft_share(call: Callable[[], DraftedSearch], read: Callable[[], object], rounds: int = 5) -> float:
    """The share of a search that its draft takes, its reading of the histories too; of the shortest of some."""
    best = (float("inf"), 0.0)
    for _ in range(rounds):
        start = clock()
        search = call()
        assert isinstance(search, Timed)
        best = min(best, (clock() - start, search.drafting))
    (reading,) = in_turn(read, seconds=0.2)
    return (best[1] + reading / 1e6) / best[0]
