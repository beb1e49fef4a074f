from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_fast.base.batch import Batch, Question, Ranked, Tokens, proven
from genrec_fast.base.columns import Columns, column
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged, spans, successors
from genrec_fast.base.query import Options, Query, ask
from genrec_fast.serving.http_body import PLAIN

SHOP = SimpleNamespace(num_items=9, num_inputs=9, reads_tokens=False, may_be_empty=False)
ROWS = st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=5)


def batch_of(rows: list[list[int]]) -> Batch:
    """A batch whose every column can be told from the others."""
    items = Jagged.from_rows(rows)
    events = torch.arange(items.values.numel())
    targets = torch.where(events % 3 == 1, -1, items.values)
    asked = targets >= 0
    candidates = Jagged.from_rows([[i, i + 1][: i % 3] for i in range(len(rows))])
    return Batch(
        items,
        targets,
        users=torch.arange(len(rows)) * 7,
        timestamps=events * 10,
        actions=torch.stack([events % 2 == 0, events % 5 == 0], 1),
        candidates=candidates,
        candidate_features=torch.arange(candidates.values.numel()).float()[:, None],
        target_codes=events[asked][:, None],
        valid_codes=(events[asked][:, None] > 2, events[asked][:, None] > 4),
    )


def told(batch: Batch) -> list[object]:
    """Each user of a batch in plain Python."""
    columns = {"items": batch.items, "timestamps": None, "actions": None, "targets": None}
    out = []
    asked = batch.targets >= 0
    number = asked.cumsum(0) - 1
    for user in range(len(batch)):
        at = range(int(batch.items.offsets[user]), int(batch.items.offsets[user + 1]))
        mine = [int(number[i]) for i in at if asked[i]]
        cat = range(int(batch.candidates.offsets[user]), int(batch.candidates.offsets[user + 1]))
        out.append(
            (
                int(batch.users[user]),
                *([getattr(batch, n)[i].tolist() for i in at] for n in columns if n != "items"),
                [batch.items.values[i].item() for i in at],
                [batch.target_codes[i].tolist() for i in mine],
                [[part[i].tolist() for part in batch.valid_codes] for i in mine],
                [(batch.candidates.values[i].item(), batch.candidate_features[i].tolist()) for i in cat],
            )
        )
    return out


@given(rows=ROWS, data=st.data())
def test_users_are_selected_joined_and_sliced(rows, data):
    batch = batch_of(rows)
    users = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=6))
    whole, some = told(batch), batch.select(torch.tensor(users))
    assert told(some) == [whole[user] for user in users]
    assert told(Batch.cat([batch, some, batch])) == whole + [whole[user] for user in users] + whole
    begin = data.draw(st.integers(0, len(rows) - 1))
    assert told(batch.slice(begin, begin + 2)) == whole[begin : begin + 2]


@given(rows=ROWS, count=st.integers(1, 4))
def test_the_last_events_are_kept_with_all_that_belongs_to_them(rows, count):
    batch = batch_of(rows)
    cut, place = batch.last(count), batch.items.last_positions(count).values
    assert cut.items.rows()[0].tolist() == rows[0][-count:]
    assert torch.equal(cut.timestamps, batch.timestamps[place])
    asked = (batch.targets >= 0).nonzero().squeeze(1)
    assert cut.target_codes[:, 0].tolist() == [i for i in asked.tolist() if i in place.tolist()]
    assert torch.equal(cut.candidates.values, batch.candidates.values)


def test_what_a_layout_made_is_left_out_of_a_selection():
    empty = torch.zeros(0, dtype=torch.int64)
    tokens = Tokens(torch.tensor([0, 0, 0]), empty, empty, empty, empty, torch.tensor([0, 0]))
    batch = Batch(Jagged.from_rows([[], []]), tokens=tokens)
    assert batch.select(torch.tensor([1])).tokens is None
    assert batch.to("cpu").tokens is not None


def test_a_filter_for_everybody_stays_and_one_per_user_is_selected():
    both, each = torch.tensor([True, False]), torch.tensor([[True, False], [False, True]])
    assert Query(allowed=both).select(torch.tensor([1])).allowed is both
    assert Query(allowed=each).select(torch.tensor([1])).allowed.tolist() == [[False, True]]
    assert Query.cat([Query(allowed=both)] * 2).allowed is both
    assert Query.cat([Query(allowed=both), Query(allowed=~both)]).allowed.tolist() == each.tolist()
    assert Query(num_beams=torch.tensor([3, 5])).select(torch.tensor([1])).num_beams.tolist() == [5]


