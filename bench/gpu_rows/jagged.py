"""Attention, moves and sums over rows of many lengths."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch

from gpu_rows.measure import Line, graphed, microseconds, row


@row("jagged_attention")
def jagged_attention() -> Iterator[Line]:
    """HSTU's shape (16 users, 4 heads of 64, causal silu, bfloat16) beside padded torch, and a mix of lengths."""
    from genrec_fast.ops import jagged_attention as attention

    for lengths in ((128,) * 16, (256,) * 16, (1024,) * 16, (4096,) * 4, tuple(8 * n for n in range(1, 65))):
        elements, longest = sum(lengths), max(lengths)
        offsets = torch.tensor([0, *itertools.accumulate(lengths)])
        q, k, v, grad = torch.randn(4, elements, 4, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
        leaves = [x.cuda().requires_grad_() for x in (q, k, v)]
        places, slope = offsets.cuda(), grad.cuda()
        small = offsets[1]  # the first user, on the CPU
        expected = attention(q[:small], k[:small], v[:small], offsets[:2], kind="silu", max_seq_len=longest)
        found = attention(*leaves, places, kind="silu", max_seq_len=longest)
        torch.testing.assert_close(found[:small].cpu(), expected, rtol=2e-2, atol=2e-2 * expected.abs().max().item())
        wide = [x.new_zeros(len(lengths), longest, 4, 64) for x in (q, k, v)]
        for padded, values in zip(wide, (q, k, v), strict=True):
            for user, rows in enumerate(values.split(lengths)):
                padded[user, : len(rows)] = rows
        padded_leaves = [x.cuda().transpose(1, 2).requires_grad_() for x in wide]
        mask = torch.ones(longest, longest, dtype=torch.bool, device="cuda").tril()

        def ours(leaves=leaves, places=places, longest=longest) -> torch.Tensor:
            return attention(*leaves, places, kind="silu", max_seq_len=longest)

        def torchs(leaves=padded_leaves, mask=mask, longest=longest) -> torch.Tensor:
            scores = torch.nn.functional.silu(leaves[0] @ leaves[1].transpose(2, 3) / 8) / longest
            return (scores * mask) @ leaves[2]

        def backward(call=ours, leaves=leaves, slope=slope) -> None:
            torch.autograd.grad(call(), leaves, slope)

        def torchs_backward(call=torchs, leaves=padded_leaves) -> None:
            found = call()
            torch.autograd.grad(found, leaves, found.detach())

        what = f"{len(lengths)} x {lengths[0]}" if len(set(lengths)) == 1 else f"{len(lengths)} x 8..{longest}"
        flops = 2 * 2 * 64 * 4 * sum(n * (n + 1) / 2 for n in lengths)
        with torch.no_grad():
            took = microseconds(graphed(ours))
            line = f"forward {what}: {flops / took / 1e6:.0f} TFLOP/s"
            yield Line("jagged_attention", line, took, microseconds(graphed(torchs)), "padded torch", "5x on the mix")
        took = microseconds(backward)
        line = f"and backward {what}: {3.5 * flops / took / 1e6:.0f} TFLOP/s"
        yield Line("jagged_attention", line, took, microseconds(torchs_backward), "padded torch")


@row("jagged_pad", "jagged_join", "segment_sum")
def jagged_rows() -> Iterator[Line]:
    """Moves and sums of 4096 rows of 1 to 128 elements of 64 floats, held against the CPU's bits."""
    from genrec_fast import ops

    lengths = torch.randint(1, 129, (4096,), generator=torch.Generator().manual_seed(0))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    values = torch.randn(int(offsets[-1]), 64)
    there, places = values.cuda(), offsets.cuda()
    ids = torch.randint(0, 100_000, (len(values),), generator=torch.Generator().manual_seed(1))
    table = torch.randn(100_000, 64).cuda().requires_grad_()
    calls = {
        "to_padded": lambda x, o: ops.to_padded(x, o, 128),
        "segment_sum": ops.segment_sum,
        "jagged_concat": lambda x, o: ops.jagged_concat([x, x], [o, o])[0],
    }
    for name, call in calls.items():
        found = call(there, places)
        assert found.cpu().equal(call(values, offsets)), f"{name}: other bits than the CPU's"
        took = microseconds(graphed(lambda call=call: call(there, places)))
        moved = (values.nbytes if name != "jagged_concat" else 2 * values.nbytes) + found.nbytes
        yield Line("jagged_rows", f"{name}: {moved / took / 1e6:.2f} TB/s", took)
    there_ids = ids.cuda()

    def gradient(look_up=ops.embedding) -> None:
        torch.autograd.grad(look_up(table, there_ids), table, there)

    def torchs() -> None:
        torch.autograd.grad(torch.nn.functional.embedding(there_ids, table), table, there)

    yield Line("jagged_rows", "embedding and its gradient", microseconds(gradient), microseconds(torchs), "torch")
