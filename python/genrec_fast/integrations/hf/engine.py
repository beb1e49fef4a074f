"""What a search needs of a language model, and the form of it that runs any model of transformers by torch."""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from genrec_fast.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.types import Jagged

__all__ = ["Engine", "TorchEngine"]


class Engine(Protocol):
    """A model that reads each prompt once and extends it by beams."""

    vocab_size: int

    def prefill(
        self, prompts: Jagged, decoder_prompts: Jagged | None = None, *, encoded: bool = False
    ) -> tuple[Any, Tensor]:
        """Reads prompts: int64 token ids per user, or an encoder's float rows (``encoded``).

        ``decoder_prompts`` holds the decoder's first tokens of an encoder-decoder. Returns the state and hidden
        ``[B, 1, D]`` of each user's last token.
        """
        ...

    def step(self, state: Any, tokens: Tensor, parents: Tensor) -> tuple[Any, Tensor]:
        """Extends beams by int64 tokens ``[B, W]``; ``parents`` int64 ``[B, W]``: beams of the call before.

        Dead beams carry any token and parent 0. Returns the state and hidden ``[B, W, D]``; the state given may be
        spent.
        """
        ...

    def logits(self, hidden: Tensor, tokens: Tensor | slice, log_sums: bool) -> tuple[Tensor, Tensor | None]:
        """float32 ``[B, W, K]`` of the tokens, and the log-sum-exp over the vocabulary ``[B, W]`` if wanted."""
        ...


class TorchEngine:
    """Any causal or encoder-decoder model of transformers: each prompt is read once, its cache shared out to beams.

    ``hidden`` are the logits themselves, on the model's device; what ``logits`` returns is on the CPU, as the trie is.
    A prompt's keys and values are copied for every beam once, and reordered as transformers does; those of an encoder
    are copied but not reordered.

    Args:
        model: a ``PreTrainedModel`` with a language model head and a cache that can be reordered.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        config: Any = model.config
        self.encoder_decoder = bool(getattr(config, "is_encoder_decoder", False))
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        self.vocab_size: int = int(text.vocab_size)
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters

    def prefill(
        self, prompts: Jagged, decoder_prompts: Jagged | None = None, *, encoded: bool = False
    ) -> tuple[Any, Tensor]:
        if not isinstance(prompts, Jagged):
            raise InvalidTypeError(f"prefill: prompts must be Jagged, got {type(prompts).__name__}")
        if len(prompts) and int(prompts.lengths.min()) < 1:
            raise InvalidValueError("prefill: prompts must have a token each, got an empty one")
        if self.encoder_decoder and decoder_prompts is None:
            raise InvalidValueError("prefill: this model needs decoder_prompts, got None")
        for given in (None if encoded else prompts, decoder_prompts):
            if given is not None:
                self._check(given)
        device = next(self.model.parameters()).device
        if not self.encoder_decoder:
            tokens, mask = _left_padded(prompts, device)
            out = self._call({"attention_mask": mask}, tokens, mask, None)
            return (out.past_key_values, {}, mask), out.logits[:, -1:].float()
        assert decoder_prompts is not None
        rows = prompts.padded().to(device)
        mask = _mask(prompts.lengths).to(device)
        fixed: dict[str, Any] = {"attention_mask": mask}
        if encoded:
            rows = rows.to(self.model.get_input_embeddings().weight.dtype)
        else:
            rows = self.model.get_encoder()(input_ids=rows, attention_mask=mask).last_hidden_state
        fixed["encoder_outputs"] = (rows,)
        if int(decoder_prompts.lengths.min()) != int(decoder_prompts.lengths.max()):
            raise InvalidValueError("prefill: decoder_prompts must be of one length for the torch engine")
        tokens = decoder_prompts.padded().to(device)
        out = self._call(fixed, tokens, None, None)
        return (out.past_key_values, fixed, None), out.logits[:, -1:].float()

    def step(self, state: Any, tokens: Tensor, parents: Tensor) -> tuple[Any, Tensor]:
        cache, fixed, mask = state
        users, beams = tokens.shape
        rows = mask if mask is not None else fixed["attention_mask"]
        before = rows.shape[0] // users
        tokens, parents = tokens.to(rows.device), parents.to(rows.device)
        flat = (parents + torch.arange(users, device=rows.device).unsqueeze(1) * before).flatten()
        same_rows = before == beams  # then what belongs to users alone is in its place
        if same_rows and hasattr(cache, "self_attention_cache"):
            cache.self_attention_cache.reorder_cache(flat)
        else:
            cache.reorder_cache(flat)
        if not same_rows:
            fixed = {
                name: (value[0][flat],) if isinstance(value, tuple) else value[flat] for name, value in fixed.items()
            }
        tokens = tokens.reshape(-1, 1)
        if mask is not None:
            mask = torch.cat([mask[flat], mask.new_ones(flat.numel(), 1)], 1)
            out = self._call({"attention_mask": mask}, tokens, mask, cache)
        else:
            out = self._call(fixed, tokens, None, cache)
        return (out.past_key_values, fixed, mask), out.logits[:, -1:].float().view(users, beams, -1)

    def logits(self, hidden: Tensor, tokens: Tensor | slice, log_sums: bool) -> tuple[Tensor, Tensor | None]:
        chosen = hidden[..., tokens] if isinstance(tokens, slice) else hidden[..., tokens.to(hidden.device)]
        return chosen.cpu(), hidden.logsumexp(-1).cpu() if log_sums else None

    def _check(self, prompts: Jagged) -> None:
        if prompts.values.dtype != torch.int64 or prompts.values.dim() != 1:
            raise InvalidTypeError(f"prefill: prompts must be int64 Jagged, got {prompts.values.dtype}")
        size = int(self.model.get_input_embeddings().num_embeddings)
        if prompts.values.numel():
            low, high = (int(bound) for bound in torch.aminmax(prompts.values))
            if low < 0 or high >= size:
                raise InvalidValueError(f"tokens must be in [0, {size}), got {low} to {high}")

    def _call(self, fixed: dict[str, Any], tokens: Tensor, mask: Tensor | None, cache: Any) -> Any:
        given = {"decoder_input_ids" if self.encoder_decoder else "input_ids": tokens}
        if mask is not None and self._takes_positions:
            given["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        out = self.model(**given, **fixed, past_key_values=cache, use_cache=True, return_dict=True)
        if not hasattr(getattr(out, "past_key_values", None), "reorder_cache"):
            raise UnsupportedError(
                "TorchEngine: model must keep keys and values in a cache that beams can reorder, "
                f"got {type(self.model).__name__}"
            )
        return out


def _mask(lengths: Tensor) -> Tensor:
    longest = int(lengths.max()) if lengths.numel() else 0
    return (torch.arange(longest, device=lengths.device) < lengths.unsqueeze(1)).long()


def _left_padded(prompts: Jagged, device: torch.device) -> tuple[Tensor, Tensor]:
    mask = _mask(prompts.lengths).flip(1)
    tokens = torch.zeros_like(mask)
    tokens[mask.bool()] = prompts.values.to(mask.device)
    return tokens.to(device), mask.to(device)