def test_a_ranking_cut_short_has_its_own_certificate():
    items = torch.tensor([[4, 2, 7]])
    found = Ranked(items, items[..., None].int(), torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([False]), torch.ones(1))
    assert found.first(2).items.tolist() == [[4, 2]]
    assert found.first(2).exact.tolist() == [True]
    assert proven(found.scores, found.bound).tolist() == [False]  # a tie proves nothing
    assert Ranked.cat([found, found]).items.shape == (2, 3)


def test_every_column_declares_a_known_axis():
    kinds = {"user", "event", "candidate", "target", "filter", "made", "shared"}
    for kind in (Batch, Query, Ranked):
        assert {field.metadata["axis"] for field in dataclasses.fields(kind)} <= kinds


@given(rows=ROWS, other=ROWS)
def test_rows(rows, other):
    jagged = Jagged.from_rows(rows)
    assert jagged.last(2).rows()[-1].tolist() == rows[-1][-2:]
    assert [row.tolist() for row in jagged.slice(1, len(rows)).rows()] == rows[1:]
    size = min(len(rows), len(other))
    left, right = jagged.slice(0, size), Jagged.from_rows(other).slice(0, size)
    both = [a + b for a, b in zip(rows, other, strict=False)]
    assert [row.tolist() for row in left.followed_by(right).rows()] == both
    ends = torch.arange(len(rows)) + 100
    after = [[*row[1:], 100 + i] if row else [] for i, row in enumerate(rows)]
    assert successors(jagged.values, ends, jagged.offsets).tolist() == [x for row in after for x in row]
    assert [row.tolist() for row in spans(torch.tensor([3, 7]), torch.tensor([2, 0])).rows()] == [[3, 4], []]


# ---- the door


def test_every_option_can_be_asked_over_http():
    assert set(PLAIN) | {"num_beams", "allowed", "candidates", "exclude", "actions"} == set(Options.__annotations__)


def test_options_are_checked_at_the_door():
    with pytest.raises(InvalidTypeError, match=r"recommend: options are num_beams, .*, got beams"):
        ask(SHOP, [[1]], 3, {"beams": 4})
    with pytest.raises(InvalidValueError, match=r"num_beams must be int64 \[1\], each at least 1"):
        ask(SHOP, [[1]], 3, {"num_beams": torch.tensor([1, 2])})
    question, query = ask(
        SHOP, [[1, 2]], 3, {"num_beams": [4, 5], "exclude": Jagged.from_rows([[3]]), "exclude_seen": True}
    )
    assert query.num_beams == (4, 5)
    assert query.exclude.values.tolist() == [3, 1, 2]
    assert question.users.tolist() == [0]


def test_a_column_of_ones_own():
    @dataclasses.dataclass(frozen=True)
    class Weighted(Columns):
        items: Jagged = dataclasses.field(metadata={"axis": "user"})
        weights: torch.Tensor = column("event")

    one = Weighted(Jagged.from_rows([[1, 2], [3]]), weights=torch.tensor([0.5, 1.5, 2.5]))
    assert one.select(torch.tensor([1, 0])).weights.tolist() == [2.5, 0.5, 1.5]


@dataclasses.dataclass(frozen=True)
class Weighed(Batch):
    weights: torch.Tensor | None = column("target")


def test_a_kind_with_columns_of_its_own():
    """It has the columns of the other kind, the very tensors, and its own go where their axis goes."""
    batch = batch_of([[1, 2, 3], [4], [5, 6]])
    asked = batch.target_codes.shape[0]
    weighed = Weighed.of(batch, weights=torch.arange(asked))
    for field in dataclasses.fields(batch):
        assert getattr(weighed, field.name) is getattr(batch, field.name)
    chosen = weighed.select(torch.tensor([2, 0]))
    assert type(chosen) is Weighed
    places = [batch.target_codes[:, 0].tolist().index(code) for code in chosen.target_codes[:, 0].tolist()]
    assert chosen.weights.tolist() == places
    question = Question(batch.items, users=batch.users)
    assert Batch.of(question).users is batch.users
