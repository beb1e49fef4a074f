"""Objectives: what a backbone is trained to do. ``objective(backbone, batch) -> Loss``."""

from genrec_fast.base.config import register_configs
from genrec_fast.objectives.all_codes import AllCodes, AllCodesConfig
from genrec_fast.objectives.behaviour_codes import BehaviourCodes, BehaviourCodesConfig
from genrec_fast.objectives.codes_and_items import CodesAndItems, CodesAndItemsConfig
from genrec_fast.objectives.codes_and_vectors import CodesAndVectors, CodesAndVectorsConfig
from genrec_fast.objectives.coherent_masking import CoherentMasking, CoherentMaskingConfig
from genrec_fast.objectives.consistent_code import ConsistentCode, ConsistentCodeConfig
from genrec_fast.objectives.counting import Counting, CountingConfig
from genrec_fast.objectives.draft_alignment import DraftAlignment, DraftAlignmentConfig
from genrec_fast.objectives.dual_alignment import DualAlignment, DualAlignmentConfig
from genrec_fast.objectives.full_softmax import FullSoftmax, FullSoftmaxConfig
from genrec_fast.objectives.guided_thoughts import GuidedThoughts, GuidedThoughtsConfig
from genrec_fast.objectives.in_batch import InBatch, InBatchConfig
from genrec_fast.objectives.item_indexing import ItemIndexing, ItemIndexingConfig
from genrec_fast.objectives.masked import MaskedItems, MaskedItemsConfig
from genrec_fast.objectives.masked_fusion import MaskedFusion, MaskedFusionConfig
from genrec_fast.objectives.multi_task import MultiTask, MultiTaskConfig
from genrec_fast.objectives.multi_token import MultiToken, MultiTokenConfig
from genrec_fast.objectives.next_code import NextCode, NextCodeConfig
from genrec_fast.objectives.sampled_bce import SampledBCE, SampledBCEConfig
from genrec_fast.objectives.sampled_softmax import SampledSoftmax, SampledSoftmaxConfig
from genrec_fast.objectives.tree_ranking import TreeRanking, TreeRankingConfig
from genrec_fast.objectives.uniform_masking import UniformMasking, UniformMaskingConfig

__all__ = [
    "AllCodes",
    "AllCodesConfig",
    "BehaviourCodes",
    "BehaviourCodesConfig",
    "CodesAndItems",
    "CodesAndItemsConfig",
    "CodesAndVectors",
    "CodesAndVectorsConfig",
    "CoherentMasking",
    "CoherentMaskingConfig",
    "ConsistentCode",
    "ConsistentCodeConfig",
    "Counting",
    "CountingConfig",
    "DraftAlignment",
    "DraftAlignmentConfig",
    "DualAlignment",
    "DualAlignmentConfig",
    "FullSoftmax",
    "FullSoftmaxConfig",
    "GuidedThoughts",
    "GuidedThoughtsConfig",
    "InBatch",
    "InBatchConfig",
    "ItemIndexing",
    "ItemIndexingConfig",
    "MaskedFusion",
    "MaskedFusionConfig",
    "MaskedItems",
    "MaskedItemsConfig",
    "MultiTask",
    "MultiTaskConfig",
    "MultiToken",
    "MultiTokenConfig",
    "NextCode",
    "NextCodeConfig",
    "SampledBCE",
    "SampledBCEConfig",
    "SampledSoftmax",
    "SampledSoftmaxConfig",
    "TreeRanking",
    "TreeRankingConfig",
    "UniformMasking",
    "UniformMaskingConfig",
]

register_configs(globals())
