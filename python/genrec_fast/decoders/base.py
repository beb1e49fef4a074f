"""What every decoder is: a pass over some users, begun, advanced and read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from typing_extensions import Self

from genrec_fast.base.batch import Batch, Ranked
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.query import Query
from genrec_fast.catalog.catalog import Catalog


class Pass(Protocol):
    """Some users' search, which a server may leave and go on with; call it under ``torch.inference_mode``."""

    @property
    def done(self) -> bool:
        """Whether all users have their results."""
        ...

    @property
    def finished(self) -> Tensor:
        """Bool ``[B]``: whose results will not change any more."""
        ...

    def advance(self) -> None:
        """The next step: a level of a search, or everything."""
        ...

    def results(self) -> Ranked:
        """All users' items, ``query.k`` each; of meaning for those who are finished."""
        ...


def run(running: Pass) -> Ranked:
    """A pass to its end."""
    while not running.done:
        running.advance()
    return running.results()


class OneStep:
    """A pass that answers in one step.

    Args:
        users: B.
        answer: all users' results.
    """

    def __init__(self, users: int, answer: Callable[[], Ranked]) -> None:
        self._users, self._answer = users, answer
        self._found: Ranked | None = None

    @property
    def done(self) -> bool:
        """Whether it was advanced."""
        return self._found is not None

    @property
    def finished(self) -> Tensor:
        """All users, or none."""
        return torch.full((self._users,), self.done)

    def advance(self) -> None:
        """Answers."""
        self._found = self._answer()

    def results(self) -> Ranked:
        """What was answered."""
        assert self._found is not None
        return self._found


@dataclass(frozen=True)
class Parts:
    """What a decoder reads of a system: the network, the catalog's trie, and the layout that fills in batches."""

    backbone: Any
    trie: Any = None
    layout: Any = None


class Decoder(ABC):
    """A search procedure, never a network.

    Attributes:
        needs: the protocol that the backbone must speak.
        by_level: whether a pass takes several steps, and users share one, whatever their k and filters, each with the
            results of a pass of his own.
        by_k: whether how a user is searched depends on k: users of one pass have the same.
        reads_trie: whether it searches the catalog's trie, which has at most 8 levels; ``False`` where it scores items
            by vectors or by their codes, however many.
    """

    needs: ClassVar[type]
    by_level: ClassVar[bool] = False
    by_k: ClassVar[bool] = False
    reads_trie: bool = True

    def parts(self, catalog: Catalog) -> dict[str, nn.Module]:
        """Networks of its own that are trained and saved beside the backbone, by the name they have in the system.

        Args:
            catalog: as the layout shows it to networks: without features where it does not hand them on.
        """
        return {}

    def over(self, catalog: Catalog) -> Self:
        """The same decoder for a catalog that has changed; itself, where it keeps nothing of a catalog."""
        return self

    @abstractmethod
    def begin(self, system: Any, batch: Batch, query: Query) -> Pass:
        """A pass over the users of a batch.

        Args:
            system: with ``backbone`` (in evaluation mode), ``trie`` and ``layout``: a ``System``, or ``Parts``.
            batch: B users, with what the backbone reads filled in by the layout.
            query: how many items, and how they are searched.
        """

    def settled(self, query: Query) -> Query:
        """The query with the width of its search, so that it is answered alike whoever else is in the pass.

        Raises:
            InvalidValueError: k or num_beams does not fit.
        """
        return query

    @torch.inference_mode()
    def search(
        self,
        backbone: Any,
        batch: Batch,
        trie: Any,
        k: int,
        *,
        num_beams: int | tuple[int, ...] | Tensor | None = None,
        allowed: Tensor | None = None,
        exclude: Jagged | None = None,
        exact: bool = False,
        seed: int | None = None,
    ) -> Ranked:
        """A whole pass.

        Args:
            backbone: in evaluation mode.
            batch: B users, with what the backbone reads filled in by the layout.
            trie: the catalog, on the backbone's device; not read by decoders that score items.
            k: items per user.
            num_beams: prefixes kept per user: at every level, one number per level, or int64 ``[B]``, one per user;
                ``None``: the decoder's own number, or k if that is more. Not read by decoders that score items.
            allowed: bool ``[N]`` or ``[B, N]``: items that may appear; ``None``: all.
            exclude: item ids per user that may not appear; ``None``: none.
            exact: widen until the k items are proven to be the best of the catalog.
            seed: of decoders that draw; ``None``: their own.

        Returns:
            ``Ranked``: higher score first, then lower item id. A user with fewer than k items left has -1 behind them.
            ``exact`` and ``bound`` speak about the filtered catalog.

        Raises:
            InvalidTypeError: the backbone does not speak ``needs``, or an argument of the wrong kind.
            InvalidValueError: k, num_beams, a filter or the backbone's codebook sizes do not fit; NaN scores.
        """
        query = Query(k=k, num_beams=num_beams, exact=exact, allowed=allowed, exclude=exclude, seed=seed)
        return run(self.begin(Parts(backbone, trie), batch, query))
