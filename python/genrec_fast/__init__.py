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
        CausalT5Config,
        CobraConfig,
        CodeFusionConfig,
        ColaRecConfig,
        DiscRecConfig,
        DualFlowConfig,
        EagerConfig,
        EarnConfig,
        FlatDiffusionConfig,
        FusedConfig,
        GRUConfig,
        HSTUConfig,
        ItemInputsConfig,
        KuaiFormerConfig,
        LigerConfig,
        MBGenConfig,
        MMGRecConfig,
        NCIConfig,
        NezhaConfig,
        ParallelHeadsConfig,
        PinRecConfig,
        PooledT5Config,
        RecGPTConfig,
        S2GRConfig,
        SeaterConfig,
        SessionsConfig,
        SlotDiffusionConfig,
        T5Config,
        TimelineConfig,
        TransitionsConfig,
        TwoIdsConfig,
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
        DraftedItemsConfig,
        GraphConfig,
        GreedyConfig,
        MemberConfig,
        ProposalsConfig,
        RankConfig,
        RerankConfig,
        RetrieveConfig,
        RetrieveInterestsConfig,
        ScanCodesConfig,
        ScanConfig,
        SpeculativeConfig,
        SpeculativeSamplingConfig,
        StochasticBeamConfig,
        UnmaskConfig,
    )
    from genrec_fast.decoders.base import Decoder
    from genrec_fast.evaluation import Evaluated, evaluate
    from genrec_fast.layouts import InterleaveConfig, PlainConfig
    from genrec_fast.objectives import (
        AllCodesConfig,
        BehaviourCodesConfig,
        CodesAndItemsConfig,
        CodesAndVectorsConfig,
        CoherentMaskingConfig,
        ConsistentCodeConfig,
        CountingConfig,
        DraftAlignmentConfig,
        DualAlignmentConfig,
        FullSoftmaxConfig,
        GuidedThoughtsConfig,
        InBatchConfig,
        ItemIndexingConfig,
        MaskedFusionConfig,
        MaskedItemsConfig,
        MultiTaskConfig,
        MultiTokenConfig,
        NextCodeConfig,
        SampledBCEConfig,
        SampledSoftmaxConfig,
        TreeRankingConfig,
        UniformMaskingConfig,
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
        TwoTreesConfig,
        UniquenessConfig,
    )
    from genrec_fast.training import train

