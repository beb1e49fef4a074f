"""Speculation: a draft runs ahead of the beam search, and the network that is asked reads what it found in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from genrec_fast.base.batch import Batch
from genrec_fast.base.checks import shown
from genrec_fast.base.errors import InvalidTypeError, UnsupportedError
from genrec_fast.base.query import Query
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.decoders.beam import Beam, BeamConfig
from genrec_fast.decoders.drafted_search import Ahead, DraftedSearch
from genrec_fast.decoders.search_pass import SearchPass, check_parts, check_tree

__all__ = ["Speculative", "SpeculativeConfig"]


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
        if self.draft is not None and not hasattr(self.draft, "build"):
            raise InvalidTypeError(f"SpeculativeConfig: draft must be a backbone's config, got {shown(self.draft)}")

    def build(self, catalog: Catalog | None = None) -> Speculative:
        return Speculative(self)


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
    search_kind = DraftedSearch

    def __init__(self, config: SpeculativeConfig, draft: Any = None) -> None:
        super().__init__(config)
        self.draft = draft

    def parts(self, catalog: Catalog) -> dict[str, nn.Module]:
        """The draft."""
        return {} if self.config.draft is None else {"draft": self.config.draft.build(catalog)}

    def alone(self) -> Beam:
        """The beam search without a draft."""
        return Beam(BeamConfig(num_beams=self.config.num_beams, normalize=self.config.normalize))

    def drafted_by(self, system: Any) -> Speculative:
        """The same search with a draft of its own: a ``System`` (any recommender) over the same semantic IDs.

        It reads histories through its own layout, and a language model the prompts of a language model: its
        ``compile(reads="tokens")``, whatever the target's. Put it in evaluation mode, or ask within its
        ``answering()``.
        """
        return Speculative(self.config, system)

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
                "speculative: plan must be one item without end token and processor, got "
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
                raise UnsupportedError(f"speculative: draft must read {kind} as the target does, got {name}")
            network, asked = self.draft.backbone, self.draft.batch(batch)
        if network is None:
            raise InvalidTypeError("speculative: draft must be given (SpeculativeConfig.draft, drafted_by), got None")
        check_parts("speculative: draft", network, system.trie)
        target = check_tree("speculative", system.backbone.prefill(batch))
        draft, plan = network.prefill(asked), getattr(network, "plan", None)
        return Ahead(target, draft, plan, self.config.drafts_per_beam, self.config.num_levels)
