"""Terms that any trainable tokenizer adds to its loss."""

from genrec_fast.tokenizers.regularisers.base import CodedBatch, FitContext, Regulariser, RegulariserConfig
from genrec_fast.tokenizers.regularisers.collaborative import AlignmentConfig, CoOccurrenceConfig
from genrec_fast.tokenizers.regularisers.content import ContrastiveConfig, TagSupervisionConfig
from genrec_fast.tokenizers.regularisers.diversity import DiversityConfig
from genrec_fast.tokenizers.regularisers.uniqueness import UniquenessConfig

__all__ = [
    "AlignmentConfig",
    "CoOccurrenceConfig",
    "CodedBatch",
    "ContrastiveConfig",
    "DiversityConfig",
    "FitContext",
    "Regulariser",
    "RegulariserConfig",
    "TagSupervisionConfig",
    "UniquenessConfig",
]
