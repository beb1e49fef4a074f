"""A published system as a sentence: tokenizer x layout x backbone x objective x decoder, and how it is trained."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch

from genrec_fast.base.config import check_fields, is_part, register_config
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.protocols import (
    ActionScoring,
    Autoregressive,
    Counted,
    Embedding,
    Interests,
    ItemScores,
    MaskedCodes,
    MaskedEmbedding,
    Parallel,
    TeacherForced,
)
from genrec_fast.catalog.catalog import Catalog


class Config(Protocol):
    """Settings from which a part is built: a tokenizer, a layout, a backbone, an objective or a decoder."""

    def build(self, catalog: Catalog) -> Any:
        """The part, for one catalog."""
        ...


@register_config
@dataclass(frozen=True, kw_only=True)
class BatchingConfig:
    """How histories become batches; see ``data.training_batches``."""

    max_items: int = 20
    """longest history the model reads, in items (20: the convention of the field's tables)"""
    targets: Literal["every", "last"] = "every"
    """every position of a history predicts its next item, or one sample per (user, position)"""
    items_per_batch: int = 4096
    """items (positions) in a batch, per process"""
    window: Literal["all", "last"] = "all"
    """learn from every transition, or only from each user's last max_items"""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.items_per_batch < self.max_items:
            raise InvalidValueError(
                f"BatchingConfig: items_per_batch must be at least max_items = {self.max_items}, "
                f"got {self.items_per_batch}"
            )


@register_config
@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the weights are trained."""

    epochs: int = 100
    """passes over the training data; the schedule of the learning rate is planned on them"""
    max_minutes: float | None = None
    """hard stop after that much wall-clock time (all runs of a resumed training together); None: no limit"""
    learning_rate: float = 1e-3
    """peak of the schedule"""
    schedule: Literal["cosine", "linear", "inverse_sqrt", "constant"] = "cosine"
    """after the warm-up: down to final_ratio at the last step, or with sqrt(warmup_steps / step) (TIGER)"""
    warmup_steps: int = 300
    """steps over which the learning rate grows from 0"""
    hold_warmup: bool = False
    """stay at the peak during the warm-up instead of growing to it (TIGER's schedule)"""
    final_ratio: float = 0.02
    """learning rate at the end of a cosine or linear schedule, as a share of the peak"""
    weight_decay: float = 0.01
    """AdamW's, never on biases and norms"""
    decay_embeddings: bool = True
    """weight decay on embedding tables, too"""
    beta1: float = 0.9
    """AdamW: memory of the mean"""
    beta2: float = 0.98
    """AdamW: memory of the square"""
    clip_norm: float = 1.0
    """gradients are scaled down to this norm; 0: never"""
    bf16: bool | None = None
    """run the network in bfloat16 where torch's autocast says it is safe; weights stay float32. None: where the
    processor multiplies bfloat16 at full speed (2.2 times float32's on Zen 4)"""
    evaluate_every: int = 5
    """validate after every so many epochs"""
    evaluate_users: int = 4000
    """validate on that many users, drawn once; 0: all"""
    evaluate_beams: int | None = None
    """beams of the validation; None: the decoder's own"""
    patience: int = 6
    """stop after that many validations without a better NDCG@10; 0: never"""
    checkpoint_minutes: float = 5.0
    """write a checkpoint every so many minutes, and at the end of every epoch"""
    log_every: int = 50
    """steps between two lines of the log"""

    def __post_init__(self) -> None:
        check_fields(
            self,
            zero=("warmup_steps", "evaluate_users", "patience"),
            above=("learning_rate",),
            within={"final_ratio": "[0, 1]", "beta1": "[0, 1)", "beta2": "[0, 1)"},
        )
        if self.schedule == "inverse_sqrt" and self.warmup_steps < 1:
            raise InvalidValueError(
                f"TrainConfig: warmup_steps must be at least 1 for inverse_sqrt, got {self.warmup_steps}"
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One published system: parts that never know each other, joined.

    Args:
        name: one word.
        source: where it was published.
        deviations: what is not as published, one sentence each.
        measured: the figure this recipe reached, with data set and device.
        tokenizer: items -> semantic IDs; ``None`` where items are atoms (one code per item).
        layout: what the backbone reads of each item.
        backbone: the network.
        objective: what is minimised.
        decoder: how the k best items are found.
        batching: how histories become batches.
        train: how the weights are found.

    Raises:
        InvalidTypeError: a part is not the settings of such a part.
        InvalidValueError: parts that do not fit each other.
    """

    name: str
    source: str
    deviations: tuple[str, ...] = ()
    measured: str = "not yet measured"
    tokenizer: Config | None
    layout: Config
    backbone: Config
    objective: Config
    decoder: Config
    batching: BatchingConfig = field(default_factory=BatchingConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        self.check()

    @property
    def at_once(self) -> bool:
        """Whether training is one call of the objective's ``learn``, without steps."""
        return bool(getattr(_built(self.objective), "at_once", False))

    @property
    def made_of_features(self) -> bool:
        """Whether the network can be made of items with feature vectors, and not of the same items without them.

        The backbone's config is asked, by building it for a few items: its settings may decide it.
        """
        levels = 1 if self.tokenizer is None else 3
        codes = torch.arange(_FEW, dtype=torch.int32)[:, None].repeat(1, levels)
        plain = Catalog(item_codes=codes, codebook_sizes=(_FEW,) * levels)
        featured = dataclasses.replace(plain, features=torch.eye(_FEW))
        return not _can_build(self.backbone, plain) and _can_build(self.backbone, featured)

    @property
    def needs_start(self) -> bool:
        """Whether training starts from a trained model, with which the objective compares (``gf.train(start=)``)."""
        return bool(getattr(_built(self.objective), "reads_reference", False))

    def check(self) -> None:
        """Raises where two parts do not fit; called at construction."""
        check_fields(self)
        for name in ("tokenizer", "layout", "backbone", "objective", "decoder"):
            part = getattr(self, name)
            if part is None and name == "tokenizer":
                continue
            if not is_part(part):
                raise InvalidTypeError(f"Recipe: {name} must be a config with .build(), got {part!r}")
        for name in ("batching", "train"):
            kind = {"batching": BatchingConfig, "train": TrainConfig}[name]
            if not isinstance(getattr(self, name), kind):
                raise InvalidTypeError(f"Recipe: {name} must be a {kind.__name__}, got {getattr(self, name)!r}")
        network = _built(self.backbone)
        gives = _gives(network)
        for name in ("objective", "decoder"):
            part = getattr(self, name)
            need = _needs(part)
            if gives and need is not None and not _speaks(network, need):
                raise InvalidValueError(
                    f"Recipe: {name} {_short(part)} needs {need.__name__}; "
                    f"backbone {_short(self.backbone)} gives {' and '.join(gives)}"
                )
        if self.tokenizer is None and _needs(self.decoder) is Autoregressive:
            raise InvalidValueError(
                f"Recipe: tokenizer must be given as decoder {_short(self.decoder)} writes semantic IDs, got None"
            )


_FEW = 4  # items, codes of a level, channels of a feature vector


def _can_build(config: Config, catalog: Catalog) -> bool:
    with torch.random.fork_rng(devices=[]):
        try:
            config.build(catalog)
        except (ValueError, TypeError, AttributeError, RuntimeError, LookupError):  # of a caller's own class, too
            return False
    return True


def _built(part: Any) -> Any:
    """The class that a config's ``build`` says it makes; ``None`` if it does not say."""
    try:
        return typing.get_type_hints(type(part).build).get("return")
    except NameError:  # an annotation of a name that only a type checker imports
        return None


def _needs(part: Any) -> type | None:
    """The protocol that an objective or decoder needs, by the class that its config builds."""
    return getattr(_built(part), "needs", None)


def _speaks(made: type, protocol: type) -> bool:
    """Whether a class has every method of a protocol."""
    return all(hasattr(made, name) for name in dir(protocol) if not name.startswith("_"))


def _gives(made: type) -> list[str]:
    """The protocols of ``types`` that a backbone's class speaks; none of a class that could be any network."""
    return [protocol.__name__ for protocol in _PROTOCOLS if _speaks(made, protocol)]


_PROTOCOLS = (
    Autoregressive,
    TeacherForced,
    Parallel,
    ActionScoring,
    Embedding,
    Interests,
    MaskedEmbedding,
    MaskedCodes,
    ItemScores,
    Counted,
)


def _short(part: Any) -> str:
    return type(part).__name__.removesuffix("Config")
