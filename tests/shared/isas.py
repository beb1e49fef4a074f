"""Every instruction set in turn, for tests that hypothesis calls many times (a fixture is set up once for all)."""

from __future__ import annotations

from collections.abc import Iterator

from genrec_fast.ops._registry import core


def every_isa() -> Iterator[str]:
    """Selects one after the other and returns to the first; conftest returns to it where the test failed."""
    before = core.active_isa()
    for name in core.usable_isas():
        core.select_isa(name)
        yield name
    core.select_isa(before)
