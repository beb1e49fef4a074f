"""Many machines: a worker's part, and a cluster of two nodes that loses one (where Ray is installed)."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from importlib.util import find_spec

import polars as pl
import pytest
from test_bulk import histories

import genrec_fast as gf
from genrec_fast.base.errors import CorruptFileError, InvalidValueError
from genrec_fast.cli import main
from genrec_fast.serving.bulk_run import BulkConfig, identity_of, recommend_file
from genrec_fast.serving.question_file import Table
from genrec_fast.serving.ray import ClusterConfig, _Job, _Worker, recommend_on_cluster
from toy import toy_data

with_ray = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed (genrec-fast[ray])")
CONFIG = BulkConfig(users_per_batch=2, show=False)  # windows, and parts, of 16 rows
ROWS = 3000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    recipe = gf.recipes.sasrec()
    recipe = replace(recipe, backbone=replace(recipe.backbone, width=16), train=gf.TrainConfig(epochs=1))
    gf.train(recipe, toy_data(), show_progress=False).save(folder)
    return folder


@pytest.fixture(scope="module")
def users(tmp_path_factory):
    """Rows, the 20th of which is wrong."""
    path = tmp_path_factory.mktemp("users") / "users.parquet"
    rows = [{"id": number, "history_ids": row} for number, row in enumerate(histories(ROWS))]
    rows[19]["history_ids"] = [1, 30]
    pl.DataFrame(rows).write_parquet(path)
    return path


@pytest.fixture(scope="module")
def alone(folder, users):
    """What one machine says."""
    path = users.with_name("alone.parquet")
    recommend_file(gf.load(folder), str(users), str(path), {"k": 3}, CONFIG)
    return pl.read_parquet(path)


@pytest.fixture
def job(folder, users, tmp_path):
    return _Job(
        model=folder,
        questions=users,
        parts=tmp_path,
        identity=identity_of(gf.load(folder), {"k": 3}, CONFIG, Table(users).survey().checksum),
        size=users.stat().st_size,
        windows=2,
        defaults={"k": 3},
        config=CONFIG,
        cluster=ClusterConfig(address="none"),
    )


def test_a_part_is_what_one_machine_says(job, alone):
    found = _Worker(job)({"part": [1, 0]})
    assert found["lines"] == [32, 32]
    assert found["failed"] == [0, 1]
    assert found["first_error"][1].startswith("line 20: recommend: history_ids must hold item ids in [0, 30)")
    assert sorted(path.name for path in job.parts.iterdir()) == ["part-000000.parquet", "part-000001.parquet"]
    for number in (0, 1):
        part = pl.read_parquet(job.parts / f"part-00000{number}.parquet")
        assert part.equals(alone.slice(32 * number, 32))
        assert part.schema == alone.schema


def test_a_part_with_a_wrong_row_is_not_written_where_none_may_be(job):
    strict = replace(job, config=replace(CONFIG, strict=True))
    assert _Worker(strict)({"part": [0]})["failed"] == [1]
    assert list(job.parts.iterdir()) == []


def test_a_worker_that_sees_something_else_does_not_work(job):
    for other in (replace(job, size=1), replace(job, identity={**job.identity, "model": "another"})):
        with pytest.raises(CorruptFileError, match=r"every worker must see the model .* as the one that began the run"):
            _Worker(other)


def test_names_that_are_no_tables_are_refused(folder, users, tmp_path, capsys):
    command = ["recommend", str(folder), "--ray", "local", "--input", str(users), "--output", str(tmp_path / "o.jsonl")]
    assert main(command) == 2
    assert "--output must end in .parquet with --ray, got " in capsys.readouterr().err
    assert main([*command[:2], *command[4:], "--ray-workers", "2"]) == 2
    assert "--ray-workers must come with --ray, got it alone" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("ray") is not None, reason="ray is installed")
def test_without_ray_the_extra_is_named(folder, users, tmp_path, capsys):
    out = tmp_path / "out.parquet"
    assert main(["recommend", str(folder), "--ray", "local", "--input", str(users), "--output", str(out)]) == 2
    assert "recommend: Ray Data must be installed for --ray (pip install 'genrec-fast[ray]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def cluster():
    """A function that adds a node of one CPU to a cluster that begins with one."""
    from ray.cluster_utils import Cluster

    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 10}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")  # it would report after the end of the tests
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": quick})
        yield cluster
        cluster.shutdown()


@with_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_node_is_lost_and_no_answer(cluster, folder, users, alone, tmp_path):
    node = cluster.add_node(num_cpus=1)
    out, parts = tmp_path / "out.parquet", tmp_path / "out.parquet.unfinished" / "parts"
    seen = []

    def kill():
        until = time.monotonic() + 600
        while time.monotonic() < until and (not parts.exists() or len(list(parts.glob("part-*"))) < 20):
            time.sleep(0.02)
        seen.append(len(list(parts.glob("part-*"))))
        cluster.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    config = ClusterConfig(address=cluster.address)
    outcome = recommend_on_cluster(folder, str(users), str(out), {"k": 3}, CONFIG, config)
    killer.join()
    assert 20 <= seen[0] < ROWS // 16, "the node was lost in the midst of the run"
    assert (outcome.tally.answered, outcome.tally.failed, outcome.lines) == (ROWS - 1, 1, ROWS)
    assert outcome.tally.first_error.startswith("line 20: recommend: history_ids")
    found = pl.read_parquet(out / "*.parquet")
    assert found["id"].to_list() == list(range(ROWS))
    assert found.equals(alone)
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


@with_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_run_is_gone_on_with_from_its_parts(cluster, folder, users, alone, job, tmp_path):
    out, config = tmp_path / "out.parquet", ClusterConfig(address=cluster.address, workers=1)
    with pytest.raises(InvalidValueError, match=r"^line 20: recommend: history_ids must hold item ids"):
        recommend_on_cluster(folder, str(users), str(out), {"k": 3}, replace(CONFIG, strict=True), config)
    assert list(tmp_path.iterdir()) == []
    folder_of_run = tmp_path / "out.parquet.unfinished"
    parts = folder_of_run / "parts"
    parts.mkdir(parents=True)
    identity = {**job.identity, "form": "a folder of parts"}
    state = {"format": "genrec_fast.recommend", "identity": identity, "state": {"whole": False}}
    (folder_of_run / "state.json").write_text(json.dumps(state))
    _Worker(replace(job, parts=parts, windows=1))({"part": range(100)})
    (parts / ".part-000100.1.ab.tmp.parquet").write_text("half")
    outcome = recommend_on_cluster(folder, str(users), str(out), {"k": 3}, CONFIG, config)
    assert outcome.lines == ROWS - 1600
    assert pl.read_parquet(out / "*.parquet").equals(alone)
    assert not (out / ".part-000100.1.ab.tmp.parquet").exists()
    with pytest.raises(InvalidValueError, match="--output must be a new name with --ray"):
        recommend_on_cluster(folder, str(users), str(out), {"k": 3}, CONFIG, config)
