"""Small files of every published set that ``data.load`` knows, written as their publishers write them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

NUM_USERS, NUM_ITEMS = 20, 12


def events(seed: int = 0) -> list[tuple[int, int, int, int]]:
    """User, item, stars and seconds since 1970: eight events of every user, in no order."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(NUM_USERS):
        items = rng.choice(NUM_ITEMS, 8, replace=False).tolist()
        rows += [
            (user, item, 1 + (user + item) % 5, 1_400_000_000 + 100_000 * place) for place, item in enumerate(items)
        ]
    return [rows[at] for at in rng.permutation(len(rows)).tolist()]


def _write(path: Path, lines: list[str], encoding: str = "utf-8") -> None:
    text = ("\n".join(lines) + "\n").encode(encoding)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def _date(seconds: int) -> str:
    return str(np.datetime64(seconds, "s")).replace("T", " ")


def ml_100k(folder: Path) -> None:
    _write(folder / "u.data", [f"{u + 1}\t{i + 1}\t{r}\t{t}" for u, i, r, t in events()])
    flags = "|".join("01"[k == 5] for k in range(19))
    films = [f"{i + 1}|Amélie {i} (2001)|01-Jan-2001||http://x/{i}|{flags}" for i in range(NUM_ITEMS)]
    _write(folder / "u.item", films, "latin-1")
    _write(folder / "u.user", ["1|24|M|technician|85711"])


def ml_1m(folder: Path) -> None:
    _write(folder / "ratings.dat", [f"{u + 1}::{i + 1}::{r}::{t}" for u, i, r, t in events()])
    _write(folder / "movies.dat", [f"{i + 1}::Amélie {i} (2001)::Comedy|Drama" for i in range(NUM_ITEMS)], "latin-1")
    _write(folder / "users.dat", ["1::F::1::10::48067"])


def ml_10m(folder: Path) -> None:
    _write(folder / "ratings.dat", [f"{u + 1}::{i + 1}::{r - 0.5}::{t}" for u, i, r, t in events()])
    _write(folder / "movies.dat", [f"{i + 1}::Amélie {i} (2001)::Comedy|Drama" for i in range(NUM_ITEMS)])
    _write(folder / "tags.dat", ["1::1::nice::1215184630"])


def ml_20m(folder: Path) -> None:
    rows = [f"{u + 1},{i + 1},{r}.0,{t}" for u, i, r, t in events()]
    _write(folder / "ratings.csv", ["userId,movieId,rating,timestamp", *rows])
    films = [f'{i + 1},"Amélie, {i} (2001)",Comedy|Drama' for i in range(NUM_ITEMS)]
    _write(folder / "movies.csv", ["movieId,title,genres", *films])
    _write(folder / "tags.csv", ["userId,movieId,tag,timestamp", "1,1,nice,1215184630"])
    _write(folder / "links.csv", ["movieId,imdbId,tmdbId", "1,0114709,862"])


def amazon_2014(folder: Path) -> None:
    rows = [
        {
            "reviewerID": f"A{u:04d}",
            "asin": f"B{i:06d}",
            "reviewerName": 'Zoë "Z"',
            "helpful": [0, 1],
            "reviewText": "Nice,\nvery.",
            "overall": float(r),
            "summary": "ok",
            "unixReviewTime": t,
            "reviewTime": "01 1, 2014",
        }
        for u, i, r, t in events()
    ]
    _write(folder / "reviews_Beauty_5.json.gz", [json.dumps(row) for row in rows])
    more = range(NUM_ITEMS + 5)  # metadata tells of products that nobody reviewed
    items = [
        {"asin": f"B{i:06d}", "title": f"Amélie {i}", "brand": "O'B", "categories": [["Beauty", "Hair"]]} for i in more
    ]
    _write(folder / "meta_Beauty.json.gz", [repr(item) for item in items])  # Python, not JSON


def amazon_2014_ratings(folder: Path) -> None:
    _write(folder / "ratings_Beauty.csv", [f"A{u:04d},B{i:06d},{r}.0,{t}" for u, i, r, t in events()])


def amazon_2023(folder: Path) -> None:
    rows = [
        {
            "rating": float(r),
            "title": "Of the review",
            "text": "Nice",
            "images": [],
            "asin": f"V{i:06d}",
            "parent_asin": f"B{i:06d}",
            "user_id": f"A{u:04d}",
            "timestamp": t * 1000 + 123,
            "helpful_vote": 0,
            "verified_purchase": True,
        }
        for u, i, r, t in events()
    ]
    _write(folder / "All_Beauty.jsonl.gz", [json.dumps(row) for row in rows])
    items = [
        {
            "main_category": "All Beauty",
            "title": f"Amélie {i}",
            "parent_asin": f"B{i:06d}",
            "price": None,
            "categories": [],
        }
        for i in range(NUM_ITEMS)
    ]
    _write(folder / "meta_All_Beauty.jsonl.gz", [json.dumps(item) for item in items])


