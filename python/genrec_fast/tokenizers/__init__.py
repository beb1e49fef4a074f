"""Tokenizers: how every item of a catalog gets its semantic ID."""

from genrec_fast.base.config import register_configs
from genrec_fast.base.progress import Progress
from genrec_fast.tokenizers.atomic import Atomic, AtomicConfig
from genrec_fast.tokenizers.base import Fit, Tokenizer, load
from genrec_fast.tokenizers.clustering.balance import balanced_assignment
from genrec_fast.tokenizers.clustering.kmeans import KMeans, kmeans
from genrec_fast.tokenizers.co_occurrence import collaborative_vectors, spectral_vectors
from genrec_fast.tokenizers.collaborative import Collaborative, CollaborativeConfig
from genrec_fast.tokenizers.collisions.dedup import add_dedup_level
from genrec_fast.tokenizers.collisions.reassign import reassign
from genrec_fast.tokenizers.collisions.resolution import Resolution, Resolved
from genrec_fast.tokenizers.collisions.resolve import resolve
from genrec_fast.tokenizers.formats.faiss import from_faiss, pack_codes, to_faiss, unpack_codes
from genrec_fast.tokenizers.formats.files import encode_file, kmeans_step_file
from genrec_fast.tokenizers.formats.index_json import read_index_json, write_index_json
from genrec_fast.tokenizers.formats.text import from_text, to_text
from genrec_fast.tokenizers.fsq import FSQ, FSQConfig
from genrec_fast.tokenizers.hierarchical import Hierarchical, HierarchicalConfig
from genrec_fast.tokenizers.pq import OPQ, PQ, OPQConfig, PQConfig
from genrec_fast.tokenizers.published import Published, PublishedConfig
from genrec_fast.tokenizers.random import Random, RandomConfig
from genrec_fast.tokenizers.regularisers import (
    AlignmentConfig,
    ContrastiveConfig,
    CoOccurrenceConfig,
    DiversityConfig,
    TagSupervisionConfig,
    UniquenessConfig,
)
from genrec_fast.tokenizers.report import LevelReport, Report, report
from genrec_fast.tokenizers.rqkmeans import RQKMeans, RQKMeansConfig
from genrec_fast.tokenizers.rqvae import RQVAE, RQVAEConfig
from genrec_fast.tokenizers.two_trees import TwoTrees, TwoTreesConfig

__all__ = [
    "FSQ",
    "OPQ",
    "PQ",
    "RQVAE",
    "AlignmentConfig",
    "Atomic",
    "AtomicConfig",
    "CoOccurrenceConfig",
    "Collaborative",
    "CollaborativeConfig",
    "ContrastiveConfig",
    "DiversityConfig",
    "FSQConfig",
    "Fit",
    "Hierarchical",
    "HierarchicalConfig",
    "KMeans",
    "LevelReport",
    "OPQConfig",
    "PQConfig",
    "Progress",
    "Published",
    "PublishedConfig",
    "RQKMeans",
    "RQKMeansConfig",
    "RQVAEConfig",
    "Random",
    "RandomConfig",
    "Report",
    "Resolution",
    "Resolved",
    "TagSupervisionConfig",
    "Tokenizer",
    "TwoTrees",
    "TwoTreesConfig",
    "UniquenessConfig",
    "add_dedup_level",
    "balanced_assignment",
    "collaborative_vectors",
    "encode_file",
    "from_faiss",
    "from_text",
    "kmeans",
    "kmeans_step_file",
    "load",
    "pack_codes",
    "read_index_json",
    "reassign",
    "report",
    "resolve",
    "spectral_vectors",
    "to_faiss",
    "to_text",
    "unpack_codes",
    "write_index_json",
]

register_configs(globals())
