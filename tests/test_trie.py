from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from genrec_fast.base.errors import CorruptFileError, InvalidTypeError, InvalidValueError
from genrec_fast.catalog.trie import Trie, build_trie

FIELDS = [field.name for field in dataclasses.fields(Trie)]


def make_trie(num_items: int = 3000, size: int = 20, num_levels: int = 3, seed: int = 0) -> tuple[Trie, torch.Tensor]:
    codes = torch.randint(0, size, (num_items, num_levels), generator=torch.Generator().manual_seed(seed))
    return build_trie(codes, codebook_sizes=[size] * num_levels), codes


def fields_of(trie: Trie) -> dict[str, object]:
    return {name: getattr(trie, name) for name in FIELDS}


def assert_same(a: Trie, b: Trie) -> None:
    for name in FIELDS:
        x, y = getattr(a, name), getattr(b, name)
        if isinstance(x, torch.Tensor):
            x, y = (x,), (y,)
        for left, right in zip(x, y, strict=True) if isinstance(x, tuple) else [(x, y)]:
            if isinstance(left, torch.Tensor):
                assert left.dtype == right.dtype
                assert left.numpy().tolist() == right.numpy().tolist()
            else:
                assert left == right


def test_a_small_trie_by_hand() -> None:
    trie = build_trie(torch.tensor([[1, 0], [0, 2], [1, 0], [1, 2]]))
    assert (trie.num_levels, trie.num_rows, trie.num_items) == (2, 3, 4)
    assert [trie.num_nodes(level) for level in range(3)] == [1, 2, 3]
    assert trie.codebook_sizes == (2, 3)
    assert [t.tolist() for t in trie.tokens] == [[0, 1], [2, 0, 2]]
    assert trie.leaf_items.tolist() == [1, 0, 2, 3]
    assert trie.item_rows.tolist() == [1, 0, 1, 2]
    assert trie.item_rows is trie.item_rows
    assert repr(trie) == "Trie(num_items=4, num_rows=3, codebook_sizes=(2, 3), device=cpu)"
    with pytest.raises(InvalidValueError, match=r"Trie.num_nodes: level must be at most 2, got 3"):
        trie.num_nodes(3)


@given(st.integers(1, 300), st.sampled_from([1, 3, 40, 70000]), st.integers(1, 4), st.integers(0, 1000))
def test_every_item_is_found_under_its_semantic_id(num_items: int, size: int, num_levels: int, seed: int) -> None:
    trie, codes = make_trie(num_items, min(size, 65536), num_levels, seed)
    rows = trie.lookup(codes)
    assert trie.item_rows.equal(rows)
    by_code: dict[tuple[int, ...], list[int]] = {}
    for item, code in enumerate(codes.tolist()):
        by_code.setdefault(tuple(code), []).append(item)
    found = trie.items(rows)
    assert found.values.dtype == torch.int64
    assert [row.tolist() for row in found.rows()] == [by_code[tuple(code)] for code in codes.tolist()]


def test_many_items_of_one_semantic_id() -> None:
    trie = build_trie(torch.zeros(70_000, 2, dtype=torch.int64))
    assert trie.leaf_deltas.dtype == torch.int32
    assert trie.items(torch.tensor([0])).values.equal(torch.arange(70_000))
    assert trie.stats().collision_rate == pytest.approx(1 - 1 / 70_000)


def test_items_takes_any_shape_and_names_a_bad_row() -> None:
    trie, _ = make_trie()
    assert len(trie.items(torch.zeros(0, dtype=torch.int64))) == 0
    assert len(trie.items(torch.zeros(2, 3, dtype=torch.int32))) == 6
    for bad in (-1, trie.num_rows):
        text = rf"Trie.items: rows must be in \[0, {trie.num_rows}\), got {bad} at 1"
        with pytest.raises(InvalidValueError, match=text):
            trie.items(torch.tensor([0, bad]))
    with pytest.raises(InvalidTypeError, match=r"Trie.items: rows must be int32 or int64, got torch.float32"):
        trie.items(torch.tensor([0.0]))


