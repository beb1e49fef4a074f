"""Interactions of users with items: reading, splitting, batching; and a shop whose truth is known."""

from __future__ import annotations

from genrec_fast.data.batching import evaluation_batches, num_training_batches, training_batches
from genrec_fast.data.download import SOURCES, Source, fetch, fetch_file
from genrec_fast.data.feature_file import FeatureFile
from genrec_fast.data.features import encode_texts, read_features, save_features
from genrec_fast.data.interactions import Dataset, Evaluation, Interactions, Splits
from genrec_fast.data.item_texts import ItemTexts, read_categories, read_item_texts
from genrec_fast.data.readers import load
from genrec_fast.data.splits import history_window, k_core, leave_one_out, time_split, truncate
from genrec_fast.data.synthetic import Shop

__all__ = [
    "SOURCES",
    "Dataset",
    "Evaluation",
    "FeatureFile",
    "Interactions",
    "ItemTexts",
    "Shop",
    "Source",
    "Splits",
    "encode_texts",
    "evaluation_batches",
    "fetch",
    "fetch_file",
    "history_window",
    "k_core",
    "leave_one_out",
    "load",
    "num_training_batches",
    "read_categories",
    "read_features",
    "read_item_texts",
    "save_features",
    "time_split",
    "training_batches",
    "truncate",
]
