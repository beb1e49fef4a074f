"""The parts of one recommender, joined: the only place that knows all of them."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from typing_extensions import Self

from genrec_fast.base.batch import Batch, Question, Ranked
from genrec_fast.base.errors import InvalidValueError, UnsupportedError
from genrec_fast.base.protocols import Counted
from genrec_fast.base.query import Query
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.catalog.changed import ChangedTrie
from genrec_fast.catalog.stats import levels_of
from genrec_fast.catalog.trie import Trie
from genrec_fast.decoders.base import run
from genrec_fast.recipe.basis import based, popular
from genrec_fast.recipe.growing import grown
from genrec_fast.recipe.recipe import Recipe


def _short(config: object) -> str:
    """A config's name and settings, as many as a line holds."""
    text = repr(config).replace("Config(", "(", 1)
    return text if len(text) <= 100 else f"{text[:97]}..."


_ANSWERING = threading.Lock()  # over the modes of modules; held for microseconds


class System(nn.Module):
    """Catalog, layout, backbone, objective and decoder of a recipe, and the networks that these bring with them.

    Args:
        recipe: what the parts are.
        catalog: of the items, with semantic IDs.

    Attributes:
        name: of the recipe.
        max_items: the longest history that is read; of a longer one, its last items.
        actions: what the actions of events mean, in their order, where the recipe learns some.
        reads_actions: whether every question must come with the actions of its events.
        reads_users: whether an answer depends on who asks, by row of the training data.
        reference: the backbone that a training started from, as it was, where the objective reads one; never saved.

    Notes:
        Networks are initialised from torch's global generator. A backbone is built from the catalog as its layout shows
        it: with features where the layout hands them on, and without where it does not; a decoder's parts likewise.
        What objective and decoder name in ``parts(catalog)`` (a tokenizer that learns, a draft) is trained where its
        parameters require gradients, and saved and moved with the rest.
    """

    def __init__(self, recipe: Recipe, catalog: Catalog) -> None:
        super().__init__()
        self.recipe, self.catalog = recipe, catalog
        self.layout: nn.Module = recipe.layout.build(catalog)
        shown = self._shown(catalog)
        self.backbone: nn.Module = recipe.backbone.build(shown)
        self.objective: Any = recipe.objective.build(catalog)
        self.decoder: Any = recipe.decoder.build(catalog)
        self.reference: Any = None
        for name, part in (self.objective.parts(catalog) | self.decoder.parts(shown)).items():
            if hasattr(self, name):
                raise InvalidValueError(f"System: parts must have names of their own, got {name!r}")
            self.add_module(name, part)
        self.name, self.max_items = recipe.name, recipe.batching.max_items
        self.actions: tuple[str, ...] = getattr(recipe.objective, "actions", ())
        self.reads_actions: bool = getattr(recipe.layout, "actions", "none") != "none"
        self.reads_users = bool(
            getattr(recipe.layout, "use_users", False) or getattr(recipe.layout, "num_user_buckets", 0)
        )
        self._begin_answering()

    def __repr__(self) -> str:
        """What matters, on a screen; the modules are ``backbone`` and ``layout``."""
        parameters = list(self.parameters())
        kinds = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in parameters})
        codes = "items are atoms" if self.recipe.tokenizer is None else levels_of(self.codebook_sizes)
        rows = [
            ("items", f"{self.num_items:,}, {'with' if self.catalog.titles is not None else 'without'} titles"),
            ("semantic IDs", codes),
            ("reads", f"the last {self.max_items} items of a history"),
            ("weights", ", ".join([f"{sum(p.numel() for p in parameters):,} parameters", *kinds, str(self.device)])),
        ]
        rows += [(name, _short(getattr(self.recipe, name))) for name in ("layout", "backbone", "objective", "decoder")]
        return "\n".join([f"{type(self).__name__} {self.name}", *(f"  {name:<13}{text}" for name, text in rows)])

    def _begin_answering(self) -> None:
        self._answering = 0  # blocks of answering() that are open, in any thread
        self._modes: list[tuple[nn.Module, bool]] = []
        self._recounted: Catalog | None = None  # what ``_counted`` made

    @property
    def trie(self) -> Trie | ChangedTrie | None:
        """Of the catalog; ``None`` where no search writes items code by code: atoms, vectors, or all codes at once."""
        unread = self.recipe.tokenizer is None or not getattr(self.decoder, "reads_trie", True)
        return None if unread else self.catalog.trie

    @property
    def num_items(self) -> int:
        return self.catalog.num_items

    @property
    def reads_tokens(self) -> bool:
        """Whether histories hold something else than items: a language model's tokens."""
        return False

    @property
    def num_inputs(self) -> int:
        """Histories hold numbers below this: items, or what else the layout reads."""
        return self.num_items

    @property
    def may_be_empty(self) -> bool:
        """Whether the network has a state for an empty history that it learned something about."""
        return bool(getattr(self.backbone, "learns_start", False))

    @property
    def knows_popular(self) -> bool:
        """Whether it can tell what is popular: to users without a history that it has no state for."""
        return self._counted().counts is not None

    def _counted(self) -> Catalog:
        """The catalog; with the counts of a backbone that counts on its own, once they are others."""
        counts = getattr(self.backbone, "counts", None) if isinstance(self.backbone, Counted) else None
        if counts is None or not bool(counts.any()):
            return self.catalog
        counts = counts.cpu()
        for known in (self.catalog, self._recounted):
            if known is None or known.counts is None or known.item_codes is not self.catalog.item_codes:
                continue
            if torch.equal(known.counts.cpu(), counts):
                return known
        self._recounted = recounted = dataclasses.replace(self.catalog, counts=counts.clone())
        return recounted

    @property
    def item_numbers(self) -> Mapping[str, int]:
        """Item id of each name."""
        return self.catalog.numbers

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return self.catalog.codebook_sizes

    @property
    def device(self) -> torch.device:
        return next(itertools.chain(self.backbone.parameters(), self.backbone.buffers())).device

    def to(self, *args: Any, **options: Any) -> Any:
        """As a module's; the catalog goes where the backbone goes."""
        super().to(*args, **options)
        self.catalog = self.catalog.to(self.device)
        return self

    def recode(self, catalog: Catalog) -> None:
        """Takes a catalog of the same items with other semantic IDs: new layout and trie, the same networks.

        Raises:
            UnsupportedError: a layout that learns: its weights would be lost.
        """
        if next(self.layout.parameters(), None) is not None:
            raise UnsupportedError("System: layout must have no parameters where semantic IDs change")
        self.catalog = catalog.to(self.device)
        self.layout = self.recipe.layout.build(self.catalog).to(self.device).train(self.training)
        for module in self.backbone.modules():
            take: Any = getattr(module, "take_codes", None)  # of networks that read the catalog's semantic IDs
            if take is not None:
                take(self.catalog)

    def extended(self, new: Catalog) -> Self:
        """A model over the same networks with more items, whose ids follow the catalog's: for a server to be swapped.

        ``server.swap(model.extended(new))``, and ``merge`` in a thread of its own: the model before answers what it was
        asked, and no question is lost. Networks are shared, and are in eval mode from now on.

        Args:
            new: the items; see ``Catalog.extended``.

        Raises:
            InvalidTypeError, InvalidValueError: as ``Catalog.extended``.
            UnsupportedError: a decoder that searches no trie, a layout that learns, or a network that has weights for
                each item.

        Notes:
            A network that reads the items' features (LIGER's, COBRA's) shares its weights with the one before, and has
            the features of all items of its own.
        """
        self._require_trie("extended")
        catalog = self.catalog.extended(new)
        shown = self._shown(catalog)
        decoder = self.decoder.over(catalog)
        with torch.random.fork_rng(devices=[]):  # what it is initialised with is dropped
            fresh = {"backbone": self.recipe.backbone.build(shown), **decoder.parts(shown)}
        networks = {name: grown(name, self.get_submodule(name), part) for name, part in fresh.items()}
        return self._over(catalog, networks)

    def without(self, items: Any) -> Self:
        """A model over the same networks that recommends some items no more; histories may hold them. See ``extended``.

        Raises:
            InvalidTypeError, InvalidValueError: as ``Trie.without``.
            UnsupportedError: a decoder that searches no trie, or a layout that learns.
        """
        self._require_trie("without")
        return self._over(self.catalog.without(items), {})

    def merge(self) -> None:
        """See ``Catalog.merge``."""
        self.catalog.merge()

    def _require_trie(self, op: str) -> None:
        if not self.decoder.by_level or self.trie is None:
            kind = type(self.decoder).__name__
            raise UnsupportedError(f"{op}: decoder must search the catalog's trie, got {kind}; train again, or filter")

    def _over(self, catalog: Catalog, networks: Mapping[str, nn.Module]) -> Self:
        """The same parts over another catalog, with these networks in the place of those of the same names."""
        model = copy.copy(self)
        model.__dict__["_modules"] = {**self._modules, **networks}
        model.decoder = self.decoder.over(catalog)
        model._begin_answering()
        with _ANSWERING:
            self._modes = []  # what is answering now must not put shared modules back into training mode
            model.eval()
        model.recode(catalog)
        _ = model.item_numbers  # now, not in the first question
        return model

    def _shown(self, catalog: Catalog) -> Catalog:
        """As the layout shows it to networks."""
        features = getattr(self.layout, "feature_dim", None) is not None
        return catalog if features else catalog.with_features(None)

    def drafting(self) -> Self:
        """The same system, answered by its draft alone, by a beam search of the same width; networks are shared.

        Raises:
            UnsupportedError: a decoder without a draft.
        """
        draft: Any = self._modules.get("draft")
        if draft is None or not hasattr(self.decoder, "alone"):
            raise UnsupportedError(f"drafting: decoder must have a draft, got {type(self.decoder).__name__}")
        model = copy.copy(self)
        model.__dict__["_modules"] = {**self._modules, "backbone": draft}
        model.decoder = self.decoder.alone()
        model._begin_answering()
        return model

    def keep_reference(self) -> None:
        """Keeps the backbone as it is now: no part of what is trained or saved."""
        reference = copy.deepcopy(self.backbone).eval().requires_grad_(False)
        self.__dict__["reference"] = reference  # not a submodule

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Within the block the modules are in eval mode and nothing is recorded for gradients."""
        with _ANSWERING:
            if not self._answering:
                self._modes = [(module, module.training) for module in self.modules()]
            self._answering += 1
            self.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            with _ANSWERING:
                self._answering -= 1
                if not self._answering:  # the last of several threads: dropout would spoil the others' answers
                    for module, mode in self._modes:
                        module.training = mode

    def batch(self, question: Question) -> Batch:
        """A question as the backbone reads it."""
        batch = question if isinstance(question, Batch) else Batch.of(question)
        laid: Batch = self.layout(batch.to(self.device))
        return laid

    def search(self, question: Question, query: Query, decoder: Any = None) -> Ranked:
        """The items of some users, by a decoder (``None``: the system's); call within ``answering()``.

        Histories are not cut here.
        """
        query = query.filtered(self.num_items)
        decoder = self.decoder if decoder is None else decoder
        found: Ranked = run(decoder.begin(self, self.batch(question), query.to(self.device)))
        return found

    def answer(self, question: Question, query: Query, decoder: Any = None) -> Ranked:
        """``search``, on the CPU, and for users without a history the popular items where the network learned no start.

        Each answer says what it is based on.
        """
        decoder = self.decoder if decoder is None else decoder
        bare = question.items.lengths == 0
        if self.may_be_empty or not bool(bare.any()):
            return based(self.search(question, query, decoder).to("cpu"), question, self.may_be_empty)
        without, others = bare.nonzero().squeeze(1), (~bare).nonzero().squeeze(1)
        found = popular(self._counted(), query.select(without), without.shape[0], decoder.by_level)
        if others.numel():
            searched = self.search(question.select(others), query.select(others), decoder).to("cpu")
            found = Ranked.cat([found, searched]).select(torch.cat([without, others]).argsort())
        return based(found, question, False)
