"""A page takes a run's tables, keeps what the run says nothing of, and loses no row without a word."""

from __future__ import annotations

from report import fill

WHERE = {
    "device": "here",
    "isa": "base",
    "threads": 1,
    "versions": {"torch": "2"},
    "commit": "abc",
    "command": "pytest",
}


def page(rows):
    table = "".join(f"| {workload} | all | 9.0 | 9.0 | 1.00 | old |\n" for workload in rows)
    return (
        f"Text.\n<!-- table: bench_a.py::test_a (begin) -->\n{table}<!-- table: bench_a.py::test_a (end) -->\nMore.\n"
    )


def run(*workloads):
    infos = [{"workload": name, "level": "all", "ours_us": 2.0, "rival_us": 5.0, "rival": "new"} for name in workloads]
    found = [{"fullname": f"bench/bench_a.py::test_a[{i['workload']}]", "name": "", "extra_info": i} for i in infos]
    return {"benchmarks": found, "genrec_fast": WHERE, "datetime": "2026-11-28T12:00"}


def test_a_table_is_replaced_with_where_it_was_measured():
    new, refused = fill(page(["s"]), run("s", "l"))
    assert refused == []
    assert "| s | all | 2.0 | 5.0 | 2.50 | new |\n| l | all | 2.0 | 5.0 | 2.50 | new |\n\nhere, base, 1 thread" in new
    assert "old" not in new
    assert (new.startswith("Text.\n"), new.endswith("(end) -->\nMore.\n")) == (True, True)
    assert fill(new, run("s", "l")) == (new, [])


def test_a_table_whose_rows_the_run_lacks_stays():
    before = page(["s", "l"])
    assert fill(before, run("s")) == (before, ["bench_a.py::test_a: the run lacks l all"])


def test_a_table_that_was_not_measured_stays():
    before = page(["s"])
    assert fill(before, {**run("s"), "benchmarks": []}) == (before, [])
