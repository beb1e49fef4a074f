from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys

import pytest

import genrec_fast
from genrec_fast import env
from genrec_fast.base import card


def run_env(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "genrec_fast.env", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **variables},
    )


def test_report_names_versions_isa_kernels_and_that_no_gpu_was_tried():
    done = run_env()
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^  genrec-fast +{re.escape(genrec_fast.__version__)}$", done.stdout, re.MULTILINE)
    assert re.search(rf"^  instruction set +{env.collect().isa}$", done.stdout, re.MULTILINE)
    assert re.search(r"^  trie_lookup +cpu: compiled · cuda: CuPy, has never run on a card$", done.stdout, re.MULTILINE)
    assert "Traceback" not in done.stderr


def test_json_is_the_collected_environment():
    done = run_env("--json", GENREC_FAST_ISA="base")
    report = json.loads(done.stdout)
    assert report["isa"] == "base"
    assert report["usable_isas"] == env.collect().usable_isas
    assert report["versions"]["torch"] == importlib.metadata.version("torch")
    assert set(report["kernels"]) >= {"trie_build", "trie_lookup", "trie_step"}
    assert report["kernels"]["trie_lookup"] == {"cpu": "compiled", "cuda": "CuPy, has never run on a card"}
    assert report["kernels"]["fingerprint"]["cuda"] == "torch twin"


def test_what_ran_on_a_card_is_said(tmp_path, monkeypatch):
    (tmp_path / "ran.txt").write_text("trie_lookup: NVIDIA H100, 2026-12-01, abc1234\n")
    monkeypatch.setattr(card, "sources", lambda: tmp_path)
    kernels = env.collect().kernels
    assert kernels["trie_lookup"]["cuda"] == "CuPy, ran on NVIDIA H100, 2026-12-01, abc1234"
    assert kernels["rq_decode"]["cuda"] == "CuPy, has never run on a card"


def test_every_op_has_a_compiled_kernel():
    others = {op: where["cpu"] for op, where in env.collect().kernels.items() if where["cpu"] != "compiled"}
    # for searches on a card
    assert others == dict.fromkeys(("beam_attention", "residual_norm", "rotary"), "torch")
    assert set(env.collect().kernels) >= {"fingerprint", "jagged_pad", "jagged_join", "segment_sum", "jagged_products"}


def test_an_op_whose_kernel_is_missing_runs_its_twin(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(env, "_compiled_module", lambda: (None, [], ["trie_build_sort", "segment_sum"], "old build"))
    kernels = env.collect().kernels
    assert kernels["trie_build"]["cpu"] == kernels["segment_sum"]["cpu"] == "compiled"
    assert kernels["jagged_products"]["cpu"] == kernels["gemm"]["cpu"] == "torch twin"


def test_an_unknown_isa_is_reported_and_fails():
    done = run_env(GENREC_FAST_ISA="sse9")
    assert done.returncode == 1
    assert "GENREC_FAST_ISA: must name an instruction set of this CPU and build (base" in done.stdout
    assert done.stdout.rstrip().count("got sse9") == 1


def test_every_extra_of_the_package_is_listed():
    try:
        metadata = importlib.metadata.metadata("genrec-fast")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("genrec-fast is on the path but not installed: its metadata is not there to compare with")
    offered = set(metadata.get_all("Provides-Extra") or [])
    assert set(env.EXTRAS) == offered - {
        "all",
        "test",
        "dev",
        "tables",
    }  # the last brings nothing since polars is required


def test_a_missing_extra_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(env, "EXTRAS", {"magic": (("no-such-distribution",), "wonders")})
    assert env.collect().extras == {"magic": "missing: wonders"}
