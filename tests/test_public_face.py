from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import genrec_fast as gf


def test_the_public_list():
    """Adding or dropping a name is a decision: this list changes with it."""
    assert sorted(gf.__all__) == [
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


def test_every_public_name_is_there_and_listed():
    for name in gf.__all__:
        assert getattr(gf, name) is not None
    assert set(gf.__all__) <= set(dir(gf))


def test_every_config_is_there():
    """What a package of parts exports as a config is exported at the top, too."""
    for family in ("backbones", "decoders", "layouts", "objectives", "tokenizers"):
        module = importlib.import_module(f"genrec_fast.{family}")
        assert {name for name in module.__all__ if name.endswith("Config")} <= set(gf.__all__)


def test_train_and_evaluate_are_functions_whatever_was_imported():
    import genrec_fast.evaluation
    import genrec_fast.training

    assert gf.train is genrec_fast.training.train
    assert gf.evaluate is genrec_fast.evaluation.evaluate
    assert callable(gf.recipes.marius)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'genrec_fast' has no attribute 'nothing'"):
        _ = gf.nothing


@pytest.mark.parametrize("code", ["import genrec_fast", "from genrec_fast.cli import main; main(['--help'])"])
def test_importing_is_light(code):
    check = (
        f"{code}; import sys; heavy = {{'torch', 'numpy', 'tyro', 'rich'}} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=False, env=_environment()
    )
    assert done.returncode == 0, done.stderr


def _environment():
    import os
    from pathlib import Path

    return os.environ | {"PYTHONPATH": str(Path(gf.__file__).parent.parent)}
