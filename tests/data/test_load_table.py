"""The bench's table of MovieLens 20M's shape, in miniature."""

from __future__ import annotations

from load_table import measure, write_table


def test_every_user_film_and_event_is_read(tmp_path):
    write_table(tmp_path / "ratings.csv", 50, 30, 2000)
    counts, *_, before, peak = measure(tmp_path / "ratings.csv")
    assert counts == (50, 30, 2000)
    assert 0 < before <= peak < 4