def test_stats_count_and_print() -> None:
    trie, codes = make_trie()
    stats = trie.stats()
    unique = [len(torch.unique(codes[:, :length], dim=0)) for length in (1, 2, 3)]
    assert (stats.items, stats.rows) == (3000, unique[2])
    assert stats.nodes == (1, unique[0], unique[1])
    assert stats.mean_fan_out == (unique[0], unique[1] / unique[0], unique[2] / unique[1])
    pairs, parent = torch.unique(codes[:, :2], dim=0)[:, 0].unique(return_counts=True)
    assert len(pairs) == unique[0]
    assert stats.max_fan_out[1] == int(parent.max())
    assert stats.collision_rate == 1 - unique[2] / 3000
    tensors = [*trie.tokens, *trie.child_bases, *trie.child_deltas]
    assert stats.search_bytes == sum(t.numel() * t.element_size() for t in tensors)
    assert stats.total_bytes > stats.search_bytes + 4 * 3000
    text = str(stats)
    assert f"rows            {unique[2]:,}\n" in text
    table = text.split("\n\n")[1].splitlines()
    assert len(table) == 4
    assert len({len(line) for line in table}) == 1  # lined up


def test_uniform_catalogs_take_few_bytes() -> None:
    # A level that is filled and one that hardly branches, as in 20M items of 2048 codes (measured by the benchmark).
    codes = torch.randint(0, 64, (1_000_000, 4), generator=torch.Generator().manual_seed(0))
    stats = build_trie(codes.to(torch.uint8)).stats()
    assert stats.search_bytes / stats.items < 9
    assert stats.total_bytes / stats.items < 13


def test_pickle_copy_and_move() -> None:
    trie, codes = make_trie(size=300)
    assert trie.tokens[0].dtype == torch.uint16  # which torch itself cannot pickle
    rows = trie.item_rows
    for other in (pickle.loads(pickle.dumps(trie)), copy.copy(trie), copy.deepcopy(trie), dataclasses.replace(trie)):
        assert_same(trie, other)
        assert "item_rows" not in other.__dict__
        assert other.lookup(codes).equal(rows)
        assert other != trie
    assert trie.to("cpu") is trie
    moved = trie.to("meta")
    assert moved.leaf_items.device.type == "meta"
    assert moved.num_rows == trie.num_rows
    with pytest.raises(dataclasses.FrozenInstanceError):
        trie.num_items = 3  # type: ignore[misc]


def put(tensor: torch.Tensor, at: int, value: int) -> torch.Tensor:
    changed = tensor.clone()
    changed.numpy()[at] = value
    return changed


