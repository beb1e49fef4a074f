"""Best-first search over the trie: the k best items, proven, without a width to choose."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from genrec_fast.base.batch import Batch
from genrec_fast.base.checks import check_flag, shown, whole_number
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidTypeError, UnsupportedError
from genrec_fast.base.protocols import Autoregressive
from genrec_fast.base.query import Query
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.decoders.arguments import check_filter
from genrec_fast.decoders.base import Decoder
from genrec_fast.decoders.best_first_pass import BestFirstCalls, BestFirstPass, filter_of
from genrec_fast.decoders.search_pass import as_built, check_parts, check_tree
from genrec_fast.nn.engine.plan import BestFirstPlan


@dataclass(frozen=True, kw_only=True)
class BestFirstConfig:
    """Settings of the best-first search."""

    num_beams: int = 500
    """a user takes no more rows of the network than a beam search of this width; the answer is then what was found"""
    normalize: Literal["all", "valid"] = "all"
    """as in ``BeamConfig``"""

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, catalog: Catalog | None = None) -> BestFirst:
        return BestFirst(self)


class BestFirst(Decoder):
    """The k best items by summed log-probability of their codes, proven to be the best.

    A prefix never scores below what follows it. So the best open prefixes are extended first, whatever their level,
    until the k-th item that was found beats every open prefix::

        open = {the empty prefix}; found = {}
        while the best of open scores at least as high as the k-th of found:
            extend the best of open, several at once; children that are whole semantic IDs go to found, others to open

    Who needs few prefixes is soon done, and who needs many gets them: the items and scores are those of a beam search
    with ``exact``. A budget (``num_beams`` of the query, or the configured one, times the levels behind the first) ends
    a search that needs more, unless ``exact`` is asked: it then goes down level by level where fewer than k items were
    found, ``Ranked.exact`` is false, and ``Ranked.bound`` is the best open prefix.

    With ``normalize="valid"`` a prefix that leads to one semantic ID alone is found at once, at no cost: what follows
    is certain.

    Notes:
        The backbone's session must be a ``TreeSession`` that is extended by codes. Rows that the network reads: those
        prefixes that beat the k-th item, which no other proof can avoid, and a share of others, since several are read
        at once. A tie between the k-th item and an open prefix is no proof, and searched on. The answer does not depend
        on who else is in the batch, as far as the backbone's does not.

    Source: best-first search with an admissible bound (Hart, Nilsson, Raphael 1968, A*); in groups as here: ours.

    Example:
        ``BestFirstConfig().build().search(backbone, layout(batch), trie, k=10).exact``
    """

    needs: ClassVar[type] = Autoregressive
    by_level: ClassVar[bool] = True
    by_k: ClassVar[bool] = True
    name: ClassVar[str] = "best_first"

    def __init__(self, config: BestFirstConfig) -> None:
        self.config = config

    def settled(self, query: Query) -> Query:
        """See ``Decoder``; ``num_beams`` may be smaller than k.

        Raises:
            InvalidTypeError: k or num_beams is no whole number.
            InvalidValueError: k or num_beams is below 1.
        """
        check_flag(self.name, "exact", query.exact)
        given: Any = query.num_beams
        if isinstance(given, (tuple, list)):
            raise InvalidTypeError(f"{self.name}: num_beams must be an int, got {shown(given)}")
        width = self.config.num_beams if given is None else whole_number(self.name, "num_beams", given)
        return dataclasses.replace(query, k=whole_number(self.name, "k", query.k), num_beams=width)

    def begin(self, system: Any, batch: Batch, query: Query) -> BestFirstCalls | BestFirstPass:
        """Reads the histories; every ``advance`` extends some prefixes of every user.

        Raises:
            InvalidTypeError, InvalidValueError: as ``search``.
            UnsupportedError: the session is no ``TreeSession``, or is extended by a language model's tokens, or items
                were appended to the trie and not merged yet.
        """
        query, backbone, trie = self.settled(query), system.backbone, system.trie
        check_parts(self.name, backbone, trie)
        check_filter(self.name, len(batch), trie.num_items, query.allowed, query.exclude)
        trie, query = as_built(self.name, trie, query)
        if getattr(backbone, "plan", None) is not None:
            raise UnsupportedError(
                f"{self.name}: backbone must be extended by codes, got {type(backbone).__name__}, which writes tokens"
            )
        width: Any = query.max_num_beams if query.exact else query.num_beams
        budget = None if width is None else width * max(1, len(trie.codebook_sizes) - 1)
        plan = BestFirstPlan(query.k, budget, self.config.normalize, filter_of(trie, query))
        session = check_tree(self.name, backbone.prefill(batch)) if len(batch) else None
        kind = BestFirstCalls if session is not None and session.searches_best_first else BestFirstPass
        return kind(session, len(batch), trie, query, plan)
