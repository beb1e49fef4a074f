"""An item as its codes see it: they ask the views of its features, and their mean is its vector (CCFRec)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.dropout import Dropout
from genrec_fast.nn.item_inputs import ProjectedFeatures

_BLOCK = 4096  # items of a whole table at once


class _Attention(nn.Module):
    """Queries ``[n, L, D]`` over keys ``[n, V, D]``, with a residual and a norm behind it."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.queries, self.keys_values = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out, self.norm, self.dropout = nn.Linear(width, width), nn.LayerNorm(width), Dropout(dropout)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        queries = self.queries(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        keys, values = self.keys_values(seen).unflatten(2, (2, self.num_heads, -1)).unbind(2)
        found = F.scaled_dot_product_attention(queries, keys.transpose(1, 2), values.transpose(1, 2))
        added = self.dropout(self.out(found.transpose(1, 2).flatten(2)))
        out: Tensor = self.norm(x + added)
        return out


class _Layer(nn.Module):
    """Codes see each other, then the views, then themselves."""

    def __init__(self, width: int, num_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.among_codes = _Attention(width, num_heads, dropout)
        self.over_views = _Attention(width, num_heads, dropout)
        self.into, self.out, self.norm = nn.Linear(width, hidden), nn.Linear(hidden, width), nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, views: Tensor) -> Tensor:
        x = self.over_views(self.among_codes(x, x), views)
        out: Tensor = self.norm(x + self.dropout(self.out(F.gelu(self.into(x)))))
        return out


class FusedItems(nn.Module):
    """Vectors of items: the mean of their codes' states behind attention over views of their features.

    ::

        e_l = embedding of code l, or the mask's;  s = layers(e over the views);  vector = mean_l s_l + mean_l e_l

    A view is a slice of the item's feature vector, projected: V of them, or one per element where it has fewer.

    Args:
        catalog: with semantic IDs and features.
        width: channels D.
        num_heads: a divisor of width.
        num_layers: of the fusion.
        hidden: channels of its MLPs.
        num_views: V.
        dropout: rate.

    Raises:
        InvalidValueError: a catalog without semantic IDs or without features.

    Notes:
        O(L (L + V + D) D) an item; codes and features of all items are buffers that are not saved.

    Source: CCFRec (arXiv:2503.12183), code-guided semantic fusion.
    """

    item_codes: Tensor
    features: Tensor

    def __init__(
        self,
        catalog: Catalog,
        width: int,
        *,
        num_heads: int,
        num_layers: int,
        hidden: int,
        num_views: int,
        dropout: float,
    ) -> None:
        super().__init__()
        for name in ("item_codes", "features"):
            if getattr(catalog, name) is None:
                raise InvalidValueError(f"FusedItems: catalog must have {name}, got None")
        assert catalog.item_codes is not None
        assert catalog.features is not None
        self.num_items, self.num_levels = catalog.item_codes.shape
        starts = torch.tensor([0, *catalog.codebook_sizes]).cumsum(0)
        self.num_codes = int(starts[-1])  # of all levels; behind them stands the mask
        self.register_buffer("item_codes", catalog.item_codes.long() + starts[:-1], persistent=False)
        self.register_buffer("features", catalog.features.float(), persistent=False)
        self.codes = nn.Embedding(self.num_codes + 1, width)
        slices = self.features[:1].tensor_split(min(num_views, self.features.shape[1]), 1)
        self.widths = [part.shape[1] for part in slices]
        self.views = nn.ModuleList(ProjectedFeatures(part, width) for part in self.widths)
        self.layers = nn.ModuleList(_Layer(width, num_heads, hidden, dropout) for _ in range(num_layers))

    def tokens(self, items: Tensor, hidden: Tensor | None = None) -> Tensor:
        """int64 ``[E, L]``: rows of ``codes`` of items ``[E]``, the mask's where ``hidden [E, L]`` says so."""
        tokens = self.item_codes[items]
        return tokens if hidden is None else tokens.masked_fill(hidden, self.num_codes)

    def fused(self, items: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The states of the codes, ``[E, L, D]``, and the items' vectors, ``[E, D]``."""
        embedded = self.codes(self.tokens(items, hidden))
        parts = self.features[items].split(self.widths, 1)
        views = torch.stack([project(part) for project, part in zip(self.views, parts, strict=True)], 1)
        states = embedded
        for layer in self.layers:
            states = layer(states, views)
        return states, states.mean(1) + embedded.mean(1)

    def forward(self, items: Tensor) -> Tensor:
        """Item ids int64 ``[E]`` -> ``[E, D]``."""
        return self.fused(items)[1]

    def table(self) -> Tensor:
        """``[N, D]``."""
        everything = torch.arange(self.num_items, device=self.item_codes.device)
        return torch.cat([self(items) for items in everything.split(_BLOCK)])
