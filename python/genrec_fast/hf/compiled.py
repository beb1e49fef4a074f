"""A language model and a catalog as a recommender: prompts in, ranked items out."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from genrec_fast.base.batch import Batch, Ranked
from genrec_fast.base.checks import MOST, is_truth
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.query import Options, Query, ask
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.catalog.changed import ChangedTrie
from genrec_fast.catalog.stats import levels_of
from genrec_fast.catalog.trie import Trie
from genrec_fast.decoders.beam import Beam, BeamConfig
from genrec_fast.decoders.trie_search import Rule
from genrec_fast.hf.adapters import underlying
from genrec_fast.hf.codes import CodeTokens, token_ids
from genrec_fast.hf.engine import Engine
from genrec_fast.hf.given import scoring_settings
from genrec_fast.hf.language_model import LanguageModel
from genrec_fast.hf.prompts import has_holes
from genrec_fast.hf.rules import RuleSettings
from genrec_fast.hf.session import searched_on
from genrec_fast.hf.writing import Writing, WritingOptions
from genrec_fast.nn.engine.plan import Plan
from genrec_fast.recipe.recommender import Recommender


def compile(
    model: nn.Module,
    trie: Trie | ChangedTrie | Catalog,
    token_offset: int = 0,
    code_to_token: Sequence[Any] | Tensor | CodeTokens | None = None,
    *,
    decoder_start_tokens: Sequence[int] | None = None,
    reads: str = "tokens",
    before: Sequence[int] = (),
    after: Sequence[int] = (),
    frozen: bool = False,
    **options: Unpack[WritingOptions],
) -> CompiledRecommender:
    """A model of transformers made a recommender over a catalog, without ``generate``.

    Args:
        model: with a language model head.
        trie: the catalog: a trie, or a ``Catalog``, whose names and titles the server then knows. Items that were
            appended to it are merged (``Catalog.merge``).
        token_offset: see ``trie_beam_search``.
        code_to_token: see ``trie_beam_search``.
        decoder_start_tokens: an encoder-decoder's first tokens; ``None``: the ``decoder_start_token_id`` of its
            generation config, or its config.
        reads: what ``recommend`` is given: "tokens", whole prompts, or "items", histories of item ids; then a prompt is
            ``before``, the tokens of each item's codes, oldest item first, and ``after``.
        before: tokens in front of a history.
        after: tokens behind it, such as T5's end token.
        frozen: nobody will change the model any more, so that a call need not look whether anybody has (which reads
            every weight once). Answers are those of the weights of this moment.
        options: ``engine``, ``dtype``, ``normalize``, ``prefix_tokens``; see ``hf.writing.WritingOptions``.

    Raises:
        InvalidTypeError: not a trie, an option that there is not.
        InvalidValueError: the map does not fit, or an encoder-decoder has no start token.
        UnsupportedError: engine="native", and it does not run the model.

    Example:
        ``gf.hf.compile(model, trie, token_offset=2).recommend(histories, k=10).items``
    """
    catalog = Catalog.of_trie(trie) if isinstance(trie, (Trie, ChangedTrie)) else trie
    built: Any = catalog
    if isinstance(catalog, Catalog):
        catalog.merge()  # an engine reads a built trie alone; what is gone is a filter
        built = getattr(catalog.trie, "searched", catalog.trie)
    writing = Writing.of("compile", built, token_offset, code_to_token, options)
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"compile: model must be a torch module, got {type(model).__name__}")
    model = underlying(model)
    chosen, tokens = writing.engine_of(model), writing.tokens
    there = searched_on(model)
    catalog = catalog.to(there)
    tokens.require("compile", built, chosen.vocab_size)
    start: list[int] | None = None
    if getattr(model.config, "is_encoder_decoder", False):
        settings = (getattr(model, "generation_config", None), model.config)  # in the order in which generate asks
        starts = (getattr(one, "decoder_start_token_id", None) for one in settings)
        known = next((token for token in starts if token is not None), None)
        if decoder_start_tokens is None and known is None:
            raise InvalidValueError("compile: decoder_start_tokens must be given: the model's config names none")
        start = token_ids(
            "compile", "decoder_start_tokens", [known] if decoder_start_tokens is None else decoder_start_tokens
        )
        if not start:
            raise InvalidValueError("compile: decoder_start_tokens must have a token, got none")
    scoring = scoring_settings(getattr(model, "generation_config", None))
    if decoder_start_tokens is not None:  # the forced one among them
        scoring.pop("forced_bos_token_id", None)
    if scoring:
        warnings.warn(
            "compile: scores are those of the model itself, without what its generation_config makes of them in "
            f"generate, got {', '.join(f'{name}={value!r:.40}' for name, value in scoring.items())}: set it to None, "
            "or give trie_beam_search(trie) to generate, which applies it",
            stacklevel=2,
        )
    if reads not in ("tokens", "items"):
        raise InvalidValueError(f"compile: reads must be 'tokens' or 'items', got {reads!r}")
    histories = None
    if reads == "items":
        around = (torch.tensor(token_ids("compile", n, v)).long() for n, v in (("before", before), ("after", after)))
        histories = _Histories(tokens.encode(catalog.to("cpu").trie.item_codes().long()), *around)
    elif len(before) or len(after):
        raise InvalidValueError("compile: before and after must be empty but for reads='items'")
    for name, ids in (("prefix_tokens", writing.prefix), ("decoder_start_tokens", start or [])):
        if ids and max(ids) >= chosen.vocab_size:
            raise InvalidValueError(f"compile: {name} must be in [0, {chosen.vocab_size}), got {max(ids)}")
    if not isinstance(frozen, bool):
        raise InvalidTypeError(f"compile: frozen must be a bool, got {frozen!r:.40}")

    def now() -> Engine:
        return chosen if frozen else writing.engine_of(model)

    plan = Plan((), writing.normalize, tokens=tokens.to(there), prefix=writing.prefix)
    language = LanguageModel(now, chosen.vocab_size, built.codebook_sizes, plan, start, model, frozen)
    return CompiledRecommender(catalog, language, histories)


class _Histories(NamedTuple):
    """How a history of items becomes a prompt."""

    item_tokens: Tensor
    before: Tensor
    after: Tensor

    def prompts(self, histories: Jagged) -> Jagged:
        size = self.item_tokens.shape[0]
        items = histories.values
        if items.numel() and not 0 <= int(items.min()) <= int(items.max()) < size:
            raise InvalidValueError(
                f"recommend: histories must hold item ids in [0, {size}), got {int(items.min())} to {int(items.max())}"
            )
        rows = [
            torch.cat([self.before, self.item_tokens[row.long()].flatten(), self.after])
            for row in histories.to("cpu").rows()
        ]
        return Jagged.from_rows(rows).to(items.device)


class Prompts(nn.Module):
    """The layout in front of a language model: whole prompts as they are, or made of histories of items."""

    def __init__(self, histories: _Histories | None) -> None:
        super().__init__()
        self.histories = histories

    def forward(self, batch: Batch) -> Batch:
        """The batch with prompts as its items."""
        return batch if self.histories is None else Batch(self.histories.prompts(batch.items))


class CompiledRecommender(Recommender):
    """Made by ``compile``; every call answers with the model as it is then, but for one that was frozen.

    It is asked, batched, served and evaluated as any recommender. Not saved: the model and the trie are.
    """

    language: LanguageModel

    def __init__(self, catalog: Catalog, language: LanguageModel, histories: _Histories | None) -> None:
        nn.Module.__init__(self)
        self.catalog, self.histories, self.language = catalog, histories, language
        self.layout = Prompts(histories)
        self.__dict__["backbone"] = language  # the caller's model, which stays as it is
        self.objective = self.reference = None
        self.decoder = BeamConfig(num_beams=50, normalize=language.plan.normalize).build()  # type: ignore[arg-type]
        self.name, self.max_items = "language model", MOST
        self.actions, self.reads_actions, self.reads_users = (), False, False
        self._begin_answering()

    def __repr__(self) -> str:
        """What matters, on a screen; the model is the caller's."""
        titles = "with" if self.catalog.titles is not None else "without"
        rows = [
            ("items", f"{self.num_items:,}, {titles} titles"),
            ("semantic IDs", levels_of(self.codebook_sizes)),
            ("reads", "prompts" if self.reads_tokens else "histories of items"),
            ("model", f"{self.language.name}, {'frozen' if self.language.frozen else 'as it is now'}"),
            ("decoder", repr(self.decoder.config)),
        ]
        return "\n".join([f"{type(self).__name__}", *(f"  {name:<13}{text}" for name, text in rows)])

    @property
    def engine(self) -> Engine:
        """What runs the model as it is now."""
        return self.language.engine()

    @property
    def trie(self) -> Trie | ChangedTrie:
        """Of the catalog."""
        return self.catalog.trie

    @property
    def device(self) -> torch.device:
        """Where the search runs."""
        return self.trie.device

    @property
    def reads_tokens(self) -> bool:
        """Whether it reads whole prompts, or histories of items."""
        return self.histories is None

    @property
    def num_inputs(self) -> int:
        """The items, or the tokens that the model has embeddings of."""
        return self.language.num_tokens if self.reads_tokens else self.num_items

    @property
    def may_be_empty(self) -> bool:
        """Where something stands before or after every history."""
        around = self.histories
        return around is not None and bool(len(around.before) + len(around.after))

    def to(self, *args: Any, **options: Any) -> CompiledRecommender:
        """Raises ``UnsupportedError``: move the model and compile it again."""
        raise UnsupportedError("to: a compiled model stays where it is; move the model and compile it again")

    def extended(self, new: Catalog) -> CompiledRecommender:
        """Raises ``UnsupportedError``: its tokens were checked against the items that it has."""
        raise UnsupportedError("extended: a compiled model keeps its items; compile it again with the new catalog")

    def without(self, items: Any) -> CompiledRecommender:
        """See ``System.without``."""
        model = CompiledRecommender(self.catalog.without(items), self.language, self.histories)
        model.decoder = self.decoder
        return model

    def save(self, folder: str | Path) -> None:
        """Raises ``UnsupportedError``: ``model.save_pretrained`` and ``Trie.save`` keep what this was made of."""
        raise UnsupportedError("save: save the model by its save_pretrained, and the trie by Trie.save or Catalog.save")

    def recommend(  # type: ignore[override]
        self,
        prompts: Jagged | Tensor | Iterable[Iterable[int | str]],
        k: int = 10,
        *,
        attention_mask: Tensor | None = None,
        num_groups: int = 1,
        diversity_penalty: float = 0.0,
        **options: Unpack[Options],
    ) -> Ranked:
        """The k best items behind each prompt.

        Args:
            prompts: token ids (items, by id or name, where ``compile`` was told ``reads="items"``; empty histories are
                fine if there is something before or after): a list per user, int64 Jagged, or int64 ``[B, S]`` with
                ``attention_mask``.
            k: items per user.
            attention_mask: ``[B, S]``: 0 where a padded prompt holds nothing.
            num_groups: see ``trie_beam_search``.
            diversity_penalty: see ``trie_beam_search``.
            options: those of any recommender, ``base.query.Options``. ``num_beams`` is 50 by default, or k if that is
                more; ``exact`` reads prompts once; ``seed`` needs ``compile(normalize="valid")``. Users, times and
                actions are checked, and not read.

        Returns:
            ``Ranked``: scores are summed log-probabilities, ``exact`` is true where the items are proven the best
            (never with a seed or groups).

        Raises:
            InvalidTypeError: prompts of another kind, an option that there is not.
            UnsupportedError: a mask with a hole in it.
            InvalidValueError: an empty prompt, a token outside the vocabulary, k or num_beams out of range.
        """
        rows: Any = prompts
        if self.reads_tokens or isinstance(prompts, Tensor) or attention_mask is not None:
            rows = _to_rows(rows, attention_mask)
        seed = options.pop("seed", None)  # any of 64 bits
        question, query = ask(self, rows, k, options, least=0)
        settings = RuleSettings(
            op="recommend",
            seed=seed,
            num_groups=num_groups,
            diversity_penalty=diversity_penalty,
            normalize=self.language.plan.normalize,
        )
        width = max(50, query.k)
        if query.num_beams is None:
            query = dataclasses.replace(query, num_beams=-(-width // num_groups) * num_groups)
        query = dataclasses.replace(query, seed=seed)
        decoder = _Ruled(BeamConfig(num_beams=width, normalize=settings.normalize), settings)  # type: ignore[arg-type]
        with self.answering():
            return self.answer(question, query, decoder)


class _Ruled(Beam):
    """A beam search by the rule of a call."""

    name = "recommend"

    def __init__(self, config: BeamConfig, settings: RuleSettings) -> None:
        super().__init__(config)
        self.settings = settings

    @property
    def no_proof(self) -> str | None:  # type: ignore[override]
        """Of a sample, or of groups."""
        return None if self.settings.plain else " with a seed or groups: these items are not the best k"

    @property
    def uneven(self) -> bool:  # type: ignore[override]
        """Of the best beams only."""
        return self.settings.plain

    def rule(self, batch: Batch, num_beams: int, query: Query) -> Rule:
        """Of the settings."""
        return self.settings.begin(num_beams, batch.items)


def _plain(row: Any) -> Any:
    """A row in which no truth value stands for a number, as torch would have it."""
    if isinstance(row, (list, tuple)) and any(map(is_truth, row)):
        raise TypeError("a truth value is no token")
    return row


def _to_rows(prompts: Jagged | Tensor | Sequence[Sequence[int]], mask: Tensor | None) -> Jagged:
    if isinstance(prompts, Tensor):
        if prompts.dim() != 2 or prompts.dtype != torch.int64:
            raise InvalidTypeError(
                f"recommend: prompts must be int64 [B, S], got {prompts.dtype} {list(prompts.shape)}"
            )
        if mask is not None and not isinstance(mask, Tensor):
            raise InvalidTypeError(f"recommend: attention_mask must be a tensor, got {type(mask).__name__}")
        if mask is None and prompts.shape[1]:
            users, longest = prompts.shape
            return Jagged(prompts.reshape(-1), torch.arange(users + 1) * longest)
        kept = torch.ones_like(prompts, dtype=torch.bool) if mask is None else mask.bool()
        if kept.shape != prompts.shape:
            raise InvalidValueError(f"recommend: attention_mask must be {list(prompts.shape)}, got {list(kept.shape)}")
        if has_holes(kept):
            raise UnsupportedError(
                "recommend: attention_mask must have no 0 inside a prompt, as models differ in whether it counts: "
                "take those tokens out"
            )
        prompts = Jagged.from_lengths(prompts[kept], kept.sum(1))
    elif mask is not None:
        raise InvalidValueError("recommend: attention_mask must be None but for prompts [B, S]")
    elif not isinstance(prompts, Jagged):
        try:
            given = [torch.as_tensor(_plain(row)) for row in prompts]
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise InvalidTypeError(f"recommend: prompts must be lists of token ids, got {prompts!r:.60}") from error
        for user, row in enumerate(given):
            whole = not (row.is_floating_point() or row.is_complex() or row.dtype == torch.bool)
            if row.dim() != 1 or (row.numel() and not whole):
                raise InvalidTypeError(
                    f"recommend: prompts must be lists of token ids, got {row!r:.60} for user {user}"
                )
        prompts = Jagged.from_rows(given)
    if prompts.values.dtype != torch.int64 or prompts.values.dim() != 1:
        raise InvalidTypeError(
            f"recommend: prompts must be int64 [E], got {prompts.values.dtype} {list(prompts.values.shape)}"
        )
    return prompts