__all__ = [
    "AlignmentConfig",
    "AllCodesConfig",
    "AtomicConfig",
    "Batch",
    "Batcher",
    "BatchingConfig",
    "BeamConfig",
    "BeamFusionConfig",
    "BehaviourCodesConfig",
    "BestFirstConfig",
    "BidirectionalConfig",
    "BlendConfig",
    "Catalog",
    "CausalConfig",
    "CausalT5Config",
    "ChangedTrie",
    "ClosedError",
    "CoOccurrenceConfig",
    "CobraConfig",
    "CodeFusionConfig",
    "CodesAndItemsConfig",
    "CodesAndVectorsConfig",
    "CoherentMaskingConfig",
    "ColaRecConfig",
    "CollaborativeConfig",
    "ConsistentCodeConfig",
    "ContrastiveConfig",
    "CorruptFileError",
    "CountingConfig",
    "DataError",
    "Decoder",
    "DiscRecConfig",
    "DivergedError",
    "DiverseBeamConfig",
    "DiversityConfig",
    "DraftAlignmentConfig",
    "DraftedItemsConfig",
    "DualAlignmentConfig",
    "DualFlowConfig",
    "EagerConfig",
    "EarnConfig",
    "Evaluated",
    "FSQConfig",
    "FlatDiffusionConfig",
    "FolderInUseError",
    "FullSoftmaxConfig",
    "FusedConfig",
    "GRUConfig",
    "GenrecError",
    "GraphConfig",
    "GreedyConfig",
    "GuidedThoughtsConfig",
    "HSTUConfig",
    "HierarchicalConfig",
    "InBatchConfig",
    "InterleaveConfig",
    "InvalidTypeError",
    "InvalidValueError",
    "ItemIndexingConfig",
    "ItemInputsConfig",
    "Jagged",
    "KuaiFormerConfig",
    "LigerConfig",
    "Loss",
    "MBGenConfig",
    "MMGRecConfig",
    "MaskedFusionConfig",
    "MaskedItemsConfig",
    "MemberConfig",
    "MissingFolderError",
    "MultiTaskConfig",
    "MultiTokenConfig",
    "NCIConfig",
    "NextCodeConfig",
    "NezhaConfig",
    "OPQConfig",
    "Objective",
    "PQConfig",
    "ParallelHeadsConfig",
    "PinRecConfig",
    "PlainConfig",
    "PooledT5Config",
    "ProposalsConfig",
    "PublishedConfig",
    "Query",
    "Question",
    "QueueFullError",
    "RQKMeansConfig",
    "RQVAEConfig",
    "RandomConfig",
    "RankConfig",
    "Ranked",
    "RecGPTConfig",
    "Recipe",
    "Recommender",
    "RerankConfig",
    "RetrieveConfig",
    "RetrieveInterestsConfig",
    "S2GRConfig",
    "SampledBCEConfig",
    "SampledSoftmaxConfig",
    "ScanCodesConfig",
    "ScanConfig",
    "SeaterConfig",
    "Session",
    "SessionsConfig",
    "SlotDiffusionConfig",
    "SlowPathWarning",
    "SpeculativeConfig",
    "SpeculativeSamplingConfig",
    "StillValidationWarning",
    "StochasticBeamConfig",
    "StorageError",
    "T5Config",
    "TagSupervisionConfig",
    "TimedOutError",
    "TimelineConfig",
    "TrainConfig",
    "TransitionsConfig",
    "TreeRankingConfig",
    "Trie",
    "TwoIdsConfig",
    "TwoTreesConfig",
    "UniformMaskingConfig",
    "UniquenessConfig",
    "UnlockedFolderWarning",
    "UnmaskConfig",
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
_NAMES = {  # by where they are made
    "genrec_fast.backbones": (
        "BidirectionalConfig CausalConfig CausalT5Config CobraConfig CodeFusionConfig ColaRecConfig DiscRecConfig "
        "DualFlowConfig EagerConfig EarnConfig FlatDiffusionConfig FusedConfig GRUConfig HSTUConfig ItemInputsConfig "
        "KuaiFormerConfig LigerConfig MBGenConfig MMGRecConfig NCIConfig NezhaConfig ParallelHeadsConfig "
        "PinRecConfig PooledT5Config RecGPTConfig S2GRConfig SeaterConfig SessionsConfig SlotDiffusionConfig "
        "T5Config TimelineConfig TransitionsConfig TwoIdsConfig"
    ),
    "genrec_fast.base.batch": "Batch Loss Question Ranked",
    "genrec_fast.base.errors": (
        "ClosedError CorruptFileError DataError DivergedError FolderInUseError GenrecError InvalidTypeError "
        "InvalidValueError MissingFolderError QueueFullError SlowPathWarning StillValidationWarning StorageError "
        "TimedOutError UnlockedFolderWarning UnsupportedError"
    ),
    "genrec_fast.base.jagged": "Jagged",
    "genrec_fast.base.objective": "Objective",
    "genrec_fast.base.protocols": "Session",
    "genrec_fast.base.query": "Query",
    "genrec_fast.catalog.catalog": "Catalog",
    "genrec_fast.catalog.changed": "ChangedTrie",
    "genrec_fast.catalog.trie": "Trie build_trie",
    "genrec_fast.decoders": (
        "BeamConfig BeamFusionConfig BestFirstConfig BlendConfig DiverseBeamConfig DraftedItemsConfig GraphConfig "
        "GreedyConfig MemberConfig ProposalsConfig RankConfig RerankConfig RetrieveConfig RetrieveInterestsConfig "
        "ScanCodesConfig ScanConfig SpeculativeConfig SpeculativeSamplingConfig StochasticBeamConfig UnmaskConfig"
    ),
    "genrec_fast.decoders.base": "Decoder",
    "genrec_fast.evaluation": "Evaluated evaluate",
    "genrec_fast.layouts": "InterleaveConfig PlainConfig",
    "genrec_fast.objectives": (
        "AllCodesConfig BehaviourCodesConfig CodesAndItemsConfig CodesAndVectorsConfig CoherentMaskingConfig "
        "ConsistentCodeConfig CountingConfig DraftAlignmentConfig DualAlignmentConfig FullSoftmaxConfig "
        "GuidedThoughtsConfig InBatchConfig ItemIndexingConfig MaskedFusionConfig MaskedItemsConfig "
        "MultiTaskConfig MultiTokenConfig NextCodeConfig SampledBCEConfig SampledSoftmaxConfig TreeRankingConfig "
        "UniformMaskingConfig"
    ),
    "genrec_fast.recipe.batcher": "Batcher",
    "genrec_fast.recipe.card": "register_config",
    "genrec_fast.recipe.recipe": "BatchingConfig Recipe TrainConfig",
    "genrec_fast.recipe.recommender": "Recommender load",
    "genrec_fast.serving.bulk": "recommend_many",
    "genrec_fast.serving.user_cache": "UserCache",
    "genrec_fast.tokenizers": (
        "AlignmentConfig AtomicConfig CoOccurrenceConfig CollaborativeConfig ContrastiveConfig DiversityConfig "
        "FSQConfig HierarchicalConfig OPQConfig PQConfig PublishedConfig RQKMeansConfig RQVAEConfig RandomConfig "
        "TagSupervisionConfig TwoTreesConfig UniquenessConfig"
    ),
    "genrec_fast.training": "train",
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}


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
