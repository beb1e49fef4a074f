"""Levels of beam searches as attention sees them, for bench_beam_attention.py and the rows of gpu_check.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Level:
    """The last level of searches.

    Args:
        users: whose prompts have ``prompt`` tokens each.
        beams: of every level.
        levels: so many rows has a chain.
        heads: of queries.
        key_heads: of keys and values.
        width: of a head.
        small: whether a CPU does it within seconds.
    """

    users: int
    prompt: int
    beams: int
    levels: int
    heads: int
    key_heads: int
    width: int
    small: bool = True

    @property
    def said(self) -> str:
        return f"{self.users} x {self.beams} beams, prompts of {self.prompt}, heads {self.heads}/{self.key_heads}"

    @property
    def bytes_of_keys(self) -> int:
        """Of keys and values in 16 bits, each read once."""
        rows = self.users * (self.prompt + self.beams * self.levels)
        return 2 * 2 * rows * self.key_heads * self.width

    @property
    def flops(self) -> int:
        return 4 * self.users * self.beams * self.heads * self.width * (self.prompt + self.levels)

    def level(self, dtype: torch.dtype) -> dict[str, Any]:
        """Arguments of ``beam_attention``."""
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(dtype)

        rows = self.levels * self.beams
        parents = torch.randint(self.beams, (self.users, rows), generator=generator)
        parents += torch.arange(rows) // self.beams * self.beams - self.beams
        return {
            "q": normal(self.users, self.beams, self.heads, self.width),
            "prompt_keys": normal(self.users * self.prompt, self.key_heads, self.width),
            "prompt_values": normal(self.users * self.prompt, self.key_heads, self.width),
            "offsets": torch.arange(self.users + 1) * self.prompt,
            "keys": normal(self.users, rows, self.key_heads, self.width),
            "values": normal(self.users, rows, self.key_heads, self.width),
            "parents": parents.clamp(min=-1).int(),
        }


SHAPES = {
    "tiger": Level(users=1, prompt=100, beams=50, levels=4, heads=6, key_heads=6, width=64),
    "tiger-16": Level(users=16, prompt=100, beams=50, levels=4, heads=6, key_heads=6, width=64),
    "qwen3-0.6b": Level(users=1, prompt=512, beams=32, levels=3, heads=16, key_heads=8, width=128),
    "qwen3-1.7b": Level(users=1, prompt=1000, beams=256, levels=3, heads=16, key_heads=8, width=128, small=False),
    "qwen3-1.7b-4000": Level(users=1, prompt=4000, beams=256, levels=3, heads=16, key_heads=8, width=128, small=False),
    "qwen3-1.7b-16": Level(users=16, prompt=1000, beams=64, levels=3, heads=16, key_heads=8, width=128, small=False),
}


def repeated(
    q: Tensor,
    prompt_keys: Tensor,
    prompt_values: Tensor,
    offsets: Tensor,
    keys: Tensor,
    values: Tensor,
    parents: Tensor,
) -> Tensor:
    """The same of torch, prompts of one length: a copy of the prompt and of the chain for each beam."""
    users, beams, heads, width = q.shape
    prompt, levels = len(prompt_keys) // users, parents.shape[1] // beams
    chain = [torch.arange(parents.shape[1] - beams, parents.shape[1], device=q.device).expand(users, -1)]
    for _ in range(levels - 1):
        chain.append(parents.long().gather(1, chain[-1]))
    rows = torch.stack(chain, 2).flatten(1)

    def joined(of_prompt: Tensor, of_rows: Tensor) -> Tensor:
        shared = of_prompt.view(users, 1, prompt, *of_prompt.shape[1:]).expand(-1, beams, -1, -1, -1)
        place = rows[..., None, None].expand(-1, -1, *of_rows.shape[2:])
        own = of_rows.gather(1, place).view(users, beams, levels, *of_rows.shape[2:])
        return torch.cat([shared, own], 2).flatten(0, 1).transpose(1, 2)

    out = torch.nn.functional.scaled_dot_product_attention(
        q.view(users * beams, heads, 1, width),
        joined(prompt_keys, keys),
        joined(prompt_values, values),
        enable_gqa=True,
    )
    return out.view(users, beams, heads, -1)
