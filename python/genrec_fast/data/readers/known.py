"""Published sets of tables: what their files are called, and what their columns mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from genrec_fast.base.errors import InvalidValueError

_ENDINGS = (".csv", ".tsv", ".parquet", ".jsonl", ".json", ".ndjson", ".dat", ".data")


def plain_name(path: Path) -> str:
    """The name of a file, whether gzip has packed it or not."""
    return path.name.removesuffix(".gz")


def is_table(path: Path) -> bool:
    """Whether a file's name is one of a table."""
    return plain_name(path).lower().endswith(_ENDINGS)


@dataclass(frozen=True)
class Layout:
    """What the columns of one kind of events are called."""

    user: str
    item: str
    timestamp: str
    rating: str
    title: str | None = None
    """of the item, in the file of events itself"""
    skips_untimed: bool = False
    """whether published files of this kind have events without a time"""

    def check(self) -> None:
        """Raises InvalidValueError where one column stands for two."""
        names = (self.user, self.item, self.timestamp, self.rating)
        if len(set(names)) < len(names):
            raise InvalidValueError(
                f"data.load: user, item, timestamp and rating must be different columns, got {', '.join(names)}"
            )


LAYOUTS = (
    Layout("user", "item", "timestamp", "rating"),
    Layout("user_id", "item_id", "timestamp", "rating", "item_name"),  # the last: Steam's lists of owned games
    Layout("userId", "movieId", "timestamp", "rating"),  # MovieLens
    Layout("reviewerID", "asin", "unixReviewTime", "overall"),  # Amazon reviews, 2014 and 2018
    Layout("user_id", "parent_asin", "timestamp", "rating"),  # Amazon reviews, 2023
    Layout("user_id", "asin", "timestamp", "rating"),
    Layout("user_id", "business_id", "date", "stars"),  # Yelp
    Layout("username", "product_id", "date", "rating"),  # Steam's reviews
    Layout("user_id", "video_id", "time_ms", "is_click"),  # KuaiRand
    Layout("user_id", "video_id", "timestamp", "watch_ratio", skips_untimed=True),  # KuaiRec
)
"""In the order they are tried; what has no such column has none."""

EVENTS = (
    "interactions.parquet", "interactions.csv", "interactions.*", "ratings.csv", "ratings.dat", "u.data",
    "big_matrix.csv", "small_matrix.csv", "log_standard_*.csv", "yelp_academic_dataset_review.json",
    "steam_reviews.json", "steam_new.json", "australian_users_items.json",
)  # fmt: skip
"""Names of files of events, the first that is there; several of one pattern are one table."""

HEADERS: dict[str, tuple[str, ...]] = {
    "ratings.dat": ("user", "item", "rating", "timestamp"),
    "u.data": ("user", "item", "rating", "timestamp"),
    "u*.base": ("user", "item", "rating", "timestamp"),
    "ratings_*.csv": ("user", "item", "rating", "timestamp"),  # Amazon 2014, ratings alone
    "movies.dat": ("movieId", "title", "genres"),
    "u.item": (
        "movieId", "title", "", "", "", "genre:unknown", "genre:Action", "genre:Adventure", "genre:Animation",
        "genre:Children's", "genre:Comedy", "genre:Crime", "genre:Documentary", "genre:Drama", "genre:Fantasy",
        "genre:Film-Noir", "genre:Horror", "genre:Musical", "genre:Mystery", "genre:Romance", "genre:Sci-Fi",
        "genre:Thriller", "genre:War", "genre:Western",
    ),
}  # fmt: skip
"""Columns of files that have no header, by name."""


@dataclass(frozen=True)
class Description:
    """What is published about the items: which file, and what its columns mean."""

    files: str
    item: tuple[str, ...]
    """the first that it has"""
    title: tuple[str, ...]
    attributes: tuple[str, ...]
    """in this order; a column genre:NAME holds 1 where the item is of that genre"""
    categories: tuple[str, ...] = ()
    """from the general to the special; empty: those of the attributes that are called so"""


DESCRIPTIONS = (
    Description("movies.csv", ("movieId",), ("title",), ("genres",)),
    Description("movies.dat", ("movieId",), ("title",), ("genres",)),
    Description("u.item", ("movieId",), ("title",), tuple(name for name in HEADERS["u.item"] if ":" in name)),
    Description(
        "meta_*.json*",
        ("parent_asin", "asin"),
        ("title",),
        ("brand", "store", "main_category", "main_cat", "categories", "category"),
    ),
    Description("yelp_academic_dataset_business.json", ("business_id",), ("name",), ("categories", "city")),
    Description("steam_games.json", ("id",), ("title", "app_name"), ("developer", "publisher", "genres", "tags")),
    Description(
        "kuairec_caption_category.csv",
        ("video_id",),
        ("caption",),
        ("topic_tag", "first_level_category_name", "second_level_category_name", "third_level_category_name"),
    ),
    Description("item_categories.csv", ("video_id",), (), (), ("feat",)),  # KuaiRec, where it came without captions
    Description("video_features_basic_*.csv", ("video_id",), (), ("video_type", "tag"), ("tag",)),
)


def fitting(paths: Sequence[Path], pattern: str) -> list[Path]:
    """The files whose names fit, packed or not."""
    return [path for path in paths if fnmatch(plain_name(path), pattern)]
