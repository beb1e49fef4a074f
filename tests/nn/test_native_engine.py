"""The native engine's tables."""

from __future__ import annotations

import pytest
import torch

from genrec_fast.base.jagged import Jagged
from genrec_fast.nn.engine import block as block_module
from genrec_fast.nn.engine import native as native_engine
from genrec_fast.ops.transformer_pack import pack_stacks
from genrec_fast.ops.transformer_spec import TransformerSpec

TOKENS = 40


def block(precision="float32", **tables):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    spec = TransformerSpec(
        **{"width": 24, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "head_width": 12, "ff_width": 40},
        head_size=TOKENS,
    )
    weights = {"head.weight": normal(TOKENS, 24)}
    for layer in range(2):
        for name in ("before_attention", "before_feed_forward"):
            weights[f"layers.{layer}.{name}.weight"] = normal(24)
        for name, (rows, columns, needed) in spec.linears().items():
            if needed:
                weights[f"layers.{layer}.{name}.weight"] = normal(rows, columns) / columns**0.5
    return pack_stacks([(spec, weights)], precision, {"embedding": normal(TOKENS, 24), **tables}, {})


def outputs(engine):
    session = engine.prefill(Jagged.from_rows([torch.tensor([3, 39, 0, 7]), torch.tensor([5])]))
    tokens = torch.tensor([[1, 2, 3], [4, 4, 39]])
    after = session.extend(tokens, torch.zeros_like(tokens))
    last = after.extend(tokens.flip(1), torch.tensor([[2, 2, 0], [0, 1, 1]]))
    sums = last.scores(slice(0, TOKENS), log_sums=True)[1]
    return session.hidden, after.hidden, last.hidden, sums


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_the_first_layer_by_token_gives_the_bits_of_the_first_layer_by_row(precision, monkeypatch):
    weights = block(precision)
    looked_up = native_engine.NativeEngine(weights)
    assert looked_up.first_tables[0].shape == (TOKENS, 48)
    monkeypatch.setattr(block_module, "_FIRST_TABLE_BYTES", 0)
    made = native_engine.NativeEngine(weights)
    assert made.first_tables[0] is None
    for one, other in zip(outputs(looked_up), outputs(made), strict=True):
        assert torch.equal(one, other)


def test_rows_with_positions_added_are_not_looked_up():
    engine = native_engine.NativeEngine(block(positions=torch.randn(9, 24)))
    assert engine.first_tables[0] is None
    outputs(engine)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("tables", [{}, {"positions": torch.ones(9, 24).cumsum(0)}])
def test_rows_of_a_tree_have_the_bits_of_steps(precision, tables):
    session = native_engine.NativeEngine(block(precision, **tables)).prefill(
        Jagged.from_rows([torch.tensor([3, 39, 0, 7]), torch.tensor([5])])
    )
    beams = session.extend(torch.tensor([[1, 2], [4, 4]]), torch.zeros(2, 2, dtype=torch.int64))
    # Numbers: 0 the prompt, 1 and 2 the beams; rows 3 to 6 of this call: behind 2, 3, 0 and 4.
    tree = beams.extend_tree(torch.tensor([[7, 8, 9, 10]] * 2), torch.tensor([[2, 3, 0, 4]] * 2))
    second = torch.tensor([[2], [4]])
    for row, tokens in enumerate([[second, 7], [second, 7, 8], [9], [second, 7, 8, 10]]):
        alone = session
        for token in tokens:
            given = token if isinstance(token, torch.Tensor) else torch.tensor([[token]] * 2)
            alone = alone.extend(given, torch.zeros(2, 1, dtype=torch.int64))
        assert torch.equal(tree.hidden[:, row], alone.hidden[:, 0])
    on = tree.extend(torch.tensor([[11]] * 2), torch.tensor([[3]] * 2))  # behind the last of the tree
    alone = alone.extend(torch.tensor([[11]] * 2), torch.zeros(2, 1, dtype=torch.int64))
    assert torch.equal(on.hidden, alone.hidden)
    of_one = tree.select(torch.tensor([1])).extend(torch.tensor([[11]]), torch.tensor([[3]]))
    assert torch.equal(of_one.hidden, alone.hidden[1:])