def test_a_broken_trie_is_refused() -> None:
    trie, _ = make_trie(300, 5, 2)
    t, b, d = trie.tokens, trie.child_bases, trie.child_deltas
    cases: list[tuple[dict[str, object], type[Exception], str]] = [
        ({"codebook_sizes": ()}, InvalidValueError, "codebook_sizes must have 1 to 8 entries, got 0"),
        ({"codebook_sizes": (5, 70000)}, InvalidValueError, "must be in [1, 65536], got 70000 at level 1"),
        ({"codebook_sizes": (5, 4)}, InvalidValueError, "tokens of level 1 must be below the codebook size 4, got 4"),
        ({"codebook_sizes": (5, 300)}, InvalidTypeError, "tokens of level 1 must be torch.uint16, got torch.uint8"),
        ({"tokens": t[:1]}, InvalidValueError, "tokens must have one tensor for each of 2 levels, got 1"),
        ({"tokens": (t[0], [1, 2])}, InvalidTypeError, "tokens.1 must be a tensor, got list"),
        ({"tokens": (t[0], put(t[1], 1, 0))}, InvalidValueError, "tokens of level 1 must ascend within a node, got 0"),
        ({"tokens": (t[0], t[1][:-1])}, InvalidValueError, "leaf_deltas must be [25], got [26]"),
        ({"tokens": (t[0], t[1].repeat(2)[::2])}, InvalidValueError, "tokens of level 1 must be contiguous on the CPU"),
        ({"child_deltas": (d[0], put(d[1], 0, 1))}, InvalidValueError, "child offsets of level 1 must start at 0"),
        ({"child_deltas": (d[0], put(d[1], 2, 200))}, InvalidValueError, "child offsets of level 1 must ascend"),
        ({"child_deltas": (d[0], put(d[1], 5, 200))}, InvalidValueError, "level 1 must end at 25, got 200"),
        ({"child_bases": (b[0], put(b[1], 0, -(2**31)))}, InvalidValueError, "child offsets of level 1 must start at"),
        ({"child_bases": (b[0].long(), b[1])}, InvalidTypeError, "child_bases of level 0 must be torch.int32"),
        ({"leaf_bases": trie.leaf_bases[:1]}, InvalidValueError, "leaf_bases must be [2], got [1]"),
        ({"leaf_deltas": trie.leaf_deltas.short()}, InvalidTypeError, "leaf_deltas must be torch.uint8 or"),
        ({"leaf_items": put(trie.leaf_items, 3, 300)}, InvalidValueError, "leaf_items must be in [0, 300), got 300"),
        ({"leaf_items": put(trie.leaf_items, 3, -1)}, InvalidValueError, "leaf_items must be in [0, 300), got -1 at 3"),
        ({"leaf_items": trie.leaf_items.flip(0)}, InvalidValueError, "leaf_items must ascend within a row"),
        ({"num_items": 0}, InvalidValueError, "num_items must be in [1, 2147483647], got 0"),
        ({"num_items": 299}, InvalidValueError, "leaf_items must be [299], got [300]"),
    ]
    for change, error, text in cases:
        with pytest.raises(error) as raised:
            Trie(**{**fields_of(trie), **change})  # type: ignore[arg-type]
        assert str(raised.value).startswith("Trie: ")
        assert text in str(raised.value)
    items = trie.leaf_items.clone()
    first_of_last_row = int(trie.items(torch.tensor([trie.num_rows - 1])).values[0])
    items[0] = first_of_last_row if first_of_last_row < int(items[1]) else 0
    if not items.equal(trie.leaf_items):
        with pytest.raises(InvalidValueError, match=r"must hold every item once|must ascend within a row"):
            Trie(**{**fields_of(trie), "leaf_items": items})  # type: ignore[arg-type]


def test_an_item_that_stands_in_two_rows_is_refused() -> None:
    trie = build_trie([[0], [1]])
    with pytest.raises(InvalidValueError, match="Trie: leaf_items must hold every item once, got 0 again at 1"):
        Trie(**{**fields_of(trie), "leaf_items": torch.tensor([0, 0], dtype=torch.int32)})  # type: ignore[arg-type]


@settings(max_examples=300)
@given(st.data())
def test_random_damage_is_refused_or_harmless(data: st.DataObject) -> None:
    trie, codes = make_trie(60, 4, 3, seed=1)
    tensors = [list(trie.tokens), list(trie.child_bases), list(trie.child_deltas)]
    leaves = [trie.leaf_bases, trie.leaf_deltas, trie.leaf_items]
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from([*((f, v) for f in range(3) for v in range(3)), (3, 0), (3, 1), (3, 2)]))
        old = leaves[place[1]] if place[0] == 3 else tensors[place[0]][place[1]]
        limits = torch.iinfo(old.dtype)
        value = data.draw(st.sampled_from([limits.min, limits.max, 0, 1, 2, 3, 5, 17]))
        new = put(old, data.draw(st.integers(0, old.numel() - 1)), value)
        if place[0] == 3:
            leaves[place[1]] = new
        else:
            tensors[place[0]][place[1]] = new
    try:
        damaged = Trie(trie.codebook_sizes, 60, *map(tuple, tensors), *leaves)  # type: ignore[arg-type]
    except InvalidValueError:
        return
    rows = damaged.lookup(codes)  # then it is a trie of some other catalog
    assert int(rows.max()) < damaged.num_rows
    assert sorted(damaged.leaf_items.tolist()) == list(range(60))
    assert damaged.items(torch.arange(damaged.num_rows)).values.sort().values.equal(torch.arange(60))


@pytest.fixture
def trie_file(tmp_path: Path) -> Path:
    make_trie(500, 300, 3)[0].save(tmp_path / "catalog.safetensors")
    return tmp_path / "catalog.safetensors"


