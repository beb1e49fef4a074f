"""How a model of transformers is called: the names of its arguments, its device, and what it cannot be asked."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.hf.adapters import learned_prompt, mixed_adapters
from genrec_fast.hf.places import Places
from genrec_fast.hf.prompted import Prompted

# What transformers has called a model's state: since 5.24, before, and of state-space models before.
CACHE_NAMES = ("cache", "past_key_values", "cache_params")
# Models whose next token is not that of one plain call on the text.
_OTHERWISE = {
    "fsmt": "its decoder sees what is to come where the encoder has run before",
    "recurrent_gemma": "its modules keep a state of their own from call to call",
    "reformer": "its hashing is drawn anew at every call, and its chunks pad the text",
    "xlm": "a mask token and a language stand behind the text",
    "xlnet": "it predicts in an order that comes with every call",
}

_ANSWER = 64  # tokens that an answer may have, at most


class CalledModel:
    """A model with the names under which its ``forward`` takes and gives things.

    Args:
        model: a ``PreTrainedModel``, or one of peft's around it; where a learned prompt of peft stands before its
            tokens, that is read too (``Prompted``).

    Raises:
        InvalidTypeError: no such model.
        UnsupportedError: a model that does not continue texts by plain calls.
    """

    def __init__(self, model: nn.Module) -> None:
        config: Any = getattr(model, "config", None)
        if not isinstance(model, nn.Module) or not hasattr(config, "model_type") or not hasattr(model, "forward"):
            inner = getattr(model, "module", None)
            hint = f": give its .module, {type(inner).__name__}" if isinstance(inner, nn.Module) else ""
            raise InvalidTypeError(
                f"TorchEngine: model must be a model of transformers, got {type(model).__name__}{hint}"
            )
        kind = config.model_type
        if kind in _OTHERWISE:
            raise UnsupportedError(
                f"TorchEngine: model must give its next token by one call on the text, got {kind} "
                f"({type(model).__name__}): {_OTHERWISE[kind]}"
            )
        if mixed_adapters(model):
            raise UnsupportedError(
                f"TorchEngine: adapter_names must be None (a search reads rows in numbers of its own), got some around "
                f"{type(model).__name__}: set_adapter, and a call for each (peft leaves the hooks of a call that fails)"
            )
        learned = learned_prompt(model)
        self.owner = model if learned is None else learned
        """whose parts these are; what is found out of a model is kept beside it"""
        prompted = None if learned is None else Prompted(learned)
        model = model if prompted is None else prompted
        self.module: Any = model
        self.name = (
            type(model).__name__ if prompted is None else f"{type(prompted.base).__name__} behind a learned prompt"
        )
        """in messages"""
        inner = model if prompted is None else prompted.base
        before = 0 if prompted is None else int(prompted.peft_model.active_peft_config.num_virtual_tokens)
        self.places = Places.of(inner, before)
        """how much it reads"""
        self.encoder_decoder = bool(getattr(config, "is_encoder_decoder", False))
        plain: Any = getattr(model, "_orig_mod", model)  # torch.compile hides the signature
        if isinstance(plain, Prompted):
            plain = plain.base
        elif hasattr(plain, "peft_config") and hasattr(plain, "get_base_model"):
            plain = plain.get_base_model()
        self.plain: Any = plain
        """the model itself"""
        names = inspect.signature(plain.forward).parameters
        self.cache_name = next((name for name in CACHE_NAMES if name in names), None)
        self.takes_positions = "position_ids" in names and not self.encoder_decoder
        self._takes_use_cache = "use_cache" in names
        self._always: dict[str, Any] = {}
        self._takes_last = "logits_to_keep" in names
        if "output_router_logits" in names:  # a loss of mixtures of experts
            self._always["output_router_logits"] = False
        self._head: Any = plain.get_output_embeddings() if hasattr(plain, "get_output_embeddings") else None
        text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
        size = getattr(self._head, "out_features", None)  # where a decoder's vocabulary is its own, Marian's say
        self.vocab_size = int(size if isinstance(size, int) else text.vocab_size)

    @property
    def device(self) -> torch.device:
        """Where tokens go: the device of the embeddings, or that on which they run where accelerate offloads them."""
        embeddings = self.module.get_input_embeddings()
        weight = getattr(embeddings, "weight", None)
        device = weight.device if isinstance(weight, Tensor) else next(self.module.parameters()).device
        if device.type != "meta":
            return torch.device(device)
        for module in (embeddings, self.module):
            place = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
            if place is not None:
                return torch.device(place if not isinstance(place, int) else f"cuda:{place}")
        raise UnsupportedError(
            f"TorchEngine: model must have its weights on a device, got {type(self.module).__name__} on meta"
        )

    @property
    def turns_by_length(self) -> bool:
        """Whether a longer text turns the keys of its first tokens in another way than a short one does."""
        kinds = [getattr(module, "rope_type", None) for module in self.module.modules()]
        found = [one for kind in kinds for one in (kind.values() if isinstance(kind, dict) else [kind])]
        return any(kind in ("dynamic", "longrope") for kind in found)

    def turns_between(self, length: int) -> bool:
        """Whether the answer to a prompt of this length passes where ``longrope`` turns every key anew.

        Some models read the whole text again there (Phi-3), others go on with old keys.
        """
        config = self.plain.config
        rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
        kinds = [one for one in (rope, *rope.values()) if isinstance(one, dict)]  # Gemma-3's are by the type of layer
        limits = [
            one.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
            for one in kinds
            if one.get("rope_type", one.get("type")) == "longrope"
        ]
        return any(limit is not None and length <= limit < length + _ANSWER for limit in limits)

    @property
    def dtype(self) -> torch.dtype:
        """Of what an encoder hands to the decoder."""
        weight = getattr(self.module.get_input_embeddings(), "weight", None)
        if isinstance(weight, Tensor) and weight.is_floating_point():
            return weight.dtype
        return next((p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32)

    def check_tokens(self, prompts: Jagged, *, decoder: bool = False) -> None:
        """Raises for a token outside the model's vocabulary.

        Raises:
            InvalidTypeError: not int64 Jagged.
            InvalidValueError: a token outside the vocabulary.
        """
        if prompts.values.dtype != torch.int64 or prompts.values.dim() != 1:
            raise InvalidTypeError(f"prefill: prompts must be int64 Jagged, got {prompts.values.dtype}")
        size = self.vocab_size
        if not decoder:
            embeddings = self.module.get_input_embeddings()
            known = getattr(embeddings, "num_embeddings", None)
            size = int(known if isinstance(known, int) else embeddings.weight.shape[0])
        if prompts.values.numel():
            low, high = (int(bound) for bound in torch.aminmax(prompts.values))
            if low < 0 or high >= size:
                raise InvalidValueError(f"tokens must be in [0, {size}), got {low} to {high}")

    def encode(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The encoder's rows ``[R, S, D]`` of tokens ``[R, S]``."""
        rows: Tensor = self.module.get_encoder()(input_ids=tokens, attention_mask=mask).last_hidden_state
        return rows

    def encoded(self, rows: Tensor, mask: Tensor) -> dict[str, Any]:
        """The arguments that hand an encoder's rows to the decoder."""
        from transformers.modeling_outputs import BaseModelOutput, MoEModelOutput

        kind = MoEModelOutput if getattr(self.module.config, "num_experts", None) else BaseModelOutput
        return {"encoder_outputs": kind(last_hidden_state=rows), "attention_mask": mask}

    def __call__(self, tokens: Tensor, *, cache: Any = None, use_cache: bool, **given: Any) -> tuple[Tensor, Any]:
        """float32 logits ``[R, V]`` behind the last of tokens ``[R, S]``, and the state, where the model gives one."""
        logits, state = self._call(tokens, 1, cache, use_cache, given)
        return logits[:, -1].float(), state

    def rows(self, tokens: Tensor, *, cache: Any, use_cache: bool, **given: Any) -> tuple[Tensor, Any]:
        """float32 logits ``[R, S, V]`` behind every one of tokens ``[R, S]``, and the state."""
        logits, state = self._call(tokens, tokens.shape[1], cache, use_cache, given)
        return logits.float(), state

    def _call(
        self, tokens: Tensor, last: int, cache: Any, use_cache: bool, given: dict[str, Any]
    ) -> tuple[Tensor, Any]:
        given["decoder_input_ids" if self.encoder_decoder else "input_ids"] = tokens
        if cache is not None:
            assert self.cache_name is not None
            given[self.cache_name] = cache
        if self._takes_use_cache:
            given["use_cache"] = use_cache
        if self._takes_last:
            given["logits_to_keep"] = last
        out = self.module(**given, **self._always, return_dict=True)
        logits = getattr(out, "logits", None)
        if not isinstance(logits, Tensor):
            raise InvalidTypeError(
                f"TorchEngine: model must have a language model head, got {type(self.module).__name__}"
            )
        return logits, getattr(out, self.cache_name or "", None)
