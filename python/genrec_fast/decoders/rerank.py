"""Generative candidates, ranked by vectors: what a beam search finds and what it cannot know, by one score."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import Self

from genrec_fast.base.batch import Batch, Ranked
from genrec_fast.base.best_of import best_of
from genrec_fast.base.checks import check_flag
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import CodesThenUsers
from genrec_fast.base.query import Query
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.decoders.base import Decoder
from genrec_fast.decoders.beam import Beam, BeamConfig
from genrec_fast.decoders.candidates import scores_of_pairs
from genrec_fast.decoders.search_pass import SearchPass


@dataclass(frozen=True, kw_only=True)
class RerankConfig:
    """Settings of ``Rerank``."""

    num_beams: int = 20
    """prefixes kept per level, and candidates that the search gives (LIGER: 20 to 100)"""
    normalize: Literal["all", "valid"] = "all"
    """of the beam search, as in ``BeamConfig``"""
    unseen: bool = True
    """items that never occur in the training data are candidates, too: no network learned to write their codes"""

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, catalog: Catalog | None = None) -> Rerank:
        return Rerank(self, None if catalog is None else catalog.counts)


class Rerank(Decoder):
    """The best of a beam search's ``num_beams`` items and of all unseen ones, by their inner product with the user.

    ``Ranked.scores`` are inner products: of LIGER's backbone, cosines. ``Ranked.exact`` is true where the search lost
    nothing, so that every item was compared; ``bound`` is then -inf, else inf.

    Args:
        config: settings.
        counts: integer ``[N]``: how often each item occurs in the training data; ``None``: every item does.

    Notes:
        The history is read twice, to write codes and to be embedded. Beyond the beam search O((W + unseen) D).

    Source: LIGER (arXiv:2411.18814), section 3.3, whose search knows no trie.
    """

    needs = CodesThenUsers
    by_level: ClassVar[bool] = True

    def __init__(self, config: RerankConfig, counts: Tensor | None) -> None:
        self.config = config
        self.beam = Beam(BeamConfig(num_beams=config.num_beams, normalize=config.normalize))
        wanted = config.unseen and counts is not None
        self.unseen = (counts == 0).nonzero().squeeze(1) if wanted and counts is not None else torch.empty(0).long()

    def over(self, catalog: Catalog) -> Self:
        """See ``Decoder``: appended items count by what the catalog says of how often they occur."""
        return type(self)(self.config, catalog.counts)

    def settled(self, query: Query) -> Query:
        """See ``Decoder``.

        Raises:
            InvalidValueError: exact: candidates are not all items; k or num_beams does not fit.
        """
        if check_flag("rerank", "exact", query.exact):
            raise InvalidValueError("rerank: exact must be False: candidates are not all items (retrieve compares all)")
        return self.beam.settled(query)

    def begin(self, system: Any, batch: Batch, query: Query) -> RerankPass:
        """Reads the histories; every ``advance`` searches one level, or all of them where the engine can.

        Raises:
            InvalidTypeError: the backbone does not write codes and embed users.
            InvalidValueError: as the beam search.
        """
        if not isinstance(system.backbone, CodesThenUsers):
            kind = type(system.backbone).__name__
            raise InvalidTypeError(f"rerank: backbone must be Autoregressive and Embedding, got {kind}")
        query = self.settled(query)
        beams: Any = query.num_beams
        most = int(beams.max()) if isinstance(beams, Tensor) else beams[-1] if isinstance(beams, tuple) else beams
        search = self.beam.begun(system, batch, dataclasses.replace(query, k=max(1, most)))
        return RerankPass(search, system, batch, query, self.unseen)


class RerankPass:
    """A beam search, and the comparison of what it found.

    Args:
        search: the first part.
        system: with backbone and trie.
        batch: B users.
        query: as asked.
        unseen: int64: items that are candidates of everybody.
    """

    def __init__(self, search: SearchPass, system: Any, batch: Batch, query: Query, unseen: Tensor) -> None:
        self._search, self._system, self._batch, self._query, self._unseen = search, system, batch, query, unseen
        self._found: Ranked | None = None if len(batch) else search.results().first(query.k)

    @property
    def done(self) -> bool:
        """Whether the search has ended and its items were compared."""
        return self._search.done and self._found is not None

    @property
    def finished(self) -> Tensor:
        """Bool ``[B]``: all at once."""
        return torch.full_like(self._search.finished, self.done)

    def advance(self) -> None:
        """Searches the next level; behind the last, compares."""
        self._search.advance()
        if self._search.done:
            self._found = self._compared(self._search.results())

    def results(self) -> Ranked:
        """The k best items of each user."""
        return self._search.results().first(self._query.k) if self._found is None else self._found

    def _compared(self, found: Ranked) -> Ranked:
        backbone, trie, users = self._system.backbone, self._system.trie, len(self._batch)
        device = found.items.device
        # As many candidates as a user has beams, whoever is searched beside him.
        beams = self._query.num_beams
        most = beams.to(device) if isinstance(beams, Tensor) else torch.full((users,), found.items.shape[1]).to(device)
        shown = torch.arange(found.items.shape[1], device=device) < most.unsqueeze(1)
        owner, place = ((found.items >= 0) & shown).nonzero(as_tuple=True)
        items, codes = found.items[owner, place], found.codes[owner, place]
        more_of, more = self._unseen_of(users, trie)
        if more.numel():
            known = torch.isin(more_of * trie.num_items + more, owner * trie.num_items + items)
            more_of, more = more_of[~known], more[~known]
        owner, items = torch.cat([owner, more_of.to(device)]), torch.cat([items, more.to(device)])
        scores = scores_of_pairs(backbone.embed_users(self._batch), backbone.item_table(), owner, items)
        if not bool(scores.isfinite().all()):
            raise InvalidValueError("rerank: vectors of users and items must be finite, got NaN or inf")
        best, values, at = best_of(users, owner, items, scores, self._query.k)
        none = codes.new_full((1, codes.shape[1]), -1)
        written = torch.cat([codes, self._codes_of(more).to(codes), none])  # -1 is the last
        whole = found.bound == -torch.inf  # the search pruned nothing, and no item stands behind its last
        whole &= (found.items.gather(1, most.unsqueeze(1) - 1).squeeze(1) < 0) | (most >= trie.num_items)
        bound = torch.full_like(found.bound, torch.inf).masked_fill(whole, -torch.inf)
        return Ranked(best, written[at], values, whole, bound)

    def _unseen_of(self, users: int, trie: Any) -> tuple[Tensor, Tensor]:
        """The unseen items that each user may get, user by user."""
        unseen, query = self._unseen, self._query
        owner = torch.arange(users).repeat_interleave(len(unseen))
        items = unseen.cpu().repeat(users)
        kept = torch.ones(len(items), dtype=torch.bool)
        if query.allowed is not None:
            allowed = query.allowed.cpu().view(-1, trie.num_items)
            kept &= allowed[owner if len(allowed) > 1 else torch.zeros_like(owner), items]
        if isinstance(query.exclude, Jagged):
            out = query.exclude.row_index().cpu() * trie.num_items + query.exclude.values.cpu()
            kept &= ~torch.isin(owner * trie.num_items + items, out)
        gone = getattr(trie, "kept", None)
        if gone is not None:
            kept &= gone.cpu()[items]
        return owner[kept], items[kept]

    def _codes_of(self, items: Tensor) -> Tensor:
        """``[M, L]``: the semantic IDs of some items."""
        if not items.numel():
            return items.new_empty(0, len(self._system.trie.codebook_sizes))
        layout = self._system.layout
        known: Tensor = self._system.trie.item_codes() if layout is None else layout.item_codes
        return known[items.to(known.device)]