def test_save_and_load(trie_file: Path) -> None:
    trie, codes = make_trie(500, 300, 3)
    assert [path.name for path in trie_file.parent.iterdir()] == [trie_file.name]
    for loaded in (Trie.load(trie_file), Trie.load(str(trie_file), verify=False)):
        assert_same(trie, loaded)
        assert loaded.lookup(codes).equal(trie.item_rows)
    loaded.save(trie_file)  # over the file that it is mapped from
    assert_same(trie, loaded)
    assert_same(trie, Trie.load(trie_file))


def test_a_file_cut_short_anywhere_is_refused(trie_file: Path) -> None:
    whole = trie_file.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, *range(200, len(whole), 97), len(whole) - 1]:
        trie_file.write_bytes(whole[:length])
        for verify in (True, False):
            with pytest.raises(CorruptFileError, match=r"Trie.load: .*catalog.safetensors must be a whole trie file"):
                Trie.load(trie_file, verify=verify)
    trie_file.write_bytes(whole + b"\0")
    with pytest.raises(CorruptFileError, match="must be a whole trie file"):
        Trie.load(trie_file)


def test_an_altered_file_is_refused(trie_file: Path) -> None:
    whole = trie_file.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    used = len(whole[:header].rstrip())  # blanks at the header's end carry nothing
    places = [*range(0, used, 5), *range(header, len(whole), 61), len(whole) - 1]
    for place in places:
        for bit in (0, 6):
            altered = bytearray(whole)
            altered[place] ^= 1 << bit
            trie_file.write_bytes(altered)
            with pytest.raises(CorruptFileError, match="must be a whole trie file"):
                Trie.load(trie_file)
            try:  # without the checksum: refused, or safe to use
                Trie.load(trie_file, verify=False).lookup(torch.zeros(3, 3, dtype=torch.int32))
            except CorruptFileError:
                continue
    trie_file.write_bytes(whole)
    Trie.load(trie_file)


def test_foreign_files_are_refused(trie_file: Path, tmp_path: Path) -> None:
    whole = trie_file.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    entries = json.loads(whole[8:header])
    for key, value, text in [
        ("version", "2", "version must be 1, got '2'"),
        ("kind", "other", "kind must be 'genrec_fast.trie', got 'other'"),
        ("codebook_sizes", "[300, ", "unreadable metadata"),
        ("codebook_sizes", "[300]", "tensors must be"),
        ("num_items", "x", "unreadable metadata"),
    ]:
        changed = json.dumps({**entries, "__metadata__": {**entries["__metadata__"], key: value}}).encode()
        trie_file.write_bytes(struct.pack("<Q", len(changed)) + changed + whole[header:])
        with pytest.raises(CorruptFileError, match=f"catalog.safetensors must be a whole trie file, got: .*{text}"):
            Trie.load(trie_file)
    weights = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(3)}, weights)
    with pytest.raises(CorruptFileError, match=r"no trie: kind must be 'genrec_fast.trie', got None"):
        Trie.load(weights)
    with pytest.raises(FileNotFoundError, match=r"Trie.load: path must name a file, got .*missing"):
        Trie.load(tmp_path / "missing")


@pytest.mark.parametrize("size", [6, 300])
def test_valid_codes_are_the_children(size):
    codes = torch.randint(size, (50, 3), generator=torch.Generator().manual_seed(0))
    trie = build_trie(codes, codebook_sizes=(size,) * 3)
    for level in range(3):
        nodes = trie.lookup(codes[:, :level]) if level else torch.zeros(50, dtype=torch.int32)
        mask = trie.valid_codes(level, nodes)
        for item in range(50):
            same = (codes[:, :level] == codes[item, :level]).all(1)
            assert mask[item].nonzero().squeeze(1).tolist() == codes[same, level].unique().tolist()


def test_valid_codes_refuses_bad_nodes():
    trie = build_trie(torch.tensor([[0, 1], [1, 0]]))
    with pytest.raises(InvalidValueError, match=r"Trie.valid_codes: nodes must be in \[0, 2\), got 2 at 1"):
        trie.valid_codes(1, torch.tensor([0, 2]))
    with pytest.raises(InvalidValueError, match=r"level must be in \[0, 1\], got 2"):
        trie.valid_codes(2, torch.tensor([0]))
    with pytest.raises(InvalidTypeError, match=r"nodes must be int32 or int64, got torch\.float32"):
        trie.valid_codes(0, torch.tensor([0.0]))
