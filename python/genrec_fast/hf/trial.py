"""Whether a model's own cache, shared out to beams, gives what the model says of whole texts: found out by trying."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from genrec_fast.base.errors import UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.hf.called import CalledModel
from genrec_fast.hf.joined import join, read_on
from genrec_fast.hf.likeness import NOT_MADE_FOR_IT, difference, evaluating, likely_tokens, tolerance_of, trial
from genrec_fast.hf.session import TransformersSession
from genrec_fast.hf.stepped import Stepped, rolls_back
from genrec_fast.hf.whole import WholeTexts

# How a search over a model begins: of the model, prompts, a decoder's prompts, whether rows are encoded, what is kept.
Way = Callable[[CalledModel, Jagged, Jagged | None, bool, Jagged | None], TransformersSession]

_SHORTEST, _LONGEST = 8, 64  # tokens of the trial's longer prompt

_without_masks = functools.partial(Stepped.begin, masked=False)


@torch.no_grad()
def way_to_search(model: CalledModel, prompts: Jagged, decoder_prompts: Jagged | None, encoded: bool) -> Way:
    """The fastest way that gives the logits of ``WholeTexts``.

    Tried with the longest prompt (a short one repeated) and its second half, so that one of two rows is padded, and two
    steps: one prompt becomes two beams, and beams change places.
    """
    if model.cache_name is None:
        return WholeTexts.begin
    user = int(prompts.lengths.argmax())
    longest = prompts[user][:_LONGEST]
    longest = longest.repeat(-(-_SHORTEST // len(longest)), *[1] * (longest.dim() - 1))
    rows = Jagged.from_rows([longest, longest[len(longest) // 2 :]], longest.dtype)
    starts = None
    if decoder_prompts is not None:
        starts = Jagged.from_rows([decoder_prompts[user]] * 2)
    with evaluating(model.module):  # dropout would draw other units for either
        return _tried(model, rows, starts, encoded)


@trial
def can_be_continued(model: CalledModel, tokens: Tensor) -> bool:
    """Whether a prompt rolled back and read on, several tokens at once, gives the logits of ``WholeTexts``.

    Args:
        model: a decoder.
        tokens: int64 ``[S]`` that it knows; repeated if they are few.
    """
    if model.cache_name is None or model.turns_by_length:
        return False
    tokens = tokens.repeat(-(-2 * _SHORTEST // len(tokens)))[:_LONGEST]
    half = len(tokens) // 2
    rows = Jagged.from_rows([tokens])
    whole = WholeTexts.begin(model, rows, None, False)
    steps = [(codes[:1], parents[:1]) for codes, parents in _steps(model, whole.logits[:, 0].repeat(2, 1))]
    wanted, tolerance = _along(whole, steps), tolerance_of(model, rows[0], None, False, whole.logits)
    before = Stepped.alone(model, torch.cat([tokens[:half], tokens[:half].flip(0)]))
    if not rolls_back(before.cache):
        return False
    got = _along(Stepped.alone(model, tokens, (before, half)).select(torch.tensor([0])), steps)
    return all(difference(one, other) <= tolerance for one, other in zip(got, wanted, strict=True))


@trial
def can_be_joined(model: CalledModel, tokens: Tensor) -> bool:
    """Whether ``read_on`` and ``join`` of two users give the logits of ``WholeTexts``.

    Args:
        model: one that can be continued.
        tokens: as ``can_be_continued``.
    """
    if not model.takes_positions:  # a token's place would be counted from where its cache lies
        return False
    tokens = tokens.repeat(-(-2 * _SHORTEST // len(tokens)))[:_LONGEST]
    rows = [tokens, tokens[len(tokens) // 2 :].flip(0), tokens[:4]]  # the last is new, and shorter than what is read
    whole = WholeTexts.begin(model, Jagged.from_rows(rows), None, False)
    steps = _steps(model, whole.logits[:, 0])
    wanted, tolerance = _along(whole, steps), tolerance_of(model, rows[0], None, False, whole.logits)
    known = [(Stepped.alone(model, row[:-new]), len(row) - new) for row, new in zip(rows[:2], (5, 4), strict=True)]
    got = read_on(model, rows, [*known, None])
    found = _along(join(model, got), steps)
    return all(difference(one, other) <= tolerance for one, other in zip(found, wanted, strict=True))


def _tried(model: CalledModel, rows: Jagged, starts: Jagged | None, encoded: bool) -> Way:
    whole = WholeTexts.begin(model, rows, starts, encoded)
    steps = _steps(model, whole.logits[:, 0])
    wanted = _along(whole, steps)
    tolerance = tolerance_of(model, rows[0], starts, encoded, wanted[0])
    ways: tuple[Way, ...] = (Stepped.begin,) if model.encoder_decoder else (Stepped.begin, _without_masks)
    for way in ways:
        try:
            got = _along(way(model, rows, starts, encoded, None), steps)
        except torch.OutOfMemoryError:
            raise
        except (UnsupportedError, *NOT_MADE_FOR_IT):
            continue
        if all(difference(one, other) <= tolerance for one, other in zip(got, wanted, strict=True)):
            return way
    return WholeTexts.begin


def _along(session: TransformersSession, steps: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """The logits of a session, and of what steps make of it."""
    found = [session.logits]
    for tokens, parents in steps:
        session = session.extend(tokens, parents)
        found.append(session.logits)
    return found


def _steps(model: CalledModel, logits: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Tokens and parents of two steps: likely tokens, but none that a model may treat as padding or an end."""
    first = likely_tokens(model, logits, 2)
    return [(first, torch.zeros_like(first)), (first.flip(1), torch.tensor([[1, 0]] * len(first)))]
