"""A model behind a learned prompt of peft: virtual tokens stand before whatever it reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from genrec_fast.base.errors import UnsupportedError

_AS_EMBEDDINGS = ("PROMPT_TUNING", "P_TUNING")


class Prompted(nn.Module):
    """Calls the model inside as peft's own ``prepare_inputs_for_generation`` has it called.

    Args:
        model: of peft, with prompt learning active.

    Raises:
        UnsupportedError: a learned prompt that is no row of embeddings, or one of an encoder-decoder.

    Source: Lester et al. (arXiv:2104.08691); Liu et al. (arXiv:2103.10385).
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        kind = model.active_peft_config.peft_type.value
        self.peft_model, self.base = model, model.get_base_model()
        self.config = self.base.config
        if kind not in _AS_EMBEDDINGS or self.config.is_encoder_decoder:
            raise UnsupportedError(
                "TorchEngine: model must have no learned prompt, or one that stands before a decoder's tokens "
                f"({', '.join(_AS_EMBEDDINGS)}), got {kind} around {type(self.base).__name__}"
            )

    def get_input_embeddings(self) -> Any:
        """Of the model inside."""
        return self.base.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        """Of the model inside."""
        return self.base.get_output_embeddings()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **given: Any,
    ) -> Any:
        count = int(self.peft_model.active_peft_config.num_virtual_tokens)
        rows = input_ids.shape[0]
        if attention_mask is not None:
            attention_mask = torch.cat([attention_mask.new_ones(rows, count), attention_mask], 1)
        if position_ids is not None:
            position_ids = position_ids + count
        reads = not any(given.get(name) is not None for name in ("cache", "past_key_values", "cache_params"))
        if not reads:
            return self.base(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **given)
        embedded = self.base.get_input_embeddings()(input_ids)
        virtual = self.peft_model.get_prompt(batch_size=rows).to(embedded.dtype)
        if position_ids is not None:
            before = torch.arange(count, device=position_ids.device).expand(rows, -1)
            position_ids = torch.cat([before, position_ids], 1)
        return self.base(
            inputs_embeds=torch.cat([virtual, embedded], 1),
            attention_mask=attention_mask,
            position_ids=position_ids,
            **given,
        )
