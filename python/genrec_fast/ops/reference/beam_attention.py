"""The twin of ``ops.beam_attention``: plain torch, user by user, one softmax over the prompt and the chain."""

from __future__ import annotations

import torch
from torch import Tensor


def ancestors(parents: Tensor, num_beams: int) -> Tensor:
    """int64 ``[W, t]``: the last W rows of ``parents [N]``, each followed by its parent, and so on; then -1."""
    at = torch.arange(parents.shape[0] - num_beams, parents.shape[0], device=parents.device)
    above, chain = parents.long(), [at]
    while bool((at := above[at.clamp(min=0)].where(at >= 0, -1)).ge(0).any()):
        chain.append(at)
    return torch.stack(chain, 1)


def beam_attention(
    q: Tensor,
    prompt_keys: Tensor | None,
    prompt_values: Tensor | None,
    offsets: Tensor | None,
    keys: Tensor | None,
    values: Tensor | None,
    parents: Tensor | None,
    bias: Tensor | None,
    scale: float,
) -> Tensor:
    """See ``ops.beam_attention``: sums in float32, or in float64 where q is that."""
    users, beams, heads, _ = q.shape
    exact = torch.promote_types(q.dtype, torch.float32)
    wide = prompt_values if values is None else values
    assert wide is not None
    out = q.new_zeros(users, beams, heads, wide.shape[-1])
    if not beams:
        return out
    for user in range(users):
        # What the beams see, over all of them [W, H, n], and the values that belong to it [W or 1, n, H, Dv].
        scores, seen, distances = [], [], []
        chain = q.new_empty(beams, 0, dtype=torch.int64)
        if keys is not None and values is not None and parents is not None:
            chain = ancestors(parents[user], beams)
            there, at = chain >= 0, chain.clamp(min=0)
            own = _per_head(keys[user][at], heads).to(exact)
            found = torch.einsum("whd,wnhd->whn", q[user].to(exact), own) * scale
            scores.append(found.masked_fill(~there.unsqueeze(1), -torch.inf))
            seen.append(_per_head(values[user][at], heads).to(exact).masked_fill(~there[..., None, None], 0.0))
            distances.append(torch.arange(chain.shape[1], device=q.device).expand(beams, -1))
        if prompt_keys is not None and prompt_values is not None and offsets is not None:
            part = slice(int(offsets[user]), int(offsets[user + 1]))
            own = _per_head(prompt_keys[part], heads).to(exact)
            scores.append(torch.einsum("whd,nhd->whn", q[user].to(exact), own) * scale)
            seen.append(_per_head(prompt_values[part], heads).to(exact).expand(beams, -1, -1, -1))
            back = torch.arange(len(own) - 1, -1, -1, device=q.device)
            distances.append(back + (chain >= 0).sum(1, keepdim=True))
        every = torch.cat(scores, 2)
        if bias is not None:
            distance = torch.cat(distances, 1).clamp(max=bias.shape[1] - 1)
            every = every + bias.to(exact)[:, distance].transpose(0, 1)
        weights = every.softmax(2) if every.shape[2] else every
        out[user] = torch.einsum("whn,wnhd->whd", weights, torch.cat(seen, 1)).to(q.dtype)
    return out


def _per_head(x: Tensor, heads: int) -> Tensor:
    """``[..., Hk, D]`` as ``[..., H, D]``: neighbouring query heads share one."""
    return x.repeat_interleave(heads // x.shape[-2], dim=-2)
