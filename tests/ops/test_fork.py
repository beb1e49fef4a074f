"""A forked child gets a thread pool of its own; one that waited for the parent's threads would hang."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Only our op runs in the child: torch's OpenMP threads do not survive a fork either, and that is not ours to test.
SCRIPT = """
import os, signal, sys
import torch
from genrec_fast.ops.trie_lookup import trie_lookup
from genrec_fast.catalog.trie import build_trie

generator = torch.Generator().manual_seed(0)
codes = torch.randint(0, 64, (20_000, 3), generator=generator)
trie = build_trie(codes)
torch.set_num_threads(2)
expected = trie_lookup(trie, codes).tolist()  # the parent's pool is running now
children = []
for _ in range(3):
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a hang ends as a signal, not as a lost test run
        os._exit(0 if trie_lookup(trie, codes).tolist() == expected else 3)
    children.append(child)
ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
again = trie_lookup(trie, codes).tolist() == expected
print(ends, again)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_computes_on_several_threads():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=200, check=False, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[0, 0, 0] True", f"{done.stdout}\n{done.stderr}"
