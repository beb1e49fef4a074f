"""CCFRec: SASRec over items whose codes have asked the views of what is known of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from genrec_fast.backbones.causal import Causal, CausalConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.checks import check_heads
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.fused_items import FusedItems
from genrec_fast.nn.histories import at_targets
from genrec_fast.nn.item_inputs import ITEMS
from genrec_fast.nn.packed import Packing, Past
from genrec_fast.nn.transformer import init_weights


@dataclass(frozen=True, kw_only=True)
class CodeFusionConfig(CausalConfig):
    """Settings of ``CodeFusion``: those of ``Causal``, whose items are fused."""

    normalize: bool = True
    num_views: int = 4  # slices of the features that codes attend to
    fusion_heads: int = 2  # heads of that attention, a divisor of width
    fusion_layers: int = 1
    fusion_hidden: int = 512  # channels inside its MLP
    fusion_dropout: float = 0.2  # rate

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads("CodeFusionConfig", self.width, self.fusion_heads)
        if self.items != ITEMS:
            raise InvalidValueError("CodeFusionConfig: items must be left out, as codes and features are read")
        if not self.normalize:
            raise InvalidValueError("CodeFusionConfig: normalize must be True, as codes are scored by cosines, too")

    def build(self, catalog: Catalog) -> CodeFusion:
        """Makes the backbone of a catalog with semantic IDs and features."""
        return CodeFusion(self, catalog)


class CodeFusion(Causal):
    """``Causal`` over ``FusedItems``; a hidden code is told from what stands around it.

    Speaks ``Embedding``, ``Resumable`` and ``FusedCodes``.

    Source: CCFRec (arXiv:2503.12183).
    """

    items: FusedItems
    config: CodeFusionConfig

    def __init__(self, config: CodeFusionConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.items = FusedItems(
            catalog,
            config.width,
            num_heads=config.fusion_heads,
            num_layers=config.fusion_layers,
            hidden=config.fusion_hidden,
            num_views=config.num_views,
            dropout=config.fusion_dropout,
        )
        self.items.apply(init_weights)

    def _states(self, batch: Batch, past: Past | None = None, vectors: Tensor | None = None) -> tuple[Tensor, Packing]:
        return super()._states(batch, past, self.items(batch.items.values) if vectors is None else vectors)

    def code_tokens(self, items: Tensor) -> Tensor:
        """int64 ``[E, L]``: the codes of items ``[E]``, counted through all levels."""
        return self.items.tokens(items)

    def item_vectors(self, items: Tensor) -> Tensor:
        """``[E, D]``: rows of ``item_table``, of these items ``[E]`` alone."""
        return F.normalize(self.items(items), dim=-1)

    def embed_hidden(self, batch: Batch, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The histories read with some codes hidden.

        Args:
            batch: from a layout, with targets.
            hidden: bool ``[E, L]``: which codes of the histories' items.

        Returns:
            The users at their targets, ``[M, D]`` (see ``embed_targets``), and for each hidden code, in the order of
            ``hidden``, its logits over the codes of all levels, ``[H, V]``.
        """
        states, vectors = self.items.fused(batch.items.values, hidden)
        users = self.user_vectors(at_targets(self._states(batch, None, vectors)[0], batch))
        codes = F.normalize(self.items.codes.weight[: self.items.num_codes], dim=-1)
        return users, F.normalize(states[hidden], dim=-1) @ codes.T / self.config.temperature
