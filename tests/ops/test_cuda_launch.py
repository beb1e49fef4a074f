"""What a card is told, as far as no card is needed."""

from __future__ import annotations

import pytest

from emulator.build import entries
from genrec_fast.base.errors import UnsupportedError
from genrec_fast.ops import _cuda, _nvrtc


class Driver:
    """Keeps the limit of every kernel as the driver would: the last one that was set."""

    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8

    def __init__(self):
        self.limits = {}

    def funcSetAttribute(self, function, attribute, value):
        assert attribute == 8
        self.limits[function] = value


def test_a_small_block_takes_no_shared_memory_from_a_large_one(monkeypatch):
    monkeypatch.setattr(_cuda, "_most_shared", {})
    driver = Driver()
    for shared in (65_024, 52_224, 0, 65_024, 76_288):  # of one kernel, with and without tables
        _cuda._allow(driver, 1, shared)
        assert driver.limits[1] >= shared
    _cuda._allow(driver, 2, 48 << 10)  # what every kernel may have
    assert driver.limits == {1: 76_288}


def test_an_unknown_card_gets_ptx_that_its_driver_finishes():
    known = (75, 80, 86, 89, 90, 100)
    assert _nvrtc._target(known, (9, 0)) == "sm_90"
    assert _nvrtc._target(known, (8, 7)) == "compute_86"
    assert _nvrtc._target(known, (12, 0)) == "compute_100"


def sources_with_kernels():
    return sorted(path.stem for path in _cuda.sources().glob("*.cuh") if entries(path.read_text()))


@pytest.mark.parametrize("source", sources_with_kernels())
def test_nvrtc_takes_every_source_and_flushes_nothing_to_zero(source):
    pytest.importorskip("cupy")
    for target in ("compute_80", "compute_90"):
        text = _nvrtc.compiled(source, target).decode()
        assert all(f".entry {name}(" in text for name in entries((_cuda.sources() / f"{source}.cuh").read_text()))
        assert ".ftz" not in text


def test_what_is_compiled_is_kept_until_a_source_changes(tmp_path, monkeypatch):
    pytest.importorskip("cupy")
    monkeypatch.setenv("GENREC_FAST_CACHE", str(tmp_path / "kernels"))
    made = _nvrtc.image("trie_lookup", (9, 0))
    assert made[:4] == b"\x7fELF"
    monkeypatch.setattr(_nvrtc, "compiled", lambda *_: pytest.fail("compiled again"))
    assert _nvrtc.image("trie_lookup", (9, 0)) == made
    folder = tmp_path / "sources"
    folder.mkdir()
    for path in _cuda.sources().glob("*.cuh"):
        (folder / path.name).write_text(path.read_text() + ("// new" if path.name == "trie.cuh" else ""))
    monkeypatch.setattr(_nvrtc, "sources", lambda: folder)
    monkeypatch.setattr(_nvrtc, "compiled", lambda *_: b"anew")
    assert _nvrtc.image("trie_lookup", (9, 0)) == b"anew"


def test_what_nvrtc_refuses_is_said(tmp_path, monkeypatch):
    pytest.importorskip("cupy")
    (tmp_path / "wrong.cuh").write_text("no kernel")
    monkeypatch.setattr(_nvrtc, "sources", lambda: tmp_path)
    with pytest.raises(UnsupportedError, match=r"wrong: NVRTC refuses the kernels for sm_90: (.|\n)*error"):
        _nvrtc.compiled("wrong", "sm_90")
