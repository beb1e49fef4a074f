"""Whether a model whose code for ``generate`` is its own is read by it as by plain calls: found out by trying."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from genrec_fast.base.errors import UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.hf.called import CalledModel
from genrec_fast.hf.likeness import difference, tolerance_of, trial
from genrec_fast.hf.tried import Tried
from genrec_fast.hf.whole import WholeTexts
from genrec_fast.nn.stock import foreign_home

# What generate asks of a model beside its forward, and whose code this mostly is.
_METHODS = ("prepare_inputs_for_generation", "_update_model_kwargs_for_generation", "_prefill")
_HOMES = ("transformers", "peft", "torch", "accelerate")
_LONGEST = 64  # tokens of a trial

_agree: Tried[bool] = Tried()


def check_prepared(model: CalledModel, prompts: Jagged, starts: Jagged | None, encoded: bool) -> None:
    """Raises for a model that ``generate`` reads otherwise than by plain calls on texts.

    Args:
        model: to be called.
        prompts: as of ``TorchEngine.prefill``; the first is tried.
        starts: a decoder's first tokens.
        encoded: prompts are an encoder's rows.

    Raises:
        UnsupportedError: such a model; the text names its method.
    """
    own = next((name for name in _METHODS if foreign_home(getattr(model.plain, name, None), _HOMES)), None)
    if own is None:
        return
    first = Jagged.from_rows([prompts[0][:_LONGEST]], prompts.values.dtype)
    begin = None if starts is None else Jagged.from_rows([starts[0]] * 2, starts.values.dtype)  # noise is of two rows
    if not _agree.of(model.owner, lambda: _same(model, first, begin, encoded)):
        raise UnsupportedError(
            f"TorchEngine: model must be read by generate as by plain calls on its texts, got a {model.name} "
            f"with a {own} of its own that gives other logits"
        )


@trial
def _same(model: CalledModel, prompt: Jagged, starts: Jagged | None, encoded: bool) -> bool:
    """Two tokens written by transformers' own generate, their logits against those of whole texts."""
    from transformers import GenerationConfig, GenerationMixin

    whole = WholeTexts.begin(model, prompt, starts, encoded)
    settings: Any = GenerationConfig(max_new_tokens=2, min_new_tokens=2, num_beams=1, do_sample=False)
    settings.return_dict_in_generate = settings.output_logits = True
    given: dict[str, Tensor] = {"input_ids": prompt.values[None].to(model.device)}
    if starts is not None:
        (group,) = whole.groups
        assert group.rows is not None
        given = {**model.encoded(group.rows, group.mask), "decoder_input_ids": group.texts}
    mask = {} if starts is not None else {"attention_mask": given["input_ids"].new_ones(1, len(prompt.values))}
    out: Any = GenerationMixin.generate(model.plain, **given, **mask, generation_config=settings)
    token = out.sequences[:, -2:-1].cpu()
    after = whole.extend(token, token.new_zeros(1, 1))
    most = tolerance_of(model, prompt[0], starts, encoded, whole.logits[:, 0])
    pairs = zip(out.logits, (whole, after), strict=True)
    return all(difference(theirs.float(), ours.logits[:, 0]) <= most for theirs, ours in pairs)