def yelp(folder: Path) -> None:
    rows = [
        {
            "review_id": f"r{k}",
            "user_id": f"u{u}",
            "business_id": f"b{i}",
            "stars": float(r),
            "date": _date(t),
            "text": "",
        }
        for k, (u, i, r, t) in enumerate(events())
    ]
    _write(folder / "yelp_academic_dataset_review.json", [json.dumps(row) for row in rows])
    items = [
        {"business_id": f"b{i}", "name": f"Amélie {i}", "city": "Nice", "categories": "Bars, Food", "hours": None}
        for i in range(NUM_ITEMS)
    ]
    _write(folder / "yelp_academic_dataset_business.json", [json.dumps(item) for item in items])
    tip = {"user_id": "u1", "business_id": "b1", "text": "", "date": _date(0), "compliment_count": 0}
    _write(folder / "yelp_academic_dataset_tip.json", [json.dumps(tip)])


def steam(folder: Path) -> None:
    rows = [
        f"{{u'username': u'Zoë {u}', u'hours': 0.{r}, u'product_id': u'{i}', u'date': u'{_date(t)[:10]}', "
        f"u'text': u'It\\'s \"fine\"', u'early_access': False}}"
        for u, i, r, t in events()
    ]
    _write(folder / "steam_reviews.json.gz", rows)
    games = [
        f"{{u'publisher': u'X', u'genres': [u'Action', u'Indie'], u'app_name': u'Amélie {i}', u'id': u'{i}'}}"
        for i in range(NUM_ITEMS)
    ]
    _write(folder / "steam_games.json.gz", [*games, "{u'publisher': u'no id', u'app_name': u'?'}"])


def steam_owned(folder: Path) -> None:
    owned: dict[int, list[dict[str, object]]] = {}
    for u, i, r, _ in events():
        owned.setdefault(u, []).append({"item_id": str(i), "item_name": f"Amélie {i}", "playtime_forever": r})
    rows = [{"user_id": f"u{u}", "items_count": len(items), "items": items} for u, items in owned.items()]
    _write(folder / "australian_users_items.json.gz", [repr(row) for row in [*rows, {"user_id": "none", "items": []}]])


def kuairec(folder: Path) -> None:
    header = "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio"
    rows = [f"{u},{i},13838,10867,{_date(t)}.438,20200705,{t}.438,{r / 4}" for u, i, r, t in events()]
    _write(folder / "data" / "big_matrix.csv", [header, *rows])
    _write(folder / "data" / "small_matrix.csv", [header, *rows[:50], "3,4,5,6,,,,0.5"])
    captions = [f'{i},UNKNOWN,"Amélie ""{i}"",\nok","[""a""]",8,颜值,-1,,-1,' for i in range(NUM_ITEMS)]
    names = "video_id,manual_cover_text,caption,topic_tag,first_level_category_id,first_level_category_name,"
    names += "second_level_category_id,second_level_category_name,third_level_category_id,third_level_category_name"
    _write(folder / "data" / "kuairec_caption_category.csv", [names, *captions])
    _write(folder / "data" / "social_network.csv", ["user_id,friend_list", '3371,"[2975]"'])


def kuairand(folder: Path) -> None:
    header = "user_id,video_id,date,hourmin,time_ms,is_click,is_like,play_time_ms,duration_ms,tab"
    rows = [f"{u},{i},20220408,1000,{t * 1000},{int(r > 2)},0,1,2,1" for u, i, r, t in events()]
    _write(folder / "data" / "log_standard_4_08_to_4_21_pure.csv", [header, *rows[:80]])
    _write(folder / "data" / "log_standard_4_22_to_5_08_pure.csv", [header, *rows[80:]])
    _write(folder / "data" / "log_random_4_22_to_5_08_pure.csv", [header, *rows[:9]])
    videos = [f"{i},2,NORMAL,2022-04-08,LongImport,1,720,1280,12,{i % 3}" for i in range(NUM_ITEMS)]
    names = "video_id,author_id,video_type,upload_dt,upload_type,visible_status,server_width,server_height,music_id,tag"
    _write(folder / "data" / "video_features_basic_pure.csv", [names, *videos])


SETS: dict[str, Callable[[Path], None]] = {
    "ml-100k": ml_100k,
    "ml-1m": ml_1m,
    "ml-10m": ml_10m,
    "ml-20m": ml_20m,
    "amazon-2014": amazon_2014,
    "amazon-2014-ratings": amazon_2014_ratings,
    "amazon-2023": amazon_2023,
    "yelp": yelp,
    "steam": steam,
    "steam-owned": steam_owned,
    "kuairec": kuairec,
    "kuairand": kuairand,
}
