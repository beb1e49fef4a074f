"""Fast generative recommendation: from items to semantic IDs to the k best items, on the machine you have.

Names are loaded when they are first used: ``import genrec_fast`` itself imports neither torch nor anything heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from genrec_fast._version import __version__

if TYPE_CHECKING:
    import genrec_fast.recipes as recipes
    from genrec_fast import data, metrics, ops, tokenizers
    from genrec_fast.backbones import (
        BidirectionalConfig,
        CausalConfig,
        CobraConfig,
        GRUConfig,
        HSTUConfig,
        KuaiFormerConfig,
        LigerConfig,
        PinRecConfig,
        SessionsConfig,
        T5Config,
        TimelineConfig,
        TransitionsConfig,
    )
    from genrec_fast.base.batch import Batch, Loss, Question, Ranked
    from genrec_fast.base.errors import (
        ClosedError,
        CorruptFileError,
        DataError,
        DivergedError,
        FolderInUseError,
        GenrecError,
        InvalidTypeError,
        InvalidValueError,
        MissingFolderError,
        QueueFullError,
        SlowPathWarning,
        StillValidationWarning,
        StorageError,
        TimedOutError,
        UnlockedFolderWarning,
        UnsupportedError,
    )
    from genrec_fast.base.jagged import Jagged
    from genrec_fast.base.objective import Objective
    from genrec_fast.base.protocols import Session
    from genrec_fast.base.query import Query
    from genrec_fast.catalog.catalog import Catalog
    from genrec_fast.catalog.changed import ChangedTrie
    from genrec_fast.catalog.trie import Trie, build_trie
    from genrec_fast.decoders import (
        BeamConfig,
        BeamFusionConfig,
        BestFirstConfig,
        BlendConfig,
        DiverseBeamConfig,
        GreedyConfig,
        MemberConfig,
        RankConfig,
        RerankConfig,
        RetrieveConfig,
        RetrieveInterestsConfig,
        ScanConfig,
        StochasticBeamConfig,
    )
    from genrec_fast.decoders.base import Decoder
    from genrec_fast.evaluation import Evaluated, evaluate
    from genrec_fast.layouts import InterleaveConfig, PlainConfig
    from genrec_fast.objectives import (
        CodesAndVectorsConfig,
        CountingConfig,
        FullSoftmaxConfig,
        InBatchConfig,
        MaskedItemsConfig,
        MultiTaskConfig,
        MultiTokenConfig,
        NextCodeConfig,
        SampledBCEConfig,
        SampledSoftmaxConfig,
    )
    from genrec_fast.recipe.batcher import Batcher
    from genrec_fast.recipe.card import register_config
    from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig
    from genrec_fast.recipe.recommender import Recommender, load
    from genrec_fast.serving.bulk import recommend_many
    from genrec_fast.serving.user_cache import UserCache
    from genrec_fast.tokenizers import (
        AlignmentConfig,
        AtomicConfig,
        CollaborativeConfig,
        ContrastiveConfig,
        CoOccurrenceConfig,
        DiversityConfig,
        FSQConfig,
        HierarchicalConfig,
        OPQConfig,
        PQConfig,
        PublishedConfig,
        RandomConfig,
        RQKMeansConfig,
        RQVAEConfig,
        TagSupervisionConfig,
    )
    from genrec_fast.training import train

__all__ = [
    "AlignmentConfig",
    "AtomicConfig",
    "Batch",
    "Batcher",
    "BatchingConfig",
    "BeamConfig",
    "BeamFusionConfig",
    "BestFirstConfig",
    "BidirectionalConfig",
    "BlendConfig",
    "Catalog",
    "CausalConfig",
    "ChangedTrie",
    "ClosedError",
    "CoOccurrenceConfig",
    "CobraConfig",
    "CodesAndVectorsConfig",
    "CollaborativeConfig",
    "ContrastiveConfig",
    "CorruptFileError",
    "CountingConfig",
    "DataError",
    "Decoder",
    "DivergedError",
    "DiverseBeamConfig",
    "DiversityConfig",
    "Evaluated",
    "FSQConfig",
    "FolderInUseError",
    "FullSoftmaxConfig",
    "GRUConfig",
    "GenrecError",
    "GreedyConfig",
    "HSTUConfig",
    "HierarchicalConfig",
    "InBatchConfig",
    "InterleaveConfig",
    "InvalidTypeError",
    "InvalidValueError",
    "Jagged",
    "KuaiFormerConfig",
    "LigerConfig",
    "Loss",
    "MaskedItemsConfig",
    "MemberConfig",
    "MissingFolderError",
    "MultiTaskConfig",
    "MultiTokenConfig",
    "NextCodeConfig",
    "OPQConfig",
    "Objective",
    "PQConfig",
    "PinRecConfig",
    "PlainConfig",
    "PublishedConfig",
    "Query",
    "Question",
    "QueueFullError",
    "RQKMeansConfig",
    "RQVAEConfig",
    "RandomConfig",
    "RankConfig",
    "Ranked",
    "Recipe",
    "Recommender",
    "RerankConfig",
    "RetrieveConfig",
    "RetrieveInterestsConfig",
    "SampledBCEConfig",
    "SampledSoftmaxConfig",
    "ScanConfig",
    "Session",
    "SessionsConfig",
    "SlowPathWarning",
    "StillValidationWarning",
    "StochasticBeamConfig",
    "StorageError",
    "T5Config",
    "TagSupervisionConfig",
    "TimedOutError",
    "TimelineConfig",
    "TrainConfig",
    "TransitionsConfig",
    "Trie",
    "UnlockedFolderWarning",
    "UnsupportedError",
    "UserCache",
    "__version__",
    "build_trie",
    "data",
    "errors",
    "evaluate",
    "hf",
    "load",
    "metrics",
    "ops",
    "recipes",
    "recommend_many",
    "register_config",
    "tokenizers",
    "train",
]

_MODULES = frozenset({"data", "errors", "hf", "metrics", "ops", "recipes", "tokenizers"})
_HOMES = {
    "LigerConfig": "genrec_fast.backbones",
    "CobraConfig": "genrec_fast.backbones",
    "BidirectionalConfig": "genrec_fast.backbones",
    "CausalConfig": "genrec_fast.backbones",
    "GRUConfig": "genrec_fast.backbones",
    "HSTUConfig": "genrec_fast.backbones",
    "KuaiFormerConfig": "genrec_fast.backbones",
    "SessionsConfig": "genrec_fast.backbones",
    "PinRecConfig": "genrec_fast.backbones",
    "T5Config": "genrec_fast.backbones",
    "TimelineConfig": "genrec_fast.backbones",
    "TransitionsConfig": "genrec_fast.backbones",
    "Batcher": "genrec_fast.recipe.batcher",
    "RerankConfig": "genrec_fast.decoders",
    "MemberConfig": "genrec_fast.decoders",
    "BlendConfig": "genrec_fast.decoders",
    "BeamFusionConfig": "genrec_fast.decoders",
    "BeamConfig": "genrec_fast.decoders",
    "BestFirstConfig": "genrec_fast.decoders",
    "DiverseBeamConfig": "genrec_fast.decoders",
    "GreedyConfig": "genrec_fast.decoders",
    "RankConfig": "genrec_fast.decoders",
    "RetrieveConfig": "genrec_fast.decoders",
    "RetrieveInterestsConfig": "genrec_fast.decoders",
    "ScanConfig": "genrec_fast.decoders",
    "StochasticBeamConfig": "genrec_fast.decoders",
    "ClosedError": "genrec_fast.base.errors",
    "CorruptFileError": "genrec_fast.base.errors",
    "DataError": "genrec_fast.base.errors",
    "DivergedError": "genrec_fast.base.errors",
    "FolderInUseError": "genrec_fast.base.errors",
    "GenrecError": "genrec_fast.base.errors",
    "InvalidTypeError": "genrec_fast.base.errors",
    "InvalidValueError": "genrec_fast.base.errors",
    "MissingFolderError": "genrec_fast.base.errors",
    "QueueFullError": "genrec_fast.base.errors",
    "SlowPathWarning": "genrec_fast.base.errors",
    "StillValidationWarning": "genrec_fast.base.errors",
    "StorageError": "genrec_fast.base.errors",
    "TimedOutError": "genrec_fast.base.errors",
    "UnlockedFolderWarning": "genrec_fast.base.errors",
    "UnsupportedError": "genrec_fast.base.errors",
    "Evaluated": "genrec_fast.evaluation",
    "evaluate": "genrec_fast.evaluation",
    "InterleaveConfig": "genrec_fast.layouts",
    "PlainConfig": "genrec_fast.layouts",
    "Recommender": "genrec_fast.recipe.recommender",
    "load": "genrec_fast.recipe.recommender",
    "CodesAndVectorsConfig": "genrec_fast.objectives",
    "CountingConfig": "genrec_fast.objectives",
    "FullSoftmaxConfig": "genrec_fast.objectives",
    "InBatchConfig": "genrec_fast.objectives",
    "MaskedItemsConfig": "genrec_fast.objectives",
    "MultiTaskConfig": "genrec_fast.objectives",
    "MultiTokenConfig": "genrec_fast.objectives",
    "NextCodeConfig": "genrec_fast.objectives",
    "SampledBCEConfig": "genrec_fast.objectives",
    "SampledSoftmaxConfig": "genrec_fast.objectives",
    "BatchingConfig": "genrec_fast.recipe.recipe",
    "Recipe": "genrec_fast.recipe.recipe",
    "TrainConfig": "genrec_fast.recipe.recipe",
    "register_config": "genrec_fast.recipe.card",
    "AtomicConfig": "genrec_fast.tokenizers",
    "CollaborativeConfig": "genrec_fast.tokenizers",
    "FSQConfig": "genrec_fast.tokenizers",
    "HierarchicalConfig": "genrec_fast.tokenizers",
    "OPQConfig": "genrec_fast.tokenizers",
    "PQConfig": "genrec_fast.tokenizers",
    "PublishedConfig": "genrec_fast.tokenizers",
    "RQKMeansConfig": "genrec_fast.tokenizers",
    "AlignmentConfig": "genrec_fast.tokenizers",
    "CoOccurrenceConfig": "genrec_fast.tokenizers",
    "ContrastiveConfig": "genrec_fast.tokenizers",
    "DiversityConfig": "genrec_fast.tokenizers",
    "TagSupervisionConfig": "genrec_fast.tokenizers",
    "RQVAEConfig": "genrec_fast.tokenizers",
    "RandomConfig": "genrec_fast.tokenizers",
    "train": "genrec_fast.training",
    "ChangedTrie": "genrec_fast.catalog.changed",
    "Trie": "genrec_fast.catalog.trie",
    "build_trie": "genrec_fast.catalog.trie",
    "Decoder": "genrec_fast.decoders.base",
    "Loss": "genrec_fast.base.batch",
    "Objective": "genrec_fast.base.objective",
    "Query": "genrec_fast.base.query",
    "Question": "genrec_fast.base.batch",
    "Session": "genrec_fast.base.protocols",
    "Batch": "genrec_fast.base.batch",
    "Catalog": "genrec_fast.catalog.catalog",
    "Jagged": "genrec_fast.base.jagged",
    "Ranked": "genrec_fast.base.batch",
    "recommend_many": "genrec_fast.serving.bulk",
    "UserCache": "genrec_fast.serving.user_cache",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"genrec_fast.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'genrec_fast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
