"""Speculation: a draft runs ahead of the beam search, and the network that is asked reads what it found in one pass."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn
from typing_extensions import Self

from genrec_fast.base.batch import Batch
from genrec_fast.base.checks import shown
from genrec_fast.base.config import is_part
from genrec_fast.base.errors import InvalidTypeError, UnsupportedError
from genrec_fast.base.query import Query
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.decoders.beam import Beam, BeamConfig
from genrec_fast.decoders.draft_costs import DraftCost, cheapest, check_widths, draft_costs
from genrec_fast.decoders.drafted_search import Ahead, DraftedSearch
from genrec_fast.decoders.search_pass import SearchPass, check_parts, check_tree
from genrec_fast.decoders.trie_search import TrieSearch


@dataclass(frozen=True, kw_only=True)
class SpeculativeConfig(BeamConfig):
    """Settings of the speculative search."""

    draft: Any = None
    """the config of a backbone that drafts, trained and saved with the rest; ``None``: ``drafted_by`` names a system"""
    drafts_per_beam: int = 2
    """prefixes that are drafted for each beam of a level (AtSpeed: 40 for 20)"""
    num_levels: int | None = None
    """how many levels are drafted before they are looked at; None: all"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_draft(self)

    def build(self, catalog: Catalog | None = None) -> Speculative:
        return Speculative(self)


def check_draft(config: SpeculativeConfig) -> None:
    """Raises ``InvalidTypeError`` where the draft is no config."""
    if config.draft is not None and not is_part(config.draft):
        name = type(config).__name__
        raise InvalidTypeError(f"{name}: draft must be a backbone's config, got {shown(config.draft)}")


class Speculative(Beam):
    """A beam search that asks its network less often: items, scores, order and bound are those of ``Beam``.

    A small network (the draft) searches ahead. The large one (the target: the backbone) reads the drafted prefixes in
    one pass, and goes down for as long as its own beams are among them: a pass gains one level, and one more for every
    level whose W beams were all drafted. A bad draft changes nothing but the time.

    Notes:
        The target's session must be a ``TreeSession``; the draft's need not. Where the native engine runs a whole
        search in one call, a pass is not what costs most, and speculation loses: see docs/benchmarks.md. The bits are
        those of the beam search on the native engine; torch's products may round otherwise in other shapes.

    Source: AtSpeed (arXiv:2410.05165), strict; see ``DraftedSearch``.

    Example:
        ``SpeculativeConfig(num_beams=20, draft=gf.T5Config(width=32)).build(catalog)``
    """

    name = "speculative"
    search_kind: ClassVar[type[TrieSearch]] = DraftedSearch

    def __init__(self, config: SpeculativeConfig, draft: Any = None) -> None:
        super().__init__(config)
        self.draft = draft

    def parts(self, catalog: Catalog) -> dict[str, nn.Module]:
        """The draft.

        Raises:
            InvalidTypeError: its config makes no network.
        """
        if self.config.draft is None:
            return {}
        draft = self.config.draft.build(catalog)
        if not isinstance(draft, nn.Module):
            name = type(self.config).__name__
            raise InvalidTypeError(f"{name}: draft must be a backbone's config, got {shown(self.config.draft)}")
        return {"draft": draft}

    def alone(self) -> Beam:
        """The beam search without a draft."""
        return Beam(BeamConfig(num_beams=self.config.num_beams, normalize=self.config.normalize))

    def drafted_by(self, system: Any) -> Self:
        """The same search with a draft of its own: a ``System`` (any recommender) over the same semantic IDs.

        It reads histories through its own layout, and a language model the prompts of a language model: its
        ``compile(reads="tokens")``, whatever the target's. Put it in evaluation mode, or ask within its
        ``answering()``.
        """
        return type(self)(self.config, system)

    def costs(
        self,
        system: Any,
        question: Any,
        *,
        k: int = 10,
        drafts_per_beam: Sequence[int] = (1, 2, 3, 4),
        rounds: int = 3,
        clock: Callable[[], float] = time.perf_counter,
    ) -> tuple[DraftCost, ...]:
        """What this machine takes for users like these, without a draft (0) and by each number of drafts a beam.

        Args:
            system: a model with this decoder; call within its ``answering()``.
            question: users as ``system.batch`` takes them: many, and as many at once as will be asked.
            k: items for each user.
            drafts_per_beam: what is tried.
            rounds: how often each is timed.
            clock: seconds since some moment.

        Raises:
            InvalidTypeError, InvalidValueError, UnsupportedError: as ``begin``; a number below 1.
        """
        batch, query = system.batch(question), Query(k=k)
        tried = [self._with(number) for number in check_widths(drafts_per_beam, rounds)]
        searches = [(0, self.alone()), *((decoder.config.drafts_per_beam, decoder) for decoder in tried)]
        return draft_costs(system, batch, query, searches, rounds, clock)

    def cheapest(self, costs: Sequence[DraftCost]) -> Self:
        """The same search with the number of drafts of least cost, in its ``config``, whatever is measured later.

        Answers do not depend on it. Where ``costs`` has the search without a draft (0) below it, ``alone()`` is faster
        still. ``model.decoder = ...`` uses it; a saved model has it where its recipe does:
        ``model.recipe = dataclasses.replace(model.recipe, decoder=model.decoder.config)``.

        Raises:
            InvalidValueError: no cost of a search with drafts.
        """
        return self._with(cheapest(costs))

    def _with(self, drafts_per_beam: int) -> Self:
        return type(self)(dataclasses.replace(self.config, drafts_per_beam=drafts_per_beam), self.draft)

    def begin(self, system: Any, batch: Batch, query: Query) -> SearchPass:
        """Reads the histories, by target and draft; every ``advance`` is a pass of the target.

        Raises:
            InvalidTypeError: no draft, or one that does not write semantic IDs.
            InvalidValueError: as ``search``; a draft with other codebook sizes.
            UnsupportedError: the target's session is no ``TreeSession``, more is written than one item, or a draft that
                reads something else.
        """
        plan = getattr(system.backbone, "plan", None)
        if plan is not None and (plan.num_items > 1 or plan.end_token is not None or plan.processor is not None):
            raise UnsupportedError(
                f"{self.name}: plan must be one item without end token and processor, got "
                f"num_items={plan.num_items}, end_token={plan.end_token}, processor={plan.processor!r:.40}"
            )
        return super().begin(system, batch, query)

    def prefill(self, system: Any, batch: Batch) -> Any:
        """The sessions of target and draft behind the histories."""
        network, asked = getattr(system, "draft", None), batch
        if self.draft is not None:
            prompts = getattr(system.backbone, "plan", None) is not None
            if getattr(self.draft, "reads_tokens", False) != prompts:
                kind = "prompts (compile's reads='tokens')" if prompts else "histories of items"
                name = getattr(self.draft, "name", type(self.draft).__name__)
                raise UnsupportedError(f"{self.name}: draft must read {kind} as the target does, got {name}")
            network, asked = self.draft.backbone, self.draft.batch(batch)
        if network is None:
            raise InvalidTypeError(f"{self.name}: draft must be given (SpeculativeConfig.draft, drafted_by), got None")
        check_parts(f"{self.name}: draft", network, system.trie)
        target = check_tree(self.name, system.backbone.prefill(batch))
        draft, plan = network.prefill(asked), getattr(network, "plan", None)
        return Ahead(target, draft, plan, self.config.drafts_per_beam, self.config.num_levels)
