"""BeamFusion: semantic IDs by beam search, then the items of each, by where the beam says that the next one lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from genrec_fast.base.batch import Batch, Ranked
from genrec_fast.base.best_of import best_of
from genrec_fast.base.checks import check_flag
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.protocols import CodesThenVectors
from genrec_fast.base.query import Query
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.decoders.candidates import scores_of_pairs
from genrec_fast.decoders.search_pass import SearchDecoder, unanswered
from genrec_fast.decoders.trie_search import TrieSearch


@dataclass(frozen=True, kw_only=True)
class BeamFusionConfig:
    """Settings of ``BeamFusion``."""

    num_beams: int = 20
    """semantic IDs kept per user; each brings all of its items"""
    code_weight: float = 1.0
    """the paper's tau, of a beam's log-probability"""
    vector_weight: float = 16.0
    """the paper's psi, of a cosine"""
    normalize: Literal["all", "valid"] = "all"
    """as in ``BeamConfig``"""

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, catalog: Catalog | None = None) -> BeamFusion:
        return BeamFusion(self)


class BeamFusion(SearchDecoder):
    """The k best items of the semantic IDs that a beam search keeps, by both scores.

    ::

        score(w, i) = log softmax over beams w (code_weight * beam score)
                    + log softmax over all candidates (vector_weight * cosine(vector of w, item i)),    i of w's items

    An item is compared with the vector of its own semantic ID's beam alone. ``Ranked.exact`` is true where the search
    pruned nothing: then every item was a candidate; ``bound`` is -inf there, else inf, as a pruned beam's vector is not
    known. Several items may share a semantic ID: this decoder is for such catalogs.

    Notes:
        Beyond the beam search one step of the network, and O(E D) for the E items of the kept beams.

    Source: COBRA (arXiv:2503.02453), section 3.4.
    """

    name = "beam_fusion"
    needs = CodesThenVectors
    by_level: ClassVar[bool] = True
    no_proof = ": pruned beams have no vectors to be compared"

    def begin(self, system: Any, batch: Batch, query: Query) -> FusionPass:  # type: ignore[override]
        """Reads the histories; every ``advance`` searches one level.

        Raises:
            InvalidTypeError: the backbone does not write codes and then vectors.
            InvalidValueError: k, num_beams or a filter does not fit.
        """
        check_flag(self.name, "exact", query.exact)
        if not isinstance(system.backbone, CodesThenVectors):
            kind = type(system.backbone).__name__
            raise InvalidTypeError(f"beam_fusion: backbone must be CodesThenVectors, got {kind}")
        search = super().begin(system, batch, query)  # checks everything, and reads the histories
        return FusionPass(self.config, system, search.first(), self.settled(query), len(batch))


class FusionPass:
    """A beam search, and the fusion of what it kept with where each beam points.

    Args:
        config: the weights.
        system: with backbone and trie.
        search: over the trie; ``None`` where there is no user.
        query: settled.
        users: B.
    """

    def __init__(
        self, config: BeamFusionConfig, system: Any, search: TrieSearch | None, query: Query, users: int
    ) -> None:
        self._config, self._system, self._search, self._query, self._users = config, system, search, query, users
        self._found = self._nothing() if search is None else None

    @property
    def done(self) -> bool:
        """Whether everything was compared."""
        return self._found is not None

    @property
    def finished(self) -> Tensor:
        """Bool ``[B]``: all at once."""
        return torch.full((self._users,), self.done)

    def advance(self) -> None:
        """Searches the next level; behind the last, compares."""
        assert self._search is not None
        self._search.advance()
        if self._search.done:
            self._found = self._fused(self._search)

    def results(self) -> Ranked:
        """The k best items of each user."""
        return self._nothing() if self._found is None else self._found

    def _nothing(self) -> Ranked:
        return unanswered(self._users, self._query.k, self._system.trie)

    def _fused(self, search: TrieSearch) -> Ranked:
        found, trie, keep = search.found(), search.trie, search.plan.keep
        vectors = self._system.backbone.vectors_behind(search.behind())
        user, beam = (found.rows >= 0).nonzero(as_tuple=True)
        here: Any = trie
        below = here.items(found.rows[user, beam].long())
        items, source = below.values, below.row_index()
        if keep is not None:
            kept = keep.keeps(user[source], items)
            items, source = items[kept], source[kept]
        owner, place = user[source], beam[source]
        table, pairs = self._system.backbone.item_table(), torch.arange(len(user), device=user.device)
        cosines = scores_of_pairs(vectors[user, beam], table, pairs[source], items)
        if not bool(cosines.isfinite().all()):
            raise InvalidValueError("beam_fusion: vectors of beams and items must be finite, got NaN or inf")
        live = found.rows >= 0
        codes = (self._config.code_weight * found.scores.where(live, 0.0)).where(live, -torch.inf).log_softmax(1)
        weighted = self._config.vector_weight * cosines
        sums = _log_sums(weighted, owner, self._users)
        scores = codes[owner, place] + (weighted - sums[owner])
        best, values, at = best_of(self._users, owner, items, scores, self._query.k)
        none = found.codes.new_full((1, found.codes.shape[2]), -1)
        written = torch.cat([found.codes[owner, place], none])  # -1 is the last
        whole = found.bound == -torch.inf
        bound = torch.full_like(found.bound, torch.inf).masked_fill(whole, -torch.inf)
        return Ranked(best, written[at], values, whole, bound)


def _log_sums(values: Tensor, owner: Tensor, users: int) -> Tensor:
    """``[B]``: the log-sum-exp of each user's values; 0 where there are none."""
    highest = values.new_full((users,), -torch.inf).scatter_reduce(0, owner, values, "amax")
    shift = highest.where(highest > -torch.inf, 0.0)
    sums = values.new_zeros(users).index_add(0, owner, (values - shift[owner]).exp())
    return (shift + sums.log()).where(highest > -torch.inf, 0.0)
