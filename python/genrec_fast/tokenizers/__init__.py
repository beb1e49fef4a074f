"""Tokenizers: how every item of a catalog gets its semantic ID."""

from genrec_fast.tokenizers.atomic import Atomic, AtomicConfig
from genrec_fast.tokenizers.balance import balanced_assignment
from genrec_fast.tokenizers.base import Progress, Tokenizer, load
from genrec_fast.tokenizers.collaborative import Collaborative, CollaborativeConfig, spectral_vectors
from genrec_fast.tokenizers.collaborative_vectors import collaborative_vectors
from genrec_fast.tokenizers.collisions import resolve
from genrec_fast.tokenizers.dedup import add_dedup_level
from genrec_fast.tokenizers.faiss_format import from_faiss, pack_codes, to_faiss, unpack_codes
from genrec_fast.tokenizers.fsq import FSQ, FSQConfig
from genrec_fast.tokenizers.hierarchical import Hierarchical, HierarchicalConfig
from genrec_fast.tokenizers.index_json import read_index_json, write_index_json
from genrec_fast.tokenizers.kmeans import KMeans, kmeans
from genrec_fast.tokenizers.pq import OPQ, PQ, OPQConfig, PQConfig
from genrec_fast.tokenizers.published import Published, PublishedConfig
from genrec_fast.tokenizers.random import Random, RandomConfig
from genrec_fast.tokenizers.reassign import reassign
from genrec_fast.tokenizers.regularisers import (
    AlignmentConfig,
    ContrastiveConfig,
    CoOccurrenceConfig,
    DiversityConfig,
    TagSupervisionConfig,
)
from genrec_fast.tokenizers.report import LevelReport, Report, report
from genrec_fast.tokenizers.resolution import Resolution, Resolved
from genrec_fast.tokenizers.rqkmeans import RQKMeans, RQKMeansConfig
from genrec_fast.tokenizers.rqvae import RQVAE, RQVAEConfig
from genrec_fast.tokenizers.stream import encode_file, kmeans_step_file
from genrec_fast.tokenizers.text import from_text, to_text

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
