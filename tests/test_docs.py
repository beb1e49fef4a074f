"""The docs are executed: snippets, examples, links, and the commands that they name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("csrc/*.md")])
EXAMPLES = sorted(ROOT.glob("examples/*.py"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# <!-- not run: REASON --> on the line before a fence: the snippet needs what a test machine does not have.
NOT_RUN = re.compile(r"<!-- not run: \S.*-->\s*$")


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language; a snippet that is not run is left out."""
    text = page.read_text(encoding="utf-8")
    return [m[2] for m in FENCE.finditer(text) if m[1] == language and not NOT_RUN.search(text[: m.start()])]


def execute(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs Python as a user would, in an empty folder, with what the tests set (strict, one thread)."""
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    variables = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "100",
        "PYTHONPATH": os.pathsep.join(str(Path(path).resolve()) for path in paths),
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(
    "page", [p for p in PAGES if blocks(p, "python")], ids=lambda page: str(page.relative_to(ROOT))
)
def test_python_snippets_run(page: Path, tmp_path: Path):
    """The snippets of one page share their names, as a reader who types them one after the other would have it."""
    script = tmp_path / "snippets.py"
    script.write_text("\n".join(blocks(page, "python")), encoding="utf-8")
    done = execute([script.name], tmp_path)
    assert done.returncode == 0, f"{page.name}:\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_examples_run(example: Path, tmp_path: Path):
    done = execute([str(example)], tmp_path)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.strip(), "an example prints what it found"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_of_the_tree(page: Path):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    targets = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [target for target in targets if target and not (page.parent / target).exists()]
    assert missing == []


def test_make_targets_that_the_docs_name_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = {m for page in PAGES for block in blocks(page, "bash") for m in re.findall(r"^make (\w+)", block, re.M)}
    assert named
    assert named <= targets


def test_commands_that_the_docs_name_exist(tmp_path: Path):
    named = {
        command
        for page in PAGES
        for block in blocks(page, "bash")
        for command in re.findall(r"^(?:\S*/)?genrec-fast (\w+)", block, re.MULTILINE)
    }
    done = execute(["-m", "genrec_fast.cli", "--help"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert named
    assert {command for command in named if command not in done.stdout} == set()
